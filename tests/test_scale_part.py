"""Pretraining on a part of the data: nothing else is touched, and smaller parts lie within larger ones."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from nuclr_cli.api import Population, Spikes
from nuclr_cli.data.part import PartOfRecording, after_seconds, first_seconds, some_units
from nuclr_cli.data.session import Session, SessionKey
from nuclr_cli.data.store import SourceRecord, write_population
from nuclr_cli.data.tokens import CalciumTokens, TokenSpec
from nuclr_cli.data.views import make_view
from nuclr_cli.errors import InputError
from nuclr_cli.testing.simulate import tiny_calcium, tiny_population
from nuclr_cli.workflows.pretrain import PretrainConfig, pretrain
from nuclr_cli.workflows.runs import open_run

KEY = SessionKey("m1", "day1", "0")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


SMALL = {
    "model.dim": 16,
    "model.heads": 2,
    "model.head_dim": 8,
    "train.steps": 4,
    "train.batch_windows": 4,
    "train.log_every": 1,
    "train.checkpoint_every": 2,
}


def store(folder: Path, population: Population, name: str) -> Path:
    folder.mkdir(exist_ok=True)
    write_population(
        population, folder / name, source=SourceRecord(path=name, reader="test", detected="made")
    )
    return folder / name


def train(data: Path, runs: Path, **changes: Any) -> PretrainConfig:
    return PretrainConfig(data=data, runs=runs, name="r", preset="tiny", gpus=0, changes={**SMALL, **changes})


def weights(run: Path) -> dict[str, Any]:
    return dict(load_file(run / "checkpoints" / "step-00000004" / "model.safetensors"))


@given(st.integers(1, 300), st.floats(0.01, 1.0), st.floats(0.01, 1.0), st.integers(0, 9), st.integers(0, 40))
def test_a_smaller_share_of_units_lies_within_a_larger(
    n: int, one: float, other: float, seed: int, least: int
) -> None:
    small, large = (set(some_units(n, share, least, seed, KEY).tolist()) for share in sorted((one, other)))
    assert small <= large <= set(range(n))
    assert len(small) >= min(n, max(1, least))
    assert len(large) == min(n, max(round(max(one, other) * n + 1e-9), least, 1))


def test_seeds_and_sessions_draw_other_units() -> None:
    draws = {
        tuple(some_units(100, 0.3, 1, seed, SessionKey("m", day, "0")).tolist())
        for seed in (1, 2)
        for day in ("a", "b")
    }
    assert len(draws) == 4
    assert some_units(100, 1.0, 1, 1, KEY).tolist() == list(range(100))


@given(
    st.lists(st.tuples(st.floats(0.01, 20), st.floats(0.01, 50)), min_size=1, max_size=5),
    st.floats(0.01, 300),
    st.floats(0.01, 300),
)
def test_the_first_seconds_and_the_rest_make_up_the_whole(
    spans: list[tuple[float, float]], one: float, other: float
) -> None:
    steps = np.cumsum([value for span in spans for value in span])
    intervals = steps.reshape(-1, 2)
    total = float((intervals[:, 1] - intervals[:, 0]).sum())
    used = [(seconds, first_seconds(intervals, seconds)) for seconds in sorted((one, other))]
    for seconds, part in used:
        rest = after_seconds(intervals, seconds)
        assert float((part[:, 1] - part[:, 0]).sum()) == pytest.approx(min(seconds, total))
        assert float((rest[:, 1] - rest[:, 0]).sum()) == pytest.approx(max(total - seconds, 0.0), abs=1e-9)
        assert not len(rest) or part[-1, 1] <= rest[0, 0]
    short, long = (part for _, part in used)
    assert len(short) <= len(long)
    assert np.array_equal(short[:, 0], long[: len(short), 0])
    assert (short[:, 1] <= long[: len(short), 1]).all()


def test_a_part_has_the_spikes_of_its_units_and_time_only(tmp_path: Path) -> None:
    session = Session(store(tmp_path, tiny_population(0, n_units=20, minutes=1.0), "a.h5"))
    rows = np.array([2, 3, 11])
    part: PartOfRecording = pickle.loads(
        pickle.dumps(PartOfRecording(session, rows, np.array([[5.0, 30.0]])))
    )
    times, unit_index = part.spikes_between(0.0, 60.0)
    for place, row in enumerate(rows.tolist()):
        own = session.spikes.times[session.spikes.unit_index == row]
        np.testing.assert_array_equal(times[unit_index == place], own[(own >= 5.0) & (own < 30.0)])
    assert (part.n_units, part.duration_s) == (3, 25.0)
    assert set(unit_index.tolist()) == {0, 1, 2}


def test_traces_of_a_part_are_those_of_its_units_and_frames(tmp_path: Path) -> None:
    whole = tiny_calcium(0, n_units=12, minutes=2.0, n_planes=2)
    assert whole.calcium is not None
    session = Session(store(tmp_path, whole, "a.h5"))
    rows, tokens = np.array([1, 4, 5, 9]), TokenSpec(calcium=CalciumTokens(n_samples=32))
    part = PartOfRecording(session, rows, np.array([[0.0, 60.0]]))
    view, same = make_view(part, 20.0, tokens), make_view(session, 20.0, tokens, rows)
    np.testing.assert_allclose(
        view.inputs * part.calcium_scale, same.inputs * session.calcium_scale, rtol=1e-5
    )
    assert len(part.calcium.timestamps) == 1800
    np.testing.assert_array_equal(np.asarray(part.calcium.values), whole.calcium.values[:1800][:, rows])
    assert part.calcium_scale == pytest.approx(np.percentile(whole.calcium.values[:1800][:, rows], 99.0))


def poisoned(population: Population, keep_units: list[int], until_s: float) -> Population:
    """The same population with other spikes wherever a part does not reach."""
    assert population.spikes is not None
    times, units = population.spikes.times, population.spikes.unit_index
    inside = np.isin(units, keep_units) & (times < until_s)
    rng = np.random.default_rng(1)
    others = np.setdiff1d(np.arange(population.n_units), keep_units)
    span = float(population.intervals[-1, 1])
    more_times = np.concatenate([rng.uniform(0, span, 3000), rng.uniform(until_s, span, 2000)])
    more_units = np.concatenate([rng.choice(others, 3000), rng.choice(population.n_units, 2000)])
    all_times = np.concatenate([times[inside], more_times])
    all_units = np.concatenate([units[inside], more_units])
    order = np.argsort(all_times, kind="stable")
    return dataclasses.replace(population, spikes=Spikes(all_times[order], all_units[order]))


def test_what_is_left_out_is_never_touched(tmp_path: Path) -> None:
    """Other spikes in other units, later minutes and another subject: the same weights, bit for bit."""
    one = tiny_population(0, n_units=40, minutes=2.0, subject="s0")
    changes = {"data.subjects": "s0", "data.unit_share": 0.6, "data.minutes": 1.0}
    keep = some_units(40, 0.6, 22, 42, SessionKey("s0", "day1", "0")).tolist()
    for place, population, seed in (("a", one, 1), ("b", poisoned(one, keep, 60.0), 2)):
        store(tmp_path / place, population, "s0.h5")
        store(tmp_path / place, tiny_population(seed, n_units=40, minutes=2.0, subject="s1"), "s1.h5")
    runs = [pretrain(train(tmp_path / p, tmp_path / f"runs-{p}", **changes)) for p in ("a", "b")]
    a, b = (weights(run.run) for run in runs)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    assert (runs[0].units, runs[0].subjects) == (24, ("s0",))
    # The test can fail: with all units the other spikes do change the weights.
    wider = {**changes, "data.unit_share": 1.0}
    others = [pretrain(train(tmp_path / p, tmp_path / f"wide-{p}", **wider)) for p in ("a", "b")]
    c, d = (weights(run.run) for run in others)
    assert any(not np.array_equal(c[name], d[name]) for name in c)


def test_a_run_says_what_it_saw_and_resumes_only_with_that(tiny_data: Path, tmp_path: Path) -> None:
    changes = {"data.subjects": "s2,s0", "data.unit_share": 0.95, "data.minutes": 1.5}
    config = train(tiny_data, tmp_path, **changes)
    config = dataclasses.replace(config, hold_out_subjects=("s3",))
    record = pretrain(config)
    run = open_run(record.run)
    said = {s.subject: (s.role, s.units_trained, s.seconds_trained) for s in run.record.sessions}
    assert said == {
        "s0": ("train", 23, 90.0),
        "s1": ("left-out", 0, 0.0),
        "s2": ("train", 23, 90.0),
        "s3": ("held-out", 0, 0.0),
    }
    assert run.record.seen_subjects == ("s0", "s2")
    assert run.record.held_out_subjects == ("s3",)
    assert json.loads((record.run / "config.json").read_text())["data"]["subjects"] == ["s2", "s0"]
    again = dataclasses.replace(config, resume=True)
    assert pretrain(again).resumed_from == 4
    for key, value in (("data.unit_share", 1.0), ("data.minutes", 1.0), ("data.subjects", "s0")):
        other = dataclasses.replace(again, changes={**config.changes, key: value})
        with pytest.raises(InputError, match=key.replace(".", r"\.")):
            pretrain(other)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("data.subjects=s0,s9", "Subjects here: s0, s1, s2, s3"),
        ("data.subjects=s0,s1", "s1: held out by --hold-out-subjects, but listed in data.subjects"),
        ("data.unit_share=0", "not a share above 0"),
        ("data.time_share=1.5", "not a share above 0"),
        ("data.minutes=-1", "not a length of time"),
        ("data.minutes=0.2", "two windows need 20 s"),
    ],
)
def test_parts_that_make_no_sense_are_refused(
    tiny_data: Path, tmp_path: Path, setting: str, says: str
) -> None:
    key, value = setting.split("=")
    config = dataclasses.replace(
        train(tiny_data, tmp_path / "runs", **{key: value}), hold_out_subjects=("s1",)
    )
    with pytest.raises(InputError, match=says):
        pretrain(config)
    assert not (tmp_path / "runs").exists()
