"""Other descriptions of the same units, for the same probe: what NuCLR has to beat."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.data.store import Session
from nuclr_cli.errors import InputError, NuclrError
from nuclr_cli.evaluation.activity import binned_descriptor, trace_descriptor
from nuclr_cli.evaluation.baselines import ACTIVITY_FRONT, FEATURES_FRONT, Representation
from nuclr_cli.evaluation.features import spike_features, trace_features
from nuclr_cli.evaluation.rate_autocorrelogram import rate_autocorrelogram
from nuclr_cli.workflows.probe_inputs import ProbeTable
from nuclr_cli.workflows.reporting import Reporter
from nuclr_cli.workflows.unit_descriptions import Described, Unavailable, UnitSource, sessions_of
from nuclr_cli.workflows.window_average import window_average

TITLES = {
    "features": "rate + ISI + autocorrelogram features",
    "activity_pca": "PCA of binned activity",
    "acg_3d": "PCA of the 3D autocorrelogram",
    "window_average": "raw window average",
    "untrained": "untrained encoder",
}
"""Every baseline that is made from the recordings; the most frequent class and chance need none."""

CALCIUM_TITLES = {"features": "trace features", "activity_pca": "PCA of dF/F"}
"""Where a baseline is made of traces alone."""

DEFAULT_LEVEL = "full"
LEVELS: dict[str, tuple[str, ...]] = {
    "fast": ("features", "window_average"),
    "full": tuple(TITLES),
    "none": (),
}
"""What ``--baselines`` asks for."""


@dataclass(frozen=True)
class MissingBaseline:
    """A baseline that the result lacks, and why."""

    name: str
    title: str
    why: str


def check_level(level: str) -> None:
    """Refuse what ``--baselines`` does not take.

    Raises:
        InputError: `level` is none of `LEVELS`.
    """
    if level not in LEVELS:
        raise InputError(f"--baselines {level} is not known.", f"Choose --baselines {' or '.join(LEVELS)}")


def missing_warnings(missing: Sequence[MissingBaseline]) -> tuple[str, ...]:
    """A sentence for each absent baseline, and one for all that ``--baselines`` left out."""
    chosen = {f"--baselines {level}" for level in LEVELS}
    found = [f"Baseline missing: {one.title}: {one.why}" for one in missing if one.why not in chosen]
    left_out = [one for one in missing if one.why in chosen]
    if left_out:
        all_of_them = len(left_out) == len(TITLES)
        stands = "without its baselines" if all_of_them else "without some of its baselines"
        titles = "" if all_of_them else ": not compared with " + ", ".join(one.title for one in left_out)
        found.append(f"The result stands {stands} ({left_out[0].why}){titles}.")
    return tuple(found)


def representations(
    source: ProbeTable,
    rows: NDArray[np.int64],
    data: Path | None,
    reporter: Reporter,
    level: str = DEFAULT_LEVEL,
    only: Collection[str] | None = None,
) -> tuple[tuple[Representation, ...], tuple[MissingBaseline, ...]]:
    """Describe the rows of the table in every other way, each (N, D) with NaN outside `rows`.

    A baseline that lacks any of `rows` is missing as a whole: it would be compared on other units.

    Args:
        source: The table of embeddings.
        rows: Rows that the probe uses.
        data: DATA folder or file; None = that of the run.
        reporter: Told about progress.
        level: One of `LEVELS`; baselines that it leaves out are missing for that reason.
        only: Of these, make only those named here and say nothing of the others; None = all.

    Raises:
        InputError: There is no such level, or the sessions were not found.
    """
    check_level(level)
    why = {name: f"--baselines {level}" for name in TITLES if name not in LEVELS[level]}
    made: list[Representation] = []
    wanted = [name for name in LEVELS[level] if only is None or name in only]
    if wanted:
        units = UnitSource(source, rows, sessions_of(source, rows, data, reporter.note), reporter)
        for name in wanted:
            try:
                made.append(_MAKERS[name](units))
            except (Unavailable, NuclrError) as error:
                why[name] = _sentence(error)
    missing = (MissingBaseline(name, title, why[name]) for name, title in TITLES.items() if name in why)
    return tuple(made), tuple(missing)


def _sentence(error: Exception) -> str:
    return error.what if isinstance(error, NuclrError) else str(error)


def _title(units: UnitSource, name: str) -> str:
    only_calcium = units.modalities == {"calcium"}
    return CALCIUM_TITLES.get(name, TITLES[name]) if only_calcium else TITLES[name]


def _numbered(session: Session, values: NDArray[np.floating]) -> Described:
    """Columns of one modality meet by number; those of the other are undefined for its units."""
    return tuple(f"{session.modality} {i}" for i in range(values.shape[1])), values


def _features(units: UnitSource) -> Representation:
    def describe(session: Session) -> Described:
        if session.modality == "spikes":
            times, unit_index = session.spikes
            table = spike_features(times, unit_index, session.n_units, session.intervals)
        else:
            traces = session.calcium
            table = trace_features(traces.values, traces.timestamps, traces.sampling_rate_hz)
        return tuple(f"{session.modality} {name}" for name in table.names), table.values

    values = units.describe("features", describe)
    return Representation("features", _title(units, "features"), values, FEATURES_FRONT)


def _activity(units: UnitSource) -> Representation:
    def describe(session: Session) -> Described:
        if session.modality == "spikes":
            times, unit_index = session.spikes
            values = binned_descriptor(times, unit_index, session.n_units, session.intervals)
        else:
            traces, scale = session.calcium, session.calcium_scale
            values = trace_descriptor(traces.values, traces.timestamps, traces.sampling_rate_hz, scale)
        return _numbered(session, values)

    values = units.describe("binned activity", describe)
    return Representation("activity_pca", _title(units, "activity_pca"), values, ACTIVITY_FRONT)


def _acg_3d(units: UnitSource) -> Representation:
    def describe(session: Session) -> Described:
        times, unit_index = session.spikes
        return _numbered(session, rate_autocorrelogram(times, unit_index, session.n_units, session.intervals))

    if units.modalities != {"spikes"}:
        raise Unavailable("it is defined for spikes, and there are calcium sessions")
    values = units.describe("3D autocorrelograms", describe)
    return Representation("acg_3d", TITLES["acg_3d"], values, ACTIVITY_FRONT)


def _window_average(units: UnitSource) -> Representation:
    if units.source.run is None:
        raise Unavailable("the run, which says what the encoder is given, was not found; name it with --run")
    tokens = units.source.run.settings.tokens
    values = units.describe(
        "window averages", lambda session: _numbered(session, window_average(session, tokens))
    )
    return Representation("window_average", TITLES["window_average"], values, FEATURES_FRONT)


def _untrained(units: UnitSource) -> Representation:
    from nuclr_cli.workflows.embed import embed_untrained

    if units.source.run is None:
        raise Unavailable("the run was not found; name it with --run")
    table = embed_untrained(units.source.run, units.sessions, units.reporter)
    keys = zip(
        table.subject.tolist(),
        table.session.tolist(),
        table.population.tolist(),
        table.unit_id.tolist(),
        strict=True,
    )
    values = units.gather(dict(zip(keys, table.embedding, strict=True)), table.embedding.shape[1])
    return Representation("untrained", TITLES["untrained"], values)


_MAKERS: dict[str, Callable[[UnitSource], Representation]] = {
    "features": _features,
    "activity_pca": _activity,
    "acg_3d": _acg_3d,
    "window_average": _window_average,
    "untrained": _untrained,
}
