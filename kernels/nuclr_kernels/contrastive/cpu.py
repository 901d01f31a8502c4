"""The contrastive loss on a CPU: small samples together, large ones in chunks of rows as the reference.

A CPU spends more time on calling operators than on their work where samples are small. So samples of about
the same size are padded to one size and worked on as one. Scores are symmetric, and so are their exponentials
if one number is subtracted from all scores of a batch: then those between the views are formed once and serve
rows and columns, and so does the gradient's weight of a pair. That number is the largest score there can be;
samples whose sums would vanish next to it are worked on in chunks of rows, where every row has its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nuclr_kernels.contrastive import reference
from nuclr_kernels.contrastive.cpu_groups import BatchGroups, Group, Sample, batch_groups
from nuclr_kernels.contrastive.plan import LossPlan
from nuclr_kernels.contrastive.reference import LossOptions, Pull, centred, no_pull, sum_negatives


def contrastive_loss_cpu(
    p1: Tensor, p2: Tensor, plan: LossPlan, options: LossOptions
) -> tuple[Tensor, Tensor]:
    """Per-sample terms of tensors on the CPU; arguments as `contrastive_loss`, checked, and its plan."""
    with_gradient = torch.is_grad_enabled() and (p1.requires_grad or p2.requires_grad)
    terms: tuple[Tensor, Tensor] = _ContrastiveLoss.apply(  # type: ignore[no-untyped-call]
        p1, p2, plan, options, with_gradient
    )
    return terms


@dataclass(frozen=True)
class _Sums:
    """What samples are worked out into.

    Attributes:
        similarity: (B,) float64 sum over pairs, nearly their number where all units are alike.
        negative: (B,) sum over queries of the log-mean-exp of their logits.
        gradient: Of `negative`, if it is wanted.
    """

    similarity: Tensor
    negative: Tensor
    gradient: _Gradient | None


@dataclass(frozen=True)
class _Gradient:
    """Weighted sums of units, kept as in the reference: what they share has not cancelled yet.

    Attributes:
        pulls: (U, D) weighted sums of differences from the sample's centre.
        weights: (U,) sums of the weights.
        centres: (B, D).
    """

    pulls: Tensor
    weights: Tensor
    centres: Tensor


class _ContrastiveLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, p1: Tensor, p2: Tensor, plan: LossPlan, options: LossOptions, with_gradient: bool
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", enabled=False):
            units = torch.cat((p1, p2)).to(torch.promote_types(p1.dtype, torch.float32))
            n_samples = len(plan.pairs)
            sums = _Sums(
                units.new_zeros(n_samples, dtype=torch.float64),
                units.new_zeros(n_samples),
                _no_gradient(units, n_samples) if with_gradient else None,
            )
            batch = batch_groups(plan, options, units.dtype, most_scores=reference.CHUNK_ELEMENTS)
            if batch.groups:
                steepest = 1 / min(options.tau, options.self_tau)
                bound = torch.linalg.vector_norm(units, dim=1).amax().square() * -steepest
                for group in batch.groups:
                    if not _together(group, units, bound, options, sums):
                        for sample in group.samples:
                            _by_rows(sample, units, batch.partner, batch.matched, options, sums)
            for sample in batch.large:
                _by_rows(sample, units, batch.partner, batch.matched, options, sums)
            numerator = torch.addcmul(batch.farthest, sums.similarity, batch.per_pair, value=-1)
            numerator = numerator.to(units.dtype)
            denominator = sums.negative * batch.per_query
        ctx.batch, ctx.n_units1, ctx.dtype = batch, len(p1), p1.dtype
        if sums.gradient is not None:
            gradient = sums.gradient
            ctx.save_for_backward(units, gradient.pulls, gradient.weights, gradient.centres)
        return numerator, denominator

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dnumerator: Tensor, ddenominator: Tensor) -> tuple[Tensor | None, ...]:
        units, pulls, weights, centres = ctx.saved_tensors
        batch: BatchGroups = ctx.batch
        repulsion = (ddenominator * batch.per_query)[batch.sample]
        attraction = torch.where(
            batch.matched, (dnumerator * -batch.per_pair).to(units.dtype)[batch.sample], 0
        )
        centre = centres[batch.sample]
        towards = units[batch.partner].sub_(centre)
        grad = (pulls * repulsion[:, None]).addcmul_(towards, attraction[:, None])
        shared = torch.addcmul(attraction, repulsion, weights)
        grad = grad.addcmul_(centre, shared[:, None]).to(ctx.dtype)
        return grad[: ctx.n_units1], grad[ctx.n_units1 :], None, None, None


def _no_gradient(units: Tensor, n_samples: int) -> _Gradient:
    """Zeros for (U, D) units."""
    return _Gradient(
        torch.zeros_like(units), units.new_zeros(len(units)), units.new_zeros(n_samples, units.shape[1])
    )


def _together(group: Group, units: Tensor, bound: Tensor, options: LossOptions, sums: _Sums) -> bool:
    """Work on the samples of a group; False, with nothing done, if a sum is too small to be told from zero.

    Args:
        group: The samples.
        units: (U, D), both views of all samples.
        bound: One number; minus it is above every score.
        options: Temperatures and variants.
        sums: Set.
    """
    sizes = list(group.sizes)
    z = units[group.rows].view(*group.shape, -1)
    scores = torch.bmm(z, z.mT)
    similarity = scores.view(-1)[group.pairs]
    views = torch.split(scores, sizes, 1)
    for rows, factor in zip(views, group.factors, strict=True):
        torch.addcmul(bound, rows, factor, out=rows)
    scores.exp_()
    if options.full_denom:
        scores.diagonal(dim1=1, dim2=2).zero_()
    else:
        for view in range(2):
            torch.split(views[view], sizes, 2)[view].zero_()
    if group.excluded is not None:
        scores.view(-1).index_fill_(0, group.excluded, 0)
    if group.padding is not None:
        scores.masked_fill_(group.padding.absent, 0)
    total = torch.where(group.active, scores.sum(2), 1)
    if not float(total.amin()) > torch.finfo(total.dtype).tiny ** 0.5:  # also if it is no number
        return False
    logs = total.log().sum(1, dtype=torch.float64)  # 0 of a unit that is not active
    logs = torch.addcmul(logs - group.log_counts, group.n_active, bound, value=-1)
    sums.negative.index_copy_(0, group.index, logs.to(total.dtype))
    sums.similarity.index_add_(0, group.pair_sample, similarity.double())
    if sums.gradient is not None:
        shares = torch.where(group.active, 1 / total, 0)
        for rows, factor, own in zip(views, group.factors, torch.split(shares, sizes, 1), strict=True):
            rows.mul_(torch.addcmul((shares * factor)[:, None], own[:, :, None], factor))
        _pull(group, z, scores, sums.gradient)
    return True


def _pull(group: Group, z: Tensor, weights: Tensor, gradient: _Gradient) -> None:
    """Sum up what units are pulled by.

    Args:
        group: The samples.
        z: (G, M, D) units.
        weights: (G, M, M) of the pairs of units.
        gradient: Set.
    """
    first, padding = z[:, : group.sizes[0]], group.padding
    centre = first.mean(1) if padding is None else (first * padding.first).sum(1)
    gradient.centres.index_copy_(0, group.index, centre)
    pull = torch.bmm(weights, z - centre[:, None])
    for target, values in ((gradient.pulls, pull), (gradient.weights, weights.sum(2))):
        flat = values.flatten(0, 1)
        if padding is not None:
            target.index_copy_(0, padding.present_rows, flat[padding.present])
        elif isinstance(group.rows, slice):
            target[group.rows] = flat
        else:
            target.index_copy_(0, group.rows, flat)


def _by_rows(
    sample: Sample, units: Tensor, partner: Tensor, matched: Tensor, options: LossOptions, sums: _Sums
) -> None:
    """Work on one sample as the reference does; `partner` and `matched` as `BatchGroups` has them."""
    part1, part2 = slice(sample.start1, sample.stop1), slice(sample.start2, sample.stop2)
    view1, view2 = units[part1], units[part2]
    rows1 = torch.nonzero(matched[part1]).squeeze(1)
    rows2 = partner[part1][rows1] - sample.start2
    pull1 = pull2 = None
    if sums.gradient is not None:
        centre = sums.gradient.centres[sample.index] = view1.mean(0)
        pull1, pull2 = (Pull(centred(view, centre), no_pull(view)) for view in (view1, view2))
    sums.similarity[sample.index] = (view1[rows1] * view2[rows2]).sum(1).sum(dtype=torch.float64)
    sums.negative[sample.index] = sum_negatives(
        rows1, view1, pull1, rows2, view2, pull2, options
    ) + sum_negatives(rows2, view2, pull2, rows1, view1, pull1, options)
    if sums.gradient is not None:
        for part, pull in ((part1, pull1), (part2, pull2)):
            assert pull is not None
            sums.gradient.pulls[part], sums.gradient.weights[part] = pull.total[:, :-1], pull.total[:, -1]
