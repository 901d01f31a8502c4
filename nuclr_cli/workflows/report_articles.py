"""The results of a run: in short, one card each, and in full, one article each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.workflows.report_charts import Chart
from nuclr_cli.workflows.report_classes import class_intervals, without_intervals
from nuclr_cli.workflows.report_gather import Found, Gathered
from nuclr_cli.workflows.report_html import Html, badge, notices, number, tag, with_interval
from nuclr_cli.workflows.report_labels import classification_part, efficiency_part
from nuclr_cli.workflows.report_numbers import pairs_part, regression_part
from nuclr_cli.workflows.report_provenance import probe_facts
from nuclr_cli.workflows.report_results import Classification, LabelEfficiency, Pairs, Regression
from nuclr_cli.workflows.report_units import PredictionColumns, floats, read_parquet


def result_part(
    one: Found, number_: int, columns: PredictionColumns | None, charts: list[Chart], warnings: list[str]
) -> Html:
    """One result of `nuclr probe`, with its charts added to `charts`."""
    result, name = one.result, f"result-{number_}"
    match result:
        case Classification():
            classes, resampled = [without_intervals(each) for each in result.per_class], False
            if columns is not None:
                try:
                    classes, resampled = list(class_intervals(result, columns)), True
                except ValueError as error:
                    warnings.append(
                        f"{one.place}: no intervals class by class: predictions.parquet: {error}."
                    )
            calibration = None if one.card is None else one.card.calibration
            body, drawn = classification_part(result, name, classes, resampled, calibration)
            verdict = result.verdict
        case Regression():
            body, drawn = regression_part(result, name, columns)
            verdict = result.verdict
        case Pairs():
            body, drawn = pairs_part(result, name, _pair_scores(one, result, warnings))
            verdict = result.verdict
        case LabelEfficiency():
            body, drawn = efficiency_part(result, name)
            verdict = ""
    charts += drawn
    return tag(
        "article",
        tag("h3", *heading(one), id=name),
        tag("p", verdict, class_="verdict") if verdict else "",
        tag("p", badge(result.knowledge), " ", result.knowledge_why, class_="why"),
        notices(result.warnings, result.notes),
        body,
        probe_facts(one),
        aria_labelledby=name,
    )


def heading(one: Found) -> tuple[str, Html]:
    """What a result is about, and the words after it."""
    what = {
        Classification: "label",
        Regression: "number",
        Pairs: "pairs",
        LabelEfficiency: "how many labels",
    }[type(one.result)]
    return one.result.name, tag("small", f"{what}, {one.folder.name}")


def _pair_scores(
    one: Found, result: Pairs, warnings: list[str]
) -> list[tuple[str, NDArray[np.float64], NDArray[np.bool_]]]:
    path = one.folder / "predictions.parquet"
    scored = []
    try:
        stored = read_parquet(path)
        for each in result.results:
            name = f"score_{each.features}"
            if missing := {name, "label"} - set(stored.column_names):
                raise ValueError(f"it has no column {', '.join(sorted(missing))}")
            score, truth = floats(stored, name), floats(stored, "label") > 0
            known = np.isfinite(score)
            if truth[known].any():
                scored.append((each.features, score[known], truth[known]))
    except (OSError, ValueError) as error:
        warnings.append(f"{one.place}/predictions.parquet is left out: {error}.")
        return []
    return scored


def cards(found: Gathered) -> Html:
    cards = [_card(one, i) for i, one in enumerate(found.results)]
    if not cards:
        names = sorted(found.table.labels)
        again = f"nuclr probe --label {names[0] if names else 'NAME'} --run {found.run.folder}"
        return tag("p", "No probe has been asked yet. Ask one with: ", tag("code", again))
    return tag("ul", *cards, class_="cards")


def _card(one: Found, number_: int) -> Html:
    result = one.result
    match result:
        case Classification():
            big, metric, text = result.methods[0].macro_f1, "macro F1", result.verdict
        case Regression():
            big, metric, text = result.methods[0].r2, "R2", result.verdict
        case Pairs():
            big, metric, text = (
                result.results[0].methods[0].average_precision,
                "average precision",
                result.verdict,
            )
        case LabelEfficiency():
            first = result.curves[0]
            big, metric = first.points[-1].macro_f1, "macro F1 with all labels"
            few = first.points[0]
            text = f"With {100 * few.fraction:.3g}% of the labels: {with_interval(few.macro_f1)}."
    return tag(
        "li",
        tag("h3", tag("a", one.result.name, href=f"#result-{number_}"), heading(one)[1]),
        tag(
            "p",
            number(big.value),
            " ",
            tag("small", f"{metric} [{big.low:.3f}, {big.high:.3f}]"),
            class_="big",
        ),
        tag("p", badge(result.knowledge)),
        tag("p", text),
    )
