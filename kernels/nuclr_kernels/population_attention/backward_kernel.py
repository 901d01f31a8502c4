"""Backward kernels. Scores are computed again from queries, keys and stored logarithms (arXiv 2307.08691).

With P the attention weights, G the gradient of the output and D = rowsum(G * output):
dV = P^T G, dS = P * (G V^T - D), dQ = scale * dS K, dK = scale * dS^T Q.
"""

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


@triton.jit(do_not_specialize=BATCH_SIZES, do_not_specialize_on_alignment=["tiles_ptr"])
def population_delta(
    out_ptr,
    grad_ptr,
    delta_ptr,
    tiles_ptr,
    grad_unit_stride,
    grad_patch_stride,
    grad_head_stride,
    n_tiles,
    n_units,
    n_patches,
    n_heads,
    HEAD_WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """D of every query.

    Args:
        out_ptr: (U, L, H, Dh) contiguous, output of the forward pass.
        grad_ptr: (U, L, H, Dh), any outer strides.
        delta_ptr: (L, H, U) float32 contiguous, written.
        tiles_ptr: (n_tiles, 3) int32, tiles of BLOCK.
    """
    first, size, start, patch, head = place(tiles_ptr, n_tiles, n_patches, n_heads, False)
    out_stride = n_patches * n_heads * HEAD_WIDTH
    out_base = out_ptr + first * out_stride + (patch * n_heads + head) * HEAD_WIDTH
    grad_base = grad_ptr + first * grad_unit_stride + patch * grad_patch_stride + head * grad_head_stride
    out = load_rows(out_base, start, size, out_stride, True, False, BLOCK, HEAD_WIDTH)
    grad = load_rows(grad_base, start, size, grad_unit_stride, True, False, BLOCK, HEAD_WIDTH)
    delta = tl.sum(out.to(tl.float32) * grad.to(tl.float32), 1)
    rows = start + tl.arange(0, BLOCK)
    tl.store(delta_ptr + (patch * n_heads + head) * n_units + first + rows, delta, mask=rows < size)


@triton.jit
def query_gradient_of(
    scores,
    grad_weights,
    key,
    lse,
    delta,
    start,
    size,
    acc,
    scale_log2,
    MASKED: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Adds to dQ / scale what a tile of keys gives."""
    weights = tl.exp2(scores * scale_log2 - lse[:, None])
    if MASKED:
        # The score zero of a key that is none can be far above the real ones: its weight may be infinite.
        weights = tl.where((start + tl.arange(0, BLOCK_K) < size)[None, :], weights, 0.0)
    grad_scores = weights * (grad_weights - delta[:, None])
    return dot(grad_scores.to(key.dtype), key, acc, PRECISION, UPCAST)


@triton.jit(do_not_specialize=BATCH_SIZES, do_not_specialize_on_alignment=["tiles_ptr"])
def population_query_gradient(
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    grad_ptr,
    lse_ptr,
    delta_ptr,
    dq_ptr,
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
    dq_unit_stride,
    dq_patch_stride,
    dq_head_stride,
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
    DESCRIPTORS: tl.constexpr,
    NARROW: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """dQ of a tile of queries, over all keys of their population; writes D on the way.

    Args:
        q_ptr, k_ptr, v_ptr, grad_ptr: (U, L, H, Dh), any outer strides.
        out_ptr: (U, L, H, Dh) contiguous.
        lse_ptr: (L, H, U) float32 contiguous, from the forward pass.
        delta_ptr: (L, H, U) float32 contiguous, written.
        dq_ptr: (U, L, H, Dh), any outer strides, written.
        tiles_ptr: (n_tiles, 3) int32, tiles of BLOCK_Q.
    """
    first, size, start, patch, head = place(tiles_ptr, n_tiles, n_patches, n_heads, TILE_FASTEST)
    q_base = q_ptr + first * q_unit_stride + patch * q_patch_stride + head * q_head_stride
    k_base = k_ptr + first * k_unit_stride + patch * k_patch_stride + head * k_head_stride
    v_base = v_ptr + first * v_unit_stride + patch * v_patch_stride + head * v_head_stride
    grad_base = grad_ptr + first * grad_unit_stride + patch * grad_patch_stride + head * grad_head_stride
    out_stride = n_patches * n_heads * HEAD_WIDTH
    out_base = out_ptr + first * out_stride + (patch * n_heads + head) * HEAD_WIDTH
    q_rows = rows_of(q_base, size, q_unit_stride, DESCRIPTORS, BLOCK_Q, HEAD_WIDTH)
    k_rows = rows_of(k_base, size, k_unit_stride, DESCRIPTORS, BLOCK_K, HEAD_WIDTH)
    v_rows = rows_of(v_base, size, v_unit_stride, DESCRIPTORS, BLOCK_K, HEAD_WIDTH)
    grad_rows = rows_of(grad_base, size, grad_unit_stride, DESCRIPTORS, BLOCK_Q, HEAD_WIDTH)

    rows = start + tl.arange(0, BLOCK_Q)
    inside = rows < size
    at_query = (patch * n_heads + head) * n_units + first + rows
    query = load_rows(q_rows, start, size, q_unit_stride, True, DESCRIPTORS, BLOCK_Q, HEAD_WIDTH)
    grad = load_rows(grad_rows, start, size, grad_unit_stride, True, DESCRIPTORS, BLOCK_Q, HEAD_WIDTH)
    out = load_rows(out_base, start, size, out_stride, True, False, BLOCK_Q, HEAD_WIDTH)
    lse = tl.load(lse_ptr + at_query, mask=inside, other=0.0)
    delta = tl.sum(out.to(tl.float32) * grad.to(tl.float32), 1)
    tl.store(delta_ptr + at_query, delta, mask=inside)

    acc = tl.zeros([BLOCK_Q, HEAD_WIDTH], tl.float32)
    full = size // BLOCK_K * BLOCK_K
    for at in tl.range(0, full, BLOCK_K):
        key = load_rows(k_rows, at, size, k_unit_stride, False, DESCRIPTORS, BLOCK_K, HEAD_WIDTH)
        value = load_rows(v_rows, at, size, v_unit_stride, False, DESCRIPTORS, BLOCK_K, HEAD_WIDTH)
        scores = scores_of(
            query,
            q_base,
            start,
            q_unit_stride,
            key,
            k_base,
            at,
            k_unit_stride,
            size,
            NARROW,
            BLOCK_Q,
            BLOCK_K,
            HEAD_WIDTH,
            PRECISION,
            UPCAST,
        )
        grad_weights = scores_of(
            grad,
            grad_base,
            start,
            grad_unit_stride,
            value,
            v_base,
            at,
            v_unit_stride,
            size,
            NARROW,
            BLOCK_Q,
            BLOCK_K,
            HEAD_WIDTH,
            PRECISION,
            UPCAST,
        )
        acc = query_gradient_of(
            scores,
            grad_weights,
            key,
            lse,
            delta,
            at,
            size,
            acc,
            scale_log2,
            False,
            BLOCK_K,
            PRECISION,
            UPCAST,
        )
    if full < size:
        key = load_rows(k_rows, full, size, k_unit_stride, True, DESCRIPTORS, BLOCK_K, HEAD_WIDTH)
        value = load_rows(v_rows, full, size, v_unit_stride, True, DESCRIPTORS, BLOCK_K, HEAD_WIDTH)
        scores = scores_of(
            query,
            q_base,
            start,
            q_unit_stride,
            key,
            k_base,
            full,
            k_unit_stride,
            size,
            NARROW,
            BLOCK_Q,
            BLOCK_K,
            HEAD_WIDTH,
            PRECISION,
            UPCAST,
        )
        grad_weights = scores_of(
            grad,
            grad_base,
            start,
            grad_unit_stride,
            value,
            v_base,
            full,
            v_unit_stride,
            size,
            NARROW,
            BLOCK_Q,
            BLOCK_K,
            HEAD_WIDTH,
            PRECISION,
            UPCAST,
        )
        acc = query_gradient_of(
            scores,
            grad_weights,
            key,
            lse,
            delta,
            full,
            size,
            acc,
            scale_log2,
            True,
            BLOCK_K,
            PRECISION,
            UPCAST,
        )

    dq_base = dq_ptr + first * dq_unit_stride + patch * dq_patch_stride + head * dq_head_stride
    dq = (acc * scale).to(dq_ptr.dtype.element_ty)
    tl.store(row_pointers(dq_base, start, dq_unit_stride, BLOCK_Q, HEAD_WIDTH), dq, mask=inside[:, None])
