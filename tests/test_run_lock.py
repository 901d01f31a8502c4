"""One training of a run at a time; the lock of a process that is killed dies with it."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nuclr_cli.workflows.folder_lock import FolderInUse, only_here
from nuclr_cli.workflows.lock_holder import is_gone, this_process
from nuclr_cli.workflows.reporting import SilentReporter
from nuclr_cli.workflows.run_lock import RunLock

SETTINGS = (
    "--preset", "tiny", "--gpus", "0", "--set", "train.log_every=1", "--set", "train.checkpoint_every=2",
    "--set", "train.batch_windows=3", "--set", "model.dim=16", "--set", "model.heads=2",
    "--set", "model.head_dim=8", "--set", "train.max_tokens=1200",
)  # fmt: skip


@contextmanager
def training(*words: object) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "nuclr_cli", "pretrain", *map(str, words)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_until(holds: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_the_second_training_of_a_run_is_refused_until_the_first_is_killed(
    forked: Any, tiny_data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "night"
    # Loader processes are forked with the lock open, and live on for seconds when the trainer is killed.
    words = (tiny_data, "--runs", tmp_path, "--name", "night", *SETTINGS, "--steps", 10**6)
    with training(*words, "--set", "train.workers=2") as first:
        wait_until(lambda: any((run / "checkpoints").glob("step-*")), first)
        resume = ("pretrain", "--runs", tmp_path, "--resume", "--gpus", 0)
        second = forked(*resume, "--json")
        assert second.code == 3, second.err
        what, fix = (second.json["error"][key] for key in ("what", "fix"))
        assert f"by process {first.pid} on {socket.gethostname()} since 20" in what
        assert re.search(r"since \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00 \(UTC\)", what)
        assert f"nuclr pretrain --resume --name night --runs {tmp_path}" in fix
        assert "Traceback" not in second.err
        assert first.poll() is None
        assert json.loads((run / "run.json").read_text())["state"] == "running"
        first.kill()
        first.wait()
        with only_here(run):  # at once, not when the loaders have noticed
            pass
    with training("--runs", tmp_path, "--resume", "--gpus", 0) as third:
        before = (run / "metrics.jsonl").stat().st_ino
        wait_until(lambda: (run / "metrics.jsonl").stat().st_ino != before, third)


def test_where_the_disk_knows_no_locks_there_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")
    said: list[str] = []

    class Listener(SilentReporter):
        def warn(self, text: str) -> None:
            said.append(text)

    def flock(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    lock = RunLock(Listener())
    for _ in range(2):
        lock.take(tmp_path)
    lock.release()
    assert len(said) == 1
    assert "knows no locks" in said[0]
    # Nobody takes an earlier holder for that of today.
    assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    """The parent is killed while a child of it, a loader say, lives on."""
    script = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from nuclr_cli.workflows.folder_lock import only_here\n"
        "with only_here(Path(sys.argv[1]), 'me'):\n"
        "    if os.fork() == 0:\n"
        "        print(os.getpid(), flush=True)\n"
        "    time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        with pytest.raises(FolderInUse) as caught, only_here(tmp_path):
            pass
        assert caught.value.holder == "me"
        parent.kill()
        parent.wait()
        os.kill(child, 0)
        with only_here(tmp_path):
            pass
    finally:
        os.kill(child, 9)
        parent.stdout.close()


def test_a_finished_run_needs_no_lock(forked: Any, tiny_data: Path, tmp_path: Path) -> None:
    """It is answered for while somebody else holds it, and from a folder that cannot be written."""
    done = forked("pretrain", tiny_data, "--runs", tmp_path, "--name", "r", *SETTINGS, "--steps", 2)
    assert done.code == 0, done.err
    with only_here(tmp_path / "r"):
        again = forked("pretrain", "--runs", tmp_path, "--name", "r", "--resume")
    assert again.code == 0, again.err
    assert "nothing to do" in again.err
    # A copy of a folder brings no lock with it.
    shutil.copytree(tmp_path / "r", tmp_path / "copy")
    with only_here(tmp_path / "r"), only_here(tmp_path / "copy"):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells processes apart so well")
def test_a_holder_that_is_killed_is_gone_at_once_and_no_other_is_taken_for_it() -> None:
    script = (
        "import time; from nuclr_cli.workflows.lock_holder import this_process as me; print(me(), flush=True)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", f"{script}; time.sleep(60)"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    holder = json.loads(process.stdout.readline())
    try:
        assert holder["pid"] == process.pid
        assert holder["host"] == socket.gethostname()
        assert not is_gone(json.dumps(holder))
        # The number was given to another process since.
        assert is_gone(json.dumps({**holder, "started": "1"}))
        process.kill()
        deadline = time.monotonic() + 30
        while not is_gone(json.dumps(holder)):  # a zombie: nobody has waited for it
            assert time.monotonic() < deadline
        assert process.returncode is None
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert is_gone(json.dumps(holder))
    boot, _, numbering = holder["machine"].partition("/")
    for other in ({"machine": f"x/{numbering}"}, {"machine": f"{boot}/1"}, {"machine": ""}, {"started": ""}):
        assert not is_gone(json.dumps({**holder, **other}))  # nobody knows
    assert not is_gone(this_process())


@pytest.mark.parametrize("holder", ["", "[]", "{", "null", '{"pid": 1}', "[" * 100_000])
def test_a_damaged_word_of_a_holder_says_nothing(holder: str) -> None:
    assert not is_gone(holder)


@pytest.mark.parametrize("pid", [-1, 0, "1", None, 1.5, 10**30])
def test_a_number_that_no_process_has_says_nothing(pid: object) -> None:
    assert not is_gone(json.dumps({**json.loads(this_process()), "pid": pid}))
