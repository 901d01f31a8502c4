"""Time `nuclr preprocess` on one large Kilosort folder after curation: 500 clusters, 18 million spikes.

The folder holds what Kilosort and phy leave: time, cluster and template of every spike, templates on 384
channels with their positions, label tables; every tenth cluster was merged from two templates. Every repeat
is a fresh process that reads, finds peak channels, checks, hashes and writes; its wall time includes the
start of Python. Reading alone is timed in a process of its own. Before anything is timed, spike counts and
peak channels are compared with those that were planted.

    python benchmarks/phy.py --repeats 5 --out benchmarks/results
"""

from __future__ import annotations

import argparse
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
from numpy.typing import NDArray

import nuclr_cli
from nuclr_cli.api import ReadOptions
from nuclr_spikeinterface import SpikeInterfaceReader

FS_HZ = 30_000
N_CHANNELS = 384
N_SAMPLES = 61
_PREPROCESS = """
import json, resource, sys, time
from pathlib import Path
from nuclr_cli.workflows.preprocess import PreprocessConfig, preprocess
preprocess(PreprocessConfig(sources=(Path(sys.argv[1]),), out=Path(sys.argv[2])))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"cpu_s": time.process_time(), "peak_mb": peak / 1024}))
"""
_READ = """
import json, sys, time
from pathlib import Path
from nuclr_cli.api import ReadOptions
from nuclr_spikeinterface import SpikeInterfaceReader
began = time.perf_counter()
list(SpikeInterfaceReader().read(Path(sys.argv[1]), ReadOptions()))
print(json.dumps({"read_s": time.perf_counter() - began}))
"""


def make_folder(folder: Path, n_clusters: int, n_spikes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Write a curated Kilosort folder, one hour long.

    Returns:
        (clusters,) number of spikes and (clusters,) peak channel of each cluster, in the order of their ids.
    """
    rng = np.random.default_rng(0)
    n_merged = n_clusters // 10
    n_templates = n_clusters + n_merged
    # The last clusters were merged from two templates each, which were large on the same channel.
    cluster_of = np.arange(n_templates)
    cluster_of[n_clusters - n_merged :] = n_templates + np.arange(2 * n_merged) // 2
    ids, row_of = np.unique(cluster_of, return_inverse=True)
    channel_of = rng.integers(0, N_CHANNELS, len(ids))
    template = rng.integers(0, n_templates, n_spikes).astype(np.int32)
    times = rng.integers(0, 3600 * FS_HZ, n_spikes)
    times.sort()
    templates = rng.normal(0, 0.01, (n_templates, N_SAMPLES, N_CHANNELS)).astype(np.float32)
    templates[np.arange(n_templates), 20, channel_of[row_of]] = -1
    folder.mkdir(parents=True)
    np.save(folder / "spike_times.npy", times)
    np.save(folder / "spike_templates.npy", template)
    np.save(folder / "spike_clusters.npy", cluster_of[template].astype(np.int32))
    np.save(folder / "templates.npy", templates)
    np.save(folder / "channel_map.npy", np.arange(N_CHANNELS, dtype=np.int32))
    channels = np.arange(N_CHANNELS)
    positions = np.column_stack([16.0 * (channels % 4), 20.0 * (channels // 2)])
    np.save(folder / "channel_positions.npy", positions)
    (folder / "params.py").write_text(f"sample_rate = {float(FS_HZ)}\nn_channels_dat = {N_CHANNELS}\n")
    labels = "".join(f"{number}\t{('good', 'mua')[number % 2]}\n" for number in ids.tolist())
    (folder / "cluster_KSLabel.tsv").write_text("cluster_id\tKSLabel\n" + labels)
    (folder / "cluster_group.tsv").write_text("cluster_id\tgroup\n" + labels)
    return np.bincount(row_of[template], minlength=len(ids)), channel_of


def check_folder(folder: Path, n_spikes_of: NDArray[np.int64], channel_of: NDArray[np.int64]) -> None:
    """Raises:
    AssertionError: The reader's spikes or peak channels differ from those that were planted.
    """
    (population,) = SpikeInterfaceReader().read(folder, ReadOptions())
    assert population.spikes is not None
    np.testing.assert_array_equal(np.bincount(population.spikes.unit_index), n_spikes_of)
    np.testing.assert_array_equal(population.units["peak_channel"].astype(int), channel_of)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clusters", type=int, default=500)
    parser.add_argument("--spikes", type=int, default=18_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "kilosort"
        check_folder(folder, *make_folder(folder, arguments.clusters, arguments.spikes))
        wall, cpu, peak, read = [], [], [], []
        for repeat in range(arguments.repeats):
            out = Path(scratch) / f"out{repeat}"
            began = time.perf_counter()
            report = _run(_PREPROCESS, folder, out)
            wall.append(time.perf_counter() - began)
            cpu.append(report["cpu_s"])
            peak.append(report["peak_mb"])
            read.append(_run(_READ, folder)["read_s"])
            for file in out.iterdir():
                file.unlink()
        result = {
            "benchmark": "phy",
            "clusters": arguments.clusters,
            "spikes": arguments.spikes,
            "channels": N_CHANNELS,
            "source_mb": sum(file.stat().st_size for file in folder.iterdir()) / 1e6,
            "repeats": arguments.repeats,
            "wall_s": asdict(Quantiles.of(wall)),
            "cpu_s": asdict(Quantiles.of(cpu)),
            "read_s": asdict(Quantiles.of(read)),
            "peak_memory_mb": asdict(Quantiles.of(peak)),
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
        (arguments.out / "phy.json").write_text(text + "\n")
        (arguments.out / "phy.md").write_text(_report(result))


def _run(code: str, *paths: Path) -> dict[str, float]:
    """Run code in a fresh process; the JSON object it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, paths)], check=True, capture_output=True, text=True
    )
    report: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return report


def _report(result: dict[str, Any]) -> str:
    rows = {
        "preprocess, whole process, s": result["wall_s"],
        "preprocess, processor time, s": result["cpu_s"],
        "reading alone, s": result["read_s"],
        "peak memory, MB": result["peak_memory_mb"],
    }
    hardware, versions = result["machine"], result["versions"]
    return "\n".join(
        [
            "# Preprocessing one Kilosort folder",
            "",
            f"A curated phy folder of {result['clusters']} clusters, one hour, {result['spikes']:,} spikes "
            f"and templates on {result['channels']} channels ({result['source_mb']:.0f} MB), read with peak "
            f"channels, checked, hashed and written as a session file; {result['repeats']} repeats.",
            "",
            *quantile_table(rows),
            "",
            f"Hardware: {hardware['processor']}, {hardware['cores']} cores, {hardware['platform']}, "
            f"load average {hardware['load_average']}. nuclr {versions['nuclr']} "
            f"(commit {result['commit']}), Python {versions['python']}, NumPy {versions['numpy']}.",
            "",
            "Made by `python benchmarks/phy.py --out benchmarks/results`.",
            "",
        ]
    )


if __name__ == "__main__":
    main()
