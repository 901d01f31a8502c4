"""Time to describe a large session for the baselines of `nuclr probe`, part by part.

    python benchmarks/baseline_features.py [--repeats 3] [--out benchmarks/results]

Makes a session of 500 units and one hour (log-normal rates from 0.1 to 40 Hz, 5 Hz on average, a refractory
period, bursts in one unit of five, a shared slow drive), writes it as a session file in a temporary folder
and describes it in every way that ``--baselines full`` does, but for the untrained encoder. Beside it, in
the same run: SpikeInterface's autocorrelograms with NumPy and a plain loop over spikes, whose counts must be
equal; SpikeInterface's autocorrelograms with numba, where it is installed; and its 3D autocorrelogram, which
loops over spikes, on every 25th unit. Ways take turns within a repeat; those that take over a minute
run once. Writes baseline_features.json and baseline_features.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from measuring import Quantiles, commit, machine, write_result
from numpy.typing import NDArray

import nuclr_cli
from nuclr_cli.api import Population, Spikes
from nuclr_cli.data.store import Session, SourceRecord, write_population
from nuclr_cli.data.tokens import TokenSpec
from nuclr_cli.evaluation import features
from nuclr_cli.evaluation.activity import binned_descriptor
from nuclr_cli.evaluation.features import ACG_EDGES_MS, spike_features
from nuclr_cli.evaluation.rate_autocorrelogram import rate_autocorrelogram
from nuclr_cli.evaluation.trains import Trains, close_pairs, group_spikes
from nuclr_cli.workflows.window_average import window_average

N_UNITS, HOUR_S, SAMPLES_HZ, EVERY = 500, 3600.0, 30_000, 25
ONCE_S = 60.0
PARTS = {
    "group_spikes": "spikes by unit",
    "_interval_statistics": "intervals",
    "burst_statistics": "bursts",
    "_autocorrelogram": "autocorrelogram to 200 ms",
    "_slow_autocorrelation": "autocorrelation of counts to 2 s",
    "_count_statistics": "Fano factors and population coupling",
}
"""Functions of `nuclr_cli.evaluation.features` -> what they are for."""


def simulated_population(seed: int) -> Population:
    """Spikes on samples, at least 1.5 ms apart within a unit."""
    rng = np.random.default_rng(seed)
    rates = np.clip(rng.lognormal(np.log(2.5), 1.25, N_UNITS), 0.1, 40.0)
    drive = np.exp(np.interp(np.arange(0, HOUR_S, 0.1), np.arange(0, HOUR_S + 1), rng.normal(0, 0.5, 3601)))
    trains = []
    for unit, rate in enumerate(rates.tolist()):
        times = rng.uniform(0.0, HOUR_S, rng.poisson(rate * HOUR_S * 1.2))
        gain = drive[(times * 10).astype(np.int64)] ** rng.uniform(0, 1)
        times = times[rng.random(len(times)) < gain / 1.2 / gain.mean()]
        if unit % 5 == 0:
            starts = times[rng.random(len(times)) < 0.15]
            times = np.concatenate([times, starts + 0.004, starts + 0.009])
        samples = np.unique((times[times < HOUR_S] * SAMPLES_HZ).astype(np.int64))
        apart = np.concatenate([[True], np.diff(samples) >= 0.0015 * SAMPLES_HZ])
        trains.append(samples[apart])
    samples = np.concatenate(trains)
    units = np.repeat(np.arange(N_UNITS), [len(train) for train in trains])
    order = np.argsort(samples, kind="stable")
    return Population(
        subject="simulated",
        session="one-hour",
        units={"id": np.array([f"unit{i}" for i in range(N_UNITS)])},
        intervals=np.array([[0.0, HOUR_S]]),
        spikes=Spikes(samples[order] / SAMPLES_HZ, units[order]),
    )


@contextmanager
def parts_timed(seconds: dict[str, float]) -> Iterator[None]:
    """Add up the processor time spent in each of `PARTS` while the block runs."""
    originals = {name: getattr(features, name) for name in PARTS}

    def timed(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            began = time.process_time()
            try:
                return originals[name](*arguments, **options)
            finally:
                seconds[PARTS[name]] += time.process_time() - began

        return call

    try:
        for name in PARTS:
            setattr(features, name, timed(name))
        yield
    finally:
        for name, original in originals.items():
            setattr(features, name, original)


def clocked(work: Callable[[], Any]) -> tuple[float, float]:
    """Wall and processor seconds of a call, its processes included."""
    wall, before = time.perf_counter(), os.times()
    work()
    return time.perf_counter() - wall, sum(os.times()[:4]) - sum(before[:4])


def to_200_ms(trains: Trains) -> NDArray[np.int64]:
    """(N, 200) pairs of spikes of each unit at each millisecond."""
    n_ms = ACG_EDGES_MS[-1]
    counts = np.zeros((trains.n_units, n_ms), dtype=np.int64)
    for unit in range(trains.n_units):
        for _, _, lag in close_pairs(*trains.unit(unit), n_ms / 1000.0):
            counts[unit] += np.bincount((lag * 1000.0).astype(np.int64), minlength=n_ms)[:n_ms]
    return counts


def plain_loop(trains: Trains) -> NDArray[np.int64]:
    """The same, spike by spike."""
    n_ms = ACG_EDGES_MS[-1]
    counts = np.zeros((trains.n_units, n_ms), dtype=np.int64)
    for unit in range(trains.n_units):
        times, _ = trains.unit(unit)
        ends = np.searchsorted(times, times + n_ms / 1000.0)
        for place, (begun, end) in enumerate(zip(times.tolist(), ends.tolist(), strict=True)):
            if end > place + 1:
                lag = times[place + 1 : end] - begun + 1e-8
                counts[unit] += np.bincount((lag * 1000.0).astype(np.int64), minlength=n_ms)[:n_ms]
    return counts


def spikeinterface_sorting(times: NDArray[np.float64], units: NDArray[Any]) -> Any:
    """The spikes as SpikeInterface has them."""
    from spikeinterface.core import NumpySorting

    samples = np.round(times * SAMPLES_HZ).astype(np.int64)
    return NumpySorting.from_samples_and_labels([samples], [units], SAMPLES_HZ)


def measure(path: Path, repeats: int) -> dict[str, Any]:
    from spikeinterface.postprocessing import compute_acgs_3d, compute_auto_correlograms

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    session = Session(path)
    times, unit_index = session.spikes
    trains = group_spikes(times, unit_index, session.n_units, session.intervals)
    some = np.asarray(unit_index) % EVERY == 0
    some_times, some_units = times[some], np.asarray(unit_index)[some] // EVERY
    n_some = int(some_units.max()) + 1
    sorting = spikeinterface_sorting(times, np.asarray(unit_index))
    some_sorting = spikeinterface_sorting(some_times, some_units)
    n_ms = ACG_EDGES_MS[-1]

    def theirs(method: str) -> NDArray[np.int64]:
        """(N, 200) pairs, as `to_200_ms`."""
        counts, _ = compute_auto_correlograms(
            sorting, window_ms=2.0 * n_ms, bin_ms=1.0, method=method, fast_mode="on", n_jobs=cores
        )
        later: NDArray[np.int64] = counts[:, n_ms:]
        return later

    ours = to_200_ms(trains)
    if not np.array_equal(theirs("numpy"), ours):
        raise SystemExit("SpikeInterface counts other pairs than nuclr")
    if not np.array_equal(plain_loop(trains), ours):
        raise SystemExit("the loop counts other pairs than nuclr")

    parts = {part: 0.0 for part in PARTS.values()}
    arguments = (session.n_units, session.intervals)
    ways: dict[str, Callable[[], Any]] = {
        "features": lambda: spike_features(times, unit_index, *arguments),
        "binned activity": lambda: binned_descriptor(times, unit_index, *arguments),
        "raw window average": lambda: window_average(session, TokenSpec()),
        "3D autocorrelogram": lambda: rate_autocorrelogram(times, unit_index, *arguments),
        "autocorrelogram, nuclr": lambda: to_200_ms(trains),
        "autocorrelogram, SpikeInterface": lambda: theirs("numpy"),
        "autocorrelogram, loop": lambda: plain_loop(trains),
        "3D of some, nuclr": lambda: rate_autocorrelogram(some_times, some_units, n_some, session.intervals),
        "3D of some, SpikeInterface": lambda: compute_acgs_3d(
            some_sorting, window_ms=2000.0, bin_ms=1.0, n_jobs=1, progress_bar=False
        ),
    }
    lost = 0
    if importlib.util.find_spec("numba") is not None:
        lost = int((ours - theirs("numba")).sum())
        ways["autocorrelogram, SpikeInterface with numba"] = lambda: theirs("numba")
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, work in ways.items():
            if found[name] and found[name][0][0] > ONCE_S:
                continue
            if name == "features":
                with parts_timed(parts):
                    found[name].append(clocked(work))
            else:
                found[name].append(clocked(work))
    return {
        "n_spikes": len(times),
        "some": {"n_units": n_some, "n_spikes": len(some_times)},
        "n_pairs": int(ours.sum()),
        "pairs_lost_by_numba": lost,
        "rates_hz": Quantiles.of((np.diff(trains.offsets) / HOUR_S).tolist()).__dict__,
        "seconds": {
            name: {
                "runs": len(values),
                "wall": asdict(Quantiles.of([wall for wall, _ in values])),
                "processor": asdict(Quantiles.of([processor for _, processor in values])),
            }
            for name, values in found.items()
        },
        "parts": {name: spent / repeats for name, spent in parts.items()},
    }


def report(result: dict[str, Any]) -> str:
    seconds, some = result["seconds"], result["some"]

    def row(name: str, shown: str = "") -> str:
        way = seconds[name]
        wall, processor = way["wall"], way["processor"]
        return (
            f"| {shown or name} | {way['runs']} | **{processor['median']:.1f}** | {wall['low']:.1f} | "
            f"{wall['median']:.1f} | {wall['high']:.1f} |"
        )

    head = [
        "| seconds | runs | processor time, median | wall time, least | median | most |",
        "|--|--|--|--|--|--|",
    ]
    name, with_numba, numba_rows = "autocorrelogram, SpikeInterface with numba", [], []
    if name in seconds:
        with_numba = [
            "With numba it uses all cores, and its threads write to the same counts: "
            f"{result['pairs_lost_by_numba']} pairs are lost here.",
        ]
        numba_rows = [row(name, "SpikeInterface, numba")]
    names = ("features", "binned activity", "raw window average")

    def total(*ways: str) -> str:
        processor, wall = (
            sum(seconds[way][kind]["median"] for way in ways) for kind in ("processor", "wall")
        )
        return f"{processor:.1f} s of processor time ({wall:.1f} s on the clock)"

    hardware, versions = result["machine"], result["versions"]
    return "\n".join(
        [
            "# Describing a session for the baselines",
            "",
            f"{N_UNITS} units, {HOUR_S / 3600:g} h, {result['n_spikes']:,} spikes; rates from "
            f"{result['rates_hz']['low']:.2f} to {result['rates_hz']['high']:.0f} Hz. From a session file in "
            "the page cache; ways in turn.",
            "",
            *head,
            *(row(name) for name in names),
            row("3D autocorrelogram"),
            "",
            f"Features, binned activity and raw window average together take {total(*names)}; with the 3D "
            f"autocorrelogram {total(*names, '3D autocorrelogram')}. Everything of nuclr here runs on one "
            "core; the load average at the start is below. What the features are made of, seconds of "
            "processor time, mean:",
            "",
            "| part | seconds |",
            "|--|--|",
            *(f"| {name} | {spent:.2f} |" for name, spent in result["parts"].items()),
            "",
            "## Beside others",
            "",
            f"Autocorrelograms of all units to 200 ms in bins of 1 ms, {result['n_pairs']:,} pairs of "
            "spikes. The counts of nuclr, of SpikeInterface with NumPy and of the loop are equal.",
            *with_numba,
            "",
            *head,
            row("autocorrelogram, nuclr", "nuclr"),
            row("autocorrelogram, SpikeInterface", "SpikeInterface, NumPy"),
            *numba_rows,
            row("autocorrelogram, loop", "loop over spikes, NumPy"),
            "",
            f"3D autocorrelograms (ten rates, lags to 1 s) of {some['n_units']} units, every {EVERY}th, with "
            f"{some['n_spikes']:,} spikes. SpikeInterface follows the paper's code: rates and lags in "
            "milliseconds, before and after each spike, in a loop over spikes.",
            "",
            *head,
            row("3D of some, nuclr", "nuclr"),
            row("3D of some, SpikeInterface", "SpikeInterface"),
            "",
            f"Hardware: {hardware['processor']}, {hardware['cores']} cores, load {hardware['load_average']}, "
            f"{hardware['platform']}. nuclr {versions['nuclr']} (commit {result['commit']}), Python "
            f"{versions['python']}, NumPy {versions['numpy']}, SciPy {versions['scipy']}, SpikeInterface "
            f"{versions['spikeinterface']}, numba {versions['numba']}.",
            "",
            "Made by `python benchmarks/baseline_features.py`.",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    has_numba = importlib.util.find_spec("numba") is not None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "session.h5"
        write_population(
            simulated_population(options.seed), path, source=SourceRecord("simulated", "none", "none")
        )
        before = machine()
        measured = measure(path, options.repeats)
    result = {
        "benchmark": "baseline_features",
        "repeats": options.repeats,
        **measured,
        "machine": before,
        "versions": {
            "nuclr": nuclr_cli.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("numpy", "scipy", "spikeinterface")},
            "numba": version("numba") if has_numba else "not installed",
        },
        "commit": commit(),
    }
    write_result(options.out, "baseline_features", result, report(result))
    print(report(result))


if __name__ == "__main__":
    main()
