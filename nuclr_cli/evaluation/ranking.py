"""Scores of ranked pairs: average precision and ROC AUC, with bootstrap intervals, beside baselines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.errors import InputError
from nuclr_cli.evaluation.bootstrap import FEW_SUBJECTS, ResamplingPlan, draw_weights, interval
from nuclr_cli.evaluation.pair_splits import Rows, units_of_pairs
from nuclr_cli.evaluation.records import CHANCE, Score
from nuclr_cli.evaluation.splits import Strings
from nuclr_cli.evaluation.verdicts import Rival, plain_verdict

Floats = NDArray[np.float64]

_AT_ONCE = 2_000_000  # weights held at a time: 16 MB


@dataclass(frozen=True)
class RankingScores:
    """Average precision and area under the ROC curve; one value, or (B,) of many resamples.

    NaN where a class is absent.
    """

    average_precision: Floats
    roc_auc: Floats


@dataclass(frozen=True)
class PairPlan:
    """What is drawn again.

    Attributes:
        unit: ``subjects``, or ``units``: a pair is then there as often as its first unit was drawn times as
            often as its second.
        first: (n,) group of each tested pair: its subject, or its first unit.
        second: (n,) group of its second unit; None when subjects are drawn.
        stratum: (G,) groups are drawn within their stratum: units within their session.
        notes: What limits the interval, one sentence each.
    """

    unit: str
    first: Rows
    second: Rows | None
    stratum: Rows
    notes: tuple[str, ...] = ()

    @property
    def n_groups(self) -> int:
        return len(self.stratum)


@dataclass(frozen=True)
class PairMethod:
    """(n,) scores of the tested pairs, higher = more likely connected."""

    name: str
    title: str
    score: Floats


@dataclass(frozen=True)
class PairResult:
    """One method on the tested pairs.

    Attributes:
        name: Short name; ``nuclr`` is the embedding under test.
        title: For people.
        average_precision, roc_auc: Pooled over folds.
        nuclr_minus: NuCLR's average precision minus this one's, on the same resamples; None for NuCLR itself.
    """

    name: str
    title: str
    average_precision: Score
    roc_auc: Score
    nuclr_minus: Score | None = None


def pair_plan(subject: Strings, recording: Strings, pre: Rows, post: Rows) -> PairPlan:
    """Resample subjects; of a single one, units within their session.

    Args:
        subject, recording: (n,) of each tested pair.
        pre, post: (n,) rows of its units.
    """
    names, group = np.unique(subject, return_inverse=True)
    if len(names) > 1:
        notes: tuple[str, ...] = ()
        if len(names) < FEW_SUBJECTS:
            notes = (f"The intervals come from {len(names)} test subjects only: take them as a rough guide.",)
        return PairPlan("subjects", group.astype(np.int64), None, np.zeros(len(names), dtype=np.int64), notes)
    units = units_of_pairs(pre, post)
    place = np.empty(int(units.max()) + 1, dtype=np.int64)
    place[units] = np.arange(len(units))
    first, second = place[pre], place[post]
    stratum = np.zeros(len(units), dtype=np.int64)
    sessions = np.unique(recording, return_inverse=True)[1]
    stratum[first], stratum[second] = sessions, sessions
    note = (
        f"The interval is over units, all pairs being of subject {names[0]}: it says nothing about other "
        "animals."
    )
    return PairPlan("units", first, second, stratum, (note,))


def pair_weights(plan: PairPlan, n_resamples: int, seed: int) -> Iterator[Floats]:
    """How often each tested pair is in each resample: (b, n) parts of a (B, n) array."""
    drawn = draw_weights(ResamplingPlan(plan.unit, plan.first, plan.stratum), n_resamples, seed)
    step = max(1, _AT_ONCE // max(1, len(plan.first)))
    for start in range(0, n_resamples, step):
        part = drawn[start : start + step].astype(np.float64)
        yield part[:, plan.first] if plan.second is None else part[:, plan.first] * part[:, plan.second]


def ranking_scores(connected: NDArray[np.bool_], score: Floats) -> RankingScores:
    """Scores of (n,) pairs, as scikit-learn computes them."""
    many = weighted_ranking(connected, score, np.ones((1, len(score))))
    return RankingScores(many.average_precision[0], many.roc_auc[0])


def weighted_ranking(connected: NDArray[np.bool_], score: Floats, weights: Floats) -> RankingScores:
    """(b,) scores with pair i standing ``weights[b, i]`` times in resample b; equal scores are one step.

    Args:
        connected: (n,) truth.
        score: (n,) higher = more likely connected.
        weights: (b, n).
    """
    order = np.argsort(-score, kind="stable")
    ordered = score[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    weighted = weights[:, order]
    hits = np.add.reduceat(weighted * connected[order], starts, axis=1)
    both = np.add.reduceat(weighted, starts, axis=1)
    n_hits, n_all = hits.sum(axis=1), both.sum(axis=1)
    hits_so_far, so_far = np.cumsum(hits, axis=1), np.cumsum(both, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.divide(hits_so_far, so_far, out=np.zeros_like(hits), where=so_far > 0)
        average = (hits * precision).sum(axis=1) / n_hits
        above = hits_so_far - hits / 2.0  # connected pairs that stand above the others of this step
        area = ((both - hits) * above).sum(axis=1) / (n_hits * (n_all - n_hits))
    absent = (n_hits == 0) | (n_hits == n_all)
    return RankingScores(np.where(absent, np.nan, average), np.where(absent, np.nan, area))


def compare_pairs(
    connected: NDArray[np.bool_],
    nuclr: PairMethod,
    others: Sequence[PairMethod],
    plan: PairPlan,
    *,
    n_resamples: int,
    seed: int,
) -> tuple[PairResult, ...]:
    """Score every method on the same pairs with the same resamples.

    Args:
        connected: (n,) truth of the tested pairs, both classes.
        nuclr: The embedding's scores.
        others: The baselines'.
        plan: What is resampled.
        n_resamples: Bootstrap resamples.
        seed: Seed of the resamples.

    Raises:
        InputError: No resample has both classes.

    Returns:
        NuCLR, the others as given, chance: a ranking that knows nothing has the share of connected pairs as
        average precision, and 0.5 as ROC AUC.
    """
    methods = [nuclr, *others]
    parts: list[list[RankingScores]] = [[] for _ in methods]
    shares: list[Floats] = []
    for weights in pair_weights(plan, n_resamples, seed):
        for found, method in zip(parts, methods, strict=True):
            found.append(weighted_ranking(connected, method.score, weights))
        hits, total = weights @ connected.astype(np.float64), weights.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            share = hits / total
        shares.append(np.where((hits == 0) | (hits == total), np.nan, share))
    spread = [
        RankingScores(
            np.concatenate([one.average_precision for one in found]),
            np.concatenate([one.roc_auc for one in found]),
        )
        for found in parts
    ]
    points = [ranking_scores(connected, method.score) for method in methods]
    results = []
    for i, (method, point, many) in enumerate(zip(methods, points, spread, strict=True)):
        difference = None
        if i:
            difference = _score(
                points[0].average_precision - point.average_precision,
                spread[0].average_precision - many.average_precision,
            )
        results.append(
            PairResult(
                name=method.name,
                title=method.title,
                average_precision=_score(point.average_precision, many.average_precision),
                roc_auc=_score(point.roc_auc, many.roc_auc),
                nuclr_minus=difference,
            )
        )
    prevalence, often = np.array(connected.mean()), np.concatenate(shares)
    results.append(
        PairResult(
            name=CHANCE,
            title="chance (share of connected pairs)",
            average_precision=_score(prevalence, often),
            roc_auc=Score(0.5, 0.5, 0.5),
            nuclr_minus=_score(points[0].average_precision - prevalence, spread[0].average_precision - often),
        )
    )
    return tuple(results)


def _score(value: Floats, spread: Floats) -> Score:
    if not np.isfinite(spread).any():
        raise InputError(
            f"None of {len(spread)} resamples has connected and unconnected pairs: there is no interval.",
            "Raise --bootstrap, or give more pairs",
        )
    bounds = interval(spread)
    return Score(float(value), bounds.low, bounds.high)


def pair_verdict(methods: Sequence[PairResult], missing: Sequence[str] = ()) -> str:
    """Who has the highest average precision, in plain words. Arguments as for `plain_verdict`."""
    rivals = [
        Rival(method.title, method.average_precision, method.nuclr_minus, method.name != CHANCE)
        for method in methods[1:]
    ]
    return plain_verdict("average precision", methods[0].average_precision, rivals, missing)
