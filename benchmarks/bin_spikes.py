"""What a worker ships for a batch of binned views, and what that costs on either side.

    python benchmarks/bin_spikes.py [--repeats 20] [--out benchmarks/results]

A batch is 128 windows of 10 s of populations of 100 units, at several median firing rates. Four ways are
compared, all ending in the same (units, patches, bins) float32 counts, which is checked first: bins made by
the worker, as float32 or as bytes, and spike times, in float64 or float32, that `nuclr_kernels.bin_spikes`
counts where the model is (a GPU if there is one; then the copy to it is part of the second number). float32
times may move a spike at the edge of a bin; how many moved is written down. Ways take turns within a repeat,
so that a disturbance meets all alike. Writes bin_spikes.json and bin_spikes.md.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import Quantiles, commit, machine, write_result
from numpy.typing import NDArray
from torch import Tensor

import nuclr_cli
from nuclr_cli.data.tokens import SpikeTokens
from nuclr_cli.data.views import bin_counts, order_by_unit, window_times
from nuclr_kernels.bin_spikes import bin_spikes

N_WINDOWS, N_UNITS, RATES_HZ = 128, 100, (2.0, 10.0, 40.0)
TOKENS = SpikeTokens()
Window = tuple[NDArray[np.float64], NDArray[np.int32], float]
Parcel = tuple[Tensor, ...]


def windows(rate_hz: float, seed: int) -> list[Window]:
    """Sorted times, units and the start of each window; rates are log-normal about the median."""
    rng = np.random.default_rng([seed, round(rate_hz)])
    rates = rate_hz * rng.lognormal(0.0, 1.0, N_UNITS)
    found: list[Window] = []
    for _ in range(N_WINDOWS):
        start_s = float(rng.uniform(0.0, 3600.0))
        units = np.repeat(np.arange(N_UNITS, dtype=np.int32), rng.poisson(rates * TOKENS.window_s))
        times = rng.uniform(start_s, start_s + TOKENS.window_s, len(units))
        order = np.argsort(times)
        found.append((times[order], units[order], start_s))
    return found


def dense(batch: list[Window], dtype: Any) -> Parcel:
    """A worker's bins."""
    parts = [bin_counts(times, units, start_s, TOKENS, N_UNITS) for times, units, start_s in batch]
    return (torch.from_numpy(np.concatenate(parts).astype(dtype, copy=False)),)


def shipped_times(batch: list[Window], dtype: Any) -> Parcel:
    """A worker's spike times, unit after unit, and the units' offsets."""
    parts: list[NDArray[np.float64]] = []
    counts: list[NDArray[np.int64]] = []
    for times, units, start_s in batch:
        relative, units_inside = window_times(times, units, start_s, TOKENS)
        parts.append(relative[order_by_unit(units_inside, N_UNITS)])
        counts.append(np.bincount(units_inside, minlength=N_UNITS))
    offsets = np.concatenate(([0], np.cumsum(np.concatenate(counts)))).astype(np.int32)
    return torch.from_numpy(np.concatenate(parts).astype(dtype, copy=False)), torch.from_numpy(offsets)


def take_dense(parcel: Parcel, place: str) -> Tensor:
    (counts,) = parcel
    return counts.to(place).float().view(-1, TOKENS.n_patches, TOKENS.samples_per_patch)


def take_times(parcel: Parcel, place: str) -> Tensor:
    times, offsets = parcel
    return bin_spikes(
        times.to(place),
        offsets,
        n_patches=TOKENS.n_patches,
        samples_per_patch=TOKENS.samples_per_patch,
        bin_s=TOKENS.bin_s,
    )


WAYS: dict[str, tuple[Callable[[list[Window], Any], Parcel], Any, Callable[[Parcel, str], Tensor]]] = {
    "bins, float32": (dense, np.float32, take_dense),
    "bins, bytes": (dense, np.uint8, take_dense),
    "times, float64": (shipped_times, np.float64, take_times),
    "times, float32": (shipped_times, np.float32, take_times),
}


