"""The contrastive loss as operators of PyTorch, and the launches of their kernels."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from nuclr_kernels.compile_options import COMPILE_OPTIONS
from nuclr_kernels.contrastive.tiles import BACKWARD, FINISH_BLOCK, FORWARD, choose_tile, kernel_constants
from nuclr_kernels.dispatch import interpreting
from nuclr_kernels.tile_tables import capability_of

LOG2_E = math.log2(math.e)


@custom_op("nuclr::contrastive_loss", mutates_args=())
def contrastive_loss_op(
    p: Tensor,
    samples: Tensor,
    partners: Tensor,
    largest: int,
    tau: float,
    self_tau: float,
    dcl: bool,
    full_denom: bool,
    precision: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Forward kernels.

    Args:
        p: (U1 + U2, D) float32, float16 or bfloat16 contiguous, view 2 behind view 1.
        samples, partners, largest: Of a `LossPlan`.
        tau, self_tau, dcl, full_denom: As `contrastive_loss`.
        precision: ``ieee`` or ``tf32``, of float32 products.

    Returns:
        numerator (B,), denominator (B,), and for the backward pass: per unit the log-sum of its negatives
        (U1 + U2,), and per sample the largest of them and their spread (2, B); all float32.
    """
    from nuclr_kernels.contrastive.forward_kernel import contrastive_finish, contrastive_forward

    (n_units, width), n_samples = p.shape, len(samples)
    numerator, denominator = (torch.empty(n_samples, device=p.device) for _ in range(2))
    shift = torch.empty((2, n_samples), device=p.device)
    lse = torch.empty(n_units, device=p.device)
    if n_samples == 0:
        return numerator, denominator, lse, shift
    tile = choose_tile(FORWARD, capability_of(p.device), p.dtype, width)
    block = tile.constants["block_m"]
    tiles = max(1, -(-largest // block))
    n_tiles = 2 * n_samples * tiles
    partial = torch.empty((4, n_tiles), device=p.device)
    constants = kernel_constants(FORWARD, tile, p.dtype, width, dcl, full_denom, precision, interpreting())
    with torch.cuda.device_of(p):  # type: ignore[no-untyped-call]
        if largest:
            contrastive_forward[(n_tiles,)](
                p,
                samples,
                partners,
                lse,
                partial,
                tiles,
                n_tiles,
                LOG2_E / tau,
                LOG2_E / self_tau,
                **constants,
                **COMPILE_OPTIONS,
                num_warps=tile.num_warps,
                num_stages=tile.num_stages,
            )
        contrastive_finish[(n_samples,)](
            samples,
            partial,
            numerator,
            denominator,
            shift,
            tiles,
            n_tiles,
            1 / tau,
            BLOCK_M=block,
            BLOCK=FINISH_BLOCK,
            **COMPILE_OPTIONS,
            num_warps=1,
        )
    return numerator, denominator, lse, shift


@custom_op("nuclr::contrastive_loss_backward", mutates_args=())
def contrastive_loss_backward_op(
    dnumerator: Tensor,
    ddenominator: Tensor,
    p: Tensor,
    samples: Tensor,
    partners: Tensor,
    lse: Tensor,
    shift: Tensor,
    largest: int,
    tau: float,
    self_tau: float,
    dcl: bool,
    full_denom: bool,
    precision: str,
) -> Tensor:
    """Backward kernel; arguments as `contrastive_loss_op` takes and gives them.

    Args:
        dnumerator, ddenominator: (B,) float32 contiguous.

    Returns:
        (U1 + U2, D) contiguous, the gradient of `p`.
    """
    from nuclr_kernels.contrastive.backward_kernel import contrastive_backward

    dp = torch.empty_like(p)
    n_samples, width = len(samples), p.shape[1]
    if p.numel() == 0:
        return dp
    tile = choose_tile(BACKWARD, capability_of(p.device), p.dtype, width)
    constants = kernel_constants(BACKWARD, tile, p.dtype, width, dcl, full_denom, precision, interpreting())
    tiles = -(-largest // tile.constants["block_m"])
    boost = float(str(constants["BOOST"]))
    if boost != 1:
        lse = lse - math.log2(boost)
    slices = -(-width // min(width, tile.constants["block_d"]))
    with torch.cuda.device_of(p):  # type: ignore[no-untyped-call]
        contrastive_backward[(2 * n_samples * tiles, slices)](
            p,
            samples,
            partners,
            lse,
            shift,
            dnumerator,
            ddenominator,
            dp,
            tiles,
            n_samples,
            LOG2_E / tau,
            LOG2_E / self_tau,
            1 / tau,
            1 / self_tau,
            **constants,
            **COMPILE_OPTIONS,
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
        )
    return dp


@contrastive_loss_op.register_fake
def _forward_fake(
    p: Tensor,
    samples: Tensor,
    partners: Tensor,
    largest: int,
    tau: float,
    self_tau: float,
    dcl: bool,
    full_denom: bool,
    precision: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n_samples = samples.shape[0]
    numerator, denominator = (p.new_empty((n_samples,), dtype=torch.float32) for _ in range(2))
    lse = p.new_empty((p.shape[0],), dtype=torch.float32)
    return numerator, denominator, lse, p.new_empty((2, n_samples), dtype=torch.float32)


@contrastive_loss_backward_op.register_fake
def _backward_fake(
    dnumerator: Tensor,
    ddenominator: Tensor,
    p: Tensor,
    samples: Tensor,
    partners: Tensor,
    lse: Tensor,
    shift: Tensor,
    largest: int,
    tau: float,
    self_tau: float,
    dcl: bool,
    full_denom: bool,
    precision: str,
) -> Tensor:
    return torch.empty_like(p)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    p, samples, partners, *options = inputs
    ctx.save_for_backward(p, samples, partners, *output[2:])
    ctx.options = options


def _differentiate(
    ctx: Any, dnumerator: Tensor, ddenominator: Tensor, _lse: Tensor, _shift: Tensor
) -> tuple[Tensor | None, ...]:
    p, samples, partners, lse, shift = ctx.saved_tensors
    upstream = (dnumerator.contiguous(), ddenominator.contiguous())
    dp = contrastive_loss_backward_op(*upstream, p, samples, partners, lse, shift, *ctx.options)
    return dp, *[None] * 8


contrastive_loss_op.register_autograd(_differentiate, setup_context=_remember)
