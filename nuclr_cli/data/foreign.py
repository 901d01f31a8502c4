"""What a temporaldata file that nuclr did not write says of itself: names, attributes, when it is valid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import h5py
import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import CalciumTraces
from nuclr_cli.data.hdf5 import edges_of, member, text_attribute
from nuclr_cli.data.meta import StoredMeta
from nuclr_cli.errors import InputError

_ROUNDING = 1e-3  # of a frame


def meta_of(path: Path, file: h5py.File) -> StoredMeta:
    """What the groups say. Without an id the file's name stands in, and a note says so."""
    groups = {role: _group(path, file, role) for role in ("session", "subject", "brainset")}
    ids = {role: text_attribute(groups[role], "id") for role in ("subject", "session")}
    warnings = []
    if "spikes" in file and "calcium_traces" in file:
        warnings.append(
            "The file holds spikes and calcium traces; only its spikes are used. nuclr preprocess makes a "
            "population of each."
        )
    return StoredMeta(
        subject=ids["subject"] or path.stem,
        session=ids["session"] or path.stem,
        population=text_attribute(groups["session"], "population") or "0",
        subject_assumed=not ids["subject"],
        notes=tuple(
            f"The file names no {role}: its own name {path.stem!r} is taken."
            for role, name in ids.items()
            if not name
        ),
        warnings=tuple(warnings),
        attributes={
            f"{place}.{name}": text_attribute(group, name)
            for place, group in groups.items()
            for name in sorted(n for n in (group.attrs if group is not None else ()) if isinstance(n, str))
            if name not in ("object", "absolute_start", "id")
        },
    )


def _group(path: Path, file: h5py.File, name: str) -> h5py.Group | None:
    item = member(path, file, name)
    return item if isinstance(item, h5py.Group) else None


def valid_intervals(path: Path, parts: Sequence[h5py.Group]) -> NDArray[np.float64]:
    """(M, 2) seconds in which all of some Intervals are valid: sorted, disjoint, touching ones joined.

    A root domain may be longer than that of the spikes, where behaviour was recorded longer: nobody looked
    at the neurons then, which is not silence.

    Raises:
        InputError: One is not finite, reversed or overlaps itself, or nothing is left.
    """
    found: NDArray[np.float64] | None = None
    for part in parts:
        own = _cleaned(path, part)
        found = own if found is None else _intersection(found, own)
    if found is None or not len(found):
        named = " and ".join(repr(part.name.lstrip("/")) for part in parts)
        _refuse(path, f"{named} are never valid together" if len(parts) > 1 else f"{named} has no length")
    return found


def require_filler_frames(path: Path, n_frames: int, domain: NDArray[np.float64], rate_hz: float) -> None:
    """Refuse a regular series with gaps that has no frames in them: when each was taken is not told.

    Args:
        path: The file.
        n_frames: Frames of the series.
        domain: (M, 2) seconds, of the series.
        rate_hz: Its frame rate.

    Raises:
        InputError: The frames fill the intervals instead of the time from the first to the last.
    """
    spanned = float(domain[-1, 1] - domain[0, 0]) * rate_hz
    valid = float((domain[:, 1] - domain[:, 0]).sum()) * rate_hz
    if len(domain) > 1 and abs(n_frames - valid) < abs(n_frames - spanned):
        _refuse(
            path,
            f"'calcium_traces' has {n_frames} frames for a domain with gaps that spans {spanned:g}: when "
            "each was taken is not told",
        )


def frames_inside(
    traces: CalciumTraces, intervals: NDArray[np.float64], *, regular: bool
) -> NDArray[np.bool_]:
    """(T,) which frames lie in an interval, give or take rounding.

    Intervals end with their last frame, or (in a regular series, which has filler frames in its gaps) where
    the first filler frame begins: one that is NaN throughout.

    Args:
        traces: The frames.
        intervals: (M, 2) seconds, sorted and disjoint.
        regular: The series stores no frame times.
    """
    times, slack = traces.timestamps, _ROUNDING / traces.sampling_rate_hz
    found = np.zeros(len(times), dtype=np.bool_)
    for start, end in intervals.tolist():
        first, at_end, last = np.searchsorted(times, (start - slack, end - slack, end + slack))
        found[first:last] = True
        if regular and end < intervals[-1, 1]:
            found[at_end:last] = ~np.isnan(traces.values[at_end:last]).all(axis=1)
    return found


def _cleaned(path: Path, part: h5py.Group) -> NDArray[np.float64]:
    edges, name = edges_of(path, part), part.name.lstrip("/")
    if (bad := ~np.isfinite(edges).all(axis=1)).any():
        _refuse(path, f"{int(bad.sum())} of {len(edges)} intervals of {name!r} are NaN or infinite")
    if (bad := edges[:, 1] < edges[:, 0]).any():
        _refuse(path, f"{int(bad.sum())} of {len(edges)} intervals of {name!r} end before they start")
    edges = edges[edges[:, 1] > edges[:, 0]]
    edges = edges[np.argsort(edges[:, 0], kind="stable")]
    if (bad := edges[1:, 0] < edges[:-1, 1]).any():
        _refuse(path, f"{int(bad.sum())} of {len(edges)} intervals of {name!r} overlap the one before")
    if not len(edges):
        return edges
    begins = np.r_[True, edges[1:, 0] > edges[:-1, 1]]
    return np.stack([edges[begins, 0], edges[np.r_[begins[1:], True], 1]], axis=1)


def _intersection(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    found = []
    for start, end in a.tolist():
        first, last = np.searchsorted(b[:, 1], start, "right"), np.searchsorted(b[:, 0], end, "left")
        found += [(max(start, low), min(end, high)) for low, high in b[first:last].tolist()]
    both = np.array(found, dtype=np.float64).reshape(-1, 2)
    return both[both[:, 1] > both[:, 0]]


def _refuse(path: Path, what: str) -> NoReturn:
    raise InputError(f"{path}: {what}.", "Correct it in the file, or where the file is made.")
