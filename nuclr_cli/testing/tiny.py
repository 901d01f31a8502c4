"""Small populations for tests: a fraction of a second to make, yet not pure noise.

Every unit is an inhomogeneous Poisson process with a log-normal rate. Two cell types differ in how they
follow one shared drive: ``inhibitory`` units fire more and rise more steeply. `simulate` has the realistic
populations.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import CalciumTraces, Population, Spikes

_BIN_S = 0.01
_DRIVE_TAU_S = 0.2


def tiny_population(
    seed: int = 0,
    n_units: int = 20,
    minutes: float = 1.0,
    *,
    subject: str = "mouse",
    session: str = "day1",
    population: str = "0",
    intervals: Sequence[tuple[float, float]] | None = None,
    silent_units: int = 0,
    label_columns: bool = True,
    median_rate_hz: float = 4.0,
) -> Population:
    """Make a small spiking population.

    Args:
        seed: The population is a function of this number and of the other arguments, except the names.
        n_units: Number of units, at least 1.
        minutes: Length of the single interval that starts at 0. Ignored when `intervals` is given.
        subject, session, population: The population's key.
        intervals: Valid times in seconds, sorted and disjoint; the default is one interval.
        silent_units: That many units, the last rows, have no spike.
        label_columns: Give the units string columns ``cell_type`` and ``brain_region``, empty for every tenth
            unit.
        median_rate_hz: Median of the log-normal rates.

    Returns:
        A population with ids ``u0``, ``u1``, ... and sorted spike times in whole microseconds.
    """
    rng = np.random.default_rng([seed, 1])
    spans = _spans(minutes, intervals)
    inhibitory = _inhibitory(n_units)
    rates = median_rate_hz * np.exp(rng.normal(0.0, 0.7, n_units)) * np.where(inhibitory, 2.0, 1.0)
    if silent_units:
        rates[n_units - silent_units :] = 0.0
    coupling = np.where(inhibitory, 1.0, 0.4)
    times: list[NDArray[np.float64]] = []
    units: list[NDArray[np.int64]] = []
    for start, end in spans:
        edges = start + _BIN_S * np.arange(int((end - start) / _BIN_S) + 1)
        drive = _drive(rng, len(edges) - 1)
        gain = np.exp(coupling[:, None] * drive - 0.5 * coupling[:, None] ** 2)
        counts = rng.poisson(rates[:, None] * gain * _BIN_S)
        unit, bin_index = np.nonzero(counts)
        repeats = counts[unit, bin_index]
        unit, bin_index = np.repeat(unit, repeats), np.repeat(bin_index, repeats)
        times.append(edges[bin_index] + _BIN_S * rng.random(len(unit)))
        units.append(unit)
    all_times = np.floor(np.concatenate(times) * 1e6) / 1e6
    all_units = np.concatenate(units)
    order = np.lexsort((all_units, all_times))
    return Population(
        subject=subject,
        session=session,
        population=population,
        units=_units_table(n_units, inhibitory, label_columns),
        intervals=np.array(spans, dtype=np.float64),
        spikes=Spikes(times=all_times[order], unit_index=all_units[order]),
    )


def tiny_calcium(
    seed: int = 0,
    n_units: int = 20,
    minutes: float = 2.0,
    *,
    subject: str = "mouse",
    session: str = "day1",
    population: str = "0",
    sampling_rate_hz: float = 30.0,
    intervals: Sequence[tuple[float, float]] | None = None,
    n_planes: int = 1,
    label_columns: bool = True,
) -> Population:
    """Make a small imaged population: events that follow a shared drive, a decay of half a second, and noise.

    Args:
        seed, n_units, minutes: As in `tiny_population`.
        subject, session, population, intervals, label_columns: As in `tiny_population`.
        sampling_rate_hz: Frame rate. A frame stands at the start of each interval, none at or after its end.
        n_planes: Imaging planes. Unit ``i`` lies in plane ``i % n_planes``, whose frames come
            ``plane / (n_planes * sampling_rate_hz)`` seconds later, as `time_offset` says.

    Returns:
        A population with dF/F of shape (T, n_units), finite, float32.
    """
    rng = np.random.default_rng([seed, 2])
    spans = _spans(minutes, intervals)
    inhibitory = _inhibitory(n_units)
    rates = 0.3 * np.exp(rng.normal(0.0, 0.7, n_units)) * np.where(inhibitory, 2.0, 1.0)
    coupling = np.where(inhibitory, 1.0, 0.4)
    decay = np.exp(-np.arange(0.0, 3.0, 1.0 / sampling_rate_hz) / 0.5)
    values: list[NDArray[np.float64]] = []
    stamps: list[NDArray[np.float64]] = []
    for start, end in spans:
        n_frames = int(np.ceil((end - start) * sampling_rate_hz - 1e-9))
        n_bins = int(np.ceil((end - start) / _BIN_S)) + 1
        frame_times = start + np.arange(n_frames) / sampling_rate_hz
        drive = _drive(rng, n_bins)[((frame_times - start) / _BIN_S).astype(np.int64)]
        gain = np.exp(coupling * drive[:, None] - 0.5 * coupling**2)
        events = rng.poisson(rates * gain / sampling_rate_hz).astype(np.float64)
        smooth = np.stack([np.convolve(events[:, i], decay)[:n_frames] for i in range(n_units)], axis=1)
        values.append(smooth + 0.1 * rng.normal(size=smooth.shape))
        stamps.append(frame_times)
    plane = np.arange(n_units) % n_planes
    return Population(
        subject=subject,
        session=session,
        population=population,
        units=_units_table(n_units, inhibitory, label_columns),
        intervals=np.array(spans, dtype=np.float64),
        calcium=CalciumTraces(
            values=np.concatenate(values).astype(np.float32),
            timestamps=np.concatenate(stamps),
            sampling_rate_hz=sampling_rate_hz,
            time_offset=plane / (n_planes * sampling_rate_hz),
        ),
    )


def _spans(minutes: float, intervals: Sequence[tuple[float, float]] | None) -> list[tuple[float, float]]:
    return [(0.0, 60.0 * minutes)] if intervals is None else [(float(a), float(b)) for a, b in intervals]


def _inhibitory(n_units: int) -> NDArray[np.bool_]:
    inhibitory: NDArray[np.bool_] = np.arange(n_units) % 3 == 0
    return inhibitory


def _drive(rng: np.random.Generator, n_bins: int) -> NDArray[np.float64]:
    """Ornstein-Uhlenbeck process of unit variance, one value per `_BIN_S`."""
    from scipy.signal import lfilter

    keep = np.exp(-_BIN_S / _DRIVE_TAU_S)
    noise = rng.normal(size=n_bins) * np.sqrt(1.0 - keep**2)
    noise[0] /= np.sqrt(1.0 - keep**2)
    drive: NDArray[np.float64] = lfilter([1.0], [1.0, -keep], noise)
    return drive


def _units_table(
    n_units: int, inhibitory: NDArray[np.bool_], label_columns: bool
) -> dict[str, NDArray[np.str_]]:
    table = {"id": np.array([f"u{i}" for i in range(n_units)])}
    if label_columns:
        labelled = np.arange(n_units) % 10 != 9
        table["cell_type"] = np.where(labelled, np.where(inhibitory, "inhibitory", "excitatory"), "")
        table["brain_region"] = np.where(
            labelled, np.where(np.arange(n_units) < n_units / 2, "VISp", "CA1"), ""
        )
    return table
