"""Views: the inputs of some units of a population over one window, and pairs of them for training.

Protocol (NuCLR, arXiv 2512.01199, official code): each view keeps a random 50-100 % of the population's
units, then only those with a spike in its window; the units in both views are the positive pairs; a view of
10 units or fewer drops the sample. Calcium views, whose units are always active, take part in unit dropout
too.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.data.recording import Recording
from nuclr_cli.data.resample import resample_traces
from nuclr_cli.data.streams import Purpose, random_order, stream
from nuclr_cli.data.tokens import SpikeTokens, TokenSpec
from nuclr_cli.data.windows import Window, second_start

_BIN_SLACK = 1e-3
"""Part of a bin by which a window may fall short of whole bins (as in torch_brain's BinSpikes)."""


@dataclass(frozen=True)
class View:
    """Units of one population over one window.

    Attributes:
        inputs: (n, patches, samples per patch) float32: spike counts, or dF/F divided by the session's scale.
            Of events (S,) float32: seconds from the start of the window, unit after unit, each sorted.
        rows: (n,) int64, ascending: row of each unit in the session's units table.
        spikes_per_unit: Of events (n,) int64, at least 1 each, sums to S; else None.
        n_latents: Of events, the tokens of a unit; else 0.
    """

    inputs: NDArray[np.float32]
    rows: NDArray[np.int64]
    spikes_per_unit: NDArray[np.int64] | None = None
    n_latents: int = 0

    @property
    def n_tokens(self) -> int:
        """Units times patches, or latents."""
        return len(self.rows) * (self.inputs.shape[1] if self.spikes_per_unit is None else self.n_latents)


@dataclass(frozen=True)
class ViewPair:
    """Two views of one population near in time.

    Attributes:
        window: Where the first view lies.
        view1, view2: The views.
        n_matched: Units in both, at least 1.
    """

    window: Window
    view1: View
    view2: View
    n_matched: int


class DropReason(StrEnum):
    """Why a window gave no pair."""

    FEW_UNITS = "too few active units in a view"
    NO_MATCH = "no unit in both views"


@dataclass(frozen=True)
class DroppedSample:
    """A window that gave no pair."""

    reason: DropReason
    window: Window


def bin_counts(
    times: NDArray[np.float64],
    unit_index: NDArray[np.integer[Any]],
    start_s: float,
    tokens: SpikeTokens,
    n_units: int,
) -> NDArray[np.float32]:
    """Spike counts of every unit in one window.

    Equal, spike for spike, to torch_brain's ``BinSpikes(bin_s)`` on the slice [start_s, start_s + window_s).

    Args:
        times: (S,) float64 seconds, sorted; spikes outside the window are ignored.
        unit_index: (S,) unit of each spike, 0 to n_units - 1.
        start_s: Start of the window, seconds.
        tokens: Window and bin lengths.
        n_units: Units in the population.

    Returns:
        (n_units, n_bins) float32.
    """
    n_bins = tokens.n_bins
    relative, unit_index = window_times(times, unit_index, start_s, tokens)
    relative *= 1.0 / tokens.bin_s
    cell = relative.astype(np.int64)  # not negative, so this is floor
    if len(cell) and cell[-1] >= n_bins:
        np.minimum(cell, n_bins - 1, out=cell)
    cell += unit_index.astype(np.int64) * n_bins
    counts = np.zeros(n_units * n_bins, dtype=np.float32)
    np.add.at(counts, cell, np.float32(1.0))  # twice as fast here as bincount and a cast
    return counts.reshape(n_units, n_bins)


def window_times(
    times: NDArray[np.float64], unit_index: NDArray[np.integer[Any]], start_s: float, tokens: SpikeTokens
) -> tuple[NDArray[np.float64], NDArray[np.integer[Any]]]:
    """The spikes of one window, timed from its start; arguments as `bin_counts`.

    Returns:
        Seconds (S,) float64, a new array, sorted, and the unit (S,) of each.
    """
    bin_s = tokens.bin_s
    end_s = start_s + tokens.window_s
    if len(times) and not (times[0] >= start_s and times[-1] < end_s):
        inside = slice(*np.searchsorted(times, (start_s, end_s)).tolist())
        times, unit_index = times[inside], unit_index[inside]
    relative = times - start_s
    # start + length - start may exceed the length by a rounding error; BinSpikes then cuts the excess off
    # the left.
    length = end_s - start_s
    excess = length - np.floor(length / bin_s + _BIN_SLACK) * bin_s
    if excess > 0:
        whole = int(np.searchsorted(relative, excess))
        relative, unit_index = relative[whole:] - excess, unit_index[whole:]
    return relative, unit_index


def make_view(
    session: Recording, start_s: float, tokens: TokenSpec, keep: NDArray[np.int64] | None = None
) -> View:
    """One view: the active units among `keep` over the window at `start_s`.

    Spikes: a unit is active when it has a spike in the window. Calcium: every unit is; traces are resampled
    and divided by the session's ``calcium_scale``.

    Args:
        session: The recording.
        start_s: Start of the window, seconds.
        tokens: Window, patch and bin lengths by modality.
        keep: (k,) int64 ascending unit rows; None = all.
    """
    rows = np.arange(session.n_units, dtype=np.int64) if keep is None else keep
    if session.modality == "spikes":
        spikes = tokens.spikes
        times, unit_index = session.spikes_between(start_s, start_s + spikes.window_s)
        if spikes.kind == "events":
            relative, unit_index = window_times(times, unit_index, start_s, spikes)
            return _event_view(relative, unit_index, rows, session.n_units, spikes.n_patches)
        counts = bin_counts(times, unit_index, start_s, spikes, session.n_units)
        rows = rows[(counts.max(axis=1) > 0)[rows]]
        return View(counts[rows].reshape(len(rows), spikes.n_patches, spikes.samples_per_patch), rows)
    calcium = tokens.calcium
    traces = resample_traces(session.calcium, start_s, calcium, rows)
    traces /= np.float32(session.calcium_scale)
    return View(traces.reshape(len(rows), calcium.n_patches, calcium.samples_per_patch), rows)


def order_by_unit(unit_index: NDArray[np.integer[Any]], n_units: int) -> NDArray[np.intp]:
    """(S,) order that packs spikes unit after unit, each unit's in the order given."""
    narrow = np.uint16 if n_units <= 2**16 else unit_index.dtype  # sorted by radix, many times as fast
    return np.argsort(unit_index.astype(narrow, copy=False), kind="stable")


def _event_view(
    relative: NDArray[np.float64],
    unit_index: NDArray[np.integer[Any]],
    rows: NDArray[np.int64],
    n_units: int,
    n_latents: int,
) -> View:
    """The spikes of those units among `rows` that have any, sorted by unit, then by time."""
    counts = np.bincount(unit_index, minlength=n_units)
    rows = rows[counts[rows] > 0]
    kept = np.zeros(n_units, dtype=bool)
    kept[rows] = True
    inside = kept[unit_index]
    order = order_by_unit(unit_index[inside], n_units)
    times = relative[inside][order].astype(np.float32)
    return View(times, rows, counts[rows].astype(np.int64), n_latents)


def draw_pair(
    session: Recording,
    window: Window,
    tokens: TokenSpec,
    seed: int,
    epoch: int,
    index: int,
    *,
    dropout: tuple[float, float] = (0.5, 1.0),
    min_units: int = 11,
) -> ViewPair | DroppedSample:
    """Draw the two views of a training window; a function of the arguments alone.

    Args:
        session: The recording that `window` lies in.
        window: The first view's window.
        tokens: Window, patch and bin lengths by modality.
        seed, epoch, index: Name the random streams; `index` is the window's place in its epoch.
        dropout: Bounds of the uniform fraction of all the population's units that each view keeps, drawn for
            each view on its own; (1, 1) = no unit dropout.
        min_units: Active units that each view needs.
    """
    of_modality = tokens.of(window.modality)
    rng = stream(seed, epoch, index, Purpose.SECOND_VIEW)
    start2 = second_start(window, session.intervals, of_modality.window_s, of_modality.max_distance_s, rng)
    views: list[View] = []
    for start_s, purpose in ((window.start_s, Purpose.DROPOUT_1), (start2, Purpose.DROPOUT_2)):
        keep = _kept_units(session.n_units, dropout, stream(seed, epoch, index, purpose))
        view = make_view(session, start_s, tokens, keep)
        if len(view.rows) < min_units:
            return DroppedSample(DropReason.FEW_UNITS, window)
        views.append(view)
    n_matched = len(np.intersect1d(views[0].rows, views[1].rows, assume_unique=True))
    if n_matched == 0:
        return DroppedSample(DropReason.NO_MATCH, window)
    return ViewPair(window, views[0], views[1], n_matched)


def _kept_units(n_units: int, dropout: tuple[float, float], rng: np.random.Generator) -> NDArray[np.int64]:
    """(k,) int64 ascending: a random subset of round(f * n_units) rows, f uniform between the bounds."""
    low, high = dropout
    fraction = low + (high - low) * rng.random()
    kept = random_order(n_units, rng)[: round(fraction * n_units)]
    return np.sort(kept)
