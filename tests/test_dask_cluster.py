"""preprocess and probe on a Dask cluster of two workers: the files and numbers of one process, also when a
worker is killed in the middle of a task. The same of `nuclr scale` is in `test_scale_sweep.py`.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from nuclr_cli import __version__
from nuclr_cli.cli.app import app
from nuclr_cli.data.embeddings import EmbeddingTable, write_embeddings
from nuclr_cli.errors import InputError
from nuclr_cli.evaluation.fold_workers import map_folds
from nuclr_cli.workflows.dask_cluster import connect
from nuclr_cli.workflows.fold_cluster import folds_fitted
from nuclr_cli.workflows.preprocess import PreprocessConfig, preprocess
from nuclr_cli.workflows.preprocess_cluster import process_elsewhere
from nuclr_cli.workflows.preprocess_plan import plan_jobs
from nuclr_cli.workflows.reporting import Progress, SilentReporter
from nuclr_cli.workflows.scale_config import ScaleConfig
from nuclr_cli.workflows.scale_run import run_jobs

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two workers, each a process with a nanny that starts it again when it dies."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as running:
        yield running


@pytest.fixture
def address(cluster: Any) -> str:
    """Of the scheduler, when both workers are there."""
    deadline = time.monotonic() + 60
    while len(cluster.scheduler.workers) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return str(cluster.scheduler_address)


def pids(cluster: Any) -> list[int]:
    return [int(nanny.pid) for nanny in cluster.workers.values() if nanny.pid is not None]


# What preprocess writes


def sorting(folder: Path, seed: int, n_spikes: int = 600, n_units: int = 3) -> Path:
    """A numpy_folder of 20 s."""
    rng = np.random.default_rng(seed)
    spikes = np.zeros(n_spikes, dtype=[("sample_index", "i8"), ("unit_index", "i8"), ("segment_index", "i8")])
    spikes["sample_index"] = np.sort(rng.integers(0, 600_000, n_spikes))
    spikes["unit_index"] = rng.integers(0, n_units, n_spikes)
    (folder / "properties").mkdir(parents=True)
    np.save(folder / "spikes.npy", spikes)
    settings = {"sampling_frequency": 30_000.0, "unit_ids": list(range(n_units)), "num_segments": 1}
    (folder / "numpysorting_info.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """Three recordings; writing the first one takes a while."""
    root = tmp_path_factory.mktemp("sources")
    slow = sorting(root / "m0", 0, n_spikes=3_000_000, n_units=1500)
    return (slow, sorting(root / "m1", 1), sorting(root / "m2", 2))


@pytest.fixture(scope="module")
def undisturbed(sources: tuple[Path, ...], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process makes of the recordings."""
    out = tmp_path_factory.mktemp("one") / "data"
    preprocess(PreprocessConfig(sources, out, jobs=1))
    return contents(out)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too, and every empty folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"(folder)"
        for path in folder.rglob("*")
    }


class Listener(SilentReporter):
    """Keeps how far preprocess said it was."""

    def __init__(self) -> None:
        self.done: list[tuple[float, str]] = []

    @contextmanager
    def progress(self, title: str, total: float | None, unit: str) -> Iterator[Progress]:
        yield self

    def update(self, done: float, detail: str = "") -> None:
        self.done.append((done, detail))


def test_preprocess_writes_the_bytes_of_one_process(
    sources: tuple[Path, ...], undisturbed: dict[str, bytes], address: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)  # the workers have another current folder
    listener = Listener()
    record = preprocess(PreprocessConfig(sources, Path("data"), dask=address), listener)
    assert contents(tmp_path / "data") == undisturbed
    assert [source.status for source in record.sources] == ["written"] * 3
    assert [done for done, _ in listener.done] == [1, 2, 3]
    assert sorted(name for _, name in listener.done) == ["m0", "m1", "m2"]
    assert listener.done[0][1] != "m0"  # said as they finish: the first source takes longest
    again = preprocess(PreprocessConfig(sources, Path("data"), dask=address))
    assert [source.status for source in again.sources] == ["skipped"] * 3


