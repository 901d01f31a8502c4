"""Memory of a training step by the size of the population: measured, beside what the memory model says.

    python benchmarks/population_memory.py --out benchmarks/results
    python benchmarks/population_memory.py --small

One window of the preset `ephys` (float32 on a CPU, both views with all units, one thread), one forward and
backward pass and the optimiser's step, in processes of their own; with each way of forgetting, and with two
processes that share the window's units. Measured is how far the resident memory of a process rises above
where it stood with the model and the data loaded; said is `nuclr_cli.model.memory.step_memory`.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from measuring import commit, machine, write_result

import nuclr_cli
from nuclr_cli.data.batch import PackedViews, PairBatch
from nuclr_cli.model.config import Recompute
from nuclr_cli.model.memory import step_memory
from nuclr_cli.workflows.config import replace_keys
from nuclr_cli.workflows.pair_model import PairModel, parameter_groups
from nuclr_cli.workflows.presets import PretrainSettings, preset_settings
from nuclr_cli.workflows.window_groups import WindowGroup

CASES: tuple[tuple[Recompute, int, tuple[int, ...]], ...] = (
    ("none", 1, (250, 500, 1000)),
    ("ffn", 1, (500, 1000, 2000)),
    ("layers", 1, (500, 1000, 2000, 4000)),
    ("none", 2, (500, 1000)),
    ("layers", 2, (2000, 4000)),
)
SMALL: tuple[tuple[Recompute, int, tuple[int, ...]], ...] = (("layers", 1, (100,)), ("layers", 2, (100,)))


@dataclass(frozen=True)
class Result:
    """One step.

    Attributes:
        recompute: What was forgotten.
        processes: That shared the window.
        units: Of the population.
        measured_mb: Rise of the resident memory of the process with the most, MB (1e6 bytes).
        said_mb: Of the model, weights aside.
    """

    recompute: str
    processes: int
    units: int
    measured_mb: float
    said_mb: float


def settings_of(recompute: Recompute) -> PretrainSettings:
    return replace_keys(preset_settings("ephys"), {"train.recompute": recompute})


def step(recompute: Recompute, units: int, processes: int) -> int:
    """Bytes by which one step raises the memory of this process."""
    torch.manual_seed(0)
    group = WindowGroup()
    if processes > 1:
        torch.distributed.init_process_group("gloo")
        group = WindowGroup(member=torch.distributed.get_rank(), of=processes)
    settings = settings_of(recompute)
    model = PairModel(settings)
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.01), lr=1e-4)
    for parameter in model.parameters():  # gradients and moments are there before the step
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    sides = []
    for _ in range(2):
        inputs = torch.rand(units, settings.model.counts_patches, settings.model.counts_samples)
        sides.append(PackedViews("spikes", inputs, torch.arange(units), torch.tensor([units])))
    batch = PairBatch(sides[0], sides[1], units, sides[0].n_tokens + sides[1].n_tokens)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    total, *_ = model(model.prepare(batch, "cpu", group), units)
    total.backward()
    optimizer.step()
    rise = resident("VmHWM") - before
    if processes > 1:
        torch.distributed.destroy_process_group()
    return rise


def resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def measure(recompute: Recompute, processes: int, units: int) -> Result:
    own = [__file__, "--step", recompute, str(units), str(processes)]
    if processes > 1:
        own = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), *own]
    done = subprocess.run([sys.executable, *own], capture_output=True, text=True, check=True)
    rises = [json.loads(line) for line in done.stdout.splitlines()]
    model = settings_of(recompute).model
    said = step_memory(model, 2 * units, recompute, processes=processes, element=4, mask=4)
    return Result(recompute, processes, units, max(rises) / 1e6, (said.total - said.state) / 1e6)


def report(record: dict[str, Any], results: list[Result]) -> str:
    lines = [
        "# Memory of a training step by population",
        "",
        f"`{record['command']}`",
        "",
        "One window, preset `ephys`, float32 on a CPU, all units in both views: how far the resident memory",
        "of a process rises in one step, weights and optimiser aside, and what `step_memory` says.",
        "",
        "| `train.recompute` | processes | units | measured, MB | said, MB | measured / said | KB a unit |",
        "|--|--|--|--|--|--|--|",
    ]
    lines += [
        f"| `{r.recompute}` | {r.processes} | {r.units:,} | {r.measured_mb:,.0f} | {r.said_mb:,.0f} | "
        f"{r.measured_mb / r.said_mb:.2f} | {1e3 * r.measured_mb / r.units:,.0f} |"
        for r in results
    ]
    facts, versions = record["machine"], record["versions"]
    lines += [
        "",
        f"Hardware: {facts['processor']}, {facts['cores']} cores, {facts['platform']}. torch "
        f"{versions['torch']}, nuclr {versions['nuclr']} (commit {record['commit']}), Python "
        f"{versions['python']}.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--small", action="store_true", help="seconds, to see that it runs")
    parser.add_argument("--step", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.step:
        recompute, units, processes = arguments.step
        # One write a line, so that processes do not mix theirs.
        sys.stdout.write(f"{step(recompute, int(units), int(processes))}\n")
        return
    results = [
        measure(recompute, processes, units)
        for recompute, processes, sizes in (SMALL if arguments.small else CASES)
        for units in sizes
    ]
    record = {
        "command": " ".join(["python benchmarks/population_memory.py", *sys.argv[1:]]),
        "results": [asdict(result) for result in results],
        "machine": machine(),
        "versions": {
            "torch": torch.__version__,
            "nuclr": nuclr_cli.__version__,
            "python": platform.python_version(),
        },
        "commit": commit(),
    }
    text = report(record, results)
    print(text)
    if arguments.out is not None:
        write_result(arguments.out, "population_memory", record, text)


if __name__ == "__main__":
    main()
