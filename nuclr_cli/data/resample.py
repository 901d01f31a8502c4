"""Fluorescence at any frame rate to the model's sampling period.

Sample k of a window stands for the time start + k * period. Coming down in rate it is the mean over
[start + k * period, start + (k + 1) * period) of the trace held constant from each frame to the next: every
frame weighs as long as it lasts in that span, so the mean is kept, no sample is empty and jittered or missing
frames do no harm. Going up it is the linear interpolation between frames. At equal rates the two agree, and
frames at the sample times pass unchanged.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from nuclr_cli.api import CalciumTraces
from nuclr_cli.data.tokens import CalciumTokens

_MARGIN_FRAMES = 1.5
"""Frames further than this from the window are not read: beyond it lies a gap."""


def resample_traces(
    calcium: CalciumTraces, start_s: float, tokens: CalciumTokens, rows: NDArray[np.int64] | None = None
) -> NDArray[np.float32]:
    """Traces of one window, resampled.

    Frame i of a unit lies at ``timestamps[i] + time_offset[unit]``. Where a window reaches past the first or
    last frame (by less than a frame inside a valid interval), the nearest frame holds.

    Args:
        calcium: Traces of the population.
        start_s: Start of the window, seconds.
        tokens: Period and number of samples.
        rows: (n,) unit rows wanted, ascending; None = all.

    Returns:
        (n, n_samples) float32, in the unit of `calcium.values`.
    """
    n_units = len(calcium.time_offset)
    rows = np.arange(n_units) if rows is None else rows
    offsets = np.asarray(calcium.time_offset, dtype=np.float64)[rows]
    samples = np.empty((len(rows), tokens.n_samples), dtype=np.float32)
    for offset in np.unique(offsets):
        same = np.flatnonzero(offsets == offset)
        first, last, weights = _weights(
            calcium.timestamps, 1.0 / calcium.sampling_rate_hz, start_s - float(offset), tokens
        )
        weights = weights.astype(np.float32)  # float64 weights would make a float64 copy of the frames
        frames = calcium.values[first:last]
        if len(same) < n_units:
            frames = frames[:, rows[same]]
        samples[same] = (weights @ frames).T
    return samples


def _weights(
    timestamps: NDArray[np.float64], frame_s: float, start_s: float, tokens: CalciumTokens
) -> tuple[int, int, csr_array]:
    """Frames [first, last) of a window and the (n_samples, last - first) weight of each in each sample."""
    period_s, n_samples = tokens.period_s, tokens.n_samples
    margin_s = _MARGIN_FRAMES * frame_s
    first, last = np.searchsorted(
        timestamps, (start_s - margin_s, start_s + tokens.window_s + margin_s)
    ).tolist()
    if first == last:  # no frame near by (a gap longer than the margin): the nearest one holds
        first = min(max(first - 1, 0), len(timestamps) - 1)
        last = first + 1
    times = np.asarray(timestamps[first:last], dtype=np.float64) - start_s
    if frame_s > period_s:
        return first, last, _linear(times, period_s * np.arange(n_samples, dtype=np.float64))
    return first, last, _means(times, period_s, n_samples)


def _linear(times: NDArray[np.float64], wanted: NDArray[np.float64]) -> csr_array:
    """Weights of linear interpolation at `wanted`, the ends held constant."""
    after = np.clip(np.searchsorted(times, wanted), 0, len(times) - 1)
    before = np.clip(np.searchsorted(times, wanted, side="right") - 1, 0, len(times) - 1)
    gap = times[after] - times[before]
    share = np.divide(wanted - times[before], gap, out=np.zeros(len(wanted)), where=gap > 0)
    number = np.arange(len(wanted))
    return csr_array(
        (
            np.concatenate([1.0 - share, share]),
            (np.concatenate([number, number]), np.concatenate([before, after])),
        ),
        shape=(len(wanted), len(times)),
    )


def _means(times: NDArray[np.float64], period_s: float, n_samples: int) -> csr_array:
    """Weights of the mean over each sample's span of the trace that holds each frame until the next."""
    edges = period_s * np.arange(n_samples + 1, dtype=np.float64)
    # Cut the window at every frame and every edge: each piece lies in one frame and one sample.
    cuts = np.unique(np.concatenate([edges, np.clip(times, 0.0, edges[-1])]))
    frame = np.maximum(np.searchsorted(times, cuts[:-1], side="right") - 1, 0)
    sample = np.searchsorted(edges, cuts[:-1], side="right") - 1
    return csr_array((np.diff(cuts) / period_s, (sample, frame)), shape=(n_samples, len(times)))
