"""The reader that nuclr ships: sortings on disk become populations."""

from __future__ import annotations

import numbers
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import Population, Reader, ReaderError, ReadOptions, safe_files
from nuclr_spikeinterface.columns import kept_rows, unit_columns, unmatched_labels
from nuclr_spikeinterface.formats import property_files, read_npz, read_npz_folder, read_numpy_folder
from nuclr_spikeinterface.layout import Layout, recognise, saved_sortings_inside
from nuclr_spikeinterface.phy import phy_files, read_phy
from nuclr_spikeinterface.sorting import RawSorting
from nuclr_spikeinterface.timing import read_spikes, sampling_rate_hz
from nuclr_spikeinterface.zarr_sorting import read_zarr

_SUBJECT_KEYS = ("subject_id", "subject")
_SESSION_KEYS = ("session_id", "session")


class SpikeInterfaceReader(Reader):
    """SpikeInterface sortings (numpy_folder, npz_folder, .npz, zarr), phy and Kilosort folders.

    Sorter and analyzer folders are recognised so that `read` can point at the sorting saved inside them.
    """

    name = "spikeinterface"
    options = frozenset({"segment_starts_s", "duration_s", "fs_hz", "keep"})
    formats = ("numpy_folder", "npz_folder", "npz", "zarr", "phy", "kilosort")
    looks_for = (
        "numpysorting_info.json, npz.json, a zarr group with spikes/, params.py + spike_times.npy, "
        "or an .npz file with spike_indexes_seg*"
    )

    def detect(self, path: Path) -> str | None:
        sighting = recognise(path)
        return None if sighting is None else str(sighting)

    def sources(self, path: Path) -> Sequence[Path]:
        sighting = recognise(path)
        if sighting is None:
            return []
        match sighting.layout:
            case Layout.NPZ:
                files = [path]
            case Layout.NUMPY_FOLDER:
                names = ("numpysorting_info.json", "spikes.npy", "annotations.json", "si_folder.json")
                files = [path / name for name in names] + property_files(path)
            case Layout.NPZ_FOLDER:
                files = [path / "npz.json", path / "si_folder.json", path / "annotations.json"]
                files += sorted(path.glob("*.npz")) + property_files(path)
            case Layout.ZARR:
                files = sorted(path.rglob("*"))
            case Layout.PHY:
                files = phy_files(path)
            case Layout.SORTER | Layout.ANALYZER:
                files = []
        return [file for file in files if file.is_file()]

    def read(self, path: Path, options: ReadOptions) -> Iterator[Population]:
        sighting = recognise(path)
        if sighting is None:
            raise ReaderError(f"{path} is not a sorting.", f"This reader looks for {self.looks_for}.")
        if options.extra:
            raise ReaderError(
                f"{path}: the reader {self.name!r} has no option {' or '.join(map(repr, options.extra))}.",
                "Leave --option out.",
            )
        match sighting.layout:
            case Layout.NPZ:
                raw = read_npz(path)
            case Layout.NUMPY_FOLDER:
                raw = read_numpy_folder(path, trust=options.trust)
            case Layout.NPZ_FOLDER:
                raw = read_npz_folder(path, trust=options.trust)
            case Layout.ZARR:
                raw = read_zarr(path)
            case Layout.PHY:
                raw = read_phy(path)
            case Layout.SORTER | Layout.ANALYZER:
                raise _look_inside(path, sighting.layout)
        if len(raw.unit_ids) == 0:
            raise ReaderError(f"{raw.place}: the sorting has no units.", "Check that the sorter found any.")
        yield _population(path, str(sighting), raw, options)


