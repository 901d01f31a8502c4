"""Embeddings of a session's units, added up over windows: all of them, and by half of the recording.

Sums of stretches of windows are made anywhere and then added in the order of time, so that no bit of the
result depends on who made them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.data.batch import EvaluationBatch
from nuclr_cli.data.store import Session
from nuclr_cli.data.tokens import TokenSpec
from nuclr_cli.data.windows import evaluation_windows
from nuclr_cli.evaluation.diagnostics import Halves

_SLACK_S = 1e-6


@dataclass(frozen=True)
class HalfCut:
    """Where a recording is cut in two: at the start of its middle window.

    A window that reaches over the cut belongs to neither half, so that no spike is in both.

    Attributes:
        cut_s: The cut, seconds.
        end_s: End of the last window.
        window_s: Length of a window.
    """

    cut_s: float
    end_s: float
    window_s: float

    def holds(self, starts_s: NDArray[np.float64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which windows lie in the first half, and which in the second."""
        return (
            starts_s + self.window_s <= self.cut_s + _SLACK_S,
            starts_s >= self.cut_s - _SLACK_S,
        )


def half_cut(session: Session, tokens: TokenSpec, *, limit_s: float | None = None) -> HalfCut:
    """Where `session` is cut; arguments as `nuclr_cli.data.windows.evaluation_windows`."""
    starts = sorted(evaluation_windows(session, tokens, limit_s=limit_s))
    window_s = tokens.of(session.modality).window_s
    if not starts:
        return HalfCut(0.0, 0.0, window_s)
    return HalfCut(starts[len(starts) // 2], starts[-1] + window_s, window_s)


class WindowSums:
    """Sums over some windows of a session of N units.

    Attributes:
        sums: (P, N, D) float64: of all windows, and where halves are asked for of those in either half.
        counts: (P, N) windows in which each unit was active.
    """

    def __init__(self, n_units: int, dim: int, cut: HalfCut | None) -> None:
        self._cut = cut
        parts = 1 if cut is None else 3
        self.sums = np.zeros((parts, n_units, dim))
        self.counts = np.zeros((parts, n_units), dtype=np.int64)

    def add(self, batch: EvaluationBatch, embedded: NDArray[np.float64]) -> None:
        """Take in some windows.

        Args:
            batch: The windows.
            embedded: (U, D) embedding of every unit in them.
        """
        rows = batch.views.ids.numpy()
        self._add(0, rows, embedded)
        if self._cut is None:
            return
        starts_s = np.repeat(batch.starts_s, batch.views.units_per_population.numpy())
        for part, held in enumerate(self._cut.holds(starts_s), start=1):
            self._add(part, rows[held], embedded[held])

    def _add(self, part: int, rows: NDArray[np.int64], embedded: NDArray[np.float64]) -> None:
        np.add.at(self.sums[part], rows, embedded)
        np.add.at(self.counts[part], rows, 1)

    def take_in(self, later: WindowSums) -> None:
        """Add the sums of later windows of the same session."""
        self.sums += later.sums
        self.counts += later.counts


def added_up(parts: Iterable[WindowSums]) -> WindowSums:
    """The sum of at least one part, in the order given; the first is changed."""
    following = iter(parts)
    first = next(following)
    for later in following:
        first.take_in(later)
    return first


def halves_of(sums: WindowSums, rates: NDArray[np.float64]) -> Halves:
    """Embeddings from the halves of a recording; NaN rows for units that no window of a half had.

    Args:
        sums: Of all windows.
        rates: From `half_rates`.
    """
    with np.errstate(invalid="ignore"):
        means = sums.sums[1:] / sums.counts[1:, :, None]
    return Halves(means[0], means[1], rates[0], rates[1])


def half_rates(session: Session, cut: HalfCut) -> NDArray[np.float64]:
    """(2, N) activity per second in the halves of a recording: spikes, or mean dF/F."""
    start_s = float(session.intervals[0, 0])
    return np.stack([_activity(session, start_s, cut.cut_s), _activity(session, cut.cut_s, cut.end_s)])


def _activity(session: Session, start_s: float, end_s: float) -> NDArray[np.float64]:
    """(N,) spikes per second, or mean dF/F, between two times."""
    if session.modality == "calcium":
        traces = session.calcium
        low, high = np.searchsorted(traces.timestamps, (start_s, end_s))
        if high <= low:
            return np.zeros(session.n_units)
        return np.asarray(traces.values[low:high].mean(axis=0, dtype=np.float64))
    intervals = session.intervals
    overlap = np.minimum(intervals[:, 1], end_s) - np.maximum(intervals[:, 0], start_s)
    seconds = float(np.maximum(overlap, 0.0).sum())
    counts = np.bincount(session.spikes_between(start_s, end_s)[1], minlength=session.n_units)
    return counts / max(seconds, _SLACK_S)
