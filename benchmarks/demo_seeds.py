"""Run `nuclr demo` on several seeds and write the tables that docs/results/demo.md shows.

    python benchmarks/demo_seeds.py --seeds 1000,1001,1002,1003,1004 --jobs 2

Every seed is another set of simulated animals and another initialisation. The seeds of the table were not
used to choose the settings of the `tiny` preset.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

METHODS = ("nuclr", "untrained", "features", "activity_pca", "chance")


def run_demo(seed: int, folder: Path, threads: int) -> dict[str, Any]:
    """The JSON document of one demo."""
    command = [
        sys.executable,
        "-m",
        "nuclr_cli",
        "demo",
        "--seed",
        str(seed),
        "-o",
        str(folder / str(seed)),
        "--json",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"seed {seed}: exit {done.returncode}\n{done.stderr}")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def scores(document: dict[str, Any], label: str) -> dict[str, float]:
    """Macro F1 of each method."""
    (probe,) = [one for one in document["probes"] if one["label"] == label]
    return {method["name"]: method["macro_f1"]["value"] for method in probe["methods"]}


def table(documents: dict[int, dict[str, Any]], label: str) -> list[str]:
    """Markdown rows: one a seed, and the median."""
    found = {seed: scores(document, label) for seed, document in documents.items()}
    titles = {m["name"]: m["title"] for m in next(iter(documents.values()))["probes"][0]["methods"]}
    names = [name for name in METHODS if name in titles]
    lines = [
        "| seed | " + " | ".join(titles[name] for name in names) + " | NuCLR - untrained |",
        "|---" * (len(names) + 2) + "|",
    ]
    for seed, row in found.items():
        cells = " | ".join(f"{row[name]:.3f}" for name in names)
        lines.append(f"| {seed} | {cells} | {row['nuclr'] - row['untrained']:+.3f} |")
    medians = {name: statistics.median(row[name] for row in found.values()) for name in names}
    gain = statistics.median(row["nuclr"] - row["untrained"] for row in found.values())
    lines.append("| median | " + " | ".join(f"{medians[name]:.3f}" for name in names) + f" | {gain:+.3f} |")
    return lines


def processor() -> str:
    """Model name where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    names = (
        [line for line in cpuinfo.read_text().splitlines() if "model name" in line]
        if cpuinfo.exists()
        else []
    )
    return names[0].partition(":")[2].strip() if names else platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", default="1000,1001,1002,1003,1004")
    parser.add_argument("--jobs", type=int, default=1, help="demos at a time")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    threads = max(1, (os.cpu_count() or 1) // arguments.jobs)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(arguments.jobs) as pool:
        results = pool.map(lambda seed: run_demo(seed, Path(folder), threads), seeds)
        documents = dict(zip(seeds, results, strict=True))
    seconds = [document["seconds"] for document in documents.values()]
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    commit = git.stdout.strip() or "unknown"
    versions = ", ".join(
        f"{name} {metadata.version(name)}" for name in ("nuclr", "torch", "numpy", "scikit-learn")
    )
    lines = [
        "# The demo on other seeds",
        "",
        f"Hardware: {processor()}, {os.cpu_count()} cores, {arguments.jobs} demo(s) at a time with "
        f"{threads} thread(s) each. Python {platform.python_version()}, {versions}, commit {commit}.",
        "",
        f"Median time of one demo: {statistics.median(seconds):.0f} s.",
    ]
    for label in ("cell_type", "brain_region"):
        lines += [
            "",
            f"## {label}: macro F1 on animals left out of the probe, in turn",
            "",
            *table(documents, label),
        ]
    lines += ["", f"Made by `python benchmarks/demo_seeds.py --seeds {arguments.seeds}`."]
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "demo_seeds.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    labels = ("cell_type", "brain_region")
    kept = {
        "machine": {"cpu": processor(), "cores": os.cpu_count(), "threads": threads},
        "versions": {"python": platform.python_version(), "packages": versions, "commit": commit},
        "seeds": {
            seed: {
                "seconds": document["seconds"],
                **{label: scores(document, label) for label in labels},
            }
            for seed, document in documents.items()
        },
    }
    (arguments.out / "demo_seeds.json").write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
