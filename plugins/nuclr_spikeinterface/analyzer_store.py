"""Where an analyzer keeps things: files of a folder, or groups of a zarr store."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import ReaderError, safe_files, safe_zarr
from nuclr_spikeinterface.layout import zarr_attributes
from nuclr_spikeinterface.metrics import UnitTable, match_units, read_metrics_csv
from nuclr_spikeinterface.zarr_sorting import Store

_FOLDER_FILES = (
    "spikeinterface_info.json",
    "settings.json",
    "recording_info/recording_attributes.json",
    "recording_info/probegroup.json",
)
_USED = ("quality_metrics", "template_metrics", "unit_locations", "templates")


class AnalyzerStore(ABC):
    """Reads the parts of one analyzer.

    Attributes:
        folder: The analyzer.
        is_zarr: It is a zarr store.
    """

    is_zarr = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def info(self) -> Mapping[str, Any]:
        """``spikeinterface_info``."""

    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """Settings of the analyzer; empty when it has none."""

    @abstractmethod
    def recording_attributes(self) -> tuple[Path, Mapping[str, Any]]:
        """File of the recording's attributes, for messages, and the attributes.

        Raises:
            ReaderError: Missing or damaged.
        """

    @abstractmethod
    def probegroup(self) -> Any:
        """Probes as probeinterface writes them; None when there are none."""

    @abstractmethod
    def run_completed(self, extension: str) -> bool:
        """False when the extension says that it was not computed to its end."""

    @abstractmethod
    def has_array(self, extension: str, name: str) -> bool:
        """The extension holds an array of that name."""

    @abstractmethod
    def array(self, extension: str, name: str) -> NDArray[Any] | None:
        """An array of numbers, None when it is not there.

        Raises:
            ReaderError: Damaged, or Python objects.
        """

    @abstractmethod
    def unit_table(self, extension: str, unit_ids: NDArray[np.str_]) -> UnitTable | None:
        """The table ``metrics`` of an extension, None when it is not there.

        Raises:
            ReaderError: Damaged or cut off.
        """

    def has(self, extension: str) -> bool:
        """The extension was saved."""
        return (self.folder / "extensions" / extension).is_dir()

    def versions(self) -> dict[str, str]:
        """The version of SpikeInterface that wrote it."""
        version = self.info().get("version")
        return {"spikeinterface (writer)": version} if isinstance(version, str) else {}


def open_store(folder: Path) -> AnalyzerStore:
    """Raises:
    MissingPackageError: It is a zarr store and zarr is not installed.
    ReaderError: It is a zarr store that cannot be opened.
    """
    return _Folder(folder) if (folder / "spikeinterface_info.json").is_file() else _Zarr(folder)


def analyzer_files(folder: Path) -> list[Path]:
    """Every file outside ``sorting/`` that reading an analyzer depends on."""
    if not (folder / "spikeinterface_info.json").is_file():
        files = [folder / ".zattrs", folder / ".zgroup", *_below(folder / "recording_info")]
        return files + [f for name in _USED for f in _below(folder / "extensions" / name)]
    extensions = folder / "extensions"
    files = [folder / name for name in _FOLDER_FILES]
    files += [extensions / name / "run_info.json" for name in _USED]
    files += [extensions / name / "metrics.csv" for name in _USED]
    files += [extensions / "unit_locations" / "unit_locations.npy"]
    return files + [extensions / "templates" / f"{name}.npy" for name in ("average", "median")]


def _below(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def _numbers(array: NDArray[Any], place: Path) -> NDArray[Any]:
    if array.dtype.kind not in "biuf":
        raise ReaderError(
            f"{place} has type {array.dtype}, expected numbers.", f"Delete {place.parent} to do without."
        )
    return array


class _Folder(AnalyzerStore):
    """``format="binary_folder"``."""

    def info(self) -> Mapping[str, Any]:
        return safe_files.read_json(self.folder / "spikeinterface_info.json")

    def settings(self) -> Mapping[str, Any]:
        path = self.folder / "settings.json"
        return safe_files.read_json(path) if path.is_file() else {}

    def recording_attributes(self) -> tuple[Path, Mapping[str, Any]]:
        path = self.folder / "recording_info" / "recording_attributes.json"
        return path, safe_files.read_json(path)

    def probegroup(self) -> Any:
        path = self.folder / "recording_info" / "probegroup.json"
        return safe_files.read_json(path) if path.is_file() else None

    def run_completed(self, extension: str) -> bool:
        path = self.folder / "extensions" / extension / "run_info.json"
        return not path.is_file() or safe_files.read_json(path).get("run_completed") is not False

    def has_array(self, extension: str, name: str) -> bool:
        return (self.folder / "extensions" / extension / f"{name}.npy").is_file()

    def array(self, extension: str, name: str) -> NDArray[Any] | None:
        path = self.folder / "extensions" / extension / f"{name}.npy"
        return _numbers(safe_files.open_npy(path), path) if path.is_file() else None

    def unit_table(self, extension: str, unit_ids: NDArray[np.str_]) -> UnitTable | None:
        path = self.folder / "extensions" / extension / "metrics.csv"
        return read_metrics_csv(path, unit_ids) if path.is_file() else None


class _Zarr(AnalyzerStore):
    """``format="zarr"``."""

    is_zarr = True

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        group, _ = safe_zarr.open_group(folder, "zarr<3", f"Reading the analyzer {folder}", "Copy it again.")
        self._store = Store(folder, group)

    def info(self) -> Mapping[str, Any]:
        return _mapping(zarr_attributes(self.folder).get("spikeinterface_info"))

    def settings(self) -> Mapping[str, Any]:
        return _mapping(zarr_attributes(self.folder).get("settings"))

    def recording_attributes(self) -> tuple[Path, Mapping[str, Any]]:
        path = self.folder / "recording_info" / ".zattrs"
        attributes = safe_files.read_json(path).get("recording_attributes")
        if not isinstance(attributes, dict):
            raise ReaderError(f"{path} has no recording_attributes.", "Copy it again, or save it again.")
        return path, attributes

    def probegroup(self) -> Any:
        return zarr_attributes(self.folder / "recording_info").get("probegroup")

    def run_completed(self, extension: str) -> bool:
        run_info = zarr_attributes(self.folder / "extensions" / extension).get("run_info")
        return _mapping(run_info).get("run_completed") is not False

    def has_array(self, extension: str, name: str) -> bool:
        return (self.folder / "extensions" / extension / name / ".zarray").is_file()

    def array(self, extension: str, name: str) -> NDArray[Any] | None:
        if not self.has_array(extension, name):
            return None
        inside = f"extensions/{extension}/{name}"
        return _numbers(self._store.values(inside), self.folder / inside)

    def unit_table(self, extension: str, unit_ids: NDArray[np.str_]) -> UnitTable | None:
        table = self.folder / "extensions" / extension / "metrics"
        if not (table / "index" / ".zarray").is_file():
            return None
        inside = f"extensions/{extension}/metrics"
        ids = self._store.values(f"{inside}/index")
        columns = {}
        for header in sorted(table.glob("*/.zarray")):
            name = header.parent.name
            if name == "index":
                continue
            values = self._store.values(f"{inside}/{name}")
            if values.shape != ids.shape or values.ndim != 1:
                raise ReaderError(
                    f"{header.parent} has shape {values.shape}, its index {ids.shape}.",
                    f"Compute it again, or delete {table.parent} to do without.",
                )
            columns[name] = values
        return match_units(columns, [str(name) for name in ids.reshape(-1).tolist()], unit_ids, table)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
