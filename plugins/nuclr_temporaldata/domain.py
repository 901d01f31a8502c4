"""When a recording is valid: the Intervals of a temporaldata file, checked and intersected."""

from __future__ import annotations

import h5py
import numpy as np
from numpy.typing import NDArray

from nuclr_temporaldata.hdf5 import damaged, dataset, subgroup, values

_SAME_S = 1e-6


def valid_intervals(
    file: h5py.File, series: h5py.Group, notes: list[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """When both the file and the series are valid.

    The root's ``domain`` may leave out parts of the series (invalid times, the end of a session), and it may
    reach beyond it (where behaviour was recorded longer): a time in which nobody looked is not silence.

    Args:
        file: The file; its ``domain`` counts where it is there.
        series: ``spikes`` or ``calcium_traces``.
        notes: What was assumed is added here.

    Returns:
        (M, 2) float64 seconds, sorted and disjoint, and those of the series alone (None = it has none).

    Raises:
        ReaderError: No domain at all, or one that is broken or empty.
    """
    name = series.name.lstrip("/")
    root_group, own_group = subgroup(file, "domain"), subgroup(series, "domain")
    root = None if root_group is None else read_intervals(root_group, notes)
    own = None if own_group is None else read_intervals(own_group, notes)
    if root is None and own is None:
        damaged(file, f"has neither a group 'domain' nor '{name}/domain': nothing says when it is valid")
    if root is None or own is None:
        present, absent = ("domain", f"{name}/domain") if own is None else (f"{name}/domain", "domain")
        notes.append(f"There is no {absent!r}; {present!r} says when the recording is valid.")
        return (own if root is None else root), own  # type: ignore[return-value]
    both = intersection(root, own)
    if len(both) == 0:
        damaged(
            file,
            f"says it is valid from {_span(root)} ('domain'), its {name} from {_span(own)}: never both",
            "Correct 'domain' in the file.",
        )
    if abs(_seconds(root) - _seconds(own)) > _SAME_S or abs(_seconds(both) - _seconds(own)) > _SAME_S:
        notes.append(
            f"The recording is valid where both 'domain' ({_seconds(root):g} s) and '{name}/domain' "
            f"({_seconds(own):g} s) are: {_seconds(both):g} s."
        )
    return both, own


def read_intervals(group: h5py.Group, notes: list[str]) -> NDArray[np.float64]:
    """(M, 2) float64 seconds of an Interval: sorted; touching ones are one.

    Raises:
        ReaderError: Not finite, reversed, overlapping, or none of any length.
    """
    columns = []
    for name in ("start", "end"):
        column = values(dataset(group, name))
        if column.ndim != 1 or column.dtype.kind not in "iuf":
            damaged(group, f"has {name!r} of shape {column.shape} and type {column.dtype}, expected seconds")
        columns.append(column.astype(np.float64))
    start, end = columns
    if len(start) != len(end):
        damaged(group, f"has {len(start)} starts and {len(end)} ends")
    fix = "Correct it in the file."
    if (bad := ~(np.isfinite(start) & np.isfinite(end))).any():
        damaged(group, f"has {int(bad.sum())} of {len(start)} intervals that are NaN or infinite", fix)
    if (bad := end < start).any():
        row = int(np.argmax(bad))
        damaged(
            group,
            f"has {int(bad.sum())} of {len(start)} intervals that end before they start (the first is number "
            f"{row}: {start[row]:g} to {end[row]:g} s)",
            fix,
        )
    edges = np.stack([start, end], axis=1)
    long = edges[end > start]
    place = group.name.lstrip("/")
    if len(long) < len(edges):
        notes.append(f"{len(edges) - len(long)} of {len(edges)} intervals of {place!r} have no length.")
    if len(long) == 0:
        damaged(group, "has no interval of any length", fix)
    ordered = long[np.argsort(long[:, 0], kind="stable")]
    if not np.array_equal(ordered, long):
        notes.append(f"The intervals of {place!r} were not in order; they were sorted.")
    if (bad := ordered[1:, 0] < ordered[:-1, 1]).any():
        row = int(np.argmax(bad))
        damaged(
            group,
            f"has {int(bad.sum())} intervals that start before the one before them ends (at "
            f"{ordered[row + 1, 0]:g} s)",
            fix,
        )
    begins = np.r_[True, ordered[1:, 0] > ordered[:-1, 1]]
    if not begins.all():
        notes.append(f"{int((~begins).sum())} intervals of {place!r} touch the one before; they were joined.")
    return np.stack([ordered[begins, 0], ordered[np.r_[begins[1:], True], 1]], axis=1)


def intersection(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """(K, 2) seconds in both of two sorted, disjoint sets of intervals."""
    found = []
    for start, end in a:
        first, last = np.searchsorted(b[:, 1], start, "right"), np.searchsorted(b[:, 0], end, "left")
        for other_start, other_end in b[first:last]:
            found.append((max(start, other_start), min(end, other_end)))
    both = np.array(found, dtype=np.float64).reshape(-1, 2)
    return both[both[:, 1] > both[:, 0]]


def inside(times: NDArray[np.float64], intervals: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(S,) which of the sorted `times` lie in an interval, both ends included."""
    first = np.searchsorted(times, intervals[:, 0], "left")
    last = np.searchsorted(times, intervals[:, 1], "right")
    change = np.zeros(len(times) + 1, dtype=np.int64)
    np.add.at(change, first, 1)
    np.add.at(change, last, -1)
    return np.cumsum(change[:-1]) > 0


def _seconds(intervals: NDArray[np.float64]) -> float:
    return float((intervals[:, 1] - intervals[:, 0]).sum())


def _span(intervals: NDArray[np.float64]) -> str:
    return f"{intervals[0, 0]:g} to {intervals[-1, 1]:g} s"
