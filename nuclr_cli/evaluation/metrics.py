"""Scores from confusion matrices, pooled over folds: one matrix, then one score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

METRICS = ("macro_f1", "balanced_accuracy", "accuracy")


@dataclass(frozen=True)
class Scores:
    """One value a metric; a score of a single matrix, or (B,) arrays of many."""

    macro_f1: NDArray[np.float64]
    balanced_accuracy: NDArray[np.float64]
    accuracy: NDArray[np.float64]


@dataclass(frozen=True)
class ClassScore:
    """One class of the per-class table; `support` is its number of tested units."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


def confusion(truth: NDArray[np.int64], predicted: NDArray[np.int64], n_classes: int) -> NDArray[np.int64]:
    """(K, K) int64 counts, true class by predicted class.

    Args:
        truth: (n,) codes 0 ... K-1.
        predicted: (n,) codes 0 ... K-1.
        n_classes: K.
    """
    flat = np.bincount(truth * n_classes + predicted, minlength=n_classes * n_classes)
    return flat.reshape(n_classes, n_classes).astype(np.int64)


def scores(confusions: NDArray[Any]) -> Scores:
    """Scores of one or many confusion matrices.

    As scikit-learn computes them: macro F1 is the mean over classes that occur as truth or as prediction
    (a class without a hit has F1 = 0), balanced accuracy the mean recall over classes that occur as truth.

    Args:
        confusions: (..., K, K) counts, true by predicted.
    """
    matrix = np.asarray(confusions, dtype=np.float64)
    hits = np.diagonal(matrix, axis1=-2, axis2=-1)
    true, guessed = matrix.sum(axis=-1), matrix.sum(axis=-2)
    f1 = np.divide(2 * hits, true + guessed, out=np.zeros_like(hits), where=true + guessed > 0)
    recall = np.divide(hits, true, out=np.zeros_like(hits), where=true > 0)
    total = true.sum(axis=-1)
    return Scores(
        macro_f1=_ratio(f1.sum(axis=-1), (true + guessed > 0).sum(axis=-1)),
        balanced_accuracy=_ratio(recall.sum(axis=-1), (true > 0).sum(axis=-1)),
        accuracy=_ratio(hits.sum(axis=-1), total),
    )


def per_class(matrix: NDArray[np.int64], classes: tuple[str, ...]) -> tuple[ClassScore, ...]:
    """Precision, recall, F1 and support of each class (0 where a ratio has no denominator)."""
    rows = []
    for i, name in enumerate(classes):
        hits, true, guessed = int(matrix[i, i]), int(matrix[i].sum()), int(matrix[:, i].sum())
        rows.append(
            ClassScore(
                name=name,
                precision=hits / guessed if guessed else 0.0,
                recall=hits / true if true else 0.0,
                f1=2 * hits / (true + guessed) if true + guessed else 0.0,
                support=true,
            )
        )
    return tuple(rows)


def _ratio(top: NDArray[Any], bottom: NDArray[Any]) -> NDArray[np.float64]:
    top, bottom = np.asarray(top, dtype=np.float64), np.asarray(bottom, dtype=np.float64)
    ratio: NDArray[np.float64] = np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)
    return ratio
