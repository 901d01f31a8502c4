"""Binned activity as a vector that can be compared between animals: the input of the PCA baseline.

Units of different animals share no time axis, so the counts themselves cannot be compared. What survives is
how the counts of one unit relate to each other (autocorrelation) and how they are distributed. The
principal components are fitted by the probe, on training rows only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.evaluation.trains import BinGrid, Floats, Trains, autocorrelation, group_spikes

MAX_LAG_S = 2.0
HISTOGRAM_SCALES_S = (0.1, 1.0)
COUNT_EDGES = (0, 1, 2, 3, 4, 5, 6, 8, 11, 16, 23, 32, 45, 64)
"""Lower edges of the count histogram, about half an octave apart; the last class is open."""


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
    for row, counts in enumerate(grid.rows(trains)):
        parts[0][row] = autocorrelation(counts, valid, pairs)
    parts += [_count_distribution(trains, scale) for scale in HISTOGRAM_SCALES_S]
    return np.concatenate(parts, axis=1)


def _count_distribution(trains: Trains, bin_s: float) -> Floats:
    """(N, len(COUNT_EDGES)) square roots of shares of bins."""
    grid = BinGrid.over(trains.intervals, bin_s)
    shares = np.zeros((trains.n_units, len(COUNT_EDGES)))
    for row, counts in enumerate(grid.rows(trains)):
        classes = np.searchsorted(COUNT_EDGES, counts, side="right") - 1
        shares[row] = np.bincount(classes, minlength=len(COUNT_EDGES)) / max(1, len(counts))
    return np.sqrt(shares)
