"""When a recording is valid: observation intervals, or what was said, without the invalid times."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import ReaderError, ReadOptions
from nuclr_nwb.spikes import merge, ragged_ends
from nuclr_nwb.tree import Tree, join

_INVALID = "/intervals/invalid_times"
_ROUNDING_S = 1e-6

_SAY = "Repair the file, or say when the recording ran: --segment-starts 0 --duration SECONDS."
_DELETE = f"Repair the file, or delete {_INVALID[1:]}."


def invalid_times(tree: Tree) -> NDArray[np.float64]:
    """(M, 2) float64 seconds, merged; (0, 2) when the file names none.

    Raises:
        ReaderError: Not finite, or reversed; a link that leads nowhere.
    """
    target = tree.broken_link(_INVALID)
    if target is not None:
        raise ReaderError(
            f"{tree.place}:{_INVALID} is a link to {target}: which times count is not known.",
            f"Put the linked file back where {tree.place.name} expects it.",
        )
    if not tree.is_group(_INVALID):
        return np.empty((0, 2))
    edges = [
        tree.array(join(_INVALID, name)).numbers("times").astype(np.float64)
        for name in ("start_time", "stop_time")
    ]
    if len(edges[0]) != len(edges[1]):
        raise ReaderError(
            f"{tree.place}:{_INVALID} has {len(edges[0])} starts and {len(edges[1])} ends.",
            _DELETE,
        )
    intervals = np.stack(edges, axis=1)
    intervals = _checked(intervals, f"{tree.place}:{_INVALID}", _DELETE)
    # One without length takes nothing away, but would cut an interval in two.
    return merge(intervals[intervals[:, 1] > intervals[:, 0]])


def _checked(intervals: NDArray[np.float64], place: str, fix: str) -> NDArray[np.float64]:
    broken = ~np.isfinite(intervals).all(axis=1) | (intervals[:, 1] < intervals[:, 0])
    if broken.any():
        row = int(np.argmax(broken))
        raise ReaderError(
            f"{place}: {int(broken.sum())} of {len(intervals)} intervals are reversed or not finite, first "
            f"number {row}: {intervals[row, 0]:.9g} to {intervals[row, 1]:.9g} s.",
            fix,
        )
    return intervals


def _refuse_overlap(intervals: NDArray[np.float64], rows: NDArray[np.int64], place: str) -> None:
    """Nobody observes a unit twice at a time: the times, or the index, are wrong.

    Stretches that touch may overlap by what rounding makes of the time between them.
    """
    order = np.lexsort((intervals[:, 0], rows))
    sorted_rows, ordered = rows[order], intervals[order]
    twice = (sorted_rows[1:] == sorted_rows[:-1]) & (ordered[1:, 0] < ordered[:-1, 1] - _ROUNDING_S)
    if twice.any():
        at = int(np.argmax(twice))
        raise ReaderError(
            f"{place}: {int(twice.sum())} of {len(intervals)} intervals overlap one of the same unit, "
            f"first {ordered[at, 0]:.9g} to {ordered[at, 1]:.9g} s and {ordered[at + 1, 0]:.9g} to "
            f"{ordered[at + 1, 1]:.9g} s.",
            _SAY,
        )


def subtract(intervals: NDArray[np.float64], gone: NDArray[np.float64]) -> NDArray[np.float64]:
    """Parts of `intervals` that lie in none of `gone`; both sorted and disjoint."""
    rest: list[tuple[float, float]] = []
    for begin, end in intervals.tolist():
        at = begin
        for first, last in gone.tolist():
            if last <= at or first >= end:
                continue
            if first > at:
                rest.append((at, first))
            at = max(at, last)
        if at < end:
            rest.append((at, end))
    return np.array(rest, dtype=np.float64).reshape(-1, 2)


def declared(options: ReadOptions, place: str, last_s: float) -> NDArray[np.float64] | None:
    """Intervals that the user stated with --segment-starts and --duration, None when neither is given.

    Args:
        options: What was said.
        place: For messages.
        last_s: Time of the last spike.

    Raises:
        ReaderError: Not as many lengths as starts, overlapping, or not finite.
    """
    starts, lengths = options.segment_starts_s, options.duration_s
    if not starts and not lengths:
        return None
    starts = starts or (0.0,)
    if not lengths and len(starts) == 1:
        lengths = (last_s - starts[0],)
    if len(starts) != len(lengths):
        raise ReaderError(
            f"{place}: --segment-starts has {len(starts)} values, --duration {len(lengths)}.",
            "Times of NWB files are absolute: give each stretch its start and its length.",
        )
    if not all(math.isfinite(value) for value in (*starts, *lengths)) or min(lengths) <= 0:
        raise ReaderError(
            f"{place}: --segment-starts {list(starts)} and --duration {list(lengths)} are no times.",
            "Give seconds; lengths are above 0.",
        )
    edges = np.array([[start, start + length] for start, length in zip(starts, lengths, strict=True)])
    if (edges[1:, 0] < edges[:-1, 1]).any():
        raise ReaderError(
            f"{place}: the stretches of --segment-starts and --duration overlap.", "Correct them."
        )
    return edges


def observation_intervals(
    tree: Tree, path: str, kept: NDArray[np.bool_], notes: list[str], warnings: list[str]
) -> NDArray[np.float64] | None:
    """Union over units of ``obs_intervals``; None when the table has none.

    Args:
        tree: The file.
        path: Of the units table.
        kept: (N,) units that are read.
        notes, warnings: Gain a sentence where units were observed at different times.

    Raises:
        ReaderError: Broken index, a link that leads nowhere, or intervals that are reversed or not finite.
    """
    at = join(path, "obs_intervals")
    if not tree.has_array(at):
        target = tree.broken_link(at)
        if target is not None:
            raise ReaderError(
                f"{tree.place}:{at} is a link to {target}: when the units were observed is not known.",
                f"Put the linked file back where {tree.place.name} expects it.",
            )
        return None
    array = tree.array(at)
    if len(array.shape) != 2 or array.shape[1] != 2 or array.dtype is None or array.dtype.kind not in "iuf":
        raise ReaderError(f"{array.place} has shape {array.shape}, expected (M, 2) numbers.", "Repair it.")
    intervals = array.all().astype(np.float64)
    ends = ragged_ends(tree, at, len(kept), len(intervals))
    counts = np.diff(ends, prepend=0)
    intervals = intervals[np.repeat(kept, counts)]
    if not len(intervals):
        return None
    _checked(intervals, array.place, _SAY)
    rows = np.repeat(np.arange(int(kept.sum())), counts[kept])
    # One without length is no observation, wherever it lies.
    intervals, rows = intervals[intervals[:, 1] > intervals[:, 0]], rows[intervals[:, 1] > intervals[:, 0]]
    if not len(intervals):
        raise ReaderError(
            f"{array.place}: none of its intervals has any length.",
            "Say when the recording ran: --segment-starts 0 --duration SECONDS.",
        )
    _refuse_overlap(intervals, rows, array.place)
    union = merge(intervals)
    seconds = float((union[:, 1] - union[:, 0]).sum())
    observed = np.bincount(rows, intervals[:, 1] - intervals[:, 0], minlength=int(kept.sum()))
    partly = int((observed < seconds * (1 - 1e-6)).sum())
    if partly:
        warnings.append(
            f"{partly} of {int(kept.sum())} units were observed for less than the {seconds:g} s of the whole "
            "recording (obs_intervals differ); outside their own intervals they count as silent."
        )
    return union
