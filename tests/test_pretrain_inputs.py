"""What pretrain and embed say about bad input, and what a run records."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nuclr_cli.data.embeddings import load_embeddings
from nuclr_cli.data.store import SourceRecord, write_population
from nuclr_cli.errors import InputError
from nuclr_cli.testing.simulate import tiny_calcium, tiny_population
from nuclr_cli.workflows.embed import EmbedConfig, embed
from nuclr_cli.workflows.presets import preset_settings, with_changes
from nuclr_cli.workflows.pretrain import PretrainConfig, pretrain
from nuclr_cli.workflows.pretrain_sessions import read_subject_list
from nuclr_cli.workflows.reporting import SilentReporter
from nuclr_cli.workflows.runs import find_run, open_run

SMALL = {
    "model.dim": 16,
    "model.heads": 2,
    "model.head_dim": 8,
    "train.steps": 4,
    "train.batch_windows": 4,
    "train.log_every": 1,
    "train.checkpoint_every": 2,
}


class Listener(SilentReporter):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.said.append(text)


def train(data: Path, runs: Path, **changes: Any) -> PretrainConfig:
    return PretrainConfig(data=data, runs=runs, preset="tiny", gpus=0, changes={**SMALL, **changes})


def store(folder: Path, population: Any, name: str) -> None:
    write_population(
        population, folder / name, source=SourceRecord(path=name, reader="test", detected="made")
    )


def test_missing_gpus_are_named(tiny_data: Path, tmp_path: Path, nuclr: Callable[..., Any]) -> None:
    import torch

    if torch.cuda.device_count() >= 64:
        pytest.skip("this machine really has 64 GPUs")
    done = nuclr("pretrain", tiny_data, "--runs", tmp_path, "--gpus", 64)
    assert done.code == 3
    assert "GPU" in done.err
    assert "--gpus 0" in done.err
    # By hand, as docs/cluster.md has it.
    assert "torchrun --nproc-per-node 64 --no-python -- nuclr ... --gpus 0" in " ".join(done.err.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--set", "train.step=5"), "train.steps"),
        (("--set", "train.steps=many"), "whole number"),
        (("--set", "train.steps"), "has no '='"),
        (("--set", "model.counts_samples=10"), "tokens.spikes.patch_s"),
        (("--set", "loss.name=simclr"), "dcl, vicreg"),
        (("--set", "tokens.spikes.bin_s=0.3"), "a whole number is needed"),
        (("--set", "train.precision=fp8"), "fp32"),
        (("--preset", "huge"), "ephys, calcium, tiny"),
        (("--hold-out-subjects", "s9"), "s0, s1, s2, s3"),
        (("--hold-out-subjects", "s0,s1,s2,s3"), "nothing is left"),
        (("--config", "absent.toml"), "absent.toml"),
        (("--init-from", "absent"), "no run 'absent'"),
        (("--hold-out-subjects", ""), "names no subject"),
        (("--hold-out-subjects", ",".join(["s9"] * 200)), "s0, s1, s2, s3"),
        (("--name", "../elsewhere"), "--name '../elsewhere'"),
        (("--name", "a/b"), "--name 'a/b'"),
        (("--name", ""), "--name ''"),
        (("--set", "train.learning_rate=inf"), "a finite number"),
        (("--set", "train.weight_decay=nan"), "a finite number"),
    ],
)
def test_bad_settings_are_refused(
    tiny_data: Path, tmp_path: Path, nuclr: Callable[..., Any], arguments: tuple[str, ...], says: str
) -> None:
    done = nuclr("pretrain", tiny_data, "--runs", tmp_path / "runs", *arguments)
    assert done.code == 3, done.err
    assert says in " ".join(done.err.split())
    assert "Traceback" not in done.err
    assert not (tmp_path / "runs").exists()


def test_empty_data(tmp_path: Path, nuclr: Callable[..., Any]) -> None:
    (tmp_path / "nuclr-data").mkdir()
    for command in ("pretrain", "info"):
        done = nuclr(command, cwd=tmp_path)
        assert done.code == 3
        assert "nuclr preprocess" in done.err
    done = nuclr("embed", cwd=tmp_path)
    assert done.code == 3
    assert "nuclr pretrain" in done.err


def test_short_sessions_are_named_and_skipped(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    store(data, tiny_population(0, n_units=20, minutes=1.0, subject="long"), "long.h5")
    store(data, tiny_population(1, n_units=20, minutes=0.2, subject="brief"), "brief.h5")
    listener = Listener()
    record = pretrain(train(data, tmp_path / "runs"), listener)
    assert [(s.subject, s.role) for s in record.skipped] == [("brief", "skipped")]
    assert any("brief" in text and "skipped" in text for text in listener.said)
    assert any("1 of 2 sessions" in text for text in listener.said)

    (data / "long.h5").unlink()
    with pytest.raises(InputError, match="brief"):
        pretrain(train(data, tmp_path / "runs2"))
    assert not (tmp_path / "runs2").exists()


def test_held_out_subjects_are_recorded_and_never_seen(tiny_data: Path, tmp_path: Path) -> None:
    config = PretrainConfig(
        data=tiny_data, runs=tmp_path, preset="tiny", gpus=0, changes=SMALL, hold_out_subjects=("s1",)
    )
    record = pretrain(config)
    run = open_run(record.run)
    assert run.record.held_out_subjects == ("s1",)
    assert run.record.trained_subjects == ("s0", "s2", "s3")
    out = embed(EmbedConfig(run=record.run, gpus=0))
    seen = {s.subject: s.seen_in_training for s in out.sessions}
    assert seen == {"s0": True, "s1": False, "s2": True, "s3": True}

    # The same run without s1 on disk has the same weights: nothing of s1 leaked into training.
    fewer = tmp_path / "fewer"
    shutil.copytree(tiny_data, fewer)
    (fewer / "s1.h5").unlink()
    other = pretrain(train(fewer, tmp_path / "runs2"))
    assert other.last_loss == record.last_loss


def test_units_never_active_have_a_row(tiny_data: Path, tmp_path: Path) -> None:
    record = pretrain(train(tiny_data, tmp_path))
    out = embed(EmbedConfig(run=record.run, gpus=0))
    table = load_embeddings(out.out)
    silent = np.isnan(table.embedding).all(axis=1)
    assert out.n_unseen == silent.sum() == 4
    assert len(out.unseen) == 4
    np.testing.assert_array_equal(silent, table.n_events == 0)
    np.testing.assert_array_equal(silent, table.n_windows == 0)
    assert len(table.unit_id) == 4 * 24


def test_both_modalities_train_one_trunk(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    store(data, tiny_population(0, n_units=20, minutes=1.5, subject="a"), "a.h5")
    store(data, tiny_calcium(1, n_units=18, minutes=2.0, subject="b"), "b.h5")
    record = pretrain(train(data, tmp_path / "runs", **{"train.steps": 6}))
    run = open_run(record.run)
    assert set(run.settings.model.tokens) == {"counts", "calcium"}
    out = embed(EmbedConfig(run=record.run, gpus=0))
    table = load_embeddings(out.out)
    assert set(table.modality) == {"spikes", "calcium"}
    assert np.isfinite(table.embedding[table.modality == "calcium"]).all()


def test_a_run_on_spikes_refuses_calcium(tiny_data: Path, tmp_path: Path) -> None:
    record = pretrain(train(tiny_data, tmp_path / "runs"))
    (tmp_path / "calcium").mkdir()
    store(tmp_path / "calcium", tiny_calcium(1, n_units=18, minutes=2.0, subject="b"), "b.h5")
    with pytest.raises(InputError, match="trained on spikes only"):
        embed(EmbedConfig(data=tmp_path / "calcium", run=record.run, gpus=0, out=tmp_path / "e.parquet"))
    assert not (tmp_path / "e.parquet").exists()


def test_embedding_does_not_depend_on_batching(tiny_data: Path, tmp_path: Path) -> None:
    record = pretrain(train(tiny_data, tmp_path))
    tables = []
    for max_tokens in (1, 700, 100_000):
        out = tmp_path / f"{max_tokens}.parquet"
        embed(EmbedConfig(run=record.run, gpus=0, max_tokens=max_tokens, out=out))
        tables.append(load_embeddings(out))
    for other in tables[1:]:
        np.testing.assert_array_equal(tables[0].n_windows, other.n_windows)
        np.testing.assert_allclose(tables[0].embedding, other.embedding, rtol=1e-4, atol=1e-6)


def test_init_from_starts_at_the_other_runs_weights(tiny_data: Path, tmp_path: Path) -> None:
    first = pretrain(train(tiny_data, tmp_path))
    config = PretrainConfig(
        data=tiny_data,
        runs=tmp_path,
        preset="tiny",
        gpus=0,
        init_from=first.run,
        changes={**SMALL, "train.steps": 1, "train.learning_rate": 1e-30, "train.warmup_steps": 0},
    )
    second = pretrain(config)
    a, b = (embed(EmbedConfig(run=r.run, gpus=0)) for r in (first, second))
    one, two = load_embeddings(a.out).embedding, load_embeddings(b.out).embedding
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


def test_a_loss_that_is_not_finite_stops_with_the_batch_written_down(tiny_data: Path, tmp_path: Path) -> None:
    changes = {"train.learning_rate": 1e30, "train.warmup_steps": 0, "train.steps": 50}
    with pytest.raises(InputError, match="not finite at step"):
        pretrain(train(tiny_data, tmp_path, **changes))
    (run,) = tmp_path.iterdir()
    (written,) = run.glob("not-finite-step-*.json")
    document = json.loads(written.read_text())
    assert len(document["windows"]) == SMALL["train.batch_windows"]
    assert {window["session"] for window in document["windows"]} <= {f"s{i}/day{i}/0" for i in range(4)}
    assert open_run(run).record.state == "failed"


def test_vicreg_trains_and_refuses_a_cut_batch(tiny_data: Path, tmp_path: Path) -> None:
    record = pretrain(train(tiny_data, tmp_path / "a", **{"loss.name": "vicreg"}))
    assert record.last_loss is not None
    with pytest.raises(InputError, match=r"train\.max_tokens"):
        pretrain(train(tiny_data, tmp_path / "b", **{"loss.name": "vicreg", "train.max_tokens": 500}))


def test_the_gradient_does_not_depend_on_the_token_cap(tiny_data: Path, tmp_path: Path) -> None:
    """One step with the batch whole or cut into many micro-batches: the same loss, the same weights."""
    from safetensors.numpy import load_file

    changes = {"train.steps": 1, "train.warmup_steps": 0, "model.dropout": 0.0}
    runs = [
        pretrain(train(tiny_data, tmp_path / str(cap), **{**changes, "train.max_tokens": cap}))
        for cap in (300, 100_000)
    ]
    weights = [load_file(r.run / "checkpoints" / "step-00000001" / "optimizer.safetensors") for r in runs]
    for key in weights[0]:
        if key.endswith("exp_avg"):  # a tenth of the gradient
            np.testing.assert_allclose(weights[0][key], weights[1][key], rtol=2e-3, atol=2e-7, err_msg=key)
    losses = [r.last_loss for r in runs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_flag_is_no_number() -> None:
    with pytest.raises(InputError, match="whole number"):
        with_changes(preset_settings("tiny"), {"train.steps": True})


def test_a_damaged_run_bars_no_other(tiny_data: Path, tmp_path: Path) -> None:
    whole = pretrain(train(tiny_data, tmp_path))
    for number, text in enumerate(("{", "[]", "null", '{"sessions": 5}')):
        for name in ("run.json", "config.json"):
            folder = tmp_path / f"damaged-{name}-{number}"
            shutil.copytree(whole.run, folder)
            (folder / name).write_text(text)
            with pytest.raises(InputError, match=f"damaged-{name}-{number}"):
                open_run(folder)
    listener = Listener()
    out = embed(EmbedConfig(runs=tmp_path, gpus=0), listener)
    assert out.run == whole.name
    assert sum("is passed over" in text for text in listener.said) == 8


def test_a_folder_that_is_no_run_hides_none(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = pretrain(dataclasses.replace(train(tiny_data, tmp_path / "runs"), name="mouse"))
    (tmp_path / "mouse").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_run(Path("mouse"), Path("runs")).folder.resolve() == record.run
    resumed = pretrain(
        dataclasses.replace(train(tiny_data, Path("runs")), name="mouse", resume=True, data=tiny_data)
    )
    assert resumed.resumed_from == SMALL["train.steps"]


def test_sessions_that_came_after_the_start_are_refused(tmp_path: Path) -> None:
    """Also when the run was killed before its first checkpoint."""
    data = tmp_path / "data"
    data.mkdir()
    store(data, tiny_population(0, n_units=20, minutes=1.0, subject="a"), "a.h5")
    config = dataclasses.replace(train(data, tmp_path / "runs"), name="r")
    run = open_run(pretrain(config).run)
    shutil.rmtree(run.checkpoints)
    run.with_state("running", 0)
    store(data, tiny_population(1, n_units=20, minutes=1.0, subject="b"), "b.h5")
    with pytest.raises(InputError, match="new or changed: b/"):
        pretrain(dataclasses.replace(config, resume=True))


def test_what_the_first_weights_saw_is_written_down(tiny_data: Path, tmp_path: Path) -> None:
    first = pretrain(train(tiny_data, tmp_path / "one"))
    listener = Listener()
    config = dataclasses.replace(
        train(tiny_data, tmp_path / "two"), init_from=first.run, hold_out_subjects=("s1",)
    )
    second = pretrain(config, listener)
    assert any("s1" in text and "not inductive" in text for text in listener.said)
    record = open_run(second.run).record
    assert record.trained_subjects == ("s0", "s2", "s3")
    assert record.seen_subjects == ("s0", "s1", "s2", "s3")
    assert Path(record.init_from) == first.run.resolve()
    out = embed(EmbedConfig(run=second.run, gpus=0))
    assert all(session.seen_in_training for session in out.sessions)


def test_weights_that_do_not_fit_leave_no_run(tiny_data: Path, tmp_path: Path) -> None:
    first = pretrain(train(tiny_data, tmp_path / "one"))
    for changes in ({"model.dim": 32}, {"loss.name": "vicreg"}):
        config = dataclasses.replace(train(tiny_data, tmp_path / "two", **changes), init_from=first.run)
        with pytest.raises(InputError, match="differs from the one asked for"):
            pretrain(config)
    shutil.rmtree(first.run / "checkpoints")
    with pytest.raises(InputError, match="no checkpoint yet"):
        pretrain(dataclasses.replace(train(tiny_data, tmp_path / "two"), init_from=first.run))
    assert not (tmp_path / "two").exists()


def test_a_limit_too_short_to_embed_leaves_the_old_table(tiny_data: Path, tmp_path: Path) -> None:
    record = pretrain(train(tiny_data, tmp_path))
    before = embed(EmbedConfig(run=record.run, gpus=0)).out.read_bytes()
    for limit in (0.0, -5.0, float("nan"), 3.0):
        with pytest.raises(InputError, match=r"limit|first 3 s"):
            embed(EmbedConfig(run=record.run, gpus=0, limit_s=limit))
    assert (record.run / "embeddings.parquet").read_bytes() == before


def test_held_out_subjects_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "held-out.txt"
    path.write_text("\ufeffs1\r\n\r\n s2 \r\ns1\r\n", encoding="utf-8")
    assert read_subject_list(str(path)) == ("s1", "s2")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        read_subject_list(str(path))


@pytest.mark.parametrize("key", ["train.weight_decay", "train.warmup_steps", "train.workers"])
def test_negative_settings_are_refused_before_a_run_exists(tiny_data: Path, tmp_path: Path, key: str) -> None:
    with pytest.raises(InputError, match=key):
        pretrain(train(tiny_data, tmp_path / "runs", **{key: -1}))
    assert not (tmp_path / "runs").exists()


def test_embed_takes_the_newest_run_that_has_a_checkpoint(tiny_data: Path, tmp_path: Path) -> None:
    good = pretrain(train(tiny_data, tmp_path))
    with pytest.raises(InputError, match="not finite"):
        pretrain(train(tiny_data, tmp_path, **{"train.learning_rate": 1e30, "train.warmup_steps": 0}))
    assert embed(EmbedConfig(runs=tmp_path, gpus=0)).run == good.name


def test_a_run_that_went_wrong_is_not_resumed_unasked(tiny_data: Path, tmp_path: Path) -> None:
    import dataclasses

    bad = train(tiny_data, tmp_path, **{"train.learning_rate": 1e30, "train.warmup_steps": 0})
    with pytest.raises(InputError, match="not finite"):
        pretrain(bad)
    record = pretrain(dataclasses.replace(train(tiny_data, tmp_path), resume=True))
    assert record.resumed_from == 0
    assert record.steps == SMALL["train.steps"]


def test_resume_refuses_other_spikes_but_not_other_labels(tiny_data: Path, tmp_path: Path) -> None:
    import dataclasses
    import shutil

    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    pretrain(dataclasses.replace(train(data, tmp_path / "runs"), name="r"))
    again = PretrainConfig(runs=tmp_path / "runs", name="r", resume=True, gpus=0)

    def rewrite(seed: int, label: str) -> None:
        population = tiny_population(
            seed, n_units=24, minutes=2.0, subject="s0", session="day0", silent_units=1
        )
        units = {**population.units, "cell_type": np.full(24, label)}
        (data / "s0.h5").unlink()
        store(data, dataclasses.replace(population, units=units), "s0.h5")

    rewrite(0, "relabelled")
    pretrain(again)
    rewrite(77, "relabelled")
    with pytest.raises(InputError, match="s0/day0"):
        pretrain(again)


def test_a_label_called_like_a_column_of_the_table_travels_under_another_name(tmp_path: Path) -> None:
    import dataclasses

    data = tmp_path / "data"
    data.mkdir()
    population = tiny_population(0, n_units=20, minutes=1.0)
    units = {**population.units, "modality": np.full(20, "extracellular")}
    store(data, dataclasses.replace(population, units=units), "a.h5")
    record = pretrain(train(data, tmp_path / "runs"))
    table = load_embeddings(embed(EmbedConfig(run=record.run, gpus=0)).out)
    assert set(table.modality) == {"spikes"}
    assert set(table.labels["modality_label"]) == {"extracellular"}
