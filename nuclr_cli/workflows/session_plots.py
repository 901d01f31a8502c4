"""One picture per session, by which a person can judge it: spikes or traces, their mean, and the gaps."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.data.atomic import replacing
from nuclr_cli.data.store import Session
from nuclr_cli.workflows.info import SessionSummary, unit_rates

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _ACCENT, _GAP = "#222222", "#0b6e99", "#f2d9c4"
_COLORS = tuple(
    "#0b6e99 #d1495b #3a7d44 #8f6bb3 #c98a1b #4f8fc0 #a05c3b #5fa8a0 #b0578d #7d8c2a".split()  # noqa: SIM905
)
_BINS = 1500  # of the whole session: about one per pixel
_MOST_MARKS = 60_000  # above that single spikes run into each other and a picture of rates says more
_ZOOM_S = 10.0
_EXAMPLES = 12
_GROUPED_BY = ("brain_region", "brain_area", "cell_type", "quality")


def plot_session(session: Session, summary: SessionSummary, path: Path) -> None:
    """Draw one session as PNG.

    Spikes: all units over the whole session, sorted by label and rate, their mean rate, the rate of each
    unit, and the busiest ten seconds spike by spike. Calcium: all traces, some of them large, and their mean.
    Gaps are shaded.

    Raises:
        InputError: `path` cannot be written, or the session cannot be read.
    """
    figure = _figure(12.0, 8.5)
    order, groups, name = _sorted_units(session)
    if session.modality == "spikes":
        _spikes(figure, session, order, groups)
    else:
        _calcium(figure, session, order, groups)
    figure.suptitle(_title(session, summary, name), fontsize=11, color=_INK, x=0.01, ha="left")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def _sorted_units(session: Session) -> tuple[NDArray[np.intp], list[str], str]:
    """Rows in drawing order, the label of each row of the table, and the column of these labels ('' = none).

    By label first (the one with two to ten values, regions before types), then by activity.
    """
    activity = unit_rates(session) if session.modality == "spikes" else _activity(session)
    for name in _GROUPED_BY:
        labels = session.label(name).tolist() if _is_label(session, name) else []
        if 2 <= len(set(labels)) <= len(_COLORS):
            sizes = Counter(labels)
            ranks = {text: i for i, text in enumerate(sorted(sizes, key=lambda t: (t == "", -sizes[t], t)))}
            order = np.lexsort((-activity, np.array([ranks[text] for text in labels])))
            return order, labels, name
    return np.argsort(-activity, kind="stable"), [""] * session.n_units, ""


def _is_label(session: Session, name: str) -> bool:
    return name in session.columns and session.columns[name].ndim == 1


def _activity(session: Session) -> NDArray[np.float64]:
    """(N,) size of the fast changes of each trace relative to its noise: skewed traces come first."""
    values = _thinned(session.calcium.values, 4 * _BINS)
    centred = values - np.median(values, axis=0)
    noise = np.median(np.abs(centred), axis=0)
    peak = np.percentile(centred, 99, axis=0)
    return np.asarray(peak / np.where(noise > 0, noise, 1.0), dtype=np.float64)


def _thinned(values: NDArray[Any], n_rows: int) -> NDArray[np.float64]:
    step = max(len(values) // n_rows, 1)
    return np.nan_to_num(values[::step].astype(np.float64))


def _spikes(figure: Figure, session: Session, order: NDArray[np.intp], groups: list[str]) -> None:
    scale, unit = _time_unit(session)
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
    _strip(strip, order, groups)
    seconds = _valid_seconds(session, edges)
    rate = np.divide(counts.sum(0), seconds, out=np.full(len(seconds), np.nan), where=seconds > 0) / len(
        order
    )
    mean.plot((edges[:-1] + edges[1:]) / 2 / scale, rate, color=_ACCENT, lw=0.8)
    mean.set_ylim(0, None)
    mean.set_xlim(start / scale, end / scale)
    mean.set_ylabel("mean rate\n(Hz per unit)", fontsize=8)
    mean.set_xlabel(f"time ({unit})", fontsize=8)
    for axes in (raster, mean):
        _shade_gaps(axes, session, scale)
    _rates(side, unit_rates(session)[order], [groups[row] for row in order])
    side.set_ylim(len(order) - 0.5, -0.5)
    begin, stop = _busiest(session, counts, edges)
    _zoom(zoom, session, rank, begin, stop)
    _strip(zoom_strip, order, groups)
    mean.plot([begin / scale, stop / scale], [0, 0], color=_COLORS[1], lw=4, solid_capstyle="butt", zorder=4)
    for axes in (raster, mean):
        axes.tick_params(labelsize=7)


def _counts(
    session: Session, rank: NDArray[np.intp], start: float, end: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(N, bins) spikes of each unit, in drawing order, and (bins + 1,) edges in seconds; block by block."""
    n_bins = min(_BINS, max(math.ceil((end - start) / 0.02), 1))
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
    axes.vlines(times, rows - half, rows + half, color=_INK, lw=width if n_units < 150 else width * 0.7)


