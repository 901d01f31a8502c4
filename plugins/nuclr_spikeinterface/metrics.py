"""Tables of one row per unit that an analyzer keeps: quality metrics, template metrics."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import ReaderError

_INTEGER = re.compile(r"[+-]?\d{1,18}")
_BOOLEANS = {"True": True, "False": False}


@dataclass(frozen=True)
class UnitTable:
    """A table matched to the units of the sorting.

    Attributes:
        columns: Name -> (N,) array; NaN or empty text where the table has no value.
        warnings: Units that the table lacks, rows that are about no unit.
    """

    columns: Mapping[str, NDArray[Any]]
    warnings: tuple[str, ...] = field(default=())


def read_metrics_csv(path: Path, unit_ids: NDArray[np.str_]) -> UnitTable:
    """A CSV as pandas writes it: unit ids in the first column, one metric in each other one.

    Raises:
        ReaderError: Unreadable, cut off, a repeated unit, or rows of another length than the header.
    """
    fix = f"Compute it again, or delete {path} to do without."
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = [row for row in csv.reader(text.splitlines()) if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ReaderError(f"{path} cannot be read: {error}.", fix) from None
    if not rows or len(rows[0]) < 2:
        raise ReaderError(f"{path} holds no table of metrics.", fix)
    header, body = [name.strip() for name in rows[0]], rows[1:]
    if len(set(header)) < len(header) or not all(header[1:]):
        raise ReaderError(f"{path}: the names of its columns are empty or repeat.", fix)
    for row in body:
        if len(row) != len(header):
            raise ReaderError(
                f"{path}: the row of unit {row[0]!r} has {len(row)} cells, its header {len(header)}; "
                "the file may be cut off.",
                fix,
            )
    ids = [row[0].strip() for row in body]
    missing = len(set(unit_ids.tolist()) - set(ids))
    if missing and not text.endswith("\n"):
        raise ReaderError(
            f"{path} is cut off: {missing} of {len(unit_ids)} units are missing, and its last line does not "
            "end.",
            fix,
        )
    columns = {name: _typed([row[at].strip() for row in body]) for at, name in enumerate(header) if at > 0}
    table = match_units(columns, ids, unit_ids, path)
    if text.endswith("\n"):
        return table
    doubt = f"{path} does not end with a line break: its last value may be cut off."
    return UnitTable(table.columns, (*table.warnings, doubt))


def match_units(
    columns: Mapping[str, NDArray[Any]], ids: Sequence[str], unit_ids: NDArray[np.str_], place: Path
) -> UnitTable:
    """Bring rows into the order of the units.

    Args:
        columns: Name -> (R,) array.
        ids: Unit id of each of the R rows.
        unit_ids: (N,) units of the sorting.
        place: The table, for messages.

    Raises:
        ReaderError: A unit has two rows, or no row is about a unit.
    """
    row_of: dict[str, int] = {}
    for row, name in enumerate(ids):
        if row_of.setdefault(name, row) != row:
            raise ReaderError(
                f"{place} has two rows for unit {name!r}.", "Compute it again, or delete it to do without."
            )
    wanted = unit_ids.tolist()
    rows = np.array([row_of.get(name, -1) for name in wanted], dtype=np.intp)
    if len(rows) and (rows < 0).all():
        raise ReaderError(
            f"{place} has {len(ids)} rows, and none of them is about one of the {len(wanted)} units.",
            "It belongs to another sorting: compute it again, or delete it to do without.",
        )
    warnings = []
    if (rows < 0).any():
        names = [name for name, row in zip(wanted, rows, strict=True) if row < 0]
        warnings.append(
            f"{place} has no row for {len(names)} of {len(wanted)} units ({_some(names)}); "
            "their values are blank."
        )
    known = set(wanted)
    strangers = [name for name in ids if name not in known]
    if strangers:
        warnings.append(
            f"{place} has {len(strangers)} rows about no unit of the sorting ({_some(strangers)}); "
            "they were skipped."
        )
    return UnitTable({name: _taken(column, rows) for name, column in columns.items()}, tuple(warnings))


def _taken(column: NDArray[Any], rows: NDArray[np.intp]) -> NDArray[Any]:
    """Rows of a column, blank where the row is -1."""
    if (rows >= 0).all():
        return column[rows]
    if column.dtype.kind == "U":
        return np.where(rows >= 0, column[rows], "")
    if column.dtype.kind == "O":
        return np.array([column[row] if row >= 0 else None for row in rows.tolist()], dtype=object)
    return np.where(rows >= 0, column[rows].astype(np.float64), np.nan)


def _typed(texts: list[str]) -> NDArray[Any]:
    """(R,) bool, int64 or float64 (blank = NaN) when every value is one, else text."""
    filled = [text for text in texts if text]
    if filled and len(filled) == len(texts):
        if all(text in _BOOLEANS for text in texts):
            return np.array([_BOOLEANS[text] for text in texts], dtype=np.bool_)
        if all(_INTEGER.fullmatch(text) for text in texts):
            return np.array([int(text) for text in texts], dtype=np.int64)
    try:
        return np.array([float(text) if text else np.nan for text in texts], dtype=np.float64)
    except ValueError:
        return np.array(texts, dtype=np.str_)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
