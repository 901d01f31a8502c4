"""The training stream: the same views for any number of workers and ranks, exact resume, honest counts."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nuclr_cli.data.batch import PairBatch
from nuclr_cli.data.pretrain_stream import PretrainStream, StepBatch, StreamState, deal_by_cost
from nuclr_cli.data.session import Session
from nuclr_cli.data.store import SourceRecord, write_population
from nuclr_cli.data.tokens import TokenSpec
from nuclr_cli.data.views import ViewPair, draw_pair
from nuclr_cli.data.windows import TrainingWindows
from nuclr_cli.errors import InputError
from nuclr_cli.testing.simulate import tiny_population
from nuclr_cli.testing.tiny import tiny_calcium

TOKENS = TokenSpec()
SEED = 7


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> list[Session]:
    """Three spiking sessions of 14, 30 and 46 units, one imaged, and one too short to train on."""
    folder = tmp_path_factory.mktemp("stream")
    populations = [
        tiny_population(number, 14 + 16 * number, minutes=1.5, subject=f"m{number}") for number in range(3)
    ]
    populations.append(tiny_calcium(9, 20, minutes=4.0, subject="imaged", sampling_rate_hz=10.0))
    populations.append(tiny_population(5, 20, minutes=0.2, subject="short"))
    paths = [folder / f"{number}.h5" for number in range(len(populations))]
    for population, path in zip(populations, paths, strict=True):
        write_population(population, path, source=SourceRecord(path.name, "test", "made in memory"))
    return [Session(path) for path in paths]


def stream_of(sessions: list[Session], **options: Any) -> PretrainStream:
    chosen: dict[str, Any] = {"seed": SEED, "batch_windows": 6, "max_tokens": 600, "min_units": 8}
    return PretrainStream(sessions, TOKENS, **(chosen | options))


def take(stream: PretrainStream, n_steps: int) -> list[StepBatch]:
    with stream:
        return list(itertools.islice(stream, n_steps))


def content(batch: PairBatch) -> list[tuple[object, ...]]:
    """Each pair of a micro-batch as plain values that can be compared and counted."""
    views = []
    for view in (batch.view1, batch.view2):
        sizes = view.units_per_population.tolist()
        parts = zip(torch.split(view.inputs, sizes), torch.split(view.ids, sizes), strict=True)
        views.append([(inputs.numpy().tobytes(), tuple(ids.tolist())) for inputs, ids in parts])
    return [(batch.modality, *pair) for pair in zip(*views, strict=True)]


def plain(step: StepBatch) -> tuple[object, ...]:
    micro = [(content(batch), batch.n_pairs, batch.n_tokens) for batch in step.micro]
    return micro, step.state_after, step.n_windows, step.n_dropped, step.n_pairs, dict(step.dropped)


@pytest.mark.parametrize(
    ("n_workers", "method"),
    [
        (1, None),
        (2, None),
        pytest.param(1, "forkserver", marks=pytest.mark.slow),
        pytest.param(2, "spawn", marks=pytest.mark.slow),
    ],
)
def test_workers_change_nothing(sessions: list[Session], n_workers: int, method: str | None) -> None:
    alone = [plain(step) for step in take(stream_of(sessions), 9)]
    shared = take(stream_of(sessions, num_workers=n_workers, start_method=method), 9)
    assert [plain(step) for step in shared] == alone


def test_steps_are_the_pairs_of_the_epochs_windows_in_order(sessions: list[Session]) -> None:
    steps = take(stream_of(sessions, max_tokens=10**9), 12)
    windows = TrainingWindows(sessions, TOKENS, min_units=8)
    names = [
        (epoch, index, window)
        for epoch in range(6)
        for index, window in enumerate(windows.epoch(SEED, epoch))
    ]
    for number, step in enumerate(steps):
        drawn = [
            draw_pair(sessions[window.session], window, TOKENS, SEED, epoch, index, min_units=8)
            for epoch, index, window in names[6 * number : 6 * number + 6]
        ]
        pairs = [pair for pair in drawn if isinstance(pair, ViewPair)]
        assert step.n_windows == 6
        assert step.n_dropped == 6 - len(pairs)
        assert step.n_pairs == sum(pair.n_matched for pair in pairs)
        wanted = Counter(
            (pair.window.modality, pair.view1.inputs.tobytes(), tuple(pair.view1.rows.tolist()))
            for pair in pairs
        )
        found = Counter(item[:1] + item[1] for batch in step.micro for item in content(batch))  # type: ignore[operator]
        assert found == wanted


@pytest.mark.parametrize("world", [2, 3, 8])
def test_ranks_share_the_global_batch_among_them(sessions: list[Session], world: int) -> None:
    alone = take(stream_of(sessions), 8)
    ranks = [take(stream_of(sessions, rank=rank, world=world), 8) for rank in range(world)]
    for number, whole in enumerate(alone):
        parts = [steps[number] for steps in ranks]
        assert {part.state_after for part in parts} == {whole.state_after}
        assert sum(part.n_windows for part in parts) == whole.n_windows
        assert sum(part.n_pairs for part in parts) == whole.n_pairs
        found = Counter(item for part in parts for batch in part.micro for item in content(batch))
        assert found == Counter(item for batch in whole.micro for item in content(batch))


@pytest.mark.parametrize("n_workers", [0, 2])
def test_resume_is_exact_from_any_step(sessions: list[Session], n_workers: int) -> None:
    # Epochs have about 25 windows, so that 12 steps of 6 pass the end of two of them.
    whole = take(stream_of(sessions), 12)
    assert whole[-1].state_after.epoch >= 2
    for after in (1, 4, 5, 9):
        state = whole[after - 1].state_after
        resumed = take(stream_of(sessions, state=state, num_workers=n_workers), 12 - after)
        assert [plain(step) for step in resumed] == [plain(step) for step in whole[after:]]


def test_iterating_again_goes_on_after_the_last_step_yielded(sessions: list[Session]) -> None:
    whole = [plain(step) for step in take(stream_of(sessions), 6)]
    stream = stream_of(sessions, num_workers=1)
    first = take(stream, 2)
    assert stream.state == first[-1].state_after
    assert [plain(step) for step in first + take(stream, 4)] == whole


def test_micro_batches_keep_to_the_cap_and_to_one_modality(sessions: list[Session]) -> None:
    steps = take(stream_of(sessions, batch_windows=12, max_tokens=900), 6)
    modalities = {batch.modality for step in steps for batch in step.micro}
    assert modalities == {"spikes", "calcium"}
    for batch in (batch for step in steps for batch in step.micro):
        assert batch.n_tokens <= 900 or len(batch.view1.units_per_population) == 1
        assert batch.view1.inputs.shape[1:] == ((10, 50) if batch.modality == "spikes" else (32, 4))


def test_a_batch_larger_than_an_epoch_takes_several(sessions: list[Session]) -> None:
    [step] = take(stream_of(sessions[:1], batch_windows=50), 1)
    assert step.n_windows == 50
    assert step.state_after.epoch in (5, 6, 7)


def test_global_random_numbers_are_left_alone(sessions: list[Session]) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    take(stream_of(sessions), 2)
    take(stream_of(sessions, num_workers=1), 2)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_counts_and_epoch_length(sessions: list[Session]) -> None:
    stream = stream_of(sessions, min_units=12)
    steps = take(stream, 10)
    counters = stream.counters
    assert counters.windows == 60
    assert counters.pairs == sum(step.n_pairs for step in steps)
    assert dict(counters.dropped) == {"too few active units in a view": sum(step.n_dropped for step in steps)}
    assert sum(step.n_dropped for step in steps) > 0  # 14 units, half of them kept, are too few for 12
    assert [str(skip.key) for skip in stream.skipped] == ["short/day1/0"]
    assert stream.usable == (0, 1, 2, 3)
    expected = 3 * (9 - 1) + (240 / TOKENS.calcium.window_s - 1)
    assert stream.steps_in_epoch() == pytest.approx(expected / 6)
    assert stream.steps_in_epoch(3) == pytest.approx(expected / 3)


@pytest.mark.parametrize("n_workers", [0, 1])
def test_a_stream_that_never_gives_a_pair_says_so(sessions: list[Session], n_workers: int) -> None:
    stream = stream_of(sessions[:1], min_units=14, num_workers=n_workers)
    with pytest.raises(InputError) as caught:
        take(stream, 1000)
    assert "too few active units in a view" in caught.value.what
    assert multiprocessing.active_children() == []


def test_a_broken_session_in_a_worker_is_a_plain_error(sessions: list[Session], tmp_path: Path) -> None:
    path = tmp_path / "copy.h5"
    shutil.copyfile(sessions[2].path, path)
    session = Session(path)
    stream = stream_of([session], num_workers=1)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(InputError) as caught:
        take(stream, 1)
    assert "copy.h5" in caught.value.what
    assert "Traceback" not in str(caught.value)
    assert multiprocessing.active_children() == []


@pytest.mark.skipif(sys.platform != "linux", reason="limits shared memory by a limit on the size of files")
def test_too_little_shared_memory_is_a_plain_error(sessions: list[Session]) -> None:
    code = (
        "import pathlib, resource\n"
        "from nuclr_cli.data.pretrain_stream import PretrainStream\n"
        "from nuclr_cli.data.session import Session\n"
        "from nuclr_cli.data.tokens import TokenSpec\n"
        "from nuclr_cli.errors import InputError\n"
        f"session = Session(pathlib.Path({str(sessions[2].path)!r}))\n"
        "options = dict(seed=0, batch_windows=4, max_tokens=600, num_workers=1, start_method='fork')\n"
        "stream = PretrainStream([session], TokenSpec(), **options)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n"
        "    next(iter(stream))\n"
        "except InputError as error:\n"
        "    print(error)\n"
        "stream.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "MiB of shared memory" in done.stdout
    assert "/dev/shm" in done.stdout


def test_a_stream_left_open_does_not_keep_the_program_from_ending(sessions: list[Session]) -> None:
    """Its workers ignore SIGTERM, which is how multiprocessing ends its children when a program ends."""
    code = (
        "import multiprocessing, pathlib\n"
        "from nuclr_cli.data.pretrain_stream import PretrainStream\n"
        "from nuclr_cli.data.session import Session\n"
        "from nuclr_cli.data.tokens import TokenSpec\n"
        f"session = Session(pathlib.Path({str(sessions[2].path)!r}))\n"
        "options = dict(seed=0, batch_windows=4, max_tokens=600, num_workers=1)\n"
        "stream = PretrainStream([session], TokenSpec(), **options)\n"
        "steps = iter(stream)\n"
        "next(steps)\n"
        "[worker] = multiprocessing.active_children()\n"
        "print(worker.pid)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)


def test_close_ends_the_workers(sessions: list[Session]) -> None:
    stream = stream_of(sessions, num_workers=2)
    next(iter(stream))
    assert len(multiprocessing.active_children()) == 2
    stream.close()
    assert multiprocessing.active_children() == []
    stream.close()


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no SIGUSR1 on this platform")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"])
def test_workers_leave_a_jobs_signals_to_the_trainer(sessions: list[Session], name: str) -> None:
    wanted = [plain(step) for step in take(stream_of(sessions), 8)]
    with stream_of(sessions, num_workers=2) as stream:
        steps = iter(stream)
        found = [plain(next(steps)) for _ in range(2)]
        for worker in multiprocessing.active_children():
            assert worker.pid is not None
            os.kill(worker.pid, getattr(signal, name))
        time.sleep(0.2)
        found += [plain(next(steps)) for _ in range(6)]
    assert found == wanted
    assert multiprocessing.active_children() == []


@given(st.lists(st.floats(0, 1e6), max_size=40), st.integers(1, 9))
def test_dealing_is_complete_and_balanced(costs: list[float], world: int) -> None:
    hands = deal_by_cost(costs, world)
    assert hands == deal_by_cost(costs, world)
    assert sorted(item for hand in hands for item in hand) == list(range(len(costs)))
    assert all(hand == sorted(hand) for hand in hands)
    loads = [sum(costs[item] for item in hand) for hand in hands]
    assert max(loads) - min(loads) <= max(costs, default=0.0) + 1e-6


def test_equal_costs_are_dealt_in_equal_numbers() -> None:
    assert [len(hand) for hand in deal_by_cost([0.0] * 10, 4)] == [3, 3, 2, 2]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"batch_windows": 0}, "train.batch_windows is 0"),
        ({"max_tokens": 0}, "train.max_tokens is 0"),
        ({"num_workers": -1}, "train.workers is -1"),
        ({"min_units": 0}, "views.min_units is 0"),
        ({"dropout": (0.0, 1.0)}, "between 0.0 and 1.0"),
        ({"dropout": (0.9, 0.5)}, "between 0.9 and 0.5"),
        ({"dropout": (0.5, 1.5)}, "between 0.5 and 1.5"),
        ({"seed": -3}, "seed is -3"),
    ],
)
def test_options_out_of_range_are_refused(
    sessions: list[Session], options: dict[str, Any], named: str
) -> None:
    with pytest.raises(InputError, match=named):
        take(stream_of(sessions, **options), 1)


def test_a_state_past_the_end_of_its_epoch_starts_the_next(sessions: list[Session]) -> None:
    # As when the data shrank between two runs.
    late = take(stream_of(sessions, state=StreamState(0, 10_000)), 2)
    next_epoch = take(stream_of(sessions, state=StreamState(1, 0)), 2)
    assert [plain(step) for step in late] == [plain(step) for step in next_epoch]
