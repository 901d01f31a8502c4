"""Two plain plots: scores of all methods with their intervals, and the confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.evaluation.records import NUCLR, MethodResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INK, _ACCENT, _GREY = "#222222", "#0b6e99", "#8a8a8a"
_NUMBERS_UP_TO = 15  # classes: beyond that the cells are too small for numbers


def plot_scores(methods: Sequence[MethodResult], title: str, path: Path) -> None:
    """Macro F1 and balanced accuracy of every method, dots with 95% intervals, written as PNG."""
    figure = _figure(9.0, 1.3 + 0.42 * len(methods))
    left, right = figure.subplots(1, 2, sharey=True)
    y = np.arange(len(methods))[::-1]
    for axes, metric, name in (
        (left, "macro_f1", "macro F1"),
        (right, "balanced_accuracy", "balanced accuracy"),
    ):
        for height, method in zip(y, methods, strict=True):
            score = getattr(method, metric)
            color = _ACCENT if method.name == NUCLR else _GREY
            axes.plot([score.low, score.high], [height, height], color=color, lw=2, solid_capstyle="butt")
            axes.plot([score.value], [height], "o", color=color, ms=6)
            axes.annotate(
                f"{score.value:.2f}",
                (score.value, height),
                (0, 5),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=_INK,
            )
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.6, len(methods) - 0.3)
        axes.set_xlabel(name)
        axes.grid(axis="x", color="#e6e6e6", lw=0.8)
        axes.set_axisbelow(True)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.tick_params(length=0)
    left.set_yticks(y, [method.title for method in methods])
    figure.suptitle(title, fontsize=10, color=_INK)
    figure.savefig(path)


def plot_confusion(matrix: NDArray[np.int64], classes: Sequence[str], title: str, path: Path) -> None:
    """Confusion matrix: share of each true class (colour), units (numbers), written as PNG."""
    n = len(classes)
    size = min(3.2 + 0.45 * n, 14.0)
    figure = _figure(size + 0.8, size)
    axes = figure.subplots()
    total = matrix.sum(axis=1, keepdims=True)
    share = np.divide(matrix, total, out=np.zeros(matrix.shape), where=total > 0)
    image = axes.imshow(share, cmap="Blues", vmin=0.0, vmax=1.0)
    if n <= _NUMBERS_UP_TO:
        for i in range(n):
            for j in range(n):
                color = "white" if share[i, j] > 0.6 else _INK
                axes.text(j, i, str(matrix[i, j]), ha="center", va="center", fontsize=8, color=color)
    axes.set_xticks(range(n), classes, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(n), classes)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.tick_params(length=0)
    figure.colorbar(image, ax=axes, label="share of the true class", fraction=0.046, pad=0.04)
    axes.set_title(title, fontsize=10, color=_INK)
    figure.savefig(path)


def _figure(width: float, height: float) -> Figure:
    # Without pyplot: no global state, no window system, and figures are freed with their last reference.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure
