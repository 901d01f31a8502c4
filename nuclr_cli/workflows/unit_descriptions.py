"""Brings what is measured in session files into the order of a table of embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.data.sessions import open_sessions
from nuclr_cli.data.store import Session
from nuclr_cli.wording import counted
from nuclr_cli.workflows.probe_inputs import ProbeTable
from nuclr_cli.workflows.reporting import Reporter

Described = tuple[tuple[str, ...], NDArray[np.floating]]
"""Names of D columns, and the (n, D) values of a session's units."""


class Unavailable(Exception):
    """Why a baseline cannot be had, in one sentence for the user."""


@dataclass(frozen=True)
class UnitSource:
    """Where units are described from.

    Attributes:
        source: The table of embeddings.
        rows: Rows of it that are wanted.
        sessions: The sessions that hold them, in the order of their keys.
        reporter: Told about progress.
    """

    source: ProbeTable
    rows: NDArray[np.int64]
    sessions: tuple[Session, ...]
    reporter: Reporter

    @property
    def modalities(self) -> frozenset[str]:
        """Of the sessions."""
        return frozenset(session.modality for session in self.sessions)

    def describe(self, title: str, describe: Callable[[Session], Described]) -> NDArray[np.float64]:
        """Describe every session: (N, D) float64 in the order of the table, NaN outside `rows`.

        Columns meet by name: one that a session lacks is NaN there.

        Raises:
            Unavailable: A wanted unit is not in the data, or all its columns are NaN.
        """
        described: list[tuple[Session, tuple[str, ...], NDArray[np.floating]]] = []
        with self.reporter.progress(title, len(self.sessions), "sessions") as bar:
            for number, session in enumerate(self.sessions):
                described.append((session, *describe(session)))
                session.close()
                bar.update(number + 1)
        present = dict.fromkeys(name for _, names, _ in described for name in names)
        column = {name: i for i, name in enumerate(present)}
        by_key: dict[tuple[str, str, str, str], NDArray[np.float64]] = {}
        for session, names, values in described:
            wide = np.full((len(values), len(column)), np.nan)
            wide[:, [column[name] for name in names]] = values
            key = session.key
            for unit, value in zip(session.unit_ids.tolist(), wide, strict=True):
                by_key[key.subject, key.session, key.population, unit] = value
        return self.gather(by_key, len(column))

    def gather(
        self, by_key: Mapping[tuple[str, str, str, str], NDArray[np.floating]], n_columns: int
    ) -> NDArray[np.float64]:
        """(N, n_columns) float64: the values of the wanted rows, NaN elsewhere.

        Raises:
            Unavailable: A wanted unit is not there, or all its values are NaN.
        """
        keys = self.source.keys
        gathered = np.full((len(keys), n_columns), np.nan)
        columns = [part.tolist() for part in keys.columns()]
        for row in self.rows.tolist():
            subject, session, population, unit = (part[row] for part in columns)
            values = by_key.get((subject, session, population, unit))
            if values is None or np.isnan(values).all():
                gone = "in the data" if values is None else "active in the data"
                raise Unavailable(
                    f"unit {unit} of {subject}/{session}/{population} is not {gone} any more; "
                    "run nuclr embed again"
                )
            gathered[row] = values
        return gathered


def sessions_of(source: ProbeTable, rows: NDArray[np.int64], data: Path | None) -> tuple[Session, ...]:
    """The sessions that hold `rows`, in the order of their keys.

    Args:
        source: The table of embeddings.
        rows: Rows of it.
        data: DATA folder or file; None = that of the run.

    Raises:
        Unavailable: Neither the run nor `data` is there, or sessions are missing from it.
        InputError: The data cannot be read.
    """
    if data is None:
        if source.run is None:
            raise Unavailable("the run and its data were not found; name the data with --data")
        data = source.run.data
    found = {
        (session.key.subject, session.key.session, session.key.population): session
        for session in open_sessions(data)
    }
    subject, session_id, population, _ = (part[rows].tolist() for part in source.keys.columns())
    wanted = sorted(set(zip(subject, session_id, population, strict=True)))
    absent = [key for key in wanted if key not in found]
    if absent:
        raise Unavailable(
            f"{len(absent)} of {counted(len(wanted), 'session')} are not in {data} "
            f"(first: {'/'.join(absent[0])}); name the data with --data"
        )
    return tuple(found[key] for key in wanted)
