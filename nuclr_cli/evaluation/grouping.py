"""Units and whole groups (subjects, sessions) dealt to folds, evenly in every class as far as may be."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def stratified_groups(group: NDArray[np.str_], labels: NDArray[Any], n_folds: int) -> NDArray[np.int64]:
    """Deal whole groups to folds, evenly in every class as far as the groups allow.

    The groups that weigh most come first; each goes where the folds' shares of the classes become most
    even. No chance is involved, and only group names and counts matter, not the order of the rows.

    Args:
        group: (n,) group of each row.
        labels: (n,) class of each row.
        n_folds: Number of folds, from 2 to the number of groups.

    Returns:
        (n,) int64 fold of each row, 0 ... n_folds - 1; no fold is empty.

    Raises:
        ValueError: `n_folds` does not fit.
    """
    names, row_group = np.unique(group, return_inverse=True)
    classes, row_class = np.unique(labels, return_inverse=True)
    if not 2 <= n_folds <= len(names):
        raise ValueError(f"{n_folds} folds of {len(names)} groups")
    counts = np.zeros((len(names), len(classes)))
    np.add.at(counts, (row_group, row_class), 1.0)
    shares = counts / counts.sum(axis=0)
    # Rounded, so that the last bit of a sum does not decide between equals; then the name does.
    order = sorted(range(len(names)), key=lambda i: (-round(float(shares[i].sum()), 9), str(names[i])))
    held = np.zeros((n_folds, len(classes)))
    sizes = np.zeros(n_folds)
    fold_of = np.empty(len(names), dtype=np.int64)
    for dealt, i in enumerate(order):
        empty = sizes == 0
        # As many groups left as empty folds: each must take one.
        allowed = empty if len(order) - dealt == int(empty.sum()) else np.ones(n_folds, dtype=bool)
        # The sum of squares of the folds' shares is least when they are even; only the chosen fold's changes.
        growth = np.round((2 * held + shares[i]) @ shares[i], 9)
        fold = min(np.flatnonzero(allowed).tolist(), key=lambda k: (growth[k], sizes[k], k))
        held[fold] += shares[i]
        sizes[fold] += counts[i].sum()
        fold_of[i] = fold
    return fold_of[row_group]


def deal_units(labels: NDArray[Any], n_folds: int, seed: int) -> NDArray[np.int64]:
    """Deal units to folds, evenly in every class and in all.

    Args:
        labels: (n,) class of each unit, in an order that does not depend on the table's (that of the keys).
        n_folds: Number of folds.
        seed: Seed of the shuffle within each class.

    Returns:
        (n,) int64 fold of each unit.
    """
    rng = np.random.default_rng(seed)
    fold = np.empty(len(labels), dtype=np.int64)
    dealt = 0
    for klass in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == klass))
        # Dealing goes on where the last class stopped, so that folds differ by one unit at most.
        fold[members] = (dealt + np.arange(len(members))) % n_folds
        dealt += len(members)
    return fold