@contextmanager
def stopped_process(pid: int) -> Iterator[None]:
    """A process that does nothing meanwhile, so that what it is found at is what it is killed at."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "TZ":
            time.sleep(0.001)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def test_a_worker_killed_in_the_middle_of_a_file_leaves_one_whole_file(
    sources: tuple[Path, ...], undisturbed: dict[str, bytes], address: str, cluster: Any, tmp_path: Path
) -> None:
    out, killed, left = tmp_path / "data", [], []

    def kill_the_writer() -> None:
        while not killed:
            for half in out.glob(".preprocess-*/0/attempt-*/.*.nuclr-tmp"):
                writer = int(half.name.split(".")[-2].split("-")[0])
                with stopped_process(writer), contextlib.suppress(OSError):
                    if half.stat().st_size > 0:  # and now it stays as it is
                        os.kill(writer, signal.SIGKILL)
                        killed.append(writer)
                        left.append(half.exists())
                        return
            time.sleep(0.001)

    workers = pids(cluster)
    killer = threading.Thread(target=kill_the_writer, daemon=True)
    killer.start()
    record = preprocess(PreprocessConfig(sources, out, dask=address))
    assert left == [True]  # it died with a file half-written
    assert killed[0] in workers
    assert [source.status for source in record.sources] == ["written"] * 3
    assert contents(out) == undisturbed


@pytest.mark.parametrize("broken", ["one of three", "alone"])
def test_a_source_that_fails_is_told_as_by_one_process(
    sources: tuple[Path, ...], address: str, tmp_path: Path, broken: str
) -> None:
    bad = shutil.copytree(sources[1], tmp_path / "bad")
    np.save(bad / "spikes.npy", np.zeros(3, dtype=[("sample_index", "i8"), ("unit_index", "i8")]))
    given = (bad,) if broken == "alone" else (sources[1], bad, sources[2])
    told = []
    for name, where in (("here", {"jobs": 1}), ("there", {"dask": address})):
        done = run("preprocess", *given, "-o", tmp_path / name / "data", *options(where), "--json")
        told.append((done.exit_code, str(done.stdout).replace(f"/{name}/", "/")))
        told[-1] += (contents(tmp_path / name) if (tmp_path / name).exists() else {},)
    assert told[0] == told[1]
    assert told[0][0] == 3
    assert len(told[0][2]) == (0 if broken == "alone" else 3)  # the folder and two files


def run(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def options(where: Mapping[str, object]) -> list[str]:
    return [word for key, value in where.items() for word in (f"--{key}", str(value))]


def test_labels_survive_when_files_are_made_anew_elsewhere(
    sources: tuple[Path, ...], address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels.csv").write_text("unit_id,cell_type\n1,PV\n")
    made = []
    for name, where in (("here", {"jobs": 1}), ("there", {"dask": address})):
        assert run("preprocess", sources[1], "-o", name, "--jobs", "1").exit_code == 0
        assert run("label", name, "--labels", "labels.csv").exit_code == 0
        done = run("preprocess", sources[1], "-o", name, "--overwrite", *options(where), "--json")
        assert done.exit_code == 0, done.output
        (session,) = json.loads(done.stdout)["sources"][0]["sessions"]
        made.append((session["columns"], session["notes"]))
    assert made[0] == made[1]
    assert "cell_type" in made[0][0]


def test_a_source_is_done_twice_without_sharing_a_file(sources: tuple[Path, ...], tmp_path: Path) -> None:
    """As when Dask takes a worker for lost that is only slow."""
    (job,) = plan_jobs(PreprocessConfig((sources[1],), tmp_path / "data"), SilentReporter())
    staging = tmp_path / "data" / ".preprocess-1-a" / "0"
    staging.mkdir(parents=True)
    (staging / "wanted").touch()
    first, second = process_elsewhere(job, staging), process_elsewhere(job, staging)
    (one,), (other,) = first.staged, second.staged
    assert one.file != other.file
    assert one.file.read_bytes() == other.file.read_bytes()
    (staging / "wanted").unlink()  # the command is gone
    process_elsewhere(job, staging)
    assert {path.name for path in staging.iterdir()} == {one.file.parent.name, other.file.parent.name}
    with pytest.raises(InputError, match="cannot write to"):
        process_elsewhere(job, tmp_path / "elsewhere")


# What a probe says

KINDS: dict[str, tuple[str, ...]] = {
    "label": ("--label", "cell_type", "--split", "unit", "--permutations", "2"),
    "nested": ("--label", "cell_type", "--C", "nested", "--permutations", "0"),
    "parent": ("--label", "cell_type", "--parent", "class", "--permutations", "0"),
    "fractions": ("--label", "cell_type", "--label-fractions", "0.2,1", "--repeats", "2"),
    "number": ("--target", "depth", "--permutations", "2"),
    "pairs": ("--pairs", "PAIRS"),
}


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 units of four subjects whose embeddings know what they are, and a table of pairs."""
    root = tmp_path_factory.mktemp("embedded")
    rng = np.random.default_rng(0)
    n, n_subjects = 600, 4
    code = rng.integers(0, 3, n)
    values = rng.normal(size=(n, 96)).astype(np.float32)
    values[:, :3] += 1.5 * np.eye(3, dtype=np.float32)[code]
    depth = values[:, 5] + rng.normal(size=n)
    subject = np.array([f"s{i % n_subjects}" for i in range(n)])
    units = np.array([f"u{i}" for i in range(n)])
    table = EmbeddingTable(
        subject=subject,
        session=subject,
        population=np.full(n, "0"),
        unit_id=units,
        modality=np.full(n, "spikes"),
        n_windows=np.ones(n, dtype=np.int64),
        n_events=np.ones(n, dtype=np.int64),
        embedding=values,
        labels={
            "cell_type": np.array(["PV", "SST", "Exc"])[code],
            "class": np.array(["inh", "inh", "exc"])[code],
            "depth": np.array([f"{one:.4f}" for one in depth]),
        },
    )
    write_embeddings(table, root / "embeddings.parquet")
    with (root / "pairs.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["subject", "session", "population", "pre", "post", "label"])
        for one in range(n // 3):
            other = one + n_subjects
            connected = int(values[one, 1] > values[other, 1] + 0.8)
            writer.writerow([subject[one], subject[one], "0", units[one], units[other], connected])
    return root


def probed(root: Path, kind: str, where: Mapping[str, object]) -> dict[str, Any]:
    """What the command says, without when and where."""
    words = [str(root / "pairs.csv") if word == "PAIRS" else word for word in KINDS[kind]]
    done = run(
        "probe", *words, "--embeddings", root / "embeddings.parquet", "--baselines", "none",
        "--bootstrap", "20", *options(where), "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    assert found.pop("seconds") > 0
    return found


@pytest.fixture(scope="module")
def by_one(embedded: Path) -> Callable[[str], dict[str, Any]]:
    """What one process says to a kind of probe."""
    return functools.cache(lambda kind: probed(embedded, kind, {"jobs": 1}))


class Watch(distributed.SchedulerPlugin):  # type: ignore[misc]
    """Counts the tasks that ended, and where."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    def transition(self, key: str, start: str, finish: str, *_: object, **__: object) -> None:
        if finish == "memory" and start == "processing":
            self.ended.append(str(key))


@pytest.fixture
def watch(cluster: Any) -> Iterator[Watch]:
    plugin = Watch()
    cluster.scheduler.add_plugin(plugin, name="watch")
    yield plugin
    cluster.scheduler.remove_plugin("watch")


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_probe_has_the_numbers_of_one_process(
    embedded: Path, by_one: Callable[[str], dict[str, Any]], address: str, watch: Watch, kind: str
) -> None:
    assert probed(embedded, kind, {"dask": address}) == by_one(kind)
    assert sum(key.startswith("nuclr-task") for key in watch.ended) >= 4


def test_jobs_do_not_change_a_probe(embedded: Path, by_one: Callable[[str], dict[str, Any]]) -> None:
    assert probed(embedded, "label", {"jobs": 3}) == by_one("label")


def test_an_array_is_sent_once_for_all_folds_and_labellings(
    embedded: Path, address: str, watch: Watch, cluster: Any
) -> None:
    probed(embedded, "label", {"dask": address})
    arrays = [key.split("-")[2] for key in watch.ended if key.startswith("nuclr-array")]
    calls = [key for key in watch.ended if key.startswith("nuclr-call")]
    assert len(arrays) == len(set(arrays)) >= 1
    assert len(calls) >= 3  # the probe, the test's own folds, and the labellings


def test_a_worker_killed_in_the_middle_of_a_fold_changes_nothing(
    embedded: Path, by_one: Callable[[str], dict[str, Any]], address: str, cluster: Any
) -> None:
    killed: list[int] = []

    def is_at_work(worker: Any) -> bool:
        with contextlib.suppress(RuntimeError):  # the scheduler changes its tasks meanwhile
            return any(str(task.key).startswith("nuclr-task") for task in list(worker.processing))
        return False

    def kill_one_at_work() -> None:
        while not killed:
            for worker in list(cluster.scheduler.workers.values()):
                pid = next((n.pid for n in cluster.workers.values() if n.worker_address == worker.address), 0)
                if not pid or not is_at_work(worker):
                    continue
                with stopped_process(pid):
                    time.sleep(0.2)  # what it has said before arrives
                    if is_at_work(worker):
                        os.kill(pid, signal.SIGKILL)
                        killed.append(pid)
                        return
            time.sleep(0.001)

    killer = threading.Thread(target=kill_one_at_work, daemon=True)
    killer.start()
    found = probed(embedded, "nested", {"dask": address})
    assert killed
    assert found == by_one("nested")


def test_arrays_come_back_when_all_workers_are_killed(address: str, cluster: Any) -> None:
    values = np.random.default_rng(0).normal(size=(4000, 64))

    def work(place: int) -> Any:
        part = values[place::4]
        return part.T @ part, part.sum()

    with folds_fitted(None, address):
        before = map_folds(work, range(4), values.nbytes)
        for pid in pids(cluster):
            os.kill(pid, signal.SIGKILL)
        after = map_folds(work, range(4), values.nbytes)
    here = map_folds(work, range(4), values.nbytes)
    for found in (before, after):
        for ((matrix, total), failed), ((expected, expected_total), _) in zip(found, here, strict=True):
            np.testing.assert_array_equal(matrix, expected)
            assert (total, failed) == (expected_total, ())


# What a cluster is refused for


def test_a_task_that_ends_every_worker_is_an_error_and_not_endless(address: str) -> None:
    with (
        connect(address) as there,
        pytest.raises(InputError, match="again and again, most likely because memory ran out"),
    ):
        list(there.results(os._exit, [(1,)], alone=True))


def test_an_error_of_a_task_is_told_as_its_own(address: str) -> None:
    with connect(address) as there:
        with pytest.raises(
            InputError, match="could not do a task: No such file or directory: /no/such"
        ) as caught:
            list(there.results(os.stat, [("/no/such",)], alone=True))
        assert "scheduler" not in str(caught.value)
        with pytest.raises(InputError, match="could not do a task: ZeroDivisionError"):
            list(there.results(divmod, [(1, 0)], alone=True))


@dataclass
class Apart:
    """A scheduler and a worker without a nanny, processes of their own."""

    address: str
    scheduler: subprocess.Popen[bytes]
    worker: subprocess.Popen[bytes]


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[Apart]:
    told = tmp_path / "scheduler.json"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
    dask = [sys.executable, "-m"]
    where = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(told)]
    scheduler = subprocess.Popen([*dask, "distributed.cli.dask_scheduler", *where], **quiet)
    worker = None
    try:
        deadline = time.monotonic() + 60
        while not told.exists() or not told.read_text().endswith("}"):
            assert scheduler.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        at = str(json.loads(told.read_text())["address"])
        worker = subprocess.Popen(
            [*dask, "distributed.cli.dask_worker", at, "--nthreads", "1", "--no-nanny", "--no-dashboard"],
            **quiet,
        )
        yield Apart(at, scheduler, worker)
    finally:
        for process in (scheduler, worker):
            if process is not None:
                process.kill()
                process.wait()


def test_a_scheduler_that_is_killed_in_the_middle_is_an_error(apart: Apart, tmp_path: Path) -> None:
    with connect(apart.address) as there:
        results = there.results(
            subprocess.run, [(["touch", str(tmp_path / "begun")],), (["sleep", "60"],)], alone=True
        )
        assert next(results)[0] == 0
        apart.scheduler.kill()
        began = time.monotonic()
        with pytest.raises(InputError, match="The Dask scheduler went away") as caught:
            next(results)
        assert time.monotonic() - began < 30
        assert "the same command does what is left" in caught.value.fix
    assert (tmp_path / "begun").exists()


def test_workers_that_are_all_gone_are_told_and_not_awaited_without_end(
    apart: Apart, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr("nuclr_cli.workflows.dask_cluster._COUNT_WORKERS_S", 0.1)
    monkeypatch.setattr("nuclr_cli.workflows.dask_cluster._WARN_S", 0.5)
    monkeypatch.setattr("nuclr_cli.workflows.dask_cluster._GIVE_UP_S", 1.5)
    with connect(apart.address, told.append) as there:
        results = there.results(time.sleep, [(0,), (60,)], alone=True)
        assert next(results) == (0, None)
        apart.worker.kill()
        with pytest.raises(InputError, match="has had no worker for") as caught:
            next(results)
        assert f"dask worker {apart.address}" in caught.value.fix
        (said,) = told
        assert "has had no worker for" in said
        ended = there.results(time.sleep, [(0,)], alone=True, stopped=lambda: True)
        assert list(ended) == []  # nobody is there to be told to stop


def test_a_sweep_on_a_url_asks_no_worker_whether_it_sees_it(address: str, tmp_path: Path) -> None:
    asked = {"gpus": 0, "threads": 1, "jobs": 1, "dask": address, "reporter": SilentReporter()}
    assert run_jobs(tmp_path, [], data=Path("http://127.0.0.1:9/data"), **asked) == ([], 0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"does not see /no/such as this machine does"):
        run_jobs(tmp_path, [], data=Path("/no/such"), **asked)  # type: ignore[arg-type]


def commands(data: Path) -> dict[str, list[str]]:
    return {
        "preprocess": ["preprocess", str(data / "m1"), "-o", str(data / "out")],
        "probe": ["probe", "--label", "cell_type", "--embeddings", str(data / "e.parquet")],
    }


@pytest.mark.parametrize("command", ["preprocess", "probe"])
def test_addresses_that_nobody_answers(
    sources: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr("nuclr_cli.workflows.dask_cluster._CONNECT_S", 1)
    words = commands(sources[0].parent)[command]
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        for address in ("tcp://127.0.0.1:9", "nowhere", f"tcp://127.0.0.1:{deaf.getsockname()[1]}"):
            done = run(*words, "--dask", address)
            assert done.exit_code == 3, done.output
            assert f"No Dask scheduler answers at {address}" in done.stderr
    assert not (sources[0].parent / "out").exists()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "distributed", None)  # as where it is not installed
        done = run(*words, "--dask", "tcp://127.0.0.1:9")
    assert done.exit_code == 4
    assert "pip install distributed" in done.stderr
    assert not (sources[0].parent / "out").exists()


def test_a_scheduler_without_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nuclr_cli.workflows.dask_cluster._CONNECT_S", 1)
    with (
        distributed.LocalCluster(
            n_workers=0, dashboard_address=None, processes=False, protocol="tcp"
        ) as empty,
        pytest.raises(InputError, match="has no workers") as caught,
        connect(empty.scheduler_address),
    ):
        pass
    assert f"dask worker {empty.scheduler_address}" in caught.value.fix


def test_the_address_of_a_worker_is_not_that_of_the_scheduler(cluster: Any, address: str) -> None:
    with (
        pytest.raises(InputError, match="it is the address of a Worker"),
        connect(next(iter(cluster.scheduler.workers))),
    ):
        pass


def test_a_worker_with_another_nuclr(
    sources: tuple[Path, ...], address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nuclr_cli.workflows.dask_cluster.__version__", "99.0")
    with pytest.raises(InputError) as caught:
        preprocess(PreprocessConfig(sources, tmp_path / "data", dask=address))
    assert f"runs nuclr {__version__} on Python" in caught.value.what
    assert "here it is nuclr 99.0" in caught.value.what
    assert list(tmp_path.iterdir()) == []


@contextmanager
def further_worker(address: str, command: list[str], cluster: Any) -> Iterator[None]:
    """A worker that is started as on another machine."""
    n = len(cluster.scheduler.workers)
    process = subprocess.Popen(
        [*command, sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1",
         "--no-nanny", "--no-dashboard"],
        stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while len(cluster.scheduler.workers) == n:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        while len(cluster.scheduler.workers) > n:
            time.sleep(0.02)


def can_unshare() -> bool:
    tried = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return shutil.which("unshare") is not None and subprocess.run(tried, capture_output=True).returncode == 0


@pytest.mark.skipif(not can_unshare(), reason="this user cannot give a process another file system")
@pytest.mark.parametrize("hidden", ["out", "sources"])
def test_a_worker_that_sees_another_file_system(
    address: str, cluster: Any, tmp_path: Path, hidden: str
) -> None:
    source, out = sorting(tmp_path / "sources" / "one", 1), tmp_path / "out"
    out.mkdir()
    covered = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        'mount -t tmpfs tmpfs "$0" && exec "$@"',
        str(tmp_path / hidden),
    ]
    with (
        further_worker(address, covered, cluster),
        pytest.raises(InputError, match=r"does not see .* as this machine does") as caught,
    ):
        preprocess(PreprocessConfig((source,), out, dask=address))
    assert str(tmp_path / hidden) in caught.value.what
    assert "a shared file system" in caught.value.fix
    assert list(out.iterdir()) == []


def test_a_worker_that_has_no_nuclr(address: str, cluster: Any) -> None:
    without = ["env", "PYTHONPATH=", sys.executable, "-c", NO_NUCLR]
    n = len(cluster.scheduler.workers)
    process = subprocess.Popen([*without, address], stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 60
        while len(cluster.scheduler.workers) == n:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with pytest.raises(InputError, match="cannot load nuclr: ModuleNotFoundError"), connect(address):
            pass
    finally:
        process.kill()
        process.communicate()
        while len(cluster.scheduler.workers) > n:
            time.sleep(0.02)


NO_NUCLR = """
import asyncio, sys
sys.modules["nuclr_cli"] = None
from distributed import Worker

async def serve():
    async with Worker(sys.argv[1], nthreads=1, dashboard=False) as worker:
        await worker.finished()

asyncio.run(serve())
"""


@pytest.mark.parametrize("ask", ["preprocess", "probe", "scale"])
def test_jobs_and_dask_are_not_given_together(sources: tuple[Path, ...], tmp_path: Path, ask: str) -> None:
    asked: dict[str, Callable[[], object]] = {
        "preprocess": lambda: preprocess(PreprocessConfig(sources, tmp_path / "d", jobs=2, dask="tcp://x:1")),
        "probe": lambda: folds_fitted(2, "tcp://x:1").__enter__(),
        "scale": lambda: ScaleConfig("cell_type", jobs=2, dask="tcp://x:1"),
    }
    with pytest.raises(InputError, match="--jobs counts what runs at once on this machine"):
        asked[ask]()
    assert not (tmp_path / "d").exists()
