"""The number that a regression probe reads: where its values stand, checked and brought to the rows."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.errors import InputError
from nuclr_cli.wording import counted
from nuclr_cli.workflows.labels import ID_COLUMNS
from nuclr_cli.workflows.manifest import read_table as read_csv
from nuclr_cli.workflows.probe_inputs import ProbeTable
from nuclr_cli.workflows.probe_report import file_sha256
from nuclr_cli.workflows.unit_columns import numeric_columns, session_numbers
from nuclr_cli.workflows.unit_rows import SCOPE_COLUMNS, Named, UnitRows, key_text

MIN_UNITS = 10
"""With fewer units there is nothing that a fold could learn and another confirm."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_INFINITE = re.compile(r"[+-]?inf(inity)?", re.IGNORECASE)


@dataclass(frozen=True)
class Target:
    """One number of every row.

    Attributes:
        name: Column.
        values: (N,) float64, NaN = no value.
        origin: Where the values come from, for people.
        sha256: Of the file given with ``--target-file``, '' without one.
        notes: What the user should know, one sentence each.
    """

    name: str
    values: NDArray[np.float64]
    origin: str
    sha256: str = ""
    notes: tuple[str, ...] = ()


def read_target(
    source: ProbeTable,
    name: str,
    file: Path | None,
    data: Path | None,
    warn: Callable[[str], None] = lambda text: None,
) -> Target:
    """The values, from `file` when there is one, else from the embeddings' labels and the session files.

    The table of embeddings carries text columns only (labels, among them numbers that were joined from a
    CSV); numbers that a reader found (a depth) stand in the session files.

    Args:
        source: The table of embeddings.
        name: Column wanted.
        file: Table of the user's; None = look in the embeddings, then in the sessions.
        data: DATA folder or file; None = that of the run.
        warn: Told about rows of `file` that concern nobody.

    Raises:
        InputError: No such column, a value that is no finite number, too few values, or all of them equal.
    """
    target = _from_file(source, name, file, warn) if file else _from_table(source, name, data)
    usable = target.values[np.isfinite(target.values) & source.embedded]
    if len(usable) < MIN_UNITS:
        raise InputError(
            f"{counted(len(usable), 'unit')} with an embedding {'has' if len(usable) == 1 else 'have'} a "
            f"{name} ({target.origin}); a regression probe needs {MIN_UNITS}.",
            "Give more units a value, or choose another --target",
        )
    if usable.min() == usable.max():
        raise InputError(
            f"{name} is {usable[0]:g} for all {len(usable)} units with an embedding ({target.origin}): there "
            "is nothing to predict.",
            "Choose another --target",
        )
    return target


def _from_table(source: ProbeTable, name: str, data: Path | None) -> Target:
    """From a label column whose texts are numbers, completed from the session files' numeric column."""
    texts = source.table.labels.get(name)
    if texts is None:
        numbers = session_numbers(source, data, name)
        if numbers is None:
            raise _no_column(source, name, data)
        _refuse_infinite(source, numbers, name)
        return Target(name, numbers, "units table of the session files")
    values = np.array(
        [number(text, partial(_place, source, row), name) for row, text in enumerate(texts.tolist())]
    )
    origin = f"label column of {source.path.name}"
    notes: tuple[str, ...] = ()
    if np.isnan(values).any():
        # One session may have it as text from a table, another as a number from its reader.
        try:
            numbers = session_numbers(source, data, name)
        except InputError:
            numbers = None
        if numbers is not None:
            _refuse_infinite(source, numbers, name)
            filled = np.isnan(values) & ~np.isnan(numbers)
            values = np.where(filled, numbers, values)
            if filled.any():
                notes = (f"{counted(int(filled.sum()), 'value')} of {name} come from the session files.",)
    return Target(name, values, origin, notes=notes)


def _place(source: ProbeTable, row: int) -> str:
    return f"{source.path}, row {row + 1} (unit {key_text(source.keys, row)})"


