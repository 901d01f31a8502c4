"""SIGTERM, SIGINT, SIGUSR1 and SIGHUP ask for a stop after the current step: a checkpoint is saved first."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class StopRequest:
    """Context manager that remembers the first stop signal; a second Ctrl-C stops at once.

    Attributes:
        exit_code: 0 while nothing was asked; 130 after SIGINT, 143 after SIGTERM, SIGUSR1 (the warning that
            batch systems send before they kill) or SIGHUP (the terminal was closed).
    """

    def __init__(self) -> None:
        self.exit_code = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        # Handlers can only be set by the main thread; a notebook's worker thread simply goes without.
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP"):  # Windows has neither of the last two
                number = getattr(signal, name, None)
                if number is None or (name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN):
                    continue  # who types nohup wants training to go on when the terminal is closed
                self._previous[number] = signal.signal(number, self._asked)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _asked(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.exit_code:
            raise KeyboardInterrupt
        self.exit_code = 130 if number == signal.SIGINT else 143
