"""What forgetting the activations of feed-forward layers saves, and what computing them again costs.

    python benchmarks/recompute.py --threads 2 --repeats 9 --out benchmarks/results

One training step of the `ephys` preset on the ragged batch of `train_step.py`, with each value of
``train.recompute``. Before anything is timed, loss and gradients are compared: they have to be equal to the
bit, dropout included. Three figures for each value: what a forward pass keeps for the backward pass (bytes of
all tensors that autograd saves, shared memory once, weights left out); the peak memory of a process that
takes three steps; and the time of a step, the values taking turns within a round.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from measuring import commit, machine, write_result
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from train_step import SAMPLES, SIZES, Batch, make_batch, make_step

import nuclr_cli
from nuclr_cli.model import DecoupledContrastiveLoss, Encoder, ModelConfig
from nuclr_cli.model.blocks import FeedForward, set_recompute
from nuclr_cli.workflows.freed_memory import keep_freed_memory

WAYS = ("none", "gates", "ffn")
CASE = "ragged 20-100"


@dataclass(frozen=True)
class Result:
    """One value of ``train.recompute``.

    Attributes:
        kept_mb: That the forward pass keeps, MB (1e6 bytes).
        kept_numbers: The same a token and width.
        peak_mb: Peak memory of a process of its own.
        step_s: Median of the wall-clock time of a step.
        ratio: Median over rounds of the step's time over that of ``none``.
        cpu_ratio: The same in processor time, which other programs disturb less.
    """

    way: str
    kept_mb: float
    kept_numbers: float
    peak_mb: int
    step_s: float
    ratio: float
    cpu_ratio: float


def loss_of(encoder: Encoder, batch: Batch) -> Tensor:
    torch.manual_seed(1)
    loss = DecoupledContrastiveLoss(encoder.config.dim)
    first, second = batch.units.chunk(2)
    n_first = int(first.sum())
    z = encoder(batch.inputs, batch.units)
    total: Tensor = loss(
        z[:n_first], z[n_first:], batch.ids[:n_first], batch.ids[n_first:], first, second
    ).total
    return total


def check_agreement(encoder: Encoder, batch: Batch) -> None:
    """Stop unless every value gives the same loss and gradients, to the bit."""
    parameters = list(encoder.parameters())
    found = []
    for way in WAYS:
        set_recompute(encoder, way)  # type: ignore[arg-type]
        total = loss_of(encoder, batch)
        found.append([total.detach(), *torch.autograd.grad(total, parameters)])
        for one, other in zip(found[0], found[-1], strict=True):
            if not torch.equal(one, other):
                raise SystemExit(f"train.recompute={way} gives other numbers")


def kept_bytes(encoder: Encoder, batch: Batch) -> int:
    """That the forward pass of the encoder keeps, weights left out."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in encoder.parameters()}
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        z = encoder(batch.inputs, batch.units)
    del z
    return sum(storages.values())


