"""What a careful physiologist would measure on each unit: the baseline an embedding has to beat.

Rate, inter-spike intervals, bursts, autocorrelogram, variability of counts, coupling to the population.
Every value is finite: with few spikes a statistic shrinks towards that of a Poisson process of the same
rate, so a silent unit looks Poisson.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from nuclr_cli.evaluation.bursts import BURST_NAMES, burst_statistics
from nuclr_cli.evaluation.trains import (
    TOLERANCE_S,
    BinGrid,
    Floats,
    Ints,
    Trains,
    autocorrelation,
    close_pairs,
    correlation,
    group_spikes,
    unbroken_runs,
)

PSEUDO_INTERVALS = 5.0
"""Weight of the Poisson value in an interval statistic, in intervals."""

PSEUDO_PAIRS = 2.0
"""Pairs added to both sides of an autocorrelogram's ratio."""

ACG_EDGES_MS = (0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 70, 80, 100, 120, 140, 160, 200)
SLOW_LAGS_S = ((0.2, 0.3), (0.3, 0.5), (0.5, 0.8), (0.8, 1.3), (1.3, 2.0))
COUNT_SCALES_S = (0.02, 0.2, 2.0)
TRACE_LAGS_S = (0.25, 0.5, 1.0, 2.0, 4.0)

_ISI_NAMES = (
    "isi_mean_log",
    "isi_sd_log",
    "isi_q10_log",
    "isi_median_log",
    "isi_q90_log",
    "isi_cv",
    "isi_cv2",
    "isi_lv",
    "isi_below_2ms_log",
    "isi_below_6ms_log",
    "isi_below_15ms_log",
    "isi_above_1s_log",
)
_EULER = 0.5772156649015329


@dataclass(frozen=True)
class FeatureTable:
    """Features of the units of one population.

    Attributes:
        names: (F,) names.
        values: (N, F) float64, finite; the same columns for every population.
    """

    names: tuple[str, ...]
    values: Floats


def spike_features(
    times: Floats, unit_index: NDArray[np.integer[Any]], n_units: int, intervals: Floats
) -> FeatureTable:
    """Rate, interval, burst, autocorrelogram, variability and coupling features of every unit.

    - ``rate_log10``: spikes + 1/2 over the valid time, in Hz.
    - ``isi_*``: moments and quantiles of log intervals; CV; CV2 (Holt et al. 1996, J Neurophysiol 75:1806);
      LV (Shinomoto et al. 2003, Neural Comput 15:2823); log odds against Poisson of short and long intervals:
      refractory (2 ms), burst (6 ms: Harris et al. 2001, Neuron 32:141), 15 ms, pauses over 1 s. Intervals
      never span a gap.
    - ``burst_*``: share of spikes in bursts, rate and length of bursts, as `burst_statistics`.
    - ``acg_*``: log of the autocorrelogram over the Poisson expectation, 0 to 200 ms.
    - ``acf_*``: autocorrelation of 20 ms counts from 0.2 to 2 s (intrinsic timescale: Murray et al. 2014,
      Nat Neurosci 17:1661).
    - ``fano_*_log``, ``coupling_*``: Fano factor of counts and their correlation with the summed counts of
      all other units (Okun et al. 2015, Nature 521:511), in bins of 20 ms, 0.2 s and 2 s.
    - ``population_at_spikes_log``: log of the population rate of all other units in the 20 ms bins of a
      unit's spikes, over their mean rate: Okun's spike-triggered population rate at lag 0, which unlike a
      correlation does not fall with the unit's own rate.

    Args:
        times: (S,) s, ascending.
        unit_index: (S,) row of each spike's unit.
        n_units: Units of the population, silent ones included.
        intervals: (M, 2) s, valid time, sorted and disjoint.

    Returns:
        N = n_units rows in the units' order. With fewer than some tens of spikes, values approach those of
        a Poisson process: interval statistics as if `PSEUDO_INTERVALS` Poisson intervals were added, ratios
        as if `PSEUDO_PAIRS` pairs were; correlations and log Fano factors of a unit without variance are 0.

    Raises:
        ValueError: As `group_spikes`.
    """
    trains = group_spikes(times, unit_index, n_units, intervals)
    rates = (np.diff(trains.offsets) + 0.5) / trains.duration_s
    interval_part = np.empty((n_units, len(_ISI_NAMES)))
    burst_part = np.empty((n_units, len(BURST_NAMES)))
    acg_part = np.empty((n_units, len(ACG_EDGES_MS) - 1))
    for row in range(n_units):
        spikes, interval = trains.unit(row)
        interval_part[row] = _interval_statistics(spikes, interval, rates[row])
        burst_part[row] = burst_statistics(spikes, interval, rates[row], trains.duration_s)
        acg_part[row] = _autocorrelogram(spikes, interval, trains)
    names = ("rate_log10", *_ISI_NAMES, *BURST_NAMES, *_acg_names())
    with threadpool_limits(1):  # rows are short: more BLAS threads only wait for one another
        slow_names, slow_part = _slow_autocorrelation(trains)
        count_names, count_part = _count_statistics(trains)
    parts = [np.log10(rates)[:, None], interval_part, burst_part, acg_part, slow_part, count_part]
    return FeatureTable((*names, *slow_names, *count_names), np.concatenate(parts, axis=1))


