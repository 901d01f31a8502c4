"""What `nuclr pretrain` adds to a bare training loop, what a checkpoint costs, and two processes against one.

    python benchmarks/training_loop.py [--repeats 5] [--out benchmarks/results]
    python benchmarks/training_loop.py --small

The loop: the same model (preset `ephys`), the same batches drawn before, in turn: the trainer, with Fabric,
metrics.jsonl, TensorBoard files, counters, checks of the loss and a checkpoint at its end; and the lines that
a user would write without, with `torch.save` at their end. Read the ratio.

The checkpoint: model and optimiser of the preset, with checksums and flushed to the disk, and `torch.save`.

Two processes: `torchrun` with gloo on this machine's cores, one thread each, twice the windows for two.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from measuring import Quantiles, commit, machine, quantile_table, write_result

import nuclr_cli
from nuclr_cli.data.pretrain_stream import PretrainStream, StepBatch
from nuclr_cli.data.sessions import open_sessions
from nuclr_cli.data.store import SourceRecord, write_population
from nuclr_cli.testing.simulate import tiny_population
from nuclr_cli.workflows.checkpoints import optimizer_tensors, save_checkpoint
from nuclr_cli.workflows.devices import choose_device
from nuclr_cli.workflows.freed_memory import keep_freed_memory
from nuclr_cli.workflows.pair_model import PairModel, initial_model, learning_rate_at, parameter_groups
from nuclr_cli.workflows.presets import preset_settings
from nuclr_cli.workflows.pretrain_sessions import session_roles, training_parts
from nuclr_cli.workflows.reporting import SilentReporter
from nuclr_cli.workflows.runs import create_run
from nuclr_cli.workflows.trainer import Trainer

WINDOWS, UNITS = 4, 40


def make_data(folder: Path, minutes: float = 4.0) -> Path:
    folder.mkdir(parents=True)
    for i in range(4):
        population = tiny_population(i, n_units=UNITS, minutes=minutes, subject=f"s{i}", session="day")
        write_population(population, folder / f"s{i}.h5", source=SourceRecord("simulated", "benchmark", ""))
    return folder


def bare_loop(model: PairModel, batches: Sequence[StepBatch], place: Path, settings: Any) -> None:
    """What one would write for one device."""
    train = settings.train
    optimizer = torch.optim.AdamW(parameter_groups(model, train.weight_decay), lr=train.learning_rate)
    model.train()
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, train.learning_rate, 10, train.steps)
        optimizer.zero_grad(set_to_none=True)
        for micro in batch.micro:
            total, *_ = model(model.prepare(micro, "cpu"), batch.n_pairs)
            total.backward()
        for part in (model.encoder, model.loss):
            torch.nn.utils.clip_grad_norm_(part.parameters(), train.grad_clip)
        optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, place)


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def loops(scratch: Path, steps: int, repeats: int) -> dict[str, Any]:
    """Seconds of both loops, by turns."""
    settings = preset_settings("ephys")
    train = dataclasses.replace(
        settings.train, steps=steps, batch_windows=WINDOWS, checkpoint_every=10 * steps, precision="fp32"
    )
    settings = dataclasses.replace(settings, train=train)
    data = make_data(scratch / "nuclr-data")
    sessions = open_sessions(data)
    roles = session_roles(sessions, settings, ())
    stream = PretrainStream(
        training_parts(sessions, settings),
        settings.tokens,
        seed=0,
        batch_windows=WINDOWS,
        max_tokens=train.max_tokens,
    )
    batches = list(itertools.islice(iter(stream), steps))
    model = initial_model(settings)
    device = choose_device(0)

    def ours(number: int) -> float:
        run = create_run(scratch / "runs", f"r{number}", settings, data, roles)
        trainer = Trainer(
            run, copy.deepcopy(model), device, None, SilentReporter(), [str(s.key) for s in sessions]
        )
        return timed(lambda: trainer.fit(iter(batches), 10))

    def bare(number: int) -> float:
        own = copy.deepcopy(model)
        return timed(lambda: bare_loop(own, batches, scratch / f"bare{number}.pt", settings))

    ours(-1), bare(-1)
    pairs = []
    for number in range(repeats):
        first, second = (ours, bare) if number % 2 else (bare, ours)
        times = {first: first(number), second: second(number)}
        pairs.append((times[ours], times[bare]))
    return {
        "steps": steps,
        "trainer_ms": dataclasses.asdict(Quantiles.of([a / steps * 1e3 for a, _ in pairs])),
        "bare_ms": dataclasses.asdict(Quantiles.of([b / steps * 1e3 for _, b in pairs])),
        "ratio": dataclasses.asdict(Quantiles.of([a / b for a, b in pairs])),
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def checkpoints(scratch: Path, repeats: int) -> dict[str, Any]:
    """Seconds to write a checkpoint of the preset, beside `torch.save` without a flush."""
    settings = preset_settings("ephys")
    model = initial_model(settings)
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.01), lr=1e-4)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    ours, plain = [], []
    for number in range(repeats + 1):
        tensors = optimizer_tensors(optimizer, names)
        ours.append(
            timed(
                lambda n=number, t=tensors: save_checkpoint(  # type: ignore[misc]
                    scratch / "checkpoints", n, model.state_dict(), t, {"stream": {}}, 3
                )
            )
        )
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        plain.append(timed(lambda s=state, n=number: torch.save(s, scratch / f"{n}.pt")))  # type: ignore[misc]
    newest = max((scratch / "checkpoints").glob("step-*"))
    return {
        "megabytes": sum(path.stat().st_size for path in newest.iterdir()) / 1e6,
        "checkpoint_ms": dataclasses.asdict(Quantiles.of([value * 1e3 for value in ours[1:]])),
        "torch_save_ms": dataclasses.asdict(Quantiles.of([value * 1e3 for value in plain[1:]])),
    }


def processes(scratch: Path, steps: int, repeats: int) -> dict[str, Any]:
    """Windows a second of one process and of two, each with as many windows a step."""
    data = make_data(scratch / "two" / "nuclr-data", minutes=2.0)
    speeds: dict[int, list[float]] = {1: [], 2: []}
    for number in range(repeats):
        for ranks in (1, 2) if number % 2 else (2, 1):
            name = f"p{ranks}-{number}"
            command = [
                sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--standalone",
                "-m", "--", "nuclr_cli", "pretrain", str(data), "--runs", str(scratch / "two" / "runs"),
                "--name", name, "--preset", "tiny", "--gpus", "0", "--quiet",
                "--set", f"train.steps={steps}", "--set", f"train.batch_windows={16 * ranks}",
                "--set", "train.log_every=5", "--set", "model.dim=128", "--set", "model.head_dim=32",
            ]  # fmt: skip
            subprocess.run(
                command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
            )
            lines = (scratch / "two" / "runs" / name / "metrics.jsonl").read_text().splitlines()
            step_s = statistics.median(json.loads(line)["step_s"] for line in lines[1:])
            speeds[ranks].append(16 * ranks / step_s)
    return {
        "one": dataclasses.asdict(Quantiles.of(speeds[1])),
        "two": dataclasses.asdict(Quantiles.of(speeds[2])),
        "ratio": dataclasses.asdict(
            Quantiles.of([two / one for one, two in zip(speeds[1], speeds[2], strict=True)])
        ),
    }


def report(record: dict[str, Any]) -> str:
    loop, written, two = record["loop"], record["checkpoint"], record["processes"]
    one_step = loop["trainer_ms"]["median"]
    share = written["checkpoint_ms"]["median"] / (500 * one_step)
    lines = [
        "# The training loop, its checkpoints, and two processes",
        "",
        f"`{record['command']}`",
        "",
        f"Preset `ephys`, {loop['parameters'] / 1e6:.1f} M parameters, {WINDOWS} windows of {UNITS} units a "
        f"step, {loop['steps']} steps, {record['threads']} threads.",
        "",
        *quantile_table(
            {
                "trainer, ms a step": loop["trainer_ms"],
                "bare loop, ms a step": loop["bare_ms"],
                "trainer / bare loop": loop["ratio"],
            }
        ),
        "",
        f"A checkpoint of {written['megabytes']:.0f} MB, with checksums and flushed to the disk; "
        "`torch.save` flushes nothing.",
        "",
        *quantile_table(
            {
                "checkpoint, ms": written["checkpoint_ms"],
                "torch.save, ms": written["torch_save_ms"],
            }
        ),
        "",
        f"Written every 500 steps (the default) that is {share:.2%} of the time at the step above, and "
        f"{written['checkpoint_ms']['median'] / (500 * 100):.2%} at 100 ms a step. Training waits for it.",
        "",
        "Two processes with twice the windows, windows a second (gloo, one thread each, model 128 wide):",
        "",
        *quantile_table(
            {"one process": two["one"], "two processes": two["two"], "two / one (2 is perfect)": two["ratio"]}
        ),
        "",
        f"Hardware: {record['machine']['processor']}, {record['machine']['cores']} cores, "
        f"{record['machine']['platform']}, load {record['machine']['load_average']} before. torch "
        f"{record['versions']['torch']}, nuclr {record['versions']['nuclr']} (commit {record['commit']}), "
        f"Python {record['versions']['python']}.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="too short to judge")
    parser.add_argument("--out", type=Path, help="folder for the results; without it they are only printed")
    options = parser.parse_args()
    keep_freed_memory()
    torch.manual_seed(0)
    repeats, steps = (1, 2) if options.small else (options.repeats, 20)
    record: dict[str, Any] = {
        "benchmark": "training_loop",
        "command": f"python benchmarks/training_loop.py --repeats {repeats}"
        + (" --small" if options.small else "")
        + ("" if options.out is None else f" --out {options.out}"),
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "versions": {
            "nuclr": nuclr_cli.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        "commit": commit(),
    }
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        record["loop"] = loops(scratch, steps, repeats)
        record["checkpoint"] = checkpoints(scratch, repeats)
        record["processes"] = processes(scratch, 15 if options.small else 60, repeats)
    text = report(record)
    print(text)
    if options.out is not None:
        write_result(options.out, "training_loop", record, text)


if __name__ == "__main__":
    main()
