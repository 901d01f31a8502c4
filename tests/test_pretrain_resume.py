"""A run that is killed, signalled or damaged loses nothing and continues exactly."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

TIME_METRICS = {"units_per_s", "tokens_per_s", "peak_memory_bytes", "wait_share", "step_s", "elapsed_s"}
SETTINGS = (
    "--set", "train.log_every=1", "--set", "train.checkpoint_every=10", "--set", "train.batch_windows=6",
    "--set", "model.dim=16", "--set", "model.heads=2", "--set", "model.head_dim=8",
    "--set", "train.max_tokens=1200",
    "--preset", "tiny", "--gpus", "0",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def two_threads() -> Iterator[None]:
    """As users of small machines have, however these tests were started: their number decides last bits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "2")
        yield


def rows(run: Path) -> list[dict[str, float]]:
    text = (run / "metrics.jsonl").read_text()
    return [
        {k: v for k, v in json.loads(line).items() if k not in TIME_METRICS} for line in text.splitlines()
    ]


def start(data: Path, runs: Path, *more: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "nuclr_cli",
        "pretrain",
        str(data),
        "--runs",
        str(runs),
        *SETTINGS,
        *more,
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_step(run: Path, step: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        path = run / "metrics.jsonl"
        if path.is_file() and len(path.read_text().splitlines()) >= step:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    raise AssertionError("the run never got there")


def assert_same_weights(one: Path, two: Path, step: int) -> None:
    for name in ("model", "optimizer"):
        a, b = (
            load_file(run / "checkpoints" / f"step-{step:08d}" / f"{name}.safetensors") for run in (one, two)
        )
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)


@pytest.mark.slow
def test_a_killed_run_resumes_bit_for_bit(tiny_data: Path, tmp_path: Path, nuclr: Callable[..., Any]) -> None:
    straight = start(tiny_data, tmp_path, "--name", "straight", "--steps", "20")
    assert straight.wait() == 0, straight.communicate()

    killed = start(tiny_data, tmp_path, "--name", "killed", "--steps", "20")
    wait_for_step(tmp_path / "killed", 12, killed)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    steps_done = len(rows(tmp_path / "killed"))
    assert steps_done >= 12

    done = nuclr("pretrain", "--runs", tmp_path, "--name", "killed", "--resume", "--gpus", 0, "--json")
    assert done.code == 0, done.err
    if steps_done < 20:
        assert done.json["resumed_from"] == 10
    assert rows(tmp_path / "killed") == rows(tmp_path / "straight")
    assert_same_weights(tmp_path / "killed", tmp_path / "straight", 20)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGHUP", "SIGINT"])
def test_a_signal_saves_and_stops(tiny_data: Path, tmp_path: Path, name: str) -> None:
    process = start(tiny_data, tmp_path, "--name", "r", "--steps", "100000", "--json")
    wait_for_step(tmp_path / "r", 3, process)
    process.send_signal(getattr(signal, name))
    out, err = process.communicate(timeout=60)
    assert process.returncode == (130 if name == "SIGINT" else 143)
    assert "nuclr pretrain --resume --name r" in err
    assert json.loads(out)["error"]["exit_code"] == process.returncode
    record = json.loads((tmp_path / "r" / "run.json").read_text())
    assert record["state"] == "stopped"
    assert (tmp_path / "r" / "checkpoints" / f"step-{record['step']:08d}" / "checksums.json").is_file()
    assert len(rows(tmp_path / "r")) == record["step"]


@pytest.fixture(scope="module")
def finished(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs folder with one finished run, ``done``, that has two checkpoints."""
    runs = tmp_path_factory.mktemp("runs")
    process = start(tiny_data, runs, "--name", "done", "--steps", "12")
    assert process.wait() == 0, process.communicate()
    return runs


def test_resuming_a_finished_run_does_nothing(finished: Path, nuclr: Callable[..., Any]) -> None:
    before = (finished / "done" / "metrics.jsonl").read_bytes()
    done = nuclr("pretrain", "--runs", finished, "--name", "done", "--resume", "--json")
    assert done.code == 0, done.err
    assert "finished" in done.err
    assert (finished / "done" / "metrics.jsonl").read_bytes() == before
    logged = rows(finished / "done")
    assert (done.json["first_loss_step"], done.json["last_loss_step"]) == (1, 12)
    assert (done.json["first_loss"], done.json["last_loss"]) == (logged[0]["loss"], logged[-1]["loss"])
    shown = nuclr("pretrain", "--runs", finished, "--name", "done", "--resume")
    assert re.search(r"^steps +12 in all, none of them now *$", shown.out, flags=re.MULTILINE)
    words = shown.out.split()
    for step, row in (("1", logged[0]), ("12", logged[-1])):
        at = [i for i in range(len(words)) if words[i : i + 4] == ["loss", "at", "step", step]]
        assert [words[i + 4] for i in at] == [f"{row['loss']:.3f}"]


def test_an_existing_name_is_not_overwritten(
    finished: Path, tiny_data: Path, nuclr: Callable[..., Any]
) -> None:
    done = nuclr("pretrain", tiny_data, "--runs", finished, "--name", "done")
    assert done.code == 3
    assert "--resume" in done.err
    assert "Traceback" not in done.err


def test_contradicting_settings_are_refused(finished: Path, nuclr: Callable[..., Any]) -> None:
    done = nuclr("pretrain", "--runs", finished, "--name", "done", "--resume", "--set", "model.dim=32")
    assert done.code == 3
    assert "model.dim is 16 in the run, 32 here" in done.err


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.safetensors", "state.json", "checksums.json"]
)
def test_a_truncated_checkpoint_is_refused_and_the_whole_one_named(
    finished: Path, tmp_path: Path, name: str, nuclr: Callable[..., Any]
) -> None:
    import shutil

    shutil.copytree(finished, tmp_path / "runs")
    damaged = tmp_path / "runs" / "done" / "checkpoints" / "step-00000012" / name
    with damaged.open("r+b") as file:
        file.truncate(damaged.stat().st_size // 2)
    done = nuclr("embed", "--runs", tmp_path / "runs", "-o", tmp_path / "e.parquet")
    assert done.code == 3, done.err
    assert "step-00000012 is damaged" in done.err
    assert "--checkpoint 10" in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "e.parquet").exists()
    done = nuclr("embed", "--runs", tmp_path / "runs", "--checkpoint", 10, "-o", tmp_path / "e.parquet")
    assert done.code == 0, done.err


def test_resume_goes_on_from_the_newest_whole_checkpoint(
    finished: Path, tmp_path: Path, nuclr: Callable[..., Any]
) -> None:
    import shutil

    shutil.copytree(finished, tmp_path / "runs")
    run = tmp_path / "runs" / "done"
    (run / "checkpoints" / "step-00000012" / "model.safetensors").write_bytes(b"")
    metrics = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    metrics[3] = b"\xff\x00 not JSON\n"
    (run / "metrics.jsonl").write_bytes(b"".join(metrics) + b"[]\n{}\n")
    done = nuclr("pretrain", "--runs", tmp_path / "runs", "--name", "done", "--resume")
    assert done.code == 0, done.err
    assert re.search(r"^steps +12 in all, 2 of them now, in \d+ s *$", done.out, flags=re.MULTILINE)
    assert "step-00000012 is damaged and passed over" in done.err
    assert_same_weights(run, finished / "done", 12)
    straight = rows(finished / "done")
    assert rows(run) == straight[:3] + straight[4:]
    for step in (10, 12):
        (run / "checkpoints" / f"step-{step:08d}" / "state.json").unlink()
    done = nuclr("pretrain", "--runs", tmp_path / "runs", "--name", "done", "--resume")
    assert done.code == 3
    assert "No other checkpoint of this run is whole" in done.err


def test_a_damaged_later_checkpoint_never_drops_the_one_just_written(tmp_path: Path) -> None:
    import torch

    from nuclr_cli.workflows.checkpoints import load_checkpoint, save_checkpoint, steps_available

    for step in (5, 10, 7):
        save_checkpoint(tmp_path, step, {"w": torch.full((2,), step)}, {}, {}, keep=1)
        if step == 5:
            (tmp_path / "step-00000020").mkdir()
    assert steps_available(tmp_path) == [7]
    assert load_checkpoint(tmp_path).step == 7


def test_a_run_stopped_after_its_last_step_ends_finished(
    finished: Path, tmp_path: Path, nuclr: Callable[..., Any]
) -> None:
    import shutil

    shutil.copytree(finished, tmp_path / "runs")
    path = tmp_path / "runs" / "done" / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "state": "stopped"}))
    done = nuclr("pretrain", "--runs", tmp_path / "runs", "--resume", "--json")
    assert done.code == 0, done.err
    assert json.loads(path.read_text())["state"] == "finished"


def test_hints_name_the_folder_of_runs(finished: Path, tiny_data: Path, nuclr: Callable[..., Any]) -> None:
    done = nuclr("pretrain", tiny_data, "--runs", finished, "--name", "done")
    assert f"nuclr pretrain --resume --name done --runs {finished}" in " ".join(done.err.split())


def test_other_data_are_not_taken_for_those_of_the_run(
    finished: Path, tmp_path: Path, nuclr: Callable[..., Any]
) -> None:
    done = nuclr("pretrain", tmp_path, "--runs", finished, "--name", "done", "--resume")
    assert done.code == 3
    assert "the data are" in done.err


def test_weights_of_another_model_are_refused(
    finished: Path, tmp_path: Path, nuclr: Callable[..., Any]
) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(finished, runs)
    config = runs / "done" / "config.json"
    settings = json.loads(config.read_text())
    settings["model"]["dim"] = 32
    config.write_text(json.dumps(settings))
    for command in (
        ("embed", "--run", runs / "done"),
        ("pretrain", "--runs", runs, "--name", "done", "--resume"),
    ):
        done = nuclr(*command)
        assert done.code == 3, done.err
        assert "does not fit the model of its config.json" in done.err


def test_no_pickle_in_a_run(finished: Path) -> None:
    suffixes = {path.suffix for path in (finished / "done").rglob("*") if path.is_file()}
    assert not suffixes & {".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".npy", ".npz"}
    for path in (finished / "done").rglob("*.json"):
        json.loads(path.read_text())


def test_a_full_disk_leaves_earlier_checkpoints_whole(finished: Path, tmp_path: Path) -> None:
    """A limit on file size stands in for a full disk: writes fail half way, as they do there."""
    script = """
import resource, signal, sys
from pathlib import Path
import torch
from nuclr_cli.errors import InputError
from nuclr_cli.workflows.checkpoints import load_checkpoint, save_checkpoint
folder = Path(sys.argv[1])
small, large = {"w": torch.ones(3)}, {"w": torch.ones(100_000)}
save_checkpoint(folder, 1, small, {}, {}, keep=1)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
for optimizer in (small, large):
    try:
        save_checkpoint(folder, 2, large if optimizer is small else small, optimizer, {}, keep=1)
    except InputError as error:
        print(error.fix)
assert load_checkpoint(folder).step == 1
print(sorted(path.name for path in folder.iterdir()))
"""
    folder = tmp_path / "run" / "checkpoints"
    done = subprocess.run([sys.executable, "-c", script, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("--resume --name run") == 2
    assert done.stdout.count("Earlier checkpoints are whole") == 2
    assert done.stdout.splitlines()[-1] == "['step-00000001']"
