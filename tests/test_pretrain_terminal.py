"""Training whose terminal is closed, or whose output nobody reads any more, loses nothing by it."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FULL = Path("/dev/full")
SMALL = (
    "--preset", "tiny", "--gpus", "0", "--set", "train.batch_windows=2", "--set", "model.dim=16",
    "--set", "model.heads=2", "--set", "model.head_dim=8", "--set", "train.checkpoint_every=50",
)  # fmt: skip


def command(data: Path, runs: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "nuclr_cli", "pretrain", str(data), "--runs", str(runs), *SMALL, *more]


def record(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "run.json").read_text())
    return found


def has_steps(run: Path) -> bool:
    path = run / "metrics.jsonl"
    return path.is_file() and path.read_text().endswith("\n")


@contextmanager
def started(words: list[str], **how: Any) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(words, **how) as process:
        try:
            yield process
        finally:
            process.kill()


def test_help_names_what_stops_training_cleanly(nuclr: Callable[..., Any]) -> None:
    shown = " ".join(nuclr("pretrain", "--help").out.split())
    assert "Ctrl-C, SIGTERM and a closed terminal stop it cleanly" in shown


@pytest.mark.slow
@pytest.mark.parametrize("nohup", [False, True])
def test_a_closed_terminal_saves_and_stops_unless_it_is_not_to(
    tiny_data: Path, tmp_path: Path, nohup: bool
) -> None:
    steps = 300 if nohup else 100000
    here, there = pty.openpty()

    def own_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        if nohup:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    run = tmp_path / "r"
    words = command(tiny_data, tmp_path, "--name", "r", "--steps", str(steps))
    terminal: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), there)
    with started(words, **terminal, start_new_session=True, preexec_fn=own_terminal) as process:
        os.close(there)
        shown = b""
        while b"pretrain" not in shown or not has_steps(run):  # nobody has to wait for a person to read
            assert select.select([here], [], [], 120)[0]
            shown += os.read(here, 65536)
        assert process.poll() is None
        os.close(here)  # from now on writing there is an error, and SIGHUP has been sent
        assert process.wait(120) == (0 if nohup else 143)
    assert record(run)["state"] == ("finished" if nohup else "stopped")
    step = record(run)["step"]
    assert step == steps if nohup else step < steps
    assert (run / "checkpoints" / f"step-{step:08d}" / "checksums.json").is_file()


@pytest.mark.slow
def test_output_that_nobody_reads_does_not_end_training(tiny_data: Path, tmp_path: Path) -> None:
    words = command(tiny_data, tmp_path, "--name", "r", "--steps", "60")
    with started(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        process.stderr.readline()
        process.stderr.close()  # as `2> >(head -1)` does
        assert process.wait(120) == 0
    assert record(tmp_path / "r")["state"] == "finished"


@pytest.mark.slow
@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize("result_too", [False, True])
def test_a_log_on_a_full_disk_does_not_end_training(
    tiny_data: Path, tmp_path: Path, result_too: bool
) -> None:
    words = command(tiny_data, tmp_path, "--name", "r", "--steps", "3", "--json")
    with FULL.open("w") as full:
        out = full if result_too else subprocess.PIPE
        done = subprocess.run(words, stdout=out, stderr=full, check=False, timeout=120)
    assert done.returncode == (3 if result_too else 0)
    assert record(tmp_path / "r")["state"] == "finished"
    if not result_too:
        assert json.loads(done.stdout)["steps"] == 3


def test_a_result_that_finds_no_room_is_no_bug() -> None:
    if not FULL.exists():
        pytest.skip("no /dev/full on this system")
    with FULL.open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "nuclr_cli", "plugins", "list"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 3
    assert "could not be written: No space left on device" in done.stderr


@pytest.mark.parametrize("json_output", [False, True])
def test_a_process_without_output_works(json_output: bool) -> None:
    json_word = " --json" if json_output else ""
    line = f'exec "$0" -m nuclr_cli plugins list{json_word} >&- 2>&-'
    done = subprocess.run(["sh", "-c", line, sys.executable], check=False)
    assert done.returncode == 0
