"""Event attention in plain PyTorch, group by group; the backward pass computes the scores again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nuclr_kernels.event_attention.waves import SpikeWaves


def read_waves(query: Tensor, waves: SpikeWaves) -> Tensor:
    """Softmax attention in which a unit's waves are keys and values at once.

    Args:
        query: (U, Q, 2T), dtype of the waves; Q queries a unit, scaled already.
        waves: Of the same units.

    Returns:
        (U, Q, 2T) contiguous; zeros for units without spikes.
    """
    moments: Tensor
    moments, _ = _read(query, list(waves.units), list(waves.waves), list(waves.padding))
    return moments


@torch.library.custom_op("nuclr_kernels::read_waves", mutates_args=())
def _read(
    query: Tensor, units: list[Tensor], waves: list[Tensor], padding: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Moments (U, Q, 2T) and the logarithm (U, Q) of every softmax's denominator."""
    moments = query.new_zeros(query.shape)
    logs = query.new_zeros(query.shape[:2])
    with torch.autocast(query.device.type, enabled=False):
        for rows, wave, absent in zip(units, waves, padding, strict=True):
            weights = torch.baddbmm(absent, query[rows], wave.mT)
            largest = weights.amax(-1, keepdim=True)
            weights.sub_(largest).exp_()
            total = weights.sum(-1, keepdim=True)
            moments[rows] = torch.bmm(weights, wave).div_(total)
            logs[rows] = (largest + total.log()).squeeze(-1)
    return moments, logs


@torch.library.custom_op("nuclr_kernels::read_waves_backward", mutates_args=())
def _read_backward(
    grad: Tensor,
    query: Tensor,
    moments: Tensor,
    logs: Tensor,
    units: list[Tensor],
    waves: list[Tensor],
    padding: list[Tensor],
) -> Tensor:
    """Gradient (U, Q, 2T) with respect to the queries; `grad` is that of the moments."""
    grad_query = query.new_zeros(query.shape)
    with torch.autocast(query.device.type, enabled=False):
        for rows, wave, absent in zip(units, waves, padding, strict=True):
            weights = torch.baddbmm(absent, query[rows], wave.mT)
            weights.sub_(logs[rows, :, None]).exp_()
            grad_rows = grad[rows]
            mean = (grad_rows * moments[rows]).sum(-1, keepdim=True)
            weights.mul_(torch.bmm(grad_rows, wave.mT).sub_(mean))
            grad_query[rows] = torch.bmm(weights, wave)
    return grad_query


@_read.register_fake
def _(
    query: Tensor, units: list[Tensor], waves: list[Tensor], padding: list[Tensor]
) -> tuple[Tensor, Tensor]:
    return query.new_empty(query.shape), query.new_empty(query.shape[:2])


@_read_backward.register_fake
def _(
    grad: Tensor,
    query: Tensor,
    moments: Tensor,
    logs: Tensor,
    units: list[Tensor],
    waves: list[Tensor],
    padding: list[Tensor],
) -> Tensor:
    return query.new_empty(query.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, units, waves, padding = inputs
    ctx.n_groups = len(units)
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(query, *output, *units, *waves, *padding)


def _differentiate(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | list[None], ...]:
    query, moments, logs, *groups = ctx.saved_tensors
    n = ctx.n_groups
    lists = (list(groups[place : place + n]) for place in (0, n, 2 * n))
    nothing: list[None] = [None] * n
    return _read_backward(grad, query, moments, logs, *lists), nothing, nothing, nothing


_read.register_autograd(_differentiate, setup_context=_save)
