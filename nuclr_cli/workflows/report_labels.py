"""The parts of a report about labels: a classification, and how many labels it takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.evaluation.calibration import CalibrationReport
from nuclr_cli.evaluation.permutation import PermutationTest
from nuclr_cli.evaluation.records import MethodResult
from nuclr_cli.evaluation.reliability import Reliability
from nuclr_cli.wording import counted
from nuclr_cli.workflows.report_charts import QUIET, Axis, Chart, Line
from nuclr_cli.workflows.report_classes import ClassIntervals
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
from nuclr_cli.workflows.report_results import Classification, Hierarchy, LabelEfficiency, Missing, Needed

_COUNTS_UP_TO = 15  # classes: with more, the cells of a confusion matrix show shares by color alone
_LABELLED = 6  # curves told apart by a color of their own


def classification_part(
    result: Classification,
    name: str,
    classes: Sequence[ClassIntervals],
    resampled: bool,
    calibration: CalibrationReport | None,
) -> tuple[Html, tuple[Chart, ...]]:
    """Baselines, classes, confusions, calibration, folds.

    Args:
        result: What came out.
        name: Prefix of the names of its charts.
        classes: One record a class.
        resampled: Whether these have intervals.
        calibration: None where there is none.
    """
    rows = [_row(one) for one in (result.methods[0], *result.readouts, *result.methods[1:])]
    said = (
        f"{counted(result.n_tested, 'unit')} predicted, each by a probe that did not train on it; 95% "
        "intervals from "
        f"{result.bootstrap} resamples of {result.n_resampled} {result.resampled}."
    )
    parts = [
        forest(
            "NuCLR beside its baselines, same units and folds",
            "macro F1",
            ("balanced accuracy", "NuCLR minus it [95%]"),
            rows,
        ),
        missing(result.missing_baselines),
        tag("p", said, class_="quiet"),
    ]
    if result.permutation is not None:
        parts.append(permutation(result.permutation, "macro F1"))
    parts += []
    if result.hierarchy is not None:
        parts.append(_hierarchy(result.label, result.hierarchy))
    parts.append(_classes(result, classes, resampled))
    charts: tuple[Chart, ...] = ()
    beside = [_confusion(result)]
    if calibration is not None:
        charts = (_reliability(calibration, f"{name}-reliability"),)
        beside.append(_calibration(calibration, charts[0]))
    parts.append(tag("div", *beside, class_="columns"))
    columns = [
        Column("fold"),
        Column("trained", True),
        Column("tested", True),
        Column("macro F1", True),
        Column("C", True),
    ]
    folds = [
        [one.name, str(one.n_train), str(one.n_test), number(one.macro_f1), number(one.c, "g")]
        for one in result.folds
    ]
    parts.append(details(f"Folds ({len(folds)})", table("Folds", columns, folds)))
    return join(*parts), charts


def missing(found: Sequence[Missing]) -> Html:
    """Baselines that the result lacks."""
    if not found:
        return Html("")
    lines = [tag("li", tag("b", one.title), f": {one.why}") for one in found]
    return join(tag("p", "Not compared with:"), tag("ul", *lines, class_="notes"))


def permutation(test: PermutationTest, metric: str) -> Html:
    """What a permutation test found, in a sentence."""
    kind = "all" if test.exact else f"{test.n} random"
    return tag(
        "p",
        f"Permutation test ({test.permuted}, {kind} labellings): p = {test.p_value:.3g}, the smallest "
        "possible being "
        f"{test.smallest_p:.3g}; {metric} of permuted labels {test.null_mean:.3f} on average, "
        f"{test.null_high:.3f} at "
        "the 95th percentile.",
    )


def _row(one: MethodResult) -> ForestRow:
    return ForestRow(
        one.title,
        one.macro_f1,
        (f"{one.balanced_accuracy.value:.3f}", difference(one.nuclr_minus)),
        is_main(one.name),
        one.note,
    )


def _classes(result: Classification, classes: Sequence[ClassIntervals], resampled: bool) -> Html:
    form = with_interval if resampled else lambda score: f"{score.value:.3f}"
    rows = [
        ForestRow(
            one.name,
            each.f1 if resampled else None,
            (form(each.precision), form(each.recall), str(one.support)),
        )
        for one, each in zip(result.per_class, classes, strict=True)
    ]
    if resampled:
        return forest("NuCLR, class by class", "F1", ("precision", "recall", "units"), rows, of="class")
    columns = [Column("class"), *(Column(name, True) for name in ("F1", "precision", "recall", "units"))]
    plain = [
        [one.title, f"{each.f1.value:.3f}", *one.others] for one, each in zip(rows, classes, strict=True)
    ]
    return table("NuCLR, class by class", columns, plain)


def _confusion(result: Classification) -> Html:
    """Units by true and predicted class; the color is the share of the true class."""
    matrix = np.array(result.confusion, dtype=np.int64)
    share = shares(matrix)
    caption = "Rows are true classes, columns predicted ones; the color is the share of the row."
    head = tag(
        "tr",
        tag("th", "true \\ predicted", scope="col"),
        *(tag("th", name, scope="col", class_="number") for name in result.classes),
    )
    body = [
        tag(
            "tr",
            tag("th", name, scope="row"),
            *(
                tag(
                    "td",
                    str(matrix[i, j]),
                    class_="number strong" if share[i, j] > 0.55 else "number",
                    style=f"--share:{share[i, j]:.3f}",
                    title=f"{name} predicted as {other}: {matrix[i, j]} units, {share[i, j]:.1%} of {name}",
                )
                for j, other in enumerate(result.classes)
            ),
        )
        for i, name in enumerate(result.classes)
    ]
    kind = "confusion" if len(result.classes) <= _COUNTS_UP_TO else "confusion dense"
    whole = tag("table", tag("thead", head), tag("tbody", *body), class_=kind)
    framed = tag(
        "div", whole, class_="scroll", tabindex="0", role="region", aria_label=f"Confusion. {caption}"
    )
    return tag("section", tag("h4", "Confusion"), tag("p", caption, class_="quiet"), framed)


def shares(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """(K, K) share of each row; a row without units is 0."""
    total = matrix.sum(axis=1, keepdims=True)
    share: NDArray[np.float64] = np.divide(matrix, total, out=np.zeros(matrix.shape), where=total > 0)
    return share


def _hierarchy(label: str, found: Hierarchy) -> Html:
    rows = [
        [f"all of {label} at once", with_interval(found.flat), with_interval(found.flat_parent_accuracy)],
        [
            f"p({found.parent}) x p({label} | {found.parent})",
            with_interval(found.hierarchical),
            with_interval(found.hierarchical_parent_accuracy),
        ],
        ["difference", with_interval(found.hierarchical_minus_flat, sign=True), ""],
    ]
    columns = [Column("probe"), Column("macro F1 [95%]", True), Column(f"{found.parent} right [95%]", True)]
    inside = [
        [one.name, str(len(one.children)), number(one.flat), number(one.hierarchical), str(one.support)]
        for one in found.parents
    ]
    titles = (found.parent, "classes", "at once", "parent first", "units")
    return join(
        table(f"{found.parent} first, then {label}", columns, rows),
        table(
            f"Macro F1 among the {label} of one {found.parent}",
            [Column(title, i > 0) for i, title in enumerate(titles)],
            inside,
        ),
    )


def _shown(report: CalibrationReport) -> list[tuple[str, Reliability, int]]:
    if report.rejected is not None:
        trial = report.rejected
        return [
            ("as the probe says, kept", report.before, 0),
            (f"{trial.method}, not used", trial.after, QUIET),
        ]
    shown = [("as the probe says", report.before, QUIET)]
    if report.cross_fitted:
        shown.append((f"calibrated ({report.calibration.method})", report.after, 0))
    return shown


def _reliability(report: CalibrationReport, name: str) -> Chart:
    lines = [Line("as promised", [0.0, 1.0], [0.0, 1.0], QUIET, width=1.0, dash="dot")]
    for title, one, color in _shown(report):
        bins = [(each.confidence, each.accuracy) for each in one.bins if each.confidence is not None]
        x, y = [float(a) for a, _ in bins], [b for _, b in bins]
        lines.append(Line(title, x, y, color, mode="lines+markers"))
    return Chart(
        name,
        Axis("probability of the predicted class", (-0.02, 1.02)),
        Axis("share predicted right", (-0.02, 1.02)),
        tuple(lines),
    )


def _calibration(report: CalibrationReport, drawn: Chart) -> Html:
    shown = _shown(report)
    titles = [title for title, _, _ in shown]
    rows = []
    for i, one in enumerate(report.before.bins):
        cells = [f"{one.low:g} to {one.high:g}"]
        for _, each, _ in shown:
            found = each.bins[i] if i < len(each.bins) else None
            empty = found is None or found.n == 0
            cells += (
                ["0", "–", "–"]
                if found is None or empty
                else [str(found.n), number(found.confidence), number(found.accuracy)]
            )
        rows.append(cells)
    columns = [Column("bin")]
    for title in titles:
        columns += [Column(f"{title}: units", True), Column("promised", True), Column("right", True)]
    errors = "; ".join(
        f"{title}: {one.ece:.3f} of the predicted class, {one.class_ece:.3f} class by class"
        for title, one, _ in shown
    )
    over = report.cross_fitted if report.rejected is None else report.rejected.cross_fitted
    on = f", cross-fitted over {over}" if over else ""
    return tag(
        "section",
        tag("h4", "Calibration"),
        tag("p", f"Expected calibration error, {errors} ({counted(report.n_units, 'validation unit')}{on})."),
        tag("p", report.calibration.why, class_="quiet"),
        chart(drawn.name, "How often predictions of each probability are right.", "square"),
        details("Numbers of the reliability diagram", table("Reliability", columns, rows)),
    )


def efficiency_part(result: LabelEfficiency, name: str) -> tuple[Html, tuple[Chart, ...]]:
    """Macro F1 with ever fewer labels, one curve a method."""
    lines = []
    for i, curve in enumerate(result.curves):
        own = i < _LABELLED
        lines.append(
            Line(
                curve.title,
                [point.n_labelled for point in curve.points],
                [point.macro_f1.value for point in curve.points],
                i if own else QUIET,
                low=[point.macro_f1.low for point in curve.points] if is_main(curve.name) else (),
                high=[point.macro_f1.high for point in curve.points] if is_main(curve.name) else (),
                mode="lines+markers",
                width=3.0 if is_main(curve.name) else 1.6,
                symbol=i,
            )
        )
    at = sorted({point.n_labelled for curve in result.curves for point in curve.points})
    drawn = Chart(
        name,
        Axis("labelled training units a fold", log=True, ticks=tuple(at)),
        Axis("macro F1", (0.0, 1.02)),
        tuple(lines),
    )
    fractions = sorted({point.fraction for curve in result.curves for point in curve.points})
    rows = []
    for curve in result.curves:
        by_fraction = {point.fraction: with_interval(point.macro_f1) for point in curve.points}
        rows.append([curve.title, *(by_fraction.get(one, "–") for one in fractions), _needed(curve.needed)])
    columns = [
        Column("method"),
        *(Column(f"{100 * one:.3g}% of the labels", True) for one in fractions),
        Column(f"labels for {result.full_share:.0%} of the full score", True),
    ]
    said = (
        f"{counted(result.n_tested, 'unit')} are predicted at every fraction; "
        f"{counted(result.repeats, 'draw')} of which units are labelled; intervals over draws and "
        f"{result.n_resampled} {result.resampled}. The band is NuCLR's."
    )
    body = join(
        chart(name, "Macro F1 against labelled training units."),
        tag("p", said, class_="quiet"),
        table("Macro F1 [95%] by share of the labels", columns, rows),
        missing(result.missing_baselines),
    )
    return body, (drawn,)


def _needed(needed: Needed | None) -> str:
    if needed is None:
        return "–"
    sign = "at most " if needed.at_most else ""
    share = f"{100 * needed.fraction:.3g}% [{100 * needed.low:.3g}%, {100 * needed.high:.3g}%]"
    return f"{sign}{needed.n_labelled:.3g} units, {share}"
