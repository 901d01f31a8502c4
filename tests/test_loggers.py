"""W&B and MLflow beside TensorBoard: the same numbers, one run over resumes, and never in training's way."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nuclr_cli.errors import InputError
from nuclr_cli.workflows.loggers import MLflow, _wandb_is_set_up, checked
from nuclr_cli.workflows.pretrain import PretrainConfig, pretrain
from nuclr_cli.workflows.runs import open_run

STEPS = 40
SETTINGS = (
    "--preset", "tiny", "--gpus", "0", "--steps", str(STEPS), "--set", "train.log_every=1",
    "--set", "train.checkpoint_every=4", "--set", "train.batch_windows=3", "--set", "model.dim=16",
    "--set", "model.heads=2", "--set", "model.head_dim=8", "--set", "train.max_tokens=1200",
)  # fmt: skip


def rows(run: Path) -> list[dict[str, float]]:
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def killed_and_resumed(forked: Any, data: Path, runs: Path, logger: str) -> Path:
    """A run with a logger that is killed between checkpoints and goes on without being told of it."""
    run = runs / "r"
    process = forked.start("pretrain", data, "--runs", runs, "--name", "r", *SETTINGS, "--logger", logger)
    deadline = time.monotonic() + 60
    while len(rows(run)) < 6:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    assert forked.wait().code in (-signal.SIGKILL, 0)
    assert len(rows(run)) < STEPS, "it was over before the kill: this proves nothing"
    done = forked("pretrain", "--runs", runs, "--name", "r", "--resume", "--gpus", 0)
    assert done.code == 0, done.err
    assert "left out" not in done.err
    assert json.loads((run / "run.json").read_text())["loggers"] == [logger]
    return run


def wandb_records(path: Path) -> Iterator[Any]:
    """Records of a ``.wandb`` file: LevelDB's log format, in blocks of 32 KiB, behind 7 bytes of its own."""
    from wandb.proto import wandb_internal_pb2

    data, place, parts = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def test_wandb_goes_on_with_the_same_run(forked: Any, tiny_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    run = killed_and_resumed(forked, tiny_data, tmp_path, "wandb")
    ids, losses = set(), {}
    files = sorted(run.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(files) == 2
    for path in files:
        for record in wandb_records(path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                ids.add(record.run.run_id)
                assert (record.run.project, record.run.display_name) == ("nuclr", "r")
                config = {item.key: item.value_json for item in record.run.config.update}
                assert json.loads(config["train.steps"]) == STEPS
            elif kind == "history":
                said = {item.nested_key[0] or item.key: item.value_json for item in record.history.item}
                step = record.history.step.num
                assert losses.setdefault(step, json.loads(said["loss"])) == json.loads(said["loss"])
    assert len(ids) == 1
    # What a kill has kept in W&B's own buffer was sent again.
    assert losses == {row["step"]: row["loss"] for row in rows(run)}


def test_mlflow_goes_on_with_the_same_run(forked: Any, tiny_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    run = killed_and_resumed(forked, tiny_data, tmp_path, "mlflow")
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=(run / "mlflow").as_uri())
    (experiment,) = client.search_experiments(filter_string="name = 'nuclr'")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    assert found.data.params["train.steps"] == str(STEPS)
    history = [(one.step, one.value) for one in client.get_metric_history(found.info.run_id, "loss")]
    assert history == [(row["step"], row["loss"]) for row in rows(run)]


def test_a_step_of_which_mlflow_has_half_is_completed(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill may come between two metrics of one step, which MLflow writes one after the other."""
    pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    settings = {"train.steps": 3, "train.log_every": 1, "train.batch_windows": 2}
    config = PretrainConfig(tiny_data, tmp_path, "r", "tiny", settings, gpus=0, loggers=("mlflow",))
    run = open_run(pretrain(config).run)
    (loss,) = (run.folder / "mlflow").rglob("metrics/loss")
    whole = loss.read_text().splitlines()
    loss.write_text("\n".join(whole[:2]) + "\n")
    logger = MLflow(run)
    for row in rows(run.folder):
        logger.write(int(row["step"]), row)
    logger.close(finished=True)
    for metric in (loss, loss.with_name("elapsed_s")):
        assert [line.split()[2] for line in metric.read_text().splitlines()] == ["1", "2", "3"]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_package_that_is_absent_is_named_before_anything_is_made(
    tiny_data: Path, tmp_path: Path, name: str
) -> None:
    """A folder of its name, as W&B leaves in projects, is not the package."""
    (tmp_path / name).mkdir()
    script = (
        "import sys\n"
        "from importlib.machinery import PathFinder\n"
        "class Absent:\n"
        "    def find_spec(name, path=None, target=None):\n"
        f"        if name == {name!r}:\n"
        f"            found = PathFinder.find_spec(name, [{str(tmp_path)!r}])\n"
        "            assert found is not None\n"
        "            return found\n"
        "sys.meta_path.insert(0, Absent)\n"
        "from nuclr_cli.cli.app import main\n"
        "main()\n"
    )
    words = ["pretrain", str(tiny_data), "--runs", str(tmp_path / "runs"), *SETTINGS, "--logger", name]
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 4, done.stderr
    assert f"pip install {'mlflow-skinny' if name == 'mlflow' else name}" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_unknown_loggers_are_refused() -> None:
    for names in (("comet",), ("none", "wandb")):
        with pytest.raises(InputError, match=r"--logger (comet|none)"):
            checked(names)
    assert checked(("none",)) == checked(()) == ()


def test_a_logger_that_fails_does_not_stop_training(forked: Any, tiny_data: Path, tmp_path: Path) -> None:
    """W&B refuses its mode."""
    pytest.importorskip("wandb")
    words = ("--runs", tmp_path, "--name", "r", *SETTINGS, "--steps", 4, "--logger", "wandb")
    done = forked("pretrain", tiny_data, *words, environment={"WANDB_MODE": "nonsense"})
    assert done.code == 0, done.err
    assert done.err.count("W&B is left out from here on") == 1
    assert len(rows(tmp_path / "r")) == 4
    again = forked("pretrain", "--runs", tmp_path, "--name", "r", "--resume", "--logger", "none")
    assert again.code == 0, again.err


def test_wandb_sends_nothing_unless_somebody_set_it_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert not _wandb_is_set_up()
    (tmp_path / ".netrc").write_text("machine elsewhere.org login a password b\n")
    assert not _wandb_is_set_up()
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password 0123\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert _wandb_is_set_up()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert not _wandb_is_set_up()
    monkeypatch.setenv("WANDB_API_KEY", "0123")
    assert _wandb_is_set_up()


def test_tensorboard_has_every_row_of_a_resumed_run(forked: Any, tiny_data: Path, tmp_path: Path) -> None:
    from tensorboardX.proto.event_pb2 import Event

    done = forked("pretrain", tiny_data, "--runs", tmp_path, "--name", "r", *SETTINGS, "--steps", 8)
    assert done.code == 0, done.err
    run = tmp_path / "r"
    newest = run / "checkpoints" / "step-00000008"
    (newest / "state.json").unlink()
    done = forked("pretrain", "--runs", tmp_path, "--name", "r", "--resume", "--gpus", 0)
    assert done.code == 0, done.err
    found: dict[int, float] = {}
    starts = []
    for path in sorted(run.glob("tensorboard/events.out.tfevents.*"), key=lambda path: path.stat().st_mtime):
        data, place = path.read_bytes(), 0
        while place < len(data):
            (length,) = struct.unpack_from("<Q", data, place)
            event = Event()
            event.ParseFromString(data[place + 12 : place + 12 + length])
            place += 16 + length
            for value in event.summary.value:
                if value.tag == "loss":
                    found[event.step] = value.simple_value
            if event.HasField("session_log"):
                starts.append(event.step)
    assert found == {row["step"]: pytest.approx(row["loss"]) for row in rows(run)}
    assert starts == [5]  # what was written of later steps is hidden