def _rates(axes: Axes, rates: NDArray[np.float64], groups: list[str]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    colors = _color_of(groups)
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
    axes.axvline(median, color=_INK, lw=0.8, ls=":")
    axes.set_title(f"rate (Hz), median {median:.3g}", fontsize=8)
    axes.tick_params(labelleft=False, left=False, labelsize=7)
    _bare(axes)


def _calcium(figure: Figure, session: Session, order: NDArray[np.intp], groups: list[str]) -> None:
    scale, unit = _time_unit(session)
    grid = figure.add_gridspec(3, 3, height_ratios=(4, 4, 1.5), width_ratios=(0.14, 10, 0.25))
    strip, heat, bar = (figure.add_subplot(grid[0, i]) for i in range(3))
    examples = figure.add_subplot(grid[1, 1], sharex=heat)
    mean = figure.add_subplot(grid[2, 1], sharex=heat)
    traces = session.calcium
    start, end = session.intervals[0, 0], session.intervals[-1, 1]
    edges = np.linspace(start, end, min(_BINS, max(len(traces.timestamps) // 2, 1)) + 1)
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
    _strip(strip, order, groups)
    chosen = np.unique(np.linspace(0, len(order) - 1, min(_EXAMPLES, len(order))).astype(int))
    for row, unit_row in enumerate(chosen):
        trace = binned[:, unit_row]
        low, high = np.nanpercentile(trace, 1), np.nanpercentile(trace, 99.9)
        height = (trace - low) / max(high - low, 1e-9)
        examples.plot(middles, np.clip(height, -0.3, 1.3) * 0.9 - row, color=_INK, lw=0.6)
        examples.text(
            1.004, -row + 0.1, f"{high - low:.2g}", transform=examples.get_yaxis_transform(), fontsize=7
        )
    ids = [str(session.unit_ids[order[row]]) for row in chosen]
    examples.set_yticks([-row + 0.2 for row in range(len(chosen))], ids, fontsize=7)
    examples.set_ylim(-len(chosen) + 0.6, 1.2)
    examples.set_title(
        f"{len(chosen)} units, each to its own height (right: its size)", fontsize=8, loc="left"
    )
    examples.tick_params(labelbottom=False, left=False)
    _bare(examples)
    mean.plot(middles, binned.mean(axis=1), color=_ACCENT, lw=0.8)
    mean.set_xlim(start / scale, end / scale)
    mean.set_ylabel("mean of all\nunits", fontsize=8)
    mean.set_xlabel(f"time ({unit})", fontsize=8)
    mean.tick_params(labelsize=7)
    _bare(mean)
    for axes in (heat, examples, mean):
        _shade_gaps(axes, session, scale)


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


def _strip(axes: Axes, order: NDArray[np.intp], groups: list[str]) -> None:
    """A coloured bar of labels along the rows, each name beside its stretch; the rows are numbered from 0."""
    axes.set_ylim(len(order) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.set_xticks([])
    _bare(axes)
    axes.spines["bottom"].set_visible(False)
    axes.spines["left"].set_visible(False)
    sorted_groups = [groups[row] for row in order]
    if len(set(sorted_groups)) < 2:
        axes.set_ylabel(f"{len(order)} units", fontsize=8)
        axes.set_yticks([])
        return
    colors = _color_of(groups)
    places, names = [], []
    for name in dict.fromkeys(sorted_groups):
        rows = [row for row, group in enumerate(sorted_groups) if group == name]
        axes.axhspan(rows[0] - 0.5, rows[-1] + 0.5, color=colors[name], lw=0)
        if len(rows) >= 0.025 * len(order):  # names of thinner stretches would lie on each other
            places.append((rows[0] + rows[-1]) / 2)
            names.append(f"{name or 'unlabelled'} {len(rows)}")
    axes.set_yticks(places, names, fontsize=8)
    axes.tick_params(length=0)


def _color_of(groups: list[str]) -> dict[str, str]:
    sizes = Counter(groups)
    named = sorted((name for name in sizes if name), key=lambda name: (-sizes[name], name))
    blank = "#9a9a9a" if named else _ACCENT
    return {"": blank, **{name: _COLORS[i % len(_COLORS)] for i, name in enumerate(named)}}


def _shade_gaps(axes: Axes, session: Session, scale: float) -> None:
    for end, start in zip(session.intervals[:-1, 1], session.intervals[1:, 0], strict=True):
        if start > end:
            axes.axvspan(end / scale, start / scale, color=_GAP, lw=0, zorder=3)


def _title(session: Session, summary: SessionSummary, grouped_by: str) -> str:
    who = f"{summary.subject} / {summary.session}" + (
        f" / {summary.population}" if summary.population != "0" else ""
    )
    facts = [f"{summary.n_units} units", f"{summary.minutes:.1f} min"]
    if summary.median_rate_hz is not None:
        facts.append(f"median {summary.median_rate_hz:.3g} Hz")
    if summary.frame_rate_hz is not None:
        facts.append(f"{summary.frame_rate_hz:.3g} frames/s")
    if summary.n_silent:
        facts.append(f"{summary.n_silent} silent")
    facts.append(
        f"{summary.n_gaps} gap{'s' * (summary.n_gaps != 1)}, {summary.gap_s:.4g} s (shaded)"
        if summary.n_gaps
        else "no gaps"
    )
    order = "activity" if session.modality == "calcium" else "rate"
    facts.append(f"sorted by {grouped_by}, then {order}" if grouped_by else f"sorted by {order}")
    lines = [_plain(who), ", ".join(facts)]
    shown = [_plain(text[:150] + ("..." if len(text) > 150 else "")) for text in summary.warnings[:3]]
    return "\n".join(lines + [f"warning: {text}" for text in shown])


def _plain(text: str) -> str:
    """Dollar signs would be read as formulas."""
    return text.replace("$", r"\$")


def _time_unit(session: Session) -> tuple[float, str]:
    span = session.intervals[-1, 1] - session.intervals[0, 0]
    return (60.0, "min") if span > 300 else (1.0, "s")


def _bare(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _figure(width: float, height: float) -> Figure:
    # Without pyplot: no global state, no window system, and figures are freed with their last reference.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure
