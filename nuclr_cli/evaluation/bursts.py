"""Bursts of one train: strings of spikes in quick succession, beside what a Poisson process would show.

A burst is a longest string of at least `BURST_SPIKES` spikes, each less than `BURST_ISI_S` after the one
before (the string method: Turnbull et al. 2005, J Neurosci Methods 145:23). Three spikes within intervals of
10 ms take in complex-spike and low-threshold bursts; pairs show in the interval features.
"""

from __future__ import annotations

import numpy as np

from nuclr_cli.evaluation.trains import TOLERANCE_S, Floats, Ints

BURST_ISI_S = 0.010
BURST_SPIKES = 3
BURST_NAMES = ("burst_share", "burst_share_log", "burst_rate_sqrt", "burst_rate_log", "burst_length_log")

_PSEUDO_SPIKES = 5.0
"""Weight of the Poisson value in the share of spikes in bursts, in spikes."""

_PSEUDO_BURSTS = 2.0
"""Weight of the Poisson value in the length, in bursts."""


def find_bursts(times: Floats, interval: Ints) -> tuple[Ints, Ints]:
    """The bursts of one train; none spans a gap between intervals.

    Args:
        times: (S,) s, ascending.
        interval: (S,) interval of each spike.

    Returns:
        (B,) place of the first spike of each burst and (B,) number of its spikes.
    """
    short = (np.diff(times) + TOLERANCE_S < BURST_ISI_S) & (interval[1:] == interval[:-1])
    turns = np.diff(np.concatenate([[0], short.astype(np.int8), [0]]))
    first, last = np.flatnonzero(turns == 1), np.flatnonzero(turns == -1)
    spikes = last - first + 1
    enough = spikes >= BURST_SPIKES
    return first[enough], spikes[enough]


def burst_statistics(times: Floats, interval: Ints, rate_hz: float, duration_s: float) -> Floats:
    """The `BURST_NAMES` of one unit.

    - ``burst_share``: fraction of spikes that lie in bursts; ``burst_share_log``: the log of their number
      over that of a Poisson process of the same rate (both + 1).
    - ``burst_rate_sqrt``: square root of bursts per second; ``burst_rate_log``: log of their number over
      that of a Poisson process (both + 1).
    - ``burst_length_log``: log of the mean number of spikes in a burst.

    Args:
        times: (S,) s, ascending.
        interval: (S,) interval of each spike.
        rate_hz: Rate of the unit, positive.
        duration_s: Valid time.

    Returns:
        (5,) finite. Share and length are shrunk towards a Poisson process of `rate_hz`, so that a unit with
        few spikes looks Poisson.
    """
    _, spikes = find_bursts(times, interval)
    n, n_bursts, n_inside = len(times), len(spikes), int(spikes.sum())
    short = -np.expm1(-rate_hz * BURST_ISI_S)
    long = max(np.exp(-rate_hz * BURST_ISI_S), 1e-9)  # kilohertz happen in recordings of milliseconds
    # Of a Poisson process: a spike lies in a string of 1 with chance (1 - p)^2, of 2 with 2 p (1 - p)^2; a
    # burst begins at a spike after a long interval and before two short ones, and goes on with chance p.
    share = short**2 * (3.0 - 2.0 * short)
    begun = long * short**2
    length = BURST_SPIKES - 1 + 1.0 / long
    return np.array(
        [
            (n_inside + _PSEUDO_SPIKES * share) / (n + _PSEUDO_SPIKES),
            np.log((n_inside + 1.0) / (n * share + 1.0)),
            np.sqrt(n_bursts / duration_s),
            np.log((n_bursts + 1.0) / (n * begun + 1.0)),
            np.log((n_inside + _PSEUDO_BURSTS * length) / (n_bursts + _PSEUDO_BURSTS)),
        ]
    )
