"""Checks of the offsets that mark where each population starts."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor


def population_bounds(cu_seqlens: Tensor, n_units: int, name: str) -> list[int]:
    """Return the offsets as integers after checking them.

    Args:
        cu_seqlens: (B+1,) int32 or int64, starts of the populations followed by the number of units. On a GPU
            the values have to be fetched, so keep offsets on the CPU where this path runs often.
        n_units: Number of packed units the offsets must end at.
        name: Argument name for the message.

    Raises:
        ValueError: Not a one-dimensional integer tensor, or not an ascending sequence from 0 to `n_units`.
    """
    if (
        cu_seqlens.ndim != 1
        or len(cu_seqlens) < 1
        or cu_seqlens.is_floating_point()
        or cu_seqlens.is_complex()
    ):
        raise ValueError(
            f"{name} must be a one-dimensional integer tensor of B+1 offsets; "
            f"got shape {tuple(cu_seqlens.shape)}, {cu_seqlens.dtype}"
        )
    bounds: list[int] = cu_seqlens.tolist()
    ascending = all(a <= b for a, b in pairwise(bounds))
    if bounds[0] != 0 or bounds[-1] != n_units or not ascending:
        raise ValueError(f"{name} must ascend from 0 to the number of units, {n_units}; got {bounds}")
    return bounds


def check_qkv(qkv: Tensor) -> None:
    """Raise ValueError unless `qkv` is a floating point (U, L, 3, H, Dh) tensor."""
    if qkv.ndim != 5 or qkv.shape[2] != 3:
        raise ValueError(
            f"qkv must have shape (units, patches, 3, heads, head width); got {tuple(qkv.shape)}"
        )
    if not qkv.is_floating_point():
        raise ValueError(f"qkv must be floating point; got {qkv.dtype}")
