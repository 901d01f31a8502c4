"""An executor without a thread."""

from __future__ import annotations

from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any


class InlineExecutor(Executor):
    """Runs a task where it is submitted."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def one_thread(beside: bool) -> Executor:
    """An executor with one thread, or with none for a caller that was granted a single core.

    For hashing, which lets go of the interpreter lock and so costs no time beside reading and writing.
    """
    return ThreadPoolExecutor(max_workers=1) if beside else InlineExecutor()
