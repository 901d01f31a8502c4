"""Time the NWB reader on one large file: 500 units, one hour, 18 million spikes, 144 MB.

Every repeat is a fresh process. `read` is the reader alone: every spike read, checked and sorted by time.
`preprocess` also checks, hashes and writes the session file. Before anything is timed, a file of the same
kind and a hundredth of the size is read unit by unit with pynwb, and must give the same spikes.

    python benchmarks/nwb.py --repeats 3 --out benchmarks/results
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from measuring import Quantiles, commit, machine, quantile_table

import nuclr_cli

SECONDS = 3600.0
_CHILD = """
import json, sys, time
from pathlib import Path
began = time.perf_counter()
if sys.argv[1] == "read":
    from nuclr_cli.api import ReadOptions
    from nuclr_nwb import NwbReader
    imported = time.perf_counter()
    (population,) = NwbReader().read(Path(sys.argv[2]), ReadOptions())
    assert len(population.spikes.times) == int(sys.argv[4])
else:
    from nuclr_cli.workflows.preprocess import PreprocessConfig, preprocess
    imported = time.perf_counter()
    preprocess(PreprocessConfig(sources=(Path(sys.argv[2]),), out=Path(sys.argv[3])))
ended = time.perf_counter()
# Not ru_maxrss: it starts with what the process that made this one had.
status = Path("/proc/self/status")
lines = status.read_text().splitlines() if status.exists() else []
peak = next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)
print(json.dumps({"work_s": ended - imported, "cpu_s": time.process_time(), "peak_mb": peak}))
"""


def make_file(path: Path, n_units: int, n_spikes: int) -> None:
    """Let pynwb write the file with one spike a unit, then put the spikes in: pynwb alone takes 44 s."""
    import pynwb

    nwb = pynwb.NWBFile("benchmark", "benchmark", datetime(2024, 1, 1, tzinfo=UTC))
    nwb.add_unit_column("cell_type", "type")
    for unit in range(n_units):
        nwb.add_unit(spike_times=[0.0], cell_type=("exc", "inh")[unit % 2])
    with pynwb.NWBHDF5IO(str(path), "w") as io:
        io.write(nwb)
    rng = np.random.default_rng(0)
    ends = np.sort(rng.integers(0, n_spikes, n_units))
    ends[-1] = n_spikes
    times = rng.uniform(0, SECONDS, n_spikes)
    begin = 0
    for end in ends.tolist():
        times[begin:end].sort()
        begin = end
    with h5py.File(path, "a") as file:
        for name, values in (("spike_times", times), ("spike_times_index", ends.astype(np.uint32))):
            attributes = dict(file["units"][name].attrs)
            del file["units"][name]
            file["units"][name] = values
            if "target" in attributes:
                attributes["target"] = file["units/spike_times"].ref
            file["units"][name].attrs.update(attributes)


def same_as_pynwb(path: Path) -> None:
    """Compare every spike train with the one that pynwb gives."""
    import pynwb

    from nuclr_cli.api import ReadOptions
    from nuclr_nwb import NwbReader

    (population,) = NwbReader().read(path, ReadOptions())
    assert population.spikes is not None
    nwb = pynwb.read_nwb(str(path))
    for row in range(population.n_units):
        ours = population.spikes.times[population.spikes.unit_index == row]
        np.testing.assert_array_equal(ours, np.asarray(nwb.units["spike_times"][row]))
    nwb.get_read_io().close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--units", type=int, default=500)
    parser.add_argument("--spikes", type=int, default=18_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        small, large = Path(scratch) / "small.nwb", Path(scratch) / "large.nwb"
        make_file(small, arguments.units, arguments.spikes // 100)
        same_as_pynwb(small)
        make_file(large, arguments.units, arguments.spikes)
        reports: dict[str, list[dict[str, float]]] = {"read": [], "preprocess": []}
        for repeat in range(arguments.repeats):
            for what, reported in reports.items():
                out = Path(scratch) / f"out{repeat}"
                done = subprocess.run(
                    [sys.executable, "-c", _CHILD, what, str(large), str(out), str(arguments.spikes)],
                    check=True,
                    capture_output=True,
                    text=True,
                )
                reported.append(json.loads(done.stdout.splitlines()[-1]))
        result: dict[str, Any] = {
            "benchmark": "nwb",
            "units": arguments.units,
            "spikes": arguments.spikes,
            "source_mb": large.stat().st_size / 1e6,
            "repeats": arguments.repeats,
            **{
                f"{what}_{key}": asdict(Quantiles.of([report[key] for report in reported]))
                for what, reported in reports.items()
                for key in ("work_s", "cpu_s", "peak_mb")
            },
            "machine": machine(),
            "versions": {
                "nuclr": nuclr_cli.__version__,
                "python": platform.python_version(),
                "numpy": np.__version__,
                "h5py": h5py.__version__,
            },
            "commit": commit(),
        }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "nwb.json").write_text(text + "\n")
        (arguments.out / "nwb.md").write_text(_report(result))


def _report(result: dict[str, Any]) -> str:
    rows = {
        "read, check and sort, s": result["read_work_s"],
        "the same, processor time with imports, s": result["read_cpu_s"],
        "read, check and sort, peak memory, MB": result["read_peak_mb"],
        "whole preprocess, s": result["preprocess_work_s"],
        "whole preprocess, processor time, s": result["preprocess_cpu_s"],
        "whole preprocess, peak memory, MB": result["preprocess_peak_mb"],
    }
    hardware, versions = result["machine"], result["versions"]
    return "\n".join(
        [
            "# Reading one NWB file",
            "",
            f"An HDF5 file of {result['units']} units, one hour and {result['spikes']:,} spikes "
            f"({result['source_mb']:.0f} MB), warm in the page cache; {result['repeats']} repeats. Spikes "
            "equal those that pynwb gives (compared on a hundredth of them). Times leave out the start of "
            "Python and imports.",
            "",
            *quantile_table(rows),
            "",
            f"Hardware: {hardware['processor']}, {hardware['cores']} cores, {hardware['platform']}, load "
            f"{hardware['load_average'] or 0:.1f}. nuclr {versions['nuclr']} (commit {result['commit']}), "
            f"Python {versions['python']}, NumPy {versions['numpy']}, h5py {versions['h5py']}.",
            "",
            "Made by `python benchmarks/nwb.py --out benchmarks/results`.",
            "",
        ]
    )


if __name__ == "__main__":
    main()
