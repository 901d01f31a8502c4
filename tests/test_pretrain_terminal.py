"""Training whose terminal is closed, or whose output nobody reads any more, loses nothing by it."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SMALL = (
    "--preset", "tiny", "--gpus", "0", "--set", "train.batch_windows=2", "--set", "model.dim=16",
    "--set", "model.heads=2", "--set", "model.head_dim=8", "--set", "train.checkpoint_every=50",
)  # fmt: skip


def command(data: Path, runs: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "nuclr_cli", "pretrain", str(data), "--runs", str(runs), *SMALL, *more]


def record(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "run.json").read_text())
    return found


def wait_for_steps(run: Path, process: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + 120
    while not (run / "metrics.jsonl").is_file() or not (run / "metrics.jsonl").read_text():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_help_names_what_stops_training_cleanly(nuclr: Callable[..., Any]) -> None:
    shown = " ".join(nuclr("pretrain", "--help").out.split())
    assert "Ctrl-C, SIGTERM and a closed terminal stop it cleanly" in shown


@pytest.mark.slow
@pytest.mark.parametrize("nohup", [False, True])
def test_a_closed_terminal_saves_and_stops_unless_it_is_not_to(
    tiny_data: Path, tmp_path: Path, nohup: bool
) -> None:
    here, there = pty.openpty()

    def own_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        if nohup:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    run = tmp_path / "r"
    process = subprocess.Popen(
        command(tiny_data, tmp_path, "--name", "r", "--steps", "60" if nohup else "100000"),
        stdin=there, stdout=there, stderr=there, start_new_session=True, preexec_fn=own_terminal,
    )  # fmt: skip
    os.close(there)
    wait_for_steps(run, process)
    os.close(here)  # from now on writing there is an error, and SIGHUP has been sent
    assert process.wait(60) == (0 if nohup else 143)
    assert record(run)["state"] == ("finished" if nohup else "stopped")
    step = record(run)["step"]
    assert step == 60 if nohup else step < 100000
    assert (run / "checkpoints" / f"step-{step:08d}" / "checksums.json").is_file()


@pytest.mark.slow
def test_output_that_nobody_reads_does_not_end_training(tiny_data: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        command(tiny_data, tmp_path, "--name", "r", "--steps", "60"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    process.stderr.readline()
    process.stderr.close()  # as `2> >(head -1)` does
    assert process.wait(120) == 0
    assert record(tmp_path / "r")["state"] == "finished"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_log_on_a_full_disk_does_not_end_training(tiny_data: Path, tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command(tiny_data, tmp_path, "--name", "r", "--steps", "3", "--json"),
            stdout=subprocess.PIPE,
            stderr=full,
            check=False,
            timeout=120,
        )
    assert done.returncode == 0
    assert json.loads(done.stdout)["steps"] == 3
