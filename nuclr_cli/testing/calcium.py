"""Spikes seen through a calcium indicator and a two-photon microscope."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from nuclr_cli.api import Spikes

_FINE_HZ = 200.0
_RISE_S = 0.045
_DECAY_S = 0.142 / np.log(2.0)
_PER_SPIKE = 0.19
_SATURATION = 4.0
_NEUROPIL = 0.1


def fluorescence(
    rng: np.random.Generator,
    spikes: Spikes,
    n_units: int,
    duration_s: float,
    sampling_rate_hz: float,
    time_offset: NDArray[np.float64],
) -> NDArray[np.float32]:
    """dF/F of GCaMP6f in vivo: rise 45 ms, half-decay 142 ms, 19% a spike (Chen et al. 2013, Nature 499:295).

    Responses of close spikes add and saturate. Units differ in response (factor of about 1.5) and noise; a
    tenth of the population's mean leaks into every unit (neuropil).

    Args:
        spikes: True spikes, times in [0, duration_s).
        time_offset: (n_units,) s, when each unit's first frame is taken.

    Returns:
        (T, n_units) float32 with a frame every ``1 / sampling_rate_hz`` from 0 up to the end, the end
        excluded.
    """
    oversample = int(np.ceil(_FINE_HZ / sampling_rate_hz))
    fine_hz = sampling_rate_hz * oversample
    n_frames = int(np.ceil(duration_s * sampling_rate_hz - 1e-9))
    bins = np.floor(spikes.times * fine_hz).astype(np.int64)
    values = np.empty((n_frames, n_units))
    for unit in range(n_units):
        own = bins[spikes.unit_index == unit]
        counts = np.bincount(own, minlength=n_frames * oversample + oversample).astype(np.float64)
        response = _respond(counts, fine_hz) * _PER_SPIKE * np.exp(rng.normal(0.0, 0.4))
        response = response / (1.0 + response / _SATURATION)
        first = round(float(time_offset[unit]) * fine_hz)
        values[:, unit] = response[first : first + n_frames * oversample : oversample]
    values += _NEUROPIL * values.mean(axis=1, keepdims=True)
    values += 0.08 * np.exp(rng.normal(0.0, 0.3, n_units)) * rng.normal(size=values.shape)
    return values.astype(np.float32)


def _respond(counts: NDArray[np.float64], fine_hz: float) -> NDArray[np.float64]:
    """Convolve with a difference of exponentials of unit peak."""
    decay, rise = np.exp(-1.0 / (_DECAY_S * fine_hz)), np.exp(-1.0 / (_RISE_S * fine_hz))
    peak_s = np.log(_DECAY_S / _RISE_S) * _DECAY_S * _RISE_S / (_DECAY_S - _RISE_S)
    peak = np.exp(-peak_s / _DECAY_S) - np.exp(-peak_s / _RISE_S)
    slow: NDArray[np.float64] = lfilter([1.0], [1.0, -decay], counts)
    fast: NDArray[np.float64] = lfilter([1.0], [1.0, -rise], counts)
    response: NDArray[np.float64] = (slow - fast) / peak
    return response
