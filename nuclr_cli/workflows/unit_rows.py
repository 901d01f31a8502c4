"""Finds the rows of the embedding table that a table from outside speaks of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.errors import InputError
from nuclr_cli.evaluation.splits import UnitKeys
from nuclr_cli.wording import counted

SCOPE_COLUMNS = ("subject", "session", "population")
_SHOWN = 5


def key_text(keys: UnitKeys, row: int) -> str:
    """``subject/session/population/unit`` of one row."""
    return "/".join(str(column[row]) for column in keys.columns())


@dataclass(frozen=True)
class Named:
    """One unit as a table names it.

    Attributes:
        line: Line of the table.
        scope: Which subject, session and population, as far as the table says so.
        unit_id: Its id.
    """

    line: int
    scope: tuple[tuple[str, str], ...]
    unit_id: str

    def __str__(self) -> str:
        return "/".join([*(value for _, value in self.scope), self.unit_id])


@dataclass(frozen=True)
class UnitRows:
    """Looks up units by id.

    Attributes:
        keys: The N rows of the table of embeddings.
        scoped_by: Which of `SCOPE_COLUMNS` the table from outside has.
    """

    keys: UnitKeys
    scoped_by: tuple[str, ...]

    @cached_property
    def _rows(self) -> Mapping[tuple[str, ...], list[int]]:
        found: dict[tuple[str, ...], list[int]] = {}
        columns = [getattr(self.keys, name).tolist() for name in (*self.scoped_by, "unit_id")]
        for row, key in enumerate(zip(*columns, strict=True)):
            found.setdefault(key, []).append(row)
        return found

    @cached_property
    def _places(self) -> set[tuple[str, ...]]:
        return {key[:-1] for key in self._rows}

    def place_known(self, named: Named) -> bool:
        """Whether any unit is of that subject, session and population."""
        return tuple(value for _, value in named.scope) in self._places

    def named(self, line: int, values: Mapping[str, str], column: str) -> Named:
        """The unit that one row of the table names in `column`."""
        return Named(line, tuple((name, values[name]) for name in self.scoped_by), values[column])

    def find(self, path: Path, wanted: list[Named]) -> NDArray[np.int64]:
        """(n,) row of each unit.

        Raises:
            InputError: Units that the table of embeddings does not have, or ids that several of them have.
        """
        matches = [self._rows.get((*(v for _, v in one.scope), one.unit_id), []) for one in wanted]
        unknown = [one for one, rows in zip(wanted, matches, strict=True) if not rows]
        if unknown:
            says = "/".join((*self.scoped_by, "unit_id"))
            n_unknown = counted(len({str(one) for one in unknown}), "unit")
            there = ", ".join("/".join(key) for key in sorted(self._rows)[:3])
            raise InputError(
                f"{path} names {n_unknown} that the embeddings do not have: {_list(unknown)}. As {says} they "
                f"have {there}, ...",
                "Ids must match exactly, as text. Correct them, or embed those sessions, too",
            )
        several = [(one, rows) for one, rows in zip(wanted, matches, strict=True) if len(rows) > 1]
        if several:
            first, rows = several[0]
            may_be = " or ".join(key_text(self.keys, row) for row in rows[:3])
            missing = [name for name in SCOPE_COLUMNS if name not in self.scoped_by]
            raise InputError(
                f"{path}: the ids of {counted(len({str(one) for one, _ in several}), 'unit')} are ambiguous: "
                f"{_list([one for one, _ in several])}. {str(first)!r} may be {may_be}"
                f"{', ...' if len(rows) > 3 else ''}.",
                f"Add the column {_needed(self.keys, several, missing)} to say which is meant",
            )
        return np.array([rows[0] for rows in matches], dtype=np.int64)


def _list(units: list[Named]) -> str:
    """The first few, each once, with their lines."""
    first: dict[str, int] = {}
    for one in units:
        first.setdefault(str(one), one.line)
    shown = [f"{name!r} (row {line})" for name, line in list(first.items())[:_SHOWN]]
    return ", ".join(shown) + (", ..." if len(first) > _SHOWN else "")


def _needed(keys: UnitKeys, several: list[tuple[Named, list[int]]], missing: list[str]) -> str:
    """The first column that tells all of the ambiguous units apart, else all that are missing."""
    for name in missing:
        column = getattr(keys, name)
        if all(len({str(column[row]) for row in rows}) == len(rows) for _, rows in several):
            return name
    return ", ".join(missing)
