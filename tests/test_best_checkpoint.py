"""The best checkpoint by what training logged: kept beside the newest, known from files, used by embed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from nuclr_cli.errors import InputError
from nuclr_cli.workflows.best_checkpoint import KeepBest, Score, best_step, scores
from nuclr_cli.workflows.checkpoints import damage, save_checkpoint, steps_available
from nuclr_cli.workflows.embed import EmbedConfig
from nuclr_cli.workflows.embed_select import best_of_training
from nuclr_cli.workflows.runs import open_run
from nuclr_cli.workflows.runs_overview import runs_overview

EVERY = 4
# So large a learning rate that the embeddings collapse: the best checkpoint is an early one.
SETTINGS = (
    "--preset", "tiny", "--gpus", "0", "--steps", "24", "--set", "train.log_every=1",
    "--set", f"train.checkpoint_every={EVERY}", "--set", "train.keep_checkpoints=1",
    "--set", "train.batch_windows=4", "--set", "model.dim=16", "--set", "model.heads=2",
    "--set", "model.head_dim=8", "--set", "train.max_tokens=1200", "--set", "train.learning_rate=0.3",
)  # fmt: skip


def save(checkpoints: Path, step: int, keep_best: KeepBest, keep: int = 1, **means: float) -> list[int]:
    """Save a checkpoint with these means; returns the steps that are there then."""
    state = {"score": {"means": means, "open": None}} if means else {}
    weights = {"w": torch.full((2,), step)}
    save_checkpoint(checkpoints, step, weights, weights, state, keep, keep_best)
    return steps_available(checkpoints)


def test_the_best_stays_beside_the_newest(tmp_path: Path) -> None:
    assert save(tmp_path, 1, "loss", loss=3.0) == [1]
    assert save(tmp_path, 2, "loss", loss=2.0) == [2]
    assert save(tmp_path, 3, "loss", loss=2.5) == [2, 3]
    assert save(tmp_path, 4, "loss", loss=2.0) == [4]  # of equals the later
    assert save(tmp_path, 5, "loss") == [4, 5]  # one without a score is never the best
    assert save(tmp_path, 6, "loss", loss=float("nan")) == [4, 6]
    assert save(tmp_path, 7, "loss", loss=1.0, keep=2) == [6, 7]
    assert save(tmp_path, 8, "loss", loss=4.0, keep=2) == [7, 8]
    assert save(tmp_path, 9, "none", loss=4.0, keep=1) == [9]


def test_rankme_is_the_better_the_larger(tmp_path: Path) -> None:
    save(tmp_path, 1, "rankme", rankme=9.0, loss=2.0)
    save(tmp_path, 2, "rankme", rankme=5.0, loss=1.0)
    assert save(tmp_path, 3, "rankme", rankme=8.0, loss=3.0) == [1, 3]
    assert scores(tmp_path, "rankme") == {1: 9.0, 3: 8.0}


@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "checksums.json"])
def test_a_damaged_best_is_neither_chosen_nor_kept(tmp_path: Path, name: str) -> None:
    for step, loss in ((1, 1.0), (2, 2.0), (3, 3.0)):
        save(tmp_path, step, "loss", keep=3, loss=loss)
    path = tmp_path / "step-00000001" / name
    path.write_bytes(path.read_bytes()[:-3])
    assert best_step(tmp_path, "loss", lambda folder: not damage(folder)) == 2
    assert save(tmp_path, 4, "loss", loss=4.0) == [2, 4]


def test_a_later_damaged_checkpoint_is_no_best(tmp_path: Path) -> None:
    """A run that goes on from step 1 past the damaged 9 must not lose its own best to that one."""
    save(tmp_path, 9, "loss", loss=0.1)
    save(tmp_path, 1, "loss", loss=2.0)
    assert save(tmp_path, 2, "loss", loss=3.0) == [1, 2]


def test_means_go_on_where_a_stop_cut_them() -> None:
    rows: list[dict[str, float]] = [{"loss": 3.0, "rankme": 5.0}, {"loss": float("inf")}, {"loss": 1.0}]
    straight, cut = Score(), Score()
    for row in rows:
        straight.add(row)
    cut.add(rows[0])
    stopped = json.loads(json.dumps({"score": cut.state(regular=False)}))
    assert stopped["score"]["means"] == {}
    again = Score.after(stopped)
    for row in rows[1:]:
        again.add(row)
    assert again.state(regular=True) == straight.state(regular=True)
    assert straight.state(regular=True)["means"] == {"loss": 2.0, "rankme": 5.0}
    for finished in ({"score": straight.state(regular=True)}, {"stream": {}}):  # the latter of an old version
        assert Score.after(finished) == Score()


@pytest.fixture(scope="module")
def runs(forked: Any, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("best")
    done = forked("pretrain", tiny_data, "--runs", folder, "--name", "straight", *SETTINGS)
    assert done.code == 0, done.err
    return folder


def expected(run: Path) -> dict[int, float]:
    """Step -> mean loss of the rows since the checkpoint before it."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        last: statistics.fmean(row["loss"] for row in rows if last - EVERY < row["step"] <= last)
        for last in range(EVERY, len(rows) + 1, EVERY)
    }


