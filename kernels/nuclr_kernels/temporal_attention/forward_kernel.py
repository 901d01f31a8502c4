"""Forward kernel of temporal attention, and the pieces that its backward shares.

A program handles one head of a tile: as many whole units as fit into ROWS rows, a row being one patch of one
unit. Rows of one unit see each other; a tile of 32 rows holds three units of ten patches.
"""

from __future__ import annotations

import triton
import triton.language as tl

from nuclr_kernels.triton_math import dot


@triton.jit
def turn_pairs(x, cos, sin, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Turn the pairs (2i, 2i+1) of every row of `x` (ROWS, WIDTH) float32 by the angle of table column i.

    A thread holds both columns of a pair, so this moves no data.
    """
    even, odd = tl.split(tl.reshape(x, (ROWS, WIDTH // 2, 2)))
    turned = tl.join(even * cos - odd * sin, odd * cos + even * sin)
    return tl.reshape(turned, (ROWS, WIDTH))


@triton.jit
def tile_rows(start, tile, n_units, n_patches, units_per_tile, ROWS: tl.constexpr):
    """Where the tile's rows [start, start + ROWS) lie.

    Returns:
        (ROWS,) each: unit within the tile, unit (int64), patch, and whether the row exists. Rows behind the
        last one continue the count of units, so that they see only rows which do not exist either.
    """
    rows = start + tl.arange(0, ROWS)
    local = rows // n_patches
    patch = rows % n_patches
    unit = tile.to(tl.int64) * units_per_tile + local
    return local, unit, patch, (local < units_per_tile) & (unit < n_units)


@triton.jit
def load_rows(pointer, offsets, exists, WIDTH: tl.constexpr):
    """(rows, WIDTH) of the tensor's own dtype; zeros where a row does not exist."""
    columns = tl.arange(0, WIDTH)
    return tl.load(pointer + offsets[:, None] + columns[None, :], mask=exists[:, None], other=0.0)


@triton.jit
def load_table(table, patch, WIDTH: tl.constexpr):
    """(rows, WIDTH / 2) float32 entries of the cosine or sine table."""
    pairs = tl.arange(0, WIDTH // 2)
    return tl.load(table + patch[:, None] * (WIDTH // 2) + pairs[None, :])


@triton.jit
def blemish(x):
    """(rows,) zero where all of a row is finite, NaN where it is not."""
    return tl.sum(x * 0.0, 1)


@triton.jit(do_not_specialize=["n_units", "n_patches", "units_per_tile"])
def temporal_forward(
    qkv,
    cos,
    sin,
    out,
    n_units,
    n_patches,
    units_per_tile,
    heads,
    stride_unit,
    stride_patch,
    stride_part,
    stride_head,
    factor,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    QUERY_ROWS: tl.constexpr,
    ROTATE_VALUE: tl.constexpr,
    SHARED_TILE: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """One (tile, head) a program: read q, k and v once, write the output once.

    Args:
        qkv: (U, L, 3, H, WIDTH) with the given strides, the last being 1.
        cos, sin: (L, WIDTH / 2) float32 contiguous.
        out: (U, L, H, WIDTH) contiguous.
        factor: Scale of the scores times log2(e).
        ROWS: Rows of a tile, which are its keys; units_per_tile * n_patches at most.
        QUERY_ROWS: Queries worked on at a time, a divisor of ROWS.
        SHARED_TILE: A tile may hold more than one unit. A row that is not finite must not reach the others
            (0 * NaN is NaN), so it is replaced by zeros and its own unit's scores are made NaN.
    """
    program = tl.program_id(0)
    tile = program // heads
    head = (program % heads).to(tl.int64)
    queries = qkv + head * stride_head
    keys = queries + stride_part
    values = keys + stride_part

    local, unit, patch, exists = tile_rows(0, tile, n_units, n_patches, units_per_tile, ROWS)
    offsets = unit * stride_unit + patch.to(tl.int64) * stride_patch
    cosine = load_table(cos, patch, WIDTH)
    sine = load_table(sin, patch, WIDTH)
    k = load_rows(keys, offsets, exists, WIDTH)
    v = load_rows(values, offsets, exists, WIDTH)
    k = turn_pairs(k.to(tl.float32), cosine, sine, ROWS, WIDTH).to(k.dtype)
    flaw = tl.zeros((ROWS,), tl.float32)
    if SHARED_TILE:
        flaw = blemish(v.to(tl.float32))
        v = tl.where((flaw == 0.0)[:, None], v, tl.zeros_like(v))
    if ROTATE_VALUE:
        v = turn_pairs(v.to(tl.float32), cosine, sine, ROWS, WIDTH).to(v.dtype)

    # Transposed in the loop, they would be stored to shared memory for every block of queries (triton 3.9).
    kt = tl.trans(k)
    if QUERY_ROWS == ROWS:
        _forward_block(
            0, queries, cos, sin, out, kt, v, flaw, local, tile, head, n_units, n_patches, units_per_tile,
            heads, stride_unit, stride_patch, factor,
            WIDTH, QUERY_ROWS, ROTATE_VALUE, SHARED_TILE, PRECISION, UPCAST,
        )  # fmt: skip
    else:
        for start in range(0, units_per_tile * n_patches, QUERY_ROWS):
            _forward_block(
                start, queries, cos, sin, out, kt, v, flaw, local, tile, head, n_units, n_patches,
                units_per_tile, heads, stride_unit, stride_patch, factor,
                WIDTH, QUERY_ROWS, ROTATE_VALUE, SHARED_TILE, PRECISION, UPCAST,
            )  # fmt: skip


@triton.jit
def _forward_block(
    start,
    queries,
    cos,
    sin,
    out,
    kt,
    v,
    flaw,
    local_k,
    tile,
    head,
    n_units,
    n_patches,
    units_per_tile,
    heads,
    stride_unit,
    stride_patch,
    factor,
    WIDTH: tl.constexpr,
    QUERY_ROWS: tl.constexpr,
    ROTATE_VALUE: tl.constexpr,
    SHARED_TILE: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Queries [start, start + QUERY_ROWS) of the tile against its rotated keys (transposed) and values."""
    local, unit, patch, exists = tile_rows(start, tile, n_units, n_patches, units_per_tile, QUERY_ROWS)
    q = load_rows(queries, unit * stride_unit + patch.to(tl.int64) * stride_patch, exists, WIDTH)
    cosine = load_table(cos, patch, WIDTH)
    sine = load_table(sin, patch, WIDTH)
    q = (turn_pairs(q.to(tl.float32), cosine, sine, QUERY_ROWS, WIDTH) * factor).to(q.dtype)

    zeros = tl.zeros((QUERY_ROWS, kt.shape[1]), tl.float32)
    scores = dot(q, kt, zeros, PRECISION, UPCAST)
    if SHARED_TILE:
        scores += flaw[None, :]
    scores = tl.where(local[:, None] == local_k[None, :], scores, float("-inf"))
    weights = tl.exp2(scores - tl.max(scores, 1)[:, None])
    total = tl.sum(weights, 1)
    attended = dot(weights.to(v.dtype), v, tl.zeros((QUERY_ROWS, WIDTH), tl.float32), PRECISION, UPCAST)
    attended = attended * (1.0 / total)[:, None]
    if ROTATE_VALUE:
        attended = turn_pairs(attended, cosine, -sine, QUERY_ROWS, WIDTH)
    rows = (unit * n_patches + patch) * heads + head
    columns = tl.arange(0, WIDTH)
    tl.store(
        out + (rows * WIDTH)[:, None] + columns[None, :],
        attended.to(out.dtype.element_ty),
        mask=exists[:, None],
    )
