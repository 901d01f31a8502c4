"""One process at a time in a folder; the system releases the lock when that process ends, however it ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class FolderInUse(Exception):
    """Another process holds the lock."""


@contextmanager
def only_here(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which exists. The file ``.lock`` stays: to remove it would let two in.

    Raises:
        FolderInUse: Another process (on a shared file system also of another machine) has it.
        OSError: The folder cannot be written.
    """
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            _take(descriptor)
        except (BlockingIOError, PermissionError):
            raise FolderInUse(str(folder)) from None
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
