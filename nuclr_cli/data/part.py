"""A part of a recording: some of its units, over some of its valid time.

What pretraining is not given it cannot reach: a part has no other unit, spike or frame.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import CalciumTraces, Modality
from nuclr_cli.data.mapping import SpikeTrain
from nuclr_cli.data.recording import Recording
from nuclr_cli.data.session import SessionKey
from nuclr_cli.data.streams import Purpose, random_order, stream
from nuclr_cli.data.writing import trace_scale


class PartOfRecording:
    """Rows and intervals of a recording, as a recording (`nuclr_cli.data.recording.Recording`) of its own.

    Args:
        whole: The recording.
        rows: (n,) int64, ascending rows of the units that are left; they are rows 0 to n - 1 of the part.
        intervals: (M, 2) float64 seconds, sorted and disjoint, within those of `whole`.
    """

    def __init__(self, whole: Recording, rows: NDArray[np.int64], intervals: NDArray[np.float64]) -> None:
        self.whole, self.rows, self._intervals = whole, rows, intervals

    def __reduce__(self) -> tuple[type[PartOfRecording], tuple[Any, ...]]:
        return PartOfRecording, (self.whole, self.rows, self._intervals)

    @property
    def key(self) -> SessionKey:
        return self.whole.key

    @property
    def modality(self) -> Modality:
        return self.whole.modality

    @property
    def n_units(self) -> int:
        return len(self.rows)

    @property
    def intervals(self) -> NDArray[np.float64]:
        """(M, 2) seconds of the part."""
        return self._intervals

    @property
    def duration_s(self) -> float:
        """Sum of the intervals' lengths."""
        return float((self._intervals[:, 1] - self._intervals[:, 0]).sum())

    @cached_property
    def _place(self) -> NDArray[np.int64]:
        """(N,) row in the part of each row of the whole, -1 = left out."""
        place = np.full(self.whole.n_units, -1, dtype=np.int64)
        place[self.rows] = np.arange(len(self.rows))
        return place

    def spikes_between(self, start_s: float, end_s: float, /) -> SpikeTrain:
        """The part's spikes with start_s <= t < end_s; outside the span of its intervals there are none."""
        first, last = self._span
        times, unit_index = self.whole.spikes_between(max(start_s, first), min(end_s, last))
        if len(self.rows) == self.whole.n_units:
            return SpikeTrain(times, unit_index)
        place = self._place[unit_index]
        kept = place >= 0
        return SpikeTrain(times[kept], place[kept])

    @property
    def calcium(self) -> CalciumTraces:
        """The part's traces. Nothing is copied before frames are asked for."""
        traces = self.whole.calcium
        # Resampling lets the nearest frame stand where a window reaches past the first or the last one.
        first, last = np.searchsorted(traces.timestamps, self._span).tolist()
        values: Any = traces.values[first:last]
        if len(self.rows) < self.whole.n_units:
            values = _Columns(values, self.rows)
        return replace(
            traces,
            values=cast(NDArray[np.float32], values),
            timestamps=traces.timestamps[first:last],
            time_offset=traces.time_offset[self.rows],
        )

    @cached_property
    def calcium_scale(self) -> float:
        """99th percentile of the part's own dF/F."""
        return trace_scale(np.asarray(self.calcium.values))

    @property
    def _span(self) -> tuple[float, float]:
        if not len(self._intervals):
            return 0.0, 0.0
        return float(self._intervals[0, 0]), float(self._intervals[-1, 1])


class _Columns:
    """Some columns of a mapped array; asking for frames copies these frames only."""

    def __init__(self, values: NDArray[np.float32], columns: NDArray[np.int64]) -> None:
        self._values, self._columns = values, columns

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, frames: slice) -> NDArray[np.float32]:
        return self._values[frames][:, self._columns]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype=dtype)


def some_units(n_units: int, share: float, least: int, seed: int, key: SessionKey) -> NDArray[np.int64]:
    """(n,) int64 ascending: a random subset of a session's rows.

    Of one seed a smaller share is always part of a larger one, whatever other sessions there are.

    Args:
        n_units: Units of the session.
        share: Of them that stay, above 0, at most 1.
        least: Units that stay at any share, as far as there are so many.
        seed, key: Name the order in which units are taken.
    """
    number = int.from_bytes(hashlib.blake2b(str(key).encode(), digest_size=8).digest(), "little") >> 1
    order = random_order(n_units, stream(seed, 0, number, Purpose.UNITS))
    wanted = math.floor(share * n_units + 0.5)
    return np.sort(order[: min(n_units, max(wanted, least, 1))])


def first_seconds(intervals: NDArray[np.float64], seconds: float) -> NDArray[np.float64]:
    """(K, 2): the first so many seconds of valid time. Fewer seconds are always part of more."""
    lengths = intervals[:, 1] - intervals[:, 0]
    left = np.maximum(seconds - (np.cumsum(lengths) - lengths), 0.0)
    # Where all of an interval stays, its end is kept as it is, to the last bit.
    ends = np.where(left >= lengths, intervals[:, 1], intervals[:, 0] + left)
    kept: NDArray[np.float64] = np.stack([intervals[:, 0], ends], axis=1)[left > 0]
    return kept


def after_seconds(intervals: NDArray[np.float64], seconds: float) -> NDArray[np.float64]:
    """(K, 2): what `first_seconds` leaves over."""
    used = first_seconds(intervals, seconds)
    starts = intervals[:, 0].copy()
    starts[: len(used)] = used[:, 1]
    kept: NDArray[np.float64] = np.stack([starts, intervals[:, 1]], axis=1)[starts < intervals[:, 1]]
    return kept
