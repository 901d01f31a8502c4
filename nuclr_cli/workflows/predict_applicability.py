"""What of a session is outside what a probe has seen, in sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.evaluation.applicability import (
    DURATION,
    EMBEDDING,
    POPULATION,
    RATE,
    Applicability,
    Range,
    Units,
)

_NOTABLE = 0.1
"""Share of units outside from which a session is warned about; 1 or 2 % are outside by construction."""


def session_warnings(
    seen: Applicability,
    units: Units,
    population: NDArray[np.int64],
    found: Sequence[Sequence[str]],
) -> tuple[str, ...]:
    """Sentences about one population.

    Args:
        seen: What the probe has seen.
        units: The table's units.
        population: Rows of the population, all of them.
        found: What `check` found of the units of it that are predicted.
    """
    counts = Counter(name for names in found for name in names)
    modality = str(units.modality[population[0]])
    ranges = seen.modalities.get(modality)
    if ranges is None:
        return (f"holds {modality}, the probe was fitted on {' and '.join(seen.modalities)}",)
    texts = []
    if counts[POPULATION]:
        texts.append(
            f"{len(population)} units recorded together, the probe was fitted on {_text(ranges.population)}"
        )
    if counts[DURATION]:
        windows = int(units.n_windows[population].max())
        texts.append(
            f"{_length(windows, windows, ranges.window_s)}, the probe was fitted on "
            f"{_length(ranges.windows.low, ranges.windows.high, ranges.window_s)}"
        )
    n = len(found)
    if _many(counts[RATE], n) and ranges.events_per_window is not None:
        texts.append(
            f"{counts[RATE]} of {n} units are outside the {_rate(ranges.events_per_window, ranges.window_s)} "
            "of the units that the probe was fitted on"
        )
    if _many(counts[EMBEDDING], n):
        texts.append(
            f"{counts[EMBEDDING]} of {n} units lie outside 99% of the embeddings that the probe was fitted on"
        )
    return tuple(texts)


def _many(count: int, n: int) -> bool:
    return count >= 2 and count > _NOTABLE * n


def _text(one: Range, form: str = "g") -> str:
    return f"{one.low:{form}}" if one.low == one.high else f"{one.low:{form}} to {one.high:{form}}"


def _length(low: float, high: float, window_s: float | None) -> str:
    if window_s is None:
        return f"{_text(Range(low, high))} windows"
    return f"{_text(Range(low * window_s / 60, high * window_s / 60), '.3g')} min"


def _rate(one: Range, window_s: float | None) -> str:
    if window_s is None:
        return f"{_text(one, '.3g')} events per window"
    return f"{_text(Range(one.low / window_s, one.high / window_s), '.3g')} Hz"
