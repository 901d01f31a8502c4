"""Other ways to read the same embedding: nearest neighbours and class centroids.

They are no baselines: they see the same vectors. They say whether a class is a neighbourhood or a blob of the
embedding, or only linearly separable from the others. Both work on standardised columns (fitted on training
rows) and Euclidean distances.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from nuclr_cli.evaluation.balance import Balance
from nuclr_cli.evaluation.fold_workers import map_folds
from nuclr_cli.evaluation.predictions import Predictions
from nuclr_cli.evaluation.splits import Split

MOST_NEIGHBOURS = 20
MOST_TRAINING_ROWS = 20_000
"""Neighbours are searched among at most so many training rows: a search through all grows with the square of
the units.
"""
_SEED = 42

Matrix = NDArray[np.float64]
Codes = NDArray[np.int64]


def n_neighbours(n_train: int) -> int:
    """k: the square root of the number of training rows, rounded down, from 1 to `MOST_NEIGHBOURS`.

    No label is used to choose it.
    """
    return max(1, min(MOST_NEIGHBOURS, math.isqrt(n_train)))


def neighbour_predictions(
    values: NDArray[np.floating[Any]],
    codes: Codes,
    n_classes: int,
    split: Split,
    usable: NDArray[np.bool_],
    balance: Balance,
) -> Predictions:
    """The class with most votes among the `n_neighbours` nearest training rows; of equals, the nearest one's.

    Args:
        values: (N, D) float.
        codes: (N,) int64 class codes.
        n_classes: K.
        split: Rows of each fold.
        usable: (N,) rows that may be fitted and predicted.
        balance: Unless ``none``, a vote counts by the inverse of the frequency of its class in the training
            rows, which is what drawing rows again comes to.

    Returns:
        The probability of a class is its share of the votes.
    """

    def vote(train: Matrix, train_codes: Codes, test: Matrix) -> tuple[Matrix, Codes]:
        kept = _at_most(train_codes, MOST_TRAINING_ROWS)
        k = n_neighbours(len(kept))
        counts = np.bincount(train_codes, minlength=n_classes)
        weight = np.ones(n_classes) if balance == "none" else counts.max() / np.maximum(counts, 1)
        search = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(train[kept])
        voted = train_codes[kept][search.kneighbors(test, return_distance=False)]
        rows = np.arange(len(test))
        votes, first = np.zeros((len(test), n_classes)), np.full((len(test), n_classes), k)
        for place in range(k - 1, -1, -1):
            np.add.at(votes, (rows, voted[:, place]), weight[voted[:, place]])
            first[rows, voted[:, place]] = place
        winning = np.isclose(votes, votes.max(axis=1, keepdims=True), rtol=1e-9)
        return votes / votes.sum(axis=1, keepdims=True), np.where(winning, first, k).argmin(axis=1)

    return _cross(values, codes, n_classes, split, usable, vote)


def centroid_predictions(
    values: NDArray[np.floating[Any]],
    codes: Codes,
    n_classes: int,
    split: Split,
    usable: NDArray[np.bool_],
) -> Predictions:
    """The class whose mean over the training rows is nearest.

    Args, as for `neighbour_predictions`. Class sizes have no part in it, so there is nothing to balance.

    Returns:
        The probability is that of spherical Gaussians with one common variance, that of the training rows
        around their centroids.
    """

    def measure(train: Matrix, train_codes: Codes, test: Matrix) -> tuple[Matrix, Codes]:
        present = np.unique(train_codes)
        centroids = np.stack([train[train_codes == code].mean(axis=0) for code in present])
        spread = train - centroids[np.searchsorted(present, train_codes)]
        variance = max(float(np.mean(spread**2)), np.finfo(np.float64).tiny)
        # |x - m|^2 without |x|^2, which is the same for all classes.
        distance = (centroids**2).sum(axis=1) - 2.0 * test @ centroids.T
        logits = -(distance - distance.min(axis=1, keepdims=True)) / (2.0 * variance)
        shares = np.zeros((len(test), n_classes))
        shares[:, present] = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        return shares, present[distance.argmin(axis=1)]

    return _cross(values, codes, n_classes, split, usable, measure)


def _cross(
    values: NDArray[np.floating[Any]],
    codes: Codes,
    n_classes: int,
    split: Split,
    usable: NDArray[np.bool_],
    read: Callable[[Matrix, Codes, Matrix], tuple[Matrix, Codes]],
) -> Predictions:
    """Standardise and read every fold."""
    sides = [(fold.train[usable[fold.train]], fold.test[usable[fold.test]]) for fold in split.folds]
    sides = [(train, test) for train, test in sides if len(train) and len(test)]

    def work(side: tuple[Codes, Codes]) -> tuple[Matrix, Codes]:
        train, test = side
        scaler = StandardScaler()
        standardised = scaler.fit_transform(np.asarray(values[train], dtype=np.float64))
        tested = scaler.transform(np.asarray(values[test], dtype=np.float64))
        return read(standardised, codes[train], tested)

    predicted = np.full(len(codes), -1, dtype=np.int64)
    probability = np.full((len(codes), n_classes), np.nan)
    largest = max((len(train) + len(test) for train, test in sides), default=0)
    done = map_folds(work, sides, 24 * largest * values.shape[1])
    for (_, test), ((shares, chosen), _) in zip(sides, done, strict=True):
        probability[test], predicted[test] = shares, chosen
    return Predictions(predicted, probability)


def _at_most(codes: Codes, most: int) -> Codes:
    """Rows to search: all, or `most` of them, the same share of every class (at least one row), by chance."""
    if len(codes) <= most:
        return np.arange(len(codes), dtype=np.int64)
    rng = np.random.default_rng(_SEED)
    kept = []
    for code in np.unique(codes):
        members = np.flatnonzero(codes == code)
        n = max(1, len(members) * most // len(codes))
        kept.append(np.sort(rng.choice(members, n, replace=False)))
    return np.sort(np.concatenate(kept))
