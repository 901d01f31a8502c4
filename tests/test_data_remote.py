"""DATA behind a URL or on a slow file server: whole copies on this machine, bounded, shared, or an error."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from nuclr_cli.data.file_cache import Cache, Copies, cache_folder, fetch_all
from nuclr_cli.data.remote import BrokenOff, RemoteFolder, place_of, text_of, url_of
from nuclr_cli.data.sessions import open_sessions
from nuclr_cli.data.store import SourceRecord, verify, write_population
from nuclr_cli.errors import InputError, MissingPackageError
from nuclr_cli.testing.simulate import tiny_population
from nuclr_cli.workflows.data_place import chosen_cache, open_data
from nuclr_cli.workflows.embed import EmbedConfig, embed
from nuclr_cli.workflows.label import LabelConfig, label
from nuclr_cli.workflows.pretrain import PretrainConfig, pretrain
from nuclr_cli.workflows.reporting import SilentReporter
from nuclr_cli.workflows.runs import DATA


def write(path: Path, number: int, subject: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    population = tiny_population(number, 14, minutes=1.0, subject=subject or path.stem, session="day")
    write_population(population, path, source=SourceRecord("made", "test", ""))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six sessions, half of them in a folder below."""
    for number in range(6):
        write(tmp_path / "served" / "data" / ("below" if number % 2 else ".") / f"m{number}.h5", number)
    return tmp_path / "served" / "data"


@dataclass
class Server:
    """A web server of this machine that can be told to misbehave.

    Attributes:
        url: Of what it serves.
        asked: Method and path of all requests so far.
        cut: Paths whose next so many answers break off half way.
        before: Called with each path before its contents are sent.
        denied: What it answers to everything, if not 0.
        untagged: It does not say when a file was changed.
        pause_s: Between the hundred pieces of each file.
    """

    url: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)
    cut: dict[str, int] = field(default_factory=dict)
    before: Callable[[str], None] = lambda path: None
    denied: int = 0
    untagged: bool = False
    pause_s: float = 0.0

    def fetched(self) -> list[str]:
        return [path for method, path in self.asked if method == "GET" and path.endswith(".h5")]


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    told = Server()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_HEAD(self) -> None:
            told.asked.append(("HEAD", self.path))
            super().do_HEAD()

        def send_head(self) -> Any:
            if told.denied:
                self.send_error(told.denied)
                return None
            return super().send_head()

        def send_header(self, keyword: str, value: str) -> None:
            if not (told.untagged and keyword == "Last-Modified"):
                super().send_header(keyword, value)

        def do_GET(self) -> None:
            told.asked.append(("GET", self.path))
            told.before(self.path)
            super().do_GET()

        def copyfile(self, source: Any, outputfile: Any) -> None:
            if told.cut.get(self.path, 0) and self.command == "GET":
                told.cut[self.path] -= 1
                outputfile.write(source.read(4000))
                self.close_connection = True
                return
            if told.pause_s and self.path.endswith(".h5"):
                contents = source.read()
                step = len(contents) // 100
                for first in range(0, len(contents), step):
                    time.sleep(told.pause_s)
                    outputfile.write(contents[first : first + step])
                return
            super().copyfile(source, outputfile)

        def log_message(self, *_: Any) -> None:
            pass

        def handle(self) -> None:
            with contextlib.suppress(ConnectionError):  # of a client that broke off
                super().handle()

    handler = functools.partial(Handler, directory=str(folder.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        told.url = f"http://127.0.0.1:{running.server_address[1]}/data"
        thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield told
        running.shutdown()


def whole_files(cache: Cache) -> list[Path]:
    return sorted((cache.folder / "files").glob("*/*.h5"))


def leftovers(cache: Cache) -> list[Path]:
    return sorted((cache.folder / "files").glob("*/.*nuclr-tmp"))


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("s3://bucket/some/folder", "s3://bucket/some/folder"),
        ("https://host:8000/a%20b/x.h5", "https://host:8000/a%20b/x.h5"),
        ("file:///home/me/data", "file:///home/me/data"),
        ("github://owner:repo@main/data", "github://owner:repo@main/data"),
        ("sftp://lab@host/data", "sftp://lab@host/data"),
        ("abfs://box@account.dfs.core.windows.net/data", "abfs://box@account.dfs.core.windows.net/data"),
        ("http://host:8000/me@lab/data", "http://host:8000/me@lab/data"),
        ("relative/data", None),
        ("/absolute/data", None),
        ("C:/data", None),
        ("odd:name/data", None),
    ],
)
def test_a_path_stands_for_the_url_that_it_was_made_from(written: str, url: str | None) -> None:
    data = Path(written)
    assert url_of(data) == url
    assert text_of(data) == (url or written)
    if url:
        assert place_of(data) == data
        assert url_of(Path(text_of(data))) == url


