"""The reader that nuclr ships: sortings on disk become populations."""

from __future__ import annotations

import numbers
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import Population, Reader, ReaderError, ReadOptions
from nuclr_spikeinterface.analyzer import read_analyzer
from nuclr_spikeinterface.analyzer_store import analyzer_files
from nuclr_spikeinterface.columns import kept_rows, unit_columns, unmatched_labels
from nuclr_spikeinterface.formats import property_files, read_npz, read_npz_folder, read_numpy_folder
from nuclr_spikeinterface.groups import split, unexplained_groups
from nuclr_spikeinterface.layout import Layout, recognise
from nuclr_spikeinterface.phy import phy_files, read_phy
from nuclr_spikeinterface.sorter_folder import read_sorter_folder, sorter_files
from nuclr_spikeinterface.sorting import RawSorting
from nuclr_spikeinterface.timing import read_spikes, sampling_rate_hz
from nuclr_spikeinterface.wrapped import read_with_extractor
from nuclr_spikeinterface.zarr_sorting import read_zarr

_SUBJECT_KEYS = ("subject_id", "subject")
_SESSION_KEYS = ("session_id", "session")


class SpikeInterfaceReader(Reader):
    """SpikeInterface sortings, analyzers and sorter folders, phy and Kilosort folders.

    Whatever else SpikeInterface can load is read with an extractor that the user names and trusts.
    """

    name = "spikeinterface"
    options = frozenset({"segment_starts_s", "duration_s", "fs_hz", "keep", "extractor"})
    formats = ("numpy_folder", "npz_folder", "npz", "zarr", "analyzer", "sorter folder", "phy", "kilosort")
    looks_for = (
        "numpysorting_info.json, npz.json, a zarr group with spikes/ or spikeinterface_info, "
        "spikeinterface_info.json (analyzer), spikeinterface_log.json (sorter folder), "
        "params.py + spike_times.npy, or an .npz file with spike_indexes_seg*"
    )

    def detect(self, path: Path) -> str | None:
        sighting = recognise(path)
        return None if sighting is None else str(sighting)

    def sources(self, path: Path) -> Sequence[Path]:
        return [file for file in dict.fromkeys(_files(path)) if file.is_file()]

    def read(self, path: Path, options: ReadOptions) -> Iterator[Population]:
        sighting = recognise(path)
        if options.extractor is not None:
            raw = read_with_extractor(path, options.extractor, options)
            detected = f"SpikeInterface extractor {options.extractor}"
        elif sighting is None:
            raise ReaderError(f"{path} is not a sorting.", f"This reader looks for {self.looks_for}.")
        elif options.extra:
            raise ReaderError(
                f"{path}: the reader {self.name!r} has no option {' or '.join(map(repr, options.extra))}.",
                "Leave --option out.",
            )
        else:
            raw = _read_layout(path, sighting.layout, trust=options.trust)
            detected = str(sighting)
        if len(raw.unit_ids) == 0:
            raise ReaderError(f"{raw.place}: the sorting has no units.", "Check that the sorter found any.")
        yield from _populations(path, detected, raw, options)


def _read_layout(path: Path, layout: Layout, *, trust: bool) -> RawSorting:
    match layout:
        case Layout.NPZ:
            return read_npz(path)
        case Layout.NUMPY_FOLDER:
            return read_numpy_folder(path, trust=trust)
        case Layout.NPZ_FOLDER:
            return read_npz_folder(path, trust=trust)
        case Layout.ZARR:
            return read_zarr(path)
        case Layout.PHY:
            return read_phy(path)
        case Layout.ANALYZER:
            return read_analyzer(path, trust=trust)
        case Layout.SORTER:
            return read_sorter_folder(path, partial(_read_layout, trust=trust), trust=trust)


def _files(path: Path) -> list[Path]:
    """Every file that reading `path` depends on, existing or not."""
    sighting = recognise(path)
    match None if sighting is None else sighting.layout:
        case None:  # read by an extractor that the user named
            return [path] if path.is_file() else sorted(path.rglob("*"))
        case Layout.NPZ:
            return [path]
        case Layout.NUMPY_FOLDER:
            names = ("numpysorting_info.json", "spikes.npy", "annotations.json", "si_folder.json")
            return [path / name for name in names] + property_files(path)
        case Layout.NPZ_FOLDER:
            files = [path / "npz.json", path / "si_folder.json", path / "annotations.json"]
            return files + sorted(path.glob("*.npz")) + property_files(path)
        case Layout.ZARR:
            return sorted(path.rglob("*"))
        case Layout.PHY:
            return phy_files(path)
        case Layout.ANALYZER:
            inside = path / "sorting"
            if (path / "spikeinterface_info.json").is_file():
                return analyzer_files(path) + (_files(inside) if inside.is_dir() else [])
            return analyzer_files(path) + sorted(inside.rglob("*"))
        case Layout.SORTER:
            return sorter_files(path, _files)


def _populations(path: Path, detected: str, raw: RawSorting, options: ReadOptions) -> Iterator[Population]:
    """All units as one population, or one population per probe."""
    columns, column_notes, column_warnings = unit_columns(raw)
    kept = kept_rows(columns, options.keep, str(path))
    timed = read_spikes(raw, sampling_rate_hz(raw, options), options, kept)
    dropped_ids = [str(unit) for unit in raw.unit_ids[~kept]]
    notes = [*raw.notes, *column_notes, *unexplained_groups(raw), *timed.notes]
    if dropped_ids:
        notes.append(_dropped_note(columns, kept))
    if unmatched := unmatched_labels(columns, options.keep):
        found = ", ".join(sorted({value or "(blank)" for value in columns["quality"].tolist()}))
        column_warnings.append(
            f"--keep: no unit is labelled {' or '.join(unmatched)} (labels here: {found})."
        )
    subject, subject_assumed = _subject(path, raw, options, notes)
    versions = {"numpy": np.__version__, **raw.versions}
    together = Population(
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
            "path": str(path),
            "detected": detected,
            "versions": versions,
            "sampling_rate_hz": sampling_rate_hz(raw, options),
            "properties": sorted(raw.properties),
            # Ids of the source that are no units here: a label table may still name them.
            "dropped_unit_ids": [*dropped_ids, *raw.dropped_ids],
        },
    )
    probe = None if raw.probe_of_unit is None else raw.probe_of_unit[kept]
    yield from split(together, probe, raw.probe_names)


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
