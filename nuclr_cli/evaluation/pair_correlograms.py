"""What two spike trains say about a connection between them: the classical baseline of a probe of pairs.

A monosynaptic connection shows as spikes of the second unit 1 to 4 ms after those of the first, above (or,
from an inhibitory unit, below) what the slower correlation around them leads to expect (Fujisawa et al. 2008,
Nat Neurosci 11:823; English et al. 2017, Neuron 96:505).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.evaluation.pairs import PairFeatures
from nuclr_cli.evaluation.trains import TOLERANCE_S, Trains, group_spikes

Floats = NDArray[np.float64]

EDGES_S = (-0.025, -0.005, -0.004, -0.001, 0.001, 0.004, 0.005, 0.025)
"""Flank, (gap), back, together, forth, (gap), flank."""
MAX_SPIKES = 20_000
"""Of a longer first train, so many spikes, evenly chosen, say the same."""
N_FEATURES = 6
_APART_S = 1.0  # between intervals, so that no lag reaches from one into the next


def correlogram_features(
    times: Floats,
    unit_index: NDArray[np.integer[Any]],
    n_units: int,
    intervals: Floats,
    pre: NDArray[np.int64],
    post: NDArray[np.int64],
    on_pair: Callable[[int], None] = lambda done: None,
) -> Floats:
    """Excess of short lags over the flanks, and the flanks over independence, for pairs of one population.

    Args:
        times: (S,) s, ascending.
        unit_index: (S,) unit of each spike.
        n_units: N.
        intervals: (M, 2) s; lags never reach from one into the next.
        pre, post: (P,) units of each pair.
        on_pair: Told how many pairs are done.

    Returns:
        (P, 6) float64: lags of 1 to 4 ms after `pre`, 1 to 4 ms before, within 1 ms, each as
        ``sign * log(1 + |z|)`` of the count against the rate in the flanks (5 to 25 ms); the log ratio of the
        flanks to independent trains; and the first two without their signs, since a connection may excite or
        inhibit. All 0 where a train is empty.
    """
    trains = group_spikes(times, unit_index, n_units, intervals)
    apart = [_spread(trains, unit) for unit in range(n_units)]
    found = np.zeros((len(pre), N_FEATURES))
    for i, (a, b) in enumerate(zip(pre.tolist(), post.tolist(), strict=True)):
        found[i] = _pair(apart[a], apart[b], trains.duration_s)
        on_pair(i + 1)
    return found


def by_kind(directed: Floats) -> dict[PairFeatures, Floats]:
    """(P, 6) features as they are, and with forth and back in order of size: the same for (b, a)."""
    signed, unsigned = np.sort(directed[:, :2], axis=1), np.sort(directed[:, 4:], axis=1)
    return {"directed": directed, "symmetric": np.concatenate([signed, directed[:, 2:4], unsigned], axis=1)}


def _spread(trains: Trains, unit: int) -> Floats:
    """One unit's spikes with the intervals pulled apart."""
    times, interval = trains.unit(unit)
    return times + _APART_S * interval


def _pair(first: Floats, second: Floats, duration_s: float) -> Floats:
    if not len(first) or not len(second):
        return np.zeros(N_FEATURES)
    if len(first) > MAX_SPIKES:
        first = first[np.linspace(0, len(first) - 1, MAX_SPIKES).astype(np.int64)]
    edges = np.array(EDGES_S)
    below = np.array(
        [np.searchsorted(second, first + edge + TOLERANCE_S).sum() for edge in edges], dtype=float
    )
    counts, widths = np.diff(below), np.diff(edges)
    flank_s = widths[0] + widths[-1]
    rate = (counts[0] + counts[-1]) / flank_s
    excess = []
    for place in (4, 2, 3):  # forth, back, together
        expected = rate * widths[place]
        z = (counts[place] - expected) / np.sqrt(expected + 1.0)
        excess.append(np.sign(z) * np.log1p(abs(z)))
    independent = len(first) * len(second) / duration_s * flank_s
    slow = np.log((counts[0] + counts[-1] + 1.0) / (independent + 1.0))
    return np.array([*excess, slow, abs(excess[0]), abs(excess[1])])
