"""A step of several global batches is the step of one large batch, and resumes to the bit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nuclr_cli.errors import InputError
from nuclr_cli.workflows.metrics_log import TIME_METRICS, read_metrics
from nuclr_cli.workflows.pretrain import PretrainConfig, PretrainRecord, pretrain

SETTINGS = {
    "train.log_every": 1,
    "train.batch_windows": 2,
    "train.max_tokens": 700,
    "train.warmup_steps": 0,
    "views.min_units": 5,
    "model.dim": 16,
    "model.heads": 2,
    "model.head_dim": 8,
}


def train(data: Path, runs: Path, name: str, *, resume: bool = False, **changes: object) -> PretrainRecord:
    keys = {key.replace("__", "."): value for key, value in changes.items()}
    return pretrain(PretrainConfig(data, runs, name, "tiny", {**SETTINGS, **keys}, gpus=0, resume=resume))


def rows(run: Path) -> list[dict[str, float]]:
    found = read_metrics(run / "metrics.jsonl")
    return [{key: value for key, value in row.items() if key not in TIME_METRICS} for row in found]


def tensors(run: Path, step: int, name: str) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"step-{step:08d}" / f"{name}.safetensors")


def test_several_batches_have_the_gradient_of_one_large_batch(tiny_data: Path, tmp_path: Path) -> None:
    fp64 = {"train__precision": "fp64", "train__steps": 1}
    train(tiny_data, tmp_path, "several", train__target_pairs=90, **fp64)
    (row,) = rows(tmp_path / "several")
    assert row["batches_per_step"] >= 3
    assert row["windows"] == 2 * row["batches_per_step"]
    assert row["pairs_per_step"] == row["pairs"] >= 90
    train(tiny_data, tmp_path, "one", train__batch_windows=int(row["windows"]), **fp64)
    (same,) = rows(tmp_path / "one")
    assert same["batches_per_step"] == 1
    assert same["pairs_per_step"] == row["pairs_per_step"]
    # Shares of one batch are float32, as in the official code; those of several are exact.
    for key in ("loss", "loss_numerator", "loss_denominator", "grad_norm"):
        assert row[key] == pytest.approx(same[key], rel=1e-7), key
    found, expected = (tensors(tmp_path / name, 1, "optimizer") for name in ("several", "one"))
    assert found.keys() == expected.keys()
    moments = [key for key in expected if key.endswith("exp_avg")]  # a tenth of the gradient
    assert moments
    for key in moments:
        assert expected[key].dtype == torch.float64
        scale = float(expected[key].abs().max())
        torch.testing.assert_close(found[key], expected[key], rtol=1e-6, atol=1e-7 * scale)


def test_a_step_ends_with_the_batch_that_reaches_the_target(tiny_data: Path, tmp_path: Path) -> None:
    train(tiny_data, tmp_path, "run", train__target_pairs=70, train__steps=6)
    found = rows(tmp_path / "run")
    assert sum(row["pairs_per_step"] for row in found) == found[-1]["pairs"]
    assert sum(row["batches_per_step"] for row in found) * 2 == found[-1]["windows"]
    assert all(row["pairs_per_step"] >= 70 for row in found)
    # A batch of two windows of 24 units has at most 48 pairs: without the last one the target is not reached.
    assert all(row["pairs_per_step"] < 70 + 48 for row in found)


def test_several_batches_a_step_resume_to_the_bit(tiny_data: Path, tmp_path: Path) -> None:
    changes = {
        "train__target_pairs": 70,
        "train__steps": 6,
        "train__checkpoint_every": 3,
        "train__optimizer": "lamb",
        "train__ema": 0.9,
        "model__dropout": 0.2,
    }
    train(tiny_data, tmp_path / "a", "run", **changes)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    one, two = tmp_path / "a" / "run", tmp_path / "b" / "run"
    shutil.rmtree(two / "checkpoints" / "step-00000006")
    record = train(tiny_data, tmp_path / "b", "run", resume=True, **changes)
    assert record.resumed_from == 3
    assert rows(two) == rows(one)
    for name in ("model", "optimizer", "average"):
        found, expected = tensors(two, 6, name), tensors(one, 6, name)
        assert found.keys() == expected.keys()
        for key in expected:
            assert found[key].numpy().tobytes() == expected[key].numpy().tobytes(), (name, key)
    assert (two / "checkpoints" / "step-00000006" / "state.json").read_text() == (
        one / "checkpoints" / "step-00000006" / "state.json"
    ).read_text()


def test_a_loss_of_the_whole_batch_has_no_target(
    tiny_data: Path, tmp_path: Path, nuclr: Callable[..., Any]
) -> None:
    done = nuclr(
        "pretrain", tiny_data, "--preset", "tiny", "--gpus", 0, "--runs", tmp_path / "runs",
        "--set", "loss.name=vicreg", "--set", "train.target_pairs=100",
    )  # fmt: skip
    assert done.code == 3
    assert "train.target_pairs = 100 adds up several" in done.err
    assert "--set loss.name=dcl" in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "runs").exists()


def test_a_target_of_nothing_is_refused(tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train\.target_pairs = 0 is below 1"):
        train(tiny_data, tmp_path, "run", train__target_pairs=0)
