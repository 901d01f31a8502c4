"""Work spread over processes: results in order, errors told, no worker left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any

import pytest

from nuclr_cli.data.store import SourceRecord, write_population
from nuclr_cli.testing.tiny import tiny_population
from nuclr_cli.workflows.worker_pool import results_of


def slow_first(number: int) -> tuple[int, int]:
    time.sleep(0.2 if number == 0 else 0.0)
    return number, os.getpid()


def kill_yourself(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail_at(number: int) -> int:
    if number == 2:
        raise ValueError(f"task {number}")
    return number


@pytest.mark.parametrize("n_workers", [1, 2])
def test_results_come_in_the_order_of_the_tasks(n_workers: int) -> None:
    with results_of(slow_first, [(n,) for n in range(6)], n_workers) as results:
        found = list(results)
    assert [number for number, _ in found] == list(range(6))
    processes = {process for _, process in found}
    assert (os.getpid() in processes) == (n_workers == 1)
    assert len(processes) <= n_workers


@pytest.mark.parametrize("n_workers", [1, 2])
def test_an_error_of_a_task_is_raised_where_its_result_is_asked_for(n_workers: int) -> None:
    with results_of(fail_at, [(n,) for n in range(4)], n_workers) as results:
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(ValueError, match="task 2"):
            next(results)


def test_a_worker_that_the_system_kills_is_told() -> None:
    with results_of(kill_yourself, [(0,), (1,)], 2) as results, pytest.raises(BrokenExecutor):
        list(results)


# Whether workers are forked depends on what runs in the process, so each case has a process of its own.
PROBE = """
    import os, sys, threading, time
    {before}
    from nuclr_cli.workflows.worker_pool import results_of
    sys.modules["marker_of_parent"] = sys
    with results_of(eval, [("'marker_of_parent' in __import__('sys').modules",)] * 2, 2) as results:
        print(list(results))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")
@pytest.mark.parametrize(
    ("before", "forked"),
    [
        ("", True),
        ("threading.Thread(target=time.sleep, args=(5,), daemon=True).start()", False),
        ("import torch", False),
    ],
    ids=["alone", "thread", "torch"],
)
def test_workers_are_forked_only_where_nothing_else_runs(before: str, forked: bool) -> None:
    program = textwrap.dedent(PROBE).format(before=before)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == str([forked, forked]), done.stderr


def test_one_core_writes_the_same_bytes_without_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    population, source = tiny_population(), SourceRecord("x", "r", "d")
    write_population(population, tmp_path / "beside.h5", source=source)
    started: list[Any] = []
    start: Callable[[threading.Thread], None] = threading.Thread.start

    def watched(thread: threading.Thread) -> None:
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", watched)
    write_population(population, tmp_path / "inline.h5", source=source, hash_beside=False)
    assert not started
    assert (tmp_path / "inline.h5").read_bytes() == (tmp_path / "beside.h5").read_bytes()
