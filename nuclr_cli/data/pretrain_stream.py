"""The endless stream of training steps: draw a global batch, deal it to the ranks, make the views, cut them.

What a step holds depends on (seed, epoch, position) only: not on the number of ranks, workers or
micro-batches.
"""

from __future__ import annotations

import atexit
import heapq
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

import torch
from torch.utils.data import DataLoader

from nuclr_cli.data.balance import Balance
from nuclr_cli.data.batch import PairBatch
from nuclr_cli.data.recording import Recording
from nuclr_cli.data.shares import (
    DrawnWindow,
    PackedShare,
    Share,
    ShareViews,
    StreamState,
    leave_signals_to_parent,
)
from nuclr_cli.data.tokens import TokenSpec
from nuclr_cli.data.windows import EpochWindows, SkippedSession, TrainingWindows
from nuclr_cli.errors import InputError, NuclrError

__all__ = ["PretrainStream", "StepBatch", "StreamCounters", "StreamState", "deal_by_cost"]


@dataclass(frozen=True)
class StepBatch:
    """This rank's share of one global step.

    Attributes:
        micro: Micro-batches; empty when the rank was dealt no window or all were dropped.
        state_after: State from which a new stream yields the next step.
        drawn: Windows this rank drew, with the numbers that name their random streams.
        n_dropped: Of these, windows that gave no pair.
        n_pairs: Matched units of this rank.
        dropped: Why, with counts.
    """

    micro: list[PairBatch]
    state_after: StreamState
    drawn: tuple[DrawnWindow, ...]
    n_dropped: int
    n_pairs: int
    dropped: Mapping[str, int]

    @property
    def n_windows(self) -> int:
        return len(self.drawn)


@dataclass(frozen=True)
class StreamCounters:
    """What this rank has drawn since the stream was made."""

    windows: int = 0
    pairs: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)


class PretrainStream:
    """Iterable over training steps, without end; iterating again goes on after the last step yielded.

    Args:
        sessions: All sessions; those without enough time or units are skipped and listed in `skipped`.
        tokens: Window, patch and bin lengths by modality.
        seed: The run's seed.
        batch_windows: Windows in a global batch, over all ranks.
        max_tokens: Cap on units x patches over both views of a micro-batch.
        dropout: Bounds of the fraction of units each view keeps.
        min_units: Active units each view needs.
        rank, world: This process and the number of processes.
        num_workers: Loader processes; 0 = draw in this process. Changes no view.
        balance: Whose windows come equally often in an epoch.
        prefetch: Steps that each loader process draws ahead.
        pin_memory: Lay what a step holds in memory from which a GPU copies while it computes; without a GPU
            this does nothing.
        state: Where to start.
        start_method: How worker processes start (``fork``, ``spawn``, ``forkserver``); None = the default of
            the platform.

    Attributes:
        skipped: Sessions left out of training, with the reason.

    Raises:
        InputError: An option is out of range, or no session is usable. While iterating on one rank: a whole
            epoch gave no pair.
    """

    def __init__(
        self,
        sessions: Sequence[Recording],
        tokens: TokenSpec,
        *,
        seed: int,
        batch_windows: int,
        max_tokens: int,
        dropout: tuple[float, float] = (0.5, 1.0),
        min_units: int = 11,
        rank: int = 0,
        world: int = 1,
        num_workers: int = 0,
        balance: Balance = "none",
        prefetch: int = 2,
        pin_memory: bool = False,
        state: StreamState | None = None,
        start_method: str | None = None,
    ) -> None:
        _check_options(batch_windows, max_tokens, dropout, min_units, rank, world, num_workers, prefetch)
        self._windows = TrainingWindows(sessions, tokens, min_units=min_units, balance=balance)
        self._views = ShareViews(tuple(sessions), tokens, seed, dropout, min_units, max_tokens)
        self._seed, self._batch_windows = seed, batch_windows
        self._rank, self._world = rank, world
        self._num_workers, self._start_method = num_workers, start_method
        self._prefetch = prefetch
        # The loader warns when it is told to pin and there is no GPU.
        self._pin_memory = pin_memory and torch.cuda.is_available()
        self._state = StreamState() if state is None else state
        self._counters = StreamCounters()
        self._barren = 0
        self._running: Generator[StepBatch] | None = None
        self._epoch: tuple[int, EpochWindows] | None = None

    @property
    def skipped(self) -> tuple[SkippedSession, ...]:
        return self._windows.skipped

    @property
    def usable(self) -> tuple[int, ...]:
        """Indices of the sessions that are trained on."""
        return self._windows.usable

    @property
    def state(self) -> StreamState:
        """State after the last step yielded; kept in a checkpoint, it resumes exactly."""
        return self._state

    @property
    def counters(self) -> StreamCounters:
        """What this rank has drawn so far."""
        return self._counters

    def steps_in_epoch(self, batch_windows: int | None = None) -> float:
        """Mean number of global steps in an epoch (random offsets make it vary by a window an interval)."""
        return self._windows.expected_windows / (batch_windows or self._batch_windows)

    def __iter__(self) -> Iterator[StepBatch]:
        self.close()
        self._running = self._steps()
        if self._num_workers:
            _close_at_exit(self)
        return self._running

    def close(self) -> None:
        """Stop the worker processes, if any. Iterating again starts new ones."""
        running, self._running = self._running, None
        if running is not None:
            running.close()

    def __enter__(self) -> PretrainStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _steps(self) -> Generator[StepBatch]:
        # An own generator: DataLoader would otherwise take a number from torch's global one, which belongs
        # to the model.
        loader: DataLoader[Any] = DataLoader(
            self._views,
            batch_size=None,
            sampler=self._shares(self._state),
            num_workers=self._num_workers,
            prefetch_factor=self._prefetch if self._num_workers else None,
            pin_memory=self._pin_memory,
            multiprocessing_context=self._start_method if self._num_workers else None,
            worker_init_fn=leave_signals_to_parent if self._num_workers else None,
            generator=torch.Generator(),
        )
        drawn: Any = iter(loader)
        try:
            for result in drawn:
                if isinstance(result, NuclrError):
                    raise result
                step = self._step(result)
                self._state = step.state_after
                self._count(step)
                yield step
        finally:
            # Whatever else holds the iterator (a traceback, a frame), the workers end here. Left to garbage
            # collection it may lose its queues first; its last resort is SIGTERM, which workers ignore.
            if self._num_workers:
                drawn._shutdown_workers()

    def _shares(self, state: StreamState) -> Iterator[Share]:
        """This rank's share of each global batch from `state` on."""
        while True:
            drawn: list[DrawnWindow] = []
            while len(drawn) < self._batch_windows:
                epoch = self._windows_of(state.epoch)
                part = epoch[state.position : state.position + self._batch_windows - len(drawn)]
                drawn += [
                    DrawnWindow(window, state.epoch, state.position + place)
                    for place, window in enumerate(part)
                ]
                position = state.position + len(part)
                done = position >= len(epoch)
                state = StreamState(state.epoch + 1, 0) if done else StreamState(state.epoch, position)
            costs = [self._views.cost(item.window) for item in drawn]
            mine = deal_by_cost(costs, self._world)[self._rank]
            yield Share(tuple(drawn[place] for place in mine), state)

    def _windows_of(self, epoch: int) -> EpochWindows:
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, self._windows.epoch(self._seed, epoch))
        return self._epoch[1]

    def _step(self, packed: PackedShare) -> StepBatch:
        micro = packed.unpack()
        n_pairs = sum(batch.n_pairs for batch in micro)
        return StepBatch(
            micro=micro,
            state_after=packed.state_after,
            drawn=packed.drawn,
            n_dropped=sum(packed.dropped.values()),
            n_pairs=n_pairs,
            dropped=packed.dropped,
        )

    def _count(self, step: StepBatch) -> None:
        before = self._counters
        dropped = Counter(before.dropped)
        dropped.update(step.dropped)
        self._counters = StreamCounters(
            before.windows + step.n_windows, before.pairs + step.n_pairs, dict(dropped)
        )
        self._barren = 0 if step.n_pairs else self._barren + step.n_windows
        if self._world == 1 and self._barren > 2 * self._windows.expected_windows + self._batch_windows:
            reasons = ", ".join(f"{count} x {reason}" for reason, count in sorted(dropped.items()))
            raise InputError(
                f"Not one of {self._barren} windows in a row gave a training pair: {reasons}.",
                "Use populations with more active units, or ask for fewer: --set views.min_units=NUMBER",
            )


