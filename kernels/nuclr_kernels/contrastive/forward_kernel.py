"""Forward kernels of the contrastive loss, and the pieces that its backward shares.

Units of both views lie in one matrix, view 2 behind view 1. A program owns some rows of one view of one
sample and streams the units of the other view and then of its own past them; scores live in registers only.
Logarithms and exponents are to base 2 inside.
"""

from __future__ import annotations

import triton
import triton.language as tl

from nuclr_kernels.triton_math import dot


@triton.jit
def find_rows(program, samples, tiles, BLOCK_M: tl.constexpr):
    """What a program owns. Programs are ordered by sample, view, tile; tiles count those of the largest view.

    Args:
        samples: (B, 6) int32: first and last unit of view 1, of view 2 (last ones exclusive), matched pairs,
            index of the sample.

    Returns:
        slot (row of `samples`), view (0 or 1), first row, end of the rows' own view, start of their own view,
        start and end of the other view.
    """
    tile = program % tiles
    view = (program // tiles) % 2
    slot = program // tiles // 2
    entry = samples + slot * 6
    own_start = tl.load(entry + 2 * view)
    own_stop = tl.load(entry + 2 * view + 1)
    other_start = tl.load(entry + 2 - 2 * view)
    other_stop = tl.load(entry + 3 - 2 * view)
    return slot, view, own_start + tile * BLOCK_M, own_stop, own_start, other_start, other_stop


@triton.jit
def load_units(p, units, exists, first, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """(units, BLOCK) columns [first, first + BLOCK) of `p`; zeros where there are none."""
    columns = first + tl.arange(0, BLOCK)
    mask = exists[:, None]
    if WIDTH % BLOCK != 0:
        mask = mask & (columns < WIDTH)[None, :]
    return tl.load(p + (units.to(tl.int64) * WIDTH)[:, None] + columns[None, :], mask=mask, other=0.0)


@triton.jit
def load_run(p, start, stop, first, WIDTH: tl.constexpr, UNITS: tl.constexpr, BLOCK: tl.constexpr):
    """As `load_units` for the units [start, start + UNITS), of which those from `stop` on are zeros.

    Offsets within the tile are the same for every tile, so threads need not hold an address for each row.
    """
    units = tl.arange(0, UNITS)
    columns = first + tl.arange(0, BLOCK)
    mask = (units < stop - start)[:, None]
    if WIDTH % BLOCK != 0:
        mask = mask & (columns < WIDTH)[None, :]
    base = p + start.to(tl.int64) * WIDTH
    return tl.load(base + (units[:, None] * WIDTH + columns[None, :]), mask=mask, other=0.0)


@triton.jit
def similarities(
    p,
    q,
    k,
    first_row,
    row_stop,
    first_column,
    column_stop,
    WIDTH: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """(rows, columns) dot products in float32; of the loaded `q` and `k` if one block spans the width."""
    products = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    if BLOCK_K >= WIDTH:
        products = dot(q, tl.trans(k), products, PRECISION, UPCAST)
    else:
        for first in range(0, WIDTH, BLOCK_K):
            a = load_run(p, first_row, row_stop, first, WIDTH, BLOCK_M, BLOCK_K)
            b = load_run(p, first_column, column_stop, first, WIDTH, BLOCK_N, BLOCK_K)
            products = dot(a, tl.trans(b), products, PRECISION, UPCAST)
    return products


@triton.jit(do_not_specialize=["tiles", "n_tiles"])
def contrastive_forward(
    p,
    samples,
    partner,
    lse,
    partial,
    tiles,
    n_tiles,
    other_factor,
    own_factor,
    WIDTH: tl.constexpr,
    DCL: tl.constexpr,
    FULL_DENOM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Logarithm of the summed negatives of every matched unit, and what a tile adds to its sample's means.

    Args:
        p: (U1 + U2, WIDTH) contiguous.
        samples: As `find_rows`.
        partner: (U1 + U2,) int32, row of the same unit in the other view, -1 where there is none.
        lse: (U1 + U2,) float32 out, base 2; infinity where a unit is not averaged over.
        partial: (4, n_tiles) float32 out: sum of the tile's terms, of its positive similarities, largest and
            smallest `lse`.
        tiles: Tiles of BLOCK_M rows in the largest view of a sample.
        n_tiles: 2 * B * tiles.
        other_factor, own_factor: log2(e) over the temperature, between views and within.
    """
    program = tl.program_id(0)
    _, view, first, own_stop, own_start, other_start, other_stop = find_rows(program, samples, tiles, BLOCK_M)
    if first >= own_stop:
        return
    rows = first + tl.arange(0, BLOCK_M)
    exists = rows < own_stop
    mates = tl.load(partner + rows, mask=exists, other=-1)
    matched = mates >= 0
    last_mate = tl.max(mates, 0)
    first_mate = tl.min(tl.where(matched, mates, 2147483647), 0)

    peak = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    positive = tl.zeros((BLOCK_M,), tl.float32)
    if last_mate >= 0:
        q = load_run(p, first, own_stop, 0, WIDTH, BLOCK_M, BLOCK_K)
        left_out = mates
        if not DCL:  # nothing is
            left_out = tl.full((BLOCK_M,), -1, tl.int32)
            first_mate = 2147483647
            last_mate = -1
        peak, total = _stream(
            p, q, first, own_stop, left_out, first_mate, last_mate, other_start, other_stop, other_factor,
            peak, total, WIDTH, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION, UPCAST,
        )  # fmt: skip
        if FULL_DENOM:
            peak, total = _stream(
                p, q, first, own_stop, rows, first, first + BLOCK_M - 1, own_start, own_stop, own_factor,
                peak, total, WIDTH, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION, UPCAST,
            )  # fmt: skip
        if view == 0:
            SLICE: tl.constexpr = 32 if BLOCK_K > 32 else BLOCK_K
            for column in range(0, WIDTH, SLICE):
                a = load_units(p, rows, matched, column, WIDTH, SLICE).to(tl.float32)
                b = load_units(p, mates, matched, column, WIDTH, SLICE).to(tl.float32)
                positive += tl.sum(a * b, 1)

    # A NaN total is no reason to leave a unit out: its sample's loss is NaN then.
    counted = matched & (total != 0.0)
    logs = peak + tl.log2(tl.where(counted, total, 1.0))
    tl.store(lse + rows, tl.where(counted, logs, float("inf")), mask=exists)
    count = other_stop - other_start
    if FULL_DENOM:
        count += own_stop - own_start
    terms = tl.where(counted, logs - tl.log2(count.to(tl.float32)), 0.0) * 0.6931471805599453
    tl.store(partial + program, tl.sum(terms, 0))
    tl.store(partial + n_tiles + program, tl.sum(positive, 0))
    tl.store(partial + 2 * n_tiles + program, tl.max(tl.where(counted, logs, float("-inf")), 0))
    tl.store(partial + 3 * n_tiles + program, tl.min(tl.where(counted, logs, float("inf")), 0))


@triton.jit
def _stream(
    p,
    q,
    first_row,
    row_stop,
    excluded,
    first_excluded,
    last_excluded,
    start,
    stop,
    factor,
    peak,
    total,
    WIDTH: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Add units [start, stop) to the running maximum and sum of every row, but for its excluded one."""
    for step in range(0, stop - start, BLOCK_N):
        column = start + step
        columns = column + tl.arange(0, BLOCK_N)
        k = q
        if BLOCK_K >= WIDTH:
            k = load_run(p, column, stop, 0, WIDTH, BLOCK_N, BLOCK_K)
        scores = similarities(
            p, q, k, first_row, row_stop, column, stop,
            WIDTH, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION, UPCAST,
        ) * factor  # fmt: skip
        # Most tiles hold no excluded pair and no end: the comparison of every score is saved.
        touched = (column <= last_excluded) & (column + BLOCK_N > first_excluded)
        if touched | (column + BLOCK_N > stop):
            kept = (columns < stop)[None, :] & (columns[None, :] != excluded[:, None])
            scores = tl.where(kept, scores, float("-inf"))
        higher = tl.maximum(peak, tl.max(scores, 1))
        shift = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp2(peak - shift) + tl.sum(tl.exp2(scores - shift[:, None]), 1)
        peak = higher
    return peak, total


@triton.jit(do_not_specialize=["tiles", "n_tiles"])
def contrastive_finish(
    samples,
    partial,
    numerator,
    denominator,
    shift,
    tiles,
    n_tiles,
    inverse_tau,
    BLOCK_M: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Add up the tiles of a sample, always in the same order.

    Args:
        numerator, denominator: (B,) float32 out.
        shift: (2, B) float32 out: largest `lse` of the sample, and how far below it the smallest is.
    """
    slot = tl.program_id(0)
    entry = samples + slot * 6
    pairs = tl.load(entry + 4)
    sample = tl.load(entry + 5)
    terms = tl.zeros((BLOCK,), tl.float32)
    positive = tl.zeros((BLOCK,), tl.float32)
    high = tl.full((BLOCK,), float("-inf"), tl.float32)
    low = tl.full((BLOCK,), float("inf"), tl.float32)
    for view in range(0, 2):
        units = tl.load(entry + 2 * view + 1) - tl.load(entry + 2 * view)
        used = (units + BLOCK_M - 1) // BLOCK_M
        for first in range(0, used, BLOCK):
            tile = first + tl.arange(0, BLOCK)
            mask = tile < used
            place = partial + (slot * 2 + view) * tiles + tile
            terms += tl.load(place, mask=mask, other=0.0)
            positive += tl.load(place + n_tiles, mask=mask, other=0.0)
            high = tl.maximum(high, tl.load(place + 2 * n_tiles, mask=mask, other=float("-inf")))
            low = tl.minimum(low, tl.load(place + 3 * n_tiles, mask=mask, other=float("inf")))
    divisor = tl.maximum(pairs, 1).to(tl.float32)
    numer = (1.0 - tl.sum(positive, 0) / divisor) * inverse_tau
    tl.store(numerator + sample, tl.where(pairs > 0, numer, 0.0))
    tl.store(denominator + sample, tl.sum(terms, 0) / (2.0 * divisor))
    highest = tl.max(high, 0)
    nobody = highest == float("-inf")
    tl.store(shift + sample, tl.where(nobody, 0.0, highest))
    tl.store(shift + tl.num_programs(0) + sample, tl.where(nobody, 0.0, highest - tl.min(low, 0)))
