"""What a probe has seen: ranges of its training units, and which other units lie outside them.

Everything comes from the table of embeddings, so that any table of the same encoder can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

FEWEST_UNITS = 20
"""Below so many training units of a modality no range of rates, and no distance, is learned."""
SLACK = 2.0
"""A population (or a recording) is outside when it is this many times larger or smaller than any seen."""
MOST_COMPONENTS = 16
_PARTS = 5

# What `check` says of a unit, in the order in which a session is described.
MODALITY, POPULATION, DURATION, RATE, EMBEDDING = "modality", "population", "duration", "rate", "embedding"


@dataclass(frozen=True)
class Units:
    """N units of whole populations, as a table of embeddings has them.

    Attributes:
        subject: (N,) str.
        population: (N,) str that names the population of each unit among all.
        modality: (N,) str.
        n_windows: (N,) int64 windows in which the unit was active.
        n_events: (N,) int64 spikes (or frames) in the windows of the session.
        embedding: (N, D) float; a row of NaN = none.
    """

    subject: NDArray[np.str_]
    population: NDArray[np.str_]
    modality: NDArray[np.str_]
    n_windows: NDArray[np.int64]
    n_events: NDArray[np.int64]
    embedding: NDArray[np.floating]

    @property
    def events_per_window(self) -> NDArray[np.float64]:
        """(N,) events per window in which the unit was active; NaN where it never was."""
        events = self.n_events.astype(np.float64)
        rates: NDArray[np.float64] = np.divide(
            events, self.n_windows, out=np.full(len(events), np.nan), where=self.n_windows > 0
        )
        return rates

    @cached_property
    def populations(self) -> Mapping[str, NDArray[np.int64]]:
        """Population -> its rows."""
        names, code = np.unique(self.population, return_inverse=True)
        order = np.argsort(code, kind="stable").astype(np.int64)
        ends = np.searchsorted(code[order], np.arange(1, len(names)))
        return dict(zip(names.tolist(), np.split(order, ends), strict=True))


@dataclass(frozen=True)
class Range:
    """From `low` to `high`, both included."""

    low: float
    high: float


@dataclass(frozen=True)
class Ranges:
    """What was seen of one modality.

    Attributes:
        events_per_window: 1st to 99th percentile over training units; None with too few of them.
        windows: Fewest and most windows of a training session (of its most active unit).
        population: Fewest and most units of a training population.
        window_s: Length of a window in seconds; None when the run is not known.
    """

    events_per_window: Range | None
    windows: Range
    population: Range
    window_s: float | None = None


@dataclass(frozen=True)
class Cloud:
    """Training embeddings as a normal distribution with a few long axes and one width for all the others.

    The distance of x is the root mean squared deviation from the mean in units of these widths
    (probabilistic PCA: Tipping and Bishop 1999), so about 1 for a training unit.

    Attributes:
        mean: D numbers.
        axes: k unit vectors of D numbers, the longest axis first.
        variances: k variances along them.
        variance: Mean variance along every other direction; 0 when there is none.
        limit: 99th percentile of the distances of training units from the cloud of the others.
        parts: What "the others" means: ``4 subjects`` or ``5 parts of the units``, each left out in turn.
    """

    mean: tuple[float, ...]
    axes: tuple[tuple[float, ...], ...]
    variances: tuple[float, ...]
    variance: float
    limit: float
    parts: str

    def distances(self, embedding: NDArray[np.floating]) -> NDArray[np.float64]:
        """(N,) distance of each row of (N, D); NaN stays NaN."""
        return _distances(
            embedding,
            np.array(self.mean),
            np.array(self.axes).reshape(len(self.axes), len(self.mean)),
            np.array(self.variances),
            self.variance,
        )


@dataclass(frozen=True)
class Applicability:
    """What a probe has seen.

    Attributes:
        n_units: Training units.
        modalities: Modality -> its ranges.
        cloud: Their embeddings; None with too few of them.
    """

    n_units: int
    modalities: Mapping[str, Ranges] = field(default_factory=dict)
    cloud: Cloud | None = None


def learn(
    units: Units, used: NDArray[np.int64], window_s: Mapping[str, float] | None = None
) -> Applicability:
    """Ranges of the units that a probe was fitted on.

    Args:
        units: All units of their populations, also those that trained nothing: they make up its size.
        used: Rows that the probe was fitted on; all have an embedding.
        window_s: Modality -> seconds of a window, where known.
    """
    trained = np.zeros(len(units.subject), dtype=np.bool_)
    trained[used] = True
    modalities = {}
    for name in sorted(set(units.modality[used].tolist())):
        rows = trained & (units.modality == name)
        populations = [inside for inside in units.populations.values() if rows[inside].any()]
        sizes = [len(inside) for inside in populations]
        windows = [int(units.n_windows[inside].max()) for inside in populations]
        rates = units.events_per_window[rows]
        modalities[name] = Ranges(
            events_per_window=_percentiles(rates) if len(rates) >= FEWEST_UNITS else None,
            windows=Range(min(windows), max(windows)),
            population=Range(min(sizes), max(sizes)),
            window_s=(window_s or {}).get(name),
        )
    return Applicability(len(used), modalities, _cloud(units, used))


def check(seen: Applicability, units: Units) -> list[tuple[str, ...]]:
    """What of each unit is outside what the probe has seen: some of the names above, () = nothing."""
    found: list[list[str]] = [[] for _ in units.subject]
    far = np.zeros(len(found), dtype=np.bool_)
    if seen.cloud is not None:
        with np.errstate(invalid="ignore"):
            far = seen.cloud.distances(units.embedding) > seen.cloud.limit
    rates = units.events_per_window
    for rows in units.populations.values():
        ranges = seen.modalities.get(str(units.modality[rows[0]]))
        shared = [MODALITY] if ranges is None else _of_population(ranges, units, rows)
        for row in rows.tolist():
            found[row] += shared
            if ranges is not None and _outside(ranges.events_per_window, float(rates[row])):
                found[row].append(RATE)
            if far[row]:
                found[row].append(EMBEDDING)
    return [tuple(names) for names in found]


def _of_population(ranges: Ranges, units: Units, rows: NDArray[np.int64]) -> list[str]:
    found = []
    if _outside(ranges.population, len(rows), SLACK):
        found.append(POPULATION)
    windows = int(units.n_windows[rows].max())
    if windows and _outside(ranges.windows, windows, SLACK):
        found.append(DURATION)
    return found


def _outside(allowed: Range | None, value: float, slack: float = 1.0) -> bool:
    return allowed is not None and (value < allowed.low / slack or value > allowed.high * slack)


def _percentiles(values: NDArray[np.float64]) -> Range:
    low, high = np.percentile(values, (1, 99))
    return Range(float(low), float(high))


def _cloud(units: Units, used: NDArray[np.int64]) -> Cloud | None:
    if len(used) < FEWEST_UNITS:
        return None
    values = units.embedding[used].astype(np.float64)
    names, part = np.unique(units.subject[used], return_inverse=True)
    label = f"{len(names)} subjects"
    # Too few animals, or nearly all units of one: then new units of known animals are what is learned from.
    if len(names) < 3 or len(used) - int(np.bincount(part).max()) < FEWEST_UNITS:
        part, label = np.arange(len(used)) % _PARTS, f"{_PARTS} parts of the units"
    left_out = np.empty(len(used))
    centre = values.mean(axis=0)
    # One thread: the matrices are small, and threads would only wait for one another.
    with threadpool_limits(1):
        whole = _moments(values - centre)
        for number in np.unique(part):
            inside = part == number
            rest = len(values) - int(inside.sum())
            # With many units, the others follow from sums, without going through them again.
            if rest > values.shape[1]:
                own = _moments(values[inside] - centre)
                cloud = _fit_moments(rest, whole[1] - own[1], whole[2] - own[2], centre)
            else:
                cloud = _fit(values[~inside])
            left_out[inside] = _distances(values[inside], *cloud)
        mean, axes, variances, variance = _fit(values)
    return Cloud(
        mean=_rounded(mean),
        axes=tuple(_rounded(axis) for axis in axes),
        variances=_rounded(variances),
        variance=variance,
        limit=float(np.percentile(left_out, 99)),
        parts=label,
    )


Fitted = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], float]
"""Mean, axes, variances along them and the mean variance of the rest."""


def _moments(values: NDArray[np.float64]) -> tuple[int, NDArray[np.float64], NDArray[np.float64]]:
    """Number, sum and sum of outer products of (n, D) rows."""
    return len(values), values.sum(axis=0), values.T @ values


def _fit(values: NDArray[np.float64]) -> Fitted:
    """Fit to rows."""
    n, dim = values.shape
    mean = values.mean(axis=0)
    if n > dim:
        return _fit_moments(*_moments(values - mean), mean)
    _, singular, directions = np.linalg.svd(values - mean, full_matrices=False)
    return _cut(n, mean, singular**2 / max(n - 1, 1), directions)


def _fit_moments(
    n: int, total: NDArray[np.float64], products: NDArray[np.float64], centre: NDArray[np.float64]
) -> Fitted:
    """Fit to more than D rows, known by their `_moments` around `centre`."""
    mean = total / n
    variances, columns = np.linalg.eigh((products - n * np.outer(mean, mean)) / (n - 1))
    return _cut(n, centre + mean, np.maximum(variances[::-1], 0.0), columns.T[::-1])


def _cut(
    n: int, mean: NDArray[np.float64], variances: NDArray[np.float64], directions: NDArray[np.float64]
) -> Fitted:
    """Keep the largest variances, falling, and their directions, a row each."""
    dim = len(mean)
    k = max(min(MOST_COMPONENTS, dim, (n - 1) // 3, int((variances > 1e-12 * variances.max()).sum())), 0)
    if k == dim:
        return mean, directions[:k], variances[:k], 0.0
    # Directions in which training units do not differ at all: others may, and are far away then.
    rest = max(float(variances[k:].sum() / (dim - k)), 1e-6 * float(variances.max()))
    return mean, directions[:k], variances[:k], rest


def _distances(
    embedding: NDArray[np.floating],
    mean: NDArray[np.float64],
    axes: NDArray[np.float64],
    variances: NDArray[np.float64],
    variance: float,
) -> NDArray[np.float64]:
    centred = np.asarray(embedding, dtype=np.float64) - mean
    along = centred @ axes.T
    squared = (along**2 / variances).sum(axis=1)
    if variance > 0:
        squared += np.maximum((centred**2).sum(axis=1) - (along**2).sum(axis=1), 0.0) / variance
    distances: NDArray[np.float64] = np.sqrt(squared / len(mean))
    return distances


def _rounded(values: NDArray[np.float64]) -> tuple[float, ...]:
    """Seven digits: as exact as the embeddings are."""
    return tuple(float(f"{value:.7g}") for value in values)
