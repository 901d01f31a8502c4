"""What population attention has to know about a batch, worked out once and used by every layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nuclr_kernels._offsets import population_bounds
from nuclr_kernels.dispatch import runs_fused
from nuclr_kernels.population_attention.tiles import tile_blocks
from nuclr_kernels.tile_tables import capability_of


@dataclass(frozen=True, eq=False)
class PopulationPlan:
    """Checked offsets of the populations, and for kernels the tiles of every block size they may use.

    Made by `make_population_plan`. Calls that share a plan check nothing of it again, copy nothing to the GPU
    and wait for nothing.

    Attributes:
        bounds: B+1 offsets of the populations along the unit axis, on the host.
        n_units: U, the last of them.
        max_size: Units of the largest population.
        cu_seqlens: (B+1,) int32, `bounds` on the device.
        tiles: (T, 3) int32 on the device, for one block size after the other ``U // block + B`` tiles, those
            of large populations first: the first unit of the population, its size, and where in it the tile
            starts. There can be fewer tiles than that; the rest belong to a population of size 0, so that
            the shape follows from U and B alone. Empty where no kernel runs.
        fused: Calls run on the kernels, if these take their dtype and width.
    """

    bounds: tuple[int, ...]
    n_units: int
    max_size: int
    cu_seqlens: Tensor
    tiles: Tensor
    fused: bool


def make_population_plan(
    sizes: Sequence[int] | Tensor | None = None,
    device: torch.device | str | None = None,
    *,
    cu_seqlens: Tensor | None = None,
) -> PopulationPlan:
    """Plan population attention for a batch; give the sizes of its populations or their offsets.

    Values on a GPU have to be fetched, for which the host waits; keep them on the CPU.

    Args:
        sizes: (B,) units of each population, 0 allowed.
        device: Where the attention will run; default the device of the offsets, the CPU for `sizes`.
        cu_seqlens: (B+1,) int32 or int64, offsets of the populations, from 0 to U.

    Raises:
        ValueError: Neither or both of `sizes` and `cu_seqlens` are given, or they are no such integers.
    """
    if (sizes is None) == (cu_seqlens is None):
        raise ValueError("make_population_plan takes either sizes or cu_seqlens")
    if cu_seqlens is not None:
        last = int(cu_seqlens[-1]) if cu_seqlens.ndim == 1 and len(cu_seqlens) else 0
        bounds = population_bounds(cu_seqlens, last, "cu_seqlens")
        return plan_of_bounds(bounds, cu_seqlens.device if device is None else torch.device(device))
    counts = torch.as_tensor(sizes)
    integers = counts.numel() == 0 or not (counts.is_floating_point() or counts.is_complex())
    if counts.ndim != 1 or not integers or bool((counts < 0).any()):
        raise ValueError(f"sizes must be a list of integers, none of them negative; got {sizes}")
    bounds = [0, *counts.to(torch.int64).cumsum(0).tolist()]
    return plan_of_bounds(bounds, torch.device("cpu" if device is None else device))


make_plan = make_population_plan
"""Former name of `make_population_plan`."""


def plan_of_bounds(bounds: Sequence[int], device: torch.device) -> PopulationPlan:
    """The plan for offsets that have been checked."""
    offsets = torch.tensor(bounds)
    sizes = offsets.diff()
    tables = [offsets.new_empty((0, 3))]
    fused = runs_fused("population_attention", device)
    if fused:
        tables += [_tile_table(offsets[:-1], sizes, block) for block in tile_blocks(capability_of(device))]
    tiles = torch.cat(tables)
    packed = torch.cat([tiles.flatten(), offsets]).to(torch.int32)
    if device.type == "cuda":
        # Copied from pinned memory the host need not wait for the kernels that are still running.
        packed = packed.pin_memory()
    packed = packed.to(device, non_blocking=True)
    return PopulationPlan(
        bounds=tuple(bounds),
        n_units=bounds[-1],
        max_size=int(sizes.max()) if len(sizes) else 0,
        cu_seqlens=packed[tiles.numel() :],
        tiles=packed[: tiles.numel()].view(-1, 3),
        fused=fused,
    )


def _tile_table(starts: Tensor, sizes: Tensor, block: int) -> Tensor:
    """(U // block + B, 3) tiles of `block` units, those of large populations first.

    Programs start in about this order, so the work that takes longest is not left for the end.

    Args:
        starts: (B,) int64 first units of the populations.
        sizes: (B,) int64.
    """
    order = sizes.argsort(descending=True, stable=True)
    counts = (sizes[order] + block - 1) // block
    population = order.repeat_interleave(counts)
    place = torch.arange(len(population)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    tiles = torch.stack([starts[population], sizes[population], place * block], dim=1)
    spare = int(sizes.sum()) // block + len(sizes) - len(tiles)
    return torch.cat([tiles, tiles.new_zeros((spare, 3))])
