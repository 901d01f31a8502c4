"""Scores of predicted numbers, pooled over folds, with bootstrap intervals, side by side with baselines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.errors import InputError
from nuclr_cli.evaluation.bootstrap import FEW_SUBJECTS, ResamplingPlan, draw_weights, interval
from nuclr_cli.evaluation.records import Score
from nuclr_cli.evaluation.splits import DEFAULT_FOLDS, Split, Strings, UnitKeys
from nuclr_cli.evaluation.verdicts import Rival, plain_verdict

Floats = NDArray[np.float64]

N_STRATA = 5
MEAN = "mean"
"""Name of the method that predicts the mean of each fold's training units: chance, for a number."""
GUESSES = (MEAN, "session_mean", "subject_mean")
"""Methods that know the numbers of training units and nothing of a tested one but where it is from."""
_AT_ONCE = 4_000_000  # weights held at a time: 32 MB


@dataclass(frozen=True)
class RegressionScores:
    """One value a metric of one prediction, or (B,) arrays of many resamples; NaN where undefined.

    Attributes:
        r2: 1 - squared error / squared distance from the mean of the tested units, as scikit-learn's.
        spearman: Rank correlation, mean ranks for ties; undefined when a side is constant.
        mae: Mean absolute error, in the unit of the target.
    """

    r2: Floats
    spearman: Floats
    mae: Floats


@dataclass(frozen=True)
class RegressionMethod:
    """(n,) predicted numbers of the tested rows."""

    name: str
    title: str
    predicted: Floats


@dataclass(frozen=True)
class RegressionResult:
    """One method on the tested units.

    Attributes:
        name: Short name; ``nuclr`` is the embedding under test.
        title: For people.
        r2, spearman, mae: Pooled over folds; Spearman is None where the method gives a fold one number.
        nuclr_minus: NuCLR's R2 minus this one's, on the same resamples; None for NuCLR itself.
    """

    name: str
    title: str
    r2: Score
    spearman: Score | None
    mae: Score
    nuclr_minus: Score | None = None


def regression_scores(truth: Floats, predicted: Floats) -> RegressionScores:
    """Scores of (n,) predictions."""
    one = ResamplingPlan("units", np.zeros(len(truth), dtype=np.int64), np.zeros(1, dtype=np.int64))
    many = bootstrap_regression(one, np.ones((1, 1), dtype=np.int32), truth, predicted)
    return RegressionScores(many.r2[0], many.spearman[0], many.mae[0])


def bootstrap_regression(
    plan: ResamplingPlan, weights: NDArray[np.int32], truth: Floats, predicted: Floats
) -> RegressionScores:
    """Scores of every resample, (B,) each.

    Args:
        plan: What is resampled, over the same n rows.
        weights: (B, G), from `draw_weights`.
        truth, predicted: (n,) finite numbers.
    """
    centred = truth - truth.mean()  # keeps the sums of squares accurate for numbers far from 0
    parts = np.stack(
        [np.ones(len(truth)), centred, centred**2, (truth - predicted) ** 2, np.abs(truth - predicted)]
    )
    sums = np.stack([np.bincount(plan.group, part, minlength=plan.n_groups) for part in parts], axis=1)
    total, first, second, squared, absolute = (weights.astype(np.float64) @ sums).T
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = second - first**2 / total
        flat = spread <= 1e-12 * second  # all resampled rows alike, up to rounding
        r2 = np.where(flat, np.nan, 1.0 - squared / spread)
        mae = absolute / total
    spearman = np.concatenate(
        [_weighted_spearman(part, truth, predicted) for part in row_weights(plan, weights)]
    )
    return RegressionScores(r2, spearman, mae)


