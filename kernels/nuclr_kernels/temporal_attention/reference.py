"""Temporal attention in plain PyTorch: rotate, one batched SDPA call, rotate back."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def temporal_attention_reference(
    qkv: Tensor, cos: Tensor, sin: Tensor, *, rotate_value: bool = True, scale: float | None = None
) -> Tensor:
    """Attend along patches; arguments as `temporal_attention`, already checked."""
    turn = torch.complex(cos, sin)
    if rotate_value:
        query, key, value = rotate_pairs(qkv, turn[:, None, None]).permute(2, 0, 3, 1, 4).unbind(0)
    else:
        query, key = rotate_pairs(qkv[:, :, :2], turn[:, None, None]).permute(2, 0, 3, 1, 4).unbind(0)
        value = qkv[:, :, 2].transpose(1, 2)
    attended = scaled_dot_product_attention(query, key, value, scale=scale).transpose(1, 2)
    return rotate_pairs(attended, turn.conj()[:, None]) if rotate_value else attended


def rotate_pairs(x: Tensor, turn: Tensor) -> Tensor:
    """Turn each pair (2i, 2i+1) of the last axis by the unit complex number ``turn[..., i]``.

    One complex product is one pass over `x`; spelled out with cosines and sines it is five, and twice as slow
    on a CPU.

    Args:
        x: (..., Dh) float. The product is formed in the precision of `turn` when `x` is narrower.
        turn: (..., Dh/2) complex64 or complex128, broadcast against `x`.

    Returns:
        Same shape and dtype as `x`.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    reals = torch.unflatten(x.to(wide), -1, (-1, 2))
    if torch.compiler.is_compiling() or not _laid_out_as_complex(reals):
        reals = reals.clone(memory_format=torch.contiguous_format)
    pairs = torch.view_as_complex(reals)
    return torch.view_as_real(pairs * turn).flatten(-2).to(x.dtype)


def _laid_out_as_complex(reals: Tensor) -> bool:
    """Pairs along the last axis can be seen as complex numbers where they are.

    Not for a program that is being compiled: it cannot ask where a tensor starts.
    """
    in_pairs = not (reals.storage_offset() % 2 or any(step % 2 for step in reals.stride()[:-1]))
    return in_pairs and reals.stride(-1) == 1
