"""How a workflow talks while it works, without knowing who listens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Progress(Protocol):
    """One running task."""

    def update(self, done: float, detail: str = "") -> None:
        """Say how far the task is.

        Args:
            done: Units of work finished so far (not since the last call).
            detail: Short text beside the bar, e.g. ``"loss 3.21"``.
        """


class Reporter(Protocol):
    """Receives what a workflow has to say: the terminal, a notebook, or nobody."""

    def note(self, text: str) -> None:
        """An assumption or a fact that the user should know."""

    def warn(self, text: str) -> None:
        """Something that the user should look at."""

    def progress(
        self, title: str, total: float | None, unit: str, start: float = 0
    ) -> AbstractContextManager[Progress]:
        """Open a task of `total` units of work (None: unknown), counted in `unit`, `start` of them done."""


class _NoProgress:
    def update(self, done: float, detail: str = "") -> None:
        pass


class SilentReporter:
    """Says nothing. The default when a workflow is called from Python."""

    def note(self, text: str) -> None:
        pass

    def warn(self, text: str) -> None:
        pass

    @contextmanager
    def progress(self, title: str, total: float | None, unit: str, start: float = 0) -> Iterator[Progress]:
        yield _NoProgress()
