"""Balanced epochs: every subject or session comes equally often, and only the seed and the epoch say when."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuclr_cli.data.balance import Balance, balanced_choice, groups_of
from nuclr_cli.data.pretrain_stream import PretrainStream, StreamState
from nuclr_cli.data.session import Session, SessionKey
from nuclr_cli.data.sessions import open_sessions
from nuclr_cli.data.store import SourceRecord, write_population
from nuclr_cli.data.tokens import TokenSpec
from nuclr_cli.data.windows import TrainingWindows, Window
from nuclr_cli.errors import InputError
from nuclr_cli.testing.simulate import tiny_population
from nuclr_cli.workflows.presets import preset_settings, with_changes
from nuclr_cli.workflows.pretrain import PretrainConfig, pretrain

TOKENS = TokenSpec()


class Bare:
    """A recording of which windows need the times and the key only."""

    modality = "spikes"
    calcium_scale = 1.0

    def __init__(self, subject: str, session: str, n_windows: int, n_units: int = 20) -> None:
        self.key, self.n_units = SessionKey(subject, session, "0"), n_units
        self.intervals = np.array([[0.0, 10.0 * (n_windows + 1)]])


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=200),
    st.integers(0, 2**40),
    st.integers(0, 1000),
)
def test_groups_come_equally_often_and_their_windows_too(groups: list[int], seed: int, epoch: int) -> None:
    group = np.array(groups)
    chosen = balanced_choice(group, seed, epoch)
    assert len(chosen) == len(groups)
    taken = Counter(group[chosen].tolist())
    counts = [taken[number] for number in set(groups)]
    assert max(counts) - min(counts) <= 1
    assert set(taken) <= set(groups)
    times = Counter(chosen.tolist())
    for number in set(groups):
        own = [times[place] for place in np.flatnonzero(group == number).tolist()]
        assert max(own) - min(own) <= 1  # none is repeated before all have come
    assert balanced_choice(group, seed, epoch).tolist() == chosen.tolist()


sessions_of_subjects = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 12), st.sampled_from([4, 20])), min_size=1, max_size=10
)


@settings(deadline=None)
@given(sessions_of_subjects, st.sampled_from(["subject", "session"]), st.integers(0, 99), st.integers(0, 9))
def test_an_epoch_holds_windows_of_usable_sessions_only(
    drawn: list[tuple[int, int, int]], balance: Balance, seed: int, epoch: int
) -> None:
    recordings = [
        Bare("always", "there", 5),
        *(Bare(f"m{subject}", f"d{n}", length, units) for n, (subject, length, units) in enumerate(drawn)),
    ]
    plain = TrainingWindows(recordings, TOKENS, min_units=11)
    balanced = TrainingWindows(recordings, TOKENS, min_units=11, balance=balance)
    assert balanced.usable == plain.usable
    assert balanced.expected_windows == plain.expected_windows
    before, windows = plain.epoch(seed, epoch), balanced.epoch(seed, epoch)
    assert len(windows) == len(before)
    assert set(windows[:]) <= set(before[:])
    assert windows == balanced.epoch(seed, epoch)
    keys = [recordings[number].key for number in plain.usable]
    names = {(key.subject,) if balance == "subject" else (key.subject, key.session) for key in keys}
    counts = Counter(
        (key.subject,) if balance == "subject" else (key.subject, key.session)
        for key in (recordings[window.session].key for window in windows)
    )
    assert max(counts.values()) - min(counts[name] for name in names) <= 1


def test_over_many_epochs_all_windows_and_all_groups_get_their_share() -> None:
    group = np.array([0] * 50 + [1] * 3 + [2] * 8)  # 61 windows: two groups of 20, one of 21
    taken, places = Counter[int](), Counter[int]()
    n_epochs = 600
    for epoch in range(n_epochs):
        chosen = balanced_choice(group, 3, epoch)
        taken.update(group[chosen].tolist())
        places.update(chosen.tolist())
    assert np.allclose([taken[number] / n_epochs for number in range(3)], 61 / 3, atol=0.1)
    for number, size in ((0, 50), (1, 3), (2, 8)):
        own = [places[place] / n_epochs for place in np.flatnonzero(group == number).tolist()]
        assert np.allclose(own, 61 / 3 / size, rtol=0.25)


def test_populations_recorded_together_are_one_session() -> None:
    keys = [SessionKey("a", "1", "left"), SessionKey("a", "1", "right"), SessionKey("b", "1", "left")]
    assert groups_of(keys, "session").tolist() == [0, 0, 1]
    assert groups_of(keys, "subject").tolist() == [0, 0, 1]
    assert groups_of([*keys, SessionKey("a", "2", "left")], "session").tolist() == [0, 0, 2, 1]


def test_an_epoch_is_a_sequence_of_windows() -> None:
    epoch = TrainingWindows([Bare("a", "1", 9), Bare("b", "1", 4)], TOKENS).epoch(0, 0)
    listed = list(epoch)
    assert len(listed) == len(epoch) > 10
    assert epoch[3:7] == listed[3:7]
    assert epoch[-1] == listed[-1]
    assert isinstance(epoch[0], Window)
    assert epoch != listed


@pytest.fixture(scope="module")
def lopsided(tmp_path_factory: pytest.TempPathFactory) -> list[Session]:
    """A subject with nearly all of the windows, and two with few."""
    folder = tmp_path_factory.mktemp("lopsided")
    for number, minutes in enumerate((8.0, 0.6, 0.6)):
        population = tiny_population(number, 14, minutes=minutes, subject=f"m{number}")
        write_population(population, folder / f"{number}.h5", source=SourceRecord("made", "test", ""))
    return open_sessions(folder)


def drawn_by(sessions: list[Session], n_steps: int, **options: object) -> list[tuple[object, StreamState]]:
    with PretrainStream(
        sessions,
        TOKENS,
        seed=5,
        batch_windows=6,
        max_tokens=10**6,
        min_units=4,
        balance="subject",
        **options,  # type: ignore[arg-type]
    ) as stream:
        return [(step.drawn, step.state_after) for step in itertools.islice(stream, n_steps)]


def test_ranks_workers_and_a_resume_draw_the_same(lopsided: list[Session]) -> None:
    alone = drawn_by(lopsided, 20)
    assert drawn_by(lopsided, 20, num_workers=2) == alone
    resumed = drawn_by(lopsided, 13, state=alone[6][1])
    assert resumed == alone[7:]
    ranks = [drawn_by(lopsided, 20, rank=rank, world=3) for rank in range(3)]
    for number, (drawn, state) in enumerate(alone):
        together = [item for rank in ranks for item in rank[number][0]]  # type: ignore[attr-defined]
        assert sorted(together, key=lambda item: (item.epoch, item.index)) == list(drawn)  # type: ignore[call-overload]
        assert all(rank[number][1] == state for rank in ranks)


def test_a_window_that_is_repeated_gives_other_views(lopsided: list[Session]) -> None:
    with PretrainStream(
        lopsided, TOKENS, seed=5, batch_windows=40, max_tokens=1, min_units=2, balance="subject"
    ) as stream:
        step = next(iter(stream))
    first: dict[Window, tuple[int, ...]] = {}
    others = 0
    for item, batch in zip(step.drawn, step.micro, strict=True):
        rows = tuple(batch.view1.ids.tolist())
        others += item.window in first and first[item.window] != rows
        first.setdefault(item.window, rows)
    assert others > 5


def test_the_command_keeps_the_balance_with_the_run(nuclr, tiny_data: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    arguments = ("pretrain", tiny_data, "--runs", tmp_path, "--name", "b", "--gpus", "0", "--quiet")
    small = ("--steps", "2", "--set", "train.batch_windows=2")
    done = nuclr(*arguments, *small, "--balance", "subject")
    assert done.code == 0, done.err
    assert '"balance": "subject"' in (tmp_path / "b" / "config.json").read_text()
    with pytest.raises(InputError, match=r"data\.balance is subject in the run, none here"):
        pretrain(
            PretrainConfig(tiny_data, tmp_path, "b", None, {"data.balance": "none"}, gpus=0, resume=True)
        )


def test_a_balance_that_does_not_exist_is_refused() -> None:
    settings = with_changes(preset_settings("tiny"), {"data.balance": "session"})
    assert settings.data.balance == "session"
    with pytest.raises(InputError, match="none, subject, session"):
        with_changes(settings, {"data.balance": "mouse"})
