"""Locks between processes; the system releases them when their holder ends, however it ends."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_POLL_S = 0.05


def try_lock(descriptor: int) -> bool:
    """Take the lock of an open file; False where another process, or another opening of it, has it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


@contextmanager
def locked(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock of a file, which is made; wait for it as long as it takes.

    Args:
        path: The file.
        waiting: Called again and again meanwhile; what it raises ends the wait.

    Raises:
        OSError: The file cannot be made or locked.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        while not try_lock(descriptor):
            waiting()
            time.sleep(_POLL_S)
        yield
    finally:
        os.close(descriptor)
