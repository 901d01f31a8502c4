"""Packing and cutting: the cap holds, nothing is lost or mixed, evaluation sees each window once."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nuclr_cli.api import Modality, Spikes
from nuclr_cli.data.batch import covered_events, cut, evaluation_batches, pack
from nuclr_cli.data.session import Session
from nuclr_cli.data.store import SourceRecord, write_population
from nuclr_cli.data.tokens import TokenSpec
from nuclr_cli.data.views import View, ViewPair, make_view
from nuclr_cli.data.windows import Window, evaluation_windows
from nuclr_cli.testing.simulate import tiny_population
from nuclr_cli.testing.tiny import tiny_calcium

TOKENS = TokenSpec()
SHAPES: dict[Modality, tuple[int, int]] = {"spikes": (10, 50), "calcium": (32, 4)}


def made_pair(number: int, modality: Modality, n1: int, n2: int) -> ViewPair:
    """A pair whose inputs are its number, so that it can be found again."""
    views = [
        View(np.full((n, *SHAPES[modality]), number, dtype=np.float32), np.arange(n, dtype=np.int64))
        for n in (n1, n2)
    ]
    return ViewPair(Window(0, float(number), modality), views[0], views[1], min(n1, n2))


@st.composite
def pair_lists(draw: st.DrawFn) -> list[ViewPair]:
    sizes = draw(
        st.lists(
            st.tuples(st.sampled_from(list(SHAPES)), st.integers(1, 9), st.integers(1, 9)),
            max_size=12,
        )
    )
    return [made_pair(number, *size) for number, size in enumerate(sizes)]


@settings(deadline=None, max_examples=60)
@given(pair_lists(), st.integers(1, 800))
def test_cut_keeps_every_pair_under_the_cap(pairs: list[ViewPair], max_tokens: int) -> None:
    batches = cut(pairs, max_tokens)
    found: list[int] = []
    for batch in batches:
        populations = [
            [part[0, 0, 0].item() for part in torch.split(view.inputs, view.units_per_population.tolist())]
            for view in (batch.view1, batch.view2)
        ]
        assert populations[0] == populations[1] == sorted(populations[0])
        members = [pairs[int(number)] for number in populations[0]]
        found += [int(number) for number in populations[0]]
        assert {member.window.modality for member in members} == {batch.modality}
        assert batch.n_pairs == sum(member.n_matched for member in members)
        assert batch.n_tokens == batch.view1.n_tokens + batch.view2.n_tokens
        assert batch.n_tokens <= max_tokens or len(members) == 1
        for view, own in ((batch.view1, "view1"), (batch.view2, "view2")):
            rows = np.concatenate([getattr(member, own).rows for member in members])
            assert view.ids.tolist() == rows.tolist()
            assert view.inputs.dtype == torch.float32
            assert view.ids.dtype == view.units_per_population.dtype == torch.int64
    assert sorted(found) == list(range(len(pairs)))
    # First fit leaves no two micro-batches of a kind that would fit in one.
    for modality in ("spikes", "calcium"):
        sizes = sorted(batch.n_tokens for batch in batches if batch.modality == modality)
        assert len(sizes) < 2 or sizes[0] + sizes[1] > max_tokens


def test_a_token_is_a_unit_times_a_patch_over_both_views() -> None:
    batch = pack([made_pair(0, "spikes", 3, 5), made_pair(1, "spikes", 4, 4)])
    assert batch.n_tokens == (3 + 5 + 4 + 4) * 10
    assert batch.view1.n_tokens == 70
    assert batch.view1.units_per_population.tolist() == [3, 4]
    assert batch.view2.inputs.shape == (9, 10, 50)


def test_moving_a_batch_keeps_it() -> None:
    batch = pack([made_pair(3, "calcium", 2, 3)])
    moved = batch.to("cpu")
    assert torch.equal(moved.view2.inputs, batch.view2.inputs)
    assert (moved.n_pairs, moved.n_tokens, moved.modality) == (2, 160, "calcium")


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> list[Session]:
    folder = tmp_path_factory.mktemp("evaluation")
    populations = [
        tiny_population(0, 30, intervals=[(0.0, 44.0), (50.0, 57.0), (60.0, 80.0)], silent_units=2),
        tiny_calcium(1, 12, intervals=[(0.0, 75.0), (90.0, 95.0)], sampling_rate_hz=10.0, n_planes=2),
    ]
    paths = [folder / f"{number}.h5" for number in range(2)]
    for population, path in zip(populations, paths, strict=True):
        write_population(population, path, source=SourceRecord(path.name, "test", "made in memory"))
    return [Session(path) for path in paths]


@pytest.mark.parametrize("max_tokens", [1, 700, 10**9])
@pytest.mark.parametrize("stretch", [1, 2, 3, 100])
def test_evaluation_sees_each_window_once_whatever_the_cap_and_the_stretch(
    sessions: list[Session], max_tokens: int, stretch: int
) -> None:
    for session in sessions:
        seen: Counter[float] = Counter()
        n_windows = len(evaluation_windows(session, TOKENS))
        for first in range(0, n_windows, stretch):
            windows = range(first, min(first + stretch, n_windows))
            for batch in evaluation_batches(session, TOKENS, max_tokens, windows=windows):
                assert batch.views.n_tokens <= max_tokens or len(batch.starts_s) == 1
                sizes = batch.views.units_per_population.tolist()
                inputs, rows = torch.split(batch.views.inputs, sizes), torch.split(batch.views.ids, sizes)
                for start_s, window, ids in zip(batch.starts_s, inputs, rows, strict=True):
                    view = make_view(session, start_s, TOKENS)
                    assert np.array_equal(window.numpy(), view.inputs)
                    assert np.array_equal(ids.numpy(), view.rows)
                    seen[start_s] += 1
        assert seen == Counter(evaluation_windows(session, TOKENS))


def test_windows_without_spikes_are_left_out(tmp_path: Path) -> None:
    population = tiny_population(0, 5, intervals=[(0.0, 20.0)])
    assert population.spikes is not None
    early = population.spikes.times < 10.0
    spikes = Spikes(population.spikes.times[early], population.spikes.unit_index[early])
    population = dataclasses.replace(population, spikes=spikes)
    path = tmp_path / "early.h5"
    write_population(population, path, source=SourceRecord("early", "test", "made in memory"))
    [batch] = evaluation_batches(Session(path), TOKENS, 10**6)
    assert batch.starts_s == (0.0,)


def test_covered_events_count_each_spike_once_where_windows_lie(sessions: list[Session]) -> None:
    spikes = sessions[0]
    times, units = spikes.spikes
    inside = (times < 44.0) | ((times >= 60.0) & (times < 80.0))
    assert covered_events(spikes, TOKENS).tolist() == np.bincount(units[inside], minlength=30).tolist()
    first = times < 15.0
    limited = covered_events(spikes, TOKENS, limit_s=15.0)
    assert limited.tolist() == np.bincount(units[first], minlength=30).tolist()


def test_covered_events_of_calcium_are_frames(sessions: list[Session]) -> None:
    # 75 s at 10 Hz; frames of the second plane come 50 ms later, still inside.
    assert covered_events(sessions[1], TOKENS).tolist() == [750] * 12
    assert covered_events(sessions[1], TOKENS, limit_s=30.02).tolist() == [301, 300] * 6
