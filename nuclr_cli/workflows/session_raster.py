"""The picture of a session of spikes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.data.store import Session
from nuclr_cli.workflows.info import unit_rates
from nuclr_cli.workflows.plot_parts import (
    ACCENT,
    BINS,
    COLORS,
    INK,
    color_of,
    label_strip,
    shade_gaps,
    time_unit,
    without_frame,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_MARKS = 60_000  # above that single spikes run into each other and a picture of rates says more
_ZOOM_S = 10.0


def draw_spikes(figure: Figure, session: Session, order: NDArray[np.intp], groups: list[str]) -> None:
    """All units over the whole session, their mean rate, the rate of each, and the busiest ten seconds.

    Args:
        figure: Empty.
        session: Spikes.
        order: (N,) rows of the units table, the first to be drawn first.
        groups: (N,) label of each row of the table.
    """
    scale, unit = time_unit(session)
    grid = figure.add_gridspec(3, 3, height_ratios=(5, 1.5, 2.5), width_ratios=(0.14, 10, 1.6))
    strip, raster, side = (figure.add_subplot(grid[0, i]) for i in range(3))
    mean = figure.add_subplot(grid[1, 1], sharex=raster)
    zoom_strip, zoom = figure.add_subplot(grid[2, 0]), figure.add_subplot(grid[2, 1])
    rank = np.empty(len(order), dtype=np.intp)
    rank[order] = np.arange(len(order))
    times, unit_index = session.spikes
    start, end = session.intervals[0, 0], session.intervals[-1, 1]
    counts, edges = _counts(session, rank, start, end)
    if len(times) <= _MOST_MARKS:
        _marks(raster, times / scale, rank[unit_index], len(order), 0.6)
    else:
        per_unit = counts / np.maximum(np.percentile(counts, 99, axis=1, keepdims=True), 1)
        raster.imshow(
            np.sqrt(per_unit), aspect="auto", cmap="Greys", vmin=0, vmax=1, interpolation="antialiased",
            extent=(start / scale, end / scale, len(order) - 0.5, -0.5),
        )  # fmt: skip
    raster.set_ylim(len(order) - 0.5, -0.5)
    raster.tick_params(labelbottom=False)
    label_strip(strip, order, groups)
    seconds = _valid_seconds(session, edges)
    rate = np.divide(counts.sum(0), seconds, out=np.full(len(seconds), np.nan), where=seconds > 0) / len(
        order
    )
    mean.plot((edges[:-1] + edges[1:]) / 2 / scale, rate, color=ACCENT, lw=0.8)
    mean.set_ylim(0, None)
    mean.set_xlim(start / scale, end / scale)
    mean.set_ylabel("mean rate\n(Hz per unit)", fontsize=8)
    mean.set_xlabel(f"time ({unit})", fontsize=8)
    for axes in (raster, mean):
        shade_gaps(axes, session, scale)
    _rates(side, unit_rates(session)[order], [groups[row] for row in order])
    side.set_ylim(len(order) - 0.5, -0.5)
    begin, stop = _busiest(session, counts, edges)
    _zoom(zoom, session, rank, begin, stop)
    label_strip(zoom_strip, order, groups)
    mean.plot([begin / scale, stop / scale], [0, 0], color=COLORS[1], lw=4, solid_capstyle="butt", zorder=4)
    for axes in (raster, mean):
        axes.tick_params(labelsize=7)


def _counts(
    session: Session, rank: NDArray[np.intp], start: float, end: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(N, bins) spikes of each unit, in drawing order, and (bins + 1,) edges in seconds; block by block."""
    n_bins = min(BINS, max(math.ceil((end - start) / 0.02), 1))
    edges = np.linspace(start, end, n_bins + 1)
    counts = np.zeros(len(rank) * n_bins, dtype=np.int64)
    times, unit_index = session.spikes
    for at in range(0, len(times), 1 << 22):
        block = times[at : at + (1 << 22)]
        bins = np.clip(((block - start) / (end - start) * n_bins).astype(np.intp), 0, n_bins - 1)
        flat = rank[unit_index[at : at + (1 << 22)]] * n_bins + bins
        counts += np.bincount(flat, minlength=len(counts))
    return counts.reshape(len(rank), n_bins).astype(np.float64), edges


def _valid_seconds(session: Session, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """(bins,) seconds of each bin that lie inside the intervals."""
    seconds = np.zeros(len(edges) - 1)
    for start, end in session.intervals:
        seconds += np.clip(np.minimum(edges[1:], end) - np.maximum(edges[:-1], start), 0, None)
    return np.where(seconds < 0.2 * np.diff(edges), 0, seconds)


def _busiest(
    session: Session, counts: NDArray[np.float64], edges: NDArray[np.float64]
) -> tuple[float, float]:
    """Ten seconds (or the whole interval, if shorter) around the bin with most spikes."""
    most = int(np.argmax(counts.sum(axis=0)))
    middle = (edges[most] + edges[most + 1]) / 2
    inside = [
        (low, high) for low, high in session.intervals if low <= edges[most + 1] and edges[most] <= high
    ]
    start, end = max(inside, key=lambda interval: float(interval[1] - interval[0]))
    length = min(_ZOOM_S, end - start)
    begin = float(np.clip(middle - length / 2, start, end - length))
    return begin, begin + length


def _zoom(axes: Axes, session: Session, rank: NDArray[np.intp], begin: float, end: float) -> None:
    times, units = session.spikes_between(begin, end)
    _marks(axes, times - begin, rank[units], len(rank), 0.9)
    axes.set_xlim(0, end - begin)
    axes.set_ylim(len(rank) - 0.5, -0.5)
    axes.set_xlabel(f"the busiest {end - begin:.3g} s, from {begin:.1f} s on, every spike (s)", fontsize=8)
    axes.tick_params(labelsize=7)


def _marks(
    axes: Axes, times: NDArray[np.float64], rows: NDArray[np.integer[Any]], n_units: int, width: float
) -> None:
    half = 0.45
    axes.vlines(times, rows - half, rows + half, color=INK, lw=width if n_units < 150 else width * 0.7)


def _rates(axes: Axes, rates: NDArray[np.float64], groups: list[str]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    colors = color_of(groups)
    floor = max(rates[rates > 0].min() if (rates > 0).any() else 0.01, 1e-3) / 2
    axes.barh(
        np.arange(len(rates)),
        np.where(rates > 0, rates, np.nan),
        height=1.0,
        left=0,
        color=[colors[g] for g in groups],
    )
    axes.set_xscale("log")
    # Whole decades: labels between them would overlap on an axis this narrow.
    axes.set_xlim(
        10 ** math.floor(math.log10(floor)), 10 ** math.ceil(math.log10(max(rates.max(), floor * 2)))
    )
    axes.xaxis.set_major_locator(LogLocator(numticks=5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    median = float(np.median(rates[rates > 0])) if (rates > 0).any() else math.nan
    axes.axvline(median, color=INK, lw=0.8, ls=":")
    axes.set_title(f"rate (Hz), median {median:.3g}", fontsize=8)
    axes.tick_params(labelleft=False, left=False, labelsize=7)
    without_frame(axes)
