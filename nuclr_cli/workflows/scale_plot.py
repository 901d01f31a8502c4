"""The plot of a sweep: every seed, the mean of each size, and the law where one was found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nuclr_cli.evaluation.scaling_law import ScalingFit
from nuclr_cli.workflows.plot_parts import ACCENT, INK, without_frame
from nuclr_cli.workflows.scale_record import BaselineScore, ScaleRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GREY = "#8a8a8a"


def plot_sweep(record: ScaleRecord, path: Path) -> None:
    """Held-out loss and macro F1 against the size, written as PNG."""
    # Without pyplot: no global state, no window system, and figures are freed with their last reference.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 4.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    loss_axes, f1_axes = figure.subplots(1, 2)
    losses = [result.held_out_loss for result in record.results]
    scores = [result.macro_f1 for result in record.results]
    _panel(loss_axes, record, losses, record.fits[0], ())
    _panel(f1_axes, record, scores, record.fits[1], record.baselines)
    test = ", ".join(record.sweep.held_out) or "the end of each session"
    figure.suptitle(
        f"{record.label}, {record.axis}; held out: {test}; {record.knowledge}", fontsize=10, color=INK
    )
    figure.savefig(path, format="png")


def _panel(
    axes: Axes,
    record: ScaleRecord,
    values: Sequence[float | None],
    fit: ScalingFit,
    baselines: Sequence[BaselineScore],
) -> None:
    sizes = [point.size for point in record.sweep.points]
    known = [(x, y) for x, y in zip(sizes, values, strict=True) if y is not None]
    axes.set_xscale("log")
    axes.set_xlabel(record.size_name)
    axes.set_ylabel(fit.score)
    without_frame(axes)
    axes.grid(color="#e6e6e6", lw=0.8)
    axes.set_axisbelow(True)
    if not known:
        axes.text(0.5, 0.5, "no values", transform=axes.transAxes, ha="center", color=_GREY)
        return
    axes.plot(*zip(*known, strict=True), "o", color=ACCENT, ms=4, alpha=0.45, mew=0, label="one seed")
    ordered = sorted({x for x, _ in known})
    means = [_mean([y for x, y in known if x == size]) for size in ordered]
    axes.plot(ordered, means, "-o", color=INK, lw=1, ms=5, label="mean")
    axes.set_xticks(ordered, [f"{size:.4g}" for size in ordered], fontsize=8)
    axes.set_xticks([], minor=True)
    for baseline, style in zip(baselines, ("--", ":", "-.", (0, (1, 4)), (0, (5, 5))), strict=False):
        axes.axhline(
            baseline.macro_f1, color=_GREY, lw=1, ls=style, label=f"{baseline.title} {baseline.macro_f1:.2f}"
        )
    title = {"not identifiable": "too few sizes for a law", "trend": "a trend, but no law"}
    axes.set_title(title.get(fit.status, fit.status), fontsize=9, color=INK)
    if fit.law is not None:
        law = fit.law
        axes.fill_between(law.curve_x, law.curve_low, law.curve_high, color=ACCENT, alpha=0.15, lw=0)
        sign = "+" if law.sign > 0 else "-"
        axes.plot(law.curve_x, law.curve_y, color=ACCENT, lw=1.5, label="law, 95% band")
        axes.set_title(
            f"{law.limit.value:.3g} {sign} {law.scale.value:.3g} x^-{law.exponent.value:.2g}",
            fontsize=9,
            color=INK,
        )
    axes.legend(
        fontsize=7, frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.14), borderaxespad=0.0
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
