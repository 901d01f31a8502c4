"""The contrastive loss in plain PyTorch, one sample after the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor


def contrastive_loss_reference(
    p1: Tensor,
    p2: Tensor,
    bounds1: Sequence[int],
    bounds2: Sequence[int],
    partner12: Tensor,
    *,
    tau: float,
    self_tau: float = 1.0,
    dcl: bool = True,
    full_denom: bool = True,
) -> tuple[Tensor, Tensor]:
    """Per-sample terms; arguments as `contrastive_loss`, bounds being checked integers.

    The largest arrays alive are one sample's (matched, n1 + n2) logits.
    """
    sizes1 = [stop - start for start, stop in pairwise(bounds1)]
    sizes2 = [stop - start for start, stop in pairwise(bounds2)]
    log_mean = partial(_log_mean_negatives, tau=tau, self_tau=self_tau, dcl=dcl, full_denom=full_denom)
    numerators, denominators = [], []
    for start, view1, view2, partner in zip(
        bounds2,
        torch.split(p1, sizes1),
        torch.split(p2, sizes2),
        torch.split(partner12.to(p1.device), sizes1),
        strict=False,
    ):
        rows1 = torch.nonzero(partner >= 0).squeeze(1)
        rows2 = partner[rows1] - start
        query1 = view1[rows1]
        if len(rows1) == 0:
            # The sum of nothing is zero and still tied to p1: a batch without a pair has a gradient, zero.
            zero = query1.sum()
            numerators.append(zero)
            denominators.append(zero)
            continue
        query2 = view2[rows2]
        numerators.append((1 - (query1 * query2).sum(1).mean()) / tau)
        term1 = log_mean(query1, rows1, view1, rows2, view2)
        term2 = log_mean(query2, rows2, view2, rows1, view1)
        denominators.append((term1 + term2) / 2)
    if not numerators:
        return p1.sum(1), p1.sum(1)
    return torch.stack(numerators), torch.stack(denominators)


def _log_mean_negatives(
    query: Tensor,
    rows: Tensor,
    own: Tensor,
    partner_rows: Tensor,
    other: Tensor,
    *,
    tau: float,
    self_tau: float,
    dcl: bool,
    full_denom: bool,
) -> Tensor:
    """Mean over queries of the log-mean-exp of their logits; masked ones count in the mean, not in the sum.

    Args:
        query: (M, D) matched units, ``own[rows]``.
        rows: (M,) their rows in `own`.
        own: (n, D) units of the queries' view.
        partner_rows: (M,) rows of their partners in `other`.
        other: (m, D) units of the other view.
        tau, self_tau, dcl, full_denom: As `contrastive_loss`.
    """
    if len(other) - dcl + full_denom * (len(own) - 1) == 0:
        return query[:0].sum()  # nobody to be told apart from: 0, where the log of an empty sum would be -inf
    keys = torch.cat((other / tau, own / self_tau)) if full_denom else other / tau
    logits = query @ keys.T
    masked = torch.zeros_like(logits, dtype=torch.bool)
    index = torch.arange(len(rows), device=rows.device)
    if dcl:
        masked[index, partner_rows] = True
    if full_denom:
        masked[index, len(other) + rows] = True
    return logits.masked_fill(masked, -math.inf).logsumexp(1).mean() - math.log(len(keys))