def test_a_web_folder_is_fetched_once_and_whole(server: Server, folder: Path, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    sessions = open_data(Path(server.url), cache)
    assert [session.key for session in sessions] == [session.key for session in open_sessions(folder)]
    assert all(not verify(session.path) for session in sessions)
    assert sorted(server.fetched()) == sorted(
        f"/data/{path.relative_to(folder)}" for path in folder.rglob("*.h5")
    )
    server.asked.clear()
    again = open_data(Path(server.url), cache)
    assert [session.path for session in again] == [session.path for session in sessions]
    assert server.fetched() == []
    one = open_data(Path(server.url) / "below" / "m1.h5", cache)
    assert [session.path for session in one] == [sessions[1].path]
    assert leftovers(cache) == []


def test_hidden_files_and_links_that_lead_elsewhere_are_passed_over(
    server: Server, folder: Path, tmp_path: Path
) -> None:
    write(folder / ".hidden.h5", 1)
    write(folder / ".hidden" / "a.h5", 1)
    (folder / "below" / "index.html").write_text(
        '<a href="/">Parent</a> <a href="../m0.h5">up</a> <a href="m1.h5">m1</a> <a href="http://other/x.h5">x</a>'
    )
    found = [file.name for file in RemoteFolder(Path(server.url)).files()]
    assert found == ["m1.h5", "m0.h5", "m2.h5", "m4.h5"]


def test_a_file_url_and_a_slow_folder_have_the_same_copies(folder: Path, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    by_url = open_data(Path(f"file://{folder}"), cache)
    by_path = open_data(folder, cache)
    assert len(by_url) == 6
    assert [one.path for one in by_url] == [one.path for one in by_path]
    assert all(cache.folder in session.path.parents for session in by_path)
    assert all(folder in session.path.parents for session in open_data(folder, None))


def test_a_connection_that_breaks_once_is_tried_again(server: Server, tmp_path: Path) -> None:
    server.cut = {"/data/m0.h5": 1}
    cache = Cache(tmp_path / "cache")
    assert len(open_data(Path(server.url), cache)) == 6
    assert server.fetched().count("/data/m0.h5") == 2
    assert all(not verify(path) for path in whole_files(cache))


def test_a_connection_that_keeps_breaking_is_an_error_and_leaves_no_half_file(
    server: Server, tmp_path: Path
) -> None:
    server.cut = {"/data/m0.h5": 99}
    cache = Cache(tmp_path / "cache")
    with pytest.raises(BrokenOff, match=r"m0\.h5"):
        open_data(Path(server.url), cache)
    assert leftovers(cache) == []
    assert "m0.h5" not in [path.name for path in whole_files(cache)]
    server.cut = {}
    had = len(whole_files(cache))
    server.asked.clear()
    assert len(open_data(Path(server.url), cache)) == 6
    assert len(server.fetched()) == 6 - had  # what had arrived is kept


def test_a_file_that_changes_while_it_is_fetched_is_refused(
    server: Server, folder: Path, tmp_path: Path
) -> None:
    def change(path: str) -> None:
        if path.endswith("m2.h5"):
            os.utime(folder / "m2.h5", (time.time() + 100, time.time() + 100))

    server.before = change
    cache = Cache(tmp_path / "cache")
    with pytest.raises(InputError, match=r"m2\.h5 was changed while it was read"):
        open_data(Path(server.url), cache)
    assert "m2.h5" not in [path.name for path in whole_files(cache)]
    assert leftovers(cache) == []


def test_what_changed_on_the_server_is_fetched_anew_beside_the_old_copy(
    server: Server, folder: Path, tmp_path: Path
) -> None:
    cache = Cache(tmp_path / "cache")
    before = open_data(Path(server.url), cache)[0]
    n_before = len(before.spikes.times)
    write(folder / "m0.h5", 77, subject="m0")
    os.utime(folder / "m0.h5", (time.time() + 100, time.time() + 100))
    after = open_data(Path(server.url), cache)[0]
    assert after.key == before.key
    assert after.activity_digest != before.activity_digest
    before.unmap()
    assert len(before.spikes.times) == n_before  # the old copy is still there for who reads it


@pytest.mark.parametrize(
    ("place", "match"),
    [
        ("http://127.0.0.1:9/data", "Could not list http://127.0.0.1:9/data"),
        ("http://127.0.0.1:9/m.h5", r"Could not list http://127.0.0.1:9/m\.h5"),
        ("ftp://127.0.0.1:9/data", r"Could not reach ftp://127.0.0.1:9/data: .*refused"),
        ("file:///no/such/folder", "file:///no/such/folder does not exist"),
        ("nothing7://bucket/data", "Protocol not known: nothing7"),
    ],
)
def test_a_place_that_does_not_answer_is_named(place: str, match: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=match):
        open_data(Path(place), Cache(tmp_path / "cache"))


def test_an_empty_web_folder_and_a_missing_one_are_told_apart(
    server: Server, folder: Path, tmp_path: Path
) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match=r"data/empty holds no population file"):
        open_data(Path(server.url) / "empty", Cache(tmp_path / "cache"))
    with pytest.raises(InputError, match=r"data/missing does not exist"):
        open_data(Path(server.url) / "missing", Cache(tmp_path / "cache"))


def test_a_protocol_whose_package_is_missing_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['s3fs'] = None\n"
        "from pathlib import Path\n"
        "from nuclr_cli.data.remote import RemoteFolder\n"
        "RemoteFolder(Path('s3://bucket/data'))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert MissingPackageError.__name__ in done.stderr
    assert "Reading s3://bucket/data needs the package 's3fs'" in done.stderr
    assert "pip install s3fs" in done.stderr


def test_data_larger_than_the_cache_are_refused_before_anything_is_fetched(
    server: Server, tmp_path: Path
) -> None:
    cache = Cache(tmp_path / "cache", limit_bytes=50_000)
    with pytest.raises(InputError, match="may hold 5e-05 GB") as caught:
        open_data(Path(server.url), cache)
    assert caught.value.fix.startswith("--cache-size 1")
    assert server.fetched() == []
    with pytest.raises(InputError, match="--cache-size is not above 0"):
        chosen_cache(None, -1.0)


# Fetches a folder into a bounded cache in a process of its own, says so, and lives until it is told to end.
USE = """
import sys
from pathlib import Path
from nuclr_cli.data.file_cache import Cache
from nuclr_cli.workflows.data_place import open_data
sessions = open_data(Path(sys.argv[1]), Cache(Path(sys.argv[2]), int(sys.argv[3])))
print(len(sessions), flush=True)
sys.stdin.readline()
print(sum(len(session.spikes.times) > 0 for session in sessions), flush=True)
"""


def use(data: Path, cache: Cache) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", USE, text_of(data), str(cache.folder), str(cache.limit_bytes)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate("\n", timeout=60)
    return process.returncode, out, err


def test_the_least_recently_used_files_go_first_and_never_those_in_use(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b", "c", "d")]
    for number, place in enumerate(folders):
        write(place / "one.h5", number)
    sizes = [(place / "one.h5").stat().st_size for place in folders]
    cache = Cache(tmp_path / "cache", limit_bytes=sum(sizes) - min(sizes) // 2)  # three of them fit

    def held() -> set[int]:
        found = {path.read_bytes() for path in whole_files(cache)}
        return {n for n, place in enumerate(folders) if (place / "one.h5").read_bytes() in found}

    reader = use(folders[0], cache)
    assert reader.stdout is not None
    assert reader.stdout.readline() == "1\n"
    for number in (1, 2):
        assert finished(use(folders[number], cache))[0] == 0
    assert held() == {0, 1, 2}
    assert finished(use(folders[3], cache))[0] == 0
    assert held() == {0, 2, 3}  # 0 is the oldest, but in use
    code, out, err = finished(reader)
    assert (code, out) == (0, "1\n"), err
    assert finished(use(folders[1], cache))[0] == 0
    assert held() == {1, 2, 3}


def test_a_killed_process_keeps_no_files(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b")]
    for number, place in enumerate(folders):
        write(place / "one.h5", number)
    cache = Cache(tmp_path / "cache", limit_bytes=int(1.5 * (folders[0] / "one.h5").stat().st_size))
    reader = use(folders[0], cache)
    assert reader.stdout is not None
    assert reader.stdout.readline() == "1\n"
    code, _, err = finished(use(folders[1], cache))
    assert code == 1
    assert "running commands use" in err
    reader.send_signal(signal.SIGKILL)
    reader.wait()
    assert finished(use(folders[1], cache))[0] == 0
    assert len(whole_files(cache)) == 1


def test_many_processes_fetch_every_file_once(server: Server, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", limit_bytes=10**9)
    for process in [use(Path(server.url), cache) for _ in range(4)]:
        code, out, err = finished(process)
        assert (code, out) == (0, "6\n6\n"), err
    assert len(server.fetched()) == 6
    assert len(whole_files(cache)) == 6


def test_what_a_killed_process_left_half_is_taken_away(server: Server, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    copies = Copies(Path(server.url), cache)
    left = next(iter(copies.paths)).parent / ".m0.h5.dead.nuclr-tmp"
    left.write_bytes(b"half")
    for _ in copies.fetch():
        pass
    assert leftovers(cache) == []
    assert len(whole_files(cache)) == 6


def test_a_cache_that_cannot_be_written_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cache .*file/cache cannot be written"):
        open_data(folder, Cache(tmp_path / "file" / "cache"))


@pytest.mark.skipif(sys.platform != "linux", reason="a limit on the size of files stands for a full disk")
@pytest.mark.parametrize("by_web", [False, True])
def test_a_disk_that_is_full_is_an_error_and_leaves_no_half_file(
    server: Server, folder: Path, tmp_path: Path, by_web: bool
) -> None:
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from nuclr_cli.data.file_cache import Cache\n"
        "from nuclr_cli.workflows.data_place import open_data\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "open_data(Path(sys.argv[1]), Cache(Path(sys.argv[2])))\n"
    )
    data = server.url if by_web else str(folder)
    done = subprocess.run(
        [sys.executable, "-c", code, data, str(tmp_path / "cache")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"The cache {tmp_path / 'cache'} cannot be written: File too large" in done.stderr
    assert whole_files(Cache(tmp_path / "cache")) == leftovers(Cache(tmp_path / "cache")) == []


def test_the_default_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NUCLR_CACHE", str(tmp_path / "said"))
    assert cache_folder() == tmp_path / "said"
    monkeypatch.delenv("NUCLR_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if sys.platform == "linux":
        assert cache_folder() == tmp_path / "nuclr"
    assert chosen_cache(None, None) is None
    assert chosen_cache(Path("here"), 2.5) == Cache(Path("here").absolute(), 2_500_000_000)


def test_one_key_in_two_remote_files_is_refused_by_their_own_names(
    server: Server, folder: Path, tmp_path: Path
) -> None:
    write(folder / "twin.h5", 3, subject="m0")
    with pytest.raises(InputError, match=rf"{server.url}/m0\.h5 and {server.url}/twin\.h5 are both"):
        open_data(Path(server.url), Cache(tmp_path / "cache"))


def test_a_run_on_a_url_trains_resumes_embeds_and_notices_a_change(
    server: Server, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUCLR_CACHE", str(tmp_path / "cache"))
    changes = {"train.steps": 3, "train.batch_windows": 2, "train.workers": 2, "train.checkpoint_every": 1}
    config = PretrainConfig(Path(server.url), tmp_path / "runs", "remote", "tiny", changes, gpus=0)
    remote = pretrain(config)
    record = tmp_path / "runs" / "remote" / "run.json"
    assert json.loads(record.read_text())["data"] == server.url
    local = pretrain(replace(config, data=folder, name="local"))
    assert local.last_loss == remote.last_loss
    by_itself = PretrainConfig(DATA, config.runs, "remote", resume=True, gpus=0)  # finds the URL again
    for resumed in (replace(config, resume=True), by_itself):
        shutil.rmtree(tmp_path / "runs" / "remote" / "checkpoints" / "step-00000003")
        again = pretrain(resumed)
        assert (again.resumed_from, again.last_loss) == (2, remote.last_loss)
    shutil.rmtree(tmp_path / "cache")
    embedded = embed(EmbedConfig(run=Path("remote"), runs=config.runs, gpus=0))
    assert embedded.n_units == 6 * 14
    copied = embed(EmbedConfig(folder, Path("remote"), config.runs, gpus=0))  # the same recordings
    assert copied.out == embedded.out
    write(folder / "m0.h5", 77, subject="m0")
    os.utime(folder / "m0.h5", (time.time() + 100, time.time() + 100))
    with pytest.raises(InputError, match="m0/day/0"):
        pretrain(PretrainConfig(DATA, config.runs, "remote", resume=True, gpus=0))
    with pytest.raises(BrokenOff, match=r"127\.0\.0\.1:9"):  # and not: these are other recordings
        pretrain(replace(config, data=Path("http://127.0.0.1:9/data"), resume=True))
    with pytest.raises(InputError, match="can only be read"):
        label(LabelConfig(Path(server.url), remove=("cell_type",)))


def test_the_commands_take_a_url_and_a_cache(nuclr: Any, server: Server, tmp_path: Path) -> None:
    options = ("--json", "--cache", tmp_path / "cache", "--cache-size", "1")
    listed = nuclr("info", server.url, *options)
    assert listed.code == 0, listed.err
    assert len(listed.json["sessions"]) == 6
    assert len(whole_files(Cache(tmp_path / "cache"))) == 6
    server.cut = {"/data/m0.h5": 99}
    broken = nuclr(
        "pretrain", server.url, "--runs", tmp_path / "runs", "--cache", tmp_path / "other", "--gpus", "0"
    )
    assert broken.code == 3
    assert "m0.h5" in broken.err
    assert "Traceback" not in broken.err
    assert not (tmp_path / "runs").exists()
    silent = nuclr("info", "ftp://127.0.0.1:9/data", *options)
    assert silent.code == 3
    assert "Could not reach ftp://127.0.0.1:9/data" in silent.json["error"]["what"]


@pytest.mark.parametrize(
    "place",
    [
        "http://me:hunter2@127.0.0.1:9/data",
        "https://hunter2@127.0.0.1:9/data",
        "ftp://me:hunter2@127.0.0.1:9/data",
        "sftp://me:123hunter2@127.0.0.1:9/data",
        "http://127.0.0.1:9/data?token=hunter2",
    ],
)
def test_a_secret_in_an_address_is_refused_and_not_repeated(tmp_path: Path, place: str) -> None:
    data = Path(place)
    calls: list[Callable[[], object]] = [
        lambda: url_of(data),
        lambda: text_of(data),
        lambda: RemoteFolder(data),
        lambda: pretrain(PretrainConfig(data, tmp_path / "runs", "one", gpus=0)),
        lambda: label(LabelConfig(data, remove=("cell_type",))),
    ]
    for call in calls:
        with pytest.raises(InputError, match=r"~/\.config/fsspec") as caught:
            call()
        assert "hunter2" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_the_commands_refuse_a_secret_in_an_address(nuclr: Any, tmp_path: Path) -> None:
    for place in ("http://me:hunter2@127.0.0.1:9/data", "http://127.0.0.1:9/data?token=hunter2"):
        done = nuclr("pretrain", place, "--runs", tmp_path / "runs", "--gpus", "0")
        assert done.code == 3
        assert "~/.config/fsspec" in done.err
        assert "hunter2" not in done.out + done.err
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]


class Strict(MemoryFileSystem):  # type: ignore[misc]
    """A file system that takes no options, as those that hand theirs on to a library, and remembers lists."""

    protocol = "strict7"

    def __init__(self) -> None:
        super().__init__()
        self.remembered: dict[str, Any] = {}

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(MemoryFileSystem._strip_protocol(str(path).replace("strict7://", "memory://")))

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        if path not in self.remembered:
            self.remembered[path] = super().ls(path, detail=detail)
        return self.remembered[path]

    def invalidate_cache(self, path: str | None = None) -> None:
        self.remembered.clear()


def test_a_file_system_without_options_is_read_and_its_list_not_remembered(
    folder: Path, tmp_path: Path
) -> None:
    fsspec.register_implementation("strict7", Strict, clobber=True)
    system = fsspec.filesystem("strict7")
    system.pipe_file("/lab/m0.h5", (folder / "m0.h5").read_bytes())
    cache = Cache(tmp_path / "cache")
    assert len(open_data(Path("strict7://lab"), cache)) == 1
    system.pipe_file("/lab/m2.h5", (folder / "m2.h5").read_bytes())
    assert len(open_data(Path("strict7://lab"), cache)) == 2


def test_a_large_file_may_take_any_time(server: Server) -> None:
    timeout = RemoteFolder(Path(server.url))._system.client_kwargs["timeout"]
    assert timeout.total is None  # aiohttp's own is 300 s
    assert timeout.sock_read == 60


def test_linked_files_are_what_they_lead_to(folder: Path, tmp_path: Path) -> None:
    linked, cache = tmp_path / "linked", Cache(tmp_path / "cache")
    linked.mkdir()
    (linked / "m0.h5").symlink_to(folder / "m0.h5")
    (linked / "nowhere.h5").symlink_to(tmp_path / "gone.h5")
    (before,) = open_data(linked, cache)
    assert [one.path for one in open_data(Path(f"file://{linked}"), cache)] == [before.path]
    assert before.path.read_bytes() == (folder / "m0.h5").read_bytes()
    write(folder / "m0.h5", 77, subject="m0")
    (after,) = open_data(linked, cache)
    assert after.activity_digest != before.activity_digest


class Listener(SilentReporter):
    """Keeps the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def test_copies_that_may_be_out_of_date_are_told(server: Server, tmp_path: Path) -> None:
    cache, listener = Cache(tmp_path / "cache"), Listener()
    open_data(Path(server.url), cache, listener)
    open_data(Path(server.url), cache, listener)
    assert listener.warnings == []
    server.untagged = True
    open_data(Path(server.url), cache, listener)
    assert listener.warnings == []  # all of them are new
    open_data(Path(server.url), cache, listener)
    (said,) = listener.warnings
    assert "a change that keeps the size of a file is not noticed" in said
    assert "6 files" in said
    assert str(cache.folder / "files") in said
    with pytest.warns(UserWarning, match="is not noticed"):
        fetch_all(Path(server.url), cache)


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("below", [".", "m0.h5"])
def test_a_web_server_that_refuses_is_not_taken_for_one_that_is_away(
    server: Server, tmp_path: Path, status: int, below: str
) -> None:
    server.denied = status
    with pytest.raises(InputError, match=rf"No permission to read {server.url}.*{status}"):
        open_data(Path(server.url) / below, Cache(tmp_path / "cache"))
    server.denied = 500
    with pytest.raises(BrokenOff, match="500"):
        open_data(Path(server.url) / below, Cache(tmp_path / "cache"))


def test_an_error_does_not_wait_for_the_other_files(server: Server, folder: Path, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    copies = Copies(Path(server.url), cache)
    (folder / "m0.h5").unlink()
    server.pause_s = 0.3  # 30 s for each file
    began = time.monotonic()
    with pytest.raises(InputError, match=r"m0\.h5 does not exist"):
        list(copies.fetch())
    assert time.monotonic() - began < 10
    assert leftovers(cache) == whole_files(cache) == []


@pytest.mark.parametrize("silent", [False, True])
def test_ctrl_c_does_not_wait_for_whole_files(server: Server, tmp_path: Path, silent: bool) -> None:
    cache = Cache(tmp_path / "cache", 10**9)
    server.pause_s = 0.3
    over = threading.Event()

    def say_nothing(path: str) -> None:
        if path.endswith(".h5"):
            over.wait(60)

    if silent:  # it has not even begun to answer
        server.before = say_nothing
    process = use(Path(server.url), cache)
    deadline = time.monotonic() + 60
    while len(leftovers(cache)) < 6:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    process.communicate(timeout=60)
    over.set()
    assert time.monotonic() - began < 10
    assert process.returncode != 0
    assert leftovers(cache) == whole_files(cache) == []


def test_a_lease_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for number, name in enumerate("ab"):
        write(tmp_path / name / "one.h5", number)
    cache = Cache(tmp_path / "cache", 10**9)
    reader = use(tmp_path / "a", cache)
    assert reader.stdout is not None
    assert reader.stdout.readline() == "1\n"
    (lease,) = (cache.folder / "leases").glob("*.json")
    lease.write_text('{"half')
    with pytest.raises(InputError, match=rf"{lease}.* process {reader.pid} needs .* cannot be read"):
        open_data(tmp_path / "b", cache)
    assert finished(reader)[0] == 0
    assert len(open_data(tmp_path / "b", cache)) == 1


def test_stray_files_in_the_cache_are_let_be(folder: Path, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 10**9)
    open_data(folder, cache)
    stray = cache.folder / "files" / "notes.txt"
    stray.write_text("mine")
    assert len(open_data(folder / "m0.h5", Cache(cache.folder, 1_000_000))) == 1
    assert stray.read_text() == "mine"
