"""Thirty kills at random moments, also inside a checkpoint's write: the run ends as if there had been none.

The processes are forked from one that has imported everything, since a kill is of interest in training, not
in Python's start.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.numpy import load_file

KILLS = 30
STEPS = 120
TIME_METRICS = {"units_per_s", "tokens_per_s", "peak_memory_bytes", "wait_share", "step_s", "elapsed_s"}
CHANGES = {
    "train.steps": STEPS,
    "train.log_every": 1,
    "train.checkpoint_every": 2,
    "train.batch_windows": 3,
    "train.max_tokens": 1200,
    "model.dim": 16,
    "model.heads": 2,
    "model.head_dim": 8,
}


def train(data: Path, runs: Path, name: str) -> int:
    """Start or go on with a run, in a process of its own; returns its id."""
    child = os.fork()
    if child:
        return child
    try:
        from nuclr_cli.workflows.pretrain import PretrainConfig, pretrain

        changes = {key: str(value) for key, value in CHANGES.items()}
        pretrain(PretrainConfig(data, runs, name, "tiny", changes, gpus=0, resume=True))
        os._exit(0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def ended(child: int) -> int | None:
    """Exit status, None while it runs."""
    found, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def drive(data: Path, runs: Path) -> None:
    """Train a run in peace, and one that is killed again and again."""
    import torch  # noqa: F401
    from lightning_fabric import Fabric  # noqa: F401
    from tensorboardX import SummaryWriter  # noqa: F401

    import nuclr_cli.workflows.pretrain  # noqa: F401

    straight = train(data, runs, "straight")
    assert os.waitstatus_to_exitcode(os.waitpid(straight, 0)[1]) == 0
    draw = random.Random(0)
    checkpoints = runs / "killed" / "checkpoints"
    met = {"inside a write": 0, "elsewhere": 0}
    for kill in range(KILLS):
        child = train(data, runs, "killed")
        inside = kill % 2 == 0
        began = {path.name for path in checkpoints.glob("*")}
        moment = None
        while ended(child) is None:
            present = {path.name for path in checkpoints.glob("*")}
            writing = any(name.startswith(".writing") for name in present - began)
            if inside and writing:
                break
            if moment is None and present - began:
                moment = time.monotonic() + draw.uniform(0.0, 0.1)
            if not inside and moment is not None and time.monotonic() >= moment:
                break
        else:
            raise SystemExit(f"the run ended before kill {kill}: {met}")
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        unfinished = any(path.name.startswith(".writing") for path in checkpoints.glob(".*"))
        met["inside a write" if unfinished else "elsewhere"] += 1
    last = train(data, runs, "killed")
    assert os.waitstatus_to_exitcode(os.waitpid(last, 0)[1]) == 0
    print(json.dumps(met))


def rows(run: Path) -> list[dict[str, float]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIME_METRICS} for line in lines]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_thirty_kills_change_nothing(tiny_data: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, __file__, tiny_data, tmp_path],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    met = json.loads(done.stdout)
    assert sum(met.values()) == KILLS
    assert met["inside a write"] >= 5, met
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert rows(killed) == rows(straight)
    for name in ("model", "optimizer"):
        ours, theirs = (
            load_file(run / "checkpoints" / f"step-{STEPS:08d}" / f"{name}.safetensors")
            for run in (killed, straight)
        )
        assert ours.keys() == theirs.keys()
        assert all(ours[key].tobytes() == theirs[key].tobytes() for key in theirs)
    # The newest and the best, and what each says of itself, are those of the run in peace.
    states = [
        {path.parent.name: path.read_text() for path in (run / "checkpoints").glob("step-*/state.json")}
        for run in (killed, straight)
    ]
    assert states[0] == states[1]
    assert not list((killed / "checkpoints").glob(".*"))
    assert json.loads((killed / "run.json").read_text())["state"] == "finished"


if __name__ == "__main__":
    drive(Path(sys.argv[1]), Path(sys.argv[2]))
