"""How often would labels that mean nothing score as well?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.evaluation.bootstrap import label_constant
from nuclr_cli.evaluation.fold_workers import map_whole

DEFAULT_PERMUTATIONS = 200
_TIE = 1e-12


@dataclass(frozen=True)
class PermutationTest:
    """Result of a permutation test.

    Attributes:
        p_value: Share of labellings that score at least as well, the true one counted: (1 + hits) / (1 + n).
        n: Labellings tried besides the true one.
        exact: Whether these are all there are.
        permuted: ``subjects`` (labels are constant within subjects, so whole subjects trade labels) or
            ``units within subjects``.
        smallest_p: The smallest value this test could give: with a score that knows no class names, subjects
            2 + 2 are split the same way by two of the six labellings.
        null_mean: Mean score of permuted labels.
        null_high: 95th percentile of their scores.
    """

    p_value: float
    n: int
    exact: bool
    permuted: str
    smallest_p: float
    null_mean: float
    null_high: float


def default_permutations(subject: NDArray[np.str_], codes: NDArray[np.int64]) -> int:
    """200 when the label is constant within subjects, else 0.

    With whole subjects as the independent draws, a good score from few subjects can be luck, and the
    bootstrap within class cannot show it. With several classes inside subjects luck is rarely the question,
    and every permutation refits the probe.
    """
    return DEFAULT_PERMUTATIONS if label_constant(subject, codes) else 0


def permutation_test(
    score: Callable[[NDArray[np.int64]], float],
    subject: NDArray[np.str_],
    codes: NDArray[np.int64],
    n_permutations: int,
    seed: int,
    on_step: Callable[[int, int], None] = lambda done, total: None,
    *,
    symmetric: bool = False,
    bytes_each: int = 0,
) -> PermutationTest:
    """Compare the score of the true labels with that of permuted ones, everything refitted each time.

    Args:
        score: Class codes (n,) -> score; larger is better.
        subject: (n,) subject of each row.
        codes: (n,) true class codes.
        n_permutations: How many labellings to try, >= 1; fewer when there are not that many.
        seed: Seed of the draws.
        on_step: Called with (done, total) after each labelling.
        symmetric: The score stays the same when classes trade their names, as that of a refitted probe does.
        bytes_each: What one score holds in memory, about; larger ones may go elsewhere (`fitted_by`).
    """
    observed = score(codes)
    constant = label_constant(subject, codes)
    names, group = np.unique(subject, return_inverse=True)
    exact = False
    alike = 1
    if constant:
        label_of = np.zeros(len(names), dtype=np.int64)
        label_of[group] = codes
        total = _n_labellings(label_of)
        exact = total - 1 <= n_permutations
        if exact:
            alike = _n_renamings(label_of) if symmetric else 1
            labellings = (np.array(one)[group] for one in _all_labellings(label_of))
            n = total - 1
        else:
            labellings = (_shuffled(label_of, seed, i)[group] for i in range(n_permutations))
            n = n_permutations
    else:
        labellings = (_within(group, len(names), codes, seed, i) for i in range(n_permutations))
        n = n_permutations
    null: list[float] = []
    others = (one for one in labellings if not (exact and np.array_equal(one, codes)))
    for found, _ in map_whole(score, others, bytes_each):
        null.append(found)
        on_step(len(null), n)
    values = np.array(null)
    p_value = (1 + int((values >= observed - _TIE).sum())) / (1 + n)
    return PermutationTest(
        p_value=p_value,
        n=n,
        exact=exact,
        permuted="subjects" if constant else "units within subjects",
        smallest_p=min(alike / (1 + n), p_value),
        null_mean=float(values.mean()) if n else math.nan,
        null_high=float(np.percentile(values, 95)) if n else math.nan,
    )


def _n_labellings(labels: NDArray[np.int64]) -> int:
    """Distinct ways to give the same labels to the subjects."""
    total = math.factorial(len(labels))
    for count in np.unique(labels, return_counts=True)[1].tolist():
        total //= math.factorial(count)
    return total


def _n_renamings(labels: NDArray[np.int64]) -> int:
    """Ways in which classes with equally many subjects can trade names."""
    sizes = np.unique(labels, return_counts=True)[1]
    return math.prod(math.factorial(n) for n in np.unique(sizes, return_counts=True)[1].tolist())


def _all_labellings(labels: NDArray[np.int64]) -> Iterator[list[int]]:
    """Every distinct ordering of `labels`."""
    values, counts = np.unique(labels, return_counts=True)
    left = dict(zip(values.tolist(), counts.tolist(), strict=True))
    chosen: list[int] = []

    def extend() -> Iterator[list[int]]:
        if len(chosen) == len(labels):
            yield list(chosen)
            return
        for value in left:
            if left[value]:
                left[value] -= 1
                chosen.append(value)
                yield from extend()
                chosen.pop()
                left[value] += 1

    return extend()


def _shuffled(labels: NDArray[np.int64], seed: int, index: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, index]).permutation(labels)


def _within(
    group: NDArray[np.intp], n_groups: int, codes: NDArray[np.int64], seed: int, index: int
) -> NDArray[np.int64]:
    rng = np.random.default_rng([seed, index])
    permuted = codes.copy()
    for i in range(n_groups):
        rows = np.flatnonzero(group == i)
        permuted[rows] = codes[rng.permutation(rows)]
    return permuted
