"""Read the headers of a temporaldata-layout file, whoever wrote it, and say where its bytes lie."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import Modality, hdf5_damage
from nuclr_cli.data import foreign, layout
from nuclr_cli.data.hdf5 import (
    edges_of,
    member,
    number_attribute,
    refuse,
    require_sound_texts,
    require_stored,
    text_attribute,
    values,
)
from nuclr_cli.data.meta import SCHEMA_VERSION, StoredMeta
from nuclr_cli.errors import InputError


@dataclass(frozen=True)
class Extent:
    """Where a dataset lies in its file.

    Attributes:
        name: Path of the dataset in the file.
        dtype, shape: Of the array.
        offset: First byte, None when it cannot be mapped (chunked, compressed, misaligned, empty).
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int | None


@dataclass(frozen=True)
class Contents:
    """Everything about a population file but its spikes or traces.

    Attributes:
        subject, session, population: The key.
        subject_assumed: Nobody said who the subject is.
        modality: ``spikes`` or ``calcium``.
        columns: Units columns, text as str.
        intervals: (M, 2) float64 seconds.
        attributes: Session (and, in files of other writers, subject and brainset) attributes as text.
        meta: What nuclr stored; defaults for files of other writers.
        arrays: ``times`` and ``unit_index``, or ``values`` and, unless regular, ``times``.
        regular_start_s: Time of the first frame of a regular series, else NaN.
        sampling_rate_hz: Frame rate, NaN for spikes or where it has to be taken from the frame times.
        stamp: `file_stamp` of the file these facts were read from.
    """

    subject: str
    session: str
    population: str
    subject_assumed: bool
    modality: Modality
    columns: Mapping[str, NDArray[Any]]
    intervals: NDArray[np.float64]
    attributes: Mapping[str, str]
    meta: StoredMeta
    arrays: Mapping[str, Extent]
    stamp: tuple[int, int]
    regular_start_s: float = float("nan")
    sampling_rate_hz: float = float("nan")


