"""Time `nuclr preprocess --manifest` on 23 sessions with one process and with two.

Each session is a numpy_folder of 300 units and 4 million spikes (5 spikes a second for 45 minutes). Every
repeat is a fresh `nuclr` process that writes into a new folder; one and two processes take turns.

    python benchmarks/jobs.py --repeats 5 --out benchmarks/results
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import Quantiles, commit, machine, processor, write_result
from preprocess import make_sorting

import nuclr_cli

SESSIONS = 23


def run(manifest: Path, out: Path, jobs: int) -> float:
    """Seconds of one whole process."""
    command = [sys.executable, "-m", "nuclr_cli", "preprocess", "--manifest", str(manifest), "-o", str(out)]
    began = time.perf_counter()
    subprocess.run([*command, "--jobs", str(jobs), "--quiet"], check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--units", type=int, default=300)
    parser.add_argument("--spikes", type=int, default=4_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    seconds: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        rows = ["path,subject,session"]
        for number in range(SESSIONS):
            make_sorting(place / f"s{number}", arguments.units, arguments.spikes)
            rows.append(f"s{number},m{number},day1")
        manifest = place / "sessions.csv"
        manifest.write_text("\n".join(rows) + "\n")
        for repeat in range(arguments.repeats):
            written = {}
            for jobs in (1, 2) if repeat % 2 else (2, 1):
                out = place / f"out{repeat}_{jobs}"
                seconds[jobs].append(run(manifest, out, jobs))
                written[jobs] = sorted(path.name for path in out.iterdir())
                for path in out.iterdir():
                    path.unlink()
            if written[1] != written[2]:
                raise SystemExit("one and two processes did not write the same files")
    ratio = statistics.median(one / two for one, two in zip(seconds[1], seconds[2], strict=True))
    result = {
        "benchmark": "jobs",
        "sessions": SESSIONS,
        "units": arguments.units,
        "spikes": arguments.spikes,
        "repeats": arguments.repeats,
        "seconds": {str(jobs): vars(Quantiles.of(values)) for jobs, values in seconds.items()},
        "ratio": ratio,
        "machine": machine(),
        "versions": {"nuclr": nuclr_cli.__version__, "python": platform.python_version()},
        "commit": commit(),
    }
    rows = [
        f"| {jobs} | {min(values):.2f} | **{statistics.median(values):.2f}** | {max(values):.2f} |"
        for jobs, values in seconds.items()
    ]
    text = "\n".join(
        [
            "# Preprocessing many sessions with more processes",
            "",
            f"{SESSIONS} numpy_folders of {arguments.units} units and {arguments.spikes:,} spikes each; "
            f"seconds of the whole process, {arguments.repeats} repeats in turn.",
            "",
            "| `--jobs` | least | median | most |",
            "|--|--|--|--|",
            *rows,
            "",
            f"One process takes {ratio:.2f} times as long as two (median over repeats).",
            "",
            f"Hardware: {processor()}, {os.cpu_count()} cores. nuclr {nuclr_cli.__version__}, Python "
            f"{platform.python_version()}, commit {commit()}.",
            "",
            f"Made by `python benchmarks/jobs.py --repeats {arguments.repeats} --out benchmarks/results`.",
            "",
        ]
    )
    print(text)
    if arguments.out is not None:
        write_result(arguments.out, "jobs", result, text)


if __name__ == "__main__":
    main()