def trace_features(
    values: NDArray[np.floating[Any]], timestamps: Floats, sampling_rate_hz: float
) -> FeatureTable:
    """Features of fluorescence traces: moments, events, autocorrelation, coupling to the population.

    - ``mean``, ``sd_log``, ``skewness``, ``kurtosis_log``, ``noise_log``: noise is the median absolute
    difference of
      neighbouring frames as a standard deviation (Rupprecht et al. 2021, Nat Neurosci 24:1324).
    - ``event_rate_log``: upward crossings of the median plus 3 noise standard deviations, per second.
    - ``acf_*``: autocorrelation at 0.25 to 4 s (at least one frame).
    - ``coupling``: correlation with the mean of all other units, each scaled to unit variance.

    Args:
        values: (T, N) dF/F, finite.
        timestamps: (T,) s, ascending; frames more than 1.5 periods apart have a gap between them, which no
        difference,
            crossing or lag spans.
        sampling_rate_hz: Nominal frame rate.

    Returns:
        N rows. A constant trace has 0 for everything relative to its spread.

    Raises:
        ValueError: Shapes differ, or there are fewer than two frames.
    """
    n_frames, n_units = values.shape
    run = unbroken_runs(timestamps, sampling_rate_hz, n_frames)
    lags = [max(1, round(lag * sampling_rate_hz)) for lag in TRACE_LAGS_S]
    mean = values.mean(axis=0, dtype=np.float64)
    sd = values.std(axis=0, dtype=np.float64)
    scale = np.where(sd > 1e-9, sd, np.inf)
    total = np.zeros(n_frames)
    for unit in range(n_units):
        total += (values[:, unit] - mean[unit]) / scale[unit]
    table = np.empty((n_units, 7 + len(lags)))
    for unit in range(n_units):
        trace = values[:, unit].astype(np.float64)
        scaled = (trace - mean[unit]) / scale[unit]
        within = run[1:] == run[:-1]
        steps = np.abs(np.diff(trace))[within]
        noise = float(np.median(steps)) / (0.6745 * np.sqrt(2.0)) if len(steps) else 0.0
        above = trace > np.median(trace) + 3.0 * noise
        events = np.count_nonzero(above[1:] & ~above[:-1] & within)
        table[unit, :6] = (
            mean[unit],
            np.log(sd[unit] + 1e-6),
            float(np.mean(scaled**3)),
            np.log1p(float(np.mean(scaled**4))),
            np.log(noise + 1e-6),
            np.log((events + 0.5) * sampling_rate_hz / n_frames),
        )
        for place, lag in enumerate(lags):
            same = run[lag:] == run[:-lag]
            products = (scaled[lag:] * scaled[:-lag])[same]
            table[unit, 6 + place] = float(products.mean()) if len(products) else 0.0
        table[unit, -1] = correlation(scaled, total - scaled)
    names = ["mean", "sd_log", "skewness", "kurtosis_log", "noise_log", "event_rate_log"]
    names += [f"acf_{lag:g}s" for lag in TRACE_LAGS_S]
    return FeatureTable((*names, "coupling"), table)


def _interval_statistics(times: Floats, interval: Ints, rate_hz: float) -> Floats:
    """The `_ISI_NAMES` of one unit, shrunk towards a Poisson process of `rate_hz`."""
    # Two spikes on one sample (a merged unit) would have the log of 0.
    gaps = np.maximum(np.diff(times), 1e-5) + TOLERANCE_S
    same = interval[1:] == interval[:-1]
    isi = gaps[same]
    log = np.log(isi)
    n = len(isi)
    log_rate = np.log(rate_hz)
    quantiles = np.quantile(log, (0.1, 0.5, 0.9)) if n else np.zeros(3)
    mean = float(isi.mean()) if n else 1.0
    first, second = gaps[:-1][same[:-1] & same[1:]], gaps[1:][same[:-1] & same[1:]]
    contrast = np.abs(first - second) / (first + second)
    statistics = np.array(
        [
            _shrink(float(log.mean()) if n else 0.0, n, -_EULER - log_rate),
            _shrink(float(log.std()) if n else 0.0, n, np.pi / np.sqrt(6.0)),
            *(
                _shrink(value, n, np.log(-np.log1p(-share)) - log_rate)
                for value, share in zip(quantiles, (0.1, 0.5, 0.9), strict=True)
            ),
            _shrink(float(isi.std()) / mean if n else 0.0, n, 1.0),
            _shrink(2.0 * float(contrast.mean()) if len(contrast) else 0.0, len(contrast), 1.0),
            _shrink(3.0 * float((contrast**2).mean()) if len(contrast) else 0.0, len(contrast), 1.0),
        ]
    )
    shares = [-np.expm1(-rate_hz * limit) for limit in (0.002, 0.006, 0.015)] + [np.exp(-rate_hz)]
    found = [np.count_nonzero(isi < limit) for limit in (0.002, 0.006, 0.015)] + [np.count_nonzero(isi > 1.0)]
    odds = [np.log((k + 1.0) / (n * share + 1.0)) for k, share in zip(found, shares, strict=True)]
    return np.concatenate([statistics, odds])


