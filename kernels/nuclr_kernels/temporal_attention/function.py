"""Public entry of temporal attention: checks, then the implementation for the device."""

from __future__ import annotations

import torch
from torch import Tensor

from nuclr_kernels._offsets import check_qkv
from nuclr_kernels.compiled_constants import compiled_constant
from nuclr_kernels.dispatch import runs_fused
from nuclr_kernels.float32_precision import float32_precision
from nuclr_kernels.temporal_attention.cpu import suits_cpu, temporal_attention_cpu
from nuclr_kernels.temporal_attention.ops import temporal_attention_op
from nuclr_kernels.temporal_attention.reference import temporal_attention_reference
from nuclr_kernels.temporal_attention.tiles import HEAD_WIDTHS, PATCH_BOUNDS, first_reaching, refusal
from nuclr_kernels.tile_tables import capability_of

_TABLE_DTYPES = (torch.float32, torch.float64)


def temporal_attention(
    qkv: Tensor, cos: Tensor, sin: Tensor, *, rotate_value: bool = True, scale: float | None = None
) -> Tensor:
    """Let every patch of a unit attend to all patches of the same unit, with rotary positions.

    Dimensions (2i, 2i+1) of a head are turned by the angle of table column i. Query and key are rotated by
    the angle of their patch; with `rotate_value` the value too, and the output is rotated back, so that what
    is passed on depends on the time between two patches only.

    On a GPU one kernel does all of it, and one its gradient. It takes float32, float16 and bfloat16, head
    widths 16, 32, 64 and 128 and up to 128 patches; other calls run on plain PyTorch, with a warning. Nothing
    but the input is kept for the backward pass.

    Args:
        qkv: (U, L, 3, H, Dh) float, Dh even; any strides. The kernel copies it first only where neighbours
            along the last axis are not neighbours in memory.
        cos: (L, Dh/2) float, cosines of the angles. float32 or wider, also when `qkv` is bfloat16; the kernel
            works with float32.
        sin: (L, Dh/2) float, sines, same dtype as `cos`. Tables carry no gradient on the kernel's path.
        rotate_value: Rotate values, and the output back.
        scale: Factor on the scores; default ``Dh ** -0.5``.

    Returns:
        (U, L, H, Dh), same dtype and device as `qkv`; under autocast of autocast's dtype. A unit with a value
        that is not finite has no finite output; other units do not notice.

    Raises:
        ValueError: An argument has the wrong shape, dtype or device; the message names it.
    """
    check_qkv(qkv)
    n_patches, head_dim = qkv.shape[1], qkv.shape[4]
    expected = (n_patches, head_dim // 2)
    if not (
        head_dim % 2 == 0
        and cos.shape == sin.shape == expected
        and cos.dtype is sin.dtype
        and cos.dtype in _TABLE_DTYPES
        and cos.device == sin.device == qkv.device
    ):
        raise ValueError(_wrong_tables(qkv, cos, sin))
    width = next((width for width in HEAD_WIDTHS if width == head_dim), 0)
    if n_patches == 0 or not _runs_fused(
        qkv.device, qkv.dtype, width, first_reaching(PATCH_BOUNDS, n_patches)
    ):
        if rotate_value and suits_cpu(qkv, cos, sin):
            return temporal_attention_cpu(qkv, cos, sin, scale=scale)
        return temporal_attention_reference(qkv, cos, sin, rotate_value=rotate_value, scale=scale)
    qkv = _autocast(qkv)
    if qkv.stride(-1) != 1:
        qkv = qkv.contiguous()
    cos, sin = (table.detach().to(torch.float32).contiguous() for table in (cos, sin))
    used_scale = head_dim**-0.5 if scale is None else scale
    out: Tensor = temporal_attention_op(qkv, cos, sin, rotate_value, used_scale, float32_precision())
    return out


def _wrong_tables(qkv: Tensor, cos: Tensor, sin: Tensor) -> str:
    """What is wrong with the tables, or with the width that they are for."""
    n_patches, head_dim = qkv.shape[1], qkv.shape[4]
    if head_dim % 2:
        return f"qkv must have an even head width to be rotated in pairs; got {head_dim}"
    expected = (n_patches, head_dim // 2)
    for name, table in (("cos", cos), ("sin", sin)):
        if tuple(table.shape) != expected:
            return f"{name} must have shape (patches, head width / 2) = {expected}; got {tuple(table.shape)}"
        if table.dtype not in _TABLE_DTYPES:
            return (
                f"{name} must be float32 or float64, since phases lose their meaning below; got {table.dtype}"
            )
        if table.device != qkv.device:
            return f"{name} must be on the device of qkv, {qkv.device}; got {table.device}"
    return f"sin must have the dtype of cos, {cos.dtype}; got {sin.dtype}"


def _autocast(qkv: Tensor) -> Tensor:
    """What scaled_dot_product_attention would do, which the reference calls."""
    kind = qkv.device.type
    if qkv.dtype is torch.float32 and torch.is_autocast_enabled(kind):
        return qkv.to(torch.get_autocast_dtype(kind))
    return qkv


@compiled_constant
def _runs_fused(device: torch.device, dtype: torch.dtype, head_dim: int, patch_bound: int) -> bool:
    """Whether the kernel runs; a constant of the compiled program under `torch.compile`."""
    return runs_fused(
        "temporal_attention", device, lambda: refusal(dtype, head_dim, patch_bound, capability_of(device))
    )
