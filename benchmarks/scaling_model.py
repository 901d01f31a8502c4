"""Training on many GPUs, on paper: step time from operations, all-reduce and uneven shares.

    python benchmarks/scaling_model.py --measure --out benchmarks/results --page docs/scaling.md
    python benchmarks/scaling_model.py --page docs/scaling.md

No GPU is timed. Operations and bytes are counted from the model, shares are dealt by the code that deals
them, and speeds are assumptions, named in `Hardware`. ``--measure`` times two processes on this machine's CPU
too: a step, and the all-reduce of its gradients.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from nuclr_cli.data.pretrain_stream import deal_by_cost
from nuclr_cli.data.shares import window_cost
from nuclr_cli.model.config import Recompute
from nuclr_cli.model.flops import training_flops
from nuclr_cli.model.memory import step_memory
from nuclr_cli.workflows.presets import preset_settings

SETTINGS = preset_settings("ephys")
KEPT_UNITS = 0.75  # of a population in a view: uniform between a half and all
WINDOWS_AN_HOUR = 359


@cache
def gradient_bytes() -> int:
    """Of all parameters, float32."""
    from nuclr_cli.workflows.pair_model import initial_model

    return 4 * sum(parameter.numel() for parameter in initial_model(SETTINGS).parameters())


@dataclass(frozen=True)
class Hardware:
    """Assumed, not measured.

    Attributes:
        peak_flops: Dense bf16 products a second, of an H200 by its maker.
        utilisation: Share of it that a training step reaches.
        host_s: A micro-batch costs at least this: launching its kernels from Python.
        nvlink_bytes_s: What an all-reduce moves a second within a machine of 8 GPUs.
        network_bytes_s: The same between machines (400 Gbit/s a GPU).
        latency_s: Of each of the 2 log2(GPUs) rounds of an all-reduce.
        memory_bytes: Of a GPU.
    """

    peak_flops: float = 989e12
    utilisation: float = 0.2
    host_s: float = 0.01
    nvlink_bytes_s: float = 300e9
    network_bytes_s: float = 40e9
    latency_s: float = 15e-6
    memory_bytes: float = 139 * 2**30

    def compute_s(self, flops: float) -> float:
        return flops / (self.peak_flops * self.utilisation)

    def bandwidth(self, gpus: int) -> float:
        return self.nvlink_bytes_s if gpus <= 8 else self.network_bytes_s

    def all_reduce_s(self, n_bytes: float, gpus: int) -> float:
        """A ring's bytes and a tree's latency: the least that either needs."""
        if gpus == 1:
            return 0.0
        moved = 2 * n_bytes * (gpus - 1) / gpus
        return moved / self.bandwidth(gpus) + 2 * math.log2(gpus) * self.latency_s


H200 = Hardware()


def window_flops(units: int) -> int:
    """Operations of a training step on one window of a population of `units`."""
    view = max(round(KEPT_UNITS * units), 1)
    return training_flops(SETTINGS.model, SETTINGS.loss, "counts", [view, view])


def drawn_units(n: int, seed: int) -> list[int]:
    """Populations of `n` windows: log-normal about 100 units, as insertions and imaging planes mix."""
    sizes = np.random.default_rng(seed).lognormal(math.log(100), 0.7, n)
    return [max(round(size), 12) for size in sizes.tolist()]


@dataclass(frozen=True)
class Step:
    """A training step on paper.

    Attributes:
        gpus, windows: How many share how many windows.
        compute_s: Of the mean GPU.
        uneven_s: More, of the GPU with the costliest share.
        all_reduce_s: Of the gradients.
        efficiency: Windows a second a GPU, over those of one GPU alone with as many windows as each has here.
    """

    gpus: int
    windows: int
    compute_s: float
    uneven_s: float
    all_reduce_s: float
    efficiency: float

    @property
    def total_s(self) -> float:
        return self.compute_s + self.uneven_s + self.all_reduce_s


def step(gpus: int, windows: int, hardware: Hardware = H200, draws: int = 20) -> Step:
    """Mean over some global batches, dealt as training deals them."""
    mean_s, worst_s = [], []
    patches = SETTINGS.model.counts_patches
    for seed in range(draws if gpus * windows < 10_000 else 3):
        units = drawn_units(windows, seed)
        hands = deal_by_cost([window_cost(n, patches) for n in units], gpus)
        times = []
        for hand in hands:
            tokens = sum(2 * KEPT_UNITS * units[place] * patches for place in hand)
            micro = math.ceil(tokens / SETTINGS.train.max_tokens)
            compute = hardware.compute_s(sum(window_flops(units[place]) for place in hand))
            times.append(max(compute, micro * hardware.host_s))
        mean_s.append(statistics.fmean(times))
        worst_s.append(max(times))
    compute, worst = statistics.fmean(mean_s), statistics.fmean(worst_s)
    reduce_s = hardware.all_reduce_s(gradient_bytes(), gpus)
    return Step(gpus, windows, compute, worst - compute, reduce_s, compute / (worst + reduce_s))


def strong() -> list[str]:
    """The reference's batch of 128 windows on more and more GPUs."""
    one = step(1, 128)
    lines = _head(
        "GPUs", "windows a GPU", "step, ms", "of it uneven", "all-reduce", "times faster", "of linear"
    )
    for gpus in (1, 2, 4, 8, 16, 32, 64, 128):
        s = step(gpus, 128)
        faster = one.total_s / s.total_s
        lines.append(
            f"| {gpus} | {128 / gpus:g} | {1e3 * s.total_s:.1f} | {1e3 * s.uneven_s:.1f} | "
            f"{1e3 * s.all_reduce_s:.2f} | {faster:.1f} | {faster / gpus:.0%} |"
        )
    return lines


