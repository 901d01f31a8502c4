"""Spike trains by unit, and their counts in bins, without ever crossing a gap between intervals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TOLERANCE_S = 1e-8
"""Added before a difference of times is compared with an edge, far below a sample. Times are whole samples or
microseconds and their differences often fall on edges exactly: rounding, and so the session's clock, must not
decide.
"""


@dataclass(frozen=True)
class Trains:
    """The spikes inside the intervals, grouped by unit, ascending in time within a unit.

    Attributes:
        times: (S,) s.
        interval: (S,) row of `intervals` that each spike lies in.
        offsets: (n_units + 1,): unit ``u`` has the spikes ``offsets[u]:offsets[u + 1]``.
        intervals: (M, 2) s, sorted and disjoint.
    """

    times: Floats
    interval: Ints
    offsets: Ints
    intervals: Floats

    @property
    def n_units(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths_s(self) -> Floats:
        """(M,) length of each interval."""
        lengths: Floats = self.intervals[:, 1] - self.intervals[:, 0]
        return lengths

    @property
    def duration_s(self) -> float:
        return float(self.lengths_s.sum())

    def unit(self, row: int) -> tuple[Floats, Ints]:
        """Times and intervals of one unit's spikes."""
        chosen = slice(int(self.offsets[row]), int(self.offsets[row + 1]))
        return self.times[chosen], self.interval[chosen]


def group_spikes(
    times: Floats, unit_index: NDArray[np.integer[Any]], n_units: int, intervals: Floats
) -> Trains:
    """Group spikes by unit and drop those outside the intervals.

    Args:
        times: (S,) s, ascending.
        unit_index: (S,) in 0 .. n_units - 1.
        intervals: (M, 2) s, sorted and disjoint, each longer than 0.

    Raises:
        ValueError: Shapes differ, times descend, a unit is out of range, or there is no interval.
    """
    times = np.asarray(times, dtype=np.float64)
    unit_index = np.asarray(unit_index)
    intervals = np.asarray(intervals, dtype=np.float64).reshape(-1, 2)
    if times.shape != unit_index.shape or times.ndim != 1:
        raise ValueError(
            f"times {times.shape} and unit_index {unit_index.shape} must be one-dimensional and equal"
        )
    if len(times) and (np.any(times[1:] < times[:-1]) or unit_index.min() < 0 or unit_index.max() >= n_units):
        raise ValueError("times must ascend and units lie in 0 .. n_units - 1")
    if not len(intervals) or np.any(intervals[:, 1] <= intervals[:, 0]):
        raise ValueError("intervals must be given, and each end after it starts")
    first = np.searchsorted(times, intervals[:, 0], side="left")
    last = np.searchsorted(times, intervals[:, 1], side="right")
    last[:-1] = np.minimum(last[:-1], first[1:])
    counts = last - first
    interval = np.repeat(np.arange(len(intervals)), counts)
    inside = np.repeat(first - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts) + np.arange(
        counts.sum()
    )
    units = unit_index[inside]
    # NumPy sorts 16-bit integers by radix, ten times faster than wider ones.
    order = np.argsort(units.astype(np.uint16) if n_units <= 65_536 else units, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(units, minlength=n_units))])
    return Trains(times[inside][order], interval[order], offsets.astype(np.int64), intervals)


