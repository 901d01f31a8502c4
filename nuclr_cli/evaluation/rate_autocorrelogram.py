"""The 3D autocorrelogram: a unit's autocorrelogram at each of its own firing rates.

Beau et al. (2025, Cell) describe a unit by one autocorrelogram for each tenth of its spikes, ordered by the
firing rate around the spike, so that a change of rate (as in behaviour) is not mistaken for a property of
the cell. Rate there and here: the inverse of the interval that a moment lies in, averaged over 250 ms around
the spike. What differs here: rates are exact integrals instead of sums over milliseconds, the two directions
of time are added up, lags are spaced logarithmically up to 1 s, and values are logarithms of a rate, shrunk
towards the unit's mean where spikes are few.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.evaluation.trains import Floats, Ints, Trains, close_pairs, group_spikes

N_RATES = 10
SMOOTHING_S = 0.25
LAG_EDGES_MS = (
    0, 1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 32, 40, 50, 64, 80, 100, 125, 160, 200, 250, 320, 400, 500,
    640, 800, 1000,
)  # fmt: skip

_PSEUDO_PAIRS = 2.0
"""Pairs at the unit's mean rate that are added to each value."""

_RATE_DIGITS = 6
"""Rates are compared to a millionth of a spike a second: rounding of times must not order equal ones."""


def rate_autocorrelogram(
    times: Floats, unit_index: NDArray[np.integer[Any]], n_units: int, intervals: Floats
) -> Floats:
    """The autocorrelogram of each unit in each tenth of its own firing rates.

    Args:
        times: (S,) s, ascending.
        unit_index: (S,) row of each spike's unit.
        n_units: Units of the population, silent ones included.
        intervals: (M, 2) s, valid time, sorted and disjoint; no lag and no rate spans a gap.

    Returns:
        (n_units, 10 x 28) float64, finite: log10 of the firing rate in Hz at each lag (`LAG_EDGES_MS`) from a
        spike of the lowest tenth of rates, then of the next, up to the highest. A Poisson process is flat at
        its own rate, a silent unit at half a spike in the valid time.

    Raises:
        ValueError: As `group_spikes`.
    """
    trains = group_spikes(times, unit_index, n_units, intervals)
    table = np.empty((n_units, N_RATES * (len(LAG_EDGES_MS) - 1)))
    for row in range(n_units):
        table[row] = _of_one_unit(*trains.unit(row), trains).ravel()
    return table


def rates_at_spikes(times: Floats, interval: Ints) -> Floats:
    """(S,) Hz: the inverse interval averaged over 250 ms around each spike of one train.

    The inverse interval integrates to one from each spike to the next, so its integral is the count of spikes
    with straight lines between them. The span ends at the first and last spike of an interval; a spike alone
    in its interval has rate 0.
    """
    if not len(times):
        return np.zeros(0)
    begins = np.concatenate([[True], interval[1:] != interval[:-1]])
    group = np.cumsum(begins) - 1
    first = np.flatnonzero(begins)
    last = np.concatenate([first[1:], [len(times)]]) - 1
    low = np.maximum(times - SMOOTHING_S / 2, times[first][group])
    high = np.minimum(times + SMOOTHING_S / 2, times[last][group])
    number = np.arange(len(times), dtype=np.float64)
    spikes = np.interp(high, times, number) - np.interp(low, times, number)
    rates = np.divide(spikes, high - low, out=np.zeros(len(times)), where=high > low)
    rounded: Floats = np.round(rates, _RATE_DIGITS)
    return rounded


def _of_one_unit(times: Floats, interval: Ints, trains: Trains) -> Floats:
    """(N_RATES, lags) log10 Hz."""
    edges = np.array(LAG_EDGES_MS) / 1000.0
    n_fine = LAG_EDGES_MS[-1]
    # Tenths hold equally many spikes; equal rates are dealt in the order of time.
    tenth = np.empty(len(times), dtype=np.int64)
    by_rate = np.argsort(rates_at_spikes(times, interval), kind="stable")
    tenth[by_rate] = np.arange(len(times)) * N_RATES // max(1, len(times))
    cells = N_RATES * n_fine
    fine = np.zeros(cells, dtype=np.int64)
    for earlier, later, lag in close_pairs(times, interval, edges[-1]):
        ms = (lag * 1000.0).astype(np.int64)
        np.minimum(ms, n_fine - 1, out=ms)
        for reference in (earlier, later):
            fine += np.bincount(tenth[reference] * n_fine + ms, minlength=cells)
    pairs = np.add.reduceat(fine.reshape(N_RATES, n_fine), LAG_EDGES_MS[:-1], axis=1)
    seconds = _time_at_lags(times, interval, tenth, trains.intervals, edges)
    rate = (len(times) + 0.5) / trains.duration_s
    values: Floats = np.log10((pairs + _PSEUDO_PAIRS) / (seconds + _PSEUDO_PAIRS / rate))
    return values


def _time_at_lags(times: Floats, interval: Ints, tenth: Ints, intervals: Floats, edges: Floats) -> Floats:
    """(N_RATES, lags) s of valid time that the spikes of each tenth look at, both directions together."""
    middle, width = 0.5 * (edges[1:] + edges[:-1]), np.diff(edges)
    spikes = np.repeat(2.0 * np.bincount(tenth, minlength=N_RATES)[:, None], len(middle), axis=1)
    for distance in (intervals[interval, 1] - times, times - intervals[interval, 0]):
        near = np.flatnonzero(distance < middle[-1])  # lags further than the interval's end see nothing
        for place in near.tolist():
            spikes[tenth[place], np.searchsorted(middle, distance[place], side="right") :] -= 1.0
    return spikes * width
