"""Where windows lie: random tiles for training, a second view near by, a full cover for evaluation.

Protocol (NuCLR, arXiv 2512.01199, official code): windows of an epoch tile each interval from a random
offset; the second view starts at most 30 s (240 s for calcium) away, anywhere valid; embedding uses windows
in sequence plus a last overlapping one, so that all of each interval is seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import Modality
from nuclr_cli.data.balance import Balance, balanced_choice, groups_of
from nuclr_cli.data.recording import Recording
from nuclr_cli.data.session import SessionKey
from nuclr_cli.data.streams import Purpose, random_order, stream
from nuclr_cli.data.tokens import TokenSpec
from nuclr_cli.errors import InputError

_SLACK_S = 1e-6
"""An interval shorter than a window by this much still holds it: its ends carry rounding errors."""


@dataclass(frozen=True)
class Window:
    """First view of a training pair.

    Attributes:
        session: Index into the list of sessions.
        start_s: Start, seconds; the length is that of the modality's tokens.
        modality: Of the session.
    """

    session: int
    start_s: float
    modality: Modality


@dataclass(frozen=True)
class SkippedSession:
    """A session that training cannot use, and why (one sentence for the user)."""

    key: SessionKey
    reason: str


class EpochWindows(Sequence[Window]):
    """Windows of one epoch in the order in which they are drawn.

    Ten thousand one-hour sessions have millions of windows: they are kept as arrays, 12 bytes each, and made
    when they are asked for.

    Args:
        session: (L,) int32 `Window.session`.
        start_s: (L,) float64 `Window.start_s`.
        modality: Of each session.
    """

    def __init__(
        self, session: NDArray[np.int32], start_s: NDArray[np.float64], modality: Sequence[Modality]
    ) -> None:
        self._session, self._start_s, self._modality = session, start_s, modality

    def __len__(self) -> int:
        return len(self._session)

    @overload
    def __getitem__(self, place: int) -> Window: ...
    @overload
    def __getitem__(self, place: slice) -> list[Window]: ...
    def __getitem__(self, place: int | slice) -> Window | list[Window]:
        if isinstance(place, slice):
            pairs = zip(self._session[place].tolist(), self._start_s[place].tolist(), strict=True)
            return [Window(session, start_s, self._modality[session]) for session, start_s in pairs]
        session = int(self._session[place])
        return Window(session, float(self._start_s[place]), self._modality[session])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EpochWindows) and self[:] == other[:]

    __hash__ = None  # type: ignore[assignment]


class TrainingWindows:
    """The windows of any epoch.

    Args:
        sessions: All sessions; `Window.session` counts in this list.
        tokens: Window lengths by modality.
        min_units: Units a view needs; a session with fewer is skipped.
        balance: Whose windows come equally often in an epoch; see `nuclr_cli.data.balance`.

    Attributes:
        usable: Indices of the sessions that have windows.
        skipped: The others.

    Raises:
        InputError: No session is usable.
    """

    def __init__(
        self,
        sessions: Sequence[Recording],
        tokens: TokenSpec,
        *,
        min_units: int = 1,
        balance: Balance = "none",
    ) -> None:
        self._modality = [session.modality for session in sessions]
        self._window_s = [tokens.of(modality).window_s for modality in self._modality]
        self._intervals: dict[int, NDArray[np.float64]] = {}
        skipped: list[SkippedSession] = []
        for number, session in enumerate(sessions):
            intervals = long_enough(session.intervals, 2 * self._window_s[number])
            if session.n_units < min_units:
                units = f"{session.n_units} unit" + ("" if session.n_units == 1 else "s")
                skipped.append(SkippedSession(session.key, f"it has {units}; a view needs {min_units}"))
            elif len(intervals) == 0:
                skipped.append(SkippedSession(session.key, _too_short(session, self._window_s[number])))
            else:
                self._intervals[number] = intervals
        self.usable: tuple[int, ...] = tuple(self._intervals)
        self.skipped: tuple[SkippedSession, ...] = tuple(skipped)
        self._group: NDArray[np.int64] | None = None
        if balance != "none":
            self._group = groups_of([session.key for session in sessions], balance)
        if not self.usable:
            raise InputError(
                f"None of {len(sessions)} sessions can be used for training. {_summary(self.skipped)}",
                "Add longer recordings or recordings of more units, or choose shorter windows.",
            )

    @property
    def expected_windows(self) -> float:
        """Mean number of windows in an epoch over all random offsets."""
        return sum(
            float(np.sum((intervals[:, 1] - intervals[:, 0]) / self._window_s[number] - 1.0))
            for number, intervals in self._intervals.items()
        )

    def epoch(self, seed: int, epoch: int) -> EpochWindows:
        """Windows of one epoch in the order in which they are drawn.

        Each interval is tiled from an offset that is uniform over one window length; the tiles do not
        overlap. Every tile comes once, unless the sessions are balanced: then as `balanced_choice` says.
        Never empty.
        """
        numbers: list[int] = []
        starts: list[NDArray[np.float64]] = []
        for number, intervals in self._intervals.items():
            window_s = self._window_s[number]
            offsets = stream(seed, epoch, number, Purpose.OFFSET).random(len(intervals)) * window_s
            for (start, end), offset in zip(intervals.tolist(), offsets.tolist(), strict=True):
                # With slack an interval of two windows may be a hair shorter, so one window is always there.
                n_tiles = max(1, math.floor((end - start - offset) / window_s))
                first = min(start + offset, end - n_tiles * window_s)
                numbers.append(number)
                starts.append(first + np.arange(n_tiles) * window_s)
        session = np.repeat(np.array(numbers, dtype=np.int32), [len(part) for part in starts])
        start_s = np.concatenate(starts)
        if self._group is not None:
            chosen = balanced_choice(self._group[session], seed, epoch)
            session, start_s = session[chosen], start_s[chosen]
        order = random_order(len(session), stream(seed, epoch, 0, Purpose.ORDER))
        return EpochWindows(session[order], start_s[order], self._modality)


def long_enough(intervals: NDArray[np.float64], length_s: float) -> NDArray[np.float64]:
    """The intervals (M, 2) that last at least `length_s` seconds."""
    kept: NDArray[np.float64] = intervals[intervals[:, 1] - intervals[:, 0] >= length_s - _SLACK_S]
    return kept


def second_start(
    window: Window,
    intervals: NDArray[np.float64],
    window_s: float,
    max_distance_s: float,
    rng: np.random.Generator,
) -> float:
    """Start of the second view, seconds: uniform over the valid starts near the first view.

    A start is valid when its whole window lies in one interval of at least two windows (shorter ones take no
    part in training) and it is at most `max_distance_s` from ``window.start_s``. Overlap with the first view
    is allowed.

    Args:
        window: The first view.
        intervals: (M, 2) seconds, sorted, disjoint.
        window_s: Window length, seconds.
        max_distance_s: Largest distance between the two starts, seconds.
        rng: One uniform number is drawn.
    """
    usable = long_enough(intervals, 2 * window_s)
    low = np.maximum(usable[:, 0], window.start_s - max_distance_s)
    high = np.minimum(usable[:, 1] - window_s, window.start_s + max_distance_s)
    reached = high >= low
    low, high = low[reached], high[reached]
    lengths = high - low
    drawn = rng.random() * float(lengths.sum())
    if len(lengths) == 0 or drawn == 0.0:  # nowhere else to go, as when max_distance_s is 0
        return window.start_s if len(lengths) == 0 else float(low[0])
    edges = np.cumsum(lengths)
    place = min(int(np.searchsorted(edges, drawn, side="right")), len(lengths) - 1)
    start = float(low[place]) + drawn - (float(edges[place - 1]) if place else 0.0)
    return min(start, float(high[place]))


def evaluation_windows(session: Recording, tokens: TokenSpec, *, limit_s: float | None = None) -> list[float]:
    """Starts, in seconds, of the windows that an embedding averages over.

    Windows follow one another; where a remainder is left, a last window ends with the interval and overlaps.
    Their union is every interval of at least one window; shorter intervals have none.

    Args:
        session: The recording.
        tokens: Window lengths by modality.
        limit_s: Use only the first so many seconds of valid time; None = all.
    """
    window_s = tokens.of(session.modality).window_s
    starts: list[float] = []
    for start, end in observed(session.intervals, window_s, limit_s).tolist():
        n_tiles = max(1, math.floor((end - start + _SLACK_S) / window_s))
        starts += [start + tile * window_s for tile in range(n_tiles)]
        last = end - window_s
        if last - starts[-1] > _SLACK_S:
            starts.append(last)
    return starts


def observed(
    intervals: NDArray[np.float64], window_s: float, limit_s: float | None = None
) -> NDArray[np.float64]:
    """(K, 2) intervals that evaluation windows cover; arguments as in `evaluation_windows`."""
    if limit_s is not None:
        lengths = intervals[:, 1] - intervals[:, 0]
        left = np.maximum(limit_s - np.concatenate(([0.0], np.cumsum(lengths)[:-1])), 0.0)
        intervals = np.stack([intervals[:, 0], intervals[:, 0] + np.minimum(lengths, left)], axis=1)
    return long_enough(intervals, window_s)


def _too_short(session: Recording, window_s: float) -> str:
    lengths = session.intervals[:, 1] - session.intervals[:, 0]
    longest = float(lengths.max()) if len(lengths) else 0.0
    return f"its longest interval lasts {longest:.6g} s; two windows need {2 * window_s:.6g} s"


def _summary(skipped: Sequence[SkippedSession], shown: int = 5) -> str:
    lines = [f"{skip.key}: {skip.reason}" for skip in skipped]
    more = f"; and {len(lines) - shown} more" if len(lines) > shown else ""
    return "; ".join(lines[:shown]) + more + "."
