"""The part of a report about how the encoder was trained, and what can be said of it without labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.evaluation.diagnostics import Diagnostics
from nuclr_cli.wording import counted
from nuclr_cli.workflows.embed_select import Selection
from nuclr_cli.workflows.embedded_step import LAST, EmbeddedStep
from nuclr_cli.workflows.report_charts import Axis, Chart, Line, thinned
from nuclr_cli.workflows.report_html import Column, Html, chart, details, join, number, table, tag

_SHOWN = {
    "loss": "loss",
    "rankme": "effective rank (RankMe)",
    "grad_norm": "norm of the gradient",
    "learning_rate": "learning rate",
}
"""Metrics that are drawn, and their names."""
_ROWS = 20
_SMOOTHED_OVER = 40  # of the curve's length: what is left of the noise then is smaller than the trend


def training_part(rows: Sequence[Mapping[str, float]]) -> tuple[Html, tuple[Chart, ...]]:
    """Curves of the metrics that people look at, and a table of all of them."""
    if not rows:
        return tag("p", "This run has no metrics.jsonl: there are no training curves."), ()
    charts = [drawn for key in _SHOWN if (drawn := _curve(rows, key)) is not None]
    places = [
        tag(
            "figure",
            tag("figcaption", _SHOWN[one.name.removeprefix("training-")]),
            chart(one.name, f"{_SHOWN[one.name.removeprefix('training-')]} by step."),
        )
        for one in charts
    ]
    first, last = rows[0], rows[-1]
    said = (
        f"{len(rows)} logged steps, {int(first['step'])} to {int(last['step'])}. "
        "Thin: as logged; thick: mean of neighbouring rows."
    )
    return join(tag("p", said, class_="quiet"), tag("div", *places, class_="grid"), _table(rows)), tuple(
        charts
    )


def _curve(rows: Sequence[Mapping[str, float]], key: str) -> Chart | None:
    known = [(float(row["step"]), float(row[key])) for row in rows if _is_number(row.get(key))]
    if len(known) < 2:
        return None
    step, value = np.array(known).T
    some = thinned(len(step))
    lines = [
        Line("as logged", step[some].tolist(), value[some].tolist(), 0, width=1.2, opacity=0.35),
    ]
    if key != "learning_rate":
        lines.append(Line("mean", step[some].tolist(), _smoothed(value)[some].tolist(), 0, width=2.4))
    else:
        lines = [Line("as logged", step[some].tolist(), value[some].tolist(), 0, width=2.4)]
    log = key == "grad_norm" and bool(value.min() > 0) and value.max() / value.min() > 20
    return Chart(f"training-{key}", Axis("step"), Axis("", log=log), tuple(lines))


def _smoothed(value: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over a window around each row, cut off at the ends."""
    half = max(len(value) // _SMOOTHED_OVER, 1)
    sums = np.concatenate([[0.0], np.cumsum(value)])
    low = np.maximum(np.arange(len(value)) - half, 0)
    high = np.minimum(np.arange(len(value)) + half + 1, len(value))
    mean: NDArray[np.float64] = (sums[high] - sums[low]) / (high - low)
    return mean


def _table(rows: Sequence[Mapping[str, float]]) -> Html:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    some = [rows[i] for i in thinned(len(rows), _ROWS).tolist()]
    body = [[_cell(row.get(key)) for key in keys] for row in some]
    title = "Metrics of the run"
    if len(some) < len(rows):
        title += f": {len(some)} of {len(rows)} rows, evenly spaced; metrics.jsonl has all"
    return details("Numbers of the training curves", table(title, [Column(key, True) for key in keys], body))


def _cell(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return f"{value:.4g}" if isinstance(value, float) else "–" if value is None else str(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


_NOTHING_FOUND = (
    "No population has two units that are active in both halves of their recording, "
    "so neurons cannot be looked for again."
)
_NOT_ASKED = (
    "The embeddings were made by a version of nuclr that did not compute these numbers: "
    "run nuclr embed again to have them."
)


def diagnostics_part(
    found: Diagnostics | None,
    asked: bool,
    selection: Selection | None,
    embedded: EmbeddedStep | None = None,
) -> Html:
    """Numbers that need no label, and how the checkpoint was chosen.

    Args:
        found: What was found.
        asked: Whether the embeddings say anything about it, if only that nothing could be found.
        selection: The choice.
        embedded: Where the run stands beside it; None = unknown.
    """
    parts: list[Html] = []
    if found is None:
        text = _NOTHING_FOUND if asked else _NOT_ASKED
        parts.append(tag("p", text))
    else:
        again = found.retrieval
        # The record has no sizes one by one, only their sum: the mean is what can be said of several.
        mean = again.n_units / max(again.n_populations, 1)
        among = f"{again.n_units}" if again.n_populations == 1 else f"on average {mean:.3g}"
        said = (
            f"A neuron is looked for, among the {among} neurons of its own population, in the other "
            "half of the recording: how often is it the nearest one?"
        )
        rows = [
            [
                "found again",
                f"{again.top1:.1%}",
                f"95% {again.interval.low:.1%} to {again.interval.high:.1%}",
            ],
            [
                "found by rate alone",
                f"{again.rate_top1:.1%}",
                "what a firing rate can do without any embedding",
            ],
            ["found by guessing", f"{again.chance:.1%}", "chance"],
            [
                "effective rank (RankMe)",
                f"{found.rankme:.1f}",
                "1 is a collapsed embedding; larger uses more dimensions",
            ],
            [
                "alignment",
                f"{found.alignment:.3f}",
                "distance of the two halves of a neuron, 0 to 4; smaller is better",
            ],
            [
                "uniformity",
                f"{found.uniformity:.2f}",
                "0 is all neurons in one point; smaller is more spread out",
            ],
        ]
        populations = f"{counted(again.n_units, 'unit')} of {counted(again.n_populations, 'population')}"
        columns = [Column("number"), Column("value", True), Column("meaning")]
        parts += [tag("p", said), table(f"Without labels, {populations}", columns, rows)]
    if selection is not None:
        parts.append(_selection(selection, embedded))
    return join(*parts)


def _selection(selection: Selection, embedded: EmbeddedStep | None) -> Html:
    older = embedded is not None and embedded.older
    since = f" The run stands at step {embedded.stands}." if embedded is not None and older else ""
    if not selection.candidates:
        how = ", given with --checkpoint" if selection.rule == "given" else ""
        if selection.rule == LAST and embedded is not None and not older:
            how = ", the last one"
        return tag("p", f"Checkpoint: step {selection.step}{how}.{since}")
    rule = selection.rule + (f" of {selection.label}" if selection.label else "")
    said = (
        f"Checkpoint: step {selection.step}, chosen by {rule} on "
        f"{counted(len(selection.subjects), 'training subject')}, none of them held out.{since}"
    )
    rows = [
        [f"{one.step}" + (" (chosen)" if one.step == selection.step else ""), number(one.score)]
        for one in selection.candidates
    ]
    return join(tag("p", said), table("Checkpoints", [Column("step"), Column(rule, True)], rows))