def _line(path: Path, unit: Named) -> str:
    return f"{path}, row {unit.line} (unit {unit})"


def _refuse_infinite(source: ProbeTable, numbers: NDArray[np.float64], name: str) -> None:
    infinite = np.flatnonzero(np.isinf(numbers))
    if len(infinite):
        raise InputError(
            f"{name} of unit {key_text(source.keys, int(infinite[0]))} is infinite in the session files "
            f"({counted(len(infinite), 'such unit')}).",
            "Correct the source and preprocess it again, or give the values with --target-file",
        )


def _no_column(source: ProbeTable, name: str, data: Path | None) -> InputError:
    numeric = set(numeric_columns(source, data))
    numeric |= {
        label
        for label, texts in source.table.labels.items()
        if (texts != "").any() and all(_NUMBER.fullmatch(text) for text in texts.tolist() if text)
    }
    close = difflib.get_close_matches(name, sorted(numeric), n=1, cutoff=0.4)
    return InputError(
        f"No column {name!r} in {source.path} or in the units tables of the session files. Columns with "
        f"numbers: {', '.join(sorted(numeric)) or 'none'}.",
        f"Did you mean --target {close[0]}?"
        if close
        else "Give the values in a table: --target-file FILE.csv with the columns subject, session, unit_id, "
        f"{name}",
    )


def _from_file(source: ProbeTable, name: str, path: Path, warn: Callable[[str], None]) -> Target:
    header, lines = read_csv(path)
    id_column = next((column for column in ID_COLUMNS if column in header), None)
    if id_column is None or name not in header or name in (id_column, *SCOPE_COLUMNS):
        raise InputError(
            f"{path} has the columns {', '.join(header)}.",
            f"It needs unit_id, {name} and, where ids repeat, {', '.join(SCOPE_COLUMNS)}",
        )
    lookup = UnitRows(source.keys, tuple(column for column in SCOPE_COLUMNS if column in header))
    wanted: list[Named] = []
    numbers: list[float] = []
    elsewhere: list[Named] = []
    for line, cells in lines:
        unit = lookup.named(line, cells, id_column)
        value = number(cells[name], partial(_line, path, unit), name)
        if not lookup.place_known(unit):
            elsewhere.append(unit)
            continue
        wanted.append(unit)
        numbers.append(value)
    if not wanted:
        said = f"{counted(len(elsewhere), 'row')}, the first about {elsewhere[0]}" if elsewhere else "no rows"
        raise InputError(
            f"No row of {path} is about a session of the embeddings: it has {said}.",
            f"Ids must match exactly, as text; the embeddings have {key_text(source.keys, 0)}, ...",
        )
    if elsewhere:
        warn(f"{counted(len(elsewhere), 'row')} of {path.name} are about sessions that are not embedded.")
    rows = lookup.find(path, wanted)
    values = np.full(len(source.keys), np.nan)
    first: dict[int, Named] = {}
    for row, unit, value in zip(rows.tolist(), wanted, numbers, strict=True):
        if row in first:
            raise InputError(
                f"{path}: rows {first[row].line} and {unit.line} both name unit "
                f"{key_text(source.keys, row)}.",
                "Keep one row per unit",
            )
        first[row] = unit
        values[row] = value
    return Target(name, values, path.name, sha256=file_sha256(path))


def number(text: str, where: Callable[[], str], name: str) -> float:
    """A cell as a number; NaN for an empty one and for ``nan``.

    Raises:
        InputError: It is no number, or infinite.
    """
    text = text.strip()
    if text == "" or text.lower() == "nan":
        return math.nan
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    if math.isfinite(value):
        return value
    what = "infinite" if math.isinf(value) or _INFINITE.fullmatch(text) else "no number"
    raise InputError(
        f"{where()}: {name} is {text!r}, which is {what}.",
        "Write a number with a decimal point, or leave it empty where there is none; for classes use --label",
    )
