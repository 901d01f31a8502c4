"""The reader of Suite2p folders: all planes of a recording become one population."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import CalciumTraces, Population, Reader, ReaderError, ReadOptions
from nuclr_suite2p.layout import FILES, PlaneFolder, recognise, recording_name
from nuclr_suite2p.rois import Rois, read_rois
from nuclr_suite2p.settings import PlaneSettings, read_settings
from nuclr_suite2p.signal import TraceFile
from nuclr_suite2p.timing import PlaneTiming, Timeline, timeline
from nuclr_suite2p.traces import PlaneTraces, read_traces, without_broken

_NAMED = 10


class Suite2pReader(Reader):
    """Suite2p output of 1.x and of older releases, one plane or many."""

    name = "suite2p"
    options = frozenset({"signal", "fs_hz", "timestamps", "min_iscell", "red_label", "drop_nan_units"})
    formats = ("suite2p folder", "suite2p plane")
    looks_for = (
        "a folder with plane0/, plane1/, ... (or suite2p/ with these inside), or F.npy beside stat.npy"
    )

    def detect(self, path: Path) -> str | None:
        found = recognise(path)
        return None if found is None else str(found)

    def sources(self, path: Path) -> Sequence[Path]:
        found = recognise(path)
        planes = () if found is None else found.planes
        return [plane.file(name) for plane in planes for name in FILES if plane.has(name)]

    def read(self, path: Path, options: ReadOptions) -> Iterator[Population]:
        found = recognise(path)
        if found is None:
            raise ReaderError(f"{path} is no Suite2p folder.", f"This reader looks for {self.looks_for}.")
        _check_options(path, options)
        if found.is_combined:
            raise ReaderError(
                f"{path} is Suite2p's combined folder: it has lost when each plane was scanned, and pads "
                "planes with fewer frames.",
                "Pass the folder above it, with plane0/, plane1/, ... inside.",
            )
        yield _population(path, str(found), found.planes, options)


def _check_options(path: Path, options: ReadOptions) -> None:
    if options.extra:
        raise ReaderError(
            f"{path}: the reader 'suite2p' has no option {' or '.join(map(repr, options.extra))}.",
            "Leave --option out.",
        )
    if options.min_iscell is not None and not 0 <= options.min_iscell <= 1:
        raise ReaderError(f"{path}: --min-iscell {options.min_iscell:g} is no probability.", "Pass 0 to 1.")
    if options.red_label is not None and not options.red_label.strip():
        raise ReaderError(f"{path}: --red-label is empty.", "Write --red-label NAME, or leave it out.")


@dataclass(frozen=True)
class _Plane:
    """One plane with ROIs: `kept` are rows of its arrays."""

    folder: PlaneFolder
    settings: PlaneSettings
    rois: Rois
    file: TraceFile
    number: int

    @property
    def kept(self) -> NDArray[np.int64]:
        return np.flatnonzero(self.rois.kept)

    def unit_ids(self, rows: NDArray[np.int64]) -> list[str]:
        return [f"plane{self.number}_{roi}" for roi in rows]


def _population(
    path: Path, detected: str, folders: Sequence[PlaneFolder], options: ReadOptions
) -> Population:
    notes: list[str] = []
    warnings: list[str] = []
    planes = _open_planes(path, folders, options, notes, warnings)
    times = timeline([PlaneTiming(p.folder, p.settings, p.file.shape[1]) for p in planes], options)
    notes += times.notes
    warnings += times.warnings
    _tell_dropped(planes, options, notes)
    units = _units(planes)
    _add_red_label(units, planes, options, notes, warnings)
    traced = read_traces(
        [PlaneTraces(p.folder, p.settings, p.file, p.kept) for p in planes], times.fs_hz, times.kept, options
    )
    notes += traced.notes
    values, usable = without_broken(traced, units["id"], path, options, notes)
    return Population(
        subject=options.subject or _assumed("Nobody said who the subject is", "--subject", path, notes),
        subject_assumed=options.subject is None,
        session=options.session or _assumed("Nobody named the session", "--session", path, notes),
        units={name: column[usable] for name, column in units.items()},
        intervals=times.intervals,
        calcium=CalciumTraces(values, times.timestamps, times.fs_hz, _offsets(planes, times)[usable]),
        notes=tuple(dict.fromkeys(notes)),
        warnings=tuple(warnings),
        provenance=_provenance(path, detected, planes, times, traced.provenance, units["id"][~usable]),
    )


def _open_planes(
    path: Path,
    folders: Sequence[PlaneFolder],
    options: ReadOptions,
    notes: list[str],
    warnings: list[str],
) -> list[_Plane]:
    planes: list[_Plane] = []
    for folder in folders:
        if not folder.has("F.npy"):
            warnings.append(
                f"{folder.path.name} has no F.npy (Suite2p found no ROIs there, or did not finish): left out."
            )
            continue
        file = TraceFile.open(folder.file("F.npy"))
        settings = read_settings(folder, trust=options.trust)
        number = folder.number if folder.number is not None else settings.plane or 0
        rois = read_rois(folder, file.shape[0], settings, options)
        notes += rois.notes
        planes.append(_Plane(folder, settings, rois, file, number))
    if not planes:
        raise ReaderError(
            f"{path}: no plane has F.npy ({', '.join(folder.path.name for folder in folders)}).",
            "Check that Suite2p found ROIs and finished.",
        )
    if not any(len(plane.kept) for plane in planes):
        n_rois = sum(plane.file.shape[0] for plane in planes)
        why = (
            "iscell = 1" if options.min_iscell is None else f"a probability of {options.min_iscell:g} or more"
        )
        raise ReaderError(
            f"{path}: no units: none of {n_rois} ROIs has {why}.",
            "Curate the ROIs in Suite2p, or pass a lower --min-iscell (0 keeps every ROI).",
        )
    return planes


def _tell_dropped(planes: Sequence[_Plane], options: ReadOptions, notes: list[str]) -> None:
    names = [unit for plane in planes for unit in plane.unit_ids(np.flatnonzero(~plane.rois.kept))]
    if not names:
        return
    n_rois = sum(plane.file.shape[0] for plane in planes)
    rule = "are no cells by iscell.npy" if options.min_iscell is None else f"lie below {options.min_iscell:g}"
    more = ", ..." if len(names) > _NAMED else ""
    notes.append(
        f"{len(names)} of {n_rois} ROIs {rule} and were left out: {', '.join(names[:_NAMED])}{more}. "
        "--min-iscell 0 keeps every ROI."
    )


def _units(planes: Sequence[_Plane]) -> dict[str, NDArray[Any]]:
    """One table of all planes; a number that a plane does not have is NaN there."""
    units: dict[str, NDArray[Any]] = {
        "id": np.array([unit for plane in planes for unit in plane.unit_ids(plane.kept)], dtype=np.str_),
        "plane": np.concatenate([np.full(len(plane.kept), plane.number) for plane in planes]),
    }
    for name in dict.fromkeys(name for plane in planes for name in plane.rois.columns):
        parts = [
            plane.rois.columns.get(name, np.full(plane.file.shape[0], np.nan))[plane.kept] for plane in planes
        ]
        units[name] = np.concatenate(parts)
    return units


def _add_red_label(
    units: dict[str, NDArray[Any]],
    planes: Sequence[_Plane],
    options: ReadOptions,
    notes: list[str],
    warnings: list[str],
) -> None:
    """A label says "red"; its absence says nothing, since a red cell may be too dim to see."""
    without = [plane.folder.path.name for plane in planes if plane.rois.red is None]
    if len(without) == len(planes):
        if options.red_label is not None:
            raise ReaderError(
                f"{planes[0].folder.path} has no redcell.npy: nothing says which cells are red.",
                "Leave --red-label out, or run Suite2p with the second channel.",
            )
        return
    red = np.concatenate(
        [
            (np.zeros(plane.file.shape[0], bool) if plane.rois.red is None else plane.rois.red)[plane.kept]
            for plane in planes
        ]
    )
    told = f"{int(red.sum())} of {len(red)} units are red"
    if options.red_label is None:
        notes.append(f"{told}; --red-label NAME (for example PV) makes that their cell_type.")
        return
    units["cell_type"] = np.where(red, options.red_label, "").astype(np.str_)
    notes.append(f"{told} and get the cell_type {options.red_label!r}; the others are unlabelled.")
    if without:
        warnings.append(f"{', '.join(without)} has no redcell.npy: its units are unlabelled.")
    if red.all() or not red.any():
        warnings.append(
            f"{'All' if red.all() else 'None'} of {len(red)} units are red: check the red channel."
        )


def _offsets(planes: Sequence[_Plane], times: Timeline) -> NDArray[np.float64]:
    parts = [
        np.full(len(plane.kept), offset) for plane, offset in zip(planes, times.time_offsets, strict=True)
    ]
    return np.concatenate(parts)


def _assumed(what: str, option: str, path: Path, notes: list[str]) -> str:
    name = recording_name(path)
    notes.append(f"{what}; the name {name!r} is taken. {option} says otherwise.")
    return name


def _provenance(
    path: Path,
    detected: str,
    planes: Sequence[_Plane],
    times: Timeline,
    traces: dict[str, Any],
    broken: NDArray[np.str_],
) -> dict[str, Any]:
    import scipy

    suite2p = sorted({plane.settings.version or "unknown" for plane in planes})
    dropped = [unit for plane in planes for unit in plane.unit_ids(np.flatnonzero(~plane.rois.kept))]
    return {
        "reader": Suite2pReader.name,
        "path": str(path),
        "detected": detected,
        "versions": {
            "suite2p_files": ", ".join(suite2p),
            "numpy": np.__version__,
            "scipy": scipy.__version__,
        },
        "sampling_rate_hz": times.fs_hz,
        "planes": [
            {
                "plane": plane.number,
                "rois": plane.file.shape[0],
                "kept": len(plane.kept),
                "frames": plane.file.shape[1],
                "time_offset_s": offset,
                "settings_from": list(plane.settings.files),
            }
            for plane, offset in zip(planes, times.time_offsets, strict=True)
        ],
        **traces,
        # ROIs that are no units here: a label table may still name them.
        "dropped_unit_ids": [*dropped, *broken.tolist()],
    }
