"""A server that is away: what it held when it last answered is used from the cache, loudly, or not at all."""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nuclr_cli.data.file_cache import Cache, Copies
from nuclr_cli.data.remote import BrokenOff, Refused
from nuclr_cli.errors import InputError
from nuclr_cli.workflows.data_place import open_data


class Server:
    """Serves a folder, on one port of this machine, while it is up."""

    def __init__(self, folder: Path) -> None:
        self.denied = 0
        self._folder, self._port = folder, 0
        self.start()

    def start(self) -> None:
        server = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def send_head(self) -> Any:
                if server.denied:
                    self.send_error(server.denied)
                    return None
                return super().send_head()

            def log_message(self, *_: Any) -> None:
                pass

        handler = functools.partial(Handler, directory=str(self._folder))
        self._running = http.server.ThreadingHTTPServer(("127.0.0.1", self._port), handler)
        self._port = self._running.server_address[1]
        threading.Thread(target=self._running.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self._running.shutdown()
        self._running.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"


@pytest.fixture
def server(tiny_data: Path, tmp_path: Path) -> Iterator[Server]:
    shutil.copytree(tiny_data, tmp_path / "served")
    running = Server(tmp_path / "served")
    yield running
    running.stop()


def keys(sessions: Any) -> list[tuple[str, str]]:
    return [(str(session.key), session.activity_digest) for session in sessions]


def test_copies_stand_in_for_a_server_that_is_away(server: Server, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    there = open_data(Path(server.url), cache)
    names = set(Copies(Path(server.url), cache).paths.values())
    server.stop()
    away = Copies(Path(server.url), cache)
    assert away.missing == []
    assert list(away.fetch()) == []
    assert set(away.paths.values()) == names
    assert f"Could not list {server.url}" in away.doubtful
    assert "the copies of 4 files" in away.doubtful
    assert "what has changed there since is not noticed" in away.doubtful
    assert keys(open_data(Path(server.url), cache)) == keys(there)
    server.start()
    assert not Copies(Path(server.url), cache).doubtful


def test_what_it_held_last_is_what_counts(server: Server, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    assert len(open_data(Path(server.url), cache)) == 4
    (tmp_path / "served" / "s3.h5").unlink()
    assert len(open_data(Path(server.url), cache)) == 3
    server.stop()
    assert len(open_data(Path(server.url), cache)) == 3
    server.start()


@pytest.mark.parametrize("spoil", ["one copy", "no list", "broken list", "never fetched"])
def test_without_every_copy_it_is_an_error(server: Server, tmp_path: Path, spoil: str) -> None:
    cache = Cache(tmp_path / "cache")
    if spoil == "never fetched":
        assert len(Copies(Path(server.url), cache).missing) == 4
    else:
        open_data(Path(server.url), cache)
    lists = list((cache.folder / "lists").glob("*.json"))
    if spoil == "one copy":
        shutil.rmtree(next((cache.folder / "files").iterdir()))
    elif spoil == "no list":
        lists[0].unlink()
    elif spoil == "broken list":
        lists[0].write_text('{"when": "2026", "files": [[1]]}')
    before = sorted(cache.folder.rglob("*.h5"))
    server.stop()
    with pytest.raises(BrokenOff, match="what has arrived is kept"):
        open_data(Path(server.url), cache)
    assert sorted(cache.folder.rglob("*.h5")) == before
    server.start()


@pytest.mark.parametrize(("status", "kind"), [(403, Refused), (404, InputError)])
def test_a_server_that_says_no_is_believed(
    server: Server, tmp_path: Path, status: int, kind: type[InputError]
) -> None:
    cache = Cache(tmp_path / "cache")
    open_data(Path(server.url), cache)
    server.denied = status
    with pytest.raises(kind, match="No permission" if status == 403 else "does not exist"):
        open_data(Path(server.url), cache)


def test_a_run_is_embedded_and_resumed_without_its_server(
    forked: Any, server: Server, tmp_path: Path
) -> None:
    place = ("--runs", tmp_path / "runs", "--cache", tmp_path / "cache", "--gpus", 0)
    words = ("--preset", "tiny", "--steps", 2, "--set", "model.dim=16", "--set", "model.heads=2",
             "--set", "model.head_dim=8", "--set", "train.max_tokens=1200")  # fmt: skip
    done = forked("pretrain", server.url, "--name", "web", *words, *place)
    assert done.code == 0, done.err
    there = forked("embed", "--run", "web", "--json", *place)
    assert there.code == 0, there.err
    server.stop()
    away = forked("embed", "--run", "web", "--json", *place)
    assert away.code == 0, away.err
    assert f"warning Could not list {server.url}" in away.err
    told = [json.loads(done.out) for done in (there, away)]
    for record in told:
        record.pop("seconds", None)
    assert told[0] == told[1]
    shutil.rmtree(tmp_path / "runs" / "web" / "checkpoints" / "step-00000002")
    again = forked("pretrain", "--resume", "--name", "web", *place)
    assert again.code == 0, again.err
    assert "Used instead: the copies of 4 files" in again.err
    server.start()
