"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from nuclr_cli.errors import InputError

TEMPORARY_SUFFIX = ".nuclr-tmp"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it to disk and rename it over `path`.

    Whatever ends the block (an error, an interrupt), `path` is either its old self or the whole new file.
    Only a killed process leaves its temporary file behind: hidden, and never ending in a suffix that is read
    as data.

    Raises:
        InputError: The folder cannot be made or written, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)
    except (OSError, RuntimeError) as error:  # h5py raises either when a disk is full
        raise InputError(
            f"{path} could not be written: {error}.",
            "Free some space or choose another place to write to; nothing half-written was left.",
        ) from error
    finally:
        with contextlib.suppress(OSError):  # renamed by now, or its folder is no folder
            temporary.unlink()


def _flush(path: Path) -> None:
    """Force a file's bytes (or a folder's entries) to disk."""
    if (
        path.is_dir() and os.name == "nt"
    ):  # Windows cannot open folders, and renames there are durable on return
        return
    flags = os.O_RDONLY if os.name != "nt" else os.O_RDWR
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
