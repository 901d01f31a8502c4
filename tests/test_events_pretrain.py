"""Spike events from the command line: train, embed, resume, and what is said about wrong settings."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from nuclr_cli.data.embeddings import load_embeddings
from nuclr_cli.data.sessions import open_sessions
from nuclr_cli.data.store import SourceRecord, write_population
from nuclr_cli.errors import InputError
from nuclr_cli.testing.simulate import tiny_calcium, tiny_population
from nuclr_cli.workflows.devices import choose_device
from nuclr_cli.workflows.embed import EmbedConfig, embed
from nuclr_cli.workflows.embed_sessions import embed_sessions
from nuclr_cli.workflows.pair_model import initial_model
from nuclr_cli.workflows.presets import for_modalities, preset_settings, with_changes
from nuclr_cli.workflows.pretrain import PretrainConfig, pretrain
from nuclr_cli.workflows.runs import find_run

SMALL = {
    "model.tokens": "events",
    "model.dim": 16,
    "model.heads": 2,
    "train.batch_windows": 4,
    "train.log_every": 1,
    "train.checkpoint_every": 2,
}


def config(data: Path, runs: Path, **changes: Any) -> PretrainConfig:
    return PretrainConfig(data=data, runs=runs, preset="tiny", gpus=0, changes={**SMALL, **changes})


def tensors(run: Path, step: int) -> dict[str, np.ndarray]:
    return load_file(run / "checkpoints" / f"step-{step:08d}" / "model.safetensors")


@pytest.mark.slow
def test_train_embed_and_resume_on_the_command_line(
    tiny_data: Path, tmp_path: Path, nuclr: Callable[..., Any]
) -> None:
    settings = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
    common = ("--preset", "tiny", "--gpus", 0, *settings)
    done = nuclr("pretrain", tiny_data, "--runs", tmp_path, "--name", "e", "--steps", 4, *common, "--json")
    assert done.code == 0, done.err
    assert np.isfinite(done.json["last_loss"])
    stored = json.loads((tmp_path / "e" / "config.json").read_text())
    assert json.dumps(["events"]) in json.dumps(stored)
    again = nuclr("pretrain", "--runs", tmp_path, "--name", "e", "--resume", "--set", "model.tokens=events")
    assert again.code == 0, again.err
    assert "finished" in again.err
    other = nuclr("pretrain", "--runs", tmp_path, "--name", "e", "--resume", "--set", "model.tokens=counts")
    assert other.code == 3
    assert "model.tokens is ('events',) in the run" in other.err
    done = nuclr("embed", "--runs", tmp_path, "--run", tmp_path / "e", "-o", tmp_path / "e.parquet")
    assert done.code == 0, done.err
    table = load_embeddings(tmp_path / "e.parquet")
    assert table.embedding.shape == (96, 16)
    assert np.flatnonzero(~table.seen).tolist() == [23, 47, 71, 95]  # silent in each session
    assert np.isfinite(table.embedding[table.seen]).all()


def test_resuming_continues_bit_for_bit(tiny_data: Path, tmp_path: Path) -> None:
    pretrain(dataclasses.replace(config(tiny_data, tmp_path, **{"train.steps": 6}), name="straight"))
    pretrain(dataclasses.replace(config(tiny_data, tmp_path, **{"train.steps": 6}), name="cut"))
    run = tmp_path / "cut"
    (run / "checkpoints" / "step-00000006" / "state.json").unlink()
    done = pretrain(PretrainConfig(runs=tmp_path, name="cut", resume=True, gpus=0))
    assert done.resumed_from == 4
    one, two = (tensors(tmp_path / name, 6) for name in ("straight", "cut"))
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_embedding_does_not_depend_on_batching(tiny_data: Path, tmp_path: Path) -> None:
    pretrain(dataclasses.replace(config(tiny_data, tmp_path, **{"train.steps": 2}), name="r"))
    run = find_run(tmp_path / "r", tmp_path)
    tables = []
    for max_tokens in (250, 100_000):
        out = tmp_path / f"{max_tokens}.parquet"
        embed(EmbedConfig(run=run.folder, out=out, max_tokens=max_tokens, gpus=0))
        tables.append(load_embeddings(out).embedding)
    np.testing.assert_allclose(tables[0], tables[1], atol=1e-5)


def test_tiny_learns_from_events(tiny_data: Path, tmp_path: Path) -> None:
    """The loss falls, and units keep embeddings of their own."""
    done = pretrain(
        PretrainConfig(
            data=tiny_data,
            runs=tmp_path,
            preset="tiny",
            gpus=0,
            changes={"model.tokens": "events", "train.steps": 60, "train.batch_windows": 4},
        )
    )
    assert done.first_loss is not None
    assert done.last_loss is not None
    assert done.last_loss < done.first_loss - 0.15
    assert done.rankme is not None
    assert done.rankme > 2.5


def test_spike_events_and_calcium_train_one_trunk(tmp_path: Path) -> None:
    folder = tmp_path / "nuclr-data"
    folder.mkdir()
    made = [tiny_population(0, n_units=20, minutes=1.0), tiny_calcium(1, 20, minutes=2.0, subject="imaged")]
    for number, population in enumerate(made):
        source = SourceRecord(path=str(number), reader="test", detected="made")
        write_population(population, folder / f"{number}.h5", source=source)
    pretrain(dataclasses.replace(config(folder, tmp_path / "runs", **{"train.steps": 3}), name="both"))
    run = find_run(tmp_path / "runs" / "both", tmp_path / "runs")
    assert run.settings.model.tokens == ("events", "calcium")
    weights = tensors(run.folder, 3)
    before = {name: value.numpy() for name, value in initial_model(run.settings).state_dict().items()}
    for name in ("encoder.patches.calcium.linear.weight", "encoder.events.attention.content"):
        assert not np.array_equal(weights[name], before[name])
    resumed = pretrain(
        PretrainConfig(
            runs=tmp_path / "runs", name="both", resume=True, changes={"model.tokens": "events"}, gpus=0
        )
    )
    assert resumed.resumed_from == 3
    embed(EmbedConfig(run=run.folder, out=tmp_path / "e.parquet", gpus=0))
    table = load_embeddings(tmp_path / "e.parquet")
    assert set(table.modality.tolist()) == {"spikes", "calcium"}
    assert np.isfinite(table.embedding[table.seen]).all()


def test_an_encoder_of_one_modality_refuses_the_other(tiny_data: Path, tmp_path: Path) -> None:
    (tmp_path / "imaged").mkdir()
    population = tiny_calcium(1, 20, minutes=2.0, subject="imaged")
    source = SourceRecord(path="i", reader="test", detected="made")
    write_population(population, tmp_path / "imaged" / "i.h5", source=source)
    settings = for_modalities(
        with_changes(preset_settings("tiny"), {"model.tokens": "events"}), frozenset({"spikes"})
    )
    with pytest.raises(InputError, match="trained on spikes only"):
        embed_sessions(
            initial_model(settings).encoder,
            open_sessions(tmp_path / "imaged"),
            settings.tokens,
            choose_device(0),
            max_tokens=1000,
        )
    with pytest.raises(InputError, match="the sessions hold calcium only"):
        pretrain(config(tmp_path / "imaged", tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model.tokens": "calcium"}, "counts or events"),
        ({"model.tokens": "counts,events"}, "counts or events"),
        ({"model.tokens": "spikes"}, "counts, calcium, events"),
        ({"tokens.spikes.kind": "events"}, "it follows from model.tokens"),
        ({"model.events_latents": 5}, "tokens.spikes.patch_s"),
        ({"model.events_window_s": 5}, "tokens.spikes.window_s"),
    ],
    ids=str,
)
def test_settings_that_cannot_be(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as found:
        with_changes(preset_settings("tiny"), changes)
    assert says in str(found.value)


def test_sizes_follow_from_the_tokens() -> None:
    changes = {"model.tokens": ["events"], "tokens.spikes.window_s": 4, "tokens.spikes.patch_s": 0.5}
    settings = for_modalities(with_changes(preset_settings("ephys"), changes), frozenset({"spikes"}))
    assert settings.tokens.spikes.kind == "events"
    assert (settings.model.events_latents, settings.model.events_window_s) == (8, 4.0)
    counts = for_modalities(preset_settings("ephys"), frozenset({"spikes"}))
    assert counts.tokens.spikes.kind == "counts"
    assert counts.model.tokens == ("counts",)


def test_tiny_widens_its_heads_for_events_unless_told_otherwise() -> None:
    def heads(preset: str, **changes: Any) -> tuple[int, float]:
        model = with_changes(preset_settings(preset), {"model.tokens": "events", **changes}).model
        return model.head_dim, model.rotary_fraction

    assert heads("tiny") == (32, 1.0)
    assert heads("tiny", **{"model.head_dim": 16}) == (16, 1.0)
    assert heads("ephys") == (64, 0.5)
    chosen = with_changes(preset_settings("tiny"), {"model.tokens": "events", "model.head_dim": 16})
    assert with_changes(chosen, {"model.tokens": "events"}).model.head_dim == 16  # as when a run is resumed
    assert with_changes(preset_settings("tiny"), {"model.tokens": "counts"}) == preset_settings("tiny")
