"""Nobody may be listening: a terminal that was closed, a pipe without a reader, a log on a full disk."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import IO, Any, cast

_GONE = (errno.EPIPE, errno.EIO, errno.EBADF)


class _Unheard:
    """A text file whose writes cannot fail.

    When the other end is gone, its descriptor is pointed at the null device, so that what libraries and child
    processes write there fails no more either. Text that a full disk does not take is dropped.
    """

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, text: str) -> int:
        try:
            return self._file.write(text)
        except OSError as error:
            self._let_go(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._file.flush()
        except OSError as error:
            self._let_go(error)

    def _let_go(self, error: OSError) -> None:
        if error.errno not in _GONE:
            return
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._file.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def that_may_go(file: IO[str] | None) -> IO[str] | None:
    """`file`, for what is said beside the work: a write that fails changes nothing about the work.

    Args:
        file: Such as ``sys.stderr``; None = the process was started without one.
    """
    return None if file is None else cast("IO[str]", _Unheard(file))


def is_terminal(file: IO[str] | None) -> bool:
    """Whether a person is there to read it."""
    return file is not None and file.isatty()
