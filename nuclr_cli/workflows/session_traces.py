"""The picture of a calcium session."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.data.store import Session
from nuclr_cli.wording import counted
from nuclr_cli.workflows.plot_parts import (
    ACCENT,
    BINS,
    INK,
    label_strip,
    shade_gaps,
    time_unit,
    without_frame,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_EXAMPLES = 12


def draw_traces(figure: Figure, session: Session, order: NDArray[np.intp], groups: list[str]) -> None:
    """All traces, some of them large, and their mean.

    Args:
        figure: Empty.
        session: Calcium.
        order: (N,) rows of the units table, the first to be drawn first.
        groups: (N,) label of each row of the table.
    """
    scale, unit = time_unit(session)
    grid = figure.add_gridspec(3, 3, height_ratios=(4, 4, 1.5), width_ratios=(0.14, 10, 0.25))
    strip, heat, bar = (figure.add_subplot(grid[0, i]) for i in range(3))
    examples = figure.add_subplot(grid[1, 1], sharex=heat)
    mean = figure.add_subplot(grid[2, 1], sharex=heat)
    traces = session.calcium
    start, end = session.intervals[0, 0], session.intervals[-1, 1]
    edges = np.linspace(start, end, min(BINS, max(len(traces.timestamps) // 2, 1)) + 1)
    binned = _binned(traces.values, traces.timestamps, edges)[:, order]
    middles = (edges[:-1] + edges[1:]) / 2 / scale
    scaled = binned / np.maximum(np.nanpercentile(binned, 99.5, axis=0), 1e-9)
    image = heat.imshow(
        scaled.T, aspect="auto", cmap="magma", vmin=0, vmax=1, interpolation="antialiased",
        extent=(start / scale, end / scale, len(order) - 0.5, -0.5),
    )  # fmt: skip
    colorbar = figure.colorbar(image, cax=bar)
    colorbar.set_label("share of the unit's\n99.5th percentile", fontsize=7)
    colorbar.ax.tick_params(labelsize=7)
    heat.tick_params(labelbottom=False, labelsize=7)
    label_strip(strip, order, groups)
    chosen = np.unique(np.linspace(0, len(order) - 1, min(_EXAMPLES, len(order))).astype(int))
    for row, unit_row in enumerate(chosen):
        trace = binned[:, unit_row]
        low, high = np.nanpercentile(trace, 1), np.nanpercentile(trace, 99.9)
        height = (trace - low) / max(high - low, 1e-9)
        examples.plot(middles, np.clip(height, -0.3, 1.3) * 0.9 - row, color=INK, lw=0.6)
        examples.text(
            1.004, -row + 0.1, f"{high - low:.2g}", transform=examples.get_yaxis_transform(), fontsize=7
        )
    ids = [str(session.unit_ids[order[row]]) for row in chosen]
    examples.set_yticks([-row + 0.2 for row in range(len(chosen))], ids, fontsize=7)
    examples.set_ylim(-len(chosen) + 0.6, 1.2)
    examples.set_title(
        f"{counted(len(chosen), 'unit')}, each to its own height (right: its size)", fontsize=8, loc="left"
    )
    examples.tick_params(labelbottom=False, left=False)
    without_frame(examples)
    mean.plot(middles, binned.mean(axis=1), color=ACCENT, lw=0.8)
    mean.set_xlim(start / scale, end / scale)
    mean.set_ylabel("mean of all\nunits", fontsize=8)
    mean.set_xlabel(f"time ({unit})", fontsize=8)
    mean.tick_params(labelsize=7)
    without_frame(mean)
    for axes in (heat, examples, mean):
        shade_gaps(axes, session, scale)


def _binned(
    values: NDArray[np.float32], times: NDArray[np.float64], edges: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(bins, N) means of the frames of each bin, NaN where there is none."""
    at = np.searchsorted(times, edges)
    means = np.full((len(edges) - 1, values.shape[1]), np.nan)
    at[-1] = len(times)
    for row, (first, last) in enumerate(itertools.pairwise(at)):
        if last > first:
            means[row] = values[first:last].mean(axis=0, dtype=np.float64)
    return means
