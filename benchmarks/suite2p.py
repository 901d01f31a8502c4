"""Time the Suite2p reader on one large plane: 2,000 ROIs, 27,000 frames, 206 MiB in each of F and Fneu.

Every repeat is a fresh process that reads the folder and computes dF/F. Its memory is measured against what
the process held before it began to read, in multiples of one array: the result alone is one. Linux only.

    python benchmarks/suite2p.py --repeats 5 --out benchmarks/results
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from measuring import Quantiles, commit, machine, quantile_table

import nuclr_cli

FS_HZ = 30.0
_CHILD = """
import json, sys, time
from pathlib import Path
import scipy.ndimage
from nuclr_cli.api import ReadOptions
from nuclr_suite2p import Suite2pReader
def peak_mb():
    # Not ru_maxrss: a process begins with the peak of the one that started it.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
before, began, cpu = peak_mb(), time.perf_counter(), time.process_time()
(population,) = Suite2pReader().read(Path(sys.argv[1]), ReadOptions())
report = {"wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}
report |= {"peak_mb": peak_mb(), "extra_mb": peak_mb() - before, "shape": population.calcium.values.shape}
print(json.dumps(report))
"""


def make_plane(folder: Path, n_rois: int, n_frames: int) -> None:
    """Write a plane folder as Suite2p 1.1.0 names it: noise on a slow baseline, all ROIs cells."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    drift = (200 + 20 * np.sin(np.arange(n_frames) / 5000)).astype("f4")
    for name, level in (("F.npy", 1.0), ("Fneu.npy", 0.5)):
        array = np.lib.format.open_memmap(folder / name, "w+", dtype="f4", shape=(n_rois, n_frames))
        for row in range(n_rois):
            array[row] = level * drift + 10 * rng.standard_normal(n_frames, dtype="f4")
        array.flush()
    stat = np.empty(n_rois, dtype=object)
    for roi in range(n_rois):
        pixels = rng.integers(0, 512, (2, 120))
        stat[roi] = {
            "med": np.median(pixels, axis=1).tolist(),
            "npix": 120,
            "ypix": pixels[0],
            "xpix": pixels[1],
            "lam": rng.random(120, dtype="f4"),
        }
    np.save(folder / "stat.npy", stat)
    np.save(folder / "iscell.npy", np.ones((n_rois, 2)))
    settings = {
        "fs": FS_HZ,
        "tau": 1.0,
        "extraction": {"neuropil_coefficient": 0.7},
        "dcnv_preprocess": {"baseline": "maximin", "win_baseline": 60.0, "sig_baseline": 10.0},
    }
    np.save(folder / "settings.npy", np.array(settings, dtype=object))
    np.save(folder / "db.npy", np.array({"nframes": n_frames, "nplanes": 1, "iplane": 0}, dtype=object))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rois", type=int, default=2000)
    parser.add_argument("--frames", type=int, default=27_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    array_mb = arguments.rois * arguments.frames * 4 / 2**20
    with tempfile.TemporaryDirectory() as scratch:
        make_plane(Path(scratch) / "suite2p" / "plane0", arguments.rois, arguments.frames)
        reports = []
        for _ in range(arguments.repeats):
            done = subprocess.run(
                [sys.executable, "-c", _CHILD, str(Path(scratch) / "suite2p")],
                check=True,
                capture_output=True,
                text=True,
            )
            reports.append(json.loads(done.stdout))
            assert reports[-1]["shape"] == [arguments.frames, arguments.rois]
    result = {
        "benchmark": "suite2p",
        "rois": arguments.rois,
        "frames": arguments.frames,
        "array_mb": array_mb,
        "repeats": arguments.repeats,
        "wall_s": asdict(Quantiles.of([report["wall_s"] for report in reports])),
        "cpu_s": asdict(Quantiles.of([report["cpu_s"] for report in reports])),
        "peak_memory_mb": asdict(Quantiles.of([report["peak_mb"] for report in reports])),
        "extra_memory_arrays": asdict(Quantiles.of([report["extra_mb"] / array_mb for report in reports])),
        "machine": machine(),
        "versions": {
            "nuclr": nuclr_cli.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scipy": scipy.__version__,
        },
        "commit": commit(),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "suite2p.json").write_text(text + "\n")
        (arguments.out / "suite2p.md").write_text(_report(result))


def _report(result: dict[str, Any]) -> str:
    rows = {
        "reading and dF/F, s": result["wall_s"],
        "the same, processor time, s": result["cpu_s"],
        "peak memory of the process, MiB": result["peak_memory_mb"],
        "memory added by reading, multiples of one array": result["extra_memory_arrays"],
    }
    hardware, versions = result["machine"], result["versions"]
    return "\n".join(
        [
            "# Reading one Suite2p plane",
            "",
            f"{result['rois']:,} ROIs and {result['frames']:,} frames at {FS_HZ:g} Hz "
            f"({result['array_mb']:.0f} MiB in each of F and Fneu), neuropil-corrected and turned "
            f"into dF/F by the reader; {result['repeats']} repeats, each in a process of its own.",
            "",
            *quantile_table(rows),
            "",
            f"Hardware: {hardware['processor']}, {hardware['cores']} cores, {hardware['platform']}. "
            f"nuclr {versions['nuclr']} (commit {result['commit']}), Python {versions['python']}, "
            f"NumPy {versions['numpy']}, SciPy {versions['scipy']}.",
            "",
            "Made by `python benchmarks/suite2p.py --out benchmarks/results`.",
            "",
        ]
    )


if __name__ == "__main__":
    main()
