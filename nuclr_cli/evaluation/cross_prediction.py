"""Every fold's probe, fitted on its training rows and asked about its test rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from nuclr_cli.evaluation.fold_workers import map_folds
from nuclr_cli.evaluation.nested import Choice, choose_c
from nuclr_cli.evaluation.predictions import Predictions
from nuclr_cli.evaluation.probes import NESTED, PLAIN, FrontEnd, Variant, fit_probe
from nuclr_cli.evaluation.splits import Fold, Split


@dataclass(frozen=True)
class Kept:
    """The probe that is kept: fitted on all usable rows, with the C that the folds' rule gives there."""

    pipeline: Pipeline
    choice: Choice


def cross_predict(
    values: NDArray[np.floating[Any]],
    codes: NDArray[np.int64],
    n_classes: int,
    split: Split,
    usable: NDArray[np.bool_],
    variant: Variant,
    front: FrontEnd = PLAIN,
) -> Predictions:
    """Fit on each fold's training rows and predict its test rows.

    Args:
        values: (N, D) float.
        codes: (N,) int64 class codes (those of rows outside the split are never read).
        n_classes: K.
        split: Rows of each fold.
        usable: (N,) rows that may be fitted and predicted (False: no embedding).
        variant: Which probe.
        front: What stands before the scaler.

    Returns:
        Pooled predictions; a fold that trains on one class predicts that class.
    """
    return _cross(values, codes, n_classes, split, usable, variant, front, None)[0]


def cross_predict_and_keep(
    values: NDArray[np.floating[Any]],
    codes: NDArray[np.int64],
    names: tuple[str, ...],
    split: Split,
    usable: NDArray[np.bool_],
    variant: Variant,
) -> tuple[Predictions, Kept]:
    """As `cross_predict`, and the probe that is kept, fitted beside the folds.

    Args:
        names: K class names, which the pipeline predicts.
    """
    predictions, kept = _cross(values, codes, len(names), split, usable, variant, PLAIN, names)
    assert kept is not None
    return predictions, kept


def _cross(
    values: NDArray[np.floating[Any]],
    codes: NDArray[np.int64],
    n_classes: int,
    split: Split,
    usable: NDArray[np.bool_],
    variant: Variant,
    front: FrontEnd,
    names: tuple[str, ...] | None,
) -> tuple[Predictions, Kept | None]:
    predicted = np.full(len(codes), -1, dtype=np.int64)
    probability = np.full((len(codes), n_classes), np.nan)
    c: list[float | None] = [None] * len(split.folds)
    notes: list[str] = []
    order = split.keys.order
    used = order[usable[order]]

    def keep() -> Kept:
        choice = settle_c(values, codes, n_classes, split, used, variant, front)
        labels = np.array(names)[codes[used]]
        return Kept(fit_probe(values[used], labels, replace(variant, c=choice.c), front), choice)

    def predict(place: int) -> tuple[NDArray[np.float64], Choice | None]:
        train, test = _rows(split.folds[place], usable)
        return train_and_predict(values, codes, n_classes, split, train, test, variant, front)

    places = [place for place, fold in enumerate(split.folds) if all(map(len, _rows(fold, usable)))]
    # The largest fit first: the folds fill the other cores meanwhile.
    work: list[Callable[[], Any]] = [keep] if names is not None else []
    work += [partial(predict, place) for place in places]
    done = map_folds(lambda one: one(), work, fit_bytes(values, codes, usable, variant))
    kept, failed = done.pop(0) if names is not None else (None, ())
    if failed:
        notes.append(f"The probe that is kept did not converge in {variant.max_iter} iterations.")
    for place, ((shares, choice), failed) in zip(places, done, strict=True):
        name, test = split.folds[place].name, _rows(split.folds[place], usable)[1]
        probability[test] = shares
        predicted[test] = shares.argmax(axis=1)
        if choice is not None:
            c[place] = choice.c
            if choice.why_not:
                notes.append(f"Fold {name!r}: {choice.why_not}; C = {choice.c:g}.")
        if failed:
            notes.append(f"Fold {name!r}: the probe did not converge in {variant.max_iter} iterations.")
    chosen = variant.c == NESTED and any(choice is not None and not choice.why_not for (_, choice), _ in done)
    return Predictions(predicted, probability, tuple(notes), tuple(c), chosen), kept


def train_and_predict(
    values: NDArray[np.floating[Any]],
    codes: NDArray[np.int64],
    n_classes: int,
    split: Split,
    train: NDArray[np.int64],
    test: NDArray[np.int64],
    variant: Variant,
    front: FrontEnd = PLAIN,
) -> tuple[NDArray[np.float64], Choice | None]:
    """Fit on `train`, choosing C there if asked to, and give the (len(test), K) probabilities of `test`.

    Returns:
        The probabilities, 0 for classes that `train` lacks; and the C, None when `train` has one class.
    """
    trained = np.unique(codes[train])
    shares = np.zeros((len(test), n_classes))
    if len(trained) == 1:
        shares[:, trained[0]] = 1.0
        return shares, None
    choice = settle_c(values, codes, n_classes, split, train, variant, front)
    fitted = fit_probe(values[train], codes[train], replace(variant, c=choice.c), front)
    shares[:, trained] = fitted.predict_proba(np.asarray(values[test], dtype=np.float64))
    return shares, choice


def settle_c(
    values: NDArray[np.floating[Any]],
    codes: NDArray[np.int64],
    n_classes: int,
    split: Split,
    rows: NDArray[np.int64],
    variant: Variant,
    front: FrontEnd = PLAIN,
) -> Choice:
    """The variant's C, or the one chosen inside the training `rows`."""
    if variant.c == NESTED:
        return choose_c(values, codes, n_classes, split, rows, variant, front)
    return Choice(variant.c)


def fit_bytes(
    values: NDArray[np.floating[Any]],
    codes: NDArray[np.int64],
    usable: NDArray[np.bool_],
    variant: Variant,
) -> int:
    """What the largest fit holds, about: its rows as float64, standardised, and as they came."""
    n = int(usable.sum())
    if variant.balance == "oversample" and n:
        counts = np.unique(codes[usable], return_counts=True)[1]
        n = int(counts.max()) * len(counts)
    return 24 * n * int(values.shape[1])


def _rows(fold: Fold, usable: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return fold.train[usable[fold.train]], fold.test[usable[fold.test]]
