"""Turns stored properties into columns of the units table, under names that every part of nuclr knows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import ReaderError
from nuclr_spikeinterface.sorting import RawSorting

_IDS = "id"  # the column of unit ids; a property of that name is kept under another one
_SAME_AS = {
    "brain_region": ("brain_area", "location"),
    "cell_type": ("celltype",),
}
_NOISE = "noise"
EVERYTHING = "all"


def unit_columns(raw: RawSorting) -> tuple[dict[str, NDArray[Any]], list[str], list[str]]:
    """All properties, plus ``brain_region``, ``cell_type``, ``quality`` where other names hold them.

    Returns:
        Columns (``id`` first), notes, warnings.
    """
    columns: dict[str, NDArray[Any]] = {_IDS: raw.unit_ids}
    notes: list[str] = []
    warnings: list[str] = []
    for stored_name, stored in raw.properties.items():
        name = stored_name
        if name == _IDS:
            while name == _IDS or name in raw.properties:
                name = f"source_{name}"
            notes.append(f"The property {stored_name!r} is kept as {name!r}.")
        column = plain_column(stored)
        if column is None:
            warnings.append(
                f"The property {stored_name!r} was left out: values of type {stored.dtype} have no column."
            )
        else:
            columns[name] = column
    for name, others in _SAME_AS.items():
        source = next((other for other in others if _is_text(columns.get(other))), None)
        if name not in columns and source is not None:
            columns[name] = columns[source]
            notes.append(f"The column {source!r} is also there as {name!r}.")
    if "quality" not in columns:
        used = [name for name in raw.quality_columns if _is_text(columns.get(name))]
        if used:
            columns["quality"] = _first_filled([columns[name] for name in used])
            notes.append(f"quality is taken from {', else '.join(used)}.")
    return columns, notes, warnings


def plain_column(values: NDArray[Any]) -> NDArray[Any] | None:
    """(N,) or (N, k) numbers, booleans or text; None for types that a table cannot hold.

    Object columns become text (None and NaN are empty) or, when all their values are numbers, float64.
    """
    if values.ndim > 2:
        values = values.reshape(len(values), -1)
    kind = values.dtype.kind
    if kind in "biuf":
        return np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("="))
    if kind == "U":
        return _joined(values)
    if kind == "S":
        return _joined(np.char.decode(values, "utf-8", "replace"))
    if kind == "M":
        return _joined(np.datetime_as_string(values))
    if kind != "O":
        return None
    items = values.reshape(-1).tolist()
    present = [item for item in items if not _is_missing(item)]
    if present and all(isinstance(item, bool) for item in present) and len(present) == len(items):
        return values.astype(np.bool_)
    if present and all(isinstance(item, (int, float)) and not isinstance(item, bool) for item in present):
        numbers = [math.nan if _is_missing(item) else float(item) for item in items]
        return np.array(numbers, dtype=np.float64).reshape(values.shape)
    texts = ["" if _is_missing(item) else _text(item) for item in items]
    return _joined(np.array(texts, dtype=np.str_).reshape(values.shape))


def kept_rows(columns: Mapping[str, NDArray[Any]], keep: tuple[str, ...], place: str) -> NDArray[np.bool_]:
    """Which units survive the curation filter.

    Args:
        columns: The units table.
        keep: Wanted values of ``quality``; () = everything that is not noise; ``("all",)`` = everything.
        place: Of the source, for messages.

    Returns:
        (N,) bool.

    Raises:
        ReaderError: `keep` is given but there are no such labels, or nothing is left.
    """
    n_units = len(columns["id"])
    quality = columns.get("quality")
    if keep == (EVERYTHING,):
        return np.ones(n_units, dtype=np.bool_)
    if quality is None or not _is_text(quality):
        if keep:
            raise ReaderError(
                f"{place} has no curation labels, so --keep cannot choose.", "Leave --keep out."
            )
        return np.ones(n_units, dtype=np.bool_)
    lowered = np.char.lower(quality)
    wanted = lowered != _NOISE if not keep else np.isin(lowered, [value.lower() for value in keep])
    if n_units and not wanted.any():
        counts = Counter(str(value) or "(blank)" for value in quality.tolist())
        found = ", ".join(f"{value}: {n}" for value, n in sorted(counts.items()))
        raise ReaderError(
            f"{place}: no unit is left, none of its {n_units} units is labelled "
            f"{' or '.join(keep) or 'anything but noise'} (labels: {found}).",
            "Pass other labels with --keep, or --keep all.",
        )
    return np.asarray(wanted)


def unmatched_labels(columns: Mapping[str, NDArray[Any]], keep: tuple[str, ...]) -> list[str]:
    """Values of `keep` that no unit has: often a misspelling, sometimes just a clean recording."""
    quality = columns.get("quality")
    if keep == (EVERYTHING,) or quality is None or not _is_text(quality):
        return []
    found = {value.lower() for value in quality.tolist()}
    return [value for value in keep if value.lower() not in found]


def _is_text(column: NDArray[Any] | None) -> bool:
    return column is not None and column.ndim == 1 and column.dtype.kind == "U"


def _first_filled(columns: list[NDArray[Any]]) -> NDArray[np.str_]:
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return np.array([next((value for value in row if value), "") for row in rows], dtype=np.str_)


def _joined(texts: NDArray[Any]) -> NDArray[np.str_]:
    """Text with several values per unit becomes one text."""
    if texts.ndim == 1:
        return texts.astype(np.str_)
    return np.array([", ".join(row) for row in texts.tolist()], dtype=np.str_)


def _is_missing(item: Any) -> bool:
    return item is None or (isinstance(item, float) and math.isnan(item))


def _text(item: Any) -> str:
    if isinstance(item, np.ndarray):
        item = item.tolist()
    return item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item)
