"""A disk that is full, limited or read-only stops training with a message, and costs nothing but time."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from nuclr_cli.workflows.checkpoints import damage, steps_available
from nuclr_cli.workflows.metrics_log import TIME_METRICS

STEPS = 24
SETTINGS = (
    "--preset", "tiny", "--gpus", "0", "--steps", str(STEPS), "--set", "train.log_every=1",
    "--set", "train.checkpoint_every=4", "--set", "train.batch_windows=3", "--set", "model.dim=16",
    "--set", "model.heads=2", "--set", "model.head_dim=8", "--set", "train.max_tokens=1200",
    "--set", "train.keep_checkpoints=100",
)  # fmt: skip


@pytest.fixture(scope="module")
def straight(forked: Any, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbs."""
    runs = tmp_path_factory.mktemp("undisturbed")
    done = forked("pretrain", tiny_data, "--runs", runs, "--name", "straight", *SETTINGS)
    assert done.code == 0, done.err
    return runs / "straight"


def resume(run: Path) -> tuple[object, ...]:
    return ("pretrain", "--runs", run.parent, "--name", run.name, "--resume", "--gpus", 0)


@pytest.fixture
def begun(straight: Path, tmp_path: Path) -> Path:
    """The same run as a kill after step 8 leaves it."""
    run = tmp_path / "runs" / "begun"
    shutil.copytree(straight, run)
    for step in steps_available(run / "checkpoints"):
        if step > 8:
            shutil.rmtree(run / "checkpoints" / f"step-{step:08d}")
    rows = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(rows[:8]))
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "name": "begun", "state": "running", "step": 8}))
    return run


def rows(run: Path) -> list[dict[str, float]]:
    """Rows of the metrics; fails when one is cut."""
    text = (run / "metrics.jsonl").read_text()
    assert text.endswith("\n")
    found = [json.loads(line) for line in text.splitlines()]
    return [{key: value for key, value in row.items() if key not in TIME_METRICS} for row in found]


def assert_stopped(done: Any, run: Path, what: str) -> None:
    """It said what and what to type, and left nothing half."""
    assert done.code == 3, done.err
    assert "Traceback" not in done.err
    assert "bug in nuclr" not in done.err
    error = done.err[done.err.index("error") :]
    assert what in error
    assert f"nuclr pretrain --resume --name {run.name} --runs {run.parent}" in error
    assert all(not damage(folder) for folder in (run / "checkpoints").glob("step-*"))
    assert not [path.name for path in run.rglob(".*") if path.name != ".lock"]
    json.loads((run / "run.json").read_text())


def assert_ends_like(forked: Any, run: Path, straight: Path) -> None:
    done = forked(*resume(run))
    assert done.code == 0, done.err
    assert rows(run) == rows(straight)
    for name in ("model", "optimizer"):
        ours, theirs = (
            load_file(one / "checkpoints" / f"step-{STEPS:08d}" / f"{name}.safetensors")
            for one in (run, straight)
        )
        assert ours.keys() == theirs.keys()
        assert all(ours[key].tobytes() == theirs[key].tobytes() for key in theirs)


def test_no_room_for_a_row_or_for_tensorboard(forked: Any, begun: Path, straight: Path) -> None:
    """The limit is met by TensorBoard's buffer, by the metrics, or by both, before the next checkpoint."""
    size = (begun / "metrics.jsonl").stat().st_size
    before = rows(begun)
    done = forked(*resume(begun), largest_file=size + 700)
    assert_stopped(done, begun, "metrics.jsonl: File too large")
    assert steps_available(begun / "checkpoints") == [4, 8]
    assert rows(begun) == rows(straight)[: len(rows(begun))]
    assert len(rows(begun)) == len(before) + 1  # a second one would go beyond the limit
    listed = forked("runs", "--runs", begun.parent)
    assert listed.code == 0, listed.err
    assert "killed" not in listed.out  # its own error ended it
    if sys.platform == "linux":
        assert " broken off " in listed.out
        assert f"to continue:\n  nuclr pretrain --resume --name begun --runs {begun.parent}\n" in listed.out
    assert_ends_like(forked, begun, straight)


def test_no_room_for_the_first_rows_or_the_state(forked: Any, begun: Path, straight: Path) -> None:
    """What a resumed run writes before its first step."""
    before = (begun / "metrics.jsonl").read_bytes()
    for largest, what in ((200, "run.json: File too large"), (3000, "metrics.jsonl: File too large")):
        done = forked(*resume(begun), largest_file=largest)
        assert_stopped(done, begun, what)
        assert (begun / "metrics.jsonl").read_bytes() == before
    assert_ends_like(forked, begun, straight)


def test_no_room_for_the_settings_leaves_no_run(forked: Any, tiny_data: Path, tmp_path: Path) -> None:
    done = forked("pretrain", tiny_data, "--runs", tmp_path, "--name", "r", *SETTINGS, largest_file=100)
    assert done.code == 3
    assert "Cannot make the run folder" in done.err
    assert "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == []


def test_training_goes_on_without_tensorboard(forked: Any, begun: Path, straight: Path) -> None:
    """A file is where its folder should be: said once, and every row is in metrics.jsonl."""
    shutil.rmtree(begun / "tensorboard")
    (begun / "tensorboard").write_text("mine")
    done = forked(*resume(begun))
    assert done.code == 0, done.err
    assert done.err.count("TensorBoard is left out from here on") == 1
    assert rows(begun) == rows(straight)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own of 320 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=320k", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"a file system can only be mounted by root: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True, capture_output=True)


@pytest.mark.skipif(shutil.which("mount") is None, reason="no mount command")
def test_a_disk_that_runs_full_and_one_that_is_read_only(
    forked: Any, small_disk: Path, tiny_data: Path, straight: Path
) -> None:
    run = small_disk / "r"
    done = forked("pretrain", tiny_data, "--runs", small_disk, "--name", "r", *SETTINGS)
    assert_stopped(done, run, "No space left on device")
    saved = steps_available(run / "checkpoints")
    assert saved, "not one checkpoint went onto the disk: this proves little"
    assert saved[-1] < STEPS
    assert rows(run) == rows(straight)[: len(rows(run))]

    again = forked(*resume(run))
    assert again.code == 3, again.err
    assert "No space left on device" in again.err
    assert steps_available(run / "checkpoints") == saved

    remount(small_disk, "ro")
    again = forked(*resume(run))
    assert_stopped(again, run, "Read-only file system")

    remount(small_disk, "rw,size=64m")
    assert_ends_like(forked, run, straight)
