"""The plan of a sweep: nested sizes, fixed test subjects, and clear words where the data do not allow it."""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nuclr_cli.api import Population
from nuclr_cli.data.part import some_units
from nuclr_cli.data.sessions import open_sessions
from nuclr_cli.data.store import SourceRecord, write_population
from nuclr_cli.errors import InputError
from nuclr_cli.testing.simulate import tiny_calcium, tiny_population
from nuclr_cli.workflows.devices import choose_device
from nuclr_cli.workflows.held_out_loss import held_out_loss
from nuclr_cli.workflows.pair_model import initial_model
from nuclr_cli.workflows.presets import for_modalities, preset_settings, with_changes
from nuclr_cli.workflows.pretrain_sessions import training_parts
from nuclr_cli.workflows.scale_config import ScaleConfig
from nuclr_cli.workflows.scale_design import Design, design, sweep_sessions
from nuclr_cli.workflows.scale_grid import (
    Grid,
    held_out_recordings,
    make_grid,
    point_settings,
    spread_numbers,
)

SETTINGS = for_modalities(preset_settings("tiny"), frozenset({"spikes"}))


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def store(folder: Path, population: Population, name: str) -> None:
    folder.mkdir(exist_ok=True)
    write_population(
        population, folder / name, source=SourceRecord(path=name, reader="test", detected="made")
    )


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine subjects of 40 units and 2 minutes; the first seven carry labels, the last is too short."""
    folder = tmp_path_factory.mktemp("cohort") / "data"
    for i in range(9):
        population = tiny_population(
            i, n_units=40, minutes=0.2 if i == 8 else 2.0, subject=f"m{i}", label_columns=i < 7
        )
        store(folder, population, f"m{i}.h5")
    return folder


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One sorting of 30 units and 3 minutes."""
    folder = tmp_path_factory.mktemp("single") / "data"
    store(folder, tiny_population(0, n_units=30, minutes=3.0), "a.h5")
    return folder


def plan(data: Path, settings: Any = SETTINGS, **options: Any) -> tuple[Design, Grid]:
    config = ScaleConfig(label="cell_type", data=data, **options)
    sessions = open_sessions(data)
    chosen = design(config, sessions, settings.tokens)
    return chosen, make_grid(config, chosen, sessions, settings)


def by_seed(grid: Grid) -> dict[int, list[Any]]:
    found = defaultdict(list)
    for point in sorted(grid.points, key=lambda point: point.size):
        found[point.seed].append(point)
    return found


def test_subjects_grow_nested_and_never_hold_a_test_subject(cohort: Path) -> None:
    chosen, grid = plan(cohort, seeds=4)
    assert chosen.axis == "subjects"
    assert len(chosen.held_out) == 2  # a quarter of seven
    assert chosen.split == "subject"
    assert chosen.probe_test_subjects == chosen.held_out
    assert set(chosen.held_out) <= {f"m{i}" for i in range(7)}
    for points in by_seed(grid).values():
        assert [point.size for point in points] == [1, 2, 3, 4, 5, 6]  # m8 is too short to count
        for small, large in itertools.pairwise(points):
            assert set(small.subjects) < set(large.subjects)
        for point in points:
            assert not set(point.subjects) & {*chosen.held_out, "m8"}
            assert point.n_units == 40 * len(point.subjects)
    smallest = {points[0].subjects for points in by_seed(grid).values()}
    assert len(smallest) > 1, "seeds draw different subjects"


def test_test_subjects_do_not_change_between_calls_and_can_be_chosen(cohort: Path) -> None:
    first, _ = plan(cohort, axis="subjects", points=3)
    again, _ = plan(cohort, axis="parameters")
    assert first.held_out == again.held_out
    chosen, grid = plan(cohort, axis="subjects", test_subjects=("m3", "m1", "m7"))
    assert chosen.held_out == ("m1", "m3", "m7")
    assert chosen.probe_test_subjects == ("m1", "m3")  # m7 has no labels
    assert not {"m1", "m3", "m7"} & {subject for point in grid.points for subject in point.subjects}


