"""Other descriptions of the same units, for the same probe: what NuCLR has to beat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.data.sessions import open_sessions
from nuclr_cli.data.store import Session
from nuclr_cli.errors import NuclrError
from nuclr_cli.evaluation.activity import binned_descriptor
from nuclr_cli.evaluation.baselines import ACTIVITY_FRONT, FEATURES_FRONT, Representation
from nuclr_cli.evaluation.features import spike_features, trace_features
from nuclr_cli.workflows.probe_inputs import ProbeTable
from nuclr_cli.workflows.reporting import Reporter

TITLES = {
    "features": "rate + ISI + autocorrelogram features",
    "activity_pca": "PCA of binned activity",
    "untrained": "untrained encoder",
}


@dataclass(frozen=True)
class MissingBaseline:
    """A baseline that could not be computed, and why."""

    name: str
    title: str
    why: str


class _Unavailable(Exception):
    """Why a baseline cannot be had; ends as a `MissingBaseline`."""


def representations(
    source: ProbeTable, rows: NDArray[np.int64], data: Path | None, reporter: Reporter
) -> tuple[tuple[Representation, ...], tuple[MissingBaseline, ...]]:
    """Describe the rows of the table in every other way, each (N, D) with NaN outside `rows`.

    A baseline that lacks any of `rows` is missing as a whole: it would be compared on other units.

    Args:
        source: The table of embeddings.
        rows: Rows that the probe uses.
        data: DATA folder or file; None = that of the run.
        reporter: Told about progress.
    """
    try:
        sessions = _sessions(source, rows, data)
    except (_Unavailable, NuclrError) as error:
        why = error.what if isinstance(error, NuclrError) else str(error)
        return (), tuple(MissingBaseline(name, title, why) for name, title in TITLES.items())
    makers: dict[str, Callable[[], Representation]] = {
        "features": lambda: _features(source, rows, sessions, reporter),
        "activity_pca": lambda: _activity(source, rows, sessions, reporter),
        "untrained": lambda: _untrained(source, rows, sessions, reporter),
    }
    made: list[Representation] = []
    missing: list[MissingBaseline] = []
    for name, make in makers.items():
        try:
            made.append(make())
        except (_Unavailable, NuclrError) as error:
            why = error.what if isinstance(error, NuclrError) else str(error)
            missing.append(MissingBaseline(name, TITLES[name], why))
    return tuple(made), tuple(missing)


def _sessions(source: ProbeTable, rows: NDArray[np.int64], data: Path | None) -> list[Session]:
    """The sessions that hold `rows`, in the order of their keys."""
    if data is None:
        if source.run is None:
            raise _Unavailable("the run and its data were not found; name the data with --data")
        data = source.run.data
    found = {
        (session.key.subject, session.key.session, session.key.population): session
        for session in open_sessions(data)
    }
    keys = source.keys
    wanted = sorted(
        set(
            zip(
                keys.subject[rows].tolist(),
                keys.session[rows].tolist(),
                keys.population[rows].tolist(),
                strict=True,
            )
        )
    )
    absent = [key for key in wanted if key not in found]
    if absent:
        raise _Unavailable(
            f"{len(absent)} of {len(wanted)} sessions are not in {data} (first: {'/'.join(absent[0])}); "
            "name the data with --data"
        )
    return [found[key] for key in wanted]


@dataclass(frozen=True)
class _Block:
    """One session's description: (n, D) values with a name for each column."""

    session: Session
    names: tuple[str, ...]
    values: NDArray[np.floating]


