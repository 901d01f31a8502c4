"""Who trains and who tests a probe of pairs: no unit is on both sides of a fold.

Splitting pairs as if they were independent would test (a, b) after training on (a, c): the probe could then
know unit a instead of what connects units. Here units are split, and the pairs follow them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.errors import InputError
from nuclr_cli.evaluation.splits import LEFT_OUT, Split

Rows = NDArray[np.int64]

DEFAULT_PAIR_FOLDS = 3
"""Folds of a unit split. K folds test 1/K of the pairs of a session and train on ((K - 1) / K)^2 of them."""


def units_of_pairs(pre: Rows, post: Rows) -> Rows:
    """Rows of the units of pairs, each once, in the order of the pairs."""
    both = np.stack([pre, post], axis=1).reshape(-1)
    rows, first = np.unique(both, return_index=True)
    in_order: Rows = rows[np.argsort(first)]
    return in_order


@dataclass(frozen=True)
class PairFold:
    """One fit and its test: pairs whose units are all outside, and all inside, the tested part.

    Attributes:
        name: Of the tested part.
        train, test: Pairs, ascending.
        n_across: Pairs with one unit inside and one outside: they take no part in this fold.
    """

    name: str
    train: Rows
    test: Rows
    n_across: int


@dataclass(frozen=True)
class PairSplit:
    """A partition of units, and the pairs that follow from it.

    Attributes:
        units: The partition. Units in no pair are left out.
        pre, post: (P,) rows of `units.keys`.
        folds: Train and test pairs.

    Raises:
        InputError: A unit is on both sides of a fold, or a subject (session) of a subject (session) split.
    """

    units: Split
    pre: Rows
    post: Rows
    folds: tuple[PairFold, ...]

    def __post_init__(self) -> None:
        keys = self.units.keys
        groups = {"subject": keys.subject, "session": keys.recording}
        for fold in self.folds:
            train, test = (
                np.concatenate([self.pre[pairs], self.post[pairs]]) for pairs in (fold.train, fold.test)
            )
            both = np.intersect1d(train, test)
            if len(both):
                names = ["/".join(str(column[row]) for column in keys.columns()) for row in both[:5].tolist()]
                raise InputError(
                    "A split of pairs must not train and test on the same unit, but fold "
                    f"{fold.name!r} does: {', '.join(names)}.",
                    "Give each unit one fold",
                )
            group = groups.get(self.units.kind)
            if group is not None and np.isin(group[test], group[train]).any():
                raise InputError(
                    f"A {self.units.kind} split must not train and test on the same {self.units.kind}, but "
                    f"fold {fold.name!r} does.",
                    f"Give each {self.units.kind} one fold",
                )

    @cached_property
    def fold_of(self) -> Rows:
        """(P,) which fold tests the pair, -1 = none."""
        fold_of = np.full(len(self.pre), -1, dtype=np.int64)
        for i, fold in enumerate(self.folds):
            fold_of[fold.test] = i
        return fold_of

    @cached_property
    def trains(self) -> NDArray[np.bool_]:
        """(P,) whether some fold trains on the pair."""
        trains = np.zeros(len(self.pre), dtype=bool)
        for fold in self.folds:
            trains[fold.train] = True
        return trains

    @cached_property
    def in_split(self) -> NDArray[np.bool_]:
        """(P,) whether both units are in the split."""
        fold = self.units.fold
        return np.asarray((fold[self.pre] != LEFT_OUT) & (fold[self.post] != LEFT_OUT))

    @cached_property
    def across(self) -> NDArray[np.bool_]:
        """(P,) whether the two units belong to different parts, so that no fold tests the pair."""
        fold = self.units.fold
        return np.asarray(self.in_split & (fold[self.pre] != fold[self.post]))


def split_pairs(units: Split, pre: Rows, post: Rows, usable: NDArray[np.bool_]) -> PairSplit:
    """Train and test pairs of every fold.

    Args:
        units: The partition of units.
        pre, post: (P,) rows of `units.keys`.
        usable: (P,) pairs that may be fitted and tested (False: a unit has no embedding).

    Returns:
        The folds that test any pair, in the order of `units.fold_names`.

    Raises:
        InputError: No fold tests a pair.
    """
    first, second = units.fold[pre], units.fold[post]
    taking_part = usable & (first != LEFT_OUT) & (second != LEFT_OUT)
    folds = []
    for i, name in enumerate(units.fold_names):
        inside = (first == i).astype(int) + (second == i)
        test, train = taking_part & (inside == 2), taking_part & (inside == 0)
        if test.any():
            n_across = int((taking_part & (inside == 1)).sum())
            folds.append(PairFold(name, np.flatnonzero(train), np.flatnonzero(test), n_across))
    if not folds:
        raise InputError(
            f"With this {units.kind} split no fold has a pair whose units are both tested.",
            "Give more pairs, or fewer parts: --folds 2",
        )
    return PairSplit(units, pre, post, tuple(folds))
