"""Read the headers of a temporaldata-layout file, whoever wrote it, and say where its bytes lie."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import h5py
import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import Modality
from nuclr_cli.data import layout
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
        frames_domain: (K, 2) intervals in which frames of a calcium file are valid.
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
    frames_domain: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 2)))
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
        columns = _columns(units, meta)
        if "id" not in columns:
            _refuse(path, f"its group {units.name!r} has no dataset 'id'")
        series = file["calcium_traces" if calcium else "spikes"]
        intervals = _intervals(path, file, series)
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
            for name in ("timestamps", "unit_index"):
                if name not in series:
                    _refuse(path, f"its group 'spikes' has no dataset {name!r}")
            arrays = {
                "times": _extent(path, series["timestamps"]),
                "unit_index": _extent(path, series["unit_index"]),
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
        values: NDArray[Any] = file[name][()]
        return values


def _extent(path: Path, dataset: h5py.Dataset) -> Extent:
    """Where `dataset` lies; mappable only when contiguous and aligned to its item size."""
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "iuf":
        _refuse(path, f"its {dataset.name!r} is no array of numbers")
    if dataset.is_virtual or dataset.external:
        _refuse(path, f"its {dataset.name!r} takes its values from other files")
    if dataset.chunks and dataset.size:
        chunks = math.prod(-(-n // c) for n, c in zip(dataset.shape, dataset.chunks, strict=True))
        if dataset.id.get_num_chunks() < chunks:
            _refuse(path, f"its {dataset.name!r} lacks chunks, whose values would be read as 0")
    offset = None
    if dataset.chunks is None and dataset.size and dataset.file.userblock_size == 0:
        offset = dataset.id.get_offset()
        # Mapping a misaligned array makes numpy copy all of it at every search.
        if offset is not None and (offset % dataset.dtype.itemsize or not dataset.dtype.isnative):
            offset = None
    return Extent(dataset.name.lstrip("/"), dataset.dtype, dataset.shape, offset)


def _refuse(path: Path, what: str) -> NoReturn:
    raise InputError(
        f"{path} is HDF5 but not a population file in the temporaldata layout: {what}.",
        "Give a folder made by `nuclr preprocess` or by brainsets, and move other .h5 files out of it.",
    )


def _check_layout(path: Path, file: h5py.File) -> None:
    kind = file.attrs.get("object")
    if (kind.decode() if isinstance(kind, bytes) else kind) != "Data":
        _refuse(path, "its root has no attribute object = 'Data'")
    if not isinstance(file.get("spikes", file.get("calcium_traces")), h5py.Group):
        _refuse(path, "it has neither a group 'spikes' nor a group 'calcium_traces'")


def _meta(path: Path, file: h5py.File) -> StoredMeta:
    if layout.META_DATASET not in file:
        return _meta_of_other_writers(path, file)
    text = bytes(file[layout.META_DATASET][0])
    if hashlib.sha256(text).hexdigest() != file.attrs.get(layout.META_CHECKSUM):
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
        if name in file:
            return file[name]
    _refuse(path, "it has no group " + ("'rois' (or 'units')" if calcium else "'units'"))


def _columns(units: h5py.Group, meta: StoredMeta) -> dict[str, NDArray[Any]]:
    described = [(column.name, column.stored, column.escaped) for column in meta.columns]
    if not described:
        described = [(name, name, False) for name, item in units.items() if isinstance(item, h5py.Dataset)]
    columns: dict[str, NDArray[Any]] = {}
    for name, stored, escaped in described:
        values = units[stored][()]
        is_text = values.dtype.kind in "SOU" or name == "id"
        columns[name] = layout.plain_text(values, escaped) if is_text else values
    return columns


def _intervals(path: Path, file: h5py.File, series: h5py.Group) -> NDArray[np.float64]:
    for group in (file.get("domain"), file.get("intervals"), series.get("domain")):
        if isinstance(group, h5py.Group) and "start" in group and "end" in group:
            return _edges(group)
    _refuse(path, "it has no group 'domain' with datasets 'start' and 'end'")


def _edges(group: h5py.Group) -> NDArray[np.float64]:
    edges: NDArray[np.float64] = np.stack([group["start"][()], group["end"][()]], axis=1).astype(np.float64)
    return edges


def _text_attribute(file: h5py.File, group: str, name: str) -> str:
    value = file[group].attrs.get(name, "") if group in file else ""
    return value.decode() if isinstance(value, bytes) else str(value)


def _meta_of_other_writers(path: Path, file: h5py.File) -> StoredMeta:
    """What the groups say. Without an id the file's name stands in, and a note says so."""
    ids = {role: _text_attribute(file, role, "id") for role in ("subject", "session")}
    return StoredMeta(
        subject=ids["subject"] or path.stem,
        session=ids["session"] or path.stem,
        population=_text_attribute(file, "session", "population") or "0",
        subject_assumed=not ids["subject"],
        notes=tuple(
            f"The file names no {role}: its own name {path.stem!r} is taken."
            for role, name in ids.items()
            if not name
        ),
        attributes=_attributes(file),
    )


def _attributes(file: h5py.File) -> dict[str, str]:
    """Attributes of the describing groups of other writers, as ``subject.species``."""
    found = {}
    for group in ("session", "subject", "brainset"):
        for name in sorted(file[group].attrs) if group in file else ():
            if name not in ("object", "absolute_start", "id"):
                found[f"{group}.{name}"] = _text_attribute(file, group, name)
    return found


def _calcium_contents(path: Path, series: h5py.Group, common: dict[str, Any]) -> Contents:
    if "df_over_f" not in series:
        _refuse(path, "its group 'calcium_traces' has no dataset 'df_over_f'")
    arrays = {"values": _extent(path, series["df_over_f"])}
    rate, start = float(series.attrs.get("sampling_rate", np.nan)), float("nan")
    frames_domain = common["intervals"]
    for name in ("timestamps", "frame_times"):
        if name in series:
            arrays["times"] = _extent(path, series[name])
    if "domain" in series:
        frames_domain = _edges(series["domain"])
    if "times" not in arrays:
        if np.isnan(rate) or len(frames_domain) == 0:
            _refuse(
                path, "its group 'calcium_traces' has neither 'timestamps' nor a sampling rate and a domain"
            )
        start = float(frames_domain[0, 0])
    return Contents(
        **common,
        arrays=arrays,
        regular_start_s=start,
        frames_domain=frames_domain,
        sampling_rate_hz=rate,
    )
