"""Population files that are in a folder already, and whether a new one may stand beside them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nuclr_cli.data.store import Session, SessionKey, SourceRecord
from nuclr_cli.errors import InputError
from nuclr_cli.workflows.info import damage


@dataclass(frozen=True)
class KnownFile:
    """A population file as it was when it was looked at; `source` is None when nuclr did not write it.

    Attributes:
        path, key, source, siblings: Of the file.
        stamp: Tells whether it is still the same file.
        history: What `nuclr label` did to it.
    """

    path: Path
    key: SessionKey
    source: SourceRecord | None
    siblings: tuple[str, ...] = ()
    stamp: tuple[int, ...] = ()
    history: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def of(cls, session: Session) -> KnownFile:
        """Raises:
        InputError: The file cannot be read.
        """
        path = session.path
        try:
            stamp = stamp_of(path.stat())
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}.") from None
        meta = session.meta
        return cls(path, session.key, meta.source, meta.siblings, stamp, meta.label_history)


def stamp_of(status: os.stat_result) -> tuple[int, ...]:
    """Another one means that the file is another."""
    return status.st_ino, status.st_size, status.st_mtime_ns


def require_whole(path: Path) -> None:
    """Raises:
    InputError: Datasets of a population file no longer match their checksum.
    """
    damaged = damage(Session(path))
    if damaged:
        raise InputError(
            f"{path} is damaged: {', '.join(damaged[:5])} no longer match their checksum.",
            "Make it anew with --overwrite.",
        )


def is_copy(stored: SourceRecord | None, now: SourceRecord) -> bool:
    """Same bytes in the same files, read with the same options, from another place."""
    if stored is None:
        return False
    bytes_of = [{(file.name, file.sha256) for file in record.files} for record in (stored, now)]
    return bytes_of[0] == bytes_of[1] and stored.plain()["options"] == now.plain()["options"]


def kept_note(source: Path, present: KnownFile) -> str:
    """Why the population of a source was not written: it is there."""
    if present.source is not None and present.source.path == str(source):
        return f"{present.path} was made from {source} by another process meanwhile; kept as it is."
    return f"{source} is an equal copy of what {present.path} was made from; kept as it is."


def already_there(key: SessionKey, present: KnownFile, source: Path) -> InputError:
    """The error for a population that would be there twice."""
    there = f"Subject {key.subject!r}, session {key.session!r}, population {key.population!r} is already in "
    if present.source is not None and present.source.path == str(source):
        return InputError(
            f"{there}{present.path}, which another process made meanwhile from the same source with other "
            "options.",
            "Make it anew with --overwrite, or leave it.",
        )
    origin = f", made from {present.source.path}" if present.source is not None else ""
    return InputError(
        f"{there}{present.path}{origin}.",
        "Tell the two apart with --subject or --session, or remove that file.",
    )
