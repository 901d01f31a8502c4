"""Temporal attention as operators of PyTorch, and the launches of their kernels."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from nuclr_kernels.compile_options import COMPILE_OPTIONS
from nuclr_kernels.dispatch import interpreting
from nuclr_kernels.temporal_attention.tiles import (
    BACKWARD,
    FORWARD,
    choose_tile,
    kernel_constants,
    units_per_tile,
)
from nuclr_kernels.tile_tables import capability_of


@custom_op("nuclr::temporal_attention", mutates_args=())
def temporal_attention_op(
    qkv: Tensor, cos: Tensor, sin: Tensor, rotate_value: bool, scale: float, precision: str
) -> Tensor:
    """Forward kernel.

    Args:
        qkv: (U, L, 3, H, Dh) float32, float16 or bfloat16; any strides but 1 along the last axis.
        cos, sin: (L, Dh/2) float32 contiguous.
        rotate_value: Rotate values, and the output back.
        scale: Factor on the scores.
        precision: ``ieee`` or ``tf32``, of float32 products.

    Returns:
        (U, L, H, Dh) contiguous, dtype of `qkv`.
    """
    from nuclr_kernels.temporal_attention.forward_kernel import temporal_forward

    out = torch.empty(qkv[:, :, 0].shape, dtype=qkv.dtype, device=qkv.device)
    factor = scale * math.log2(math.e)
    _launch(FORWARD, temporal_forward, qkv, (qkv, cos, sin, out), (), (factor,), rotate_value, precision)
    return out


@custom_op("nuclr::temporal_attention_backward", mutates_args=())
def temporal_attention_backward_op(
    dout: Tensor, qkv: Tensor, cos: Tensor, sin: Tensor, rotate_value: bool, scale: float, precision: str
) -> Tensor:
    """Backward kernel; arguments as `temporal_attention_op`.

    Args:
        dout: (U, L, H, Dh), dtype of `qkv`; any strides but 1 along the last axis.

    Returns:
        (U, L, 3, H, Dh) contiguous, the gradient of `qkv`.
    """
    from nuclr_kernels.temporal_attention.backward_kernel import temporal_backward

    dqkv = torch.empty(qkv.shape, dtype=qkv.dtype, device=qkv.device)
    factors = (scale * math.log2(math.e), scale)
    tensors = (qkv, cos, sin, dout, dqkv)
    strides = (dout.stride(0), dout.stride(1), dout.stride(2))
    _launch(BACKWARD, temporal_backward, qkv, tensors, strides, factors, rotate_value, precision)
    return dqkv


def _launch(
    operation: str,
    kernel: Any,
    qkv: Tensor,
    tensors: tuple[Tensor, ...],
    more_strides: tuple[int, ...],
    factors: tuple[float, ...],
    rotate_value: bool,
    precision: str,
) -> None:
    """Run `kernel` for every (tile, head)."""
    n_units, n_patches, _, heads, head_dim = qkv.shape
    if qkv.numel() == 0:
        return
    tile = choose_tile(operation, capability_of(qkv.device), qkv.dtype, head_dim, n_patches)
    units = units_per_tile(tile, n_patches)
    with torch.cuda.device_of(qkv):  # type: ignore[no-untyped-call]
        kernel[(-(-n_units // units) * heads,)](
            *tensors,
            n_units,
            n_patches,
            units,
            heads,
            *qkv.stride()[:4],
            *more_strides,
            *factors,
            **kernel_constants(tile, head_dim, n_patches, rotate_value, precision, interpreting()),
            **COMPILE_OPTIONS,
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
        )


@temporal_attention_op.register_fake
def _forward_fake(
    qkv: Tensor, cos: Tensor, sin: Tensor, rotate_value: bool, scale: float, precision: str
) -> Tensor:
    return qkv.new_empty(qkv[:, :, 0].shape)


@temporal_attention_backward_op.register_fake
def _backward_fake(
    dout: Tensor, qkv: Tensor, cos: Tensor, sin: Tensor, rotate_value: bool, scale: float, precision: str
) -> Tensor:
    return qkv.new_empty(qkv.shape)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    qkv, cos, sin, *options = inputs
    ctx.save_for_backward(qkv, cos, sin)
    ctx.options = options


def _differentiate(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
    qkv, cos, sin = ctx.saved_tensors
    if dout.stride(-1) != 1:  # of a sum, for example, which is one number seen everywhere
        dout = dout.contiguous()
    dqkv = temporal_attention_backward_op(dout, qkv, cos, sin, *ctx.options)
    return dqkv, None, None, None, None, None


temporal_attention_op.register_autograd(_differentiate, setup_context=_remember)