def peak_mb(way: str, threads: int, small: bool) -> int:
    """Peak memory of a process that takes three steps."""
    command = [sys.executable, __file__, "--threads", str(threads), "--peak-of", way]
    done = subprocess.run(
        [*command, *(["--small"] if small else [])], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def own_peak_mb(way: str, small: bool) -> int:
    encoder, batch = setting(small)
    set_recompute(encoder, way)  # type: ignore[arg-type]
    step = make_step(encoder, encoder, batch)
    for _ in range(3):
        step()
    status = Path("/proc/self/status").read_text()  # not ru_maxrss: a child inherits its parent's
    peak_kb = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return peak_kb * 1024 // 10**6


def setting(small: bool) -> tuple[Encoder, Batch]:
    torch.manual_seed(0)
    batch = make_batch(*((2, 5) if small else SIZES[CASE]), seed=1)
    return Encoder(ModelConfig()), batch


def compare(repeats: int, threads: int, small: bool) -> tuple[list[Result], Batch]:
    encoder, batch = setting(small)
    check_agreement(encoder, batch)
    kept: dict[str, int] = {}
    for way in WAYS:
        set_recompute(encoder, way)  # type: ignore[arg-type]
        kept[way] = kept_bytes(encoder, batch)
    step = make_step(encoder, encoder, batch)
    wall: dict[str, list[float]] = {way: [] for way in WAYS}
    cpu: dict[str, list[float]] = {way: [] for way in WAYS}
    for done in range(-1, repeats):
        for way in WAYS if done % 2 else reversed(WAYS):
            set_recompute(encoder, way)  # type: ignore[arg-type]
            wall_start, cpu_start = time.perf_counter(), time.process_time()
            step()
            if done >= 0:  # the first round warms up
                wall[way].append(time.perf_counter() - wall_start)
                cpu[way].append(time.process_time() - cpu_start)
    width = 4 * encoder.config.dim * int(batch.units.sum()) * batch.inputs.shape[1]
    return [
        Result(
            way,
            kept[way] / 1e6,
            kept[way] / width,
            peak_mb(way, threads, small),
            statistics.median(wall[way]),
            _ratio(wall[way], wall["none"]),
            _ratio(cpu[way], cpu["none"]),
        )
        for way in WAYS
    ], batch


def _ratio(above: list[float], below: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def report(record: dict[str, Any], results: list[Result]) -> str:
    none = results[0]
    lines = [
        "# Forgetting the activations of feed-forward layers",
        "",
        f"`{record['command']}`",
        "",
        f"One training step of the `ephys` preset on a CPU: {SAMPLES} windows x 2 views, {record['units']}",
        f"units x {record['patches']} patches, {record['layers']} feed-forward layers, float32, dropout on.",
        "Loss and gradients are equal to the bit with every value (checked first). *Kept*: what the forward",
        "pass of the encoder keeps for the backward pass; a number a token and width is 4 bytes x 256 x",
        "tokens. *Peak*: of a process that takes three steps, model and optimiser included. Times: medians",
        f"over {record['repeats']} rounds, values in turn; ratio to `none` within a round.",
        "",
        "| `train.recompute` | kept, MB | a token and width | saved | peak, MB | step, s | ratio "
        "| ratio, processor time |",
        "|--|--|--|--|--|--|--|--|",
    ]
    for result in results:
        saved = 1 - result.kept_mb / none.kept_mb
        lines.append(
            f"| `{result.way}` | {result.kept_mb:.0f} | {result.kept_numbers:.1f} | {saved:.0%} | "
            f"{result.peak_mb} | {result.step_s:.2f} | {result.ratio:.3f} | {result.cpu_ratio:.3f} |"
        )
    facts, versions = record["machine"], record["versions"]
    lines += [
        "",
        f"Hardware: {facts['processor']}, {facts['cores']} cores, {record['threads']} threads, "
        f"{facts['platform']}. torch {versions['torch']}, nuclr {versions['nuclr']} (commit "
        f"{record['commit']}), Python {versions['python']}. Load average {record['load'][0]:.1f} before, "
        f"{record['load'][1]:.1f} after, its own included.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--small", action="store_true", help="a few units, to show that it runs")
    parser.add_argument("--out", type=Path, help="folder for the results; without it they are only printed")
    parser.add_argument("--peak-of", choices=WAYS, help="print the peak memory of steps in this process")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    if arguments.peak_of is not None:
        print(own_peak_mb(arguments.peak_of, arguments.small))
        return
    load_before = os.getloadavg()[0]
    repeats = 1 if arguments.small else arguments.repeats
    results, batch = compare(repeats, arguments.threads, arguments.small)
    layers = sum(isinstance(module, FeedForward) for module in Encoder(ModelConfig()).modules())
    record: dict[str, Any] = {
        "benchmark": "recompute",
        "command": f"python benchmarks/recompute.py --threads {arguments.threads} --repeats {repeats}"
        + (" --small" if arguments.small else "")
        + ("" if arguments.out is None else f" --out {arguments.out}"),
        "units": int(batch.units.sum()),
        "patches": batch.inputs.shape[1],
        "layers": layers,
        "repeats": repeats,
        "threads": arguments.threads,
        "results": [asdict(result) for result in results],
        "load": [load_before, os.getloadavg()[0]],
        "machine": machine(),
        "versions": {
            "nuclr": nuclr_cli.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        "commit": commit(),
    }
    text = report(record, results)
    print(text)
    if arguments.out is not None:
        write_result(arguments.out, "recompute", record, text)


if __name__ == "__main__":
    main()