def file_stamp(path: Path) -> tuple[int, int]:
    """(size, mtime_ns): changes when the file is replaced."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """The file, read only; what h5py raises on damaged bytes becomes an InputError that names the file."""
    try:
        if not path.exists():
            raise InputError(
                f"{path} does not exist.", "Check the path, or run `nuclr preprocess SOURCE` first."
            )
        with _open(path) as file:
            yield file
    except InputError:
        raise
    except PermissionError as error:
        raise InputError(f"No permission to read {path}.", "Ask its owner, or chmod u+r.") from error
    except Exception as error:  # damaged bytes surface as almost any type, deep inside h5py and numpy
        reason = str(error).strip("'\"") or type(error).__name__
        raise InputError(
            f"{path} cannot be read ({reason}); it is damaged, cut off or no HDF5 file.",
            "Copy it again, or make it anew with `nuclr preprocess SOURCE --overwrite`.",
        ) from error


def _open(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        if "lock" not in str(error):
            raise
        # Some network file systems know no locks, and files are replaced whole, never changed in place.
        return h5py.File(path, "r", locking=False)


def read_contents(path: Path) -> Contents:
    """Metadata, units table and byte positions of one population file.

    Raises:
        InputError: No such file, damaged, or HDF5 of another layout; says what is missing.
    """
    with opened(path) as file:
        _check_layout(path, file)
        meta = _meta(path, file)
        calcium = "spikes" not in file
        units = _units_group(path, file, calcium)
        columns, left_out = _columns(path, units, meta)
        if left_out:
            told = (
                f"Columns of {units.name[1:]!r} that no table can hold were left out: {', '.join(left_out)}."
            )
            meta = replace(meta, warnings=(*meta.warnings, told))
        if "id" not in columns:
            refuse(path, f"its group {units.name!r} has no dataset 'id'")
        series = member(path, file, "calcium_traces" if calcium else "spikes")
        intervals = _intervals(path, file, series, meta)
        common: dict[str, Any] = {
            "subject": meta.subject,
            "session": meta.session,
            "population": meta.population,
            "subject_assumed": meta.subject_assumed,
            "modality": "calcium" if calcium else "spikes",
            "columns": columns,
            "intervals": intervals,
            "attributes": meta.attributes,
            "meta": meta,
            "stamp": file_stamp(path),
        }
        if not calcium:
            found = {name: member(path, series, name) for name in ("timestamps", "unit_index")}
            for name, item in found.items():
                if item is None:
                    refuse(path, f"its group 'spikes' has no dataset {name!r}")
            arrays = {
                "times": _extent(path, found["timestamps"]),
                "unit_index": _extent(path, found["unit_index"]),
            }
            return Contents(**common, arrays=arrays)
        return _calcium_contents(path, series, common)


def read_meta(path: Path) -> StoredMeta:
    """Metadata that nuclr stored in a population file, or what the groups of another writer's file say.

    Raises:
        InputError: Not a population file, damaged, or written by a newer nuclr.
    """
    with opened(path) as file:
        _check_layout(path, file)
        return _meta(path, file)


def read_whole(path: Path, name: str) -> NDArray[Any]:
    """One dataset in memory, decompressed where needed."""
    with opened(path) as file:
        found: NDArray[Any] = file[name][()]
        return found


def _extent(path: Path, dataset: h5py.Dataset) -> Extent:
    """Where `dataset` lies; mappable only when contiguous and aligned to its item size."""
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "iuf":
        refuse(path, f"its {dataset.name!r} is no array of numbers")
    require_stored(path, dataset)
    offset = None
    if dataset.chunks is None and dataset.size and dataset.file.userblock_size == 0:
        offset = dataset.id.get_offset()
        # Mapping a misaligned array makes numpy copy all of it at every search.
        if offset is not None and (offset % dataset.dtype.itemsize or not dataset.dtype.isnative):
            offset = None
    return Extent(dataset.name.lstrip("/"), dataset.dtype, dataset.shape, offset)


def _check_layout(path: Path, file: h5py.File) -> None:
    require_sound_texts(path, file)
    if text_attribute(file, "object") != "Data":
        refuse(path, "its root has no attribute object = 'Data'")
    series = member(path, file, "spikes")
    if not isinstance(member(path, file, "calcium_traces") if series is None else series, h5py.Group):
        refuse(path, "it has neither a group 'spikes' nor a group 'calcium_traces'")


def _meta(path: Path, file: h5py.File) -> StoredMeta:
    stored = member(path, file, layout.META_DATASET)
    if stored is None:
        return foreign.meta_of(path, file)
    text = bytes(values(path, stored)[0])
    if hashlib.sha256(text).hexdigest() != text_attribute(file, layout.META_CHECKSUM):
        raise InputError(
            f"{path} is damaged: its metadata (dataset {layout.META_DATASET!r}) does not match its checksum.",
            "Copy it again, or make it anew with `nuclr preprocess SOURCE --overwrite`.",
        )
    schema = json.loads(text)["schema"]
    if schema > SCHEMA_VERSION:
        raise InputError(
            f"{path} has layout version {schema}, this nuclr knows versions up to {SCHEMA_VERSION}.",
            "Upgrade nuclr, or make the file anew with this version (`nuclr preprocess SOURCE --overwrite`).",
        )
    return StoredMeta.loads(text)


def _units_group(path: Path, file: h5py.File, calcium: bool) -> h5py.Group:
    for name in ("rois", "units") if calcium else ("units",):
        item = member(path, file, name)
        if item is not None:
            return item
    refuse(path, "it has no group " + ("'rois' (or 'units')" if calcium else "'units'"))


def _columns(path: Path, units: h5py.Group, meta: StoredMeta) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """The units table, and the columns that no table can hold (of other writers; nuclr writes none)."""
    described = [(column.name, column.stored, column.escaped) for column in meta.columns]
    left_out: list[str] = []
    if not described:
        items = {name: member(path, units, name) for name in units if isinstance(name, str)}
        arrays = {name: item for name, item in items.items() if isinstance(item, h5py.Dataset)}
        left_out = [name for name, item in arrays.items() if not hdf5_damage.is_plain(item.id)]
        described = [(name, name, False) for name in arrays if name not in left_out]
    columns: dict[str, NDArray[Any]] = {}
    for name, stored, escaped in described:
        found = values(path, member(path, units, stored))
        is_text = found.dtype.kind in "SOU" or name == "id"
        columns[name] = layout.plain_text(found, escaped) if is_text else found
    return columns, left_out


def _intervals(path: Path, file: h5py.File, series: h5py.Group, meta: StoredMeta) -> NDArray[np.float64]:
    """When the recording is valid; in files of other writers where both root and series say so."""

    def interval(group: h5py.Group, name: str) -> list[h5py.Group]:
        part = member(path, group, name)
        return [part] if isinstance(part, h5py.Group) and "start" in part and "end" in part else []

    parts = [*interval(file, "domain"), *interval(series, "domain")] or interval(file, "intervals")
    if not parts:
        refuse(path, "it has no group 'domain' with datasets 'start' and 'end'")
    return foreign.valid_intervals(path, parts) if meta.schema is None else edges_of(path, parts[0])


def _calcium_contents(path: Path, series: h5py.Group, common: dict[str, Any]) -> Contents:
    frames = member(path, series, "df_over_f")
    if frames is None:
        refuse(path, "its group 'calcium_traces' has no dataset 'df_over_f'")
    arrays = {"values": _extent(path, frames)}
    rate, start = number_attribute(series, "sampling_rate"), float("nan")
    own_domain = common["intervals"]
    for name in ("timestamps", "frame_times"):
        times = member(path, series, name)
        if times is not None:
            arrays["times"] = _extent(path, times)
    own = member(path, series, "domain")
    if own is not None:
        own_domain = edges_of(path, own)
    if "times" not in arrays:
        if np.isnan(rate) or len(own_domain) == 0:
            refuse(
                path, "its group 'calcium_traces' has neither 'timestamps' nor a sampling rate and a domain"
            )
        if not 0 < rate < np.inf:
            refuse(path, f"its group 'calcium_traces' has a sampling rate of {rate:g} Hz")
        start = float(own_domain[0, 0])
        if common["meta"].schema is None:
            foreign.require_filler_frames(path, len(frames), own_domain, rate)
    return Contents(
        **common,
        arrays=arrays,
        regular_start_s=start,
        sampling_rate_hz=rate,
    )
