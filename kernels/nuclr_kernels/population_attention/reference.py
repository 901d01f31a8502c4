"""Population attention in plain PyTorch: one strided SDPA call a population."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def population_attention_reference(
    qkv: Tensor | tuple[Tensor, Tensor, Tensor], bounds: Sequence[int], *, scale: float | None = None
) -> Tensor:
    """Attend within populations; arguments as `population_attention`, `bounds` checked integers.

    A population is a slice of `qkv`, and its (L, H, n, Dh) query, key and value are views of that slice, so
    no unit is copied or padded on the way in and patches and heads are the batch of a single call.
    """
    if not isinstance(qkv, Tensor):
        qkv = torch.stack(qkv, dim=2)
    sizes = [stop - start for start, stop in pairwise(bounds) if stop > start]
    if not sizes:
        return qkv[:, :, 0]
    outputs = []
    for population in torch.split(qkv, sizes):
        query, key, value = population.permute(2, 1, 3, 0, 4).unbind(0)
        attended = scaled_dot_product_attention(query, key, value, scale=scale)
        outputs.append(attended.permute(2, 0, 1, 3))
    return torch.cat(outputs)
