"""Runs the points of a sweep: here, several at once through joblib, or on the workers of a Dask cluster.

Each point is a process of its own, so that torch's threads, signals and memory stay apart, and so that Dask's
workers, which are daemonic, can start it.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nuclr_cli.data.remote import url_of
from nuclr_cli.workflows.dask_cluster import Cluster, connect
from nuclr_cli.workflows.metrics_log import last_step
from nuclr_cli.workflows.reporting import Progress, Reporter
from nuclr_cli.workflows.scale_folder import POINT_FILE, RUN_NAME, point_folder
from nuclr_cli.workflows.scale_point import LOG_FILE
from nuclr_cli.workflows.scale_record import PointSpec
from nuclr_cli.workflows.signals import StopRequest

_LOOK_EVERY_S = 0.2
_SAY_EVERY_S = 2.0


@dataclass(frozen=True)
class Job:
    """What a process (here or of a Dask worker) needs to run a point; paths are absolute.

    Attributes:
        sweep, point: Folder of the sweep, name of the point.
        gpus: As in `PretrainConfig`, or ``auto``.
        threads: CPU threads.
        stop_file: While this file exists, nothing is started and what runs is stopped.
    """

    sweep: str
    point: str
    gpus: str
    threads: int
    stop_file: str


@dataclass(frozen=True)
class Outcome:
    """How a point ended.

    Attributes:
        status: ``done``, ``failed``, or ``stopped`` (it goes on next time).
        what, fix: Why it failed.
    """

    point: str
    status: Literal["done", "failed", "stopped"]
    what: str = ""
    fix: str = ""


def run_job(job: Job) -> Outcome:
    """Start the process of a point, wait for it, and stop it when the sweep is stopped."""
    own, stop_file = point_folder(Path(job.sweep), job.point), Path(job.stop_file)
    if stop_file.exists():
        return Outcome(job.point, "stopped")
    try:
        own.mkdir(parents=True, exist_ok=True)
        log = (own / LOG_FILE).open("ab")
    except OSError as error:
        what = f"Cannot write to {own}: {error.strerror or error}."
        return Outcome(job.point, "failed", what, "Every worker must see the folder of the sweep")
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(job.threads))
    with log:
        # Its own session: Ctrl-C reaches this process only, which then tells all points once.
        process = subprocess.Popen(
            [sys.executable, "-m", "nuclr_cli.workflows.scale_point", job.sweep, job.point, job.gpus],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, **threads},
            start_new_session=True,
        )
        try:
            told = False
            while process.poll() is None:
                if not told and stop_file.exists():
                    process.terminate()
                    told = True
                time.sleep(_LOOK_EVERY_S)
        finally:
            said = _end(process)
    return _outcome(job, own, process.returncode, said)


def _end(process: subprocess.Popen[bytes]) -> bytes:
    """Close its standard input, at which it stops if it still runs, and read what it said."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    said = process.stdout.read()
    process.stdout.close()
    process.wait()
    return said


def _outcome(job: Job, own: Path, code: int, said: bytes) -> Outcome:
    if code == 0 and (own / POINT_FILE).is_file():
        return Outcome(job.point, "done")
    try:
        error: dict[str, Any] = json.loads(said.splitlines()[-1])
    except (ValueError, IndexError):
        error = {}
    if Path(job.stop_file).exists() or error.get("exit_code") in (130, 143):
        return Outcome(job.point, "stopped")
    if error:
        return Outcome(job.point, "failed", str(error["what"]), str(error["fix"]))
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    memory = " If the system ran out of memory, lower --jobs." if code == -9 else ""
    return Outcome(job.point, "failed", f"Its process ended with {how}.", f"See {own / LOG_FILE}.{memory}")


def run_jobs(
    folder: Path,
    points: Sequence[PointSpec],
    *,
    data: Path,
    gpus: int | None,
    threads: int,
    jobs: int,
    dask: str | None,
    reporter: Reporter,
) -> tuple[list[Outcome], int]:
    """Run points, `jobs` at once or as many as a Dask cluster has places.

    Args:
        folder: Of the sweep.
        points: To be done.
        data: DATA folder, which all workers must see, or a URL, of which each fetches its own copies.
        gpus, threads: Of each point.
        jobs: Points at once, here.
        dask: Address of a scheduler, or None.
        reporter: Told how far the points are.

    Returns:
        How each point ended, and the exit code that a signal asked for (0 = none came).

    Raises:
        MissingPackageError: `dask` is given and distributed is not installed.
        InputError: The cluster cannot be reached, sees other files, has another nuclr, or lost a point.
    """
    stop_file = folder / f".stop-{os.getpid()}-{secrets.token_hex(4)}"
    work = [
        Job(
            str(folder.resolve()),
            point.name,
            "auto" if gpus is None else str(gpus),
            threads,
            str(stop_file.resolve()),
        )
        for point in points
    ]
    try:
        with contextlib.ExitStack() as stack:
            cluster = None if dask is None else stack.enter_context(connect(dask, reporter.warn))
            if cluster is not None:
                cluster.require_shared(folder, [] if url_of(data) else [data])
            stop = stack.enter_context(StopRequest())
            bar = stack.enter_context(reporter.progress("sweep", len(points), "points"))
            stack.enter_context(_watching(folder, points, stop, stop_file, bar))
            outcomes = _here(work, jobs) if cluster is None else _elsewhere(work, cluster, stop)
        return outcomes, stop.exit_code
    finally:
        stop_file.unlink(missing_ok=True)


def _here(work: Sequence[Job], jobs: int) -> list[Outcome]:
    """Threads do: each only waits for the process of a point."""
    import joblib

    parallel = joblib.Parallel(n_jobs=jobs, backend="threading", batch_size=1, pre_dispatch="all")
    outcomes: list[Outcome] = parallel(joblib.delayed(run_job)(job) for job in work)
    return outcomes


def _elsewhere(work: Sequence[Job], cluster: Cluster, stop: StopRequest) -> list[Outcome]:
    """A worker that is killed takes its point's process with it; another one goes on with the point."""
    tasks = [(job,) for job in work]
    found = dict(cluster.results(run_job, tasks, alone=False, stopped=lambda: bool(stop.exit_code)))
    return [found.get(n) or Outcome(job.point, "stopped") for n, job in enumerate(work)]


@contextmanager
def _watching(
    folder: Path, points: Sequence[PointSpec], stop: StopRequest, stop_file: Path, bar: Progress
) -> Iterator[None]:
    """A thread that passes a stop on to the points and says how far they are."""
    finished = threading.Event()

    def watch() -> None:
        said = time.monotonic()
        while not finished.wait(_LOOK_EVERY_S):
            if stop.exit_code and not stop_file.exists():
                stop_file.touch()
            if time.monotonic() - said >= _SAY_EVERY_S:
                said = time.monotonic()
                bar.update(*_progress(folder, points))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()
        bar.update(*_progress(folder, points))


def _progress(folder: Path, points: Sequence[PointSpec]) -> tuple[float, str]:
    """Points done, with the steps of those at work as their share, and what these are."""
    done, at_work = 0.0, []
    for point in points:
        own = point_folder(folder, point.name)
        if (own / POINT_FILE).is_file():
            done += 1.0
        elif (own / RUN_NAME).is_dir():
            step = last_step(own / RUN_NAME / "metrics.jsonl")
            done += 0.95 * min(step / point.steps, 1.0)  # embedding and probing come after the last step
            at_work.append(f"{point.name} at step {step}")
    return round(done, 2), ", ".join(at_work[:3])
