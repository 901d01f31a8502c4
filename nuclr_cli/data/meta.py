"""What travels in a population file beside the data: its origin, what was assumed, how to prove it whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class SourceFile:
    """Fingerprint of one input file.

    Attributes:
        name: Path relative to the source.
        size: Bytes.
        mtime_ns: Modification time in nanoseconds.
        sha256: Of the whole file, hexadecimal.
    """

    name: str
    size: int
    mtime_ns: int
    sha256: str


@dataclass(frozen=True)
class SourceRecord:
    """What a population was made from; decides whether a re-run has work to do.

    Attributes:
        path: The source as the user gave it, absolute.
        reader: Name of the reader.
        detected: What the reader saw.
        files: Every file whose bytes the result depends on.
        options: Options that changed the result. Compare two records by `plain`, which levels what JSON
            forgets.
    """

    path: str
    reader: str
    detected: str
    files: tuple[SourceFile, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """The record as it reads back from a file (tuples as lists, paths as text)."""
        result: dict[str, Any] = json.loads(to_json(self))
        return result

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> SourceRecord:
        files = tuple(SourceFile(**item) for item in plain["files"])
        return cls(plain["path"], plain["reader"], plain["detected"], files, plain["options"])


@dataclass(frozen=True)
class StoredColumn:
    """How one column of the units table is stored.

    Attributes:
        name: Its name.
        stored: Its name in the file (HDF5 and temporaldata cannot take every name).
        escaped: Its text is backslash-escaped (temporaldata takes ASCII only).
    """

    name: str
    stored: str
    escaped: bool


@dataclass(frozen=True)
class StoredMeta:
    """Metadata of one population file. A file that nuclr did not write has the defaults, but for the key,
    the attributes and the notes.

    Attributes:
        schema: Version of this layout, None = not written by nuclr.
        versions: Package -> version at the time of writing.
        subject, session, population: The key.
        subject_assumed: Nobody said who the subject is.
        notes, warnings: Sentences for the user.
        attributes: Session attributes.
        provenance: What the reader read, with which versions and options.
        source: Fingerprint of the source and the options.
        columns: Units columns in their order.
        calcium_scale: 99th percentile of dF/F over the session.
        checksums: Dataset path in the file -> sha256 of its bytes.
        siblings: All populations that were made from the same source with this one; () = it alone.
        label_history: What was done to the labels after the file was made, oldest first; plain values.
    """

    schema: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    subject: str = ""
    session: str = ""
    population: str = "0"
    subject_assumed: bool = False
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    source: SourceRecord | None = None
    columns: tuple[StoredColumn, ...] = ()
    calcium_scale: float | None = None
    checksums: Mapping[str, str] = field(default_factory=dict)
    siblings: tuple[str, ...] = ()
    label_history: tuple[Mapping[str, Any], ...] = ()

    def dumps(self) -> bytes:
        """ASCII JSON. Without a history it is what was written before there were any."""
        plain = _plain(self)
        for name in ("label_history", "siblings"):
            if not plain[name]:
                del plain[name]
        return json.dumps(plain, ensure_ascii=True).encode("ascii")

    @classmethod
    def loads(cls, text: bytes) -> StoredMeta:
        """Inverse of `dumps`.

        Raises:
            ValueError, TypeError, KeyError: The text is not what `dumps` writes.
        """
        plain = json.loads(text)
        source = plain.pop("source")
        columns = tuple(StoredColumn(**item) for item in plain.pop("columns"))
        notes, warnings = tuple(plain.pop("notes")), tuple(plain.pop("warnings"))
        history = tuple(plain.pop("label_history", ()))
        siblings = tuple(plain.pop("siblings", ()))
        return cls(
            **plain,
            source=None if source is None else SourceRecord.from_plain(source),
            columns=columns,
            notes=notes,
            warnings=warnings,
            siblings=siblings,
            label_history=history,
        )


def to_json(value: Any) -> str:
    """JSON text, ASCII, with numpy values, paths and sets written as their plain counterparts."""
    return json.dumps(_plain(value), ensure_ascii=True)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((_plain(item) for item in value), key=str)
    if is_dataclass(value) and not isinstance(value, type):
        return {part.name: _plain(getattr(value, part.name)) for part in fields(value)}
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return str(value)
