"""Population attention of some of the units: their queries, everybody's keys and values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def population_attention_of_some(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_sizes: Sequence[int],
    sizes: Sequence[int],
    *,
    scale: float | None = None,
) -> Tensor:
    """Let some units of each population attend to all of it, at the same patch.

    What these units get is what `population_attention` would give them among all. One call of PyTorch's
    attention a population: it is meant for populations so large that a call costs nothing beside its work,
    and its fused implementations keep no scores.

    Args:
        query: (Q, L, H, Dh) of the units that attend, packed population after population.
        key: (U, L, H, Dh) of all units, packed in the same order of populations.
        value: (U, L, H, Dh).
        query_sizes: B integers summing to Q, 0 allowed.
        sizes: B integers summing to U.
        scale: Factor on the scores; default ``Dh ** -0.5``.

    Returns:
        (Q, L, H, Dh), of the dtype that PyTorch's attention gives.

    Raises:
        ValueError: Sizes do not fit the tensors.
    """
    if len(query_sizes) != len(sizes):
        raise ValueError(f"query_sizes has {len(query_sizes)} populations; sizes has {len(sizes)}")
    if sum(query_sizes) != len(query) or sum(sizes) != len(key) or key.shape != value.shape:
        raise ValueError(
            f"query_sizes and sizes must add up to {len(query)} and {len(key)} units; "
            f"got {sum(query_sizes)} and {sum(sizes)}"
        )
    parts = zip(
        torch.split(query.permute(1, 2, 0, 3), list(query_sizes), dim=2),
        torch.split(key.permute(1, 2, 0, 3), list(sizes), dim=2),
        torch.split(value.permute(1, 2, 0, 3), list(sizes), dim=2),
        strict=True,
    )
    attended = [
        scaled_dot_product_attention(some, keys, values, scale=scale)
        for some, keys, values in parts
        if some.shape[2]
    ]
    if not attended:
        # Keys without a query: the gradient of all of them is zero, and still passes.
        return query + 0 * (key.sum() + value.sum()).to(query)
    return torch.cat([population.permute(2, 0, 1, 3) for population in attended])
