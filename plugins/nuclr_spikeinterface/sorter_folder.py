"""Folders that ``run_sorter`` leaves: the log, the recording's attributes, and the sorter's own output."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from nuclr_cli.api import MissingPackageError, ReaderError, safe_files
from nuclr_spikeinterface.analyzer import with_recording
from nuclr_spikeinterface.layout import Layout, saved_sorting_inside
from nuclr_spikeinterface.sorting import RawSorting
from nuclr_spikeinterface.wrapped import from_sorting

_LOG = "spikeinterface_log.json"
_ATTRIBUTES = "recording_attributes.json"
_READ_WHEN_TRUSTED = ("spikeinterface_params.json", "spikeinterface_recording.json")  # by SpikeInterface
# Copies of the recording beside the sorting; hashing them would take longer than reading the spikes.
_RECORDINGS = frozenset([".dat", ".bin", ".raw"])


def read_sorter_folder(
    folder: Path, read_layout: Callable[[Path, Layout], RawSorting], *, trust: bool
) -> RawSorting:
    """The sorting in a sorter folder.

    Without `trust` a sorting that SpikeInterface, phy or Kilosort saved inside is read directly. With it,
    SpikeInterface loads the folder, unless that would lose clusters (its phy loader does).

    Args:
        folder: The sorter folder.
        read_layout: Reads a place of a known layout.
        trust: Let SpikeInterface load it.

    Raises:
        ReaderError: The sorter failed, or nothing inside can be read.
        MissingPackageError: Only SpikeInterface can read it, and it is not installed.
    """
    log_path = folder / _LOG
    log = safe_files.read_json(log_path)
    sorter = str(log.get("sorter_name") or "unknown")
    if log.get("error"):
        trace = log.get("error_trace")
        reason = str(trace[-1]).strip() if isinstance(trace, list) and trace else "see the log"
        raise ReaderError(f"{folder}: the sorter {sorter!r} failed: {reason}.", "Run the sorter again.")
    inside = saved_sorting_inside(folder)
    if trust and not (inside and inside[1] is Layout.PHY):
        try:
            raw = _load(folder, sorter)
        except MissingPackageError:
            if not inside:
                raise
        else:
            return _with_attributes(folder, raw)
    if not inside:
        raise ReaderError(
            f"{folder} is the output of the sorter {sorter!r}, and no sorting that can be read without "
            "running code is saved inside it.",
            "Add --trust to let SpikeInterface load it, or pass what sorting.save(folder=...) writes.",
        )
    place, layout = inside
    raw = read_layout(place, layout)
    inner = place.relative_to(folder)
    note = f"The folder is the output of the sorter {sorter!r}; its sorting was read from {inner}."
    raw = replace(raw, notes=(note, *raw.notes))
    return raw if raw.n_samples else _with_attributes(folder, raw)


def sorter_files(folder: Path, files_of: Callable[[Path], list[Path]]) -> list[Path]:
    """Every file that reading a sorter folder depends on.

    Args:
        folder: The sorter folder.
        files_of: Files of a place of a known layout.
    """
    own = [folder / name for name in (_LOG, _ATTRIBUTES, *_READ_WHEN_TRUSTED)]
    inside = saved_sorting_inside(folder)
    if inside:
        return own + files_of(inside[0])
    return own + [f for f in sorted((folder / "sorter_output").rglob("*")) if f.suffix not in _RECORDINGS]


def _load(folder: Path, sorter: str) -> RawSorting:
    try:
        sorters: Any = importlib.import_module("spikeinterface.sorters")
    except ImportError:
        raise MissingPackageError("spikeinterface", f"Reading the sorter folder {folder}") from None
    try:
        sorting = sorters.read_sorter_folder(folder, register_recording=False)
    except Exception as error:  # whatever the loader of any sorter raises
        raise ReaderError(
            f"SpikeInterface could not load the output of the sorter {sorter!r} in {folder}: "
            f"{type(error).__name__}: {' '.join(str(error).split())} (SpikeInterface "
            f"{importlib.import_module('spikeinterface').__version__} is installed).",
            "Leave --trust out, or save the sorting with sorting.save(folder=...) and pass that.",
        ) from None
    return from_sorting(sorting, folder, "its loader of sorter folders")


def _with_attributes(folder: Path, raw: RawSorting) -> RawSorting:
    """Add the lengths that SpikeInterface notes about the recording, where it does."""
    path = folder / _ATTRIBUTES
    return with_recording(raw, safe_files.read_json(path), path) if path.is_file() else raw