def _shrink(value: float, n: int, poisson: float) -> float:
    return float((n * value + PSEUDO_INTERVALS * poisson) / (n + PSEUDO_INTERVALS))


def _acg_names() -> list[str]:
    return [f"acg_{a}_{b}ms" for a, b in pairwise(ACG_EDGES_MS)]


def _autocorrelogram(times: Floats, interval: Ints, trains: Trains) -> Floats:
    """Log of pair counts over a Poisson process's, in bins of `ACG_EDGES_MS`, within intervals."""
    edges = np.array(ACG_EDGES_MS) / 1000.0
    fine = np.zeros(ACG_EDGES_MS[-1], dtype=np.int64)
    for _, _, lag in close_pairs(times, interval, edges[-1]):
        fine += np.bincount((lag * 1000.0).astype(np.int64), minlength=len(fine))[: len(fine)]
    pairs = np.add.reduceat(fine, ACG_EDGES_MS[:-1])
    middle = 0.5 * (edges[1:] + edges[:-1])
    overlap = np.maximum(trains.lengths_s[:, None] - middle, 0.0).sum(axis=0)
    expected = (len(times) / trains.duration_s) ** 2 * overlap * np.diff(edges)
    ratio: Floats = np.log((pairs + PSEUDO_PAIRS) / (expected + PSEUDO_PAIRS))
    return ratio


def _slow_autocorrelation(trains: Trains) -> tuple[list[str], Floats]:
    """Means of the autocorrelation of 20 ms counts over the spans `SLOW_LAGS_S`: (N, len(SLOW_LAGS_S))."""
    bin_s = COUNT_SCALES_S[0]
    n_lags = round(SLOW_LAGS_S[-1][1] / bin_s)
    grid = BinGrid.over(trains.intervals, bin_s, pad=n_lags)
    valid, pairs = grid.valid, grid.pairs(n_lags)
    spans = [slice(round(a / bin_s), round(b / bin_s)) for a, b in SLOW_LAGS_S]
    part = np.empty((trains.n_units, len(spans)))
    for row, counts in enumerate(grid.rows(trains)):
        acf = autocorrelation(counts, valid, pairs)
        part[row] = [acf[span].mean() for span in spans]
    return [f"acf_{a:g}_{b:g}s" for a, b in SLOW_LAGS_S], part


def _count_statistics(trains: Trains) -> tuple[list[str], Floats]:
    """Log Fano factor and population coupling at each of `COUNT_SCALES_S`: (N, 2 x scales + 1).

    The population is all other units: what a unit is compared with never holds its own spikes. Counts are
    whole numbers, so their sum is exact and does not depend on the order of the units.
    """
    names, columns = [], []
    for bin_s in COUNT_SCALES_S:
        grid = BinGrid.over(trains.intervals, bin_s)
        total = np.zeros(grid.width)
        for counts in grid.rows(trains):
            total += counts
        part, at_spikes = np.zeros((trains.n_units, 2)), np.zeros((trains.n_units, 1))
        for row, counts in enumerate(grid.rows(trains)):
            if not len(counts):
                continue
            others = total - counts
            mean, variance = counts.mean(), counts.var()
            if variance > 0:
                part[row] = np.log(variance / mean), correlation(counts, others)
            expected = counts.sum() * others.mean()
            at_spikes[row] = np.log((counts @ others + PSEUDO_PAIRS) / (expected + PSEUDO_PAIRS))
        names += [f"fano_{bin_s:g}s_log", f"coupling_{bin_s:g}s"]
        columns.append(part)
        if bin_s == COUNT_SCALES_S[0]:
            names.append("population_at_spikes_log")
            columns.append(at_spikes)
    return names, np.concatenate(columns, axis=1)
