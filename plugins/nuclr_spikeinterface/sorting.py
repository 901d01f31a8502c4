"""What every layout is read into, before times and labels are worked out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import ReaderError


class Block(NamedTuple):
    """Consecutive spikes of one segment.

    Attributes:
        segment: Number of the segment.
        samples: (S,) integer sample of each spike, counted from the start of the segment.
        units: (S,) integer row of the unit.
    """

    segment: int
    samples: NDArray[np.integer[Any]]
    units: NDArray[np.integer[Any]]


@dataclass(frozen=True)
class RawSorting:
    """A sorting as its files tell it.

    Attributes:
        place: File that holds the spikes, for messages.
        unit_ids: (N,) str.
        n_segments: Number of segments.
        fs_hz: Sampling rate; None when the files have none.
        fs_place: File that holds the sampling rate, for messages.
        blocks: Yields the spikes in file order. Called once.
        properties: Column name -> array of length N, as stored.
        annotations: Free facts about the whole sorting.
        notes, warnings: For the user.
        versions: Package -> version that wrote or read the files.
        quality_columns: Properties that may hold curation labels; per unit the first non-empty one counts.
        dropped_ids: Ids that the unit list names although they have no spikes.
        n_samples: Length of each segment; () when the files do not hold it.
        length_place: File that holds `n_samples`, for messages.
        starts_s: Start of each segment in seconds; () when the files do not hold it.
        probe_of_unit: (N,) row of `probe_names`; None when there is one probe, or nobody knows.
        probe_names: Names of the probes.
    """

    place: Path
    unit_ids: NDArray[np.str_]
    n_segments: int
    fs_hz: float | None
    fs_place: Path
    blocks: Callable[[], Iterator[Block]]
    properties: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    annotations: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    quality_columns: tuple[str, ...] = ("quality", "KSLabel")
    dropped_ids: tuple[str, ...] = ()
    n_samples: tuple[int, ...] = ()
    length_place: Path | None = None
    starts_s: tuple[float, ...] = ()
    probe_of_unit: NDArray[np.intp] | None = None
    probe_names: tuple[str, ...] = ()


def text_ids(ids: Any, place: Path) -> NDArray[np.str_]:
    """Unit ids as text.

    Args:
        ids: List or array of numbers or texts.
        place: File they come from, for messages.

    Raises:
        ReaderError: Not a flat list of numbers and texts, none at all, or two are equal as text.
    """
    values = ids.tolist() if isinstance(ids, np.ndarray) else ids
    if not isinstance(values, list) or any(not isinstance(v, (str, int, float)) for v in values):
        raise ReaderError(
            f"{place}: unit_ids is not a flat list of numbers or texts.", "Save the sorting again."
        )
    if not values:
        raise ReaderError(f"{place}: the sorting has no units, 0 ids.", "Check that the sorter found any.")
    names = np.array([str(value) for value in values], dtype=np.str_)
    unique, counts = np.unique(names, return_counts=True)
    if (counts > 1).any():
        repeated = ", ".join(unique[counts > 1][:5].tolist())
        raise ReaderError(
            f"{place}: {int((counts > 1).sum())} unit ids occur more than once: {repeated}.",
            "A label could land on the wrong unit; give every unit its own id and save again.",
        )
    return names


def require_integers(array: NDArray[Any], what: str, place: Path) -> None:
    """Refuse sample numbers and unit rows that are not integers (seconds, for example).

    Raises:
        ReaderError: The dtype is not an integer.
    """
    if array.dtype.kind not in "iu":
        raise ReaderError(
            f"{place}: {what} has type {array.dtype}, expected integers.",
            "Spike times must be sample numbers, not seconds; convert them and save again.",
        )


def sampling_rate(value: Any) -> float | None:
    """A sampling rate out of a file; NaN when something stands there that is not a number."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return float("nan")
    return float(value)


def number_of_segments(value: Any, place: Path) -> int:
    """Raises:
    ReaderError: Not a positive whole number.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 100_000:
        raise ReaderError(
            f"{place}: the number of segments is {value!r}, expected 1 or more.", "Save it again."
        )
    return value


def samples_per_segment(value: Any, n_segments: int, place: Path) -> tuple[int, ...]:
    """Raises:
    ReaderError: Not one positive whole number for each segment.
    """
    fix = "The folder mixes two recordings; save it again."
    if not isinstance(value, list) or len(value) != n_segments:
        raise ReaderError(
            f"{place}: num_samples is {value!r}, expected one for each of {n_segments} segments.", fix
        )
    if any(isinstance(n, bool) or not isinstance(n, int) or not 0 < n < 2**62 for n in value):
        raise ReaderError(f"{place}: num_samples is {value!r}, expected whole numbers above 0.", fix)
    return tuple(value)
