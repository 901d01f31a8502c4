"""The reliability diagram: what a probability promised, and how often the prediction was right."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np

from nuclr_cli.evaluation.calibration import CalibrationReport
from nuclr_cli.evaluation.reliability import Reliability
from nuclr_cli.workflows.plot_parts import ACCENT, INK, without_frame

_GREY = "#8a8a8a"
_FEW = 10
"""A bin of fewer units is drawn hollow: its share of right predictions is mostly chance."""
_LEAST_AREA, _MOST_AREA = 10.0, 120.0  # points squared, of a bin without units and beyond it of the fullest


def plot_reliability(report: CalibrationReport, title: str, path: Path) -> None:
    """Accuracy by probability before and after calibration, above the number of units; written as PNG.

    The area of a marker grows with the units of its bin.

    Of a correction that is not kept, what it would have done, and that it is not.
    """
    # Without pyplot: no global state, no window system.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 6.0), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.plot([0, 1], [0, 1], color=_GREY, lw=1, ls="--")
    shown: list[tuple[Reliability, str, str]] = [(report.before, _GREY, "as the probe says")]
    trial = report.rejected
    if trial is not None:
        name = f"{trial.method}, cross-fitted over {trial.cross_fitted}, not used"
        shown = [(report.before, ACCENT, "as the probe says, kept"), (trial.after, _GREY, name)]
        above.set_title(textwrap.fill(report.calibration.why, 72), fontsize=7, color=INK, loc="left")
    elif report.cross_fitted:
        name = f"{report.calibration.method}, cross-fitted over {report.cross_fitted}"
        shown.append((report.after, ACCENT, name))
    most = max(each.n for one, _, _ in shown for each in one.bins)
    for number, (one, color, name) in enumerate(shown):
        bins = [each for each in one.bins if each.n]
        x, y = [each.confidence for each in bins], [each.accuracy for each in bins]
        few = [each.n < _FEW for each in bins]
        order = 3 if color == ACCENT else 2
        above.plot(x, y, color=color, lw=1, alpha=0.6, zorder=order, label=f"{name}: error {one.ece:.3f}")
        above.scatter(
            x,
            y,
            s=[_LEAST_AREA + _MOST_AREA * each.n / most for each in bins],
            c=["white" if hollow else color for hollow in few],
            edgecolors=color,
            linewidths=1,
            zorder=order,
        )
        width = 0.9 / len(shown) / len(one.bins)
        left = np.array([each.low for each in one.bins]) + 0.05 / len(one.bins) + number * width
        below.bar(left, [each.n for each in one.bins], width=width, align="edge", color=color)
    above.set_ylim(-0.02, 1.02)
    above.set_xlim(-0.02, 1.02)
    above.set_ylabel("share of right predictions")
    # Below both plots: wherever it lies in the upper one, some probe's curve goes through.
    figure.legend(
        frameon=False,
        fontsize=8,
        loc="outside lower center",
        title=f"area of a marker: units; hollow: fewer than {_FEW} units",
        title_fontsize=7,
    )
    below.set_ylabel("units")
    below.set_xlabel("probability of the predicted class")
    for axes in (above, below):
        without_frame(axes)
        axes.grid(axis="y", color="#e6e6e6", lw=0.8)
        axes.set_axisbelow(True)
    figure.suptitle(title, fontsize=9, color=INK)
    figure.savefig(path)
