"""SpikeInterface's zarr layout (zarr format 2)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import ReaderError, safe_files, safe_zarr
from nuclr_spikeinterface.layout import zarr_attributes
from nuclr_spikeinterface.sorting import (
    Block,
    RawSorting,
    number_of_segments,
    require_integers,
    sampling_rate,
    text_ids,
)

_COPY_AGAIN = "Copy it again, or save it again."
_WITHOUT_OBJECTS = "Save the sorting again, without object columns."


def read_zarr(folder: Path) -> RawSorting:
    """``spikes/{sample_index, unit_index, segment_slices}``, ``unit_ids`` and ``properties/*``.

    Raises:
        ReaderError: An array is missing, damaged, lacks chunks, or uses a codec that could run code.
        MissingPackageError: zarr is not installed.
    """
    attributes = zarr_attributes(folder)
    group, version = safe_zarr.open_group(
        folder, "zarr<3", f"Reading the zarr sorting {folder}", "Copy it again."
    )
    store = Store(folder, group)
    unit_ids = text_ids(store.values("unit_ids"), folder / "unit_ids")
    samples, units = store.array("spikes/sample_index"), store.array("spikes/unit_index")
    require_integers(samples, "sample_index", folder / "spikes")
    require_integers(units, "unit_index", folder / "spikes")
    if samples.shape != units.shape or len(samples.shape) != 1:
        raise ReaderError(
            f"{folder}: sample_index has shape {samples.shape}, unit_index {units.shape}.",
            "Save the sorting again.",
        )
    n_segments = number_of_segments(attributes.get("num_segments"), folder / ".zattrs")
    slices = _segment_slices(store.values("spikes/segment_slices"), n_segments, samples.shape[0], folder)
    properties, warnings = _properties(store, len(unit_ids))

    def blocks() -> Iterator[Block]:
        # Whole chunks: a chunk is decoded as often as a slice touches it.
        chunk = max(int(samples.chunks[0]), 1)
        step = math.ceil(safe_files.BLOCK / chunk) * chunk
        for begin in range(0, samples.shape[0], step):
            end = min(begin + step, samples.shape[0])
            sample_part, unit_part = store.slice(samples, begin, end), store.slice(units, begin, end)
            for number, (first, last) in enumerate(slices):
                a, b = max(first, begin), min(last, end)
                if a < b:
                    yield Block(number, sample_part[a - begin : b - begin], unit_part[a - begin : b - begin])

    written_by = attributes.get("zarr_class_info")
    versions = {"zarr": version}
    if isinstance(written_by, dict) and isinstance(written_by.get("version"), str):
        versions["spikeinterface (writer)"] = written_by["version"]
    annotations = attributes.get("annotations")
    return RawSorting(
        place=folder,
        unit_ids=unit_ids,
        n_segments=n_segments,
        fs_hz=sampling_rate(attributes.get("sampling_frequency")),
        fs_place=folder / ".zattrs",
        blocks=blocks,
        properties=properties,
        annotations=annotations if isinstance(annotations, dict) else {},
        warnings=warnings,
        versions=versions,
    )


class Store:
    """Opens arrays of one zarr group after looking at how they are encoded."""

    def __init__(self, folder: Path, group: Any) -> None:
        self.folder, self.group = folder, group

    def array(self, name: str) -> Any:
        """A complete zarr array with harmless codecs.

        Raises:
            ReaderError: Missing, damaged, or a chunk was never written (zarr would return zeros for it).
        """
        folder = self._require(name)
        array, _ = safe_zarr.open_array(
            self.group, name, folder, folder, fix=_COPY_AGAIN, fix_codecs=_WITHOUT_OBJECTS
        )
        return array

    def _require(self, name: str) -> Path:
        folder = self.folder / name
        if not (folder / ".zarray").is_file():
            raise ReaderError(
                f"{self.folder} has no array {name!r}; a SpikeInterface zarr sorting needs it.", _COPY_AGAIN
            )
        return folder

    def check_codecs(self, name: str) -> None:
        """Raises:
        ReaderError: The array is missing, or its codecs could run code.
        """
        folder = self._require(name)
        safe_zarr.require_plain_codecs(folder, folder, _WITHOUT_OBJECTS)

    def values(self, name: str) -> NDArray[Any]:
        """All values of an array."""
        array = self.array(name)
        return self.slice(array, 0, array.shape[0] if array.shape else 0)

    def slice(self, array: Any, begin: int, end: int) -> NDArray[Any]:
        """Rows of an array, decoded."""
        try:
            return safe_files.require_characters(np.asarray(array[begin:end]), self.folder / array.path)
        except ReaderError:
            raise
        except Exception as error:  # codecs raise RuntimeError, ValueError, their own types
            raise ReaderError(
                f"{self.folder / array.path} cannot be decoded: {error}.", _COPY_AGAIN
            ) from None


def _segment_slices(
    slices: NDArray[Any], n_segments: int, n_spikes: int, folder: Path
) -> list[tuple[int, int]]:
    """First and last row of each segment; they must tile the spike vector."""
    place = folder / "spikes" / "segment_slices"
    if slices.shape != (n_segments, 2) or slices.dtype.kind not in "iu":
        raise ReaderError(
            f"{place} has shape {slices.shape} and type {slices.dtype}, expected ({n_segments}, 2) integers.",
            "Save the sorting again.",
        )
    pairs = [(int(first), int(last)) for first, last in slices.tolist()]
    begins = [0, *(last for _, last in pairs[:-1])]
    if any(first != begin or last < first for (first, last), begin in zip(pairs, begins, strict=True)) or (
        pairs[-1][1] != n_spikes
    ):
        raise ReaderError(
            f"{place} says {pairs}, which does not cover the {n_spikes} spikes one segment after the other.",
            "Save the sorting again.",
        )
    return pairs


def _properties(store: Store, n_units: int) -> tuple[dict[str, NDArray[Any]], tuple[str, ...]]:
    columns: dict[str, NDArray[Any]] = {}
    warnings = []
    for header in sorted((store.folder / "properties").glob("*/.zarray")):
        name = header.parent.name
        try:
            is_object = json.loads(header.read_bytes()).get("dtype") == "|O"
            store.check_codecs(f"properties/{name}")
        except (ReaderError, ValueError, AttributeError) as error:
            warnings.append(f"The property {name!r} was left out: {str(error).splitlines()[0]}")
            continue
        values = store.values(f"properties/{name}")
        if is_object:
            values = values.astype(object)
        if values.ndim == 0 or len(values) != n_units:
            raise ReaderError(
                f"{header.parent} has shape {values.shape}, expected one value per unit ({n_units}).",
                "Labels could land on the wrong units; save the sorting again or delete that property.",
            )
        columns[name] = values
    return columns, tuple(warnings)