def _population(path: Path, detected: str, raw: RawSorting, options: ReadOptions) -> Population:
    columns, column_notes, column_warnings = unit_columns(raw)
    kept = kept_rows(columns, options.keep, str(path))
    timed = read_spikes(raw, sampling_rate_hz(raw, options), options, kept)
    dropped_ids = [str(unit) for unit in raw.unit_ids[~kept]]
    notes = [*raw.notes, *column_notes, *timed.notes]
    if dropped_ids:
        notes.append(_dropped_note(columns, kept))
    if unmatched := unmatched_labels(columns, options.keep):
        found = ", ".join(sorted({value or "(blank)" for value in columns["quality"].tolist()}))
        column_warnings.append(
            f"--keep: no unit is labelled {' or '.join(unmatched)} (labels here: {found})."
        )
    subject, subject_assumed = _subject(path, raw, options, notes)
    versions = {"numpy": np.__version__, **raw.versions}
    return Population(
        subject=subject,
        session=_session(path, raw, options, notes),
        units={name: column[kept] for name, column in columns.items()},
        intervals=timed.intervals,
        spikes=timed.spikes,
        subject_assumed=subject_assumed,
        attributes=_attributes(raw),
        notes=tuple(notes),
        warnings=(*raw.warnings, *column_warnings),
        provenance={
            "reader": SpikeInterfaceReader.name,
            "detected": detected,
            "versions": versions,
            "sampling_rate_hz": sampling_rate_hz(raw, options),
            "properties": sorted(raw.properties),
            # Ids of the source that are no units here: a label table may still name them.
            "dropped_unit_ids": [*dropped_ids, *raw.dropped_ids],
        },
    )


def _subject(path: Path, raw: RawSorting, options: ReadOptions, notes: list[str]) -> tuple[str, bool]:
    """Subject id, and whether it was assumed: as said, else from the file, else the folder's name."""
    if options.subject is not None:
        return options.subject, False
    annotated = _annotation(raw, _SUBJECT_KEYS)
    if annotated is not None:
        notes.append(f"Subject {annotated!r} is taken from the file's annotations.")
        return annotated, False
    name = _folder_name(path)
    notes.append(f"Nobody said who the subject is; the name {name!r} is taken. --subject says otherwise.")
    return name, True


def _session(path: Path, raw: RawSorting, options: ReadOptions, notes: list[str]) -> str:
    if options.session is not None:
        return options.session
    annotated = _annotation(raw, _SESSION_KEYS)
    if annotated is not None:
        notes.append(f"Session {annotated!r} is taken from the file's annotations.")
        return annotated
    name = _folder_name(path)
    notes.append(f"The session is called {name!r}, after the source. --session says otherwise.")
    return name


def _annotation(raw: RawSorting, keys: tuple[str, ...]) -> str | None:
    found = (raw.annotations.get(key) for key in keys)
    return next((str(v).strip() for v in found if isinstance(v, (str, int)) and str(v).strip()), None)


def _folder_name(path: Path) -> str:
    """Name of the source without the suffix of its format; works for ``.`` and ``..`` too."""
    name = path.resolve().name
    for suffix in (".zarr", ".npz"):
        name = name.removesuffix(suffix)
    return name or "unnamed"


def _attributes(raw: RawSorting) -> dict[str, str]:
    """Annotations of one value each, as text; subject and session have their own place."""
    used = (*_SUBJECT_KEYS, *_SESSION_KEYS)
    simple = (str, bool, numbers.Number)
    return {str(k): str(v) for k, v in raw.annotations.items() if k not in used and isinstance(v, simple)}


def _dropped_note(columns: dict[str, NDArray[Any]], kept: NDArray[np.bool_]) -> str:
    counts = Counter(str(value) or "(blank)" for value in columns["quality"][~kept].tolist())
    by_label = ", ".join(f"{value} {n}" for value, n in sorted(counts.items()))
    ids = [str(unit) for unit in columns["id"][~kept]]
    more = ", ..." if len(ids) > 10 else ""
    return (
        f"{len(ids)} of {len(kept)} units were left out by their quality ({by_label}): "
        f"{', '.join(ids[:10])}{more}. --keep all keeps every unit."
    )


def _look_inside(path: Path, layout: Layout) -> ReaderError:
    """What to say about a folder that only holds a sorting somewhere inside."""
    inside = saved_sortings_inside(path)
    fix = (
        f"nuclr preprocess {inside[0]}"
        if inside
        else "Save the sorting with sorting.save(folder=...), and pass that."
    )
    if layout is Layout.ANALYZER:
        return ReaderError(f"{path} is a {layout.value}; nuclr reads the sorting saved inside it.", fix)
    log_path = path / "spikeinterface_log.json"
    log = safe_files.read_json(log_path)
    if log.get("error"):
        trace = log.get("error_trace")
        reason = str(trace[-1]).strip() if isinstance(trace, list) and trace else "see the log"
        return ReaderError(
            f"{path}: the sorter {log.get('sorter_name')!r} failed: {reason}.", "Run the sorter again."
        )
    return ReaderError(f"{path} is a {layout.value}; nuclr reads the sorting saved inside it.", fix)
