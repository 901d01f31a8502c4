"""RankMe: how many directions the embeddings really use."""

from __future__ import annotations

import torch
from torch import Tensor


def rankme(embeddings: Tensor, eps: float = 1e-7) -> float:
    """Effective rank: the exponential of the entropy of the normalised singular values.

    Source: Garrido et al., "RankMe" (ICML 2023), equation 2.

    Args:
        embeddings: (N, D), any float dtype. Not centred, as in the paper.
        eps: Added to every share, as in the paper.

    Returns:
        Between 1 (collapsed) and min(N, D); NaN when there is nothing to measure.
    """
    if embeddings.shape[0] < 2 or not torch.isfinite(embeddings).all():
        return float("nan")
    values = torch.linalg.svdvals(embeddings.detach().double().cpu())
    total = values.sum()
    if total <= 0:
        return float("nan")
    shares = values / total + eps
    return float(torch.exp(-(shares * shares.log()).sum()))