def test_a_run_keeps_its_best_and_embed_takes_it(forked: Any, runs: Path, tmp_path: Path) -> None:
    run = runs / "straight"
    means = expected(run)
    best = min(means, key=lambda step: means[step])
    assert best != 24, "the newest is the best: this proves nothing"
    assert steps_available(run / "checkpoints") == [best, 24]
    assert scores(run / "checkpoints", "loss") == pytest.approx({best: means[best], 24: means[24]})
    assert [(one.best, one.checkpoint) for one in runs_overview(runs).runs] == [(best, 24)]
    embed = ("embed", "--run", run, "--gpus", 0, "--json", "-o", tmp_path / "e.parquet")
    made = forked(*embed, "--checkpoint", "best")
    assert made.code == 0, made.err
    assert (made.json["checkpoint"], made.json["selection"]["rule"]) == (best, "loss")
    assert {one["step"] for one in made.json["selection"]["candidates"]} == {best, 24}

    shutil.copytree(runs, tmp_path / "runs")
    (tmp_path / "runs" / "straight" / "checkpoints" / f"step-{best:08d}" / "model.safetensors").unlink()
    assert best_of_training(open_run(tmp_path / "runs" / "straight")).step == 24


def test_what_embed_cannot_choose(forked: Any, runs: Path, tmp_path: Path) -> None:
    assert forked("embed", "--runs", runs, "--checkpoint", "newest").code == 2
    with pytest.raises(InputError, match="both choose a checkpoint"):
        EmbedConfig(checkpoint="best", select="retrieval")
    shutil.copytree(runs, tmp_path / "runs")
    config = tmp_path / "runs" / "straight" / "config.json"
    settings = json.loads(config.read_text())
    settings["train"]["keep_best"] = "none"
    config.write_text(json.dumps(settings))
    none = forked("embed", "--runs", tmp_path / "runs", "--checkpoint", "best")
    assert none.code == 3
    assert "--select retrieval" in none.err


def test_a_stop_between_checkpoints_changes_no_score(
    forked: Any, runs: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """What a run keeps, and says of it, is that of a run that nobody stopped."""
    words = ["pretrain", str(tiny_data), "--runs", str(tmp_path), "--name", "stopped", *SETTINGS]
    process = forked.start(*words)
    metrics = tmp_path / "stopped" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not metrics.is_file() or metrics.read_text().count("\n") < EVERY + 1:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process, signal.SIGTERM)
    assert forked.wait().code in (0, 143)
    again = forked(*words, "--resume")
    assert again.code == 0, again.err
    ours, theirs = tmp_path / "stopped" / "checkpoints", runs / "straight" / "checkpoints"
    assert steps_available(ours) == steps_available(theirs)
    for step in steps_available(ours):
        state = f"step-{step:08d}/state.json"
        assert (ours / state).read_text() == (theirs / state).read_text()
