"""Which files of a cache a living process needs, so that no other process takes them away.

A lease is one file for each process, locked as long as the process lives: one descriptor, however many
session files it names. Nobody has to clean up after a process that was killed.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import secrets
from pathlib import Path

from nuclr_cli.data.locks import try_lock
from nuclr_cli.errors import InputError

_held: dict[Path, Lease] = {}


class Lease:
    """What this process needs of one cache; see `own_lease`.

    Args:
        folder: Of leases; it exists.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"{os.getpid()}-{secrets.token_hex(4)}.json"
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        self._process = os.getpid()
        self.sizes: dict[str, int] = {}
        if not try_lock(self._descriptor):
            raise OSError(f"{self.path} cannot be locked")

    def add(self, sizes: dict[str, int]) -> None:
        """Need these entries (bytes of each), too. Call it while the cache is locked.

        Raises:
            InputError: The disk does not take it.
        """
        text = json.dumps({**self.sizes, **sizes}).encode()
        try:
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            os.ftruncate(self._descriptor, 0)
            while text:  # a disk that is nearly full takes a part
                text = text[os.write(self._descriptor, text) :]
        except OSError as error:
            raise InputError(
                f"{self.path} cannot be written: {error.strerror or error}.",
                "Free some space there, or choose another folder: --cache FOLDER, or NUCLR_CACHE.",
            ) from error
        self.sizes.update(sizes)

    def end(self) -> None:
        """Need nothing any more."""
        if os.getpid() == self._process:  # a forked process has the same descriptor, not the same need
            with contextlib.suppress(OSError):
                self.path.unlink()
            os.close(self._descriptor)


def own_lease(folder: Path) -> Lease:
    """This process' lease in a folder, made at its first need. It ends with the process.

    Raises:
        OSError: The folder cannot be written.
    """
    lease = _held.get(folder)
    # Somebody may have emptied the cache meanwhile.
    if lease is None or lease._process != os.getpid() or not lease.path.exists():
        lease = _held[folder] = Lease(folder)
        atexit.register(lease.end)
    return lease


def leased(folder: Path) -> dict[str, int]:
    """Bytes of every entry that a living process needs. Leases of ended processes are removed.

    Call it while the cache is locked.

    Raises:
        InputError: A living process' lease cannot be read: what it needs is not known.
    """
    own = _held.get(folder)
    found: dict[str, int] = {} if own is None else dict(own.sizes)
    for path in folder.glob("*.json"):
        if own is not None and path == own.path:
            continue
        try:
            descriptor = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            continue
        try:
            if try_lock(descriptor):
                path.unlink(missing_ok=True)
                continue
            found.update(json.loads(path.read_bytes() or b"{}"))
        except ValueError as error:
            process = path.name.partition("-")[0]
            raise InputError(
                f"{path}, which says what process {process} needs of the cache, cannot be read.",
                "Wait until that process has ended, or name another cache: --cache FOLDER, or NUCLR_CACHE.",
            ) from error
        finally:
            os.close(descriptor)
    return found
