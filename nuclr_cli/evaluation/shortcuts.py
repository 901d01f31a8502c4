"""What recognising the animal is worth: a probe that has animals on both sides may do just that."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.evaluation.metrics import confusion, scores
from nuclr_cli.evaluation.splits import Split

WORTH_SAYING = 0.1
"""Macro F1 above chance from which on knowing the group alone is reported."""


def group_f1(
    codes: NDArray[np.int64],
    n_classes: int,
    group: NDArray[np.str_],
    split: Split,
    usable: NDArray[np.bool_],
) -> float:
    """Macro F1 of someone who knows of each tested unit its group (subject, session) and nothing else.

    The guess is the class that is most over-represented among the group's training rows, as a probe with
    balanced classes would learn it; for a group that does not train, the most frequent training class.

    Args:
        codes: (N,) class codes.
        n_classes: K.
        group: (N,) group of each row.
        split: Rows of each fold.
        usable: (N,) rows that may be fitted and predicted.

    Returns:
        NaN when nothing is tested.
    """
    names, member = np.unique(group, return_inverse=True)
    pooled = np.zeros((n_classes, n_classes), dtype=np.int64)
    for fold in split.folds:
        train, test = fold.train[usable[fold.train]], fold.test[usable[fold.test]]
        if not len(train) or not len(test):
            continue
        counts = np.zeros((len(names), n_classes))
        np.add.at(counts, (member[train], codes[train]), 1.0)
        total = counts.sum(axis=0)
        rates = counts / np.maximum(total, 1.0)
        guess = np.where(counts.sum(axis=1) > 0, rates.argmax(axis=1), total.argmax())
        pooled += confusion(codes[test], guess[member[test]], n_classes)
    return float(scores(pooled).macro_f1)
