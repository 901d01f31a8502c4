"""From latents to spikes: intensity, renewal process in operational time, bursts, refractoriness, sorting
errors."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.testing.cell_types import SPREAD, CellProfile, Region
from nuclr_cli.testing.latents import GRID_S, LEAD_S, AnimalLatents, FloatArray, ornstein_uhlenbeck

_RATE_LIMITS_HZ = (0.05, 80.0)

_PRIVATE_BIN = 5
"""Private rate fluctuations are drawn every 5 grid bins (10 ms): their time constants are tens of ms."""

_EXTRA_SPIKES = 0.6
"""A burst has 1 + geometric(`_EXTRA_SPIKES`) spikes: two, often three, seldom more (Harris et al. 2001)."""


@dataclass(frozen=True)
class AnimalNuisance:
    """How one animal differs from the next for reasons that say nothing about a unit's type.

    Attributes:
        rate: Log change of every rate.
        coupling: Factor on the coupling to the drive.
        locking: Factor on the depth of phase locking.
        missed, contaminated: Mean share of missed and of foreign spikes (sorting quality).
    """

    rate: float
    coupling: float
    locking: float
    missed: float
    contaminated: float


@dataclass(frozen=True)
class UnitTrain:
    """One unit's spikes before sorting errors: ascending sample numbers, `refractory_s` or more apart."""

    samples: NDArray[np.int64]
    refractory_s: float


def draw_nuisance(rng: np.random.Generator) -> AnimalNuisance:
    """Animals differ in rate by 25%, in coupling and locking by 15%, and in the quality of their sorting."""
    return AnimalNuisance(
        rate=float(rng.normal(0.0, 0.25)),
        coupling=float(np.exp(rng.normal(0.0, 0.15))),
        locking=float(np.exp(rng.normal(0.0, 0.15))),
        missed=float(rng.uniform(0.02, 0.2)),
        contaminated=float(rng.uniform(0.005, 0.04)),
    )


def draw_train(
    rng: np.random.Generator,
    region: Region,
    profile: CellProfile,
    latents: AnimalLatents,
    nuisance: AnimalNuisance,
    fs_hz: float,
) -> UnitTrain:
    """Draw one unit of a type: its parameters, its intensity, its spikes.

    The intensity is log-linear in the latents and scaled to the unit's rate; a gamma renewal process runs
    in operational time (Brown et al. 2002, Neural Comput 14:325, the time-rescaling theorem read
    backwards), bursts are inserted and spikes inside the refractory period removed.
    """
    rate = profile.median_rate_hz * np.exp(rng.normal(0.0, profile.rate_sigma) + nuisance.rate)
    rate = float(np.clip(rate, *_RATE_LIMITS_HZ))
    unit = _individual(rng, profile)
    intensity = _relative_intensity(rng, region, unit, latents, nuisance)
    burst_gain = 1.0 if unit.burst_silence_ms else 1.0 + unit.burst_probability / _EXTRA_SPIKES
    times = _renewal(rng, intensity, rate / burst_gain, unit.isi_order)
    times = _with_bursts(rng, times, unit, latents.arousal)
    duration_s = len(intensity) * GRID_S
    samples = np.unique((times * fs_hz).astype(np.int64))
    samples = samples[samples < int(duration_s * fs_hz)]
    return UnitTrain(
        samples=refractory(samples, int(np.ceil(unit.refractory_ms / 1000.0 * fs_hz))),
        refractory_s=unit.refractory_ms / 1000.0,
    )


def _individual(rng: np.random.Generator, profile: CellProfile) -> CellProfile:
    """One unit's own timing, coupling, lag and state response, drawn around its type's."""

    def around(median: float, spread: float) -> float:
        return float(median * np.exp(rng.normal(0.0, spread)))

    return replace(
        profile,
        refractory_ms=float(np.clip(around(profile.refractory_ms, SPREAD.refractory), 0.6, 5.0)),
        isi_order=around(profile.isi_order, SPREAD.isi_order),
        burst_probability=min(0.5, around(profile.burst_probability, SPREAD.burst_probability)),
        burst_isi_ms=around(profile.burst_isi_ms, SPREAD.burst_isi),
        lag_ms=around(profile.lag_ms, SPREAD.lag),
        coupling=float(rng.normal(profile.coupling, profile.coupling_sd)),
        state=float(rng.normal(profile.state, profile.state_sd)),
        ripple=float(rng.normal(profile.ripple, SPREAD.ripple_linear)),
    )


