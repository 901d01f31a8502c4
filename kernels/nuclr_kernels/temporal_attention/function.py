"""Public entry of temporal attention: checks, then the implementation for the device."""

from __future__ import annotations

from torch import Tensor

from nuclr_kernels._offsets import check_qkv
from nuclr_kernels.temporal_attention.reference import temporal_attention_reference


def temporal_attention(
    qkv: Tensor, cos: Tensor, sin: Tensor, *, rotate_value: bool = True, scale: float | None = None
) -> Tensor:
    """Let every patch of a unit attend to all patches of the same unit, with rotary positions.

    Dimensions (2i, 2i+1) of a head are turned by the angle of table column i. Query and key are rotated by
    the angle of their patch; with `rotate_value` the value too, and the output is rotated back, so that what
    is passed on depends on the time between two patches only.

    Args:
        qkv: (U, L, 3, H, Dh) float, Dh even; any strides.
        cos: (L, Dh/2) float, cosines of the angles. float32 or wider, also when `qkv` is bfloat16.
        sin: (L, Dh/2) float, sines, same dtype as `cos`.
        rotate_value: Rotate values, and the output back.
        scale: Factor on the scores; default ``Dh ** -0.5``.

    Returns:
        (U, L, H, Dh), same dtype and device as `qkv`.

    Raises:
        ValueError: An argument has the wrong shape or dtype; the message names it.
    """
    check_qkv(qkv)
    n_patches, head_dim = qkv.shape[1], qkv.shape[4]
    if head_dim % 2:
        raise ValueError(f"qkv must have an even head width to be rotated in pairs; got {head_dim}")
    for name, table in (("cos", cos), ("sin", sin)):
        expected = (n_patches, head_dim // 2)
        if tuple(table.shape) != expected:
            raise ValueError(
                f"{name} must have shape (patches, head width / 2) = {expected}; got {tuple(table.shape)}"
            )
        if not table.is_floating_point() or table.element_size() < 4:
            raise ValueError(
                f"{name} must be float32 or float64, since phases lose their meaning below; got {table.dtype}"
            )
    if cos.dtype != sin.dtype:
        raise ValueError(f"sin must have the dtype of cos, {cos.dtype}; got {sin.dtype}")
    return temporal_attention_reference(qkv, cos, sin, rotate_value=rotate_value, scale=scale)
