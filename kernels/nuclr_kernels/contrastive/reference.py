"""The contrastive loss in plain PyTorch, rows in chunks, so that no units x units matrix is ever whole.

The loss is linear in what comes back to its per-sample outputs. So the forward pass computes the gradient
too, while a chunk of scores is at hand, and the backward pass only weighs it: nothing is computed twice and
no scores are kept.

Embeddings of an untrained encoder are nearly parallel, and attraction and repulsion nearly cancel along what
they share. Weighted sums are therefore taken of differences from a centre, and a column of ones sums up the
weights: what the sums share is added once, at the end, after it has cancelled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

CHUNK_ELEMENTS = 1 << 23
"""Scores alive at a time; 32 MiB in float32. A row is never cut."""


@dataclass(frozen=True)
class LossOptions:
    """Temperatures and variants, as `contrastive_loss` takes them."""

    tau: float
    self_tau: float
    dcl: bool
    full_denom: bool


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

    Beside the inputs and their gradients, one chunk of scores is alive. 16-bit inputs are computed with in
    float32, and give float32 terms.
    """
    options = LossOptions(tau, self_tau, dcl, full_denom)
    with_gradient = torch.is_grad_enabled() and (p1.requires_grad or p2.requires_grad)
    terms: tuple[Tensor, Tensor] = _ContrastiveLoss.apply(  # type: ignore[no-untyped-call]
        p1, p2, partner12.to(p1.device), tuple(bounds1), tuple(bounds2), options, with_gradient
    )
    return terms


class _ContrastiveLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        p1: Tensor,
        p2: Tensor,
        partner12: Tensor,
        bounds1: tuple[int, ...],
        bounds2: tuple[int, ...],
        options: LossOptions,
        with_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(p1.device.type, enabled=False):
            wide = torch.promote_types(p1.dtype, torch.float32)
            x1, x2 = p1.to(wide), p2.to(wide)
            pulls1, pulls2 = (no_pull(x) if with_gradient else None for x in (x1, x2))
            rows1 = torch.nonzero(partner12 >= 0).squeeze(1)
            rows2 = partner12[rows1]
            pairs_before = torch.searchsorted(rows1, torch.tensor(bounds1, device=rows1.device))
            counts = pairs_before.diff()
            divisor = counts.clamp(min=1)
            similarity = (x1[rows1] * x2[rows2]).sum(1)
            positive, negative = x1.new_zeros(len(counts)), x1.new_zeros(len(counts))
            centres = x1.new_zeros(len(counts), x1.shape[1])
            for sample, (start1, stop1), (start2, stop2), (first, last) in zip(
                range(len(counts)),
                pairwise(bounds1),
                pairwise(bounds2),
                pairwise(pairs_before.tolist()),
                strict=True,
            ):
                if first == last:
                    continue
                queries1, queries2 = rows1[first:last] - start1, rows2[first:last] - start2
                view1, view2 = x1[start1:stop1], x2[start2:stop2]
                pull1 = pull2 = None
                if pulls1 is not None and pulls2 is not None:
                    centre = centres[sample] = view1.mean(0)
                    pull1 = Pull(centred(view1, centre), pulls1[start1:stop1])
                    pull2 = Pull(centred(view2, centre), pulls2[start2:stop2])
                term1 = sum_negatives(queries1, view1, pull1, queries2, view2, pull2, options)
                term2 = sum_negatives(queries2, view2, pull2, queries1, view1, pull1, options)
                positive[sample] = similarity[first:last].sum()
                negative[sample] = term1 + term2
            numerator = torch.where(counts > 0, 1 - positive / divisor, 0) / options.tau
            denominator = negative / (2 * divisor)
        ctx.tau = options.tau
        if pulls1 is not None and pulls2 is not None:
            sizes1, sizes2 = (torch.tensor(b, device=p1.device).diff() for b in (bounds1, bounds2))
            ctx.save_for_backward(p1, p2, rows1, rows2, pulls1, pulls2, centres, divisor, sizes1, sizes2)
        return numerator, denominator

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dnumerator: Tensor, ddenominator: Tensor) -> tuple[Tensor | None, ...]:
        p1, p2, rows1, rows2, pulls1, pulls2, centres, divisor, sizes1, sizes2 = ctx.saved_tensors
        weight = ddenominator / (2 * divisor)
        attraction = (dnumerator / divisor / -ctx.tau).repeat_interleave(sizes1)[rows1, None]
        grads = []
        for rows, sizes, pulls, other, other_rows, other_sizes in (
            (rows1, sizes1, pulls1, p2, rows2, sizes2),
            (rows2, sizes2, pulls2, p1, rows1, sizes1),
        ):
            grad = pulls * weight.repeat_interleave(sizes)[:, None]
            sample = torch.arange(len(sizes), device=sizes.device).repeat_interleave(other_sizes)
            partners = centred(other[other_rows].to(grad.dtype), centres[sample[other_rows]])
            grad.index_add_(0, rows, attraction * partners)  # rows are unique: the order does not matter
            centre = centres.repeat_interleave(sizes, 0)
            grads.append(torch.addcmul(grad[:, :-1], grad[:, -1:], centre).to(other.dtype))
        return grads[0], grads[1], None, None, None, None, None


