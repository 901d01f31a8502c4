"""Runs a function on many tasks in several processes."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

Result = TypeVar("Result")


def usable_cores() -> int:
    """Cores that this process may use: fewer than the machine has under a job scheduler or in a container."""
    import joblib

    return int(joblib.cpu_count())


@contextmanager
def results_of(
    function: Callable[..., Result], tasks: Iterable[tuple[Any, ...]], n_workers: int
) -> Iterator[Iterator[Result]]:
    """Call `function` with the arguments of every task; results come in the order of the tasks.

    One worker is this process, and calls as results are asked for. More are processes, which start on
    entering. On leaving, tasks that were not begun are dropped.

    Raises:
        concurrent.futures.BrokenExecutor: The system stopped a worker: on entering, while tasks are handed
            out, or later, while a result is awaited.
    """
    if n_workers == 1:
        yield (function(*task) for task in tasks)
        return
    pool = _pool(n_workers)
    pending = []
    try:
        for task in tasks:
            pending.append(pool.submit(function, *task))
        yield (future.result() for future in pending)
    finally:
        for future in pending:
            future.cancel()
        pool.shutdown(wait=True)


def _pool(n_workers: int) -> Executor:
    """Forked workers where that is safe, for they start in milliseconds with every module loaded.

    Starting one anew takes as long as reading a million spikes. A fork copies locks as they are, so one that
    another thread holds stays locked in the copy: with a thread running, or torch and its own threads loaded,
    and on systems other than Linux, workers are started anew.
    """
    if sys.platform == "linux" and threading.active_count() == 1 and "torch" not in sys.modules:
        return ProcessPoolExecutor(n_workers, multiprocessing.get_context("fork"), _die_of_interrupts)
    from joblib.externals import loky  # unlike spawn, does not run the caller's script anew

    pool: Executor = loky.ProcessPoolExecutor(n_workers, initializer=_die_of_interrupts)
    return pool


def _die_of_interrupts() -> None:
    """Ctrl-C reaches every process of a terminal; the workers' tracebacks would only cover the message."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
