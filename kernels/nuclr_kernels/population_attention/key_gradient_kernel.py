"""Backward kernel of keys and values; what the symbols mean stands in `backward_kernel`."""

from __future__ import annotations

import triton
import triton.language as tl

from nuclr_kernels.population_attention.forward_kernel import (
    BATCH_SIZES,
    load_rows,
    place,
    row_pointers,
    rows_of,
    scores_of,
)
from nuclr_kernels.triton_math import dot


@triton.jit
def key_gradient_of(
    scores,
    grad_weights,
    query,
    grad,
    key,
    lse,
    delta,
    dk,
    dv,
    dq_base,
    key_inside,
    start,
    size,
    dq_unit_stride,
    scale_log2,
    ATOMIC: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    HEAD_WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Adds to dK / scale and dV, and with ATOMIC to dQ / scale, what a tile of queries gives.

    A query that is none is zero, as are its gradient, logarithm and D: it adds nothing.
    """
    weights = tl.exp2(scores * scale_log2 - lse[None, :])
    if ATOMIC:
        # As for the gradient of queries above. Otherwise such a weight stays in a row that is not stored.
        weights = tl.where(key_inside[:, None], weights, 0.0)
    dv = dot(weights.to(grad.dtype), grad, dv, PRECISION, UPCAST)
    grad_scores = (weights * (grad_weights - delta[None, :])).to(query.dtype)
    dk = dot(grad_scores, query, dk, PRECISION, UPCAST)
    if ATOMIC:
        dq = dot(tl.trans(grad_scores), key, None, PRECISION, UPCAST)
        pointers = row_pointers(dq_base, start, dq_unit_stride, BLOCK_Q, HEAD_WIDTH)
        if MASKED:
            inside = (start + tl.arange(0, BLOCK_Q) < size)[:, None]
            tl.atomic_add(pointers, dq, mask=inside, sem="relaxed")
        else:
            tl.atomic_add(pointers, dq, sem="relaxed")
    return dk, dv


@triton.jit(do_not_specialize=BATCH_SIZES, do_not_specialize_on_alignment=["tiles_ptr"])
def population_key_gradient(
    q_ptr,
    k_ptr,
    v_ptr,
    grad_ptr,
    lse_ptr,
    delta_ptr,
    dq_ptr,
    dk_ptr,
    dv_ptr,
    tiles_ptr,
    q_unit_stride,
    q_patch_stride,
    q_head_stride,
    k_unit_stride,
    k_patch_stride,
    k_head_stride,
    v_unit_stride,
    v_patch_stride,
    v_head_stride,
    grad_unit_stride,
    grad_patch_stride,
    grad_head_stride,
    dk_unit_stride,
    dk_patch_stride,
    dk_head_stride,
    dv_unit_stride,
    dv_patch_stride,
    dv_head_stride,
    n_tiles,
    n_units,
    n_patches,
    n_heads,
    scale,
    scale_log2,
    HEAD_WIDTH: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    TILE_FASTEST: tl.constexpr,
    ATOMIC: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
    WARP_SPECIALIZE: tl.constexpr,
    NARROW: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """dK and dV of a tile of keys, over all queries of their population.

    Args:
        q_ptr, k_ptr, v_ptr, grad_ptr: (U, L, H, Dh), any outer strides.
        lse_ptr, delta_ptr: (L, H, U) float32 contiguous.
        dq_ptr: (U, L, H, Dh) float32 contiguous, with ATOMIC dQ / scale is added to it, in no particular
            order.
        dk_ptr, dv_ptr: (U, L, H, Dh), any outer strides, written.
        tiles_ptr: (n_tiles, 3) int32, tiles of BLOCK_K.
    """
    first, size, start, patch, head = place(tiles_ptr, n_tiles, n_patches, n_heads, TILE_FASTEST)
    q_base = q_ptr + first * q_unit_stride + patch * q_patch_stride + head * q_head_stride
    k_base = k_ptr + first * k_unit_stride + patch * k_patch_stride + head * k_head_stride
    v_base = v_ptr + first * v_unit_stride + patch * v_patch_stride + head * v_head_stride
    grad_base = grad_ptr + first * grad_unit_stride + patch * grad_patch_stride + head * grad_head_stride
    dq_unit_stride = n_patches * n_heads * HEAD_WIDTH
    dq_base = dq_ptr + first * dq_unit_stride + (patch * n_heads + head) * HEAD_WIDTH
    q_rows = rows_of(q_base, size, q_unit_stride, DESCRIPTORS, BLOCK_Q, HEAD_WIDTH)
    k_rows = rows_of(k_base, size, k_unit_stride, DESCRIPTORS, BLOCK_K, HEAD_WIDTH)
    v_rows = rows_of(v_base, size, v_unit_stride, DESCRIPTORS, BLOCK_K, HEAD_WIDTH)
    grad_rows = rows_of(grad_base, size, grad_unit_stride, DESCRIPTORS, BLOCK_Q, HEAD_WIDTH)

    key = load_rows(k_rows, start, size, k_unit_stride, True, DESCRIPTORS, BLOCK_K, HEAD_WIDTH)
    value = load_rows(v_rows, start, size, v_unit_stride, True, DESCRIPTORS, BLOCK_K, HEAD_WIDTH)
    dk = tl.zeros([BLOCK_K, HEAD_WIDTH], tl.float32)
    dv = tl.zeros([BLOCK_K, HEAD_WIDTH], tl.float32)
    key_inside = start + tl.arange(0, BLOCK_K) < size
    at_query = (patch * n_heads + head) * n_units + first
    # As in the forward kernel: one loop, then every tile is masked.
    full = size if WARP_SPECIALIZE else size // BLOCK_Q * BLOCK_Q
    for at in tl.range(0, full, BLOCK_Q, warp_specialize=WARP_SPECIALIZE):
        query = load_rows(q_rows, at, size, q_unit_stride, False, DESCRIPTORS, BLOCK_Q, HEAD_WIDTH)
        grad = load_rows(grad_rows, at, size, grad_unit_stride, False, DESCRIPTORS, BLOCK_Q, HEAD_WIDTH)
        columns = at + tl.arange(0, BLOCK_Q)
        if WARP_SPECIALIZE:
            lse = tl.load(lse_ptr + at_query + columns, mask=columns < size, other=0.0)
            delta = tl.load(delta_ptr + at_query + columns, mask=columns < size, other=0.0)
        else:
            lse = tl.load(lse_ptr + at_query + columns)
            delta = tl.load(delta_ptr + at_query + columns)
        scores = scores_of(
            key,
            k_base,
            start,
            k_unit_stride,
            query,
            q_base,
            at,
            q_unit_stride,
            size,
            NARROW,
            BLOCK_K,
            BLOCK_Q,
            HEAD_WIDTH,
            PRECISION,
            UPCAST,
        )
        grad_weights = scores_of(
            value,
            v_base,
            start,
            v_unit_stride,
            grad,
            grad_base,
            at,
            grad_unit_stride,
            size,
            NARROW,
            BLOCK_K,
            BLOCK_Q,
            HEAD_WIDTH,
            PRECISION,
            UPCAST,
        )
        dk, dv = key_gradient_of(
            scores,
            grad_weights,
            query,
            grad,
            key,
            lse,
            delta,
            dk,
            dv,
            dq_base,
            key_inside,
            at,
            size,
            dq_unit_stride,
            scale_log2,
            ATOMIC,
            WARP_SPECIALIZE,
            BLOCK_Q,
            HEAD_WIDTH,
            PRECISION,
            UPCAST,
        )
    if not WARP_SPECIALIZE and full < size:
        inside = full + tl.arange(0, BLOCK_Q) < size
        query = load_rows(q_rows, full, size, q_unit_stride, True, DESCRIPTORS, BLOCK_Q, HEAD_WIDTH)
        grad = load_rows(grad_rows, full, size, grad_unit_stride, True, DESCRIPTORS, BLOCK_Q, HEAD_WIDTH)
        lse = tl.load(lse_ptr + at_query + full + tl.arange(0, BLOCK_Q), mask=inside, other=0.0)
        delta = tl.load(delta_ptr + at_query + full + tl.arange(0, BLOCK_Q), mask=inside, other=0.0)
        scores = scores_of(
            key,
            k_base,
            start,
            k_unit_stride,
            query,
            q_base,
            full,
            q_unit_stride,
            size,
            NARROW,
            BLOCK_K,
            BLOCK_Q,
            HEAD_WIDTH,
            PRECISION,
            UPCAST,
        )
        grad_weights = scores_of(
            value,
            v_base,
            start,
            v_unit_stride,
            grad,
            grad_base,
            full,
            grad_unit_stride,
            size,
            NARROW,
            BLOCK_K,
            BLOCK_Q,
            HEAD_WIDTH,
            PRECISION,
            UPCAST,
        )
        dk, dv = key_gradient_of(
            scores,
            grad_weights,
            query,
            grad,
            key,
            lse,
            delta,
            dk,
            dv,
            dq_base,
            key_inside,
            full,
            size,
            dq_unit_stride,
            scale_log2,
            ATOMIC,
            True,
            BLOCK_Q,
            HEAD_WIDTH,
            PRECISION,
            UPCAST,
        )

    inside = key_inside[:, None]
    dk_base = dk_ptr + first * dk_unit_stride + patch * dk_patch_stride + head * dk_head_stride
    dv_base = dv_ptr + first * dv_unit_stride + patch * dv_patch_stride + head * dv_head_stride
    dk = (dk * scale).to(dk_ptr.dtype.element_ty)
    dv = dv.to(dv_ptr.dtype.element_ty)
    tl.store(row_pointers(dk_base, start, dk_unit_stride, BLOCK_K, HEAD_WIDTH), dk, mask=inside)
    tl.store(row_pointers(dv_base, start, dv_unit_stride, BLOCK_K, HEAD_WIDTH), dv, mask=inside)
