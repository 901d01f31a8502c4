"""Population attention on a CPU: few SDPA calls on views, and one copy that gathers their gradients.

It computes what the reference does, and differs in two things. Populations that lie side by side and are
equally large share calls where they are many or tiny, since calls cost more than their work there. And the
gradient is written where it belongs by one copy, while autograd stacks query, key and value, and then joins
populations.

Letters in shapes: c populations of a run, n units of each, L patches, H heads, Dh head width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, islice, pairwise
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention

TINY, SMALL, FEW_UNITS = 2, 4, 64
"""A copy and one call serve best: populations of `TINY` size and, for a gradient, `SMALL` ones, few units."""
LARGE, LARGE_RECORDED = 1000, 500
"""Units of a population from which its query, key and value are copied first, for a gradient the latter.

Every tile of queries reads all keys and values, and in the projection each unit lies on pages of its own.
"""
FEW_NUMBERS = 1 << 18
"""Of the projection for one call, up to which autograd's own two copies cost less than another node."""


def population_attention_cpu(
    qkv: Tensor | tuple[Tensor, Tensor, Tensor], bounds: tuple[int, ...], *, scale: float | None = None
) -> Tensor:
    """Attend within populations; arguments as `population_attention_reference`, with a unit at least."""
    if not isinstance(qkv, Tensor):
        qkv = torch.stack(qkv, dim=2)
    recorded = torch.is_grad_enabled() and qkv.requires_grad
    runs = _runs(bounds, qkv.shape[1], recorded)
    cut = _Parts.apply if recorded and _gathers(qkv, runs) else _parts
    parts: Sequence[Tensor] = cut(qkv, runs)
    attended = [
        scaled_dot_product_attention(parts[i], parts[i + 1], parts[i + 2], scale=scale)
        for i in range(0, len(parts), 3)
    ]
    if len(runs) == 1:
        units = runs[0].joined(attended)
    else:
        following = iter(attended)
        units = [part for run in runs for part in run.joined(list(islice(following, run.calls)))]
    return units[0] if len(units) == 1 else torch.cat(units)


@dataclass(frozen=True)
class _Run:
    """Populations of the same size, one after the other.

    Attributes:
        count: c.
        size: n.
        call: What one call works on: all of it, one patch of all populations, or one population.
        calls: How many there are.
        copied: Populations are so large that they are copied, one by one.
    """

    count: int
    size: int
    call: Literal["all", "patch", "population"]
    calls: int
    copied: bool = False

    def cut(self, qkv: Tensor) -> Sequence[Tensor]:
        """The calls' (3, batch, H, n, Dh) of a (c * n, L, 3, H, Dh) projection: views, but where all of
        several populations larger than one unit is worked on at once, or they are `copied`.
        """
        pieces = self.places(qkv)
        return [piece.contiguous() for piece in pieces] if self.copied else pieces

    def places(self, qkv: Tensor) -> Sequence[Tensor]:
        """Where in the projection the calls' tensors are."""
        if self.count == 1:
            return (qkv.permute(2, 1, 3, 0, 4),)
        if self.call == "population":
            return [population.permute(2, 1, 3, 0, 4) for population in torch.split(qkv, self.size)]
        by_population = qkv.view(self.count, self.size, *qkv.shape[1:])
        if self.call == "all":
            return (by_population.permute(3, 0, 2, 4, 1, 5).flatten(1, 2),)
        return by_population.permute(2, 3, 0, 4, 1, 5).unbind(0)

    def joined(self, attended: list[Tensor]) -> list[Tensor]:
        """What the calls gave, with the units first: tensors (units, L, H, Dh) to put one after the other."""
        if self.count == 1 or self.call == "population":
            return [population.permute(2, 0, 1, 3) for population in attended]
        if self.call == "all":
            by_population = attended[0].view(self.count, -1, *attended[0].shape[1:]).permute(0, 3, 1, 2, 4)
        else:
            by_population = torch.stack([patch.transpose(1, 2) for patch in attended], dim=2)
        return [by_population.flatten(0, 1)]


_Cut = Callable[[_Run, Tensor], Sequence[Tensor]]


@lru_cache(maxsize=16)  # the layers of a model ask about the same batch
def _runs(bounds: tuple[int, ...], n_patches: int, recorded: bool) -> tuple[_Run, ...]:
    sizes = [stop - start for start, stop in pairwise(bounds) if stop > start]
    counts = [(size, sum(1 for _ in populations)) for size, populations in groupby(sizes)]
    alone = len(counts) == 1
    return tuple(_run(count, size, n_patches, alone=alone, recorded=recorded) for size, count in counts)


def _run(count: int, size: int, n_patches: int, *, alone: bool, recorded: bool) -> _Run:
    if size >= (LARGE_RECORDED if recorded else LARGE):
        return _Run(count, size, "population", count, copied=True)
    small = size <= TINY or (recorded and size <= SMALL and count * size <= FEW_UNITS)
    if size == 1 or (alone and small):
        return _Run(count, size, "all", 1)
    if count <= n_patches:
        return _Run(count, size, "population", count)
    return _Run(count, size, "patch", n_patches)


def _parts(qkv: Tensor, runs: Sequence[_Run], cut: _Cut = _Run.cut) -> tuple[Tensor, ...]:
    """Query, key and value of one call after the other."""
    if len(runs) == 1:
        return tuple(part for piece in cut(runs[0], qkv) for part in piece.unbind(0))
    of_runs = torch.split(qkv, [run.count * run.size for run in runs])
    pieces = (piece for part, run in zip(of_runs, runs, strict=True) for piece in cut(run, part))
    return tuple(part for piece in pieces for part in piece.unbind(0))


def _gathers(qkv: Tensor, runs: Sequence[_Run]) -> bool:
    """Whether the gradient is gathered by `_Parts`; it writes to places, so there must be some."""
    return len(runs) > 1 or runs[0].calls > 1 or (runs[0].count == 1 and qkv.numel() > FEW_NUMBERS)


class _Parts(torch.autograd.Function):
    """`_parts` whose backward pass copies each gradient once, to its place in one tensor."""

    @staticmethod
    def forward(qkv: Tensor, runs: Sequence[_Run]) -> tuple[Tensor, ...]:
        return _parts(qkv, runs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Sequence[_Run]], output: tuple[Tensor, ...]) -> None:
        qkv, ctx.runs = inputs
        ctx.shape = qkv.shape

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gathered = gradients[0].new_empty(ctx.shape)
        for place, gradient in zip(_parts(gathered, ctx.runs, _Run.places), gradients, strict=True):
            place.copy_(gradient)
        return gathered, None
