"""What the pictures of spikes and of traces share: colors, strips of labels, gaps, the time axis."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.data.store import Session
from nuclr_cli.wording import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, ACCENT, GAP = "#222222", "#0b6e99", "#f2d9c4"
COLORS = tuple(
    "#0b6e99 #d1495b #3a7d44 #8f6bb3 #c98a1b #4f8fc0 #a05c3b #5fa8a0 #b0578d #7d8c2a".split()  # noqa: SIM905
)
BINS = 1500  # of the whole session: about one per pixel


def label_strip(axes: Axes, order: NDArray[np.intp], groups: list[str]) -> None:
    """A coloured bar of labels along the rows, each name beside its stretch; the rows are numbered from 0."""
    axes.set_ylim(len(order) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.set_xticks([])
    without_frame(axes)
    axes.spines["bottom"].set_visible(False)
    axes.spines["left"].set_visible(False)
    sorted_groups = [groups[row] for row in order]
    if len(set(sorted_groups)) < 2:
        axes.set_ylabel(counted(len(order), "unit"), fontsize=8)
        axes.set_yticks([])
        return
    colors = color_of(groups)
    places, names = [], []
    for name in dict.fromkeys(sorted_groups):
        rows = [row for row, group in enumerate(sorted_groups) if group == name]
        axes.axhspan(rows[0] - 0.5, rows[-1] + 0.5, color=colors[name], lw=0)
        if len(rows) >= 0.025 * len(order):  # names of thinner stretches would lie on each other
            places.append((rows[0] + rows[-1]) / 2)
            names.append(f"{name or 'unlabelled'} {len(rows)}")
    axes.set_yticks(places, names, fontsize=8)
    axes.tick_params(length=0)


def color_of(groups: list[str]) -> dict[str, str]:
    """Label -> color, the most frequent first; '' is grey beside others."""
    sizes = Counter(groups)
    named = sorted((name for name in sizes if name), key=lambda name: (-sizes[name], name))
    blank = "#9a9a9a" if named else ACCENT
    return {"": blank, **{name: COLORS[i % len(COLORS)] for i, name in enumerate(named)}}


def shade_gaps(axes: Axes, session: Session, scale: float) -> None:
    """Shade what lies between the intervals; `scale` is seconds per unit of the axis."""
    for end, start in zip(session.intervals[:-1, 1], session.intervals[1:, 0], strict=True):
        if start > end:
            axes.axvspan(end / scale, start / scale, color=GAP, lw=0, zorder=3)


def time_unit(session: Session) -> tuple[float, str]:
    """Seconds per unit of the time axis, and the name of that unit."""
    span = session.intervals[-1, 1] - session.intervals[0, 0]
    return (60.0, "min") if span > 300 else (1.0, "s")


def without_frame(axes: Axes) -> None:
    """Leave out the upper and the right line around the axes."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
