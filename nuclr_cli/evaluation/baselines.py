"""What a result must beat: guesses, made here, and other descriptions of a unit, read by the same probe."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.evaluation.metrics import Scores, scores
from nuclr_cli.evaluation.probes import PLAIN, FrontEnd
from nuclr_cli.evaluation.splits import Split

PCA_COMPONENTS = 64
FEATURES_FRONT = FrontEnd(impute=True)
"""Features of one modality are undefined for units of the other."""
ACTIVITY_FRONT = FrontEnd(impute=True, n_components=PCA_COMPONENTS)


@dataclass(frozen=True)
class Representation:
    """One way to describe the N units of a table; the probe reads it exactly as it reads the embedding.

    Attributes:
        name: Short name, used in files.
        title: For people.
        values: (N, D) float.
        front: What stands before the scaler, fitted on training rows.
    """

    name: str
    title: str
    values: NDArray[np.floating]
    front: FrontEnd = PLAIN


def majority_predictions(
    codes: NDArray[np.int64], n_classes: int, split: Split, usable: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """(N,) int64: the most frequent training class of each fold (first of equals); -1 where not tested."""
    predicted = np.full(len(codes), -1, dtype=np.int64)
    for fold in split.folds:
        train, test = fold.train[usable[fold.train]], fold.test[usable[fold.test]]
        if len(train):
            predicted[test] = np.bincount(codes[train], minlength=n_classes).argmax()
    return predicted


def chance_scores(
    codes: NDArray[np.int64],
    n_classes: int,
    split: Split,
    usable: NDArray[np.bool_],
    *,
    n_simulations: int = 1000,
    seed: int = 0,
) -> Scores:
    """Scores of guessing with the class frequencies of each fold's training rows.

    Each simulation draws the pooled confusion matrix, distributed as if a guess were drawn per unit.

    Returns:
        (n_simulations,) scores a metric; their mean is the expected score of chance.
    """
    rng = np.random.default_rng(seed)
    pooled = np.zeros((n_simulations, n_classes, n_classes), dtype=np.int64)
    for fold in split.folds:
        train, test = fold.train[usable[fold.train]], fold.test[usable[fold.test]]
        if not len(train):
            continue
        share = np.bincount(codes[train], minlength=n_classes) / len(train)
        for klass, n in enumerate(np.bincount(codes[test], minlength=n_classes).tolist()):
            pooled[:, klass] += rng.multinomial(n, share, size=n_simulations)
    return scores(pooled)
