"""What the units of an animal share: arousal, each region's drive, its rhythms and its ripples, on one time
grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from nuclr_cli.testing.cell_types import Region, Rhythm

FloatArray = NDArray[np.float32]

GRID_S = 0.002
"""Resolution of every latent and intensity. Spike times within a bin are continuous."""

LEAD_S = 0.2
"""Latents start this long before the recording, so that a unit may lag behind them."""


@dataclass(frozen=True)
class Oscillation:
    """A rhythm's amplitude times the cosine and the sine of its phase, each (T,)."""

    cosine: FloatArray
    sine: FloatArray


@dataclass(frozen=True)
class RegionLatents:
    """What one region's units share, each array (T + lead,), the lead being `LEAD_S`.

    Attributes:
        drive: Shared drive, unit variance times the region's and the animal's gain, weaker in arousal.
        rhythms: Name -> oscillation.
        ripple: Envelope of the ripples, 0 to 1; None where the region has none.
    """

    drive: FloatArray
    rhythms: Mapping[str, Oscillation]
    ripple: FloatArray | None


@dataclass(frozen=True)
class AnimalLatents:
    """Arousal (T + lead,), about standard normal, and the latents of every region."""

    arousal: FloatArray
    regions: Mapping[str, RegionLatents]


def ornstein_uhlenbeck(
    rng: np.random.Generator, n_bins: int, tau_s: float, bin_s: float = GRID_S
) -> FloatArray:
    """A stationary Gaussian process, unit variance, autocorrelation ``exp(-lag / tau_s)``; (n_bins,)."""
    keep = np.exp(-bin_s / tau_s)
    noise = rng.standard_normal(n_bins)
    noise[1:] *= np.sqrt(1.0 - keep**2)
    process: NDArray[np.float64] = lfilter([1.0], [1.0, -keep], noise)
    return process.astype(np.float32)


def draw_latents(rng: np.random.Generator, regions: tuple[Region, ...], duration_s: float) -> AnimalLatents:
    """Draw one animal's latents; rhythm frequencies, synchrony and the pace of arousal differ between
    animals.

    Regions share a tenth of the variance of their drives (distant regions are weakly correlated: Steinmetz
    et al. 2019, Nature 576:266).
    """
    n_bins = round((duration_s + LEAD_S) / GRID_S)
    arousal = _arousal(rng, n_bins)
    common = ornstein_uhlenbeck(rng, n_bins, 0.15)
    synchrony = np.exp(rng.normal(0.0, 0.15))
    return AnimalLatents(
        arousal=arousal,
        regions={r.name: _region_latents(rng, r, arousal, common, float(synchrony)) for r in regions},
    )


def _arousal(rng: np.random.Generator, n_bins: int) -> FloatArray:
    """Fluctuates over seconds and a minute, as pupil size does (McGinley et al. 2015, Neuron 87:1143)."""
    coarse_s = 0.1
    n_coarse = int(n_bins * GRID_S / coarse_s) + 2
    pace = np.exp(rng.normal(0.0, 0.25))
    fast = ornstein_uhlenbeck(rng, n_coarse, 5.0 * pace, coarse_s)
    slow = ornstein_uhlenbeck(rng, n_coarse, 40.0 * pace, coarse_s)
    coarse = np.sqrt(0.5) * (fast + slow)
    grid = np.arange(n_bins) * (GRID_S / coarse_s)
    arousal: FloatArray = np.interp(grid, np.arange(n_coarse), coarse).astype(np.float32)
    return arousal


def _region_latents(
    rng: np.random.Generator, region: Region, arousal: FloatArray, common: FloatArray, synchrony: float
) -> RegionLatents:
    n_bins = len(arousal)
    fast = ornstein_uhlenbeck(rng, n_bins, region.drive_fast_ms / 1000.0)
    slow = ornstein_uhlenbeck(rng, n_bins, region.drive_slow_ms / 1000.0)
    drive = np.sqrt(0.4) * fast + np.sqrt(0.5) * slow + np.sqrt(0.1) * common
    drive *= region.drive_gain * synchrony * (1.0 - 0.35 * np.tanh(arousal))
    rhythms = {rhythm.name: _oscillation(rng, rhythm, arousal) for rhythm in region.rhythms}
    ripple = _ripples(rng, region.ripple_rate_hz, arousal) if region.ripple_rate_hz else None
    return RegionLatents(drive=drive.astype(np.float32), rhythms=rhythms, ripple=ripple)


def _oscillation(rng: np.random.Generator, rhythm: Rhythm, arousal: FloatArray) -> Oscillation:
    n_bins = len(arousal)
    centre = rng.normal(rhythm.frequency_hz, rhythm.frequency_sd_hz)
    frequency = centre + rhythm.bandwidth_hz * ornstein_uhlenbeck(rng, n_bins, 0.3)
    phase = 2 * np.pi * (rng.random() + GRID_S * np.cumsum(frequency, dtype=np.float64))
    log_amplitude = 0.4 * ornstein_uhlenbeck(rng, n_bins, 0.5) + rhythm.state * arousal
    amplitude = np.exp(np.clip(log_amplitude, -2.0, 0.9))
    phase = np.remainder(phase, 2 * np.pi).astype(np.float32)
    return Oscillation(cosine=amplitude * np.cos(phase), sine=amplitude * np.sin(phase))


def _ripples(rng: np.random.Generator, rate_hz: float, arousal: FloatArray) -> FloatArray:
    """Pulses of 25 ms standard deviation, in low arousal (Buzsaki 2015, Hippocampus 25:1073)."""
    rate = rate_hz / (1.0 + np.exp(2.0 * arousal))
    events = (rng.random(len(arousal)) < rate * GRID_S).astype(np.float64)
    lags = np.arange(-0.1, 0.1 + GRID_S / 2, GRID_S)
    pulse = np.exp(-0.5 * (lags / 0.025) ** 2)
    trace = np.convolve(events, pulse, mode="same")
    return np.minimum(trace, 1.0).astype(np.float32)
