"""The batch file of docs/cluster.md in a real Slurm of one machine (`make test-slurm`)."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

PAGE = Path(__file__).parents[1] / "docs" / "cluster.md"

pytestmark = pytest.mark.skipif(
    "SLURM_CONF" not in os.environ, reason="no Slurm: see tests_slurm/slurm_here.sh"
)

SETTINGS = {
    "train.steps": 60,
    "train.batch_windows": 4,
    "train.max_tokens": 700,
    "train.checkpoint_every": 20,
    "train.log_every": 1,
    "train.precision": "fp64",
    "views.min_units": 5,
}
OPTIONS = " ".join(["--preset tiny --gpus 0", *(f"--set {key}={value}" for key, value in SETTINGS.items())])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from nuclr_cli.data.store import SourceRecord, write_population
    from nuclr_cli.testing.simulate import tiny_population

    folder = tmp_path_factory.mktemp("cohort") / "cohort"
    folder.mkdir()
    for i, n_units in enumerate((8, 16, 40)):
        population = tiny_population(
            i, n_units=n_units, minutes=1.0 + i, subject=f"s{i}", session=f"day{i}", silent_units=1
        )
        source = SourceRecord(path=f"tiny-{i}", reader="test", detected="made in memory")
        write_population(population, folder / f"s{i}.h5", source=source)
    return folder


def batch_file(name: str) -> str:
    """The block of the page that begins with a comment of that name, for this machine: no GPU, two tasks."""
    found = re.search(
        rf"```bash\n(#!/bin/bash\n#SBATCH --job-name={name}\n.*?)```", PAGE.read_text(), re.DOTALL
    )
    assert found, name
    text = re.sub(r"#SBATCH --(gpus-per-node|cpus-per-task|time|signal)=.*\n", "", found[1])
    text = re.sub(r"--ntasks-per-node=\d+", "--ntasks-per-node=2", text)
    assert "nuclr pretrain cohort" in text
    return text.replace("nuclr pretrain cohort", f"nuclr pretrain cohort {OPTIONS}")


def environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}


def said(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=240, env=environment(), check=False
    )
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout.strip()


def submit(text: str, cwd: Path) -> str:
    (cwd / "job.sbatch").write_text(text)
    return said("sbatch", "--parsable", "--output=job.log", "job.sbatch", cwd=cwd)


def ends(job: str, cwd: Path) -> str:
    """What Slurm says of the job when it has ended."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        shown = said("scontrol", "show", "job", job)
        state = re.search(r"JobState=(\w+)", shown)
        assert state
        if state[1] not in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING"):
            return shown
        time.sleep(0.5)
    raise AssertionError((shown, (cwd / "job.log").read_text()))


def rows(run: Path) -> list[dict[str, float]]:
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


@pytest.fixture(scope="module")
def alone(data: Path) -> Path:
    command = f"nuclr pretrain cohort --name alone {OPTIONS}"
    said("bash", "-c", command, cwd=data.parent)
    return data.parent / "nuclr-runs" / "alone"


def assert_same(run: Path, alone: Path) -> None:
    for ours, theirs in zip(rows(run), rows(alone), strict=True):
        assert ours["step"] == theirs["step"]
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-9)
    own, same = (
        load_file(one / "checkpoints" / "step-00000060" / "model.safetensors") for one in (run, alone)
    )
    for name, tensor in same.items():
        torch.testing.assert_close(own[name], tensor, rtol=1e-9, atol=1e-9)


def test_tasks_of_srun_train_as_one_process_does(data: Path, alone: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "cohort")
    job = submit(batch_file("one-node"), tmp_path)
    shown = ends(job, tmp_path)
    log = (tmp_path / "job.log").read_text()
    assert "JobState=COMPLETED" in shown, log
    assert "2 processes" in log
    assert_same(tmp_path / "nuclr-runs" / "week", alone)


def test_a_preempted_job_is_requeued_and_loses_nothing(data: Path, alone: Path, tmp_path: Path) -> None:
    """The signal that Slurm sends before time is up, sent by hand; the job goes on by the same command."""
    shutil.copytree(data, tmp_path / "cohort")
    run = tmp_path / "nuclr-runs" / "week"
    job = submit(batch_file("one-node"), tmp_path)
    deadline = time.monotonic() + 90
    while len(rows(run)) < 5:
        assert time.monotonic() < deadline, (tmp_path / "job.log").read_text()
        time.sleep(0.05)
    said("scancel", "--signal=USR1", f"{job}.0")
    shown = ends(job, tmp_path)
    log = (tmp_path / "job.log").read_text()
    assert "JobState=COMPLETED" in shown, log
    assert "Restarts=1" in shown
    assert log.count("Stopped by a signal after step") == 1
    assert "continuing run week at step" in log
    assert_same(run, alone)