def sorting_errors(
    rng: np.random.Generator,
    own: NDArray[np.int64],
    neighbour: NDArray[np.int64],
    missed: float,
    contaminated: float,
) -> NDArray[np.int64]:
    """Lose a share of a unit's spikes and take in a neighbour's, `contaminated` times as many as its own."""
    kept = own[rng.random(len(own)) >= missed]
    n_foreign = min(rng.poisson(contaminated * len(own)), len(neighbour))
    foreign = rng.choice(neighbour, size=n_foreign, replace=False)
    return np.unique(np.concatenate([kept, foreign]))


def refractory(samples: NDArray[np.int64], period: int) -> NDArray[np.int64]:
    """Remove spikes closer than `period` samples to the last one kept. (S,) ascending in and out."""
    while len(samples) > 1:
        close = np.diff(samples, prepend=samples[0] - period) < period
        if not close.any():
            break
        after_kept = close & ~np.concatenate([[False], close[:-1]])
        samples = samples[~after_kept]
    return samples


def _relative_intensity(
    rng: np.random.Generator,
    region: Region,
    unit: CellProfile,
    latents: AnimalLatents,
    nuisance: AnimalNuisance,
) -> FloatArray:
    """Intensity over its mean, one value per grid bin of the recording."""
    shared = latents.regions[region.name]
    lead = round(LEAD_S / GRID_S)
    n_bins = len(latents.arousal) - lead
    tau_s = region.timescale_ms / 1000.0 * np.exp(rng.normal(0.0, SPREAD.timescale))
    private = ornstein_uhlenbeck(rng, n_bins // _PRIVATE_BIN + 1, tau_s, GRID_S * _PRIVATE_BIN)
    log = np.repeat(np.float32(region.private_sd) * private, _PRIVATE_BIN)[:n_bins]
    lag = min(lead, round(unit.lag_ms / 1000.0 / GRID_S))
    log += np.float32(nuisance.coupling * unit.coupling) * shared.drive[lead - lag : len(shared.drive) - lag]
    log += np.float32(unit.state) * latents.arousal[lead:]
    for name, locking in unit.locking.items():
        depth = nuisance.locking * locking.depth * np.exp(rng.normal(0.0, SPREAD.locking))
        phase = np.deg2rad(locking.phase_deg) + rng.normal(0.0, np.deg2rad(SPREAD.phase_deg))
        log += np.float32(depth * np.cos(phase)) * shared.rhythms[name].cosine[lead:]
        log += np.float32(depth * np.sin(phase)) * shared.rhythms[name].sine[lead:]
    if shared.ripple is not None:
        log += np.float32(unit.ripple) * shared.ripple[lead:]
    log += np.linspace(-0.5, 0.5, n_bins, dtype=np.float32) * np.float32(rng.normal(0.0, SPREAD.drift_linear))
    intensity: FloatArray = np.exp(log)
    intensity /= np.float32(np.mean(intensity, dtype=np.float64))
    return intensity


def _renewal(
    rng: np.random.Generator, intensity: FloatArray, rate_hz: float, order: float
) -> NDArray[np.float64]:
    """Spike times (S,) s: gamma intervals of unit mean in operational time, mapped back to seconds."""
    operational = np.concatenate([[0.0], np.cumsum(intensity, dtype=np.float64) * (rate_hz * GRID_S)])
    total = operational[-1]
    n_draws = int(total + 10.0 * np.sqrt(total / min(order, 1.0)) + 20)
    steps = rng.gamma(order, 1.0 / order, n_draws)
    steps[0] *= rng.random()
    events = np.cumsum(steps)
    events = events[events < total]
    times: NDArray[np.float64] = np.interp(events, operational, GRID_S * np.arange(len(operational)))
    return times


def _with_bursts(
    rng: np.random.Generator, times: NDArray[np.float64], profile: CellProfile, arousal: FloatArray
) -> NDArray[np.float64]:
    """Let some spikes start bursts: intervals lengthen by a fifth from one to the next. Sorted (S,) s."""
    if not profile.burst_probability or not len(times):
        return times
    chance = np.full(len(times), profile.burst_probability)
    if profile.burst_state:
        chance *= np.exp(profile.burst_state * arousal[((times + LEAD_S) / GRID_S).astype(np.int64)])
    if profile.burst_silence_ms:
        chance[np.diff(times, prepend=-1.0) < profile.burst_silence_ms / 1000.0] = 0.0
    starts = times[rng.random(len(times)) < chance]
    extra = rng.geometric(_EXTRA_SPIKES, len(starts))
    last = starts
    added = []
    interval = profile.burst_isi_ms / 1000.0
    for place in range(1, int(extra.max(initial=0)) + 1):
        alive = extra >= place
        last, extra = last[alive], extra[alive]
        last = last + interval * np.exp(rng.normal(0.0, 0.2, len(last)))
        added.append(last)
        interval *= 1.2
    return np.sort(np.concatenate([times, *added]))
