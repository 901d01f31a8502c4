"""Fingerprints of source files: has anything changed since a source was last read?"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nuclr_cli.data.store import SourceFile
from nuclr_cli.errors import InputError

_BLOCK_BYTES = 1 << 22


def fingerprint(source: Path, files: Sequence[Path]) -> tuple[SourceFile, ...]:
    """Size, modification time and sha256 of every file.

    Args:
        source: The source they belong to; names are relative to it.
        files: Existing files.

    Raises:
        InputError: One of them cannot be read.
    """
    found = []
    for path in files:
        try:
            status = path.stat()
            found.append(SourceFile(_name(source, path), status.st_size, status.st_mtime_ns, sha256_of(path)))
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}.", "Check its permissions.") from None
    return tuple(found)


def sha256_of(path: Path) -> str:
    """sha256 of a file, hexadecimal, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def changed_while_read(source: Path, files: Sequence[Path], before: Sequence[SourceFile]) -> list[str]:
    """Names of files whose size or time moved since `before` was taken."""
    known = {file.name: file for file in before}
    moved = []
    for path in files:
        name = _name(source, path)
        status = path.stat() if path.exists() else None
        if status is None or (status.st_size, status.st_mtime_ns) != (known[name].size, known[name].mtime_ns):
            moved.append(name)
    return moved


def changes(source: Path, files: Sequence[Path], stored: Sequence[SourceFile]) -> list[str]:
    """What differs between the files now and the stored fingerprint; empty when nothing does.

    Equal size and modification time count as unchanged; a file with another time is hashed, so that a mere
    copy or ``touch`` is no change.
    """
    known = {file.name: file for file in stored}
    now = {_name(source, path): path for path in files}
    found = [f"{name} is gone" for name in known if name not in now]
    found += [f"{name} is new" for name in now if name not in known]
    for name, path in now.items():
        before = known.get(name)
        if before is None:
            continue
        status = path.stat()
        if status.st_size != before.size:
            found.append(f"{name} has another size")
        elif status.st_mtime_ns != before.mtime_ns and sha256_of(path) != before.sha256:
            found.append(f"{name} has another content")
    return found


def option_differences(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """``name: was X, is now Y`` for each option that differs. Both as they read back from JSON."""
    return [
        f"{name}: was {_shown(stored.get(name))}, is now {_shown(now.get(name))}"
        for name in dict.fromkeys([*stored, *now])
        if stored.get(name) != now.get(name)
    ]


def _shown(value: Any) -> str:
    return "not given" if value in (None, [], {}, "") else repr(value)


def _name(source: Path, path: Path) -> str:
    """Name of a file relative to its source, with forward slashes on every system."""
    if path == source:
        return path.name
    return path.relative_to(source).as_posix() if path.is_relative_to(source) else path.as_posix()
