"""The part of a report about a sweep: every seed, the mean of each size, and the law where one was found."""

from __future__ import annotations

from collections.abc import Sequence

from nuclr_cli.evaluation.scaling_law import ScalingFit
from nuclr_cli.wording import counted
from nuclr_cli.workflows.report_charts import INK, QUIET, Axis, Chart, Line
from nuclr_cli.workflows.report_html import (
    Column,
    Html,
    badge,
    chart,
    facts,
    join,
    notices,
    number,
    table,
    tag,
)
from nuclr_cli.workflows.report_results import Baseline, PointResult, Scale

_DASHES = ("dash", "dot", "dashdot", "longdash", "longdashdot")


def scaling_part(scale: Scale) -> tuple[Html, tuple[Chart, ...]]:
    """What grows, what it does, and whether it follows a law."""
    size_of = {point.name: point.size for point in scale.sweep.points}
    charts, places = [], []
    for fit in scale.fits:
        loss = fit.score == "held-out loss"
        name = "scale-loss" if loss else "scale-f1"
        baselines = () if loss else scale.baselines
        charts.append(_chart(name, scale, fit, size_of, baselines))
        heading = f"{fit.score}: {_STATUS.get(fit.status, fit.status)}"
        label = f"{fit.score} against {scale.size_name}."
        places.append(tag("figure", tag("figcaption", heading), chart(name, label, "tall")))
    sweep = scale.sweep
    trained = f"{sweep.steps} steps" if sweep.steps is not None else f"{number(sweep.epochs, 'g')} epochs"
    about = facts(
        [
            ("grows", scale.size_name),
            ("label", scale.label),
            ("training", f"preset {sweep.preset}, {trained} at every point"),
            ("never trained on", ", ".join(sweep.held_out)),
            ("probe", f"{sweep.variant}, split by {sweep.split}"),
            ("points", f"{len(scale.results)} of {len({one.size for one in sweep.points})} sizes"),
            ("made with", f"nuclr {sweep.version}"),
        ]
    )
    says = [text for fit in scale.fits for text in fit.says]
    return join(
        tag(
            "p",
            badge(scale.knowledge),
            " ",
            f"{scale.label}, {scale.axis}: {counted(len(scale.results), 'training')}",
        ),
        notices(scale.warnings, (*says, *scale.choices)),
        tag("div", *places, class_="grid"),
        _points(scale, size_of),
        _baselines(scale.baselines),
        about,
    ), tuple(charts)


_STATUS = {"law": "a law", "trend": "a trend, no law", "not identifiable": "too few sizes for a law"}


def _value(result: PointResult, fit: ScalingFit) -> float | None:
    return result.held_out_loss if fit.score == "held-out loss" else result.macro_f1


def _chart(
    name: str, scale: Scale, fit: ScalingFit, size_of: dict[str, float], baselines: Sequence[Baseline]
) -> Chart:
    known = [(size_of[one.point], value) for one in scale.results if (value := _value(one, fit)) is not None]
    sizes = sorted({size for size, _ in known})
    means = [_mean([value for at, value in known if at == size]) for size in sizes]
    lines = [Line("one seed", [x for x, _ in known], [y for _, y in known], 0, mode="markers", opacity=0.5)]
    lines.append(Line("mean", sizes, means, INK, mode="lines+markers"))
    for i, one in enumerate(baselines):
        ends = [sizes[0], sizes[-1]] if sizes else []
        title = f"{one.title} {one.macro_f1:.2f}"
        lines.append(
            Line(title, ends, [one.macro_f1] * len(ends), QUIET, width=1.5, dash=_DASHES[i % len(_DASHES)])
        )
    if fit.law is not None:
        law = fit.law
        lines.append(
            Line("law, 95% band", law.curve_x, law.curve_y, 0, low=law.curve_low, high=law.curve_high)
        )
    return Chart(name, Axis(scale.size_name, log=True, ticks=tuple(sizes)), Axis(""), tuple(lines))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _points(scale: Scale, size_of: dict[str, float]) -> Html:
    seeds = {point.name: point.seed for point in scale.sweep.points}
    rows = [
        [
            f"{size_of[one.point]:g}",
            str(seeds[one.point]),
            number(one.held_out_loss, ".4f"),
            f"{one.macro_f1:.3f} [{one.macro_f1_low:.3f}, {one.macro_f1_high:.3f}]",
            f"{one.parameters:,}",
            one.checkpoint[:16],
        ]
        for one in sorted(scale.results, key=lambda one: (size_of[one.point], one.point))
    ]
    titles = (scale.size_name, "seed", "held-out loss", "macro F1 [95%]", "parameters", "checkpoint")
    return table("Points of the sweep", [Column(title, True) for title in titles], rows)


def _baselines(found: Sequence[Baseline]) -> Html:
    if not found:
        return Html("")
    rows = [[one.title, f"{one.macro_f1:.3f}"] for one in found]
    return table("Baselines, the same at every point", [Column("method"), Column("macro F1", True)], rows)
