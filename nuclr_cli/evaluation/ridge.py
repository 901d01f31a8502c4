"""The linear probe of a number: standardise, then ridge regression. Everything is fitted on training rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from sklearn.linear_model import Ridge
from sklearn.pipeline import Pipeline

from nuclr_cli.evaluation.fold_workers import map_folds
from nuclr_cli.evaluation.front_steps import front_steps
from nuclr_cli.evaluation.grouping import deal_units, stratified_groups
from nuclr_cli.evaluation.probes import PLAIN, FrontEnd
from nuclr_cli.evaluation.splits import Split

Floats = NDArray[np.float64]

PENALTIES: Floats = 10.0 ** np.arange(-5.0, 3.01, 0.5)
"""Penalties that are tried, per training row: scikit-learn's alpha is this times the number of rows."""
INNER_FOLDS = 5
MIN_TRAIN = 3
"""A fold with fewer training rows is not fitted."""


@dataclass(frozen=True)
class RidgePredictions:
    """Out-of-fold predictions.

    Attributes:
        predicted: (N,) float64 in the unit of the target, NaN where no fold predicted the row.
        alphas: The penalty of each fold (scikit-learn's alpha), None where the fold was not fitted.
        notes: What went less than well, one sentence each.
    """

    predicted: Floats
    alphas: tuple[float | None, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Design:
    """Training rows brought into their principal axes once, so that any target and penalty is a product.

    Attributes:
        train, test: Rows of the table.
        front: Fitted on the training rows; its output is standardised.
        axes: (D, R) principal axes of the standardised training rows.
        strength: (R,) their eigenvalues, of X'X.
    """

    train: NDArray[np.int64]
    test: NDArray[np.int64]
    front: Pipeline
    axes: Floats
    strength: Floats

    def predict(self, values: NDArray[np.floating[Any]], target: Floats, penalties: Floats) -> Floats:
        """(n_test, A) predictions, one column a penalty per training row."""
        scaled = self.front.transform(np.asarray(values[self.train], dtype=np.float64))
        mean = target[self.train].mean()
        along = self.axes.T @ (scaled.T @ (target[self.train] - mean))
        alphas = penalties * len(self.train)
        coefficients = self.axes @ (along[:, None] / (self.strength[:, None] + alphas))
        tested = self.front.transform(np.asarray(values[self.test], dtype=np.float64))
        predicted: Floats = tested @ coefficients + mean
        return predicted


@dataclass(frozen=True)
class RidgeProbe:
    """All folds of one description of the units, ready for the target and for permuted ones.

    Attributes:
        values: (N, D) float.
        folds: Outer design of each fold, None where too few rows train it or none is tested.
        inner: The designs that choose the penalty of each fold.
        notes: One sentence each.
    """

    values: NDArray[np.floating[Any]]
    folds: tuple[_Design | None, ...]
    inner: tuple[tuple[_Design, ...], ...]
    notes: tuple[str, ...] = ()

    def predict(self, target: Floats) -> RidgePredictions:
        """Choose each fold's penalty on its training rows, fit it there, predict its test rows.

        Args:
            target: (N,) float64; rows outside the folds are never read.
        """

        def work(place: int) -> tuple[float, Floats]:
            fold = self.folds[place]
            assert fold is not None
            penalty = _best_penalty(self.inner[place], self.values, target)
            column = fold.predict(self.values, target, np.array([penalty]))[:, 0]
            return float(penalty * len(fold.train)), column

        predicted = np.full(len(self.values), np.nan)
        alphas: list[float | None] = [None] * len(self.folds)
        places = [place for place, fold in enumerate(self.folds) if fold is not None]
        for place, ((alpha, column), _) in zip(places, map_folds(work, places, self.bytes_each), strict=True):
            fold = self.folds[place]
            assert fold is not None
            alphas[place] = alpha
            predicted[fold.test] = column
        return RidgePredictions(predicted, tuple(alphas), self.notes)

    @property
    def bytes_each(self) -> int:
        """What one fold in work holds, about."""
        return _bytes(
            self.values, max((len(fold.train) for fold in self.folds if fold is not None), default=0)
        )


def prepare_ridge(
    values: NDArray[np.floating[Any]],
    split: Split,
    usable: NDArray[np.bool_],
    front: FrontEnd = PLAIN,
    seed: int = 0,
) -> RidgeProbe:
    """Everything that does not depend on the target.

    Args:
        values: (N, D) float, finite in the usable rows (NaN allowed when `front` imputes).
        split: Rows of each fold.
        usable: (N,) rows that may be fitted and predicted (False: no embedding).
        front: What stands before the scaler.
        seed: Deals rows to inner folds where no subject or session does.
    """
    sides = [
        (fold.name, fold.train[usable[fold.train]], fold.test[usable[fold.test]]) for fold in split.folds
    ]
    places = [i for i, (_, train, test) in enumerate(sides) if len(train) >= MIN_TRAIN and len(test)]

    def work(place: int) -> tuple[_Design, tuple[_Design, ...]]:
        _, train, test = sides[place]
        inner = inner_folds(split, train, seed)
        return (
            _design(values, train, test, front),
            tuple(_design(values, train[inner != i], train[inner == i], front) for i in np.unique(inner)),
        )

    largest = max((len(train) for _, train, _ in sides), default=0)
    done = dict(
        zip(places, (found for found, _ in map_folds(work, places, _bytes(values, largest))), strict=True)
    )
    notes = []
    for i, (name, train, test) in enumerate(sides):
        if i not in done and len(test):
            notes.append(f"Fold {name!r} is not predicted: {len(train)} training units are too few.")
        elif i in done and split.grouped_by != "unit" and len(set(_group(split)[train].tolist())) < 2:
            notes.append(
                f"Fold {name!r} trains on one {split.grouped_by} only: its penalty is chosen on other units "
                f"of that {split.grouped_by}."
            )
    return RidgeProbe(
        values,
        tuple(done[i][0] if i in done else None for i in range(len(sides))),
        tuple(done[i][1] if i in done else () for i in range(len(sides))),
        tuple(notes),
    )


def fit_ridge(
    values: NDArray[np.floating[Any]],
    target: Floats,
    split: Split,
    rows: NDArray[np.int64],
    front: FrontEnd = PLAIN,
    seed: int = 0,
) -> Pipeline:
    """One probe fitted on all `rows`, its penalty chosen among them as in a fold.

    Returns:
        A fitted scikit-learn Pipeline; for `PLAIN` exactly (StandardScaler, Ridge).
    """

    def work(rows: NDArray[np.int64]) -> Pipeline:
        inner = inner_folds(split, rows, seed)
        designs = [_design(values, rows[inner != i], rows[inner == i], front) for i in np.unique(inner)]
        penalty = _best_penalty(designs, values, target)
        chosen = np.asarray(values[rows], dtype=np.float64)
        ridge = Ridge(alpha=float(penalty * len(rows)))
        return Pipeline([*front_steps(front, chosen.shape), ("ridge", ridge)]).fit(chosen, target[rows])

    return map_folds(work, [rows], _bytes(values, len(rows)))[0][0]


def inner_folds(split: Split, train: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """(n,) which inner fold holds each training row back, 0 ... at most `INNER_FOLDS` - 1.

    What the outer split keeps apart (subjects, sessions) is kept apart here; with one such group among the
    training rows, and for unit splits, single rows are dealt.

    Args:
        split: The outer split.
        train: (n,) training rows, at least 2, in the order of their keys.
        seed: Of the dealing of single rows.
    """
    alike = np.zeros(len(train), dtype=np.int64)
    if split.grouped_by != "unit":
        group = _group(split)[train]
        n_groups = len(set(group.tolist()))
        if n_groups >= 2:
            return stratified_groups(group, alike, min(INNER_FOLDS, n_groups))
    return deal_units(alike, min(INNER_FOLDS, len(train)), seed)


def _group(split: Split) -> NDArray[np.str_]:
    return split.keys.subject if split.grouped_by == "subject" else split.keys.recording


def _bytes(values: NDArray[np.floating[Any]], n_train: int) -> int:
    """What the fit of a fold holds, about: its rows as they came and standardised, and its inner designs."""
    width = int(values.shape[1])
    return 8 * width * (3 * n_train + (INNER_FOLDS + 1) * min(n_train, width))


def _design(
    values: NDArray[np.floating[Any]], train: NDArray[np.int64], test: NDArray[np.int64], front: FrontEnd
) -> _Design:
    rows = np.asarray(values[train], dtype=np.float64)
    fitted = Pipeline(front_steps(front, rows.shape)).fit(rows)
    scaled = fitted.transform(rows)
    if scaled.shape[1] <= len(scaled):
        strength, axes = linalg.eigh(scaled.T @ scaled, check_finite=False)
        strength = np.maximum(strength, 0.0)  # rounding can leave tiny negative ones
    else:
        _, singular, across = linalg.svd(scaled, full_matrices=False, check_finite=False)
        strength, axes = singular**2, across.T
    return _Design(train, test, fitted, axes, strength)


def _best_penalty(
    inner: Sequence[_Design], values: NDArray[np.floating[Any]], target: Floats
) -> np.floating[Any]:
    """The penalty with the smallest squared error over the rows held back; the larger one of equals."""
    error = np.zeros(len(PENALTIES))
    for design in inner:
        missed = design.predict(values, target, PENALTIES) - target[design.test][:, None]
        error += (missed**2).sum(axis=0)
    best: np.floating[Any] = PENALTIES[::-1][error[::-1].argmin()]
    return best
