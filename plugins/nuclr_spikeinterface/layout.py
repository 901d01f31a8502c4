"""Tells apart the folders and files in which sortings are kept, from names and small JSON files only."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from nuclr_cli.api import safe_files


class Layout(Enum):
    """A way to keep a sorting on disk; the value is what people read."""

    SORTER = "SpikeInterface sorter folder"
    ANALYZER = "SpikeInterface analyzer"
    NUMPY_FOLDER = "SpikeInterface numpy_folder"
    NPZ_FOLDER = "SpikeInterface npz_folder"
    NPZ = "SpikeInterface .npz file"
    ZARR = "SpikeInterface zarr"
    PHY = "phy / Kilosort folder"


@dataclass(frozen=True)
class Sighting:
    """What stands at a path, and which files told so."""

    layout: Layout
    evidence: str

    def __str__(self) -> str:
        return f"{self.layout.value}: {self.evidence}"


_MARKERS = (
    (Layout.SORTER, "spikeinterface_log.json"),
    (Layout.ANALYZER, "spikeinterface_info.json"),
    (Layout.NUMPY_FOLDER, "numpysorting_info.json"),
    (Layout.NPZ_FOLDER, "npz.json"),
)


def recognise(path: Path) -> Sighting | None:
    """The layout at `path`, or None. Never raises for a path that exists."""
    if path.is_file():
        return _recognise_file(path)
    for layout, marker in _MARKERS:
        if (path / marker).is_file() and (layout is not Layout.ANALYZER or _is_analyzer(path / marker)):
            return Sighting(layout, marker)
    if (path / ".zgroup").is_file() or (path / ".zattrs").is_file():
        return _recognise_zarr(path)
    if (path / "params.py").is_file() and (path / "spike_times.npy").is_file():
        return Sighting(Layout.PHY, "params.py + spike_times.npy")
    return None


def _is_analyzer(marker: Path) -> bool:
    """SpikeInterface marks other folders (motion, templates) with the same file; damaged ones count."""
    try:
        content = json.loads(marker.read_bytes())
    except (OSError, ValueError, RecursionError):
        return True
    return not isinstance(content, dict) or content.get("object", "SortingAnalyzer") == "SortingAnalyzer"


def _recognise_file(path: Path) -> Sighting | None:
    if path.suffix.lower() != ".npz":
        return None
    names = safe_files.npz_names(path)
    if names is None:
        # Nobody can read it, and saying so beats "no reader recognises it".
        return Sighting(Layout.NPZ, "damaged, not a zip archive")
    if any(name.startswith("spike_indexes_seg") for name in names) or {"unit_ids", "num_segment"} <= set(
        names
    ):
        return Sighting(Layout.NPZ, "unit_ids + spike_indexes_seg*")
    return None


def _recognise_zarr(path: Path) -> Sighting | None:
    attributes = zarr_attributes(path)
    if "spikeinterface_info" in attributes:
        return Sighting(Layout.ANALYZER, ".zattrs with spikeinterface_info")
    written_by = attributes.get("zarr_class_info")
    written_as = str(written_by.get("class", "")) if isinstance(written_by, dict) else ""
    if (path / "spikes" / ".zgroup").is_file() or "Sorting" in written_as:
        return Sighting(Layout.ZARR, ".zgroup + spikes/")
    return None


def zarr_attributes(path: Path) -> dict[str, Any]:
    """The ``.zattrs`` of a zarr group; empty when there are none or they cannot be read."""
    try:
        content = json.loads((path / ".zattrs").read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def saved_sorting_inside(path: Path) -> tuple[Path, Layout] | None:
    """The sorting inside a sorter folder that can be read directly, the likeliest when there are several."""
    output = path / "sorter_output"
    candidates = [
        path / "sorting",
        output / "sorting",
        output,
        output / "sorter_output",  # pykilosort and kilosort in containers nest once more
        output / "firings.npz",
        output / "analyzer",
        path / "in_container_sorting",
    ]
    for place in candidates:
        seen = recognise(place) if place.exists() else None
        if seen is not None and seen.layout is not Layout.SORTER:
            return place, seen.layout
    return None
