"""Runs of several processes under torchrun, and what has to be the same in them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SETTINGS = {
    "train.steps": 20,
    "train.batch_windows": 4,
    "train.max_tokens": 700,
    "train.checkpoint_every": 5,
    "train.log_every": 1,
    "train.precision": "fp64",
    "views.min_units": 5,
}


def pretrain(data: Path, name: str, *more: object, **changes: object) -> list[str]:
    settings = [f"--set={key}={value}" for key, value in {**SETTINGS, **changes}.items()]
    command = ["pretrain", data, "--preset", "tiny", "--name", name, "--gpus", 0, *settings, *more]
    return [str(word) for word in command]


def torchrun(ranks: int, *options: object) -> list[str]:
    rendezvous = options or ("--standalone",)
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", ranks, *rendezvous]
    # Without the dashes torchrun would take --run of ours for one of its own.
    return [str(word) for word in (*words, "-m", "--", "nuclr_cli")]


def environment() -> dict[str, str]:
    # Launchers that share a store keep the addresses of processes that have died (docs/cluster.md).
    fresh = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    return {**os.environ, **fresh, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def finished(command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, env=environment())


@contextmanager
def started(command: list[str], cwd: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        for pipe in (process.stdout, process.stderr):  # workers of a launcher may hold the other ends
            if pipe is not None:
                pipe.close()
        process.wait()


def rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights(run: Path) -> dict[str, torch.Tensor]:
    newest = max((run / "checkpoints").glob("step-*"))
    assert newest.name == "step-00000020"
    return load_file(newest / "model.safetensors")


def assert_same_run(found: Path, expected: Path) -> None:
    compared = (
        "step",
        "epoch",
        "loss",
        "loss_numerator",
        "loss_denominator",
        "grad_norm",
        "windows",
        "pairs",
    )
    for ours, theirs in zip(rows(found), rows(expected), strict=True):
        for key in compared:
            assert ours[key] == pytest.approx(theirs[key], rel=1e-9, abs=1e-9), key
    own, same = weights(found), weights(expected)
    assert own.keys() == same.keys()
    for name, tensor in same.items():
        assert tensor.dtype == torch.float64
        torch.testing.assert_close(own[name], tensor, rtol=1e-9, atol=1e-9)


def children(process: int) -> list[int]:
    """Processes that `process` has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(after_name[1]) == process:
            found.append(int(stat.parent.name))
    return sorted(found)


def wait_for_step(run: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if (run / "metrics.jsonl").is_file() and any(row["step"] >= step for row in rows(run)):
            return
        time.sleep(0.05)
    raise AssertionError(f"{run} did not come to step {step}")
