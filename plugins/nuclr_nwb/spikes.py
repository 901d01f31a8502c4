"""Spike times of a units table, read as the flat array they are stored as."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import ReaderError, Spikes
from nuclr_nwb.tree import COPY_AGAIN, Array, Tree, join

_NAMED = 5
_BLOCK = 1 << 20
_COARSEST_S = 1e-4


@dataclass(frozen=True)
class UnitTimes:
    """Spikes ordered by unit, sorted within each.

    Attributes:
        times: (S,) float64 seconds.
        ends: (N,) int64; the spikes of row i are ``times[ends[i - 1] : ends[i]]``.
        warnings: For the user.
    """

    times: NDArray[np.float64]
    ends: NDArray[np.int64]
    warnings: tuple[str, ...] = ()


def ragged_ends(tree: Tree, path: str, n_rows: int, n_values: int) -> NDArray[np.int64]:
    """(N,) int64 end of every row of a ragged column.

    Args:
        tree: The file.
        path: Of the column; its index stands beside it.
        n_rows: Rows of the table.
        n_values: Length of the column.

    Raises:
        ReaderError: The index is missing, has another length, decreases or ends elsewhere.
    """
    array = tree.array(f"{path}_index")
    # Cast first: the index is stored as uint8 to uint64, whose differences wrap around.
    stored = array.numbers("row ends", kinds="iu")
    ends = stored.astype(np.int64)
    if len(ends) != n_rows:
        raise ReaderError(f"{array.place} has {len(ends)} entries for {n_rows} rows.", COPY_AGAIN)
    back = np.flatnonzero(np.diff(ends, prepend=0) < 0)
    if len(back):
        row = int(back[0])
        raise ReaderError(
            f"{array.place} decreases {len(back)} times, first in row {row} (to {int(ends[row])}): spikes "
            "would land on the wrong units.",
            "Export the file again with the program that made it.",
        )
    last = int(ends[-1]) if n_rows else 0
    if last != n_values:
        raise ReaderError(
            f"{array.place} ends at {last}, but {path} holds {n_values} values.",
            "The file is incomplete or its index is wrong: export it again.",
        )
    return ends


def read_times(tree: Tree, path: str, ids: NDArray[np.str_], kept: NDArray[np.bool_]) -> UnitTimes:
    """Read and check all spike times at once; keep those of some units.

    Args:
        tree: The file.
        path: Of the units table.
        ids: (N,) of all units.
        kept: (N,) which units to keep.

    Raises:
        ReaderError: No spike times, a broken index, NaN, or times that go back within a unit.
    """
    at = join(path, "spike_times")
    array = tree.array(at)
    if len(array.shape) != 1 or array.dtype is None or array.dtype.kind != "f":
        raise ReaderError(
            f"{array.place} has type {array.dtype or 'text or objects'} and shape {array.shape}, expected "
            "floats, one-dimensional.",
            "Spike times are seconds, one after the other; export the file again.",
        )
    ends = ragged_ends(tree, at, len(ids), array.shape[0])
    counts = np.diff(ends, prepend=0)
    times = _flat(array)
    if not kept.all():
        times = times[np.repeat(kept, counts)]
        counts, ids = counts[kept], ids[kept]
        ends = np.cumsum(counts)
    _refuse(array.place, times, ends, ids)
    return UnitTimes(times, ends, _resolution_warnings(array, times))


def _flat(array: Array) -> NDArray[np.float64]:
    times = np.empty(array.shape[0], dtype=np.float64)
    for begin, block in array.blocks():
        times[begin : begin + len(block)] = block
    return times


def _refuse(place: str, times: NDArray[np.float64], ends: NDArray[np.int64], ids: NDArray[np.str_]) -> None:
    """NaN and disorder, in blocks: the whole comparison would cost as much memory as the spikes."""
    broken: list[NDArray[np.int64]] = []
    back: list[NDArray[np.int64]] = []
    for begin in range(0, len(times), _BLOCK):
        block = times[max(begin - 1, 0) : begin + _BLOCK]
        first = max(begin - 1, 0)
        if not np.isfinite(block).all():
            broken.append(np.flatnonzero(~np.isfinite(block)) + first)
        steps = np.flatnonzero(block[1:] < block[:-1]) + first + 1
        back.append(steps[~np.isin(steps, ends)])  # the first spike of the next unit may be earlier
    if broken:
        where = np.unique(np.concatenate(broken))
        raise ReaderError(
            f"{place}: {len(where)} of {len(times)} spike times are NaN or infinite, of "
            f"{_units_of(where, ends, ids)}.",
            "Repair the file: a spike without a time cannot be used.",
        )
    inversions = np.concatenate(back) if back else np.empty(0, dtype=np.int64)
    if len(inversions):
        raise ReaderError(
            f"{place}: {len(inversions)} spike times are earlier than the spike before of the same unit, in "
            f"{_units_of(inversions, ends, ids)}.",
            "That usually means a broken index, not a mere wrong order; export the file again.",
        )


def _units_of(positions: NDArray[np.int64], ends: NDArray[np.int64], ids: NDArray[np.str_]) -> str:
    """``2 units ('a' 3 times, 'b' once)`` of the spikes at some positions."""
    rows, counts = np.unique(np.searchsorted(ends, positions, side="right"), return_counts=True)
    named = ", ".join(
        f"{str(ids[row])!r} {n} time{'s' * (n != 1)}"
        for row, n in zip(rows[:_NAMED].tolist(), counts[:_NAMED].tolist(), strict=True)
    )
    return f"{len(rows)} unit{'s' * (len(rows) != 1)} ({named}{', ...' if len(rows) > _NAMED else ''})"


def _resolution_warnings(array: Array, times: NDArray[np.float64]) -> tuple[str, ...]:
    if array.dtype is None or array.dtype.itemsize >= 8 or not len(times):
        return ()
    farthest = np.asarray(np.abs(times).max(), dtype=array.dtype)
    step_s = float(np.spacing(farthest))
    if step_s < _COARSEST_S:
        return ()
    return (
        f"{array.place} is stored as {array.dtype}: at {float(farthest):g} s its times are "
        f"{step_s * 1e3:.2g} ms apart.",
    )


def refuse_negative(
    place: str, unit_times: UnitTimes, ids: NDArray[np.str_], intervals: NDArray[np.float64]
) -> None:
    """Negative times are legal only in a recording that is said to begin below 0.

    Raises:
        ReaderError: Some are negative although the first interval begins at 0 or later.
    """
    if len(intervals) and intervals[0, 0] < 0:
        return
    negative = np.flatnonzero(unit_times.times < 0)
    if len(negative):
        raise ReaderError(
            f"{place}: {len(negative)} of {len(unit_times.times)} spike times are negative (the first is "
            f"{float(unit_times.times.min()):g} s), of {_units_of(negative, unit_times.ends, ids)}.",
            "If the recording begins before 0, say when: --segment-starts=-10, for example.",
        )


def in_time_order(unit_times: UnitTimes, intervals: NDArray[np.float64]) -> tuple[Spikes, int]:
    """Spikes of all units, sorted by time, and how many lay outside the intervals and were left out."""
    times, ends = unit_times.times, unit_times.ends
    rows = np.arange(len(ends), dtype=np.uint16 if len(ends) <= 1 << 16 else np.uint32)
    index: NDArray[np.integer[Any]] = np.repeat(rows, np.diff(ends, prepend=0))
    # Stable, so runs that are sorted already are merged, and ties stay in order of the table.
    order = np.argsort(times, kind="stable")
    times, index = times[order], index[order]
    del order
    firsts = np.searchsorted(times, intervals[:, 0], side="left")
    lasts = np.searchsorted(times, intervals[:, 1], side="right")
    # A spike on the border of two touching intervals belongs to the earlier one.
    firsts[1:] = np.maximum(firsts[1:], lasts[:-1])
    inside = int((lasts - firsts).sum())
    outside = len(times) - inside
    if outside:
        pieces = [slice(a, b) for a, b in zip(firsts.tolist(), lasts.tolist(), strict=True)]
        times = np.concatenate([times[piece] for piece in pieces])
        index = np.concatenate([index[piece] for piece in pieces])
        outside = len(unit_times.times) - len(times)
    return Spikes(times, index), outside


def rows_of(unit_times: UnitTimes, rows: NDArray[np.int64]) -> UnitTimes:
    """Spikes of some units only, in the order of `rows` (ascending)."""
    counts = np.diff(unit_times.ends, prepend=0)
    chosen = np.zeros(len(counts), dtype=np.bool_)
    chosen[rows] = True
    if chosen.all():
        return unit_times
    return UnitTimes(unit_times.times[np.repeat(chosen, counts)], np.cumsum(counts[chosen]))


def merge(intervals: NDArray[Any]) -> NDArray[np.float64]:
    """Union of intervals: sorted, disjoint, touching ones joined.

    Args:
        intervals: (M, 2) seconds, finite, in any order.
    """
    edges: NDArray[np.float64] = np.asarray(intervals, dtype=np.float64)
    edges = edges[np.argsort(edges[:, 0], kind="stable")]
    if not len(edges):
        return edges
    reach = np.maximum.accumulate(edges[:, 1])
    new = np.r_[True, edges[1:, 0] > reach[:-1]]
    begins = np.flatnonzero(new)
    return np.stack([edges[begins, 0], np.maximum.reduceat(edges[:, 1], begins)], axis=1)
