"""Binned activity as a vector that can be compared between animals: the input of the PCA baseline.

Units of different animals share no time axis, so the activity itself cannot be compared. What survives is how
the counts (or dF/F) of one unit relate to each other (autocorrelation) and how they are distributed. The
principal components are fitted by the probe, on training rows only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from nuclr_cli.evaluation.trains import (
    BinGrid,
    Floats,
    Ints,
    Trains,
    autocorrelation,
    group_spikes,
    unbroken_runs,
)

MAX_LAG_S = 2.0
HISTOGRAM_SCALES_S = (0.1, 1.0)
COUNT_EDGES = (0, 1, 2, 3, 4, 5, 6, 8, 11, 16, 23, 32, 45, 64)
"""Lower edges of the count histogram, about half an octave apart; the last class is open."""

TRACE_STEP_S, MAX_TRACE_LAG_S = 0.25, 8.0
TRACE_MEAN_S = 1.0
TRACE_EDGES = (-1.0, -0.5, -0.25, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
"""Edges of the dF/F histogram, in units of the session's scale; both outer classes are open."""


def binned_descriptor(
    times: Floats,
    unit_index: NDArray[np.integer[Any]],
    n_units: int,
    intervals: Floats,
    bin_s: float = 0.02,
) -> Floats:
    """Autocorrelation and distribution of each unit's binned counts.

    Args:
        times: (S,) s, ascending.
        unit_index: (S,) row of each spike's unit.
        n_units: Units of the population, silent ones included.
        intervals: (M, 2) s, valid time; no lag or bin spans a gap.
        bin_s: Bin of the autocorrelation.

    Returns:
        (n_units, K) float64, finite: the autocorrelation of counts at lags ``bin_s`` to 2 s (100 lags of 20
        ms), then the square roots of the shares of 0.1 s bins, and of 1 s bins, in each class of
        `COUNT_EDGES`. Square roots make distances between distributions those of Hellinger and keep rare
        classes. A silent unit has autocorrelation 0 and all its bins in the class of zero spikes. K depends
        on `bin_s` alone.

    Raises:
        ValueError: As `group_spikes`.
    """
    trains = group_spikes(times, unit_index, n_units, intervals)
    n_lags = round(MAX_LAG_S / bin_s)
    grid = BinGrid.over(trains.intervals, bin_s, pad=n_lags)
    valid, pairs = grid.valid, grid.pairs(n_lags)
    parts = [np.empty((n_units, n_lags))]
    with threadpool_limits(1):  # rows are short: more BLAS threads only wait for one another
        for row, counts in enumerate(grid.rows(trains)):
            parts[0][row] = autocorrelation(counts, valid, pairs)
    parts += [_count_distribution(trains, scale) for scale in HISTOGRAM_SCALES_S]
    return np.concatenate(parts, axis=1)


def trace_descriptor(
    values: NDArray[np.floating[Any]], timestamps: Floats, sampling_rate_hz: float, scale: float
) -> Floats:
    """Autocorrelation and distribution of each unit's dF/F, comparable between frame rates.

    Args:
        values: (T, N) dF/F, finite.
        timestamps: (T,) s, ascending; no lag or mean spans a gap (frames more than 1.5 periods apart).
        sampling_rate_hz: Nominal frame rate.
        scale: dF/F is divided by it before it is counted: the session's 99th percentile, positive.

    Returns:
        (N, 66) float64, finite: the autocorrelation at lags of 0.25 to 8 s (32 lags; linear between
        frames), then the square roots of the shares of frames, and of means over 1 s, in each class of
        `TRACE_EDGES`. A constant trace has autocorrelation 0.

    Raises:
        ValueError: Shapes differ, or there are fewer than two frames.
    """
    run = unbroken_runs(timestamps, sampling_rate_hz, len(values))
    n_units, n_frames = values.shape[1], np.bincount(run)
    lags_s = TRACE_STEP_S * np.arange(1, round(MAX_TRACE_LAG_S / TRACE_STEP_S) + 1)
    n_lags = int(np.ceil(MAX_TRACE_LAG_S * sampling_rate_hz)) + 1
    grid = BinGrid.of_lengths(n_frames, 1.0 / sampling_rate_hz, pad=n_lags)
    valid, pairs = grid.valid, grid.pairs(n_lags)
    block = _blocks(n_frames, max(1, round(TRACE_MEAN_S * sampling_rate_hz)))
    n_blocks = np.bincount(block[block >= 0])
    acf, shares, mean_shares = np.empty((n_units, len(lags_s))), [], []
    row = np.zeros(grid.width)
    with threadpool_limits(1):
        for unit in range(n_units):
            trace = values[:, unit].astype(np.float64)
            row[valid] = trace
            at_frames = autocorrelation(row, valid, pairs)
            start = 1.0 if at_frames.any() else 0.0
            acf[unit] = np.interp(lags_s * sampling_rate_hz, np.arange(n_lags + 1), [start, *at_frames])
            trace /= scale
            shares.append(_trace_shares(trace))
            sums = np.bincount(block[block >= 0], weights=trace[block >= 0])
            mean_shares.append(_trace_shares(sums / n_blocks))
    return np.concatenate([acf, np.reshape(shares, (n_units, -1)), np.reshape(mean_shares, (n_units, -1))], 1)


def _blocks(n_frames: Ints, size: int) -> Ints:
    """(T,) number of the block of `size` frames that each frame lies in; -1 for those left at a run's end."""
    blocks, begun = [], 0
    for length in n_frames.tolist():
        whole = length // size
        blocks += [np.repeat(np.arange(begun, begun + whole), size), np.full(length - whole * size, -1)]
        begun += whole
    return np.concatenate(blocks)


def _trace_shares(trace: Floats) -> Floats:
    """(17,) square roots of the shares of `trace` in the classes of `TRACE_EDGES`; 0 of an empty one."""
    classes = np.searchsorted(TRACE_EDGES, trace, side="right")
    shares: Floats = np.sqrt(np.bincount(classes, minlength=len(TRACE_EDGES) + 1) / max(1, len(trace)))
    return shares


def _count_distribution(trains: Trains, bin_s: float) -> Floats:
    """(N, len(COUNT_EDGES)) square roots of shares of bins."""
    grid = BinGrid.over(trains.intervals, bin_s)
    shares = np.zeros((trains.n_units, len(COUNT_EDGES)))
    for row, counts in enumerate(grid.rows(trains)):
        classes = np.searchsorted(COUNT_EDGES, counts, side="right") - 1
        shares[row] = np.bincount(classes, minlength=len(COUNT_EDGES)) / max(1, len(counts))
    return np.sqrt(shares)
