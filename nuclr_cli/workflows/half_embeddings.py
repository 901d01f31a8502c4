"""Embeddings of the two halves of a recording, gathered from the same forward passes as the whole one's."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.data.store import Session
from nuclr_cli.data.tokens import TokenSpec
from nuclr_cli.data.windows import evaluation_windows
from nuclr_cli.evaluation.diagnostics import Halves

_SLACK_S = 1e-6


class HalfEmbeddings:
    """Adds up the windows of one session by half.

    The cut is the start of the middle window; a window that reaches over it belongs to neither half, so that
    no spike is in both.

    Args:
        session: The recording.
        tokens: Window lengths by modality.
        dim: Width of an embedding.
        limit_s: As in `nuclr_cli.data.windows.evaluation_windows`.
    """

    def __init__(
        self, session: Session, tokens: TokenSpec, dim: int, *, limit_s: float | None = None
    ) -> None:
        starts = sorted(evaluation_windows(session, tokens, limit_s=limit_s))
        self._session = session
        self._window_s = tokens.of(session.modality).window_s
        self._cut_s = starts[len(starts) // 2] if starts else 0.0
        self._end_s = starts[-1] + self._window_s if starts else 0.0
        self._sums = np.zeros((2, session.n_units, dim))
        self._counts = np.zeros((2, session.n_units), dtype=np.int64)

    def add(
        self, rows: NDArray[np.int64], embedded: NDArray[np.float64], start_s: NDArray[np.float64]
    ) -> None:
        """Take in the units of some windows.

        Args:
            rows: (U,) row of each unit in the session.
            embedded: (U, D) its embedding in the window.
            start_s: (U,) start of the window.
        """
        first = start_s + self._window_s <= self._cut_s + _SLACK_S
        second = start_s >= self._cut_s - _SLACK_S
        for half, mine in enumerate((first, second)):
            np.add.at(self._sums[half], rows[mine], embedded[mine])
            np.add.at(self._counts[half], rows[mine], 1)

    def halves(self) -> Halves:
        """What came together; NaN rows for units that no window of a half had."""
        with np.errstate(invalid="ignore"):
            means = self._sums / self._counts[:, :, None]
        rates = [
            self._activity(float(self._session.intervals[0, 0]), self._cut_s),
            self._activity(self._cut_s, self._end_s),
        ]
        return Halves(means[0], means[1], rates[0], rates[1])

    def _activity(self, start_s: float, end_s: float) -> NDArray[np.float64]:
        """(N,) spikes per second, or mean dF/F, between two times."""
        session = self._session
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
