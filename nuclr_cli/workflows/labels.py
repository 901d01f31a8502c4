"""Joins a table of unit labels, and labels that hold for a whole session, to the units they belong to."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import Population
from nuclr_cli.errors import InputError
from nuclr_cli.wording import counted
from nuclr_cli.workflows.manifest import read_table

# A plain "id" beside one of the others may be a row number: it never wins, and as a label it is refused.
ID_COLUMNS = ("unit_id", "cluster_id", "id")
SCOPE_COLUMNS = ("subject", "session", "population")
# Columns of a session file that are derived from the recording: a label of that name would break it.
RESERVED = ("id", "n_spikes", "time_offset")


class Named(Protocol):
    """Whatever has the key of a population."""

    @property
    def subject(self) -> str: ...
    @property
    def session(self) -> str: ...
    @property
    def population(self) -> str: ...


@dataclass(frozen=True)
class LabelRow:
    """One row: which unit of which session (where the table says so), and its labels."""

    number: int
    scope: tuple[tuple[str, str], ...]
    unit_id: str
    labels: tuple[str, ...]

    def concerns(self, population: Named) -> bool:
        """Whether the row is about a unit of this population."""
        return all(getattr(population, name) == value for name, value in self.scope)


@dataclass(frozen=True)
class LabelTable:
    """A label file, read as text.

    Attributes:
        path: The file.
        sha256: Of its bytes; two runs with different labels have different options.
        id_column: Column that holds the unit ids.
        columns: Label columns.
        scoped_by: Which of subject, session and population the table has.
        rows: One per unit.
        notes: What was assumed.
    """

    path: Path
    sha256: str
    id_column: str
    columns: tuple[str, ...]
    scoped_by: tuple[str, ...]
    rows: tuple[LabelRow, ...]
    notes: tuple[str, ...] = ()

    def n_elsewhere(self, populations: Sequence[Named]) -> int:
        """Rows that are about none of these populations."""
        return sum(not any(row.concerns(population) for population in populations) for row in self.rows)

    @property
    def fingerprint(self) -> str:
        """Name and content of the table, for comparing runs."""
        return f"{self.path.name} sha256:{self.sha256}"


def read_label_table(path: Path) -> LabelTable:
    """Read a CSV or TSV of labels. Values stay as written: ``007`` and ``NA`` are texts.

    The unit id stands in ``unit_id``, ``cluster_id`` or ``id``, else in the first column. The columns
    ``subject``, ``session`` and ``population`` say which session a row is about.

    Raises:
        InputError: Unreadable, no label column, an empty or repeated id.
    """
    header, rows = read_table(path)
    id_column = next((name for name in ID_COLUMNS if name in header), None)
    notes = []
    if id_column is None:
        id_column = next((name for name in header if name not in SCOPE_COLUMNS), header[0])
        notes.append(f"{path.name}: unit ids are taken from its column {id_column!r}.")
    scoped_by = tuple(name for name in SCOPE_COLUMNS if name in header and name != id_column)
    columns = tuple(name for name in header if name != id_column and name not in scoped_by)
    if not columns:
        raise InputError(f"{path} has no label column beside {id_column!r}.", "Add one, e.g. cell_type.")
    reserved = [name for name in columns if name in RESERVED]
    if reserved:
        raise InputError(f"{path}: {', '.join(reserved)} cannot be a label.", "Rename or remove that column.")
    parsed = []
    seen: dict[tuple[object, ...], int] = {}
    for number, values in rows:
        row = LabelRow(
            number=number,
            scope=tuple((name, values[name]) for name in scoped_by),
            unit_id=values[id_column],
            labels=tuple(values[name] for name in columns),
        )
        if not row.unit_id:
            raise InputError(
                f"{path}, row {number}: the unit id is empty.", "Name the unit or delete the row."
            )
        first = seen.setdefault((row.scope, row.unit_id), number)
        if first != number:
            raise InputError(
                f"{path}: rows {first} and {number} both name unit {row.unit_id!r}.", "Keep one row per unit."
            )
        parsed.append(row)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return LabelTable(path, digest, id_column, columns, scoped_by, tuple(parsed), tuple(notes))


@dataclass
class Claims:
    """Which population of a session each row of a table went to: a row is one unit, or one channel."""

    path: Path
    _of: dict[tuple[str, str, int], str] = field(default_factory=dict)
    _missed: dict[tuple[str, str, int], tuple[str, str]] = field(default_factory=dict)

    def take(self, population: Named, number: int, what: str) -> None:
        """Raises:
        InputError: The row went to another population of the session already.
        """
        first = self._of.setdefault((population.subject, population.session, number), population.population)
        if first != population.population:
            raise InputError(
                f"{self.path}, row {number}: {what} is in the populations {first!r} and "
                f"{population.population!r} of {population.subject}/{population.session}.",
                "Add the column population to it.",
            )

    def miss(self, population: Named, number: int, unit: str, seen: str) -> None:
        """The population has no such unit."""
        self._missed[population.subject, population.session, number] = (unit, seen)

    def finish(self) -> None:
        """Raises:
        InputError: Rows name units that no population of their session has.
        """
        lost = {key: text for key, text in self._missed.items() if key not in self._of}
        if lost:
            (subject, session, _), (_, seen) = next(iter(lost.items()))
            raise InputError(
                f"{self.path}: {len(lost)} of its unit ids are not in session {subject}/{session}: "
                f"{', '.join(repr(unit) for unit, _ in list(lost.values())[:5])} "
                f"(the session has {seen}, ...).",
                "Ids must match exactly, as text. Correct them, or add the columns subject and session.",
            )


def add_labels(
    population: Population, table: LabelTable, overwrite: bool | None = None, claims: Claims | None = None
) -> Population:
    """Add the table's columns to the units.

    Args:
        population: The units.
        table: Labels, by unit id.
        overwrite: As in `combined`.

    Returns:
        The population with more columns ('' = unlabelled), and a note with the number of labelled units.

    Raises:
        InputError: The table names a unit that the session does not have, or contradicts a unit property.
    """
    ids = [str(unit) for unit in population.units["id"]]
    row_of = {unit: row for row, unit in enumerate(ids)}
    left_out = {str(unit) for unit in population.provenance.get("dropped_unit_ids", ())}
    mine = [row for row in table.rows if row.concerns(population)]
    alone = claims is None
    claims = claims or Claims(table.path)
    for row in mine:
        if row.unit_id in row_of:
            claims.take(population, row.number, f"unit {row.unit_id!r}")
        elif row.unit_id not in left_out:
            claims.miss(population, row.number, row.unit_id, ", ".join(map(repr, ids[:5])))
    if alone:
        claims.finish()
    matched = [row for row in mine if row.unit_id in row_of]
    units = dict(population.units)
    for at, column in enumerate(table.columns):
        labels = [""] * len(ids)
        for row in matched:
            labels[row_of[row.unit_id]] = row.labels[at]
        who = f"{table.path.name}, column {column!r},"
        units[column] = combined(population, column, labels, who, overwrite)
    n_without = len(ids) - len(matched)
    notes = [
        f"{table.path.name} labels {len(matched)} of {len(ids)} units; "
        f"{counted(n_without, 'is', 'are')} not in the table."
    ]
    if len(mine) > len(matched):
        notes.append(
            counted(
                len(mine) - len(matched),
                f"row of {table.path.name} is about a unit that was left out.",
                f"rows of {table.path.name} are about units that were left out.",
            )
        )
    return replace(population, units=units, notes=(*population.notes, *table.notes, *notes))


def add_broadcast(population: Population, values: Mapping[str, str]) -> Population:
    """Give every unit the session's values as labels.

    Raises:
        InputError: A unit property of the same name says something else.
    """
    units = dict(population.units)
    for column, value in values.items():
        units[column] = combined(population, column, [value] * population.n_units, f"--broadcast {column}")
    return replace(population, units=units)


def combined(
    population: Population, column: str, labels: Sequence[str], who: str, overwrite: bool | None = None
) -> NDArray[np.str_]:
    """`labels`, completed from the units' own column of that name, which must not contradict them.

    Args:
        population: The units.
        column: Name of the column.
        labels: (N,) texts, '' = nothing is said about that unit.
        who: Says so, for messages.
        overwrite: True lets `labels` win; False points to ``--overwrite-labels`` in the error, which only
            `nuclr label` has; None does not.

    Returns:
        (N,) str.

    Raises:
        InputError: The own column says something else, or holds several values per unit.
    """
    own: NDArray[Any] | None = population.units.get(column)
    if own is None:
        return np.array(labels, dtype=np.str_)
    if own.ndim != 1:
        raise InputError(
            f"{who} would replace the property {column!r}, which has {own.shape[1]} values per unit.",
            "Rename the column.",
        )
    pairs = list(zip(labels, texts_of(own), strict=True))
    differing = [row for row, (new, old) in enumerate(pairs) if new and old and new != old]
    if differing and not overwrite:
        raise contradiction(population, pairs, differing, who, overwrite)
    return np.array([new or old for new, old in pairs], dtype=np.str_)


def contradiction(
    population: Population,
    pairs: Sequence[tuple[str, str]],
    differing: Sequence[int],
    who: str,
    overwrite: bool | None,
) -> InputError:
    """The error for labels that contradict a column that is there.

    Args:
        population: The units.
        pairs: (said now, there before) of every unit.
        differing: Rows in which the two differ.
        who: Says so now.
        overwrite: As in `combined`.
    """
    ids = [repr(str(population.units["id"][row])) for row in differing]
    new, old = pairs[differing[0]]
    named = ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")
    there = "the source's property" if overwrite is None else "the session file"
    return InputError(
        f"{who} says {new!r} for unit {ids[0]} of {population.subject}/{population.session}, but {there} "
        f"says {old!r} ({len(ids)} unit{'s' * (len(ids) != 1)} differ{'s' * (len(ids) == 1)}: {named}).",
        "Correct one of the two, or rename the column to keep both."
        if overwrite is None
        else "Correct one of the two, or add --overwrite-labels to replace what is there.",
    )


def texts_of(values: NDArray[Any]) -> list[str]:
    """(N,) values as texts; NaN, the one value that differs from itself, is ''."""
    return ["" if value != value else str(value) for value in values.tolist()]
