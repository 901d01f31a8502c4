"""Populations whose units are spread over several processes: each holds some, all see everybody.

All layers but attention across the population work on one unit at a time, so a process computes them for its
own units; keys and values are gathered, layer by layer, and so are the embeddings that a loss compares.
Nothing is approximated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


class PeerLost(RuntimeError):
    """Another process that holds the batch is gone, or the connection to it."""


def own_rows(sizes: Sequence[int], member: int, of: int) -> list[range]:
    """Units that one of several processes holds: of each population a run of neighbours, about as many each.

    Args:
        sizes: Units of each population, which are packed one after the other.
        member: Which process, from 0.
        of: How many there are.

    Returns:
        For each population, rows along the packed axis; over all members each row comes once.
    """
    found, start = [], 0
    for size in sizes:
        found.append(range(start + size * member // of, start + size * (member + 1) // of))
        start += size
    return found


@dataclass(frozen=True, eq=False)
class UnitShards:
    """Who holds which units of a packed batch of U units.

    Made by `unit_shards`.

    Attributes:
        group: The processes that hold the batch together; None = all that there are.
        of: How many they are.
        sizes: Units of each population.
        own_sizes: How many of each are here.
        rows: (V,) int64 on the host: places along the packed axis of the units that are here.
        longest: Most units that any process holds.
        places: (U,) int64 on the device: where each unit lies in what is gathered.
    """

    group: dist.ProcessGroup | None
    of: int
    sizes: tuple[int, ...]
    own_sizes: tuple[int, ...]
    rows: Tensor
    longest: int
    places: Tensor

    def gather(self, own: Tensor) -> Tensor:
        """Everybody's rows in packed order.

        The gradient of a row is the sum of what all processes have for it, added up in float32 at least. All
        of them have to call this, and its backward pass, equally often and in the same order.

        Args:
            own: (V, ...) of the units that are here.

        Returns:
            (U, ...), the same on all processes.

        Raises:
            PeerLost: Here and in the backward pass.
        """
        gathered: Tensor = _Gather.apply(own, self)  # type: ignore[no-untyped-call]
        return gathered


def unit_shards(
    sizes: Sequence[int] | Tensor,
    member: int,
    of: int,
    group: dist.ProcessGroup | None = None,
    device: torch.device | str = "cpu",
) -> UnitShards:
    """Deal the units of a packed batch to the processes of a group; the same on all of them.

    Args:
        sizes: (B,) units of each population, on the host.
        member: This process's number in the group.
        of: Processes in the group.
        group: None = all processes.
        device: Where the activations are.
    """
    counts = tuple(torch.as_tensor(sizes).tolist())
    held = [own_rows(counts, each, of) for each in range(of)]
    longest = max(sum(map(len, hand)) for hand in held)
    places = torch.empty(sum(counts), dtype=torch.int64)
    for each, hand in enumerate(held):
        rows = _tensor(hand)
        places[rows] = each * longest + torch.arange(len(rows))
    return UnitShards(
        group=group,
        of=of,
        sizes=counts,
        own_sizes=tuple(map(len, held[member])),
        rows=_tensor(held[member]),
        longest=longest,
        places=places.to(device, non_blocking=True),
    )


class _Gather(torch.autograd.Function):
    """Gather on the way there, sum up and scatter on the way back; shares are padded to the longest."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, shards: UnitShards) -> Tensor:
        ctx.shards, ctx.n_own = shards, len(own)
        padded = own.new_zeros(shards.longest, *own.shape[1:])
        padded[: len(own)] = own
        everybody = own.new_empty(shards.of, *padded.shape)
        with _peers():
            dist.all_gather(list(everybody.unbind()), padded, group=shards.group)
        return everybody.flatten(0, 1)[shards.places]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        shards: UnitShards = ctx.shards
        wide = torch.promote_types(gradient.dtype, torch.float32)
        everybody = gradient.new_zeros(shards.of * shards.longest, *gradient.shape[1:], dtype=wide)
        everybody[shards.places] = gradient.to(wide)
        own = everybody.new_empty(shards.longest, *gradient.shape[1:])
        parts = list(everybody.view(shards.of, shards.longest, *gradient.shape[1:]).unbind())
        with _peers():
            dist.reduce_scatter(own, parts, group=shards.group)
        return own[: ctx.n_own].to(gradient.dtype), None


@contextmanager
def _peers() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise PeerLost(str(error)) from error


def _tensor(hand: Sequence[range]) -> Tensor:
    rows = [torch.arange(part.start, part.stop) for part in hand]
    return torch.cat(rows) if rows else torch.empty(0, dtype=torch.int64)