_WITH_WORKERS: WeakSet[PretrainStream] = WeakSet()


def _close_at_exit(stream: PretrainStream) -> None:
    if not _WITH_WORKERS:
        # Runs before multiprocessing's own exit, which registered earlier and would wait for the workers.
        atexit.unregister(_close_all)
        atexit.register(_close_all)
    _WITH_WORKERS.add(stream)


def _close_all() -> None:
    for stream in tuple(_WITH_WORKERS):
        stream.close()


def deal_by_cost(costs: Sequence[float], world: int) -> list[list[int]]:
    """Deal items to `world` ranks, the costliest first, each to the rank with the least so far.

    Returns:
        For each rank its items, ascending; each item is in exactly one list.
    """
    hands: list[list[int]] = [[] for _ in range(world)]
    loads = [(0.0, 0, rank) for rank in range(world)]  # a heap: cost, items and rank of each
    for item in sorted(range(len(costs)), key=lambda item: (-costs[item], item)):
        load, n_items, rank = loads[0]
        hands[rank].append(item)
        heapq.heapreplace(loads, (load + costs[item], n_items + 1, rank))
    return [sorted(hand) for hand in hands]


def _check_options(
    batch_windows: int,
    max_tokens: int,
    dropout: tuple[float, float],
    min_units: int,
    rank: int,
    world: int,
    num_workers: int,
    prefetch: int,
) -> None:
    for name, value, least in (
        ("train.batch_windows", batch_windows, 1),
        ("train.max_tokens", max_tokens, 1),
        ("views.min_units", min_units, 1),
        ("train.workers", num_workers, 0),
        ("train.prefetch", prefetch, 1),
    ):
        if value < least:
            raise InputError(f"{name} is {value}; at least {least} is needed.", f"--set {name}={least}")
    if not 0.0 < dropout[0] <= dropout[1] <= 1.0:
        raise InputError(
            f"The fraction of units a view keeps is drawn between {dropout[0]} and {dropout[1]}; "
            "0 < low <= high <= 1 is needed.",
            "--set views.dropout_low=0.5 --set views.dropout_high=1 (the reference), or both 1 for none",
        )
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} of {world}")
