"""Backward kernel of temporal attention: gradients of q, k and v of a tile in one program.

Nothing but the input is needed: the softmax is recomputed, and since a program sees all keys of its queries,
the row sums of weights times their gradients take the place of those of output times its gradient.
"""

from __future__ import annotations

import triton
import triton.language as tl

from nuclr_kernels.temporal_attention.forward_kernel import (
    blemish,
    load_rows,
    load_table,
    tile_rows,
    turn_pairs,
)
from nuclr_kernels.triton_math import dot


@triton.jit(do_not_specialize=["n_units", "n_patches", "units_per_tile"])
def temporal_backward(
    qkv,
    cos,
    sin,
    dout,
    dqkv,
    n_units,
    n_patches,
    units_per_tile,
    heads,
    stride_unit,
    stride_patch,
    stride_part,
    stride_head,
    dout_stride_unit,
    dout_stride_patch,
    dout_stride_head,
    factor,
    scale,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    QUERY_ROWS: tl.constexpr,
    ROTATE_VALUE: tl.constexpr,
    SHARED_TILE: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """One (tile, head) a program; arguments as `temporal_forward`.

    Args:
        dout: (U, L, H, WIDTH) with the given strides, the last being 1.
        dqkv: (U, L, 3, H, WIDTH) contiguous.
        scale: Of the scores, without log2(e).
    """
    program = tl.program_id(0)
    tile = program // heads
    head = (program % heads).to(tl.int64)
    queries = qkv + head * stride_head
    keys = queries + stride_part
    values = keys + stride_part
    upstream = dout + head * dout_stride_head
    dqueries = dqkv + head * WIDTH
    dkeys = dqueries + heads * WIDTH
    dvalues = dkeys + heads * WIDTH

    local, unit, patch, exists = tile_rows(0, tile, n_units, n_patches, units_per_tile, ROWS)
    offsets = unit * stride_unit + patch.to(tl.int64) * stride_patch
    k = load_rows(keys, offsets, exists, WIDTH)
    v = load_rows(values, offsets, exists, WIDTH)
    flaw = tl.zeros((ROWS,), tl.float32)
    if SHARED_TILE:
        q = load_rows(queries, offsets, exists, WIDTH)
        do_offsets = unit * dout_stride_unit + patch.to(tl.int64) * dout_stride_patch
        do = load_rows(upstream, do_offsets, exists, WIDTH)
        flaw = blemish(q.to(tl.float32)) + blemish(k.to(tl.float32))
        flaw += blemish(v.to(tl.float32)) + blemish(do.to(tl.float32))
        k = tl.where((flaw == 0.0)[:, None], k, tl.zeros_like(k))
        v = tl.where((flaw == 0.0)[:, None], v, tl.zeros_like(v))
    cosine = load_table(cos, patch, WIDTH)
    sine = load_table(sin, patch, WIDTH)
    k = turn_pairs(k.to(tl.float32), cosine, sine, ROWS, WIDTH).to(k.dtype)
    if ROTATE_VALUE:
        v = turn_pairs(v.to(tl.float32), cosine, sine, ROWS, WIDTH).to(v.dtype)

    kt = tl.trans(k)
    vt = tl.trans(v)

    dk = tl.zeros((ROWS, WIDTH), tl.float32)
    dv = tl.zeros((ROWS, WIDTH), tl.float32)
    if QUERY_ROWS == ROWS:
        dk, dv = _backward_block(
            0, queries, upstream, cos, sin, dqueries, k, kt, vt, dk, dv, flaw, local, tile, n_units,
            n_patches, units_per_tile, heads, stride_unit, stride_patch, dout_stride_unit,
            dout_stride_patch, factor, scale, WIDTH, QUERY_ROWS, ROTATE_VALUE, SHARED_TILE, PRECISION, UPCAST,
        )  # fmt: skip
    else:
        for start in range(0, units_per_tile * n_patches, QUERY_ROWS):
            dk, dv = _backward_block(
                start, queries, upstream, cos, sin, dqueries, k, kt, vt, dk, dv, flaw, local, tile, n_units,
                n_patches, units_per_tile, heads, stride_unit, stride_patch, dout_stride_unit,
                dout_stride_patch, factor, scale,
                WIDTH, QUERY_ROWS, ROTATE_VALUE, SHARED_TILE, PRECISION, UPCAST,
            )  # fmt: skip

    if ROTATE_VALUE:
        dv = turn_pairs(dv, cosine, -sine, ROWS, WIDTH)
    # Queries carried log2(e) too, for the sake of exp2.
    dk = turn_pairs(dk * 0.6931471805599453, cosine, -sine, ROWS, WIDTH)
    columns = tl.arange(0, WIDTH)
    positions = ((unit * n_patches + patch) * 3 * heads * WIDTH)[:, None] + columns[None, :]
    tl.store(dkeys + positions, dk.to(dqkv.dtype.element_ty), mask=exists[:, None])
    tl.store(dvalues + positions, dv.to(dqkv.dtype.element_ty), mask=exists[:, None])


@triton.jit
def _backward_block(
    start,
    queries,
    upstream,
    cos,
    sin,
    dqueries,
    k,
    kt,
    vt,
    dk,
    dv,
    flaw,
    local_k,
    tile,
    n_units,
    n_patches,
    units_per_tile,
    heads,
    stride_unit,
    stride_patch,
    dout_stride_unit,
    dout_stride_patch,
    factor,
    scale,
    WIDTH: tl.constexpr,
    QUERY_ROWS: tl.constexpr,
    ROTATE_VALUE: tl.constexpr,
    SHARED_TILE: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Add what queries [start, start + QUERY_ROWS) contribute to dk and dv, and write their dq.

    Keys come both ways round, values transposed.
    """
    local, unit, patch, exists = tile_rows(start, tile, n_units, n_patches, units_per_tile, QUERY_ROWS)
    q = load_rows(queries, unit * stride_unit + patch.to(tl.int64) * stride_patch, exists, WIDTH)
    do_offsets = unit * dout_stride_unit + patch.to(tl.int64) * dout_stride_patch
    do = load_rows(upstream, do_offsets, exists, WIDTH)
    if SHARED_TILE:  # one block is the whole tile then, so rows are numbered as those of `flaw`
        q = tl.where((flaw == 0.0)[:, None], q, tl.zeros_like(q))
        do = tl.where((flaw == 0.0)[:, None], do, tl.zeros_like(do))
    cosine = load_table(cos, patch, WIDTH)
    sine = load_table(sin, patch, WIDTH)
    q = (turn_pairs(q.to(tl.float32), cosine, sine, QUERY_ROWS, WIDTH) * factor).to(q.dtype)
    if ROTATE_VALUE:  # the output is turned back, so its gradient is turned forth
        do = turn_pairs(do.to(tl.float32), cosine, sine, QUERY_ROWS, WIDTH).to(do.dtype)

    zeros = tl.zeros((QUERY_ROWS, k.shape[0]), tl.float32)
    same = local[:, None] == local_k[None, :]
    scores = dot(q, kt, zeros, PRECISION, UPCAST)
    if SHARED_TILE:
        scores += flaw[None, :] + flaw[:, None]
    scores = tl.where(same, scores, float("-inf"))
    weights = tl.exp2(scores - tl.max(scores, 1)[:, None])
    weights = weights / tl.sum(weights, 1)[:, None]
    if SHARED_TILE:  # a row of NaN scores must stay NaN for its own unit only
        weights = tl.where(same, weights, 0.0)
    dv = dot(tl.trans(weights.to(do.dtype)), do, dv, PRECISION, UPCAST)
    dweights = dot(do, vt, zeros, PRECISION, UPCAST)
    dscores = dweights - tl.sum(weights * dweights, 1)[:, None]
    dscores = weights * dscores
    if SHARED_TILE:
        dscores = tl.where(same, dscores, 0.0)
    dscores = dscores.to(k.dtype)
    dk = dot(tl.trans(dscores), q, dk, PRECISION, UPCAST)
    dq = dot(dscores, k, tl.zeros((QUERY_ROWS, WIDTH), tl.float32), PRECISION, UPCAST)
    dq = turn_pairs(dq * scale, cosine, -sine, QUERY_ROWS, WIDTH)
    columns = tl.arange(0, WIDTH)
    positions = ((unit * n_patches + patch) * 3 * heads * WIDTH)[:, None] + columns[None, :]
    tl.store(dqueries + positions, dq.to(dqueries.dtype.element_ty), mask=exists[:, None])
    return dk, dv
