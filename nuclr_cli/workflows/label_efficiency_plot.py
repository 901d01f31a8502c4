"""The label-efficiency curve as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nuclr_cli.evaluation.label_efficiency import Curve
from nuclr_cli.evaluation.records import NUCLR

# Okabe and Ito: told apart with any colour vision.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")


def plot_curves(curves: Sequence[Curve], title: str, path: Path) -> None:
    """Macro F1 against labelled training units on a log axis, with 95 % intervals, written as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for number, curve in enumerate(curves):
        color = _COLORS[number % len(_COLORS)]
        x = [point.n_labelled for point in curve.points]
        y = [point.macro_f1.value for point in curve.points]
        main = curve.name == NUCLR
        axes.plot(x, y, "o-", color=color, lw=2.2 if main else 1.3, ms=5 if main else 3.5, label=curve.title)
        axes.fill_between(
            x,
            [point.macro_f1.low for point in curve.points],
            [point.macro_f1.high for point in curve.points],
            color=color,
            alpha=0.18 if main else 0.07,
            lw=0,
        )
    axes.set_xscale("log")
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("labelled training units a fold")
    axes.set_ylabel("macro F1")
    axes.grid(color="#e6e6e6", lw=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.legend(fontsize=8, frameon=False, loc="outside right upper")
    axes.set_title(title, fontsize=10, loc="left")
    figure.savefig(path)
