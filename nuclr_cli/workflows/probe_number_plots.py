"""Plots of probes that give numbers: R2 of all methods, predicted against true, precision-recall and ROC."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.evaluation.records import NUCLR, Score
from nuclr_cli.evaluation.regression import RegressionResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _ACCENT, _GREY = "#222222", "#0b6e99", "#8a8a8a"
_SUBJECTS_NAMED = 10  # beyond that the legend would hide the points


def plot_r2(methods: Sequence[RegressionResult], title: str, path: Path) -> None:
    """R2 and Spearman correlation of every method, dots with 95% intervals, written as PNG."""
    rows = [(method.name, method.title, method.r2, method.spearman) for method in methods]
    _dots(rows, ("R2", "Spearman correlation"), title, path, lowest=-0.5)


def plot_predicted(
    truth: NDArray[np.float64],
    predicted: NDArray[np.float64],
    subject: NDArray[np.str_],
    name: str,
    title: str,
    path: Path,
) -> None:
    """Out-of-fold prediction against truth, one dot a unit, coloured by subject; written as PNG."""
    figure = figure_of(6.0, 5.4)
    axes = figure.subplots()
    names = sorted(set(subject.tolist()))
    for i, one in enumerate(names):
        mine = subject == one
        label = one if len(names) <= _SUBJECTS_NAMED else None
        axes.plot(truth[mine], predicted[mine], "o", color=f"C{i % 10}", ms=4, alpha=0.7, mew=0, label=label)
    low, high = float(min(truth.min(), predicted.min())), float(max(truth.max(), predicted.max()))
    axes.plot([low, high], [low, high], color=_GREY, lw=1, zorder=0)
    axes.set_xlabel(f"true {name}")
    axes.set_ylabel(f"predicted {name}")
    axes.set_title(title, fontsize=10, color=_INK)
    _plain(axes)
    if len(names) <= _SUBJECTS_NAMED:
        axes.legend(fontsize=8, frameon=False, title="subject", title_fontsize=8)
    figure.savefig(path)


def plot_ranking(
    curves: Sequence[tuple[str, str, NDArray[np.float64]]],
    truth: NDArray[np.bool_],
    title: str,
    path: Path,
) -> None:
    """Precision-recall and ROC curves of several methods on the same pairs, written as PNG.

    Args:
        curves: Name, title for people, and (n,) score of each method.
        truth: (n,) whether the pair is connected.
        title: Of the figure.
        path: The file.
    """
    from sklearn.metrics import precision_recall_curve, roc_curve

    figure = figure_of(10.0, 4.6)
    left, right = figure.subplots(1, 2)
    for i, (name, label, score) in enumerate(curves):
        look = (
            {"color": _ACCENT, "lw": 2.2, "zorder": 3}
            if name == NUCLR
            else {"color": f"C{(i + 1) % 10}", "lw": 1.2}
        )
        precision, recall, _ = precision_recall_curve(truth, score)
        left.step(recall, precision, where="post", label=label, **look)
        false, true, _ = roc_curve(truth, score)
        right.plot(false, true, label=label, **look)
    left.axhline(float(truth.mean()), color=_GREY, lw=1, ls=":", label="chance")
    right.plot([0, 1], [0, 1], color=_GREY, lw=1, ls=":", label="chance")
    for axes, x, y in (
        (left, "recall", "precision"),
        (right, "false positive rate", "true positive rate"),
    ):
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        _plain(axes)
    right.legend(fontsize=8, frameon=False, loc="lower right")
    figure.suptitle(title, fontsize=10, color=_INK)
    figure.savefig(path)


def plot_pair_scores(rows: Sequence[tuple[str, str, Score, Score]], title: str, path: Path) -> None:
    """Average precision and ROC AUC of every method (name, title, AP, AUC), with 95% intervals, as PNG."""
    _dots(rows, ("average precision", "ROC AUC"), title, path, lowest=0.0)


def _dots(
    rows: Sequence[tuple[str, str, Score, Score | None]],
    metrics: tuple[str, str],
    title: str,
    path: Path,
    lowest: float,
) -> None:
    figure = figure_of(9.0, 1.3 + 0.42 * len(rows))
    both = figure.subplots(1, 2, sharey=True)
    heights = np.arange(len(rows))[::-1]
    for place, (axes, metric) in enumerate(zip(both, metrics, strict=True)):
        shown = [row[2 + place] for row in rows]
        low = min([lowest, *(max(-1.0, score.low) for score in shown if isinstance(score, Score))])
        for height, row, score in zip(heights, rows, shown, strict=True):
            if not isinstance(score, Score):
                continue
            color = _ACCENT if row[0] == NUCLR else _GREY
            axes.plot([score.low, score.high], [height, height], color=color, lw=2, solid_capstyle="butt")
            axes.plot([score.value], [height], "o", color=color, ms=6)
            # A number left of the axes would be lost: it stands at the edge.
            axes.annotate(
                f"{score.value:.2f}",
                (max(score.value, low), height),
                (0, 5),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=_INK,
            )
        axes.set_xlim(low - 0.04, 1.02)
        axes.set_ylim(-0.6, len(rows) - 0.3)
        axes.set_xlabel(metric)
        axes.axvline(0.0, color="#c8c8c8", lw=0.8)
        _plain(axes)
        axes.spines["left"].set_visible(False)
        axes.tick_params(length=0)
    both[0].set_yticks(heights, [row[1] for row in rows])
    figure.suptitle(title, fontsize=10, color=_INK)
    figure.savefig(path)


def _plain(axes: Axes) -> None:
    axes.grid(color="#e6e6e6", lw=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def figure_of(width: float, height: float) -> Figure:
    """A figure without pyplot: no global state, no window system, freed with its last reference."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure
