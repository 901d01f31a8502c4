"""Folds fitted side by side in threads, each with one BLAS thread: the same numbers, sooner."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

MEMORY_BYTES = 2**30
"""What the folds in work at the same time may hold together, about; one fold is always in work."""
SMALL_BYTES = 2**20
"""Folds smaller than this are done before a thread has started."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Here(threading.local):
    """What the running thread knows: whether other folds run beside it, and fits that did not converge."""

    beside_others = False
    failures: list[str] | None = None


_here = _Here()


def map_folds(
    work: Callable[[Item], Result], items: Sequence[Item], bytes_each: int
) -> list[tuple[Result, tuple[str, ...]]]:
    """Do `work` on every item, as many at a time as there are cores and memory.

    Folds are independent, and a fit waits for memory more than it computes: a second thread in one matrix
    product helps little, and costs much where another program is busy; a second fold helps in full. What an
    item gives does not depend on how many are in work. Inside `work`, items of a further call follow one
    another where others run beside already.

    Args:
        work: Called in threads; must not touch shared state.
        items: What to work on.
        bytes_each: What one item holds in memory, about.

    Returns:
        In the order of `items`: the result and scikit-learn's warnings of fits that did not converge.
    """
    if _here.beside_others:
        return [_watched(work, item) for item in items]
    workers = max(1, min(len(items), cores(), MEMORY_BYTES // max(1, bytes_each)))
    if bytes_each < SMALL_BYTES:
        workers = 1
    with threadpool_limits(1), _convergence():
        if workers == 1:
            return [_watched(work, item) for item in items]

        def beside(item: Item) -> tuple[Result, tuple[str, ...]]:
            _here.beside_others = True
            # OpenMP keeps its number of threads by thread, BLAS for the whole process.
            with threadpool_limits(1, user_api="openmp"):
                return _watched(work, item)

        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(beside, items))


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _watched(work: Callable[[Item], Result], item: Item) -> tuple[Result, tuple[str, ...]]:
    before, _here.failures = _here.failures, []
    try:
        result = work(item)
        return result, tuple(_here.failures)
    finally:
        _here.failures = before


@contextmanager
def _convergence() -> Iterator[None]:
    """Collect scikit-learn's convergence warnings by thread instead of printing them; others are shown."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", ConvergenceWarning)
        show = warnings.showwarning

        def keep(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: object = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, ConvergenceWarning) and _here.failures is not None:
                _here.failures.append(str(message))
            else:
                show(message, category, filename, lineno)

        warnings.showwarning = keep
        yield
