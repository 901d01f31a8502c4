"""Backward kernel of the contrastive loss: the gradient of every unit, scores recomputed.

Unit i pulls on unit j as a query, with weight exp(s - lse_i), and as a key of query j, with exp(s - lse_j).
Scores being symmetric, the program that owns row i adds both, and nothing is transposed or added atomically.
With c the largest `lse` of the sample both weights are exp(s - c) * (exp(c - lse_i) + exp(c - lse_j)): one
exponential a pair. That is exact as long as the `lse` of a sample do not lie too far apart for float32;
where they do, two exponentials are taken.
"""

from __future__ import annotations

import triton
import triton.language as tl

from nuclr_kernels.contrastive.forward_kernel import find_rows, load_run, load_units, similarities
from nuclr_kernels.triton_math import dot

# In powers of two. Weights below 2^(80 - 126) of the largest are lost to underflow; 2^80 does not overflow.
MAX_SPREAD = tl.constexpr(80.0)

# What a row leaves out of its sums.
NOBODY, ITSELF, PARTNER = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit(do_not_specialize=["tiles", "n_samples"])
def contrastive_backward(
    p,
    samples,
    partner,
    lse,
    shift,
    dnumerator,
    ddenominator,
    dp,
    tiles,
    n_samples,
    other_factor,
    own_factor,
    inverse_tau,
    inverse_self_tau,
    WIDTH: tl.constexpr,
    DCL: tl.constexpr,
    FULL_DENOM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BOOST: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """A program owns BLOCK_M rows and BLOCK_D columns of the gradient.

    Args:
        p, samples, partner, lse, tiles: As `contrastive_forward`.
        shift: (2, B) float32, as `contrastive_finish` left it.
        dnumerator, ddenominator: (B,) float32 contiguous.
        dp: (U1 + U2, WIDTH) contiguous out.
        inverse_tau, inverse_self_tau: The factors without log2(e).
        BOOST: What all weights are multiplied by while they have the operands' dtype: in float16 one of
            100,000 equal weights would be subnormal. `lse` comes lowered by its logarithm to base 2.
    """
    slot, view, first, own_stop, own_start, other_start, other_stop = find_rows(
        tl.program_id(0), samples, tiles, BLOCK_M
    )
    if first >= own_stop:
        return
    slice_start = tl.program_id(1) * BLOCK_D
    pairs = tl.load(samples + slot * 6 + 4)
    sample = tl.load(samples + slot * 6 + 5)
    rows = first + tl.arange(0, BLOCK_M)
    exists = rows < own_stop
    mates = tl.load(partner + rows, mask=exists, other=-1)
    # Attraction comes first, in units of the sums to follow: behind them it would need registers of its own.
    attraction = tl.load(dnumerator + sample)
    repulsion = tl.load(ddenominator + sample)
    divisor = tl.maximum(pairs, 1).to(tl.float32)
    share = tl.where(repulsion == 0.0, inverse_tau / divisor, 2.0 * BOOST / repulsion)
    gradient = load_units(p, mates, mates >= 0, slice_start, WIDTH, BLOCK_D).to(tl.float32)
    gradient *= -attraction * share
    if (pairs > 0) & (repulsion != 0.0):
        logs = tl.load(lse + rows, mask=exists, other=float("inf"))
        peak = tl.load(shift + sample)
        spread = tl.load(shift + n_samples + sample)
        q = load_run(p, first, own_stop, 0, WIDTH, BLOCK_M, BLOCK_K)
        if spread <= MAX_SPREAD:
            gradient = _pull(
                p, q, lse, partner, gradient, logs, peak, first, own_start, own_stop, other_start,
                other_stop, slice_start, other_factor, own_factor, inverse_tau, inverse_self_tau, True,
                WIDTH, DCL, FULL_DENOM, BLOCK_M, BLOCK_N, BLOCK_K, BLOCK_D, BOOST, PRECISION, UPCAST,
            )  # fmt: skip
        else:
            gradient = _pull(
                p, q, lse, partner, gradient, logs, peak, first, own_start, own_stop, other_start,
                other_stop, slice_start, other_factor, own_factor, inverse_tau, inverse_self_tau, False,
                WIDTH, DCL, FULL_DENOM, BLOCK_M, BLOCK_N, BLOCK_K, BLOCK_D, BOOST, PRECISION, UPCAST,
            )  # fmt: skip
        gradient *= repulsion / (2.0 * divisor)
    # Rows told from what is read once more. Those from above would be kept through the loops, which have no
    # register to spare.
    start = tl.load(samples + slot * 6 + 2 * view, volatile=True)
    rows = start + (first - own_start) + tl.arange(0, BLOCK_M)
    columns = slice_start + tl.arange(0, BLOCK_D)
    tl.store(
        dp + (rows.to(tl.int64) * WIDTH)[:, None] + columns[None, :],
        gradient.to(dp.dtype.element_ty),
        mask=(rows < own_stop)[:, None] & (columns < WIDTH)[None, :],
    )


@triton.jit
def _pull(
    p,
    q,
    lse,
    partner,
    gradient,
    logs,
    peak,
    first,
    own_start,
    own_stop,
    other_start,
    other_stop,
    slice_start,
    other_factor,
    own_factor,
    inverse_tau,
    inverse_self_tau,
    ONE_EXP: tl.constexpr,
    WIDTH: tl.constexpr,
    DCL: tl.constexpr,
    FULL_DENOM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BOOST: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Weighted sums of all units, divided by the temperatures."""
    gradient = _weigh(
        p, q, lse, partner, gradient, first, own_stop, logs, peak, other_start, other_stop, slice_start,
        other_factor, ONE_EXP, PARTNER if DCL else NOBODY,
        WIDTH, BLOCK_M, BLOCK_N, BLOCK_K, BLOCK_D, PRECISION, UPCAST,
    )  # fmt: skip
    gradient *= inverse_tau / BOOST
    if FULL_DENOM:
        gradient *= BOOST / inverse_self_tau
        gradient = _weigh(
            p, q, lse, partner, gradient, first, own_stop, logs, peak, own_start, own_stop, slice_start,
            own_factor, ONE_EXP, ITSELF,
            WIDTH, BLOCK_M, BLOCK_N, BLOCK_K, BLOCK_D, PRECISION, UPCAST,
        )  # fmt: skip
        gradient *= inverse_self_tau / BOOST
    return gradient


@triton.jit
def _weigh(
    p,
    q,
    lse,
    partner,
    gradient,
    first_row,
    row_stop,
    logs,
    peak,
    start,
    stop,
    slice_start,
    factor,
    ONE_EXP: tl.constexpr,
    LEFT_OUT: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Add units [start, stop), each with its weight, but for the one that every row leaves out.

    Units behind the end are zeros, so whatever weight they get adds nothing.
    """
    rows = first_row + tl.arange(0, BLOCK_M)
    row_weight = tl.exp2(peak - logs)
    for step in range(0, stop - start, BLOCK_N):
        column = start + step
        columns = column + tl.arange(0, BLOCK_N)
        # One load serves both products if a block spans the width.
        k = load_run(p, column, stop, slice_start, WIDTH, BLOCK_N, BLOCK_D)
        scores = similarities(
            p, q, k, first_row, row_stop, column, stop,
            WIDTH, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION, UPCAST,
        ) * factor  # fmt: skip
        column_logs = tl.load(lse + columns, mask=columns < stop, other=float("inf"))
        if ONE_EXP:
            # Above `peak` are only pairs of two units that nobody averages over; their weights are zero.
            column_weight = tl.exp2(peak - column_logs)
            weights = tl.exp2(tl.minimum(scores - peak, 0.0))
            weights = weights * (row_weight[:, None] + column_weight[None, :])
        else:
            weights = tl.exp2(scores - logs[:, None]) + tl.exp2(scores - column_logs[None, :])
        # Asking first whether the tile holds such a pair would save comparing, but takes registers to spill;
        # so would rows that hold their partners. Columns know them as well.
        if LEFT_OUT == ITSELF:
            weights = tl.where(columns[None, :] != rows[:, None], weights, 0.0)
        else:
            column_mates = tl.load(partner + columns, mask=columns < stop, other=-1)
            # A comparison that always holds takes fewer registers than none.
            taboo = rows if LEFT_OUT == PARTNER else -2 - rows
            weights = tl.where(column_mates[None, :] != taboo[:, None], weights, 0.0)
        gradient = dot(weights.to(k.dtype), k, gradient, PRECISION, UPCAST)
    return gradient
