"""Forward kernel: one program takes a tile of queries of one population, patch and head over all its keys."""

from __future__ import annotations

import triton
import triton.language as tl

from nuclr_kernels.triton_math import dot

BATCH_SIZES = ["n_tiles", "n_units"]
"""Change with every batch: kernels compiled anew for those that are multiples of 16 would gain nothing."""


@triton.jit
def place(tiles_ptr, n_tiles, n_patches, n_heads, TILE_FASTEST: tl.constexpr):
    """Which tile, patch and head this program works on.

    Returns first unit of the population (int64), its size, start of the tile in it, patch, head (both
    int64). Small populations: the heads of a patch, then the patches of a tile come one after the other, so
    that whole rows of the projection pass through the cache together. Large ones: the tiles of one patch and
    head come one after the other and find its keys and values in the L2 cache.
    """
    program = tl.program_id(0)
    if TILE_FASTEST:
        tile = program % n_tiles
        column = program // n_tiles
    else:
        tile = program // (n_patches * n_heads)
        column = program % (n_patches * n_heads)
    first = tl.load(tiles_ptr + 3 * tile).to(tl.int64)
    size = tl.load(tiles_ptr + 3 * tile + 1)
    start = tl.load(tiles_ptr + 3 * tile + 2)
    return first, size, start, (column // n_heads).to(tl.int64), (column % n_heads).to(tl.int64)


@triton.jit
def row_pointers(base, start, unit_stride, BLOCK: tl.constexpr, HEAD_WIDTH: tl.constexpr):
    """(BLOCK, HEAD_WIDTH) pointers to consecutive units, 64 bit: populations can span over 2^31 entries."""
    rows = (start + tl.arange(0, BLOCK)).to(tl.int64)
    return base + rows[:, None] * unit_stride + tl.arange(0, HEAD_WIDTH)[None, :]


@triton.jit
def load_rows(
    base,
    start,
    size,
    unit_stride,
    MASKED: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
    BLOCK: tl.constexpr,
    HEAD_WIDTH: tl.constexpr,
):
    """(BLOCK, HEAD_WIDTH) values of consecutive units, zero beyond the population's `size`.

    Args:
        base: Pointer to the population's first unit; with DESCRIPTORS the tensor descriptor of `rows_of`,
            where the hardware fills in the zeros.
        MASKED: The tile can reach beyond the population.
    """
    if DESCRIPTORS:
        return base.load([start, 0])
    else:
        pointers = row_pointers(base, start, unit_stride, BLOCK, HEAD_WIDTH)
        if MASKED:
            return tl.load(pointers, mask=(start + tl.arange(0, BLOCK) < size)[:, None], other=0.0)
        else:
            return tl.load(pointers)


@triton.jit
def rows_of(
    base, size, unit_stride, DESCRIPTORS: tl.constexpr, BLOCK: tl.constexpr, HEAD_WIDTH: tl.constexpr
):
    """What `load_rows` reads from: `base`, or a descriptor that ends with the population.

    No population of size 0 is ever read; a descriptor of no rows would not be valid.
    """
    if DESCRIPTORS:
        return tl.make_tensor_descriptor(
            base,
            shape=[tl.maximum(size, 1), HEAD_WIDTH],
            strides=[unit_stride, 1],
            block_shape=[BLOCK, HEAD_WIDTH],
        )
    else:
        return base


@triton.jit
def scores_of(
    a,
    a_base,
    a_start,
    a_stride,
    b,
    b_base,
    b_start,
    b_stride,
    size,
    NARROW: tl.constexpr,
    BLOCK_A: tl.constexpr,
    BLOCK_B: tl.constexpr,
    HEAD_WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """(BLOCK_A, BLOCK_B) products of rows of `a` and rows of `b`.

    With NARROW the rows are loaded here, 16 columns at a time: without tensor cores a thread holds whole rows
    of both factors, and rows of 64 would not fit its registers.
    """
    if NARROW:
        a_inside = (a_start + tl.arange(0, BLOCK_A) < size)[:, None]
        b_inside = (b_start + tl.arange(0, BLOCK_B) < size)[:, None]
        products = tl.zeros([BLOCK_A, BLOCK_B], tl.float32)
        for column in range(0, HEAD_WIDTH, 16):
            a_part = tl.load(
                row_pointers(a_base + column, a_start, a_stride, BLOCK_A, 16), a_inside, other=0.0
            )
            b_part = tl.load(
                row_pointers(b_base + column, b_start, b_stride, BLOCK_B, 16), b_inside, other=0.0
            )
            products = dot(a_part, tl.trans(b_part), products, PRECISION, UPCAST)
        return products
    else:
        return dot(a, tl.trans(b), None, PRECISION, UPCAST)


@triton.jit
def attend_to(
    scores,
    value,
    start,
    size,
    highest,
    total,
    acc,
    scale_log2,
    MASKED: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """One step of the online softmax (arXiv 1805.02867, 2205.14135): a tile of keys is taken in."""
    if MASKED:
        scores = tl.where((start + tl.arange(0, BLOCK_K) < size)[None, :], scores, float("-inf"))
    new_highest = tl.maximum(highest, tl.max(scores, 1) * scale_log2)
    weights = tl.exp2(scores * scale_log2 - new_highest[:, None])
    shrink = tl.exp2(highest - new_highest)
    total = total * shrink + tl.sum(weights, 1)
    acc = dot(weights.to(value.dtype), value, acc * shrink[:, None], PRECISION, UPCAST)
    return new_highest, total, acc


@triton.jit(do_not_specialize=BATCH_SIZES, do_not_specialize_on_alignment=["tiles_ptr"])
def population_forward(
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    lse_ptr,
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
    n_tiles,
    n_units,
    n_patches,
    n_heads,
    scale_log2,
    HEAD_WIDTH: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    TILE_FASTEST: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
    WARP_SPECIALIZE: tl.constexpr,
    NARROW: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Attention of a tile of queries, and the logarithms that the backward pass needs.

    Args:
        q_ptr, k_ptr, v_ptr: (U, L, H, Dh), any outer strides.
        out_ptr: (U, L, H, Dh) contiguous, written.
        lse_ptr: (L, H, U) float32 contiguous, written: log2 of the sum over keys of
            ``exp2(scale_log2 * q @ k)``.
        tiles_ptr: (n_tiles, 3) int32, tiles of BLOCK_Q.
        scale_log2: ``scale * log2(e)``, positive.
    """
    first, size, start, patch, head = place(tiles_ptr, n_tiles, n_patches, n_heads, TILE_FASTEST)
    q_base = q_ptr + first * q_unit_stride + patch * q_patch_stride + head * q_head_stride
    k_base = k_ptr + first * k_unit_stride + patch * k_patch_stride + head * k_head_stride
    v_base = v_ptr + first * v_unit_stride + patch * v_patch_stride + head * v_head_stride
    q_rows = rows_of(q_base, size, q_unit_stride, DESCRIPTORS, BLOCK_Q, HEAD_WIDTH)
    k_rows = rows_of(k_base, size, k_unit_stride, DESCRIPTORS, BLOCK_K, HEAD_WIDTH)
    v_rows = rows_of(v_base, size, v_unit_stride, DESCRIPTORS, BLOCK_K, HEAD_WIDTH)

    query = load_rows(q_rows, start, size, q_unit_stride, True, DESCRIPTORS, BLOCK_Q, HEAD_WIDTH)
    highest = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_Q], tl.float32)
    acc = tl.zeros([BLOCK_Q, HEAD_WIDTH], tl.float32)
    # Triton specialises warps only where no product stands outside the loop, so then every tile is masked.
    full = size if WARP_SPECIALIZE else size // BLOCK_K * BLOCK_K
    for at in tl.range(0, full, BLOCK_K, warp_specialize=WARP_SPECIALIZE):
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
        highest, total, acc = attend_to(
            scores,
            value,
            at,
            size,
            highest,
            total,
            acc,
            scale_log2,
            WARP_SPECIALIZE,
            BLOCK_K,
            PRECISION,
            UPCAST,
        )
    if not WARP_SPECIALIZE and full < size:
        # Beyond the population: scores are minus infinity and values zero, for whatever stands there times a
        # weight of zero is not zero if it is not a number.
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
        highest, total, acc = attend_to(
            scores, value, full, size, highest, total, acc, scale_log2, True, BLOCK_K, PRECISION, UPCAST
        )

    rows = start + tl.arange(0, BLOCK_Q)
    inside = rows < size
    out_stride = n_patches * n_heads * HEAD_WIDTH
    out_base = out_ptr + first * out_stride + (patch * n_heads + head) * HEAD_WIDTH
    out = (acc / total[:, None]).to(out_ptr.dtype.element_ty)
    tl.store(row_pointers(out_base, start, out_stride, BLOCK_Q, HEAD_WIDTH), out, mask=inside[:, None])
    lse_base = lse_ptr + (patch * n_heads + head) * n_units + first
    tl.store(lse_base + rows, highest + tl.log2(total), mask=inside)
