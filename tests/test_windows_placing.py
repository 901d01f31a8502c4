"""Where windows lie, for any valid intervals: training tiles, second views, the cover for evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nuclr_cli.api import CalciumTraces, Modality
from nuclr_cli.data.session import SessionKey
from nuclr_cli.data.streams import Purpose, stream
from nuclr_cli.data.tokens import CalciumTokens, SpikeTokens, TokenSpec
from nuclr_cli.data.windows import (
    TrainingWindows,
    Window,
    evaluation_windows,
    second_start,
)
from nuclr_cli.errors import InputError

TOKENS = TokenSpec()
NEAR = 1e-6


@dataclass(frozen=True)
class Bare:
    """A recording of which only the times matter."""

    intervals: NDArray[np.float64]
    modality: Modality = "spikes"
    n_units: int = 20
    key: SessionKey = field(default_factory=lambda: SessionKey("s", "d", "0"))
    calcium_scale: float = 1.0

    def spikes_between(self, *_: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        raise NotImplementedError

    @property
    def calcium(self) -> CalciumTraces:
        raise NotImplementedError


@st.composite
def recordings(draw: st.DrawFn) -> Bare:
    """Up to five intervals of 0.1 to 200 s with gaps; some too short; starts may be negative."""
    spans = draw(st.lists(st.tuples(st.floats(0.001, 50), st.floats(0.1, 200)), min_size=1, max_size=5))
    time = draw(st.floats(-1e4, 1e5))
    intervals = []
    for gap, length in spans:
        intervals.append((time + gap, time + gap + length))
        time += gap + length
    return Bare(np.array(intervals), draw(st.sampled_from(["spikes", "calcium"])))


def inside(start_s: float, window_s: float, intervals: NDArray[np.float64]) -> bool:
    return any(low - NEAR <= start_s and start_s + window_s <= high + NEAR for low, high in intervals)


def usable(session: Bare) -> NDArray[np.float64]:
    lengths = session.intervals[:, 1] - session.intervals[:, 0]
    return session.intervals[lengths >= 2 * TOKENS.of(session.modality).window_s]


@settings(deadline=None)
@given(st.lists(recordings(), min_size=1, max_size=3), st.integers(0, 100), st.integers(0, 5))
def test_training_windows_lie_in_long_intervals_and_do_not_overlap(
    sessions: list[Bare], seed: int, epoch: int
) -> None:
    wanted = [number for number, session in enumerate(sessions) if len(usable(session))]
    if not wanted:
        with pytest.raises(InputError, match="None of"):
            TrainingWindows(sessions, TOKENS)
        return
    windows = TrainingWindows(sessions, TOKENS)
    assert windows.usable == tuple(wanted)
    assert len(windows.skipped) == len(sessions) - len(wanted)
    drawn = windows.epoch(seed, epoch)
    assert drawn == windows.epoch(seed, epoch)
    for number in wanted:
        session = sessions[number]
        window_s = TOKENS.of(session.modality).window_s
        starts = np.array(sorted(window.start_s for window in drawn if window.session == number))
        assert {window.modality for window in drawn if window.session == number} == {session.modality}
        assert all(inside(start, window_s, usable(session)) for start in starts)
        assert np.all(np.diff(starts) >= window_s - NEAR)
        for low, high in usable(session):
            # Less than a window is lost at either end.
            tiles = np.sum((starts >= low - NEAR) & (starts < high))
            assert (high - low) / window_s - 2 <= tiles <= (high - low) / window_s + NEAR
            assert tiles >= 1


def test_epochs_and_seeds_draw_other_windows_and_orders() -> None:
    windows = TrainingWindows([Bare(np.array([[0.0, 500.0]]))], TOKENS)
    epochs = [
        [window.start_s for window in windows.epoch(*name)] for name in ((0, 0), (0, 1), (1, 0), (1, 1))
    ]
    assert len({tuple(sorted(starts)) for starts in epochs}) == 4
    assert all(starts != sorted(starts) for starts in epochs)


def test_offsets_are_uniform_and_the_mean_number_of_windows_is_known() -> None:
    windows = TrainingWindows([Bare(np.array([[0.0, 104.0]])), Bare(np.array([[5.0, 48.0]]))], TOKENS)
    epochs = [windows.epoch(0, epoch) for epoch in range(3000)]
    assert windows.expected_windows == pytest.approx(9.4 + 3.3)
    assert np.mean([len(epoch) for epoch in epochs]) == pytest.approx(12.7, abs=0.05)
    offsets = [min(window.start_s for window in epoch if window.session == 0) for epoch in epochs]
    assert np.histogram(offsets, bins=10, range=(0, 10))[0].min() > 230


def test_an_interval_of_two_windows_within_rounding_is_used() -> None:
    short = Bare(np.array([[0.1, 20.1 - 1e-10]]))
    for epoch in range(50):
        [window] = TrainingWindows([short], TOKENS).epoch(0, epoch)
        assert inside(window.start_s, 10.0, short.intervals)


def test_skipped_sessions_are_named_with_the_reason() -> None:
    good = Bare(np.array([[0.0, 100.0]]))
    short = replace(good, intervals=np.array([[0.0, 19.0], [30.0, 35.0]]), key=SessionKey("a", "short", "0"))
    few = replace(good, n_units=4, key=SessionKey("a", "few", "0"))
    windows = TrainingWindows([short, good, few], TOKENS, min_units=11)
    assert windows.usable == (1,)
    reasons = {str(skip.key): skip.reason for skip in windows.skipped}
    assert reasons == {
        "a/short/0": "its longest interval lasts 19 s; two windows need 20 s",
        "a/few/0": "it has 4 units; a view needs 11",
    }
    with pytest.raises(InputError) as caught:
        TrainingWindows([short, few], TOKENS, min_units=11)
    assert "None of 2 sessions" in caught.value.what
    assert all(text in caught.value.what for pair in reasons.items() for text in pair)
    with pytest.raises(InputError, match="None of 0 sessions"):
        TrainingWindows([], TOKENS)


@settings(deadline=None)
@given(recordings(), st.integers(0, 10), st.floats(0, 300))
def test_second_views_are_valid_and_near(session: Bare, seed: int, max_distance_s: float) -> None:
    if not len(usable(session)):
        return
    window_s = TOKENS.of(session.modality).window_s
    for index, window in enumerate(TrainingWindows([session], TOKENS).epoch(seed, 0)):
        rng = stream(seed, 0, index, Purpose.SECOND_VIEW)
        start = second_start(window, session.intervals, window_s, max_distance_s, rng)
        assert inside(start, window_s, usable(session))
        assert abs(start - window.start_s) <= max_distance_s + NEAR


def test_second_views_are_uniform_over_all_valid_starts_across_gaps() -> None:
    # Valid starts within 30 s of 40: [10, 50] in the first interval, none in the second, [65, 70] after it.
    intervals = np.array([[0.0, 60.0], [61.0, 64.0], [65.0, 200.0]])
    window = Window(0, 40.0, "spikes")
    starts = np.array(
        [
            second_start(window, intervals, 10.0, 30.0, stream(0, 0, index, Purpose.SECOND_VIEW))
            for index in range(9000)
        ]
    )
    assert np.all(((starts >= 10) & (starts <= 50)) | ((starts >= 65) & (starts <= 70)))
    counts = np.concatenate(
        [np.histogram(starts, bins=8, range=(10, 50))[0], np.histogram(starts, bins=1, range=(65, 70))[0]]
    )
    assert counts.sum() == 9000
    assert np.all(np.abs(counts - 1000) < 130)


def test_second_view_at_no_distance_is_the_first() -> None:
    window = Window(0, 33.0, "spikes")
    rng = np.random.default_rng(0)
    assert second_start(window, np.array([[0.0, 100.0]]), 10.0, 0.0, rng) == 33.0


@settings(deadline=None)
@given(recordings(), st.none() | st.floats(0, 400))
def test_evaluation_windows_cover_every_long_interval(session: Bare, limit_s: float | None) -> None:
    window_s = TOKENS.of(session.modality).window_s
    starts = evaluation_windows(session, TOKENS, limit_s=limit_s)
    assert starts == sorted(set(starts))
    assert all(inside(start, window_s, session.intervals) for start in starts)
    left = np.inf if limit_s is None else limit_s
    for low, high in session.intervals:
        end = low + min(high - low, left)
        left -= min(high - low, left)
        mine = [start for start in starts if low - NEAR <= start < high]
        if end - low < window_s - 2 * NEAR:
            assert mine == []
        elif end - low > window_s:
            assert mine[0] == low
            assert mine[-1] + window_s == pytest.approx(end, abs=2 * NEAR)
            assert np.all(np.diff(mine) <= window_s + NEAR)
            # Only the last window overlaps the one before it.
            assert np.allclose(np.diff(mine)[:-1], window_s)


def test_evaluation_windows_by_hand() -> None:
    session = Bare(np.array([[0.0, 25.0], [30.0, 39.0], [40.0, 50.0], [100.0, 120.0]]))
    assert evaluation_windows(session, TOKENS) == [0.0, 10.0, 15.0, 40.0, 100.0, 110.0]
    assert evaluation_windows(session, TOKENS, limit_s=12.0) == [0.0, 2.0]
    assert evaluation_windows(session, TOKENS, limit_s=9.0) == []


def test_evaluation_has_no_sliver_window_from_rounding() -> None:
    tokens = TokenSpec(SpikeTokens(window_s=0.3, patch_s=0.1, bin_s=0.1), CalciumTokens())
    session = Bare(np.array([[0.1, 0.1 + 3 * 0.3]]))
    assert len(evaluation_windows(session, tokens)) == 3
