"""`nuclr probe --label-fractions`: the options, and the table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from nuclr_cli.cli.console import Console
from nuclr_cli.wording import counted

if TYPE_CHECKING:
    from nuclr_cli.evaluation.label_efficiency import Needed
    from nuclr_cli.workflows.probe_label_efficiency import LabelEfficiencyRecord
    from nuclr_cli.workflows.probe_record import ProbeConfig

PANEL = "Label efficiency"

Fractions = Annotated[
    str | None,
    typer.Option(
        metavar="F,F,...",
        rich_help_panel=PANEL,
        help="Probe with these fractions of the labels, e.g. 0.01,0.1,1: a curve instead of a score.",
    ),
]
Repeats = Annotated[
    int | None,
    typer.Option(rich_help_panel=PANEL, help="Draws of which units are labelled. Default: 10."),
]


def probe_fractions(
    console: Console, config: ProbeConfig, labels: list[str], fractions: str, repeats: int | None
) -> None:
    """Run, print, and say where the result lies."""
    from nuclr_cli.workflows.probe_label_efficiency import (
        DEFAULT_REPEATS,
        LabelEfficiencyConfig,
        label_efficiency,
    )

    if len(labels) > 1:
        raise typer.BadParameter(
            "takes one --label at a time: every label has a curve of its own.", param_hint="--label-fractions"
        )
    asked = LabelEfficiencyConfig(
        config, _numbers(fractions), DEFAULT_REPEATS if repeats is None else repeats
    )
    record = label_efficiency(asked, console)
    console.result(record, lambda: show(console, record))
    console.done(f"written to {record.folder}")


def _numbers(text: str) -> tuple[float, ...]:
    from nuclr_cli.workflows.probe_label_efficiency import in_percent

    parts = [part.strip() for part in text.split(",") if part.strip()]
    try:
        return tuple(float(part) for part in parts)
    except ValueError:
        pass
    try:
        meant = in_percent([float(part.removesuffix("%")) for part in parts if part.endswith("%")])
    except ValueError:
        meant = ""
    raise typer.BadParameter(
        f"{text!r} is not a list of numbers. {meant}They are fractions, not percent: 0.1 is 10 %. "
        "For example 0.01,0.1,1",
        param_hint="--label-fractions",
    )


def show(console: Console, record: LabelEfficiencyRecord) -> None:
    """Print the curve as a table, a row a method."""
    points = record.curves[0].points
    console.table(
        f"{record.label}: macro F1 [95%] by labelled training units a fold "
        f"({counted(record.n_tested, 'unit')} tested, {record.repeats} draws)",
        ("method", *(f"{point.fraction:g} = {point.n_labelled:.0f}" for point in points)),
        [
            (
                curve.title,
                *(
                    f"{point.macro_f1.value:.2f} [{point.macro_f1.low:.2f}, {point.macro_f1.high:.2f}]"
                    for point in curve.points
                ),
            )
            for curve in record.curves
        ]
        + [(one.title, "missing", *[""] * (len(points) - 1)) for one in record.missing_baselines],
        right=tuple(range(1, len(points) + 1)),
    )
    for curve in record.curves:
        console.print(
            f"{curve.title}: {record.full_share:.0%} of its score with all labels takes "
            f"{_price(curve.needed)}."
        )
    console.print(f"Split: {record.split_how}.")
    console.print(f"{record.knowledge.capitalize()}: {record.knowledge_why}")


def _price(needed: Needed) -> str:
    at_most = "at most " if needed.at_most else ""
    return (
        f"{at_most}{needed.fraction:.2g} of the labels, {at_most}{needed.n_labelled:.0f} units a fold "
        f"(95% interval {needed.low:.2g} to {needed.high:.2g})"
    )
