"""Pairs of views on stored sessions of both kinds: unit dropout, active units, matches, what is dropped."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuclr_cli.api import Population, Spikes
from nuclr_cli.data.resample import resample_traces
from nuclr_cli.data.session import Session
from nuclr_cli.data.store import SourceRecord, write_population
from nuclr_cli.data.streams import Purpose, stream
from nuclr_cli.data.tokens import TokenSpec
from nuclr_cli.data.views import DroppedSample, DropReason, ViewPair, bin_counts, draw_pair, make_view
from nuclr_cli.data.windows import TrainingWindows, Window
from nuclr_cli.testing.simulate import tiny_population
from nuclr_cli.testing.tiny import tiny_calcium

TOKENS = TokenSpec()
N_SPIKES, N_CALCIUM = 40, 30
GOLDEN = (
    [0, 1, 2, 3, 4, 7, 9, 10, 11, 12, 13, 14, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29],
    [0, 1, 3, 6, 7, 9, 13, 15, 16, 18, 19, 22, 23, 24, 26, 27],
    14,
)


def stored(population: Population, path: Path) -> Session:
    write_population(population, path, source=SourceRecord(path.name, "test", "made in memory"))
    return Session(path)


@pytest.fixture(scope="module")
def spikes(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """40 units, 3 of them silent, a gap in the middle."""
    population = tiny_population(
        1, N_SPIKES, intervals=[(0.0, 100.0), (130.0, 200.0)], silent_units=3, median_rate_hz=1.0
    )
    return stored(population, tmp_path_factory.mktemp("pairs") / "spikes.h5")


@pytest.fixture(scope="module")
def calcium(tmp_path_factory: pytest.TempPathFactory) -> Session:
    population = tiny_calcium(2, N_CALCIUM, minutes=5.0, n_planes=3, sampling_rate_hz=12.0)
    return stored(population, tmp_path_factory.mktemp("pairs") / "calcium.h5")


@pytest.fixture(scope="module")
def sessions(spikes: Session, calcium: Session) -> list[Session]:
    return [spikes, calcium]


def pairs_of(sessions: list[Session], epoch: int = 0, seed: int = 0) -> list[ViewPair | DroppedSample]:
    windows = TrainingWindows(sessions, TOKENS).epoch(seed, epoch)
    return [
        draw_pair(sessions[window.session], window, TOKENS, seed, epoch, index)
        for index, window in enumerate(windows)
    ]


def test_view_of_spikes_has_the_counts_of_its_active_units(spikes: Session) -> None:
    view = make_view(spikes, 12.5, TOKENS)
    times, units = spikes.spikes_between(12.5, 22.5)
    assert view.rows.tolist() == np.unique(units).tolist()
    assert view.inputs.shape == (len(view.rows), 10, 50)
    assert view.inputs.dtype == np.float32
    assert view.rows.dtype == np.int64
    counts = bin_counts(times, units, 12.5, TOKENS.spikes, N_SPIKES)
    assert np.array_equal(view.inputs.reshape(len(view.rows), 500), counts[view.rows])
    assert np.all(view.inputs.sum(axis=(1, 2)) >= 1)


def test_view_of_a_subset_is_the_subset_of_the_view(spikes: Session, calcium: Session) -> None:
    for session, start_s in ((spikes, 131.0), (calcium, 40.0)):
        keep = np.array([0, 3, 4, 17, 29], dtype=np.int64)
        everything = make_view(session, start_s, TOKENS)
        some = make_view(session, start_s, TOKENS, keep)
        assert some.rows.tolist() == [row for row in everything.rows if row in keep]
        assert np.array_equal(some.inputs, everything.inputs[np.isin(everything.rows, keep)])


def test_view_of_calcium_has_all_units_divided_by_the_scale(calcium: Session) -> None:
    view = make_view(calcium, 33.3, TOKENS)
    assert view.rows.tolist() == list(range(N_CALCIUM))
    assert view.inputs.shape == (N_CALCIUM, 32, 4)
    plain = resample_traces(calcium.calcium, 33.3, TOKENS.calcium)
    assert np.allclose(view.inputs.reshape(N_CALCIUM, 128) * calcium.calcium_scale, plain, rtol=1e-5)
    assert calcium.calcium_scale == pytest.approx(np.percentile(calcium.calcium.values, 99), rel=1e-5)


def test_traces_without_activity_stay_finite(tmp_path: Path) -> None:
    population = tiny_calcium(3, 12, minutes=2.0)
    assert population.calcium is not None
    dark = dataclasses.replace(population.calcium, values=np.zeros_like(population.calcium.values))
    session = stored(dataclasses.replace(population, calcium=dark), tmp_path / "dark.h5")
    assert not make_view(session, 0.0, TOKENS).inputs.any()


def test_pairs_match_the_same_units_and_hold_their_own_counts(sessions: list[Session]) -> None:
    drawn = [pair for pair in pairs_of(sessions) if isinstance(pair, ViewPair)]
    assert {pair.window.modality for pair in drawn} == {"spikes", "calcium"}
    for pair in drawn:
        session = sessions[pair.window.session]
        both = set(pair.view1.rows.tolist()) & set(pair.view2.rows.tolist())
        assert pair.n_matched == len(both) > 0
        for view in (pair.view1, pair.view2):
            assert len(view.rows) >= 11
            assert np.all(np.diff(view.rows) > 0)
        again = make_view(session, pair.window.start_s, TOKENS, pair.view1.rows)
        assert np.array_equal(again.inputs, pair.view1.inputs)


def test_kept_fractions_are_uniform_between_the_bounds_and_views_independent(calcium: Session) -> None:
    # Calcium units are always active, so the rows of a view are the units that dropout kept.
    window = Window(0, 60.0, "calcium")
    drawn = [draw_pair(calcium, window, TOKENS, 0, 0, index, min_units=1) for index in range(400)]
    pairs = [pair for pair in drawn if isinstance(pair, ViewPair)]
    assert len(pairs) == 400
    sizes = np.array([[len(pair.view1.rows), len(pair.view2.rows)] for pair in pairs])
    assert sizes.min() == 15
    assert sizes.max() == 30
    assert sizes.mean() == pytest.approx(22.5, abs=0.6)
    assert abs(np.corrcoef(sizes.T)[0, 1]) < 0.15
    kept = np.zeros((2, N_CALCIUM))
    for pair in pairs:
        kept[0, pair.view1.rows] += 1
        kept[1, pair.view2.rows] += 1
    assert np.all(np.abs(kept / 400 - 0.75) < 0.12)
    matched = np.array([pair.n_matched for pair in pairs])
    assert matched.mean() == pytest.approx(0.75**2 * N_CALCIUM, abs=0.6)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.floats(0.05, 1.0), st.floats(0.0, 1.0))
def test_kept_number_is_the_rounded_fraction(calcium: Session, index: int, low: float, part: float) -> None:
    dropout = (low, low + part * (1.0 - low))
    window = Window(0, 60.0, "calcium")
    pair = draw_pair(calcium, window, TOKENS, 1, 2, index, dropout=dropout, min_units=1)
    if isinstance(pair, DroppedSample):
        return
    for view, purpose in ((pair.view1, Purpose.DROPOUT_1), (pair.view2, Purpose.DROPOUT_2)):
        fraction = dropout[0] + (dropout[1] - dropout[0]) * stream(1, 2, index, purpose).random()
        assert len(view.rows) == round(fraction * N_CALCIUM)


def test_without_dropout_both_views_have_all_active_units(spikes: Session) -> None:
    pair = draw_pair(spikes, Window(0, 20.0, "spikes"), TOKENS, 0, 0, 0, dropout=(1.0, 1.0))
    assert isinstance(pair, ViewPair)
    assert pair.view1.rows.tolist() == make_view(spikes, 20.0, TOKENS).rows.tolist()


def test_views_are_a_function_of_seed_epoch_and_index(spikes: Session) -> None:
    window = Window(0, 20.0, "spikes")

    def drawn(*name: int) -> tuple[tuple[int, ...], float]:
        pair = draw_pair(Session(spikes.path), window, TOKENS, *name)
        assert isinstance(pair, ViewPair)
        return tuple(pair.view1.rows.tolist()), float((pair.view2.inputs * np.arange(50)).sum())

    assert drawn(5, 1, 3) == drawn(5, 1, 3)
    assert len({drawn(5, 1, 3), drawn(6, 1, 3), drawn(5, 2, 3), drawn(5, 1, 4)}) == 4


def test_draws_never_change(calcium: Session) -> None:
    pair = draw_pair(calcium, Window(0, 60.0, "calcium"), TOKENS, 42, 3, 7, min_units=1)
    assert isinstance(pair, ViewPair)
    assert (pair.view1.rows.tolist(), pair.view2.rows.tolist(), pair.n_matched) == GOLDEN


def test_too_few_active_units_drop_the_sample(spikes: Session) -> None:
    window = Window(0, 20.0, "spikes")
    result = draw_pair(spikes, window, TOKENS, 0, 0, 0, min_units=39)
    assert result == DroppedSample(DropReason.FEW_UNITS, window)


def test_a_pair_without_a_match_is_dropped(tmp_path: Path) -> None:
    # Even rows fire in the first interval only, odd rows in the second: pairs across the gap share no unit.
    trains = [np.arange(0.001 * unit, 40.0, 0.5) + (50.0 if unit % 2 else 0.0) for unit in range(20)]
    times, units = np.concatenate(trains), np.repeat(np.arange(20), [len(train) for train in trains])
    order = np.argsort(times)
    population = Population(
        subject="s",
        session="d",
        units={"id": np.array([f"u{unit}" for unit in range(20)])},
        intervals=np.array([[0.0, 40.0], [50.0, 90.0]]),
        spikes=Spikes(times[order], units[order]),
    )
    session = stored(population, tmp_path / "halves.h5")
    window = Window(0, 30.0, "spikes")
    results = [
        draw_pair(session, window, TOKENS, 0, 0, index, dropout=(1.0, 1.0), min_units=5)
        for index in range(60)
    ]
    dropped = [result for result in results if isinstance(result, DroppedSample)]
    assert {result.reason for result in dropped} == {DropReason.NO_MATCH}
    assert 0 < len(dropped) < 60
