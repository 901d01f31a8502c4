"""Time from typing `nuclr --help` to its end, in a process of its own: python benchmarks/help.py

Writes benchmarks/results/help.json and help.md. The aim is 0.4 s: nothing heavy is imported to print help.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from measuring import write_result

COMMANDS = {
    "nuclr --help": ["-m", "nuclr_cli", "--help"],
    "nuclr probe --help": ["-m", "nuclr_cli", "probe", "--help"],
    "python -c pass": ["-c", "pass"],
}


def seconds(arguments: list[str]) -> tuple[float, float]:
    """Wall time, and processor time (which other work on the machine does not stretch)."""
    before, began = os.times(), time.perf_counter()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    elapsed, after = time.perf_counter() - began, os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return elapsed, used


def processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    models = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for repeat in range(options.repeats + 1):
        for name, arguments in COMMANDS.items():
            measured = seconds(arguments)
            if repeat:  # the first warms the file cache
                times[name].append(measured)
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    record: dict[str, Any] = {
        "seconds": {
            name: {
                what: {
                    "minimum": min(values),
                    "median": statistics.median(values),
                    "maximum": max(values),
                }
                for what, values in zip(("wall", "processor"), zip(*pairs, strict=True), strict=True)
            }
            for name, pairs in times.items()
        },
        "repeats": options.repeats,
        "hardware": {"cpu": processor(), "cores": os.cpu_count(), "system": platform.system()},
        "versions": {
            "nuclr": version("nuclr"),
            "typer": version("typer"),
            "python": platform.python_version(),
            "commit": git.stdout.strip() or "unknown",
        },
    }
    write_result(options.out, "help", record, report(record))
    print(report(record))


def report(record: dict[str, Any]) -> str:
    rows = [
        f"| `{name}` | {wall['minimum']:.3f} | **{wall['median']:.3f}** | {wall['maximum']:.3f} "
        f"| {of['processor']['median']:.3f} |"
        for name, of in record["seconds"].items()
        for wall in [of["wall"]]
    ]
    hardware = ", ".join(f"{key} {value}" for key, value in record["hardware"].items())
    versions = ", ".join(f"{key} {value}" for key, value in record["versions"].items())
    return "\n".join(
        [
            "# Help pages",
            "",
            f"Seconds from start to end of the process, {record['repeats']} repeats in turn after one to "
            "warm up. Processor time is what other work on the machine does not stretch.",
            "",
            "| seconds | least | median | most | processor time, median |",
            "|--|--|--|--|--|",
            *rows,
            "",
            f"Hardware: {hardware}.",
            "",
            f"Versions: {versions}.",
            "",
            "Made by `python benchmarks/help.py`.",
            "",
        ]
    )


if __name__ == "__main__":
    main()