def test_drawn_test_subjects_know_the_classes_of_the_others(tmp_path: Path) -> None:
    """A class that two subjects have can be trained and tested in one way only; of one subject, in none."""
    for i in range(8):
        population = tiny_population(i, n_units=30, minutes=1.0, subject=f"m{i}")
        units = dict(population.units)
        if i in (2, 5):
            units["cell_type"] = np.array(["rare"] * 3 + units["cell_type"][3:].tolist())
        store(tmp_path, dataclasses.replace(population, units=units), f"m{i}.h5")
    for seed in range(10):
        chosen, _ = plan(tmp_path, seed=seed, seeds=1)
        assert len({"m2", "m5"} & set(chosen.held_out)) == 1
    (tmp_path / "m5.h5").unlink()
    with pytest.raises(InputError, match="--classes excitatory,inhibitory"):
        plan(tmp_path)
    chosen, _ = plan(tmp_path, classes=("excitatory", "inhibitory"))
    assert chosen.split == "subject"


def test_units_grow_nested_and_stay_enough_for_two_views(cohort: Path) -> None:
    chosen, grid = plan(cohort, axis="units", seeds=2)
    sessions = [s for s in open_sessions(cohort) if s.key.subject not in (*chosen.held_out, "m8")]
    for seed, points in by_seed(grid).items():
        assert len(points) == 6
        assert points[0].n_units == 22 * 6  # 11 units in each of two views of half the units
        assert points[-1].n_units == 40 * 6
        for session in sessions:
            rows = [
                set(some_units(40, float(p.changes["data.unit_share"]), 22, seed, session.key).tolist())
                for p in points
            ]
            assert all(small < large for small, large in itertools.pairwise(rows))
    assert {point.subjects for point in grid.points} == {grid.points[0].subjects}


def test_minutes_grow_from_the_start_of_each_session(cohort: Path) -> None:
    chosen, grid = plan(cohort, axis="minutes", seeds=1)
    assert [point.size for point in grid.points][-1] == 2.0
    assert grid.points[0].size == pytest.approx(20 / 60, rel=1e-3)  # two windows
    sessions = [s for s in open_sessions(cohort) if s.key.subject in grid.points[0].subjects]
    ends = []
    for point in grid.points:
        own = point_settings(SETTINGS, point, chosen.time_share)
        parts = training_parts(sessions, own)
        assert {float(part.intervals[0, 0]) for part in parts} == {0.0}
        ends.append(max(float(part.intervals[-1, 1]) for part in parts))
    assert ends == sorted(set(ends))
    assert ends[-1] == 120.0


def test_parameters_grow_with_the_width(cohort: Path) -> None:
    _, grid = plan(cohort, axis="parameters", seeds=1)
    sizes = [point.size for point in grid.points]
    assert len(sizes) == 6
    assert sizes == sorted(set(sizes))
    assert sizes[-1] > 10 * sizes[0]
    tiny = next(point for point in grid.points if point.value == 64)
    assert tiny.size == sum(p.numel() for p in initial_model(SETTINGS).encoder.parameters())
    assert {point.subjects for point in grid.points} == {grid.points[0].subjects}


def test_one_sorting_grows_in_time_and_its_end_is_held_out(single: Path) -> None:
    chosen, grid = plan(single)
    assert (chosen.axis, chosen.held_out, chosen.split) == ("minutes", (), "unit")
    assert chosen.time_share == pytest.approx(0.8)
    assert "last 20% of each session" in chosen.loss_from
    assert any("nothing about new animals" in text for text in chosen.warnings)
    assert grid.points[-1].size == pytest.approx(0.8 * 3.0)
    (held_out,) = held_out_recordings(open_sessions(single), chosen.held_out, chosen.time_share)
    assert held_out.intervals.tolist() == [[pytest.approx(144.0), 180.0]]
    own = point_settings(SETTINGS, max(grid.points, key=lambda p: p.size), chosen.time_share)
    (trained,) = training_parts(open_sessions(single), own)
    assert trained.intervals[-1, 1] <= held_out.intervals[0, 0]


