"""Other descriptions of the same pairs, for the same probe: what NuCLR has to beat."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.errors import NuclrError
from nuclr_cli.evaluation.baselines import PCA_COMPONENTS, Representation
from nuclr_cli.evaluation.pair_correlograms import N_FEATURES, by_kind, correlogram_features
from nuclr_cli.evaluation.pair_splits import units_of_pairs
from nuclr_cli.evaluation.pairs import PairInput
from nuclr_cli.evaluation.probes import FrontEnd
from nuclr_cli.workflows.probe_baselines import MissingBaseline, representations
from nuclr_cli.workflows.probe_inputs import ProbeTable
from nuclr_cli.workflows.reporting import Reporter
from nuclr_cli.workflows.unit_columns import unit_positions
from nuclr_cli.workflows.unit_descriptions import Unavailable, sessions_of

PAIR_TITLES = {
    "distance": "distance between the units",
    "correlogram": "cross-correlogram of the pair",
}
"""Baselines that are made of the pairs themselves; they come beside those of units."""
WIDEST = 256
"""Descriptions of units with more columns are reduced by PCA, fitted on training units."""


def pair_inputs(
    source: ProbeTable,
    pre: NDArray[np.int64],
    post: NDArray[np.int64],
    used: NDArray[np.bool_],
    data: Path | None,
    reporter: Reporter,
    level: str,
) -> tuple[tuple[PairInput, ...], tuple[MissingBaseline, ...]]:
    """Describe the pairs in every other way.

    Args:
        source: The table of embeddings.
        pre, post: (P,) rows of it.
        used: (P,) pairs that the probe uses; values of others may be NaN.
        data: DATA folder or file; None = that of the run.
        reporter: Told about progress.
        level: One of `probe_baselines.LEVELS`.

    Raises:
        InputError: There is no such level.
    """
    rows = units_of_pairs(pre[used], post[used])
    described, absent = representations(source, rows, data, reporter, level)
    inputs = [_of_units(one) for one in described]
    missing = list(absent)
    for name, make in (("distance", _distance), ("correlogram", _correlogram)):
        if level == "none":
            missing.append(MissingBaseline(name, PAIR_TITLES[name], f"--baselines {level}"))
            continue
        try:
            inputs.append(make(source, pre, post, used, data, reporter))
        except (Unavailable, NuclrError) as error:
            why = error.what if isinstance(error, NuclrError) else str(error)
            missing.append(MissingBaseline(name, PAIR_TITLES[name], why))
    return tuple(inputs), tuple(missing)


def _of_units(described: Representation) -> PairInput:
    """Pairs have up to four features for each column of their units, so wide descriptions are reduced."""
    front, title = described.front, described.title
    wide = described.values.shape[1] > WIDEST and described.name != "untrained"  # as wide as NuCLR's own
    if wide and front.n_components is None:
        front = FrontEnd(front.impute, PCA_COMPONENTS)
        title += ", principal components"
    return PairInput(described.name, title, units=described.values, front=front)


def _distance(
    source: ProbeTable,
    pre: NDArray[np.int64],
    post: NDArray[np.int64],
    used: NDArray[np.bool_],
    data: Path | None,
    reporter: Reporter,
) -> PairInput:
    found = unit_positions(source, units_of_pairs(pre[used], post[used]), data)
    if isinstance(found, str):
        raise Unavailable(found)
    positions, columns = found
    apart = np.sqrt(((positions[pre] - positions[post]) ** 2).sum(axis=1))
    values = np.stack([apart, np.log1p(apart)], axis=1)
    title = f"{PAIR_TITLES['distance']} ({', '.join(columns)})"
    return PairInput("distance", title, pairs={"directed": values, "symmetric": values})


def _correlogram(
    source: ProbeTable,
    pre: NDArray[np.int64],
    post: NDArray[np.int64],
    used: NDArray[np.bool_],
    data: Path | None,
    reporter: Reporter,
) -> PairInput:
    """Only pairs of one population: units of two have no common units table."""
    keys = source.keys
    if (keys.population[pre[used]] != keys.population[post[used]]).any():
        raise Unavailable("it is made within one population, and some pairs join two")
    sessions = sessions_of(source, units_of_pairs(pre[used], post[used]), data)
    if {session.modality for session in sessions} != {"spikes"}:
        raise Unavailable("it is defined for spikes, and there are calcium sessions")
    values = np.full((len(pre), N_FEATURES), np.nan)
    done = 0
    with reporter.progress("cross-correlograms", int(used.sum()), "pairs") as bar:
        for session in sessions:
            place = session.key
            mine = (keys.subject == place.subject) & (keys.session == place.session)
            mine &= keys.population == place.population
            at = np.flatnonzero(used & mine[pre])
            unit_of = {unit: i for i, unit in enumerate(session.unit_ids.tolist())}
            try:
                first, second = (
                    np.array([unit_of[unit] for unit in keys.unit_id[side[at]].tolist()], dtype=np.int64)
                    for side in (pre, post)
                )
            except KeyError as error:
                raise Unavailable(
                    f"unit {error.args[0]} of {place} is not in the data any more; run nuclr embed again"
                ) from None
            times, unit_index = session.spikes
            values[at] = correlogram_features(
                times,
                unit_index,
                session.n_units,
                session.intervals,
                first,
                second,
                lambda now, before=done: bar.update(before + now),  # type: ignore[misc]
            )
            done += len(at)
            session.close()
    return PairInput("correlogram", PAIR_TITLES["correlogram"], pairs=by_kind(values))
