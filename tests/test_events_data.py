"""Spike events on their way to the model: views, packed batches, shares that travel between processes."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from nuclr_cli.data.batch import PackedViews, evaluation_batches, pack, plan_cut
from nuclr_cli.data.pretrain_stream import PretrainStream, StepBatch
from nuclr_cli.data.session import Session
from nuclr_cli.data.store import SourceRecord, write_population
from nuclr_cli.data.tokens import SpikeTokens, TokenSpec
from nuclr_cli.data.views import View, ViewPair, draw_pair, make_view, order_by_unit
from nuclr_cli.data.windows import TrainingWindows
from nuclr_cli.testing.simulate import tiny_calcium, tiny_population
from nuclr_kernels.bin_spikes import bin_spikes

COUNTS = TokenSpec()
EVENTS = TokenSpec(spikes=SpikeTokens(kind="events"))


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> list[Session]:
    """Three spiking sessions, two units of each silent, and one imaged."""
    folder = tmp_path_factory.mktemp("events")
    populations = [
        tiny_population(
            number, 16 + 8 * number, minutes=1.5, subject=f"m{number}", silent_units=2, median_rate_hz=1.0
        )
        for number in range(3)
    ]
    populations.append(tiny_calcium(9, 20, minutes=3.0, subject="imaged", sampling_rate_hz=10.0))
    for number, population in enumerate(populations):
        source = SourceRecord(str(number), "test", "made in memory")
        write_population(population, folder / f"{number}.h5", source=source)
    return [Session(folder / f"{number}.h5") for number in range(len(populations))]


def parts(view: View) -> list[np.ndarray]:
    """Times of each unit."""
    assert view.spikes_per_unit is not None
    return np.split(view.inputs, np.cumsum(view.spikes_per_unit)[:-1])


@pytest.mark.parametrize("start_s", [0.0, 12.5, 33.3, 80.0])
def test_a_view_holds_the_times_of_its_active_units(sessions: list[Session], start_s: float) -> None:
    session = sessions[1]
    view = make_view(session, start_s, EVENTS)
    times, units = session.spikes_between(start_s, start_s + 10.0)
    assert view.inputs.dtype == np.float32
    assert view.n_tokens == 10 * len(view.rows)
    assert view.rows.tolist() == np.unique(units).tolist()
    for row, found in zip(view.rows, parts(view), strict=True):
        assert np.array_equal(found, (times[units == row] - start_s).astype(np.float32))
        assert (np.diff(found) >= 0).all()


def test_unit_dropout_and_windows_are_those_of_counts(sessions: list[Session]) -> None:
    """Which units a view keeps, where it lies and what is dropped does not depend on the tokens."""
    n_pairs = 0
    for index, window in enumerate(TrainingWindows(sessions, COUNTS).epoch(0, 0)):
        one, two = (
            draw_pair(sessions[window.session], window, tokens, 0, 0, index, min_units=8)
            for tokens in (COUNTS, EVENTS)
        )
        assert type(one) is type(two)
        if not isinstance(one, ViewPair) or not isinstance(two, ViewPair):
            assert one == two
            continue
        assert one.n_matched == two.n_matched
        for counts, events in ((one.view1, two.view1), (one.view2, two.view2)):
            assert np.array_equal(counts.rows, events.rows)
            assert counts.n_tokens == events.n_tokens
            if window.modality == "calcium":
                assert events.spikes_per_unit is None
                assert np.array_equal(counts.inputs, events.inputs)
            else:
                assert np.array_equal(events.spikes_per_unit, counts.inputs.sum((1, 2)))
        n_pairs += 1
    assert n_pairs > 15


def test_the_times_of_a_view_bin_to_its_counts(sessions: list[Session]) -> None:
    counts, events = (make_view(sessions[2], 21.7, tokens) for tokens in (COUNTS, EVENTS))
    assert events.spikes_per_unit is not None
    offsets = torch.from_numpy(np.concatenate(([0], np.cumsum(events.spikes_per_unit))))
    found = bin_spikes(
        torch.from_numpy(events.inputs), offsets, n_patches=10, samples_per_patch=50, bin_s=0.02
    )
    # In float32, so a spike at the very edge of a bin may be in the next one.
    assert np.abs(found.numpy() - counts.inputs).sum() <= 2


@pytest.mark.parametrize("n_units", [5, 70_000])
def test_order_by_unit_is_stable_also_with_many_units(n_units: int) -> None:
    units = np.random.default_rng(0).integers(0, n_units, 5000).astype(np.int32)
    assert np.array_equal(order_by_unit(units, n_units), np.argsort(units, kind="stable"))


def same(one: PackedViews, two: PackedViews) -> bool:
    tensors = ("inputs", "ids", "units_per_population", "spikes_per_unit")
    return all(
        (a is None and b is None) or (a is not None and b is not None and torch.equal(a, b))
        for a, b in ((getattr(one, name), getattr(two, name)) for name in tensors)
    ) and (one.modality, one.n_latents, one.n_tokens) == (two.modality, two.n_latents, two.n_tokens)


def taken(sessions: list[Session], n_steps: int, **options: Any) -> list[StepBatch]:
    chosen = {"seed": 7, "batch_windows": 6, "max_tokens": 600, "min_units": 8} | options
    with PretrainStream(sessions, EVENTS, **chosen) as stream:
        return list(itertools.islice(stream, n_steps))


def test_packing_keeps_units_and_spikes_together(sessions: list[Session]) -> None:
    windows = TrainingWindows(sessions[:3], EVENTS).epoch(0, 0)
    drawn = [draw_pair(sessions[w.session], w, EVENTS, 0, 0, i, min_units=2) for i, w in enumerate(windows)]
    pairs = [pair for pair in drawn if isinstance(pair, ViewPair)][:5]
    batch = pack(pairs)
    packed = batch.view2
    assert packed.spikes_per_unit is not None
    assert packed.inputs.shape == (int(packed.spikes_per_unit.sum()),)
    assert batch.n_tokens == sum(pair.view1.n_tokens + pair.view2.n_tokens for pair in pairs)
    units = torch.split(packed.inputs, packed.spikes_per_unit.tolist())
    wanted = [times for pair in pairs for times in parts(pair.view2)]
    assert len(units) == len(wanted) == len(packed.ids)
    assert all(np.array_equal(a.numpy(), b) for a, b in zip(units, wanted, strict=True))
    moved = packed.to("meta")
    assert moved.inputs.is_meta
    assert moved.spikes_per_unit is packed.spikes_per_unit


def test_shares_hold_the_pairs_and_workers_change_nothing(sessions: list[Session]) -> None:
    steps = taken(sessions, 6)
    kinds = set()
    for step in steps:
        drawn = [
            draw_pair(sessions[d.window.session], d.window, EVENTS, 7, d.epoch, d.index, min_units=8)
            for d in step.drawn
        ]
        pairs = [pair for pair in drawn if isinstance(pair, ViewPair)]
        wanted = [pack([pairs[place] for place in group]) for group in plan_cut(pairs, 600)]
        assert len(wanted) == len(step.micro)
        for one, two in zip(step.micro, wanted, strict=True):
            assert same(one.view1, two.view1)
            assert same(one.view2, two.view2)
            assert one.n_pairs == two.n_pairs
            kinds.add(one.modality)
    assert kinds == {"spikes", "calcium"}
    for one, two in zip(steps, taken(sessions, 6, num_workers=2), strict=True):
        assert one.state_after == two.state_after
        for a, b in zip(one.micro, two.micro, strict=True):
            assert same(a.view1, b.view1)
            assert same(a.view2, b.view2)


def test_evaluation_batches_hold_every_window_once(sessions: list[Session]) -> None:
    session = sessions[2]
    found = []
    for batch in evaluation_batches(session, EVENTS, max_tokens=400):
        assert batch.views.n_tokens <= 400
        assert batch.views.spikes_per_unit is not None
        sizes = batch.views.units_per_population.tolist()
        starts = iter(batch.starts_s)
        times = batch.views.inputs
        for counts, rows in zip(
            torch.split(batch.views.spikes_per_unit, sizes), torch.split(batch.views.ids, sizes), strict=True
        ):
            view = make_view(session, next(starts), EVENTS)
            n_spikes = int(counts.sum())
            assert np.array_equal(view.rows, rows.numpy())
            assert np.array_equal(view.spikes_per_unit, counts.numpy())
            assert np.array_equal(view.inputs, times[:n_spikes].numpy())
            times = times[n_spikes:]
        found += batch.starts_s
    assert found == [float(10 * n) for n in range(9)]


def test_files_of_the_tokens_are_the_same_but_for_the_kind() -> None:
    assert replace(EVENTS.spikes, kind="counts") == COUNTS.spikes
    assert EVENTS.spikes.n_patches == 10


def test_units_without_spikes_in_the_window_give_an_empty_view(sessions: list[Session]) -> None:
    silent = np.array([sessions[0].n_units - 2, sessions[0].n_units - 1])
    view = make_view(sessions[0], 0.0, EVENTS, silent)
    assert len(view.rows) == len(view.inputs) == view.n_tokens == 0
    assert view.spikes_per_unit is not None
    assert len(view.spikes_per_unit) == 0
