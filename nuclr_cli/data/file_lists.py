"""What a server holds, as it said when it was last reached: for the time when it is away.

    CACHE/lists/DIGEST.json  the files of one place; DIGEST is of the place and the server set for it

A list is written when copies of all its files are in the cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from nuclr_cli.data.atomic import TEMPORARY_SUFFIX
from nuclr_cli.data.endpoints import endpoint_mark
from nuclr_cli.data.remote import RemoteFile


@dataclass(frozen=True)
class FileList:
    """The files of one place.

    Attributes:
        files: All of them, sorted by path.
        when: UTC time at which the server was reached, to the minute.
    """

    files: tuple[RemoteFile, ...]
    when: str


def keep_list(cache: Path, where: str, files: Sequence[RemoteFile]) -> None:
    """Note what a place holds. A disk that does not take it is no error: the list is for other days."""
    target = _place(cache, where)
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    rows = [[file.path, file.size, file.tag] for file in files]
    with contextlib.suppress(OSError):
        try:
            target.parent.mkdir(exist_ok=True)
            text = json.dumps({"when": f"{datetime.now(UTC):%Y-%m-%d %H:%M}", "files": rows})
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


def last_list(cache: Path, where: str) -> FileList | None:
    """What a place held when it was last reached; None where that is not known."""
    try:
        said = json.loads(_place(cache, where).read_text(encoding="utf-8"))
        rows = said["files"]
        files = tuple(RemoteFile(str(path), int(size), str(tag)) for path, size, tag in rows)
        return FileList(files, str(said["when"])) if files else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _place(cache: Path, where: str) -> Path:
    place, mark = where.rstrip("/"), endpoint_mark(where)
    about = f"{place}\n{mark}" if mark else place
    return cache / "lists" / f"{hashlib.sha256(about.encode()).hexdigest()[:24]}.json"