def test_a_sorting_too_short_to_hold_time_out_has_no_held_out_loss(tmp_path: Path) -> None:
    store(tmp_path, tiny_population(0, n_units=30, minutes=1.0), "a.h5")
    chosen, grid = plan(tmp_path)
    assert (chosen.time_share, chosen.loss_from) == (1.0, "")
    assert any("no held-out loss" in text for text in chosen.warnings)
    assert grid.points[-1].size == 1.0


def test_one_labelled_subject_stays_out_of_what_grows(tmp_path: Path) -> None:
    for i in range(5):
        population = tiny_population(i, n_units=30, minutes=1.0, subject=f"m{i}", label_columns=i == 2)
        store(tmp_path, population, f"m{i}.h5")
    chosen, grid = plan(tmp_path)
    assert (chosen.axis, chosen.held_out, chosen.split) == ("subjects", ("m2",), "unit")
    assert grid.points[-1].subjects == ("m0", "m1", "m3", "m4")


def test_epochs_train_larger_points_longer(cohort: Path) -> None:
    _, grid = plan(cohort, axis="subjects", seeds=1, epochs=4.0)
    assert [point.steps for point in grid.points] == [round(4 * 11 * n / 8) for n in range(1, 7)]


@given(st.integers(1, 500), st.integers(2, 12))
def test_numbers_are_spread_over_the_whole_range(most: int, wanted: int) -> None:
    numbers = spread_numbers(most, wanted)
    assert numbers[0] == 1
    assert numbers[-1] == most
    assert list(numbers) == sorted(set(numbers))
    assert len(numbers) == min(most, wanted)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"axis": "subject"}, "--axis subject is not known"),
        ({"axis": "subjects", "values": (1.0, 7.0)}, "whole numbers up to 6"),
        ({"axis": "subjects", "values": (1.5,)}, "whole numbers up to 6"),
        ({"axis": "units", "values": (0.5, 1.5)}, "at most 1"),
        ({"axis": "minutes", "values": (1.0, 60.0)}, "minutes, at most 2"),
        ({"axis": "parameters", "values": (64.0, 65.0)}, "16, 24, 32"),
        ({"axis": "subjects", "values": (3.0,)}, "at least 2 sizes"),
        ({"axis": "units", "values": (0.1, 0.2)}, "comes to the same"),
        ({"axis": "minutes", "values": (0.1, 0.2, 0.3)}, "two windows need 20 s"),
        ({"test_subjects": ("m1", "x")}, "Subjects here: m0, m1"),
        ({"test_subjects": ("m7",)}, "Subjects with cell_type: m0"),
        ({"test_subjects": tuple(f"m{i}" for i in range(9))}, "nothing is left to train on"),
        ({"values": (-1.0,)}, "no size"),
        ({"steps": 0}, "--steps 0 is below 1"),
        ({"steps": 5, "epochs": 1.0}, "in two ways"),
        ({"epochs": float("nan")}, "not above 0"),
        ({"changes": {"data.minutes": 3}}, "data.minutes is what a sweep sets itself"),
        ({"axis": "parameters", "changes": {"model.dim": 64}}, "model.dim is what a sweep sets itself"),
        ({"variant": "papre"}, "Unknown probe variant"),
        ({"classes": ("excitatory", "x")}, "No unit has cell_type = x"),
    ],
)
def test_what_the_data_do_not_allow_is_refused(cohort: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as caught:
        plan(cohort, **options)
    assert says in str(caught.value)


def test_labels_are_judged_before_anything_is_trained(tmp_path: Path) -> None:
    population = tiny_population(0, n_units=30, minutes=1.0)
    units = {**population.units, "cell_type": np.array(["a"] * 29 + ["b"])}
    store(tmp_path, dataclasses.replace(population, units=units), "a.h5")
    with pytest.raises(InputError, match="fewer than 2 units"):
        plan(tmp_path)
    silent = tiny_population(0, n_units=30, minutes=1.0, silent_units=2)
    units = {**silent.units, "cell_type": np.array(["a"] * 28 + ["b"] * 2)}
    store(tmp_path / "b", dataclasses.replace(silent, units=units), "a.h5")
    with pytest.raises(InputError, match=r"2 units that have an embedding: b|there is 1"):
        plan(tmp_path / "b")
    with pytest.raises(InputError, match="No label 'cell_typ'"):
        design(ScaleConfig(label="cell_typ"), open_sessions(tmp_path / "b"), SETTINGS.tokens)


def test_units_can_only_be_left_out_where_there_are_enough(single: Path) -> None:
    with pytest.raises(InputError, match="none to leave out"):
        plan(single, with_changes(SETTINGS, {"views.min_units": 16}), axis="units")


def test_digests_follow_activity_and_labels(tmp_path: Path) -> None:
    def digests(seed: int, label: str) -> Any:
        folder = tmp_path / f"{seed}-{label}"
        population = tiny_population(seed, n_units=20, minutes=1.0)
        units = {**population.units, "cell_type": np.array([label] * 20)}
        store(folder, dataclasses.replace(population, units=units), "a.h5")
        (found,) = sweep_sessions(open_sessions(folder), "cell_type")
        return found

    base = digests(0, "x")
    assert digests(1, "x").activity != base.activity
    assert digests(0, "y").activity == base.activity
    assert digests(0, "y").labels != base.labels


@pytest.mark.parametrize("loss", ["dcl", "vicreg"])
def test_the_held_out_loss_is_a_function_of_the_weights_alone(cohort: Path, loss: str) -> None:
    """The same whatever the run's seed, its data, its micro-batches; another for other weights."""
    recordings = [s for s in open_sessions(cohort) if s.key.subject in ("m1", "m2")]
    base = with_changes(SETTINGS, {"loss.name": loss, "model.dropout": 0.3})
    model = initial_model(base)

    def value(settings: Any, n_windows: int = 16) -> Any:
        return held_out_loss(model, recordings, settings, choose_device(0), n_windows)

    first = value(base)
    assert first.loss is not None
    assert (first.n_windows, first.n_dropped) == (16, 0)
    other = dataclasses.replace(
        with_changes(base, {"data.unit_share": 0.6, "data.minutes": 1.0, "train.max_tokens": 900}), seed=7
    )
    assert value(other).loss == pytest.approx(first.loss, rel=1e-5)
    assert value(other).n_pairs == first.n_pairs
    assert value(base).loss == first.loss
    model = initial_model(dataclasses.replace(base, seed=7))
    assert value(base).loss != pytest.approx(first.loss, rel=1e-5)


def test_there_is_no_loss_without_windows_or_pairs(tmp_path: Path) -> None:
    store(tmp_path, tiny_population(0, n_units=30, minutes=0.2), "a.h5")
    model, device = initial_model(SETTINGS), choose_device(0)
    assert held_out_loss(model, open_sessions(tmp_path), SETTINGS, device, 8).loss is None
    store(tmp_path / "quiet", tiny_population(0, n_units=12, minutes=1.0, silent_units=6), "b.h5")
    found = held_out_loss(model, open_sessions(tmp_path / "quiet"), SETTINGS, device, 8)
    assert (found.loss, found.n_pairs) == (None, 0)
    assert found.n_dropped == found.n_windows > 0


def test_calcium_sessions_are_swept_too(tmp_path: Path) -> None:
    for i in range(4):
        store(
            tmp_path,
            tiny_calcium(i, n_units=30, minutes=3.0, subject=f"c{i}", sampling_rate_hz=6.0),
            f"{i}.h5",
        )
    settings = for_modalities(preset_settings("tiny"), frozenset({"calcium"}))
    for axis in ("units", "minutes"):
        chosen, grid = plan(tmp_path, settings, axis=axis, seeds=1, points=3)
        assert len(grid.points) == 3
        own = point_settings(settings, grid.points[0], chosen.time_share)
        sessions = [s for s in open_sessions(tmp_path) if s.key.subject in chosen.held_out]
        found = held_out_loss(initial_model(own), sessions, own, choose_device(0), 4)
        assert found.loss is not None
