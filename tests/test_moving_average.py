"""The moving average of the weights is its recurrence, travels in the checkpoint, and embeds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from nuclr_cli.data.embeddings import load_embeddings
from nuclr_cli.errors import InputError
from nuclr_cli.workflows.checkpoints import damage, load_checkpoint
from nuclr_cli.workflows.embed import EmbedConfig, embed
from nuclr_cli.workflows.pair_model import initial_model
from nuclr_cli.workflows.pretrain import PretrainConfig, pretrain
from nuclr_cli.workflows.runs import open_run

STEPS = 12
DECAY = 0.5
SETTINGS = {
    "train.steps": STEPS,
    "train.batch_windows": 2,
    "train.checkpoint_every": 1,
    "train.keep_checkpoints": 100,
    "train.learning_rate": 1e-2,
    "train.warmup_steps": 2,
    "model.dim": 16,
    "model.heads": 2,
    "model.head_dim": 8,
}


def train(data: Path, runs: Path, name: str, **changes: object) -> Path:
    return pretrain(PretrainConfig(data, runs, name, "tiny", {**SETTINGS, **changes}, gpus=0)).run


@pytest.fixture(scope="module")
def runs(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same training with an average, ``kept``, and without, ``plain``."""
    folder = tmp_path_factory.mktemp("runs")
    train(tiny_data, folder, "kept", **{"train.ema": DECAY})
    train(tiny_data, folder, "plain")
    return folder


def checkpoint(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}"


def test_the_average_is_the_recurrence(runs: Path) -> None:
    run = open_run(runs / "kept")
    by_hand = {name: tensor.double() for name, tensor in initial_model(run.settings).state_dict().items()}
    for step in range(1, STEPS + 1):
        weights = load_file(checkpoint(run.folder, step) / "model.safetensors")
        share = min(DECAY, (1 + step) / (10 + step))
        by_hand = {
            name: share * tensor + (1 - share) * weights[name].double() for name, tensor in by_hand.items()
        }
        average = load_file(checkpoint(run.folder, step) / "average.safetensors")
        assert average.keys() == by_hand.keys()
        for name, tensor in by_hand.items():
            torch.testing.assert_close(average[name].double(), tensor, rtol=1e-5, atol=1e-7)
    moved = max(float((average[name] - weights[name]).abs().max()) for name in weights)
    assert moved > 1e-4  # the average is another model than the last


def test_a_run_without_an_average_is_as_it_was(runs: Path) -> None:
    plain, kept = checkpoint(runs / "plain", STEPS), checkpoint(runs / "kept", STEPS)
    files = {"model.safetensors", "optimizer.safetensors", "state.json"}
    assert {path.name for path in plain.iterdir()} == {*files, "checksums.json"}
    assert json.loads((plain / "checksums.json").read_text()).keys() == files
    # Keeping an average changes no step.
    for name in files:
        assert (plain / name).read_bytes() == (kept / name).read_bytes()
    assert load_checkpoint(runs / "plain" / "checkpoints").average is None


@pytest.mark.parametrize("harm", ["cut", "gone", "unsigned"])
def test_a_damaged_average_is_seen(runs: Path, tmp_path: Path, harm: str) -> None:
    folder = tmp_path / "step-00000012"
    shutil.copytree(checkpoint(runs / "kept", STEPS), folder)
    assert damage(folder) == ""
    path = folder / "average.safetensors"
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif harm == "gone":
        path.unlink()
    else:
        sums = json.loads((folder / "checksums.json").read_text())
        del sums[path.name]
        (folder / "checksums.json").write_text(json.dumps(sums))
    assert "average.safetensors" in damage(folder)


def test_an_average_that_is_not_there_is_not_made_up(runs: Path, tiny_data: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "kept", tmp_path / "kept")
    for step in range(2, STEPS + 1):
        shutil.rmtree(checkpoint(tmp_path / "kept", step))
    folder = checkpoint(tmp_path / "kept", 1)
    (folder / "average.safetensors").unlink()
    sums = json.loads((folder / "checksums.json").read_text())
    del sums["average.safetensors"]
    (folder / "checksums.json").write_text(json.dumps(sums))
    with pytest.raises(InputError, match="checkpoint at step 1 has none"):
        pretrain(PretrainConfig(tiny_data, tmp_path, "kept", gpus=0, resume=True))


def test_the_average_embeds_unless_told_otherwise(
    runs: Path, tiny_data: Path, tmp_path: Path, nuclr: Callable[..., Any]
) -> None:
    run = runs / "kept"
    done = nuclr("embed", "--run", run, "-o", tmp_path / "ema.parquet", "--gpus", 0, "--json")
    assert done.code == 0, done.err
    assert done.json["weights"] == "ema"
    average = load_embeddings(tmp_path / "ema.parquet")
    raw_record = embed(EmbedConfig(run=run, out=tmp_path / "raw.parquet", gpus=0, weights="raw"))
    assert raw_record.weights == "raw"
    raw = load_embeddings(tmp_path / "raw.parquet")
    plain_record = embed(EmbedConfig(tiny_data, runs / "plain", out=tmp_path / "plain.parquet", gpus=0))
    assert plain_record.weights == "raw"
    plain = load_embeddings(tmp_path / "plain.parquet")
    assert raw.embedding.tobytes() == plain.embedding.tobytes()
    assert [table.metadata["weights"] for table in (average, raw, plain)] == ["ema", "raw", "raw"]
    # A probe of one is not taken for a probe of the other.
    digests = {table.metadata["checkpoint_sha256"] for table in (average, raw)}
    assert len(digests) == 2
    # It is the encoder with the averaged weights that embeds.
    swapped = tmp_path / "swapped"
    shutil.copytree(runs / "plain", swapped)
    folder = checkpoint(swapped, STEPS)
    save_file(load_file(checkpoint(run, STEPS) / "average.safetensors"), folder / "model.safetensors")
    import hashlib

    sums = json.loads((folder / "checksums.json").read_text())
    sums["model.safetensors"] = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (folder / "checksums.json").write_text(json.dumps(sums))
    embed(EmbedConfig(tiny_data, swapped, out=tmp_path / "swapped.parquet", gpus=0))
    np.testing.assert_array_equal(load_embeddings(tmp_path / "swapped.parquet").embedding, average.embedding)
    assert not np.array_equal(average.embedding, raw.embedding)


def test_an_average_that_a_run_does_not_have_is_refused(
    runs: Path, tmp_path: Path, nuclr: Callable[..., Any]
) -> None:
    done = nuclr("embed", "--run", runs / "plain", "-o", tmp_path / "e.parquet", "--weights", "ema")
    assert done.code == 3
    assert "was not trained with train.ema" in done.err
    assert "--weights raw" in done.err
    assert not (tmp_path / "e.parquet").exists()
    done = nuclr("embed", "--run", runs / "plain", "--weights", "best")
    assert done.code == 3
    assert "Choose raw or ema" in done.err


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5])
def test_a_decay_is_between_0_and_1(tiny_data: Path, tmp_path: Path, decay: float) -> None:
    with pytest.raises(InputError, match="no decay between 0 and 1"):
        train(tiny_data, tmp_path, "run", **{"train.ema": decay})
