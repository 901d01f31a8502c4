"""The fluorescence series of an NWB file become populations of traces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import CalciumTraces, ReaderError, ReadOptions
from nuclr_nwb.curation import named
from nuclr_nwb.dff import RECIPE, deconvolve_in_place, dff_in_place
from nuclr_nwb.observed import invalid_times, subtract
from nuclr_nwb.planes import Plane, joined_columns, offset_s, open_plane, recorded_together
from nuclr_nwb.series import Kind, Series, choose
from nuclr_nwb.traces import intervals_of
from nuclr_nwb.tree import Tree

DEFAULT_TAU_S = 1.0
_ROWS = 4096


@dataclass
class TracePart:
    """ROIs imaged together, before they are given subject and session.

    Attributes:
        name: Of the imaging planes, '' when there is one part only.
        units: Columns of the units table.
        intervals: (M, 2) float64 seconds.
        calcium: Traces.
        notes, warnings: For the user.
        details: For the provenance.
        attributes: Session attributes.
    """

    name: str
    units: dict[str, NDArray[Any]]
    intervals: NDArray[np.float64]
    calcium: CalciumTraces
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    attributes: dict[str, str] = field(default_factory=dict)


def read_ophys(tree: Tree, found: Sequence[Series], options: ReadOptions) -> Iterator[TracePart]:
    """One part for each set of planes with common frames.

    Raises:
        ReaderError: Ambiguous series; values, ROIs and times that do not fit; NaN.
    """
    notes: list[str] = []
    planes = [open_plane(tree, series, options) for series in choose(tree, found, options, notes)]
    if options.timestamps is not None and len(planes) > 1:
        raise ReaderError(
            f"{tree.place}: --timestamps gives one set of times for {len(planes)} planes "
            f"({', '.join(plane.name for plane in planes)}), which were imaged one after the other.",
            "Read one plane at a time with --series, or leave --timestamps out.",
        )
    groups = recorded_together(planes)
    if len(groups) > 1:
        described = "; ".join(
            f"{_name(group)} ({len(group[0].frames.times)} frames at {group[0].frames.fs_hz:g} Hz)"
            for group in groups
        )
        notes.append(
            "The imaging planes have different frames or start more than a frame apart, so each set of "
            f"planes with common frames is a population of its own: {described}."
        )
    names = [_name(group) for group in groups]
    for number, group in enumerate(groups):
        name = "" if len(groups) == 1 else names[number]
        if names.count(name) > 1:
            name = f"{name}-{number}"
        yield _part(tree, name, group, options, notes)


def _name(group: Sequence[Plane]) -> str:
    return "+".join(plane.name for plane in group)


def _part(tree: Tree, name: str, group: list[Plane], options: ReadOptions, shared: list[str]) -> TracePart:
    notes, warnings = list(shared), []
    for plane in group:
        notes += plane.notes
        warnings += plane.warnings
    ids = _ids(group, notes)
    columns: dict[str, NDArray[Any]] = {"id": ids, **joined_columns(group)}
    offsets = np.concatenate([np.full(len(p.ids), offset_s(p, group) or 0.0) for p in group])
    if (offsets != offsets[0]).any():
        said = ", ".join(f"{plane.name} {offset_s(plane, group) or 0.0:.6g} s" for plane in group)
        notes.append(f"The planes were imaged one after the other; their frames are offset by: {said}.")
    times, fs_hz = group[0].frames.times, group[0].frames.fs_hz
    values = np.empty((len(times), len(ids)), dtype=np.float32)
    begin = 0
    for plane in group:
        plane.matrix.read_into(values[:, begin : begin + len(plane.ids)], plane.kept)
        begin += len(plane.ids)
    dropped: list[str] = []
    whole = _without_nan(values)
    if not whole.all():
        dropped = ids[~whole].tolist()
        _nan_units(tree, group, ids, whole, options, notes)
        values, offsets = np.ascontiguousarray(values[:, whole]), offsets[whole]
        columns = {key: column[whole] for key, column in columns.items()}
    signal = _to_signal(tree, group, values, fs_hz, columns["id"], options, notes, warnings)
    intervals = intervals_of(times, fs_hz)
    if len(intervals) > 1:
        notes.append(f"The frames have {len(intervals) - 1} gaps; each stretch is an interval of its own.")
    intervals, times, values = _valid(tree, intervals, times, values, np.unique(offsets), notes)
    return TracePart(
        name=name,
        units=columns,
        intervals=intervals,
        calcium=CalciumTraces(values, times, fs_hz, offsets),
        notes=notes,
        warnings=warnings,
        details={
            "series": [plane.series.path for plane in group],
            "signal": signal,
            "dropped_unit_ids": dropped,
        },
        attributes={"indicator": group[0].indicator} if group[0].indicator else {},
    )


def _ids(group: Sequence[Plane], notes: list[str]) -> NDArray[np.str_]:
    """Ids of the ROIs; where several planes number theirs alike, the plane's name stands before them."""
    ids = np.concatenate([plane.ids for plane in group])
    if len(group) == 1:
        return ids
    names = [plane.name for plane in group]
    if len(set(names)) < len(names):
        names = [plane.series.name for plane in group]
    if len(set(names)) < len(names):
        names = [plane.series.path.lstrip("/") for plane in group]
    notes.append(f"Unit ids are made of the plane and the ROI: {names[0]}_{group[0].ids[0]}.")
    parts = [
        [f"{name}_{unit}" for unit in plane.ids.tolist()] for name, plane in zip(names, group, strict=True)
    ]
    return np.array([unit for part in parts for unit in part], dtype=np.str_)


