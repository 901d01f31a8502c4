"""Time to draw one random 10 s window of a large session, binned, beside torch_brain on the same file.

    python benchmarks/window.py [--windows 400] [--out benchmarks/results]

Makes a session of 500 units and 18 million spikes in one hour (a 180 MB file) in a temporary folder, checks
that all ways give the same counts, then times them in turn, window by window, so that a disturbance meets all
alike. Writes window.json and window.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from measuring import write_result
from numpy.typing import NDArray

import nuclr_cli
from nuclr_cli.api import Population, Spikes
from nuclr_cli.data.check import check_population
from nuclr_cli.data.store import Session, SourceRecord, verify, write_population
from nuclr_cli.data.tokens import SpikeTokens
from nuclr_cli.data.views import bin_counts

N_UNITS, N_SPIKES, HOUR_S, WINDOW_S, BIN_S = 500, 18_000_000, 3600.0, 10.0, 0.02
WARM_UP = 50


def simulated_population(seed: int) -> Population:
    rng = np.random.default_rng(seed)
    weights = rng.lognormal(0.0, 1.0, N_UNITS)
    return Population(
        subject="simulated",
        session="one-hour",
        units={"id": np.array([f"unit{i}" for i in range(N_UNITS)])},
        intervals=np.array([[0.0, HOUR_S]]),
        spikes=Spikes(
            np.sort(rng.uniform(0.0, HOUR_S, N_SPIKES)),
            rng.choice(N_UNITS, N_SPIKES, p=weights / weights.sum()),
        ),
    )


def ways(path: Path) -> dict[str, Callable[[float], NDArray[Any]]]:
    """Name -> function from a window's start to (units, bins) counts."""
    session, tokens = Session(path), SpikeTokens(window_s=WINDOW_S, bin_s=BIN_S)

    def ours(start_s: float) -> NDArray[Any]:
        times, unit_index = session.spikes_between(start_s, start_s + WINDOW_S)
        return bin_counts(times, unit_index, start_s, tokens, session.n_units)

    found: dict[str, Callable[[float], NDArray[Any]]] = {"nuclr: mapped slice + bin_counts": ours}
    try:
        from torch_brain.datasets import Dataset, DatasetIndex
        from torch_brain.transforms import BinSpikes
    except ImportError:
        return found
    dataset = Dataset(path.parent, transform=BinSpikes(BIN_S))

    def theirs(start_s: float) -> NDArray[Any]:
        sample = dataset[DatasetIndex(path.stem, start_s, start_s + WINDOW_S)]
        counts: NDArray[Any] = sample.spikes_binned.binned_counts.T
        return counts

    found["torch_brain: Dataset + BinSpikes"] = theirs
    return found


def measure(path: Path, n_windows: int, seed: int) -> dict[str, list[float]]:
    """Milliseconds of each window, by way; the first windows warm up and are not counted."""
    candidates = ways(path)
    starts = np.random.default_rng(seed).uniform(0.0, HOUR_S - WINDOW_S, n_windows + WARM_UP)
    reference = next(iter(candidates.values()))
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for number, start_s in enumerate(starts.tolist()):
        for name, way in candidates.items():
            began = time.perf_counter()
            counts = way(start_s)
            elapsed_ms = (time.perf_counter() - began) * 1e3
            if number >= WARM_UP:
                times[name].append(elapsed_ms)
            elif not np.array_equal(counts, reference(start_s)):
                raise SystemExit(f"{name} counts other spikes than nuclr in the window at {start_s} s")
    return times


def hardware() -> dict[str, Any]:
    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    return {"cpu": cpu, "cores": os.cpu_count(), "system": platform.system(), "machine": platform.machine()}


def versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"nuclr": nuclr_cli.__version__, "python": platform.python_version()}
    for package in ("numpy", "h5py", "torch_brain", "temporaldata", "torch"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    found["hdf5"] = h5py.version.hdf5_version
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return {**found, "commit": commit.stdout.strip() or "unknown"}


def report(record: dict[str, Any]) -> str:
    rows = [
        f"| {name} | {q['p5']:.3f} | **{q['median']:.3f}** | {q['p95']:.3f} |"
        for name, q in record["windows_ms"].items()
    ]
    size, once = record["file_mb"], record["once_s"]
    return "\n".join(
        [
            "# One random window",
            "",
            f"{N_UNITS} units, {N_SPIKES / 1e6:g} million spikes in {HOUR_S / 3600:g} h; one "
            f"{WINDOW_S:g} s window at a random place, binned at {BIN_S * 1e3:g} ms to {N_UNITS} x "
            f"{round(WINDOW_S / BIN_S)} counts. File in the page cache, {record['n_windows']} windows after "
            f"{WARM_UP} to warm up, all ways in turn on every window, all counts equal.",
            "",
            "| milliseconds a window | 5 % | median | 95 % |",
            "|--|--|--|--|",
            *rows,
            "",
            f"Once per file ({size:.0f} MB): check {once['check']:.2f} s, check + write + hash + flush "
            f"{once['write']:.2f} s, verify {once['verify']:.2f} s, open {once['open'] * 1e3:.2f} ms.",
            "",
            "Hardware: " + ", ".join(f"{key} {value}" for key, value in record["hardware"].items()) + ".",
            "",
            "Versions: " + ", ".join(f"{key} {value}" for key, value in record["versions"].items()) + ".",
            "",
            "Made by `python benchmarks/window.py`.",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Time to draw one random window, beside torch_brain.")
    parser.add_argument("--windows", type=int, default=400, help="windows to time (default 400)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "session.h5"
        population, marks = simulated_population(options.seed), [time.perf_counter()]
        check_population(population)
        marks.append(time.perf_counter())
        write_population(population, path, source=SourceRecord("simulated", "none", "none"))
        marks.append(time.perf_counter())
        if verify(path):
            raise SystemExit("the file does not verify")
        marks.append(time.perf_counter())
        _ = Session(path).spikes
        marks.append(time.perf_counter())
        del population
        times = measure(path, options.windows, options.seed)
        record = {
            "n_windows": options.windows,
            "file_mb": path.stat().st_size / 1e6,
            "once_s": dict(zip(("check", "write", "verify", "open"), np.diff(marks).tolist(), strict=True)),
            "windows_ms": {
                name: {"p5": q[0], "p25": q[1], "median": q[2], "p75": q[3], "p95": q[4]}
                for name, values in times.items()
                for q in [np.percentile(values, [5, 25, 50, 75, 95]).tolist()]
            },
            "hardware": hardware(),
            "versions": versions(),
        }
    write_result(options.out, "window", record, report(record))
    print(report(record))


if __name__ == "__main__":
    main()