def weak() -> list[str]:
    """As many windows for each GPU, however many there are."""
    lines = _head(
        "GPUs", "32 windows a GPU: step, ms", "of linear", "128 windows a GPU: step, ms", "of linear"
    )
    for gpus in (1, 8, 64, 256, 1024):
        few, many = step(gpus, 32 * gpus), step(gpus, 128 * gpus)
        lines.append(
            f"| {gpus:,} | {1e3 * few.total_s:.1f} | {few.efficiency:.0%} | {1e3 * many.total_s:.1f} | "
            f"{many.efficiency:.0%} |"
        )
    return lines


def animals() -> list[str]:
    """Hours for 50 passes over one hour of each animal."""
    gpus = (1, 8, 64, 1024)
    lines = _head("animals", "windows a pass", *(f"{n:,} GPU{'s' if n > 1 else ''}" for n in gpus))
    for n_animals in (1, 10, 100, 1_000, 10_000):
        windows = n_animals * WINDOWS_AN_HOUR
        cells = []
        for n in gpus:
            # Batches grow with the GPUs up to a hundredth of a pass, but not below the reference's.
            batch = min(max(128, windows // 100), 128 * n)
            s = step(min(n, batch), batch)
            hours = 50 * windows / batch * s.total_s / 3600
            cells.append(f"{hours:.2g} h" if hours >= 0.1 else f"{60 * hours:.2g} min")
        lines.append(f"| {n_animals:,} | {windows:,} | {' | '.join(cells)} |")
    return lines


def one_window() -> list[str]:
    """One window of one population: a training step, by the processes that share it."""
    lines = _head(
        *(
            "units",
            "processes",
            "`recompute`",
            "memory each, GB",
            "fits",
            "encoder, s",
            "gathering, s",
            "loss, s",
        )
    )
    inner = SETTINGS.model.heads * SETTINGS.model.head_dim
    for units in (1_000, 10_000, 100_000, 1_000_000):
        for processes, way in ((1, "none"), (1, "layers"), (8, "layers"), (64, "layers")):
            recompute: Recompute = "layers" if way == "layers" else "none"
            of_views = round(2 * KEPT_UNITS * units)
            if units < 10_000 and processes > 1:
                continue
            memory = step_memory(SETTINGS.model, of_views, recompute, processes=processes)
            # Keys and values of both views, forward, again where recomputed, and their gradients.
            moved = SETTINGS.model.spatiotemporal_layers * 3 * of_views * 10 * 2 * inner * 2
            gather_s = 0.0 if processes == 1 else moved / H200.bandwidth(processes)
            compute_s = H200.compute_s(window_flops(units)) / processes
            # Three matrices of similarities: forward, and again with two gradients backward; on every one.
            loss_s = H200.compute_s(12 * 2 * (KEPT_UNITS * units) ** 2 * SETTINGS.model.dim)
            fits = memory.total < 0.8 * H200.memory_bytes
            lines.append(
                f"| {units:,} | {processes} | {way} | {memory.total / 1e9:,.1f} | "
                f"{'yes' if fits else 'no'} | {compute_s:.2g} | {gather_s:.2g} | {loss_s:.2g} |"
            )
    return lines


TABLES = {"strong": strong, "weak": weak, "animals": animals, "one-window": one_window}


def _head(*names: str) -> list[str]:
    return [f"| {' | '.join(names)} |", "|" + "--|" * len(names)]


def rendered(page: str) -> str:
    """The page with its tables made again."""
    for name, table in TABLES.items():
        begin, end = f"<!-- table: {name} -->\n", f"<!-- end: {name} -->"
        before, found, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        if not (found and closed):
            raise SystemExit(f"the page has no place for the table {name!r}")
        page = "".join([before, begin, "\n".join(table()), "\n", end, after])
    return page


def timed_all_reduce(repeats: int = 15) -> float:
    """Seconds of an all-reduce of the gradients' size between the processes of this group; median."""
    import torch
    import torch.distributed as dist

    flat = torch.zeros(gradient_bytes() // 4)
    times = []
    for _ in range(repeats):
        dist.barrier()
        began = time.perf_counter()
        dist.all_reduce(flat)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def timed_step(repeats: int = 5) -> float:
    """Seconds of forward and backward pass on 4 windows of 40 units, one thread; median."""
    import torch

    from nuclr_cli.data.batch import PackedViews, PairBatch
    from nuclr_cli.workflows.pair_model import initial_model

    units = torch.full((4,), 30)
    ids = torch.arange(30).repeat(4)
    side = [PackedViews("spikes", torch.rand(120, 10, 50), ids, units) for _ in range(2)]
    batch = PairBatch(side[0], side[1], 120, side[0].n_tokens * 2)
    model = initial_model(SETTINGS)
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        model(model.prepare(batch, "cpu"), 120)[0].backward()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def check_process() -> None:
    """One of two processes: a step alone in time, the all-reduce, and both one after the other."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found = {"step_s": timed_step(), "all_reduce_s": timed_all_reduce()}
    if dist.get_rank() == 0:
        sys.stdout.write(json.dumps(found) + "\n")
    dist.destroy_process_group()


def measured() -> dict[str, float]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*command, __file__, "--check"], capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return {**found, "said": 2 * found["step_s"] / (found["step_s"] + found["all_reduce_s"])}


def report(record: dict[str, Any]) -> str:
    lines = ["# Training on many GPUs, on paper", "", f"`{record['command']}`", ""]
    check = record.get("check")
    if check:
        megabytes, said = gradient_bytes() / 1e6, check["said"]
        lines += [
            "Two processes on this CPU (gloo, one thread each, preset `ephys`, 4 windows of 40 units each):",
            f"a step takes {1e3 * check['step_s']:.0f} ms, the all-reduce of {megabytes:.0f} MB of gradients",
            f"{1e3 * check['all_reduce_s']:.0f} ms, so they should do {said:.2f} times the windows of one.",
            "",
        ]
    lines += [f"Assumed: {json.dumps(record['hardware'])}", ""]
    for name, table in record["tables"].items():
        lines += [f"## {name}", "", *table, ""]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--page", type=Path, help="page whose tables are made again")
    parser.add_argument("--measure", action="store_true", help="time two processes on this CPU too")
    parser.add_argument("--check", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.check:
        check_process()
        return
    from measuring import commit, machine, write_result

    import nuclr_cli

    record: dict[str, Any] = {
        "command": " ".join(["python benchmarks/scaling_model.py", *sys.argv[1:]]),
        "hardware": asdict(H200),
        "check": measured() if given.measure else None,
        "tables": {name: table() for name, table in TABLES.items()},
        "machine": machine(),
        "versions": {"nuclr": nuclr_cli.__version__, "python": platform.python_version()},
        "commit": commit(),
    }
    text = report(record)
    print(text)
    if given.out is not None:
        write_result(given.out, "scaling_model", record, text)
    if given.page is not None:
        given.page.write_text(rendered(given.page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
