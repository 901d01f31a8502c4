"""A class inside a class: first which parent, then which of its children, against all children at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.evaluation.cross_prediction import fit_bytes, train_and_predict
from nuclr_cli.evaluation.fold_workers import map_folds
from nuclr_cli.evaluation.metrics import confusion, scores
from nuclr_cli.evaluation.predictions import Predictions
from nuclr_cli.evaluation.probes import Variant
from nuclr_cli.evaluation.splits import Split


@dataclass(frozen=True)
class Tree:
    """Which parent each class belongs to.

    Attributes:
        parents: P names, sorted.
        parent_of: (K,) code of each child's parent.
    """

    parents: tuple[str, ...]
    parent_of: NDArray[np.int64]

    def children(self, parent: int) -> NDArray[np.int64]:
        """Codes of a parent's children."""
        return np.flatnonzero(self.parent_of == parent)


@dataclass(frozen=True)
class ParentScore:
    """How well the children of one parent are told from one another.

    Attributes:
        name: The parent.
        children: Its children.
        support: Tested units of it.
        flat, hierarchical: Macro F1 of its units when each probe chooses among its children only; None with
            one child, or without a tested unit.
    """

    name: str
    children: tuple[str, ...]
    support: int
    flat: float | None
    hierarchical: float | None


def hierarchical_predictions(
    values: NDArray[np.floating[Any]],
    codes: NDArray[np.int64],
    tree: Tree,
    split: Split,
    usable: NDArray[np.bool_],
    variant: Variant,
) -> Predictions:
    """Probability of a child: p(parent) x p(child | parent), each from a probe of its own.

    In each fold one probe is fitted for the parents on all training rows, and one for each parent's children
    on the training rows of that parent.

    Args:
        values: (N, D) float.
        codes: (N,) int64 class codes of the children; < 0 where there is none.
        tree: Who belongs to whom.
        split: Rows of each fold.
        usable: (N,) rows that may be fitted and predicted.
        variant: Which probe, for parents and children alike; C, if nested, is chosen for each fit.

    Returns:
        (N, K) products, summing to 1 in each predicted row.
    """
    parent_codes = np.where(codes >= 0, tree.parent_of[codes], -1)
    n_children, n_parents = len(tree.parent_of), len(tree.parents)
    places = [
        place
        for place, fold in enumerate(split.folds)
        if usable[fold.train].any() and usable[fold.test].any()
    ]

    def work(place: int) -> NDArray[np.float64]:
        fold = split.folds[place]
        train, test = fold.train[usable[fold.train]], fold.test[usable[fold.test]]
        of_parent, _ = train_and_predict(values, parent_codes, n_parents, split, train, test, variant)
        product = np.zeros((len(test), n_children))
        for parent in np.unique(parent_codes[train]).tolist():
            own = train[parent_codes[train] == parent]
            of_child, _ = train_and_predict(values, codes, n_children, split, own, test, variant)
            product += of_parent[:, [parent]] * of_child
        return product

    predicted = np.full(len(codes), -1, dtype=np.int64)
    probability = np.full((len(codes), n_children), np.nan)
    notes = []
    done = map_folds(work, places, fit_bytes(values, codes, usable, variant))
    for place, (product, failed) in zip(places, done, strict=True):
        fold = split.folds[place]
        test = fold.test[usable[fold.test]]
        probability[test], predicted[test] = product, product.argmax(axis=1)
        if failed:
            notes.append(f"Fold {fold.name!r}: a probe of the hierarchy did not converge.")
    return Predictions(predicted, probability, tuple(notes))


def parent_scores(
    tree: Tree,
    classes: tuple[str, ...],
    truth: NDArray[np.int64],
    flat: NDArray[np.float64],
    hierarchical: NDArray[np.float64],
) -> tuple[ParentScore, ...]:
    """Score the choice among each parent's children.

    Args:
        tree: Who belongs to whom.
        classes: K names of the children.
        truth: (n,) child codes of the tested rows.
        flat, hierarchical: (n, K) probabilities of the two probes.
    """
    found = []
    for parent, name in enumerate(tree.parents):
        children = tree.children(parent)
        rows = np.flatnonzero(tree.parent_of[truth] == parent)
        askable = len(children) > 1 and len(rows) > 0
        true = np.searchsorted(children, truth[rows])
        f1 = [
            float(scores(confusion(true, p[rows][:, children].argmax(axis=1), len(children))).macro_f1)
            if askable
            else None
            for p in (flat, hierarchical)
        ]
        names = tuple(classes[child] for child in children.tolist())
        found.append(ParentScore(name, names, len(rows), f1[0], f1[1]))
    return tuple(found)
