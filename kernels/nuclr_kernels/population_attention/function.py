"""Public entry of population attention: checks, then the implementation for the device."""

from __future__ import annotations

from torch import Tensor

from nuclr_kernels._offsets import check_qkv, population_bounds
from nuclr_kernels.population_attention.reference import population_attention_reference


def population_attention(qkv: Tensor, cu_seqlens: Tensor, *, scale: float | None = None) -> Tensor:
    """Let every unit attend to the units of its own population at the same patch.

    There are no positions: permuting the units of a population permutes the output in the same way.

    Args:
        qkv: (U, L, 3, H, Dh) float, query, key and value of every unit and patch; any strides.
        cu_seqlens: (B+1,) int32 (int64 is taken too), offsets of the populations along the unit axis, ending
            at U. Empty populations are allowed.
        scale: Factor on the scores; default ``Dh ** -0.5``.

    Returns:
        (U, L, H, Dh), same dtype and device as `qkv`.

    Raises:
        ValueError: An argument has the wrong shape, dtype or values; the message names it.
    """
    check_qkv(qkv)
    bounds = population_bounds(cu_seqlens, qkv.shape[0], "cu_seqlens")
    return population_attention_reference(qkv, bounds, scale=scale)
