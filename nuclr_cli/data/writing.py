"""Write one population as a temporaldata-layout HDF5 file: atomic, aligned, uncompressed, checksummed."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

import nuclr_cli
from nuclr_cli.api import CalciumTraces, Population, Spikes
from nuclr_cli.data import layout
from nuclr_cli.data.atomic import WriteError, replacing
from nuclr_cli.data.check import check_population, spike_counts
from nuclr_cli.data.inline_executor import InlineExecutor, one_thread
from nuclr_cli.data.meta import SCHEMA_VERSION, SourceRecord, StoredColumn, StoredMeta
from nuclr_cli.data.reading import read_meta

_LONGEST_ATTRIBUTE = 4096
_REGULAR_WITHIN_FRAMES = 0.01


def write_population(
    pop: Population,
    path: Path,
    *,
    source: SourceRecord,
    label_history: Sequence[Mapping[str, Any]] = (),
    hash_beside: bool = True,
) -> tuple[str, ...]:
    """Check `pop` and write it to `path`, whole or not at all.

    Spikes: float64 seconds and a uint16 unit index (uint32 above 65,536 units). Calcium: (T, N) float32.
    A units column ``n_spikes`` (spikes) or ``time_offset`` (calcium) is added; a source column of that name
    that differs is kept as ``source_n_spikes`` or ``source_time_offset``. Same input, same bytes.
    `hash_beside` takes the checksums in a second thread; False keeps to one core.

    Returns:
        All warnings kept in the file: the reader's, then those of the check.

    Raises:
        InputError: `pop` breaks a rule of `check_population`.
        WriteError: The file cannot be written.
    """
    warnings = (*pop.warnings, *(text for text in check_population(pop) if text not in pop.warnings))
    units, notes = _with_derived_columns(pop)
    with (
        one_thread(hash_beside) as hashing,
        replacing(path) as temporary,
        h5py.File(temporary, "w", **layout.CREATION) as file,
    ):
        writer = Writer(file, hashing)
        layout.mark(file, "Data")
        file.attrs["absolute_start"] = np.float64(0.0)
        file.attrs[layout.SCHEMA_ATTRIBUTE] = SCHEMA_VERSION
        layout.write_data_group(file, "session", _session_fields(pop))
        layout.write_data_group(file, "subject", {"id": _attribute_text(pop.subject)})
        intervals = np.asarray(pop.intervals, dtype=np.float64)
        writer.intervals(file, "domain", intervals)
        scale = None
        if pop.spikes is not None:
            columns = writer.units("units", units)
            writer.spikes(pop.spikes, intervals, len(units["id"]))
        else:
            assert pop.calcium is not None  # check_population has seen to it
            columns = writer.units("rois", units)
            writer.calcium(pop.calcium, intervals)
            scale = trace_scale(pop.calcium.values)
        meta = StoredMeta(
            schema=SCHEMA_VERSION,
            versions=_versions(),
            subject=pop.subject,
            session=pop.session,
            population=pop.population,
            subject_assumed=pop.subject_assumed,
            notes=(*pop.notes, *notes),
            warnings=warnings,
            attributes={name: str(value) for name, value in pop.attributes.items()},
            provenance=dict(pop.provenance),
            source=source,
            columns=columns,
            calcium_scale=scale,
            checksums={name: digest.result() for name, digest in sorted(writer.checksums.items())},
            label_history=tuple(label_history),
        )
        writer.meta(meta)
    return warnings


def name_siblings(path: Path, siblings: Sequence[str]) -> None:
    """Note in a file that still waits for its name which populations its source gave.

    Raises:
        WriteError: It cannot be written, and may be half changed.
    """
    meta = replace(read_meta(path), siblings=tuple(siblings))
    try:
        with h5py.File(path, "r+", locking=False) as file:
            del file[layout.META_DATASET]
            Writer(file, InlineExecutor()).meta(meta)
    except (OSError, RuntimeError) as error:  # h5py raises either when a disk is full
        raise WriteError.of(path, error) from error


def trace_scale(values: NDArray[np.float32]) -> float:
    """99th percentile of all samples, the number a session's traces are divided by (protocol: calcium data).

    1.0 where that percentile is not positive: dividing by it would flip or blow up the traces.
    """
    scale = float(np.percentile(values, 99.0))
    return scale if scale > 0 and np.isfinite(scale) else 1.0


@dataclass
class Writer:
    """Writes datasets into an open file, and has `hashing` hash their bytes."""

    file: h5py.File
    hashing: Executor
    checksums: dict[str, Future[str]] = field(default_factory=dict)

    def dataset(self, group: h5py.Group, name: str, values: NDArray[Any]) -> None:
        values = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
        full_name = f"{group.name}/{name}".lstrip("/")
        self.checksums[full_name] = self.hashing.submit(digest_of, values)
        group.create_dataset(name, data=values)

    def intervals(self, parent: h5py.Group, name: str, intervals: NDArray[np.float64]) -> None:
        group = parent.create_group(name)
        layout.mark(group, "Interval", unicode_keys=(), timekeys=("start", "end"))
        self.dataset(group, "start", intervals[:, 0])
        self.dataset(group, "end", intervals[:, 1])

    def units(self, name: str, units: Mapping[str, NDArray[Any]]) -> tuple[StoredColumn, ...]:
        group = self.file.create_group(name)
        columns, text_columns = [], []
        for column, values in units.items():
            stored, escaped = layout.stored_name(column), False
            if values.dtype.kind == "U":
                text_columns.append(stored)
                values, escaped = layout.ascii_text(values)
            self.dataset(group, stored, values)
            columns.append(StoredColumn(column, stored, escaped))
        layout.mark(group, "ArrayDict", unicode_keys=tuple(text_columns))
        return tuple(columns)

    def spikes(self, spikes: Spikes, intervals: NDArray[np.float64], n_units: int) -> None:
        group = self.file.create_group("spikes")
        layout.mark(group, "IrregularTimeSeries", unicode_keys=(), timekeys=("timestamps",))
        times = np.asarray(spikes.times, dtype=np.float64)
        self.dataset(group, "timestamps", times)
        narrow = np.uint16 if n_units <= np.iinfo(np.uint16).max + 1 else np.uint32
        self.dataset(group, "unit_index", np.asarray(spikes.unit_index).astype(narrow, copy=False))
        self.dataset(group, "timestamp_indices_1s", layout.second_index(times, intervals))
        self.intervals(group, "domain", intervals)

    def calcium(self, calcium: CalciumTraces, intervals: NDArray[np.float64]) -> None:
        """A RegularTimeSeries where the frames lie on a grid, else (gaps, jitter) an IrregularTimeSeries.

        temporaldata finds the frames of a RegularTimeSeries by arithmetic, silently wrong after a gap.
        """
        group = self.file.create_group("calcium_traces")
        times, rate = np.asarray(calcium.timestamps, dtype=np.float64), float(calcium.sampling_rate_hz)
        group.attrs["sampling_rate"] = rate
        self.dataset(group, "df_over_f", np.asarray(calcium.values, dtype=np.float32))
        grid = times[0] + np.arange(len(times)) / rate
        if np.abs(times - grid).max() * rate <= _REGULAR_WITHIN_FRAMES:
            layout.mark(group, "RegularTimeSeries")
            self.intervals(group, "domain", np.array([[times[0], times[0] + len(times) / rate]]))
            if not np.array_equal(times, grid):  # the exact times, as a field that temporaldata slices along
                self.dataset(group, "frame_times", times)
        else:
            layout.mark(group, "IrregularTimeSeries", unicode_keys=(), timekeys=("timestamps",))
            self.dataset(group, "timestamps", times)
            self.dataset(group, "timestamp_indices_1s", layout.second_index(times, intervals))
            self.intervals(group, "domain", intervals)

    def meta(self, meta: StoredMeta) -> None:
        """As a dataset of one string: an HDF5 attribute ends at 64 kB, too little for many source files."""
        text = meta.dumps()
        self.file.create_dataset(layout.META_DATASET, data=np.array([text], dtype=np.bytes_))
        self.file.attrs[layout.META_CHECKSUM] = hashlib.sha256(text).hexdigest()


def digest_of(values: NDArray[Any]) -> str:
    """sha256 of a C-contiguous array's bytes, hexadecimal."""
    return hashlib.sha256(values.reshape(-1).view(np.uint8)).hexdigest()  # type: ignore[arg-type]


