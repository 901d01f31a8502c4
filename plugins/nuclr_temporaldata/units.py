"""The units table: an ArrayDict whose columns become plain text and numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import ReaderError
from nuclr_temporaldata.hdf5 import (
    LONGEST_TEXT,
    damaged,
    dataset,
    is_text,
    member,
    subgroup,
    texts,
    values,
)

_NAMED = 10
# Under which names brainsets pipelines keep what nuclr calls so.
_SAME_AS = {
    "brain_region": ("brain_area", "location", "area_name", "acronym"),
    "cell_type": ("celltype",),
}
# What Python's unicode_escape writes. Only text beyond ASCII proves it: "C:\new" has backslashes, too.
_ESCAPE = re.compile(rb"\\(?:\\|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}|[nrt])")
_BEYOND_ASCII = re.compile(rb"\\(?:x[89a-f][0-9a-f]|u[0-9a-f]{4}|U[0-9a-f]{8})")


@dataclass(frozen=True)
class Table:
    """The units.

    Attributes:
        place: Name of the group.
        columns: ``id`` first; (N,) or (N, k).
    """

    place: str
    columns: dict[str, NDArray[Any]]

    @property
    def ids(self) -> NDArray[np.str_]:
        return self.columns["id"]

    def names(self, rows: NDArray[Any]) -> str:
        """``3 units (a, b, c)``."""
        shown = ", ".join(str(self.ids[row]) for row in rows[:_NAMED])
        return f"{len(rows)} unit{'s' * (len(rows) != 1)} ({shown}{', ...' if len(rows) > _NAMED else ''})"


def read_units(file: h5py.File, names: tuple[str, ...], notes: list[str], warnings: list[str]) -> Table:
    """The units table of a file.

    Args:
        file: The file.
        names: Groups it can be, the first that is there counts.
        notes, warnings: What was assumed or left out is added here.

    Raises:
        ReaderError: There is none; it has no usable ids; a column has another length.
    """
    group = next((found for name in names if (found := subgroup(file, name)) is not None), None)
    if group is None:
        damaged(file, f"has no group {' or '.join(map(repr, names))}: nothing says what the units are")
    place = group.name.lstrip("/")
    columns: dict[str, NDArray[Any]] = {"id": _ids(group, notes)}
    left_out: list[str] = []
    for name in group:
        if name == "id":
            continue
        item = member(group, name) if is_text(name) else None
        if not isinstance(item, h5py.Dataset):
            left_out.append(f"{_shown(name)} (no column)")
            continue
        column = _column(item, len(columns["id"]), notes)
        if isinstance(column, str):
            left_out.append(f"{name} ({column})")
        else:
            columns[name] = column
    if left_out:
        warnings.append(f"Columns of {place!r} that no table can hold were left out: {', '.join(left_out)}.")
    for name, others in _SAME_AS.items():
        source = next((other for other in others if _is_label(columns.get(other))), None)
        if name not in columns and source is not None:
            columns[name] = columns[source]
            notes.append(f"The column {source!r} is also there as {name!r}.")
    return Table(place, columns)


def _ids(group: h5py.Group, notes: list[str]) -> NDArray[np.str_]:
    data = dataset(group, "id")
    if len(data.shape or ()) != 1 or data.shape[0] == 0:
        damaged(data, f"has shape {data.shape}, expected one id per unit", "Check that there are any units.")
    if data.dtype.kind in "iu":
        ids: NDArray[np.str_] = values(data).astype(np.str_)
    else:
        column = _column(data, data.shape[0], notes)
        if isinstance(column, str) or column.dtype.kind != "U":
            damaged(data, f"has type {data.dtype}, expected text", "Give each unit a text id in the source.")
        ids = column
    distinct, counts = np.unique(ids, return_counts=True)
    if counts.max() > 1:
        repeated = ", ".join(f"{str(i)!r} x{n}" for i, n in zip(distinct, counts, strict=True) if n > 1)
        raise ReaderError(
            f"{group.file.filename}: unit ids repeat in {group.name.lstrip('/')!r}: {repeated[:500]}.",
            "Give each unit its own id in the source.",
        )
    return ids


def _column(data: h5py.Dataset, n_units: int, notes: list[str]) -> NDArray[Any] | str:
    """The column, or why a table cannot hold it."""
    try:
        shape, dtype = data.shape, data.dtype
    except Exception:
        return "of a type that h5py does not know"
    if shape is None or len(shape) == 0:
        return "one value for all units"
    if shape[0] != n_units:
        damaged(
            data,
            f"has {shape[0]} values for {n_units} units",
            "Labels could land on the wrong units: correct or delete that column.",
        )
    if len(shape) > 2 or 0 in shape:
        return f"shape {shape}"
    if dtype.kind in "biuf" and dtype.itemsize <= 8:
        return values(data)
    if dtype.kind == "S":
        if dtype.itemsize > LONGEST_TEXT:
            return f"texts of {dtype.itemsize} bytes"
        raw = values(data)
        return _decoded(raw.reshape(-1).tolist(), data, notes).reshape(raw.shape)
    if h5py.check_string_dtype(dtype) is None:
        return "ragged" if h5py.check_vlen_dtype(dtype) else f"type {dtype}"
    if len(shape) != 1:
        return f"texts of shape {shape}"
    found = texts(data)
    return "texts too long for a label" if found is None else _decoded(found, data, notes)


def _decoded(raw: list[bytes], data: h5py.Dataset, notes: list[str]) -> NDArray[np.str_]:
    """Bytes as text: UTF-8, or backslash escapes where the whole column is written in them.

    temporaldata stores ASCII only, so other text is escaped by whoever writes with it.
    """
    if any(_BEYOND_ASCII.search(text) for text in raw) and all(b"\\" not in _ESCAPE.sub(b"", t) for t in raw):
        try:
            unescaped = [text.decode("unicode_escape") if text.isascii() else "\ud800" for text in raw]
        except UnicodeError:
            unescaped = ["\ud800"]
        if all(map(is_text, unescaped)):
            notes.append(f"The texts of {data.name.lstrip('/')!r} are backslash-escaped; they were decoded.")
            return np.array(unescaped, dtype=np.str_)
    return np.array([text.decode("utf-8", "backslashreplace") for text in raw], dtype=np.str_)


def _is_label(column: NDArray[Any] | None) -> bool:
    return column is not None and column.dtype.kind == "U" and column.ndim == 1


def _shown(name: str | bytes) -> str:
    raw = name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape")
    return raw.decode("utf-8", "backslashreplace")
