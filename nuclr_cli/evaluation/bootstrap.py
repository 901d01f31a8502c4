"""Bootstrap intervals over subjects: what another set of animals might have shown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from nuclr_cli.evaluation.metrics import METRICS, Scores, scores

LEVEL = 0.95
FEW_SUBJECTS = 5
"""With fewer test subjects than this, a result says that its intervals are a rough guide."""
_AT_A_TIME = 100


@dataclass(frozen=True)
class Interval:
    """Percentile interval of a bootstrap."""

    low: float
    high: float


@dataclass(frozen=True)
class ResamplingPlan:
    """What is drawn again, and from where.

    Attributes:
        unit: ``subjects``, ``subjects within class`` (the label is constant within each subject: drawing
            subjects freely would change the class shares and could lose a class) or ``units`` (one
            subject, or one of each class).
        group: (n,) int64: which group each tested row belongs to, 0 ... G-1.
        stratum: (G,) int64: groups are drawn within their stratum, as many as it has.
        notes: What limits the interval, one sentence each.
    """

    unit: str
    group: NDArray[np.int64]
    stratum: NDArray[np.int64]
    notes: tuple[str, ...] = ()

    @property
    def n_groups(self) -> int:
        return len(self.stratum)


def resampling_plan(subject: NDArray[np.str_], truth: NDArray[np.int64]) -> ResamplingPlan:
    """Choose what to resample.

    Args:
        subject: (n,) subject of each tested row.
        truth: (n,) class codes.
    """
    names, group = np.unique(subject, return_inverse=True)
    group = group.astype(np.int64)
    if len(names) == 1:
        note = f"The interval is over units, all of subject {names[0]}: it says nothing about other animals."
        return ResamplingPlan("units", np.arange(len(truth)), np.zeros(len(truth), dtype=np.int64), (note,))
    few: tuple[str, ...] = (
        (f"The intervals come from {len(names)} test subjects only: take them as a rough guide.",)
        if len(names) < FEW_SUBJECTS
        else ()
    )
    if not label_constant(subject, truth):
        return ResamplingPlan("subjects", group, np.zeros(len(names), dtype=np.int64), few)
    first = np.full(len(names), -1, dtype=np.int64)
    first[group] = truth
    _, counts = np.unique(first, return_counts=True)
    if counts.max() == 1:
        note = (
            "Every class has a single test subject, so the intervals are over units: they say nothing about "
            "other animals."
        )
        return ResamplingPlan("units", np.arange(len(truth)), np.zeros(len(truth), dtype=np.int64), (note,))
    if counts.min() == 1:
        few += ("A class has a single test subject, whose variability the intervals cannot show.",)
    return ResamplingPlan("subjects within class", group, first, few)


def label_constant(subject: NDArray[np.str_], truth: NDArray[np.int64]) -> bool:
    """True when every subject has units of one class only."""
    pairs = set(zip(subject.tolist(), truth.tolist(), strict=True))
    return len(pairs) == len({name for name, _ in pairs})


def draw_weights(plan: ResamplingPlan, n_resamples: int, seed: int) -> NDArray[np.int32]:
    """(B, G) int32: how often each group is in each resample. The same weights serve every method."""
    rng = np.random.default_rng(seed)
    weights = np.zeros((n_resamples, plan.n_groups), dtype=np.int32)
    for stratum in np.unique(plan.stratum):
        members = np.flatnonzero(plan.stratum == stratum)
        share = np.full(len(members), 1.0 / len(members))
        weights[:, members] = rng.multinomial(len(members), share, size=n_resamples)
    return weights


def bootstrap_scores(
    plan: ResamplingPlan,
    weights: NDArray[np.int32],
    truth: NDArray[np.int64],
    predicted: NDArray[np.int64],
    n_classes: int,
) -> Scores:
    """Scores of every resample, (B,) each.

    Args:
        plan: From `resampling_plan`, over the same n rows.
        weights: (B, G), from `draw_weights`.
        truth: (n,) class codes.
        predicted: (n,) class codes.
        n_classes: K.
    """
    cells = truth * n_classes + predicted
    shape = (plan.n_groups, n_classes * n_classes)
    counts = sparse.csr_matrix((np.ones(len(cells)), (plan.group, cells)), shape=shape)
    parts = []
    for start in range(0, len(weights), _AT_A_TIME):  # a float64 copy of all weights may be half a gigabyte
        some = weights[start : start + _AT_A_TIME].T.astype(np.float64)
        parts.append(np.asarray((counts.T @ some).T))
    return scores(np.concatenate(parts).reshape(-1, n_classes, n_classes))


def intervals(values: Scores) -> dict[str, Interval]:
    """Percentile interval of each metric over (B,) resampled scores."""
    return {name: interval(getattr(values, name)) for name in METRICS}


def interval(values: NDArray[np.float64]) -> Interval:
    """Central `LEVEL` percentile interval of (B,) values."""
    tail = 100.0 * (1.0 - LEVEL) / 2.0
    low, high = np.nanpercentile(values, [tail, 100.0 - tail])
    return Interval(float(low), float(high))
