"""Results side by side: a line a method, intervals, paired differences, and a plain sentence on who wins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.evaluation.bootstrap import (
    Interval,
    ResamplingPlan,
    bootstrap_scores,
    draw_weights,
    interval,
    intervals,
)
from nuclr_cli.evaluation.metrics import Scores, confusion, scores

NUCLR, MAJORITY, CHANCE = "nuclr", "majority", "chance"


@dataclass(frozen=True)
class Score:
    """A score (or a difference of scores) and the percentile interval of its bootstrap."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class MethodResult:
    """One method on the tested units.

    Attributes:
        name: Short name; ``nuclr`` is the embedding under test.
        title: For people.
        macro_f1, balanced_accuracy, accuracy: Pooled over folds.
        nuclr_minus: NuCLR's macro F1 minus this method's, resampled together; None for NuCLR itself.
        note: What the interval of this method means when it is not the bootstrap of the others.
    """

    name: str
    title: str
    macro_f1: Score
    balanced_accuracy: Score
    accuracy: Score
    nuclr_minus: Score | None = None
    note: str = ""


@dataclass(frozen=True)
class MethodPredictions:
    """(n,) predicted class codes of the tested rows."""

    name: str
    title: str
    predicted: NDArray[np.int64]


@dataclass(frozen=True)
class Judge:
    """Scores methods on the same units with the same resamples.

    Attributes:
        truth: (n,) class codes of the tested rows.
        n_classes: K.
        plan: What is resampled.
        weights: (B, G) how often each group of the plan is in each resample.
        nuclr: The embedding's predictions; every other method is compared with them.
    """

    truth: NDArray[np.int64]
    n_classes: int
    plan: ResamplingPlan
    weights: NDArray[np.int32]
    nuclr: MethodPredictions

    @classmethod
    def with_resamples(
        cls,
        truth: NDArray[np.int64],
        n_classes: int,
        nuclr: MethodPredictions,
        plan: ResamplingPlan,
        *,
        n_resamples: int,
        seed: int,
    ) -> Judge:
        """Draw the resamples, once for all methods."""
        return cls(truth, n_classes, plan, draw_weights(plan, n_resamples, seed), nuclr)

    def nuclr_result(self) -> MethodResult:
        """The embedding's own scores."""
        return _result(self.nuclr.name, self.nuclr.title, self._reference, self._resampled)

    def result(self, method: MethodPredictions, note: str = "") -> MethodResult:
        """Another method's scores, and how far NuCLR is above them."""
        own = scores(confusion(self.truth, method.predicted, self.n_classes))
        again = bootstrap_scores(self.plan, self.weights, self.truth, method.predicted, self.n_classes)
        difference = _difference(self._reference, own, self._resampled.macro_f1 - again.macro_f1)
        return _result(method.name, method.title, own, again, difference, note)

    def chance(self, simulated: Scores) -> MethodResult:
        """What guessing scores, from `chance_scores`."""
        expected = Scores(
            *(np.array(getattr(simulated, name).mean()) for name in simulated.__dataclass_fields__)
        )
        spread = self._resampled.macro_f1 - float(expected.macro_f1)
        return _result(
            CHANCE,
            "chance",
            expected,
            simulated,
            _difference(self._reference, expected, spread),
            note="mean and spread of simulated guesses, drawn with the training class frequencies",
        )

    def score(self, codes: NDArray[np.int64], predicted: NDArray[np.int64], n_classes: int) -> Scored:
        """Scores of any prediction about the same rows, in other classes too, with the same resamples."""
        resampled = bootstrap_scores(self.plan, self.weights, codes, predicted, n_classes)
        return Scored(scores(confusion(codes, predicted, n_classes)), resampled)

    @cached_property
    def _reference(self) -> Scores:
        return scores(confusion(self.truth, self.nuclr.predicted, self.n_classes))

    @cached_property
    def _resampled(self) -> Scores:
        return bootstrap_scores(self.plan, self.weights, self.truth, self.nuclr.predicted, self.n_classes)


@dataclass(frozen=True)
class Scored:
    """Scores of one prediction, and (B,) of its resamples."""

    value: Scores
    resampled: Scores

    def metric(self, name: str) -> Score:
        """One of `METRICS` with its interval."""
        bounds = interval(getattr(self.resampled, name))
        return Score(float(getattr(self.value, name)), bounds.low, bounds.high)

    def minus(self, other: Scored, name: str) -> Score:
        """How far this one is above another in one of `METRICS`, resampled together."""
        bounds = interval(getattr(self.resampled, name) - getattr(other.resampled, name))
        return Score(float(getattr(self.value, name) - getattr(other.value, name)), bounds.low, bounds.high)


def compare(
    truth: NDArray[np.int64],
    n_classes: int,
    nuclr: MethodPredictions,
    others: Sequence[MethodPredictions],
    chance: Scores,
    plan: ResamplingPlan,
    *,
    n_resamples: int,
    seed: int,
) -> tuple[MethodResult, ...]:
    """Score every method on the same units with the same resamples.

    Args:
        truth: (n,) class codes of the tested rows.
        n_classes: K.
        nuclr: The embedding's predictions.
        others: The baselines'.
        chance: Simulated scores of chance, from `chance_scores`.
        plan: What is resampled.
        n_resamples: Bootstrap resamples.
        seed: Seed of the resamples.

    Returns:
        NuCLR, the others as given, chance.
    """
    judge = Judge.with_resamples(truth, n_classes, nuclr, plan, n_resamples=n_resamples, seed=seed)
    return judge.nuclr_result(), *map(judge.result, others), judge.chance(chance)


def _difference(reference: Scores, own: Scores, resampled: NDArray[np.float64]) -> Score:
    bounds = interval(resampled)
    return Score(float(reference.macro_f1 - own.macro_f1), bounds.low, bounds.high)


def _result(
    name: str,
    title: str,
    point: Scores,
    spread: Scores,
    difference: Score | None = None,
    note: str = "",
) -> MethodResult:
    bounds = intervals(spread)
    return MethodResult(
        name=name,
        title=title,
        macro_f1=_score(point.macro_f1, bounds["macro_f1"]),
        balanced_accuracy=_score(point.balanced_accuracy, bounds["balanced_accuracy"]),
        accuracy=_score(point.accuracy, bounds["accuracy"]),
        nuclr_minus=difference,
        note=note,
    )


def _score(value: NDArray[np.float64], bounds: Interval) -> Score:
    return Score(float(value), bounds.low, bounds.high)
