"""SpikeInterface's zarr layout (zarr format 2)."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import MissingPackageError, ReaderError, safe_files
from nuclr_spikeinterface.layout import zarr_attributes
from nuclr_spikeinterface.sorting import (
    Block,
    RawSorting,
    number_of_segments,
    require_integers,
    sampling_rate,
    text_ids,
)

# Codecs that only rearrange bytes. `pickle` is not among them: decoding it runs code in older numcodecs.
_PLAIN_CODECS = frozenset(
    [
        "blosc",
        "zstd",
        "lz4",
        "zlib",
        "gzip",
        "bz2",
        "lzma",
        "delta",
        "shuffle",
        "bitround",
        "fixedscaleoffset",
        "quantize",
        "packbits",
        "astype",
        "categorize",
        "crc32",
        "crc32c",
        "adler32",
        "fletcher32",
        "vlen-utf8",
        "vlen-bytes",
        "json2",
    ]
)


def read_zarr(folder: Path) -> RawSorting:
    """``spikes/{sample_index, unit_index, segment_slices}``, ``unit_ids`` and ``properties/*``.

    Raises:
        ReaderError: An array is missing, damaged, lacks chunks, or uses a codec that could run code.
        MissingPackageError: zarr is not installed.
    """
    try:
        zarr = importlib.import_module("zarr")
    except ImportError:
        raise MissingPackageError("zarr<3", f"Reading the zarr sorting {folder}") from None
    attributes = zarr_attributes(folder)
    try:
        group = zarr.open_group(str(folder), mode="r")
    except Exception as error:  # zarr raises its own types, which differ between versions
        raise ReaderError(f"{folder} cannot be opened as a zarr group: {error}.", "Copy it again.") from None
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
    versions = {"zarr": str(zarr.__version__)}
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
        place = self.folder / name
        self.check_codecs(name)
        try:
            array = self.group[name]
            written, expected = array.nchunks_initialized, array.nchunks
        except Exception as error:
            raise ReaderError(f"{place} is damaged: {error}.", "Copy it again, or save it again.") from None
        if written != expected:
            raise ReaderError(
                f"{place} lacks {expected - written} of {expected} chunks; its values there would read as 0.",
                "The copy is incomplete: copy it again, or save it again.",
            )
        if getattr(array.compressor, "codec_id", "") == "blosc":
            _require_whole_blosc_chunks(place)
        return array

    def check_codecs(self, name: str) -> None:
        """Raises:
        ReaderError: The array is missing, or its codecs could run code.
        """
        header_path = self.folder / name / ".zarray"
        if not header_path.is_file():
            raise ReaderError(
                f"{self.folder} has no array {name!r}; a SpikeInterface zarr sorting needs it.",
                "Copy it again, or save it again.",
            )
        header = safe_files.read_json(header_path)
        filters = header.get("filters") or []
        codecs = [header.get("compressor"), *(filters if isinstance(filters, list) else [filters])]
        names = [
            codec.get("id") if isinstance(codec, dict) else codec for codec in codecs if codec is not None
        ]
        forbidden = [str(codec) for codec in names if str(codec) not in _PLAIN_CODECS]
        if forbidden:
            raise ReaderError(
                f"{self.folder / name} is encoded with {', '.join(forbidden)}, which could run code.",
                "Save the sorting again, without object columns.",
            )

    def values(self, name: str) -> NDArray[Any]:
        """All values of an array."""
        array = self.array(name)
        return self.slice(array, 0, array.shape[0] if array.shape else 0)

    def slice(self, array: Any, begin: int, end: int) -> NDArray[Any]:
        """Rows of an array, decoded."""
        try:
            return np.asarray(array[begin:end])
        except Exception as error:  # codecs raise RuntimeError, ValueError, their own types
            raise ReaderError(
                f"{self.folder / array.path} cannot be decoded: {error}.", "Copy it again, or save it again."
            ) from None


def _require_whole_blosc_chunks(place: Path) -> None:
    """Blosc reads past the end of a chunk that was cut off, and returns what lies in memory there.

    Raises:
        ReaderError: A chunk is shorter or longer than its header says.
    """
    cut = []
    for chunk in place.rglob("*"):
        if chunk.name.startswith(".") or not chunk.is_file():
            continue
        with chunk.open("rb") as file:
            header = file.read(16)
        said = int.from_bytes(header[12:16], "little")
        if len(header) < 16 or said != chunk.stat().st_size:
            cut.append(chunk.name)
    if cut:
        raise ReaderError(
            f"{place} cannot be decoded: {len(cut)} of its chunks are cut off "
            f"({', '.join(sorted(cut)[:5])}).",
            "Copy it again, or save it again.",
        )


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