def row_weights(plan: ResamplingPlan, weights: NDArray[np.int32]) -> Iterator[Floats]:
    """How often each row is in each resample: (b, n) parts of a (B, n) array that may not fit in memory."""
    step = max(1, _AT_ONCE // max(1, len(plan.group)))
    for start in range(0, len(weights), step):
        yield weights[start : start + step, plan.group].astype(np.float64)


def _weighted_spearman(weights: Floats, truth: Floats, predicted: Floats) -> Floats:
    """(b,) Spearman correlation with row i drawn ``weights[b, i]`` times."""
    total = weights.sum(axis=1, keepdims=True)
    centre = (total + 1.0) / 2.0  # the mean of any total's mean ranks
    x, y = (_weighted_ranks(weights, side) - centre for side in (truth, predicted))
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = np.sqrt((weights * x**2).sum(axis=1) * (weights * y**2).sum(axis=1))
        result: Floats = np.where(spread > 0, (weights * x * y).sum(axis=1) / spread, np.nan)
    return result


def _weighted_ranks(weights: Floats, values: Floats) -> Floats:
    """(b, n) mean ranks among all drawn rows."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    drawn = np.add.reduceat(weights[:, order], starts, axis=1)
    rank = np.cumsum(drawn, axis=1) - drawn + (drawn + 1.0) / 2.0
    tie = np.empty(len(values), dtype=np.int64)
    tie[order] = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(values))))
    ranks: Floats = rank[:, tie]
    return ranks


def subject_plan(subject: Strings) -> ResamplingPlan:
    """Resample subjects; of a single one, units.

    Args:
        subject: (n,) subject of each tested row.
    """
    names, group = np.unique(subject, return_inverse=True)
    if len(names) == 1:
        note = f"The interval is over units, all of subject {names[0]}: it says nothing about other animals."
        return ResamplingPlan(
            "units", np.arange(len(subject)), np.zeros(len(subject), dtype=np.int64), (note,)
        )
    notes: tuple[str, ...] = ()
    if len(names) < FEW_SUBJECTS:
        notes = (f"The intervals come from {len(names)} test subjects only: take them as a rough guide.",)
    return ResamplingPlan("subjects", group.astype(np.int64), np.zeros(len(names), dtype=np.int64), notes)


def training_means(target: Floats, split: Split, usable: NDArray[np.bool_]) -> Floats:
    """(N,) mean of each fold's training rows for its test rows; NaN elsewhere."""
    predicted = np.full(len(target), np.nan)
    for fold in split.folds:
        train, test = fold.train[usable[fold.train]], fold.test[usable[fold.test]]
        if len(train):
            predicted[test] = target[train].mean()
    return predicted


def group_means(target: Floats, group: Strings, split: Split, usable: NDArray[np.bool_]) -> Floats:
    """(N,) mean of the training rows of each test row's own group (its session, its subject).

    What recognising the group is worth. The mean of the whole fold where the group does not train; NaN where
    nothing is tested.
    """
    predicted = training_means(target, split, usable)
    names, member = np.unique(group, return_inverse=True)
    for fold in split.folds:
        train, test = fold.train[usable[fold.train]], fold.test[usable[fold.test]]
        counts = np.bincount(member[train], minlength=len(names))
        sums = np.bincount(member[train], target[train], minlength=len(names))
        known = test[counts[member[test]] > 0]
        predicted[known] = sums[member[known]] / counts[member[known]]
    return predicted


def quantile_strata(target: Floats, keys: UnitKeys, n_folds: int | None) -> Strings:
    """(N,) which part of the target's range a row lies in, as a label that a unit split can stratify by.

    As many equal parts, up to `N_STRATA`, as leave every fold a unit of each; '' where there is no value.
    """
    strata = np.full(len(target), "", dtype="<U2")
    rows = keys.order[np.isfinite(target[keys.order])]
    n_parts = max(1, min(N_STRATA, len(rows) // (n_folds or DEFAULT_FOLDS)))
    place = np.argsort(np.argsort(target[rows], kind="stable"), kind="stable")
    strata[rows] = [f"q{part}" for part in (place * n_parts // max(1, len(rows))).tolist()]
    return strata


def compare_regression(
    truth: Floats,
    nuclr: RegressionMethod,
    others: Sequence[RegressionMethod],
    plan: ResamplingPlan,
    *,
    n_resamples: int,
    seed: int,
) -> tuple[RegressionResult, ...]:
    """Score every method on the same units with the same resamples. Returns NuCLR, then the others as given.

    Args:
        truth: (n,) values of the tested rows, not all equal.
        nuclr: The embedding's predictions.
        others: The baselines'; one named `MEAN` has no Spearman correlation.
        plan: What is resampled.
        n_resamples: Bootstrap resamples.
        seed: Seed of the resamples.

    Raises:
        InputError: No resample has values that differ.
    """
    weights = draw_weights(plan, n_resamples, seed)
    reference = bootstrap_regression(plan, weights, truth, nuclr.predicted)
    best = regression_scores(truth, nuclr.predicted)
    results = [_result(nuclr, best, reference)]
    for method in others:
        own = regression_scores(truth, method.predicted)
        again = bootstrap_regression(plan, weights, truth, method.predicted)
        difference = _score(best.r2 - own.r2, reference.r2 - again.r2)
        results.append(_result(method, own, again, difference))
    return tuple(results)


def _result(
    method: RegressionMethod, point: RegressionScores, spread: RegressionScores, minus: Score | None = None
) -> RegressionResult:
    ranked = method.name != MEAN and bool(np.isfinite(point.spearman))
    return RegressionResult(
        name=method.name,
        title=method.title,
        r2=_score(point.r2, spread.r2),
        spearman=_score(point.spearman, spread.spearman) if ranked else None,
        mae=_score(point.mae, spread.mae),
        nuclr_minus=minus,
    )


def _score(value: Floats, spread: Floats) -> Score:
    if not np.isfinite(spread).any():
        raise InputError(
            f"In none of {len(spread)} resamples do the values differ: there is no interval.",
            "Raise --bootstrap, or test more units",
        )
    bounds = interval(spread)
    return Score(float(value), bounds.low, bounds.high)


def regression_verdict(methods: Sequence[RegressionResult], missing: Sequence[str] = ()) -> str:
    """Who has the highest R2, by how much, and whether the interval of the difference excludes 0.

    Args:
        methods: NuCLR first.
        missing: Names of baselines that could not be computed.
    """
    text = plain_verdict("R2", methods[0].r2, regression_rivals(methods), missing)
    if methods[0].r2.value <= 0:
        text += " An R2 of 0 or less is no better than one number for all tested units."
    return text


def regression_rivals(methods: Sequence[RegressionResult]) -> list[Rival]:
    """What NuCLR, the first method, is compared with."""
    return [
        Rival(method.title, method.r2, method.nuclr_minus, method.name not in GUESSES)
        for method in methods[1:]
    ]