def _with_derived_columns(pop: Population) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """The units table as stored, with the derived column, and a note where that moved a source column."""
    units = {name: layout.storable(name, values) for name, values in pop.units.items()}
    if pop.spikes is not None:
        name, derived = "n_spikes", spike_counts(pop.spikes, len(units["id"]))
    else:
        assert pop.calcium is not None  # check_population has seen to it
        name, derived = "time_offset", np.asarray(pop.calcium.time_offset, dtype=np.float64)
    notes = []
    if name in units and not np.array_equal(units[name], derived):
        kept = f"source_{name}"
        while kept in units:
            kept = f"source_{kept}"
        units[kept] = units[name]
        notes.append(f"The source's units column {name!r} differs from the data; it is kept as {kept!r}.")
    units[name] = derived
    return units, notes


def _session_fields(pop: Population) -> dict[str, str]:
    """Text attributes of the session group: the ids, and every session attribute that fits."""
    fields = {"id": _attribute_text(pop.session), "population": _attribute_text(pop.population)}
    taken = layout.RESERVED | {"object", "id", "population"}
    for name, value in pop.attributes.items():
        text = _attribute_text(str(value))
        fits = len(text.encode()) <= _LONGEST_ATTRIBUTE
        if name.isidentifier() and name.isascii() and not name.startswith("_") and name not in taken and fits:
            fields[name] = text
    return fields


def _attribute_text(text: str) -> str:
    """`text`, escaped where HDF5 cannot take it (NUL, lone surrogates); the meta has the exact text."""
    writable = "\0" not in text and not any("\ud800" <= char <= "\udfff" for char in text)
    return text if writable else layout.escape(text).decode("ascii")


def _versions() -> dict[str, str]:
    return {
        "nuclr": nuclr_cli.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "h5py": h5py.__version__,
        "hdf5": h5py.version.hdf5_version,
    }