@dataclass(frozen=True)
class Pull:
    """Where the gradient of a view gathers.

    Attributes:
        units: (n, D+1) differences from the centre, and ones.
        total: (n, D+1) weighted sums of such rows of either view, added to.
    """

    units: Tensor
    total: Tensor


def no_pull(units: Tensor) -> Tensor:
    """(n, D+1) zeros for (n, D) units."""
    return units.new_zeros(len(units), units.shape[1] + 1)


def centred(units: Tensor, centre: Tensor) -> Tensor:
    """(n, D+1): differences of (n, D) units from their centre, and ones."""
    return pad(units - centre, (0, 1), value=1.0)


def sum_negatives(
    rows: Tensor,
    own: Tensor,
    own_pull: Pull | None,
    partner_rows: Tensor,
    other: Tensor,
    other_pull: Pull | None,
    options: LossOptions,
) -> Tensor:
    """Sum over queries of the log-mean-exp of their logits; masked ones count in the mean, not in the sum.

    Args:
        rows: (M,) rows of the queries, matched units, in `own`.
        own: (n, D) units of the queries' view.
        own_pull: What the gradient of the returned sum is added to; None if it is not wanted.
        partner_rows: (M,) rows of their partners in `other`.
        other: (m, D) units of the other view.
        other_pull: The same of the other view.
        options: Temperatures and variants.
    """
    n_other = len(other)
    if n_other - options.dcl + options.full_denom * (len(own) - 1) == 0:
        return own.new_zeros(())  # nobody to be told apart from: not the log of an empty sum
    temperatures = [(other, other_pull, slice(0, n_other), 1 / options.tau)]
    if options.full_denom:
        temperatures.append((own, own_pull, slice(n_other, None), 1 / options.self_tau))
    n_keys = sum(len(keys) for keys, *_ in temperatures)
    total = own.new_full((), -len(rows) * math.log(n_keys))
    step = max(1, CHUNK_ELEMENTS // n_keys)
    for chunk, partners in zip(torch.split(rows, step), torch.split(partner_rows, step), strict=True):
        query = own[chunk]
        weights = own.new_empty((len(chunk), n_keys))
        for keys, _, columns, factor in temperatures:
            scores = weights[:, columns]
            torch.addmm(scores, query, keys.T, beta=0, alpha=factor, out=scores)
        index = torch.arange(len(chunk), device=own.device)
        if options.dcl:
            weights[index, partners] = -math.inf
        if options.full_denom:
            weights[index, n_other + chunk] = -math.inf
        peak = weights.amax(1, keepdim=True)
        sums = weights.sub_(peak).exp_().sum(1, keepdim=True)
        total += (peak + sums.log()).sum()
        if own_pull is None:
            continue
        weights.div_(sums)
        shares = own_pull.units[chunk]
        pull = torch.zeros_like(shares)
        for _, keys_pull, columns, factor in temperatures:
            if keys_pull is not None:
                pull.addmm_(weights[:, columns], keys_pull.units, alpha=factor)
                keys_pull.total.addmm_(weights[:, columns].T, shares, alpha=factor)
        own_pull.total.index_add_(0, chunk, pull)
    return total
