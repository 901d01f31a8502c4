"""One process at a time in a folder; the system releases the lock when that process ends, however it ends."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_UNKNOWN_TO_THE_DISK = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP})

_held: set[int] = set()
"""Descriptors of this process whose locks a forked child must not keep alive."""


class FolderInUse(Exception):
    """Another process holds the lock.

    Attributes:
        holder: What that process has said of itself; may be empty.
    """

    def __init__(self, folder: Path, holder: str = "") -> None:
        super().__init__(str(folder))
        self.holder = holder


class NoLocks(OSError):
    """The file system of the folder knows no locks."""


@contextmanager
def only_here(folder: Path, holder: str = "") -> Iterator[None]:
    """Hold the lock of a folder, which exists. The file ``.lock`` stays: to remove it would let two in.

    Args:
        folder: Which one.
        holder: What another process is told that wants it, too.

    Raises:
        FolderInUse: Another process (on a shared file system also of another machine) has it.
        NoLocks: The file system has none.
        OSError: The folder cannot be written.
    """
    path = folder / ".lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            _take(descriptor)
        except (BlockingIOError, PermissionError):
            raise FolderInUse(folder, said_in(folder)) from None
        except OSError as error:
            if error.errno in _UNKNOWN_TO_THE_DISK:
                _say(descriptor, holder)  # what an earlier holder said is not true any more
                raise NoLocks(str(folder)) from None
            raise
        _held.add(descriptor)
        _say(descriptor, holder)
        yield
    finally:
        _held.discard(descriptor)
        os.close(descriptor)


def said_in(folder: Path) -> str:
    """What the holder of a folder's lock, or the one before, has said of itself; empty = nothing."""
    try:
        return (folder / ".lock").read_text(encoding="utf-8", errors="replace")
    except OSError:  # Windows: what is locked cannot be read
        return ""


def _say(descriptor: int, holder: str) -> None:
    with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
        os.ftruncate(descriptor, 0)
        os.write(descriptor, holder.encode())


def _take(descriptor: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _let_go() -> None:
    # A loader process outlives by seconds a trainer that is killed; the lock would live as long as it does.
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
