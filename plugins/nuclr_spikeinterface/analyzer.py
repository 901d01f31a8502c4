"""SortingAnalyzer folders and zarr stores: the sorting inside, plus what was computed about its units.

Only arrays of plain numbers and text, JSON and CSV are read. Pickles (``recording.pickle``, extensions saved
as ``.pkl``) and class names are left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import ReaderError
from nuclr_spikeinterface.analyzer_store import AnalyzerStore, open_store
from nuclr_spikeinterface.formats import read_numpy_folder
from nuclr_spikeinterface.groups import assign_probes
from nuclr_spikeinterface.layout import Layout, recognise
from nuclr_spikeinterface.peaks import peak_columns, peak_rows
from nuclr_spikeinterface.probes import Channels, read_channels
from nuclr_spikeinterface.sorting import RawSorting, samples_per_segment
from nuclr_spikeinterface.zarr_sorting import read_zarr

_TABLES = ("quality_metrics", "template_metrics")
_OPERATORS = ("average", "median")


def read_analyzer(folder: Path, *, trust: bool) -> RawSorting:
    """The sorting of an analyzer, with lengths of segments, metrics, locations and peak channels.

    Args:
        folder: The analyzer.
        trust: Let pickled properties of the sorting run as they please. Extensions never do.

    Raises:
        ReaderError: A file is missing or damaged, or an extension does not fit the sorting.
    """
    store = open_store(folder)
    raw = _sorting(folder, store, trust=trust)
    place, attributes = store.recording_attributes()
    raw = with_recording(raw, attributes, place)
    channels, warnings = read_channels(attributes, store.probegroup(), place)
    columns = dict(raw.properties)
    notes: list[str] = []
    for name in _TABLES:
        if _usable(store, name, notes):
            table = store.unit_table(name, raw.unit_ids)
            warnings += table.warnings if table is not None else ()
            _add(columns, name, {} if table is None else table.columns, notes)
    locations = _array(store, "unit_locations", "unit_locations", notes)
    if locations is not None:
        if locations.ndim != 2 or locations.shape[0] != len(raw.unit_ids) or locations.shape[1] < 2:
            raise ReaderError(
                f"{folder}: unit_locations has shape {locations.shape}, expected ({len(raw.unit_ids)}, 2) or "
                "more columns.",
                _without(folder, "unit_locations"),
            )
        _add(columns, "analyzer", {"unit_locations": locations.astype(np.float64)}, notes)
    rows: NDArray[np.intp] | None = None
    if channels is not None:
        rows, how = _peaks(folder, store, channels, raw, notes)
        if rows is not None:
            found, peak_notes = peak_columns(channels, rows, columns, how)
            columns.update(found)
            notes += peak_notes
    raw = replace(
        raw,
        properties=columns,
        notes=(*raw.notes, *notes),
        warnings=(*raw.warnings, *warnings),
        versions={**raw.versions, **store.versions()},
    )
    return raw if channels is None else assign_probes(raw, channels, rows)


def _sorting(folder: Path, store: AnalyzerStore, *, trust: bool) -> RawSorting:
    inside = folder / "sorting"
    seen = recognise(inside) if inside.is_dir() else None
    if store.is_zarr:
        return read_zarr(inside)
    if seen is None or seen.layout is not Layout.NUMPY_FOLDER:
        raise ReaderError(
            f"{folder} is an analyzer without a sorting: {inside} holds no numpysorting_info.json.",
            "Copy the whole folder again, or save the analyzer again.",
        )
    return read_numpy_folder(inside, trust=trust)


def with_recording(raw: RawSorting, attributes: Mapping[str, Any], place: Path) -> RawSorting:
    """Add what ``recording_attributes`` tell: the length of each segment.

    Raises:
        ReaderError: They are about another recording: other segments, or another sampling rate.
    """
    fs_hz = attributes.get("sampling_frequency")
    if (
        isinstance(fs_hz, (int, float))
        and raw.fs_hz is not None
        and not np.isclose(float(fs_hz), raw.fs_hz, rtol=1e-6, atol=0)
    ):
        raise ReaderError(
            f"{place} says {fs_hz:g} Hz, but {raw.fs_place} says {raw.fs_hz:g} Hz.",
            "The folder mixes two recordings; save it again.",
        )
    stored = attributes.get("num_samples")
    if stored is None:
        return raw
    return replace(raw, n_samples=samples_per_segment(stored, raw.n_segments, place), length_place=place)


def _usable(store: AnalyzerStore, name: str, notes: list[str]) -> bool:
    """The extension is there and was computed to its end."""
    if not store.has(name):
        return False
    if store.run_completed(name):
        return True
    notes.append(f"The extension {name!r} was left out: its computation did not end.")
    return False


def _array(store: AnalyzerStore, name: str, array: str, notes: list[str]) -> NDArray[Any] | None:
    """An array of plain numbers of an extension; None when it is not there."""
    return store.array(name, array) if _usable(store, name, notes) else None


def _add(
    columns: dict[str, NDArray[Any]], extension: str, new: Mapping[str, NDArray[Any]], notes: list[str]
) -> None:
    """Add columns under their own names; a name that is taken gets the extension's name in front."""
    renamed = []
    for name, column in new.items():
        kept = name
        while kept in columns:
            kept = f"{extension}_{kept}"
        if kept != name:
            renamed.append(f"{name!r} as {kept!r}")
        columns[kept] = column
    if renamed:
        notes.append(f"Names that the sorting uses already: {', '.join(renamed)}.")


def _peaks(
    folder: Path, store: AnalyzerStore, channels: Channels, raw: RawSorting, notes: list[str]
) -> tuple[NDArray[np.intp] | None, str]:
    """Row of each unit's peak channel, and where it comes from: templates, else ``main_channel_id``."""
    column = raw.properties.get("main_channel_id")
    main = channels.rows_of(column) if column is not None and column.ndim == 1 else None
    usable = _usable(store, "templates", notes)
    operator = next((name for name in _OPERATORS if usable and store.has_array("templates", name)), None)
    templates = None if operator is None else store.array("templates", operator)
    if templates is None:
        return main, "main_channel_id of the sorting"
    expected = (len(raw.unit_ids), len(channels.ids))
    if templates.ndim != 3 or (templates.shape[0], templates.shape[2]) != expected:
        raise ReaderError(
            f"{folder}: templates have shape {templates.shape}, expected {expected[0]} units, samples, "
            f"{expected[1]} channels.",
            _without(folder, "templates"),
        )
    settings = store.settings()
    sign, mode = str(settings.get("peak_sign", "both")), str(settings.get("peak_mode", "extremum"))
    which = {"neg": "trough", "pos": "peak"}.get(sign, "extremum")
    which = "range" if mode == "peak_to_peak" else which
    rows = peak_rows(templates, sign, mode)
    if main is not None:
        rows = np.where(rows >= 0, rows, main)
        if differing := int(((main >= 0) & (rows != main)).sum()):
            notes.append(
                f"main_channel_id names another channel than the templates do for {differing} of {len(rows)} "
                "units."
            )
    return rows, f"the channel with the largest {which} of the {operator} template"


def _without(folder: Path, extension: str) -> str:
    return f"Compute it again, or delete {folder / 'extensions' / extension} to do without."
