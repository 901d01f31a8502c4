"""How far probabilities can be believed: reliability bins, calibration error, accuracy by threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

N_BINS = 10
THRESHOLDS = tuple(i / 100 for i in range(100))
"""Probabilities at which `ThresholdCurve` counts."""
FEWEST_KEPT = 10
"""A threshold that keeps fewer validation units says nothing."""


@dataclass(frozen=True)
class Bin:
    """Units whose probability is in (low, high]: what they were promised, and how often they were right.

    Attributes:
        low, high: The bin.
        n: Units in it.
        confidence: Mean probability of the predicted class; None in an empty bin.
        accuracy: Share of right predictions; None in an empty bin.
    """

    low: float
    high: float
    n: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Reliability:
    """Probabilities against what was true.

    Attributes:
        ece: Expected calibration error of the predicted class: mean over `N_BINS` bins of equal width,
            weighted by their units, of |accuracy - confidence| (Guo et al. 2017, arXiv 1706.04599, eq. 3).
        class_ece: The same for the probability of each class against how often it is the true one, mean over
            classes (Nixon et al. 2019, arXiv 1904.01685, static calibration error). A probe that promises
            too much of a rare class and as much too little of a frequent one has an `ece` near 0, not this.
        brier: Mean over units of the squared distance between probabilities and the truth; 0 to 2.
        accuracy: Share of right predictions.
        confidence: Mean probability of the predicted class.
        bins: The bins, from 0 to 1.
    """

    ece: float
    class_ece: float
    brier: float
    accuracy: float
    confidence: float
    bins: tuple[Bin, ...]


@dataclass(frozen=True)
class ThresholdCurve:
    """What abstaining below a probability would have left of the validation units.

    Attributes:
        n: Validation units.
        kept: For each of `THRESHOLDS`, units whose probability reaches it.
        right: How many of these were predicted right.
    """

    n: int
    kept: tuple[int, ...]
    right: tuple[int, ...]

    def at(self, threshold: float) -> tuple[int, int]:
        """Units kept and right at a threshold, at the next lower one that was counted."""
        row = int(np.searchsorted(THRESHOLDS, threshold + 1e-12, side="right")) - 1
        return self.kept[row], self.right[row]

    def exactly_at(self, threshold: float) -> tuple[int, int] | None:
        """Units kept and right at a threshold; None where the thresholds that were counted leave it open.

        Between two of them it is known when no unit lies between, above the last when none reaches that.
        """
        counted = self.at(threshold)
        row = int(np.searchsorted(THRESHOLDS, threshold - 1e-12, side="left"))
        above = self.kept[row] if row < len(THRESHOLDS) else 0
        return counted if above == counted[0] else None

    def lowest_reaching(self, accuracy: float) -> float | None:
        """The lowest threshold at which at least `accuracy` of the units that are kept are right.

        None when no threshold that keeps at least `FEWEST_KEPT` units does.
        """
        for threshold, kept, right in zip(THRESHOLDS, self.kept, self.right, strict=True):
            if kept >= FEWEST_KEPT and right >= accuracy * kept - 1e-9:
                return threshold
        return None

    def best(self, smallest_share: float) -> tuple[float, float] | None:
        """The most accurate threshold that keeps such a share of the units, and its accuracy.

        None when fewer than `FEWEST_KEPT` units were validated.
        """
        fewest = max(FEWEST_KEPT, smallest_share * self.n)
        rows = [
            (right / kept, -threshold)
            for threshold, kept, right in zip(THRESHOLDS, self.kept, self.right, strict=True)
            if kept >= fewest
        ]
        if not rows:
            return None
        accuracy, threshold = max(rows)
        return abs(threshold), accuracy


def decide(probabilities: NDArray[np.float64], raw: NDArray[np.float64]) -> NDArray[np.int64]:
    """The likeliest class of each row; where calibration made classes equal, the probe's own order decides.

    Args:
        probabilities: (n, K) calibrated, no NaN.
        raw: (n, K) as the probe gave them.

    Returns:
        (n,) int64 class codes.
    """
    if not len(probabilities):
        return np.zeros(0, dtype=np.int64)
    highest = probabilities >= probabilities.max(axis=1, keepdims=True) - 1e-12
    chosen: NDArray[np.int64] = np.where(highest, raw, -1.0).argmax(axis=1).astype(np.int64)
    return chosen


def reliability(
    probabilities: NDArray[np.float64], predicted: NDArray[np.int64], truth: NDArray[np.int64]
) -> Reliability:
    """Compare probabilities with the truth.

    Args:
        probabilities: (n, K), no NaN, n > 0.
        predicted: (n,) class codes.
        truth: (n,) class codes.
    """
    rows = np.arange(len(truth))
    confidence = probabilities[rows, predicted]
    right = predicted == truth
    target = np.zeros_like(probabilities)
    target[rows, truth] = 1.0
    bins = _binned(confidence, right)
    by_class = [_error(_binned(probabilities[:, k], truth == k)) for k in range(probabilities.shape[1])]
    return Reliability(
        ece=_error(bins),
        class_ece=float(np.mean(by_class)),
        brier=float(((probabilities - target) ** 2).sum(axis=1).mean()),
        accuracy=float(right.mean()),
        confidence=float(confidence.mean()),
        bins=bins,
    )


def _binned(promised: NDArray[np.float64], happened: NDArray[np.bool_]) -> tuple[Bin, ...]:
    edges = np.linspace(0.0, 1.0, N_BINS + 1)
    which = np.searchsorted(edges[1:-1], promised, side="left")
    bins = []
    for i in range(N_BINS):
        inside = which == i
        n = int(inside.sum())
        mean = float(promised[inside].mean()) if n else None
        share = float(happened[inside].mean()) if n else None
        bins.append(Bin(round(float(edges[i]), 10), round(float(edges[i + 1]), 10), n, mean, share))
    return tuple(bins)


def _error(bins: tuple[Bin, ...]) -> float:
    n = sum(one.n for one in bins)
    return sum(
        one.n / n * abs(one.accuracy - one.confidence)
        for one in bins
        if one.accuracy is not None and one.confidence is not None
    )


def threshold_curve(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> ThresholdCurve:
    """Count what each threshold keeps.

    Args:
        confidence: (n,) probability of the predicted class.
        right: (n,) whether the prediction was right.
    """
    kept = confidence[None, :] >= np.array(THRESHOLDS)[:, None]
    return ThresholdCurve(
        n=len(right),
        kept=_counts(kept),
        right=_counts(kept & right[None, :]),
    )


def _counts(where: NDArray[Any]) -> tuple[int, ...]:
    return tuple(int(n) for n in where.sum(axis=1))
