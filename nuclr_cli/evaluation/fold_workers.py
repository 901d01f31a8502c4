"""Folds fitted side by side in threads, each with one BLAS thread: the same numbers, sooner.

Or elsewhere: `fitted_by` names somebody else to do the larger ones.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, TypeVar

from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

MEMORY_BYTES = 2**30
"""What the folds in work at the same time may hold together, about; one fold is always in work."""
SMALL_BYTES = 2**20
"""Folds smaller than this are done before a thread has started."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class Elsewhere(Protocol):
    """Does the work of folds somewhere else."""

    def __call__(
        self, work: Callable[[Any], Any], items: Sequence[Any], bytes_each: int
    ) -> list[tuple[Any, tuple[str, ...]]]:
        """As `map_folds`."""

    def at_once(self) -> int:
        """Items that can be in work at the same time."""


@dataclass(frozen=True)
class _Where:
    jobs: int | None = None
    elsewhere: Elsewhere | None = None


_THIS_MACHINE = _Where()
_where: ContextVar[_Where] = ContextVar("where folds are fitted", default=_THIS_MACHINE)


@contextmanager
def fitted_by(*, jobs: int | None = None, elsewhere: Elsewhere | None = None) -> Iterator[None]:
    """Inside the block: how many items `map_folds` works on at once, or who does it.

    Args:
        jobs: Items at once; None = as many as there are cores.
        elsewhere: Who does the work of items that are worth sending, `SMALL_BYTES` or more.
    """
    token = _where.set(_Where(jobs, elsewhere))
    try:
        yield
    finally:
        _where.reset(token)


class _Here(threading.local):
    """What the running thread knows: whether other folds run beside it, and fits that did not converge."""

    beside_others = False
    failures: list[str] | None = None


_here = _Here()


def map_folds(
    work: Callable[[Item], Result], items: Sequence[Item], bytes_each: int
) -> list[tuple[Result, tuple[str, ...]]]:
    """Do `work` on every item, as many at a time as there are cores and memory, or as `fitted_by` says.

    Folds are independent, and a fit waits for memory more than it computes: a second thread in one matrix
    product helps little, and costs much where another program is busy; a second fold helps in full. What an
    item gives does not depend on how many are in work. Inside `work`, items of a further call follow one
    another where others run beside already.

    Args:
        work: Called in threads or other processes; must not touch shared state.
        items: What to work on.
        bytes_each: What one item holds in memory, about.

    Returns:
        In the order of `items`: the result and scikit-learn's warnings of fits that did not converge.
    """
    if _here.beside_others:
        return [_watched(work, item) for item in items]
    where = _where.get()
    if where.elsewhere is not None and len(items) > 1 and bytes_each >= SMALL_BYTES:
        return where.elsewhere(work, items, bytes_each)
    workers = 1 if bytes_each < SMALL_BYTES else where.jobs or cores()
    return _side_by_side(work, items, _that_fit(items, workers, bytes_each))


def map_whole(
    work: Callable[[Item], Result], items: Iterable[Item], bytes_each: int
) -> Iterator[tuple[Result, tuple[str, ...]]]:
    """As `map_folds`, for items that have folds of their own; results as they are known, in order.

    Here, one item follows another and each has all cores for its folds. Elsewhere, items are sent whole, for
    there may be more places than one item has folds.
    """
    elsewhere = _where.get().elsewhere
    if elsewhere is None or _here.beside_others or bytes_each < SMALL_BYTES:
        yield from (_watched(work, item) for item in items)
        return
    rest = iter(items)
    while some := list(islice(rest, 2 * elsewhere.at_once())):
        yield from elsewhere(work, some, bytes_each)


def work_of_others(
    work: Callable[[Item], Result], items: Sequence[Item], bytes_each: int, workers: int
) -> list[tuple[Result, tuple[str, ...]]]:
    """What `Elsewhere` does at its place: `items` on so many threads, or fewer where memory is short.

    One call at a time in a process.
    """
    before, _here.beside_others = _here.beside_others, True  # items of a further call stay in their thread
    try:
        return _side_by_side(work, items, _that_fit(items, workers, bytes_each))
    finally:
        _here.beside_others = before


def _that_fit(items: Sequence[Item], workers: int, bytes_each: int) -> int:
    return max(1, min(len(items), workers, MEMORY_BYTES // max(1, bytes_each)))


def _side_by_side(
    work: Callable[[Item], Result], items: Sequence[Item], workers: int
) -> list[tuple[Result, tuple[str, ...]]]:
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