@dataclass(frozen=True)
class BinGrid:
    """Whole bins laid end to end over the intervals, with `pad` empty bins after each interval.

    Attributes:
        bin_s: Width of a bin.
        first: (M,) place of each interval's first bin.
        n_bins: (M,) whole bins of each interval; what is left at its end belongs to no bin.
        pad: Empty bins after each interval: products of bins up to `pad` apart never cross a gap.
    """

    bin_s: float
    first: Ints
    n_bins: Ints
    pad: int

    @classmethod
    def over(cls, intervals: Floats, bin_s: float, pad: int = 0) -> BinGrid:
        """The grid of (M, 2) intervals in seconds."""
        n_bins = np.floor((intervals[:, 1] - intervals[:, 0] + TOLERANCE_S) / bin_s).astype(np.int64)
        return cls.of_lengths(n_bins, bin_s, pad)

    @classmethod
    def of_lengths(cls, n_bins: Ints, bin_s: float, pad: int = 0) -> BinGrid:
        """The grid of (M,) intervals of so many bins each."""
        width = np.where(n_bins > 0, n_bins + pad, 0)
        return cls(bin_s, np.concatenate([[0], np.cumsum(width)[:-1]]).astype(np.int64), n_bins, pad)

    @property
    def width(self) -> int:
        """Length of a row, padding included."""
        return int(np.sum(np.where(self.n_bins > 0, self.n_bins + self.pad, 0)))

    @property
    def valid(self) -> NDArray[np.bool_]:
        """(width,) True for bins, False for padding."""
        steps = np.zeros(self.width + 1, dtype=np.int64)
        np.add.at(steps, self.first[self.n_bins > 0], 1)
        np.add.at(steps, (self.first + self.n_bins)[self.n_bins > 0], -1)
        valid: NDArray[np.bool_] = np.cumsum(steps[:-1]) > 0
        return valid

    def rows(self, trains: Trains) -> Iterator[Floats]:
        """Yield each unit's counts, (width,), zero in the padding. One row at a time bounds the memory."""
        for row in range(trains.n_units):
            times, interval = trains.unit(row)
            place = ((times - trains.intervals[interval, 0] + TOLERANCE_S) / self.bin_s).astype(np.int64)
            fits = place < self.n_bins[interval]
            yield np.bincount((self.first[interval] + place)[fits], minlength=self.width).astype(np.float64)

    def pairs(self, n_lags: int) -> Floats:
        """(n_lags + 1,) number of pairs of bins at each lag within one interval."""
        lags = np.arange(n_lags + 1)
        return np.array([np.maximum(self.n_bins - lag, 0).sum() for lag in lags], dtype=np.float64)


def unbroken_runs(timestamps: Floats, sampling_rate_hz: float, n_frames: int) -> Ints:
    """(T,) number of the run that each frame belongs to; frames over 1.5 periods apart begin a new one.

    Args:
        timestamps: (T,) s, ascending.
        sampling_rate_hz: Nominal frame rate.
        n_frames: Frames of the traces that the timestamps are for.

    Raises:
        ValueError: T is not `n_frames`, or below 2.
    """
    if len(timestamps) != n_frames or n_frames < 2:
        raise ValueError(
            f"{len(timestamps)} timestamps and {n_frames} frames; at least two of both, equally many"
        )
    runs: Ints = np.concatenate([[0], np.cumsum(np.diff(timestamps) > 1.5 / sampling_rate_hz)])
    return runs


def close_pairs(times: Floats, interval: Ints, max_lag_s: float) -> Iterator[tuple[Ints, Ints, Floats]]:
    """Yield all pairs of spikes of one train at most `max_lag_s` apart, neighbours first, then next ones.

    Never more than one array of S pairs is in memory, and nothing of S x S is made.

    Args:
        times: (S,) s, ascending.
        interval: (S,) interval of each spike; pairs never cross a gap.
        max_lag_s: Lags lie below it.

    Yields:
        (P,) place of the earlier spike, (P,) of the later one, and (P,) lag, s, `TOLERANCE_S` included.
    """
    place = np.arange(len(times))
    for step in range(1, len(times)):
        # A spike without a close neighbour `step` places on has none further on either.
        place = place[: np.searchsorted(place, len(times) - step)]
        lag = times[place + step] - times[place] + TOLERANCE_S
        close = (lag < max_lag_s) & (interval[place + step] == interval[place])
        if not close.any():
            return
        place = place[close]
        yield place, place + step, lag[close]


def autocorrelation(row: Floats, valid: NDArray[np.bool_], pairs: Floats) -> Floats:
    """Autocorrelation of one row of counts at lags 1, 2, ...: (len(pairs) - 1,).

    The mean over all intervals is removed. Lags without pairs, and rows without variance, give 0.

    Args:
        row: (width,) counts on a `BinGrid` whose pad is at least ``len(pairs) - 1``.
        valid, pairs: That grid's.
    """
    n_lags = len(pairs) - 1
    centred = np.where(valid, row - row.sum() / max(1.0, pairs[0]), 0.0)
    variance = float(centred @ centred) / max(1.0, pairs[0])
    if variance <= 1e-12:
        return np.zeros(n_lags)
    size = next_fast_len(len(row) + n_lags, real=True)
    spectrum = rfft(centred, size)
    products = irfft(spectrum.real**2 + spectrum.imag**2, size)[1 : n_lags + 1]
    result: Floats = np.where(pairs[1:] > 0, products / np.maximum(pairs[1:], 1.0), 0.0) / variance
    return result


def correlation(one: Floats, other: Floats) -> float:
    """Pearson's correlation of two (B,) arrays; 0 where one of them is constant or empty."""
    if len(one) < 2:
        return 0.0
    a, b = one - one.mean(), other - other.mean()
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 1e-12 else 0.0
