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
