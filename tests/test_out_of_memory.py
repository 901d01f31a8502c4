"""A window that does not fit: the message says what to type, and the run goes on with it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Nuclr = Callable[..., Any]

LIMIT = """
import resource, sys
import torch  # its libraries alone reserve gigabytes of addresses
from nuclr_cli.cli.app import main
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() + int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_AS, (size, size))
main()
"""


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One session of many units."""
    from nuclr_cli.data.store import SourceRecord, write_population
    from nuclr_cli.testing.simulate import tiny_population

    folder = tmp_path_factory.mktemp("wide") / "nuclr-data"
    folder.mkdir()
    source = SourceRecord(path="wide", reader="test", detected="made in memory")
    write_population(tiny_population(0, n_units=600, minutes=2.0), folder / "wide.h5", source=source)
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="limits the addresses of a process, which Linux does")
def test_memory_that_does_not_suffice_is_said_and_the_run_goes_on(
    nuclr: Nuclr, wide: Path, tmp_path: Path
) -> None:
    (tmp_path / "limited.py").write_text(LIMIT)
    settings = ("train.steps=1", "train.batch_windows=16", "train.max_tokens=1000000", "train.warmup_steps=0")
    command = ["pretrain", wide, "--preset", "tiny", "--name", "run", "--gpus", 0]
    command += [word for setting in settings for word in ("--set", setting)]
    limited = [sys.executable, tmp_path / "limited.py", 12 * 10**8, *command]
    done = subprocess.run([*map(str, limited)], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 3, done.stderr
    assert "Memory is too small to train on 16 windows of " in done.stderr
    assert "Traceback" not in done.stderr
    fewer = next(word for word in done.stderr.split() if word.startswith("train.max_tokens="))
    assert 10_000 < int(fewer.partition("=")[2]) < 500_000
    again = nuclr(*command[:8], "--resume", "--set", fewer, cwd=tmp_path)
    assert again.code == 0, again.err
    assert f"{fewer.replace('=', ' is ')} from here on; it was 1000000" in again.err
    config = json.loads((tmp_path / "nuclr-runs" / "run" / "config.json").read_text())
    assert config["train"]["max_tokens"] == int(fewer.partition("=")[2])


def test_a_finished_run_keeps_its_settings_and_others_are_refused(
    nuclr: Nuclr, wide: Path, tmp_path: Path
) -> None:
    run = ["pretrain", wide, "--preset", "tiny", "--name", "run", "--gpus", 0]
    settings = [
        "--set",
        "train.steps=2",
        "--set",
        "train.batch_windows=2",
        "--set",
        "train.checkpoint_every=1",
    ]
    assert nuclr(*run, *settings, cwd=tmp_path).code == 0
    refused = nuclr(*run, "--resume", "--set", "train.batch_windows=4", cwd=tmp_path)
    assert refused.code == 3
    assert "train.batch_windows is 2 in the run, 4 here" in refused.err
    # A finished run keeps what it was trained with.
    config = tmp_path / "nuclr-runs" / "run" / "config.json"
    before = config.read_text()
    taken = nuclr(*run, "--resume", "--set", "train.recompute=layers", cwd=tmp_path)
    assert taken.code == 0, taken.err
    assert "nothing to do" in taken.err
    assert config.read_text() == before
