"""Layers that work on each unit by itself, applied to some units at a time where nothing is learned.

What a feed-forward layer holds in between is eight times as wide as its input: for a population of a million
units the GPU would be full of it. With a gradient it is kept anyway (`nuclr_cli.model.recompute` is the way
out there).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

PIECE_TOKENS = 1 << 17
"""Units x patches that are worked on at once; more fills a GPU no better."""


def in_pieces(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``layer(x)``, in pieces along the units where no gradient is recorded and there are many.

    Args:
        layer: Maps (n, L, ...) to (n, L, ...), each unit by itself.
        x: (U, L, ...).
    """
    units = max(PIECE_TOKENS // max(x.shape[1], 1), 1)
    if torch.is_grad_enabled() or len(x) <= units:
        return layer(x)
    first = layer(x[:units])
    out = first.new_empty(len(x), *first.shape[1:])
    out[:units] = first
    for start in range(units, len(x), units):
        out[start : start + units] = layer(x[start : start + units])
    return out
