"""How many labels a representation needs: the same test units, ever fewer labelled training units."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.evaluation.baselines import Representation
from nuclr_cli.evaluation.bootstrap import ResamplingPlan, bootstrap_scores, draw_weights, interval
from nuclr_cli.evaluation.cross_prediction import fit_bytes, train_and_predict
from nuclr_cli.evaluation.fold_workers import map_folds
from nuclr_cli.evaluation.metrics import confusion, scores
from nuclr_cli.evaluation.nested import Choice
from nuclr_cli.evaluation.probes import Variant
from nuclr_cli.evaluation.records import Score
from nuclr_cli.evaluation.splits import Split

Codes = NDArray[np.int64]

FULL_SHARE = 0.9
"""Share of the score with all labels whose price in labels is reported."""


@dataclass(frozen=True)
class CurvePoint:
    """One fraction of the labels.

    Attributes:
        fraction: Of each fold's labelled training units, class by class.
        n_labelled: Training units of a fold, mean over folds.
        macro_f1: Mean over the draws of which units are labelled; its interval is over draws and over the
            resampled test subjects at once.
        draws: Macro F1 of each draw; one where all units are labelled.
        n_fits: Fits of folds and draws; a fold that trains on one class has none.
        n_default_c: Of these, where C was to be chosen and the labelled units did not allow it: C is the
            default there.
        n_unconverged: Of these, stopped before they converged.
    """

    fraction: float
    n_labelled: float
    macro_f1: Score
    draws: tuple[float, ...]
    n_fits: int
    n_default_c: int
    n_unconverged: int


@dataclass(frozen=True)
class Needed:
    """Labels at which the curve first reaches `FULL_SHARE` of its score with all labels.

    Attributes:
        fraction: Interpolated between measured points on a log axis. When `at_most`, the smallest fraction
            measured, where the curve stands above the mark already.
        low, high: 95 % interval, from the same resamples as the curve's.
        n_labelled: Training units of a fold at `fraction`.
        at_most: True when the true fraction may be smaller still.
    """

    fraction: float
    low: float
    high: float
    n_labelled: float
    at_most: bool


@dataclass(frozen=True)
class Curve:
    """One representation, read with ever fewer labels."""

    name: str
    title: str
    points: tuple[CurvePoint, ...]
    needed: Needed

    @property
    def c_chosen(self) -> bool:
        """Whether a fold with all its labels could choose C, where it was to be chosen."""
        return self.points[-1].n_default_c < self.points[-1].n_fits


@dataclass(frozen=True)
class _Fit:
    """One fold of one draw.

    Attributes:
        test: Rows predicted.
        predicted: Their class codes.
        n_train: Labelled training units.
        choice: Of C; None when nothing was fitted.
    """

    test: NDArray[np.int64]
    predicted: Codes
    n_train: int
    choice: Choice | None


@dataclass
class _Tally:
    """What is counted over the fits of one fraction."""

    sizes: list[int] = field(default_factory=list)
    n_fits: int = 0
    n_default_c: int = 0
    n_unconverged: int = 0

    def add(self, fit: _Fit, failed: bool) -> None:
        if fit.n_train:
            self.sizes.append(fit.n_train)
        if fit.choice is not None:
            self.n_fits += 1
            self.n_default_c += bool(fit.choice.why_not)
            self.n_unconverged += failed


def labelled_subset(
    train: NDArray[np.int64], codes: Codes, fraction: float, seed: int | np.random.SeedSequence
) -> NDArray[np.int64]:
    """Part of the training rows, class by class, the smaller within the larger for the same seed.

    Args:
        train: (n,) rows, in an order that does not depend on the table's.
        codes: (N,) class of each row.
        fraction: In (0, 1].
        seed: Which draw.

    Returns:
        Rows in the order of `train`: of each class the nearest whole number to `fraction`, at least one.
    """
    rng = np.random.default_rng(seed)
    kept = np.zeros(len(train), dtype=bool)
    for klass in np.unique(codes[train]):
        members = rng.permutation(np.flatnonzero(codes[train] == klass))
        kept[members[: max(1, round(fraction * len(members)))]] = True
    return train[kept]


def efficiency_curves(
    methods: Sequence[Representation],
    codes: Codes,
    n_classes: int,
    split: Split,
    usable: NDArray[np.bool_],
    variant: Variant,
    plan: ResamplingPlan,
    *,
    fractions: Sequence[float],
    repeats: int,
    n_resamples: int,
    seed: int,
    done: Callable[[int], None] = lambda number: None,
) -> tuple[Curve, ...]:
    """Read every representation with every fraction; all methods see the same labelled units.

    Args:
        methods: Descriptions of the N units.
        codes: (N,) class codes.
        n_classes: K.
        split: Folds; the test rows are the same at every fraction.
        usable: (N,) rows that may be fitted and predicted.
        variant: Which probe.
        plan: What is resampled, over the tested rows in the order of their keys.
        fractions: Ascending, in (0, 1].
        repeats: Draws of the labelled units.
        n_resamples: Bootstrap resamples of a curve, shared out among the draws.
        seed: Of the draws and the resamples.
        done: Told how many methods are finished.
    """
    order = split.keys.order
    tested = order[(split.tested & usable)[order]]
    per_draw = max(1, -(-n_resamples // repeats))
    weights = [draw_weights(plan, per_draw, seed + draw) for draw in range(repeats)]
    curves = []
    for number, method in enumerate(methods):
        work = [
            (fraction, draw, fold)
            for fraction in fractions
            for draw in range(repeats if fraction < 1 else 1)
            for fold in range(len(split.folds))
        ]
        fit = partial(_fit, method, codes, n_classes, split, usable, variant, seed)
        fitted = map_folds(fit, work, fit_bytes(method.values, codes, usable, variant))
        pooled: dict[tuple[float, int], Codes] = {}
        tallies = {fraction: _Tally() for fraction in fractions}
        for (fraction, draw, _), (one, failures) in zip(work, fitted, strict=True):
            predicted = pooled.setdefault((fraction, draw), np.full(len(codes), -1, dtype=np.int64))
            predicted[one.test] = one.predicted
            tallies[fraction].add(one, bool(failures))
        curves.append(
            _curve(method, pooled, tallies, codes, n_classes, tested, plan, weights, fractions, repeats)
        )
        done(number + 1)
    return tuple(curves)


def _fit(
    method: Representation,
    codes: Codes,
    n_classes: int,
    split: Split,
    usable: NDArray[np.bool_],
    variant: Variant,
    seed: int,
    item: tuple[float, int, int],
) -> _Fit:
    fraction, draw, place = item
    fold = split.folds[place]
    train, test = fold.train[usable[fold.train]], fold.test[usable[fold.test]]
    if not len(train) or not len(test):
        return _Fit(test[:0], test[:0], 0, None)
    some = labelled_subset(train, codes, fraction, seed=_seed(seed, draw, place))
    shares, choice = train_and_predict(
        method.values, codes, n_classes, split, some, test, variant, method.front
    )
    return _Fit(test, shares.argmax(axis=1), len(some), choice)


def _seed(*parts: int) -> np.random.SeedSequence:
    return np.random.SeedSequence(parts)


def _curve(
    method: Representation,
    pooled: dict[tuple[float, int], Codes],
    tallies: dict[float, _Tally],
    codes: Codes,
    n_classes: int,
    tested: NDArray[np.int64],
    plan: ResamplingPlan,
    weights: Sequence[NDArray[np.int32]],
    fractions: Sequence[float],
    repeats: int,
) -> Curve:
    truth = codes[tested]
    points, resampled, means = [], [], []
    for fraction in fractions:
        draws, again = [], []
        for draw in range(repeats):
            # All labels leave nothing to draw: the one fit stands for every draw.
            predicted = pooled[fraction, draw if fraction < 1 else 0][tested]
            if draw == 0 or fraction < 1:
                draws.append(float(scores(confusion(truth, predicted, n_classes)).macro_f1))
            again.append(bootstrap_scores(plan, weights[draw], truth, predicted, n_classes).macro_f1)
        spread = np.concatenate(again)
        bounds = interval(spread)
        mean = float(np.mean(draws))
        tally = tallies[fraction]
        points.append(
            CurvePoint(
                fraction,
                float(np.mean(tally.sizes)),
                Score(mean, bounds.low, bounds.high),
                tuple(draws),
                tally.n_fits,
                tally.n_default_c,
                tally.n_unconverged,
            )
        )
        resampled.append(spread)
        means.append(mean)
    return Curve(method.name, method.title, tuple(points), _needed(points, means, np.array(resampled)))


def _needed(points: Sequence[CurvePoint], means: Sequence[float], resampled: NDArray[np.float64]) -> Needed:
    fractions = np.array([point.fraction for point in points])
    labelled = np.array([point.n_labelled for point in points])
    value = crossing(fractions, np.array(means))
    spread = [crossing(fractions, column) for column in resampled.T]
    bounds = interval(np.array(spread))
    n_labelled = float(np.exp(np.interp(np.log(value), np.log(fractions), np.log(labelled))))
    return Needed(value, bounds.low, bounds.high, n_labelled, bool(value <= fractions[0]))


def crossing(fractions: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    """First fraction at which a curve reaches `FULL_SHARE` of its last value, on a log axis.

    Args:
        fractions: (F,) ascending, positive.
        values: (F,) scores.
    """
    mark = FULL_SHARE * values[-1]
    first = int(np.argmax(values >= mark))
    if first == 0:
        return float(fractions[0])
    rise = values[first] - values[first - 1]
    share = (mark - values[first - 1]) / rise if rise > 0 else 1.0
    low, high = np.log(fractions[first - 1]), np.log(fractions[first])
    return float(np.exp(low + share * (high - low)))