def _describe(
    source: ProbeTable,
    rows: NDArray[np.int64],
    sessions: Sequence[Session],
    reporter: Reporter,
    title: str,
    describe: Callable[[Session], tuple[tuple[str, ...], NDArray[np.floating]]],
) -> NDArray[np.float64]:
    """Describe every session and bring the result into the order of the table, NaN outside `rows`.

    Columns meet by name: one that a modality lacks is NaN there.
    """
    blocks = []
    with reporter.progress(title, len(sessions), "sessions") as bar:
        for number, session in enumerate(sessions):
            blocks.append(_Block(session, *describe(session)))
            bar.update(number + 1)
    names = list(dict.fromkeys(name for block in blocks for name in block.names))
    column = {name: i for i, name in enumerate(names)}
    described: dict[tuple[str, str, str, str], NDArray[np.float64]] = {}
    for block in blocks:
        key, places = block.session.key, [column[name] for name in block.names]
        values = np.full((len(block.values), len(names)), np.nan)
        values[:, places] = block.values
        for unit, value in zip(block.session.unit_ids.tolist(), values, strict=True):
            described[key.subject, key.session, key.population, unit] = value
        block.session.close()
    gathered = np.full((len(source.keys), len(names)), np.nan)
    columns = [part.tolist() for part in source.keys.columns()]
    for row in rows.tolist():
        subject, session_id, population, unit = (part[row] for part in columns)
        if (subject, session_id, population, unit) not in described:
            raise _Unavailable(
                f"unit {unit} of {subject}/{session_id}/{population} is not in the data any more; "
                "run nuclr embed again"
            )
        gathered[row] = described[subject, session_id, population, unit]
    return gathered


def _features(
    source: ProbeTable, rows: NDArray[np.int64], sessions: Sequence[Session], reporter: Reporter
) -> Representation:
    def describe(session: Session) -> tuple[tuple[str, ...], NDArray[np.floating]]:
        if session.modality == "spikes":
            times, unit_index = session.spikes
            table = spike_features(times, unit_index, session.n_units, session.intervals)
        else:
            traces = session.calcium
            table = trace_features(traces.values, traces.timestamps, traces.sampling_rate_hz)
        return tuple(f"{session.modality} {name}" for name in table.names), table.values

    only_calcium = {session.modality for session in sessions} == {"calcium"}
    title = "trace features" if only_calcium else TITLES["features"]
    values = _describe(source, rows, sessions, reporter, "features", describe)
    return Representation("features", title, values, FEATURES_FRONT)


def _activity(
    source: ProbeTable, rows: NDArray[np.int64], sessions: Sequence[Session], reporter: Reporter
) -> Representation:
    def describe(session: Session) -> tuple[tuple[str, ...], NDArray[np.floating]]:
        times, unit_index = session.spikes
        values = binned_descriptor(times, unit_index, session.n_units, session.intervals)
        return tuple(map(str, range(values.shape[1]))), values

    if any(session.modality != "spikes" for session in sessions):
        raise _Unavailable("it is made of spike counts, and there are calcium sessions")
    values = _describe(source, rows, sessions, reporter, "binned activity", describe)
    return Representation("activity_pca", TITLES["activity_pca"], values, ACTIVITY_FRONT)


def _untrained(
    source: ProbeTable, rows: NDArray[np.int64], sessions: Sequence[Session], reporter: Reporter
) -> Representation:
    from nuclr_cli.workflows.embed import embed_untrained

    if source.run is None:
        raise _Unavailable("the run was not found; name it with --run")
    table = embed_untrained(source.run, sessions, reporter)
    place = {
        key: i
        for i, key in enumerate(
            zip(
                table.subject.tolist(),
                table.session.tolist(),
                table.population.tolist(),
                table.unit_id.tolist(),
                strict=True,
            )
        )
    }
    values = np.full((len(source.keys), table.embedding.shape[1]), np.nan)
    columns = [part.tolist() for part in source.keys.columns()]
    for row in rows.tolist():
        subject, session_id, population, unit = (part[row] for part in columns)
        i = place.get((subject, session_id, population, unit))
        if i is None or not np.isfinite(table.embedding[i]).all():
            raise _Unavailable(
                f"unit {unit} of {subject}/{session_id}/{population} is not active in the data any more; "
                "run nuclr embed again"
            )
        values[row] = table.embedding[i]
    return Representation("untrained", TITLES["untrained"], values)
