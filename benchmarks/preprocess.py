"""Time `nuclr preprocess` on one large sorting: a numpy_folder of 500 units, 18 million spikes, 432 MB.

Every repeat is a fresh process that reads, checks, hashes and writes; its wall time includes the start of
Python, and its CPU time hardly depends on what else the machine does. One sha256 over the same bytes is timed
beside it, and so is a second run, which has nothing to do.

    python benchmarks/preprocess.py --repeats 5 --out benchmarks/results
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from measuring import Quantiles, commit, machine, quantile_table

import nuclr_cli

FS_HZ = 30_000
_CHILD = """
import json, sys, time
from pathlib import Path
from typing import Any
began = time.perf_counter()
from nuclr_cli.workflows.preprocess import PreprocessConfig, preprocess
preprocess(PreprocessConfig(sources=(Path(sys.argv[1]),), out=Path(sys.argv[2])))
# Not ru_maxrss: a child inherits its parent's.
status = Path("/proc/self/status").read_text()
peak_kb = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
report = {
    "work_s": time.perf_counter() - began,
    "cpu_s": time.process_time(),
    "peak_mb": peak_kb * 1024 / 1e6,
}
print(json.dumps(report))
"""


def make_sorting(folder: Path, n_units: int, n_spikes: int) -> None:
    """Write a numpy_folder of Poisson-like spikes, one hour long."""
    rng = np.random.default_rng(0)
    spikes = np.zeros(n_spikes, dtype=[("sample_index", "i8"), ("unit_index", "i8"), ("segment_index", "i8")])
    samples = rng.integers(0, 3600 * FS_HZ, n_spikes)
    samples.sort()
    spikes["sample_index"] = samples
    spikes["unit_index"] = rng.integers(0, n_units, n_spikes)
    (folder / "properties").mkdir(parents=True)
    np.save(folder / "spikes.npy", spikes)
    np.save(folder / "properties" / "cell_type.npy", np.array(["exc", "inh"])[np.arange(n_units) % 2])
    info = {"sampling_frequency": float(FS_HZ), "unit_ids": list(range(n_units)), "num_segments": 1}
    (folder / "numpysorting_info.json").write_text(json.dumps(info))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--units", type=int, default=500)
    parser.add_argument("--spikes", type=int, default=18_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "sorting"
        make_sorting(folder, arguments.units, arguments.spikes)
        source = folder / "spikes.npy"
        wall, work, cpu, peak, no_op, hashing = [], [], [], [], [], []
        for repeat in range(arguments.repeats):
            out = Path(scratch) / f"out{repeat}"
            for times in (wall, no_op):
                began = time.perf_counter()
                done = subprocess.run(
                    [sys.executable, "-c", _CHILD, str(folder), str(out)],
                    check=True,
                    capture_output=True,
                    text=True,
                )
                times.append(time.perf_counter() - began)
                if times is wall:
                    report = json.loads(done.stdout)
                    work.append(report["work_s"])
                    cpu.append(report["cpu_s"])
                    peak.append(report["peak_mb"])
            began = time.perf_counter()
            with source.open("rb") as file:
                hashlib.file_digest(file, "sha256")
            hashing.append(time.perf_counter() - began)
            for file_path in out.iterdir():
                file_path.unlink()
        result = {
            "benchmark": "preprocess",
            "units": arguments.units,
            "spikes": arguments.spikes,
            "source_mb": source.stat().st_size / 1e6,
            "repeats": arguments.repeats,
            "wall_s": asdict(Quantiles.of(wall)),
            "work_s": asdict(Quantiles.of(work)),
            "cpu_s": asdict(Quantiles.of(cpu)),
            "peak_memory_mb": asdict(Quantiles.of(peak)),
            "unchanged_rerun_wall_s": asdict(Quantiles.of(no_op)),
            "sha256_of_source_s": asdict(Quantiles.of(hashing)),
            "machine": machine(),
            "versions": {
                "nuclr": nuclr_cli.__version__,
                "python": platform.python_version(),
                "numpy": np.__version__,
            },
            "commit": commit(),
        }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "preprocess.json").write_text(text + "\n")
        (arguments.out / "preprocess.md").write_text(_report(result))


def _report(result: dict[str, Any]) -> str:
    rows = {
        "first run, whole process, s": result["wall_s"],
        "first run, processor time, s": result["cpu_s"],
        "rerun that finds nothing to do, s": result["unchanged_rerun_wall_s"],
        "SHA-256 of the source, for comparison, s": result["sha256_of_source_s"],
        "peak memory, MB": result["peak_memory_mb"],
    }
    hardware, versions = result["machine"], result["versions"]
    return "\n".join(
        [
            "# Preprocessing one session",
            "",
            f"A SpikeInterface numpy_folder of {result['units']} units, one hour and {result['spikes']:,} "
            f"spikes ({result['source_mb']:.0f} MB), read, checked, hashed and written as a session file; "
            f"{result['repeats']} repeats.",
            "",
            *quantile_table(rows),
            "",
            f"Hardware: {hardware['processor']}, {hardware['cores']} cores, {hardware['platform']}. "
            f"nuclr {versions['nuclr']} (commit {result['commit']}), Python {versions['python']}, "
            f"NumPy {versions['numpy']}.",
            "",
            f"Made by `python benchmarks/preprocess.py --repeats {result['repeats']} "
            "--out benchmarks/results`.",
            "",
        ]
    )


if __name__ == "__main__":
    main()
