"""Nested cross-validation: the strength of the penalty, chosen inside the training rows of a fold.

The rows that a fold tests are never looked at. What the split keeps apart (subjects, sessions) is kept apart
inside too: a C that suits new units of known animals need not suit new animals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.evaluation.fold_workers import map_folds
from nuclr_cli.evaluation.grouping import deal_units, stratified_groups
from nuclr_cli.evaluation.metrics import confusion, scores
from nuclr_cli.evaluation.probes import DEFAULT_C, PLAIN, FrontEnd, Variant, prepare
from nuclr_cli.evaluation.splits import DEFAULT_SEED, Split

GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
INNER_FOLDS = 5
_TIE = 1e-12


@dataclass(frozen=True)
class Choice:
    """A chosen C.

    Attributes:
        c: The value of `GRID` with the highest macro F1, the smallest of equals; `DEFAULT_C` when nothing
            could be compared.
        macro_f1: One score a value of `GRID`, pooled over the inner folds; () when nothing could be compared.
        why_not: Why nothing could be compared; empty when it could.
    """

    c: float
    macro_f1: tuple[float, ...] = ()
    why_not: str = ""


def inner_folds(split: Split, rows: NDArray[np.int64], codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) inner fold of each of the training `rows`, at most `INNER_FOLDS`; all 0 where there is no way.

    Args:
        split: The outer split; its kind says what is dealt: subjects, sessions or units.
        rows: (n,) training rows in the order of their keys.
        codes: (n,) class of each of them.
    """
    if split.grouped_by == "unit":
        n = min(INNER_FOLDS, len(rows))
        return deal_units(codes, n, split.seed if split.seed is not None else DEFAULT_SEED)
    keys = split.keys
    group = (keys.subject if split.grouped_by == "subject" else keys.recording)[rows]
    n = min(INNER_FOLDS, len(set(group.tolist())))
    return stratified_groups(group, codes, n) if n >= 2 else np.zeros(len(rows), dtype=np.int64)


def choose_c(
    values: NDArray[np.floating[Any]],
    codes: NDArray[np.int64],
    n_classes: int,
    split: Split,
    rows: NDArray[np.int64],
    variant: Variant,
    front: FrontEnd = PLAIN,
) -> Choice:
    """Choose C for a probe that will be fitted on `rows`, by cross-validation among them.

    Args:
        values: (N, D) float; only `rows` are read.
        codes: (N,) class codes; only those of `rows` are read.
        n_classes: K.
        split: The outer split, for what has to be kept apart.
        rows: Training rows, in the order of their keys.
        variant, front: Which probe.
    """
    fold = inner_folds(split, rows, codes[rows])
    sides = [(rows[fold != i], rows[fold == i]) for i in np.unique(fold).tolist()]
    sides = [(train, test) for train, test in sides if len(np.unique(codes[train])) >= 2]
    if not sides:
        return Choice(DEFAULT_C, why_not=f"its training {split.grouped_by}s do not allow a choice of C")

    def predict(side: tuple[NDArray[np.int64], NDArray[np.int64]]) -> NDArray[np.int64]:
        train, test = side
        ready = prepare(values[train], codes[train], variant, front)
        tested = ready.transform(values[test])
        matrices = [
            confusion(codes[test], ready.classifier(variant, c).predict(tested), n_classes) for c in GRID
        ]
        return np.stack(matrices)

    bytes_each = 24 * max(len(train) for train, _ in sides) * values.shape[1]
    pooled = np.sum([matrices for matrices, _ in map_folds(predict, sides, bytes_each)], axis=0)
    f1 = scores(pooled).macro_f1
    best = int(np.flatnonzero(f1 >= f1.max() - _TIE)[0])
    return Choice(GRID[best], tuple(f1.tolist()))
