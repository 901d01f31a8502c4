"""Brings what is measured in session files into the order of a table of embeddings."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.data.sessions import open_sessions
from nuclr_cli.data.store import Session
from nuclr_cli.errors import InputError
from nuclr_cli.wording import counted
from nuclr_cli.workflows.probe_inputs import ProbeTable
from nuclr_cli.workflows.probe_provenance import embedded_digests
from nuclr_cli.workflows.reporting import Reporter
from nuclr_cli.workflows.run_data import data_of

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


_WITHOUT = "--data DATA, or probe without baselines that are made of it: --baselines none"


def sessions_of(
    source: ProbeTable,
    rows: NDArray[np.int64],
    data: Path | None,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[Session, ...]:
    """The sessions that hold `rows`, in the order of their keys.

    A result without baselines is wanted or it is a mistake: data that are not to be found are an error.

    Args:
        source: The table of embeddings.
        rows: Rows of it.
        data: DATA folder or file; None = that of the run.
        say: Told when the run's data were found in another place.

    Raises:
        InputError: Neither the run nor `data` is there, sessions are missing from it, or it cannot be read.
    """
    if data is None:
        if source.run is None:
            raise InputError(
                f"The run that made {source.path} was not found, so neither were the sessions for baselines.",
                f"Say where the sessions are: {_WITHOUT}",
            )
        data = data_of(source.run, _WITHOUT, say)
    elif not data.exists():
        raise InputError(f"--data {data} does not exist.", f"Say where the sessions are: {_WITHOUT}")
    found = {
        (session.key.subject, session.key.session, session.key.population): session
        for session in open_sessions(data)
    }
    subject, session_id, population, _ = (part[rows].tolist() for part in source.keys.columns())
    wanted = sorted(set(zip(subject, session_id, population, strict=True)))
    absent = [key for key in wanted if key not in found]
    if absent:
        raise InputError(
            f"{len(absent)} of {counted(len(wanted), 'session')} of the embeddings are not in {data} "
            f"(first: {'/'.join(absent[0])}), and baselines are made of all.",
            f"Say where they are: {_WITHOUT}",
        )
    embedded: dict[tuple[str, str, str], str] = {}
    with contextlib.suppress(ValueError, TypeError):  # damaged metadata: what a split claims says so
        embedded = embedded_digests(source.table.metadata) or {}
    for key in wanted:
        then, now = embedded.get(key, ""), found[key].activity_digest
        if then and now and then != now:
            raise InputError(
                f"{found[key].path} holds another recording of {'/'.join(key)} than the embedded one: "
                "baselines would be made of other data.",
                f"Run nuclr embed again, or say where the embedded sessions are: {_WITHOUT}",
            )
    return tuple(found[key] for key in wanted)
