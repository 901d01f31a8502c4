"""The parts of a report about numbers and about pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.evaluation.records import Score
from nuclr_cli.wording import counted
from nuclr_cli.workflows.report_charts import QUIET, Axis, Chart, Line, thinned
from nuclr_cli.workflows.report_html import (
    Column,
    ForestRow,
    Html,
    chart,
    details,
    difference,
    forest,
    is_main,
    join,
    number,
    table,
    tag,
    with_interval,
)
from nuclr_cli.workflows.report_labels import missing, permutation
from nuclr_cli.workflows.report_results import PairAnswer, Pairs, Regression, Result
from nuclr_cli.workflows.report_units import PredictionColumns

_SUBJECTS = 6  # told apart by a color each; with more, all points have one
_LOWEST_R2 = -1.0  # worse ones are drawn at the end of the axis; their numbers stand beside it
_CURVE_POINTS = 300


def regression_part(
    result: Regression, name: str, columns: PredictionColumns | None
) -> tuple[Html, tuple[Chart, ...]]:
    """Baselines, predicted against true, folds.

    Args:
        result: What came out.
        name: Prefix of the names of its charts.
        columns: Its predictions, None where they cannot be had.
    """
    rows = [
        ForestRow(
            one.title,
            one.r2,
            (
                "–" if one.spearman is None else with_interval(one.spearman),
                f"{one.mae.value:.4g}",
                difference(one.nuclr_minus),
            ),
            is_main(one.name),
        )
        for one in result.methods
    ]
    parts = [
        forest(
            "NuCLR beside its baselines, same units and folds",
            "R2",
            ("Spearman [95%]", "mean error", "NuCLR minus it [95%]"),
            rows,
            bounds_of([one.r2 for one in result.methods], _LOWEST_R2),
        ),
        missing(result.missing_baselines),
        _about(result, f"{counted(result.n_tested, 'unit')} predicted; values from {result.target_from}"),
    ]
    if result.permutation is not None:
        parts.append(permutation(result.permutation, "R2"))
    charts: tuple[Chart, ...] = ()
    if columns is not None:
        drawn, said = _cloud(result, f"{name}-cloud", columns)
        charts = (drawn,)
        label = "Predicted against true numbers."
        place = tag(
            "div", data_chart=drawn.name, class_="chart tall", role="img", aria_label=f"{label} {said}"
        )
        parts += [place, tag("p", said, class_="quiet")]
    titles = ("fold", "trained", "tested", "penalty", "R2", "Spearman")
    folds = [
        [
            one.name,
            str(one.n_train),
            str(one.n_test),
            number(one.alpha, ".3g"),
            number(one.r2),
            number(one.spearman),
        ]
        for one in result.folds
    ]
    parts.append(details(f"Folds ({len(folds)})", table("Folds", _columns(titles), folds)))
    return join(*parts), charts


def _cloud(result: Regression, name: str, columns: PredictionColumns) -> tuple[Chart, str]:
    tested = np.flatnonzero(np.isfinite(columns.number) & np.isfinite(columns.target))
    shown = tested[thinned(len(tested))]
    subjects = sorted(set(columns.subject[shown].tolist()))
    ends = [float(f(columns.target[shown])) for f in (np.min, np.max)] if len(shown) else [0.0, 1.0]
    lines = [Line("as it is", ends, ends, QUIET, width=1.0, dash="dot")]
    for i, subject in enumerate(subjects if len(subjects) <= _SUBJECTS else [""]):
        mine = shown if subject == "" else shown[columns.subject[shown] == subject]
        x, y = columns.target[mine].tolist(), columns.number[mine].tolist()
        lines.append(Line(subject, x, y, i, mode="markers", opacity=0.7, symbol=i))
    part = "" if len(shown) == len(tested) else f" ({len(shown)} of {len(tested)} units are drawn)"
    said = (
        f"Out-of-fold prediction against the true {result.target}{part}; on the dotted line the two are "
        "equal. predictions.parquet has all."
    )
    chart = Chart(name, Axis(f"true {result.target}"), Axis(f"predicted {result.target}"), tuple(lines))
    return chart, said


def pairs_part(
    result: Pairs, name: str, scored: Sequence[tuple[str, NDArray[np.float64], NDArray[np.bool_]]]
) -> tuple[Html, tuple[Chart, ...]]:
    """Baselines of each kind of features, precision against recall, folds.

    Args:
        result: What came out.
        name: Prefix of the names of its charts.
        scored: Kind of features, (n,) score and whether connected, of the pairs that were scored; () where
            they cannot be had.
    """
    parts: list[Html] = []
    for one in result.results:
        rows = [
            ForestRow(
                each.title,
                each.average_precision,
                (with_interval(each.roc_auc), difference(each.nuclr_minus)),
                is_main(each.name),
            )
            for each in one.methods
        ]
        role = ", the main ones" if one.features == result.main else ""
        parts.append(
            forest(
                f"{one.features} features{role}",
                "average precision",
                ("ROC AUC [95%]", "NuCLR minus it [95%]"),
                rows,
            )
        )
        if one.features != result.main:
            parts.append(tag("p", one.verdict))
    said = (
        f"{counted(result.n_tested, 'pair')} scored ({result.n_tested_connected} connected) of "
        f"{result.n_pairs} among "
        f"{counted(result.n_units, 'unit')}; never tested because their units lie in different parts: "
        f"{result.n_across}"
    )
    parts += [missing(result.missing_baselines), _about(result, said)]
    charts: tuple[Chart, ...] = ()
    if scored:
        charts = (_precision(scored, f"{name}-precision"),)
        place = chart(charts[0].name, "Precision against recall of NuCLR.")
        curve = [[kind, *_at_recalls(score, truth)] for kind, score, truth in scored]
        titles = ("features", *(f"at recall {at:g}" for at in _RECALLS))
        parts += [place, details("Numbers of this curve", table("Precision", _columns(titles), curve))]
    parts += [_pair_folds(one) for one in result.results]
    return join(*parts), charts


_RECALLS = (0.1, 0.25, 0.5, 0.75, 1.0)


def _at_recalls(score: NDArray[np.float64], truth: NDArray[np.bool_]) -> list[str]:
    recall, precision = precision_recall(score, truth)
    return [f"{precision[np.searchsorted(recall, at - 1e-12)]:.3f}" for at in _RECALLS]


def _precision(scored: Sequence[tuple[str, NDArray[np.float64], NDArray[np.bool_]]], name: str) -> Chart:
    lines = []
    for i, (kind, score, truth) in enumerate(scored):
        recall, precision = precision_recall(score, truth)
        some = thinned(len(recall), _CURVE_POINTS)
        lines.append(Line(f"NuCLR, {kind}", recall[some].tolist(), precision[some].tolist(), i, symbol=i))
    chance = float(scored[0][2].mean())
    lines.append(Line("chance", [0.0, 1.0], [chance, chance], QUIET, width=1.0, dash="dot"))
    return Chart(name, Axis("recall", (0.0, 1.02)), Axis("precision", (0.0, 1.02)), tuple(lines))


def precision_recall(
    score: NDArray[np.float64], truth: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Recall and precision at every threshold, from the highest score down; equal scores are one threshold.

    Args:
        score: (n,), no NaN.
        truth: (n,), at least one true.
    """
    order = np.argsort(-score, kind="stable")
    last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    hits = np.cumsum(truth[order])[last].astype(np.float64)
    return hits / hits[-1], hits / (last + 1)


def _pair_folds(one: PairAnswer) -> Html:
    titles = ("fold", "trained", "tested", "across", "average precision", "ROC AUC")
    folds = [
        [
            each.name,
            str(each.n_train),
            str(each.n_test),
            str(each.n_across),
            number(each.average_precision),
            number(each.roc_auc),
        ]
        for each in one.folds
    ]
    caption = f"Folds, {one.features} features"
    return details(f"{caption} ({len(folds)})", table(caption, _columns(titles), folds))


def bounds_of(scores: Sequence[Score | None], lowest: float) -> tuple[float, float]:
    """Ends of an axis for scores up to 1 that may be negative: half steps, not below `lowest`."""
    least = min([0.0, *(score.low for score in scores if score is not None)])
    return max(math.floor(2 * least) / 2, lowest), 1.0


def _about(result: Result, what: str) -> Html:
    said = (
        f"{what}. 95% intervals from {result.bootstrap} resamples of {result.n_resampled} {result.resampled}."
    )
    return tag("p", said, class_="quiet")


def _columns(titles: Sequence[str]) -> list[Column]:
    return [Column(title, i > 0) for i, title in enumerate(titles)]
