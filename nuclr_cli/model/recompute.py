"""Trade time for memory: forget what a layer computed, and compute it again in the backward pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def forgetting(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``layer(x)``, of which nothing but `x` is kept for the backward pass.

    There the layer runs again, from where the generators of random numbers stood, up to the last operation
    whose inputs are needed: the same numbers, to the bit where operators repeat theirs.
    """
    if not torch.is_grad_enabled():
        return layer(x)
    out: Tensor = checkpoint(layer, x, use_reentrant=False, preserve_rng_state=True)
    return out