def _without_nan(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(N,) units whose samples are all finite, found in blocks."""
    whole = np.ones(values.shape[1], dtype=np.bool_)
    for begin in range(0, len(values), _ROWS):
        whole &= np.isfinite(values[begin : begin + _ROWS]).all(axis=0)
    return whole


def _nan_units(
    tree: Tree,
    group: Sequence[Plane],
    ids: NDArray[np.str_],
    whole: NDArray[np.bool_],
    options: ReadOptions,
    notes: list[str],
) -> None:
    n_bad = int((~whole).sum())
    what = (
        f"{n_bad} of {len(ids)} units of {', '.join(plane.series.path for plane in group)} have NaN or "
        f"infinite samples in their trace: {named(ids[~whole])}"
    )
    if not options.drop_nan_units:
        raise ReaderError(
            f"{tree.place}: {what}.", "Repair the file, or leave these units out with --drop-nan-units."
        )
    if not whole.any():
        raise ReaderError(f"{tree.place}: {what}; none is left.", "Repair the file.")
    notes.append(f"{what}; they were left out (--drop-nan-units).")


def _to_signal(
    tree: Tree,
    group: Sequence[Plane],
    values: NDArray[np.float32],
    fs_hz: float,
    ids: NDArray[np.str_],
    options: ReadOptions,
    notes: list[str],
    warnings: list[str],
) -> str:
    """Turn raw fluorescence into what was asked for, in place. Returns what the values are now."""
    kind, place = group[0].series.kind, f"{tree.place}:{group[0].series.path}"
    if options.signal == "spks" and kind in (Kind.DFF, Kind.NEUROPIL):
        raise ReaderError(
            f"{place} is {kind.value}; --signal spks needs deconvolved or raw traces.",
            "Name another series with --series, or leave --signal out.",
        )
    if kind is Kind.SPKS:
        notes.append(f"{group[0].series.path} is taken as deconvolved activity, by its name.")
        return "spks"
    if kind is Kind.NEUROPIL:
        warnings.append(f"{place} is neuropil, not the signal of single units.")
    if kind is Kind.DFF or options.extra.get("dff") == "as-is":
        notes.append(f"{group[0].series.path} is taken as dF/F, as it is.")
        return "dff"
    if options.signal == "spks":
        tau_s = _tau(options, notes)
        deconvolve_in_place(values, fs_hz, tau_s, place)
        notes.append(f"Activity was deconvolved from {group[0].series.path} with Suite2p's OASIS.")
        return "spks"
    dff_in_place(values, fs_hz, ids, place)
    notes.append(RECIPE + ".")
    return "dff"


def _tau(options: ReadOptions, notes: list[str]) -> float:
    text = options.extra.get("tau")
    if text is None:
        notes.append(
            f"The decay time of the indicator is taken to be {DEFAULT_TAU_S:g} s, Suite2p's default; "
            "--option tau=SECONDS says otherwise."
        )
        return DEFAULT_TAU_S
    try:
        tau_s = float(text)
    except ValueError:
        tau_s = float("nan")
    if not 0.01 <= tau_s <= 100:
        raise ReaderError(f"--option tau={text} is no decay time.", "Give seconds, e.g. --option tau=1.25")
    return tau_s


def _valid(
    tree: Tree,
    intervals: NDArray[np.float64],
    times: NDArray[np.float64],
    values: NDArray[np.float32],
    offsets: NDArray[np.float64],
    notes: list[str],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float32]]:
    """Without the file's invalid times and the frames in them, of whichever plane."""
    gone = invalid_times(tree)
    valid = subtract(intervals, gone) if len(gone) else intervals
    if len(valid) == len(intervals) and (valid == intervals).all():
        return intervals, times, values
    inside = np.zeros(len(times), dtype=np.bool_)
    for first, last in valid.tolist():
        inside |= (times >= first) & (times < last)
    for offset in offsets.tolist():
        for first, last in gone.tolist():
            inside &= ~((times + offset >= first) & (times + offset < last))
    if inside.sum() < 2:
        raise ReaderError(f"{tree.place}: invalid_times cover the whole recording.", "Repair the file.")
    notes.append(f"{int((~inside).sum())} of {len(times)} frames lie in invalid_times and were left out.")
    return valid, times[inside], values[inside]
