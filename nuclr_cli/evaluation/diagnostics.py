"""What can be said of embeddings without a label: is a neuron found again in another part of its recording?

Two embeddings of each unit, from the first and from the second half of the recording, are compared within
their population. Alignment and uniformity are those of Wang and Isola (ICML 2020), with the two halves as
the positive pair; retrieval is the share of units whose nearest neighbour in the other half is themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.evaluation.bootstrap import Interval, interval

Floats = NDArray[np.floating]

_BLOCK = 2048
"""Rows of a similarity matrix made at once: a population of 100,000 units must not need its square."""


@dataclass(frozen=True)
class Halves:
    """One population seen twice.

    Attributes:
        first, second: (N, D) embeddings from the two halves; a row of NaN is a unit without activity there.
        first_rate, second_rate: (N,) activity per second in the two halves (events, or mean dF/F).
    """

    first: Floats
    second: Floats
    first_rate: Floats
    second_rate: Floats

    @property
    def both(self) -> NDArray[np.bool_]:
        """(N,) units that have an embedding in both halves."""
        return np.asarray(np.isfinite(self.first).all(axis=1) & np.isfinite(self.second).all(axis=1))


@dataclass(frozen=True)
class Retrieval:
    """How often a unit is found again among the units of its own population, in both directions.

    Attributes:
        top1: Share of queries whose nearest candidate is the same unit, all populations pooled.
        interval: 95 % of the bootstrap over populations; of units when there is one population.
        rate_top1: The same with nothing but the activity per second: what a rate alone can do.
        chance: Expected share of guesses.
        n_units: Units with both halves, in populations of at least two such units.
        n_populations: Those populations.
    """

    top1: float
    interval: Interval
    rate_top1: float
    chance: float
    n_units: int
    n_populations: int


@dataclass(frozen=True)
class Diagnostics:
    """Numbers that need no label.

    Attributes:
        rankme: Effective rank of all embeddings (Garrido et al., ICML 2023); 1 = collapsed.
        alignment: Mean squared distance of a unit's two halves on the unit sphere, 0 to 4, smaller is better.
        uniformity: Log of the mean Gaussian potential of pairs of units of one population on the sphere
            (temperature 2), 0 = all in one point; smaller is more spread out.
        retrieval: Same-neuron retrieval across time.
    """

    rankme: float
    alignment: float
    uniformity: float
    retrieval: Retrieval


def diagnose(
    populations: Sequence[Halves], rankme: float, *, n_resamples: int = 1000, seed: int = 0
) -> Diagnostics | None:
    """Compare the two halves of each population.

    Args:
        populations: At least one record.
        rankme: Effective rank of the embeddings of whole recordings.
        n_resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Returns:
        None when no population has two units that are active in both halves.
    """
    kept = []
    for halves in populations:
        rows = halves.both
        if rows.sum() >= 2:
            kept.append(
                Halves(
                    halves.first[rows], halves.second[rows], halves.first_rate[rows], halves.second_rate[rows]
                )
            )
    if not kept:
        return None
    hits = [embedding_hits(one) for one in kept]
    rate_hits = [_rate_hits(one) for one in kept]
    sizes = np.array([len(one.first) for one in kept])
    return Diagnostics(
        rankme=rankme,
        alignment=float(np.average([_alignment(one) for one in kept], weights=sizes)),
        uniformity=_uniformity(kept),
        retrieval=Retrieval(
            top1=float(np.concatenate(hits).mean()),
            interval=_bootstrap(hits, n_resamples, seed),
            rate_top1=float(np.concatenate(rate_hits).mean()),
            chance=float(len(sizes) / sizes.sum()),
            n_units=int(sizes.sum()),
            n_populations=len(sizes),
        ),
    )


def embedding_hits(halves: Halves) -> NDArray[np.float64]:
    """(N,) share of the two directions in which the unit's nearest candidate (cosine) is itself.

    A tie with another unit counts by the odds of picking the right one, so that a collapsed embedding, in
    which all are equal, scores as chance does.
    """
    first, second = _on_sphere(halves.first), _on_sphere(halves.second)
    return (_nearest_is_self(first, second) + _nearest_is_self(second, first)) / 2


def _nearest_is_self(queries: Floats, candidates: Floats) -> NDArray[np.float64]:
    hits = np.empty(len(queries))
    for start in range(0, len(queries), _BLOCK):
        similarity = queries[start : start + _BLOCK] @ candidates.T
        rows = np.arange(len(similarity))
        hits[start : start + _BLOCK] = _hit(similarity, similarity[rows, start + rows])
    return hits


def _hit(similarity: Floats, own: Floats) -> NDArray[np.float64]:
    """(n,) 1 / (candidates as near as the own one), 0 where another one is nearer."""
    margin = 1e-9  # rounding of equal vectors must not decide
    nearer = (similarity > own[:, None] + margin).any(axis=1)
    level = (np.abs(similarity - own[:, None]) <= margin).sum(axis=1)
    return np.where(nearer, 0.0, 1.0 / np.maximum(level, 1))


def _rate_hits(halves: Halves) -> NDArray[np.float64]:
    """As `embedding_hits`, with the distance of the activity per second instead.

    Spike rates are compared by their ratio, since they span decades; values that can be negative (dF/F) by
    their difference.
    """
    first, second = (np.asarray(rate, dtype=np.float64) for rate in (halves.first_rate, halves.second_rate))
    if min(first.min(), second.min()) > 0:
        first, second = np.log(first), np.log(second)
    hits = np.empty(len(first))
    for start in range(0, len(first), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(first)))
        there = -np.abs(first[rows, None] - second[None, :])
        back = -np.abs(second[rows, None] - first[None, :])
        own = np.arange(len(rows)), rows
        hits[rows] = (_hit(there, there[own]) + _hit(back, back[own])) / 2
    return hits


def _on_sphere(values: Floats) -> NDArray[np.float64]:
    values = np.asarray(values, dtype=np.float64)
    norm = np.linalg.norm(values, axis=1, keepdims=True)
    unit: NDArray[np.float64] = np.divide(values, norm, out=np.zeros_like(values), where=norm > 0)
    return unit


def _alignment(halves: Halves) -> float:
    difference = _on_sphere(halves.first) - _on_sphere(halves.second)
    return float((difference**2).sum(axis=1).mean())


def _uniformity(populations: Sequence[Halves]) -> float:
    """Over pairs of different units of one population, both halves, all populations pooled."""
    total, pairs = 0.0, 0
    for halves in populations:
        for values in (halves.first, halves.second):
            points = _on_sphere(values)
            n = len(points)
            for start in range(0, n, _BLOCK):
                cosine = points[start : start + _BLOCK] @ points.T
                potential = np.exp(-2 * (2 - 2 * np.clip(cosine, -1, 1)))
                total += float(potential.sum()) - len(cosine)  # the pair of a point with itself gives 1
            pairs += n * (n - 1)
    return float(np.log(max(total / pairs, np.finfo(float).tiny)))


def _bootstrap(hits: Sequence[NDArray[np.float64]], n_resamples: int, seed: int) -> Interval:
    """Of the pooled share: populations are drawn, or units where there is one population."""
    rng = np.random.default_rng(seed)
    if len(hits) == 1:
        sums, sizes = hits[0], np.ones(len(hits[0]))
    else:
        sums = np.array([one.sum() for one in hits])
        sizes = np.array([float(len(one)) for one in hits])
    drawn = np.empty(n_resamples)
    for i in range(n_resamples):  # one at a time: the units of a large population squared would not fit
        picked = rng.integers(len(sums), size=len(sums))
        drawn[i] = sums[picked].sum() / sizes[picked].sum()
    return interval(drawn)