def timed(work: Callable[[], Any], place: str) -> tuple[float, Any]:
    """Milliseconds and result."""
    if place == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    result = work()
    if place == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) * 1e3, result


def measure(rate_hz: float, repeats: int, place: str, seed: int) -> dict[str, Any]:
    """Size and times of each way at one rate."""
    batch = windows(rate_hz, seed)
    expected = take_dense(dense(batch, np.float32), place)
    found: dict[str, Any] = {}
    for name, (ship, dtype, take) in WAYS.items():
        parcel = ship(batch, dtype)
        moved = int((take(parcel, place) - expected).abs().sum()) // 2
        if moved and name != "times, float32":
            raise SystemExit(f"{name}: {moved} spikes are in another bin")
        found[name] = {
            "mib": sum(part.nbytes for part in parcel) / 2**20,
            "spikes_in_another_bin": moved,
            "worker_ms": [],
            "model_ms": [],
        }
    for _ in range(repeats):
        for name, (ship, dtype, take) in WAYS.items():
            worker_ms, parcel = timed(lambda ship=ship, dtype=dtype: ship(batch, dtype), "cpu")
            model_ms, _ = timed(lambda take=take, parcel=parcel: take(parcel, place), place)
            found[name]["worker_ms"].append(worker_ms)
            found[name]["model_ms"].append(model_ms)
    for entry in found.values():
        for side in ("worker_ms", "model_ms"):
            entry[side] = asdict(Quantiles.of(entry[side]))
    return {"spikes": sum(len(times) for times, _, _ in batch), "ways": found}


def report(result: dict[str, Any]) -> str:
    lines = [
        "# Bins or spike times from a worker",
        "",
        f"One batch: {N_WINDOWS} windows of {TOKENS.window_s:g} s, {N_UNITS} units each, log-normal rates, "
        f"{TOKENS.bin_s * 1e3:g} ms bins; {result['repeats']} repeats. *Worker*: from a window's spikes to "
        "what is shipped. *Model*: from there to float32 counts "
        f"({'on the GPU, the copy included' if result['place'] == 'cuda' else 'on the CPU'}). Medians, with "
        "the least and the most in brackets. Counts are equal spike for spike, but for float32 times.",
    ]
    for rate, entry in result["rates"].items():
        lines += [
            "",
            f"Median rate {rate} Hz, {entry['spikes']:,} spikes:",
            "",
            "| shipped | MiB | worker, ms | model, ms | spikes in another bin |",
            "|--|--|--|--|--|",
        ]
        for name, way in entry["ways"].items():
            worker, model = (
                f"**{q['median']:.1f}** ({q['low']:.1f} to {q['high']:.1f})"
                for q in (way["worker_ms"], way["model_ms"])
            )
            lines.append(
                f"| {name} | {way['mib']:.1f} | {worker} | {model} | {way['spikes_in_another_bin']} |"
            )
    hardware, versions = result["machine"], result["versions"]
    return "\n".join(
        [
            *lines,
            "",
            f"Hardware: {hardware['processor']}, {hardware['cores']} cores, load {hardware['load_average']}, "
            f"{hardware['platform']}{result['gpu'] and ', ' + result['gpu']}. nuclr {versions['nuclr']} "
            f"(commit {result['commit']}), Python {versions['python']}, NumPy {versions['numpy']}, torch "
            f"{versions['torch']}.",
            "",
            "Made by `python benchmarks/bin_spikes.py`.",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    place = "cuda" if torch.cuda.is_available() else "cpu"
    result = {
        "benchmark": "bin_spikes",
        "repeats": arguments.repeats,
        "place": place,
        "gpu": torch.cuda.get_device_name() if place == "cuda" else "",
        "rates": {
            f"{rate_hz:g}": measure(rate_hz, arguments.repeats, place, arguments.seed) for rate_hz in RATES_HZ
        },
        "machine": machine(),
        "versions": {
            "nuclr": nuclr_cli.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "torch": torch.__version__,
        },
        "commit": commit(),
    }
    write_result(arguments.out, "bin_spikes", result, report(result))
    print(report(result))


if __name__ == "__main__":
    main()
