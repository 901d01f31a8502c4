"""Numbers of units that the table of embeddings does not carry: columns of the session files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.data.sessions import open_sessions
from nuclr_cli.data.store import Session
from nuclr_cli.errors import InputError
from nuclr_cli.workflows.probe_inputs import ProbeTable
from nuclr_cli.workflows.regions import UNIT_POSITIONS
from nuclr_cli.workflows.run_data import data_of


def sessions_behind(source: ProbeTable, data: Path | None) -> list[tuple[Session, NDArray[np.int64]]]:
    """The sessions of the table, each with the row of every unit of its units table (-1: not embedded).

    Args:
        source: The table of embeddings.
        data: DATA folder or file; None = that of the run.

    Raises:
        InputError: No data to be found, or sessions or units of the table are not in them.
    """
    if data is None:
        if source.run is None:
            raise InputError(
                "The run behind these embeddings was not found, and with it the session files.",
                "Name them: --data DATA",
            )
        data = data_of(source.run, "--data DATA")
    row_of = {
        key: row
        for row, key in enumerate(zip(*(column.tolist() for column in source.keys.columns()), strict=True))
    }
    wanted = {key[:3] for key in row_of}
    found: list[tuple[Session, NDArray[np.int64]]] = []
    met: set[tuple[str, str, str]] = set()
    for session in open_sessions(data, check_foreign=False):
        place = (session.key.subject, session.key.session, session.key.population)
        if place not in wanted:
            continue
        met.add(place)
        rows = [row_of.pop((*place, unit), -1) for unit in session.unit_ids.tolist()]
        found.append((session, np.array(rows, dtype=np.int64)))
    absent = sorted(wanted - met)
    if absent:
        raise InputError(
            f"{len(absent)} of {len(wanted)} sessions of the embeddings are not in {data} "
            f"(first: {'/'.join(absent[0])}).",
            "Name the data that were embedded: --data DATA",
        )
    if row_of:
        raise InputError(
            f"Unit {'/'.join(next(iter(row_of)))} of the embeddings is not in {data} any more.",
            "Run nuclr embed again",
        )
    return found


def session_numbers(source: ProbeTable, data: Path | None, name: str) -> NDArray[np.float64] | None:
    """(N,) a numeric column of the session files, NaN where a session lacks it; None where all of them do.

    Raises:
        InputError: As `sessions_behind`; or the column has several values per unit.
    """
    values = np.full(len(source.keys), np.nan)
    anywhere = False
    for session, rows in sessions_behind(source, data):
        column = session.columns.get(name)
        if column is not None and column.dtype.kind in "iufb":
            if column.ndim != 1:
                raise InputError(
                    f"{session.path}: units column {name!r} has shape {column.shape}, so it is no target.",
                    "Choose a column with one number per unit",
                )
            anywhere = True
            embedded = rows >= 0
            values[rows[embedded]] = column[embedded].astype(np.float64)
        session.close()
    return values if anywhere else None


def numeric_columns(source: ProbeTable, data: Path | None) -> tuple[str, ...]:
    """Columns of the session files with one number per unit."""
    names: set[str] = set()
    for session, _ in sessions_behind(source, data):
        names |= {
            name
            for name, column in session.columns.items()
            if column.dtype.kind in "iufb" and column.ndim == 1
        }
        session.close()
    return tuple(sorted(names))


def unit_positions(
    source: ProbeTable, rows: NDArray[np.int64], data: Path | None
) -> tuple[NDArray[np.float64], tuple[str, ...]] | str:
    """Where the units are.

    Args:
        source: The table of embeddings.
        rows: Rows that need a position.
        data: As for `sessions_behind`.

    Returns:
        (N, k) positions, NaN outside `rows`, and the columns they come from; or why there are none.
    """
    try:
        sessions = sessions_behind(source, data)
    except InputError as error:
        return error.what
    needed = np.zeros(len(source.keys), dtype=bool)
    needed[rows] = True
    for names in UNIT_POSITIONS:
        positions = _positions(sessions, names, needed)
        if positions is not None:
            return positions, names
    return "not every unit of the pairs has a position (x_um and y_um, unit_locations, depth_um, ...)"


def _positions(
    sessions: Sequence[tuple[Session, NDArray[np.int64]]], names: tuple[str, ...], needed: NDArray[np.bool_]
) -> NDArray[np.float64] | None:
    """(N, k) from these columns, None when a needed unit lacks one of them."""
    found: NDArray[np.float64] | None = None
    for session, rows in sessions:
        mine = (rows >= 0) & needed[rows]
        if not mine.any():
            continue
        columns = [session.columns.get(name) for name in names]
        if any(column is None or column.dtype.kind not in "iuf" for column in columns):
            return None
        here = np.column_stack([column for column in columns if column is not None]).astype(np.float64)
        if found is None:
            found = np.full((len(needed), here.shape[1]), np.nan)
        if here.shape[1] != found.shape[1] or not np.isfinite(here[mine]).all():
            return None
        found[rows[mine]] = here[mine]
    return found
