"""One rank's share of a global batch: its views made, cut and packed, in whichever process does the work."""

from __future__ import annotations

import math
import signal
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, get_worker_info

from nuclr_cli.api import Modality
from nuclr_cli.data.batch import PackedViews, PairBatch, plan_cut, spikes_of_units
from nuclr_cli.data.recording import Recording
from nuclr_cli.data.tokens import TokenSpec
from nuclr_cli.data.views import DroppedSample, DropReason, View, ViewPair, draw_pair
from nuclr_cli.data.windows import Window
from nuclr_cli.errors import InputError, NuclrError

_EQUAL_COST_UNITS = 1500
"""Units at which attention across the population costs as much as the layers that are linear in units.

Per token at width D = 256: about 24 D^2 multiplications in the linear layers, 4 D n in attention across n
units.
"""


@dataclass(frozen=True)
class StreamState:
    """Where the stream stands: the next window to draw.

    Attributes:
        epoch: Epoch, from 0.
        position: Place in the epoch's shuffled list of windows.
    """

    epoch: int = 0
    position: int = 0


@dataclass(frozen=True)
class DrawnWindow:
    """A window and the numbers that name its random streams."""

    window: Window
    epoch: int
    index: int


@dataclass(frozen=True)
class Share:
    """One rank's windows of one global batch."""

    drawn: tuple[DrawnWindow, ...]
    state_after: StreamState


@dataclass(frozen=True)
class _Layout:
    """How the views of one micro-batch lie in `PackedShare.flat`.

    Attributes:
        shape: (patches, samples) of a unit's inputs; () of a spike's time.
        spikes: For each view, spikes of every unit if it holds events, else None.
    """

    modality: Modality
    shape: tuple[int, ...]
    n_latents: int
    ids: tuple[NDArray[np.int64], NDArray[np.int64]]
    units: tuple[NDArray[np.int64], NDArray[np.int64]]
    spikes: tuple[NDArray[np.int64] | None, NDArray[np.int64] | None]
    n_pairs: int


@dataclass(frozen=True)
class PackedShare:
    """A share's views, ready to travel between processes.

    All inputs lie in one tensor: each tensor that travels holds a file descriptor open, and a step may have
    hundreds.
    """

    flat: torch.Tensor
    layouts: tuple[_Layout, ...]
    state_after: StreamState
    drawn: tuple[DrawnWindow, ...]
    dropped: Mapping[str, int]

    def pin_memory(self) -> PackedShare:
        """The same share with its inputs in pinned memory, from which a GPU copies while it computes.

        The loader calls it, by this name. Without a GPU the share is returned as it is.
        """
        return replace(self, flat=self.flat.pin_memory()) if torch.cuda.is_available() else self

    def unpack(self) -> list[PairBatch]:
        """The micro-batches; their inputs are views into `flat`."""
        batches: list[PairBatch] = []
        place = 0
        for layout in self.layouts:
            packed: list[PackedViews] = []
            for ids, units, spikes in zip(layout.ids, layout.units, layout.spikes, strict=True):
                length = len(ids) if spikes is None else int(spikes.sum())
                size = length * math.prod(layout.shape)
                inputs = self.flat[place : place + size].view(length, *layout.shape)
                place += size
                packed.append(
                    PackedViews(
                        layout.modality,
                        inputs,
                        torch.from_numpy(ids),
                        torch.from_numpy(units),
                        None if spikes is None else torch.from_numpy(spikes),
                        layout.n_latents,
                    )
                )
            view1, view2 = packed
            batches.append(PairBatch(view1, view2, layout.n_pairs, view1.n_tokens + view2.n_tokens))
        return batches


def window_cost(n_units: int, n_patches: int) -> float:
    """What training on a window costs, in tokens: linear layers plus attention across the population."""
    return n_units * n_patches * (1.0 + n_units / _EQUAL_COST_UNITS)


@dataclass(frozen=True)
class ShareViews(Dataset[Any]):
    """Makes the views of a share; runs in the loader's workers."""

    sessions: tuple[Recording, ...]
    tokens: TokenSpec
    seed: int
    dropout: tuple[float, float]
    min_units: int
    max_tokens: int

    def cost(self, window: Window) -> float:
        """Expected cost of a window's pair, see `window_cost`."""
        return window_cost(self.sessions[window.session].n_units, self.tokens.of(window.modality).n_patches)

    def __getitem__(self, share: Share) -> PackedShare | NuclrError:
        # An error for the user is returned, not raised: the loader would wrap it in a worker's traceback.
        try:
            return self._pack(share)
        except NuclrError as error:
            return error

    def _pack(self, share: Share) -> PackedShare:
        pairs: list[ViewPair] = []
        dropped: Counter[DropReason] = Counter()
        for item in share.drawn:
            result = draw_pair(
                self.sessions[item.window.session],
                item.window,
                self.tokens,
                self.seed,
                item.epoch,
                item.index,
                dropout=self.dropout,
                min_units=self.min_units,
            )
            if isinstance(result, DroppedSample):
                dropped[result.reason] += 1
            else:
                pairs.append(result)
        groups = [[pairs[place] for place in group] for group in plan_cut(pairs, self.max_tokens)]
        sides = [side for group in groups for side in _sides(group)]
        parts = [view.inputs.reshape(-1) for side in sides for view in side]
        flat = _travelling(sum(len(part) for part in parts))
        if parts:
            np.concatenate(parts, out=flat.numpy())
        return PackedShare(
            flat,
            tuple(_layout(group) for group in groups),
            share.state_after,
            share.drawn,
            {reason.value: count for reason, count in sorted(dropped.items())},
        )


def _sides(group: Sequence[ViewPair]) -> tuple[list[View], list[View]]:
    return [pair.view1 for pair in group], [pair.view2 for pair in group]


def _layout(group: Sequence[ViewPair]) -> _Layout:
    side1, side2 = _sides(group)
    return _Layout(
        group[0].window.modality,
        side1[0].inputs.shape[1:],
        side1[0].n_latents,
        (np.concatenate([view.rows for view in side1]), np.concatenate([view.rows for view in side2])),
        (np.array([len(view.rows) for view in side1]), np.array([len(view.rows) for view in side2])),
        (spikes_of_units(side1), spikes_of_units(side2)),
        sum(pair.n_matched for pair in group),
    )


def _travelling(size: int) -> torch.Tensor:
    """(size,) float32, not initialised; in a worker, in shared memory.

    The loader would move it there while sending it, in a thread that may be cut off when the stream closes: a
    spawned worker then aborts with a message. Also, a lack of shared memory can be told to the user here.
    """
    flat = torch.empty(size, dtype=torch.float32)
    if get_worker_info() is None:
        return flat
    try:
        flat.share_memory_()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise InputError(
            f"A loader worker could not get {flat.nbytes / 2**20:.0f} MiB of shared memory: {error}",
            "--set train.workers=0 needs none; or enlarge /dev/shm (docker run --shm-size=8g)",
        ) from error
    return flat


def leave_signals_to_parent(_: int) -> None:
    """A batch system signals every process of a job; only the trainer may decide, after its checkpoint.

    Workers end when the trainer closes them or is gone.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"):
        number = getattr(signal, name, None)
        if number is not None:
            signal.signal(number, signal.SIG_IGN)
