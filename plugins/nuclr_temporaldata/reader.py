"""The reader of temporaldata and brainsets files."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import CalciumTraces, Population, Reader, ReaderError, ReadOptions, Spikes
from nuclr_temporaldata.hdf5 import attribute, is_text, opened, subgroup
from nuclr_temporaldata.identity import Identity, identify
from nuclr_temporaldata.layout import CALCIUM, SPIKES, Sighting, look_at, recognise
from nuclr_temporaldata.spikes import read_spikes
from nuclr_temporaldata.traces import DEFAULT_SERIES, read_traces
from nuclr_temporaldata.units import Table, read_units

SPLIT_BY = "split_by"

_DESCRIBING = frozenset(
    {"subject", "session", "brainset", "device", "domain", "units", "rois", SPIKES, CALCIUM}
)
_OWN_FIELDS = frozenset({"timestamps", "unit_index", "timestamp_indices_1s", "domain"})
_INSERTIONS = ("probe_id", "pid", "probe", "probe_name")  # how pipelines call the column
_LISTED = 30


class TemporaldataReader(Reader):
    """Files of temporaldata and torch_brain, among them those of brainsets pipelines."""

    name = "temporaldata"
    formats = ("temporaldata", "brainsets")
    looks_for = (
        "an HDF5 file whose root has the attribute object = 'Data' and a group spikes or calcium_traces"
    )
    options = frozenset({"series", "drop_nan_units"})

    def detect(self, path: Path) -> str | None:
        sighting = recognise(path)
        return None if sighting is None else str(sighting)

    def sources(self, path: Path) -> Sequence[Path]:
        return [path]

    def read(self, path: Path, options: ReadOptions) -> Iterator[Population]:
        unknown = [name for name in options.extra if name != SPLIT_BY]
        if unknown:
            raise ReaderError(
                f"{path}: the reader {self.name!r} has no option {' or '.join(map(repr, unknown))}.",
                f"It has --option {SPLIT_BY}=COLUMN.",
            )
        with opened(path) as file:
            sighting = look_at(file)
            if sighting is None:
                raise ReaderError(
                    f"{path} is no temporaldata file.", f"This reader looks for {self.looks_for}."
                )
            if sighting.by_nuclr:
                raise ReaderError(
                    f"{path} is a session file of nuclr already; there is nothing to preprocess.",
                    f"Use it in place: nuclr info {shlex.quote(str(path))}",
                )
            parts = [_part(file, path, sighting, group, options) for group in sighting.groups]
        yield from (population for part in parts for population in part)


@dataclass(frozen=True)
class _Activity:
    """Spikes or traces of all units of a table, and which of the units count."""

    intervals: NDArray[np.float64]
    kept: NDArray[np.bool_]
    spikes: Spikes | None = None
    calcium: CalciumTraces | None = None

    def of(self, rows: NDArray[np.intp]) -> tuple[Spikes | None, CalciumTraces | None]:
        """The activity of some units, which become rows 0, 1, ..."""
        if len(rows) == len(self.kept):
            return self.spikes, self.calcium
        if self.calcium is not None:
            traces = self.calcium
            values, offsets = np.ascontiguousarray(traces.values[:, rows]), traces.time_offset[rows]
            return None, CalciumTraces(values, traces.timestamps, traces.sampling_rate_hz, offsets)
        assert self.spikes is not None
        new_row = np.full(len(self.kept), -1, dtype=np.int64)
        new_row[rows] = np.arange(len(rows))
        index = new_row[self.spikes.unit_index]
        mine = index >= 0
        return Spikes(self.spikes.times[mine], index[mine].astype(self.spikes.unit_index.dtype)), None


def _part(
    file: h5py.File, path: Path, sighting: Sighting, name: str, options: ReadOptions
) -> list[Population]:
    """The populations of one modality."""
    who = identify(file, path, options)
    notes, warnings = list(who.notes), list[str]()
    group = subgroup(file, name)
    assert group is not None  # `look_at` saw it
    if name == SPIKES:
        if options.series or options.drop_nan_units:
            raise ReaderError(
                f"{path} holds spikes: --series and --drop-nan-units are for traces.", "Leave them out."
            )
        units = read_units(file, ("units",), notes, warnings)
        spikes, intervals = read_spikes(file, group, units, notes)
        activity = _Activity(intervals, np.ones(len(units.ids), dtype=np.bool_), spikes=spikes)
    else:
        units = read_units(file, ("rois", "units"), notes, warnings)
        traces, intervals, sound = read_traces(file, group, units, options, notes)
        activity = _Activity(intervals, sound, calcium=traces)
    population = who.population
    if len(sighting.groups) > 1:
        population = name if population == "0" else f"{population} {name}"
        notes.append(
            f"The file holds spikes and calcium traces: two populations, this one is {population!r}."
        )
    notes += _not_read(file, group, options)
    provenance = {
        "reader": TemporaldataReader.name,
        "path": str(path),
        "detected": str(sighting),
        "versions": {"numpy": np.__version__, "h5py": h5py.__version__, "hdf5": h5py.version.hdf5_version},
        "brainset": who.attributes.get("brainset", ""),
        "columns": sorted(units.columns),
        "dropped_unit_ids": units.ids[~activity.kept].tolist(),
    }
    return [
        _population(who, units, activity, rows, label, notes, warnings, provenance)
        for label, rows in _shares(path, population, units, activity.kept, options, notes)
    ]


def _population(
    who: Identity,
    units: Table,
    activity: _Activity,
    rows: NDArray[np.intp],
    population: str,
    notes: list[str],
    warnings: list[str],
    provenance: dict[str, Any],
) -> Population:
    spikes, calcium = activity.of(rows)
    return Population(
        subject=who.subject,
        session=who.session,
        population=population,
        units={name: column[rows] for name, column in units.columns.items()},
        intervals=activity.intervals,
        spikes=spikes,
        calcium=calcium,
        subject_assumed=who.subject_assumed,
        attributes=who.attributes,
        notes=tuple(notes),
        warnings=tuple(warnings),
        provenance=provenance,
    )


def _shares(
    path: Path, population: str, units: Table, kept: NDArray[np.bool_], options: ReadOptions, notes: list[str]
) -> list[tuple[str, NDArray[np.intp]]]:
    """Name and units of each population: all units, or those that share a value of a column."""
    column_name = options.extra.get(SPLIT_BY)
    if column_name is None:
        several = next(
            (c for c in _INSERTIONS if len(np.unique(units.columns.get(c, np.zeros(1)))) > 1), None
        )
        if several is not None:
            notes.append(
                f"Units of several insertions ({several!r}) are one population; "
                f"--option {SPLIT_BY}={several} makes one of each."
            )
        return [(population, np.flatnonzero(kept))]
    column = units.columns.get(column_name)
    if column is None or column.ndim != 1:
        single = ", ".join(
            name for name, values in units.columns.items() if values.ndim == 1 and name != "id"
        )
        raise ReaderError(
            f"{path}: {units.place!r} has no column {column_name!r} of one value per unit to split by.",
            f"Its columns are: {single}." if single else "Leave --option out.",
        )
    labels = column.astype(np.str_)
    names = np.unique(labels[kept])
    blank = int((labels[kept] == "").sum())
    if blank:
        raise ReaderError(f"{path}: {blank} units have no value of {column_name!r} to split by.")
    notes.append(
        f"The units were split by {column_name!r} into {len(names)} populations: "
        f"{', '.join(names[:_LISTED])}."
    )
    prefix = "" if population == "0" else f"{population} "
    return [(f"{prefix}{name}", np.flatnonzero(kept & (labels == name))) for name in names.tolist()]


def _not_read(file: h5py.File, series: h5py.Group, options: ReadOptions) -> list[str]:
    """What else is in the file, one sentence."""
    others = []
    for name in file:
        if name in _DESCRIBING or not is_text(name):
            continue
        item = file.get(name) if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
        kind = attribute(item, "object") if isinstance(item, h5py.Group) else None
        others.append(f"{name} ({kind})" if kind else name)
    used = _OWN_FIELDS | {options.series[0] if options.series else DEFAULT_SERIES}
    place = series.name.lstrip("/")
    others += [f"{place}/{name}" for name in series if name not in used and is_text(name)]
    if not others:
        return []
    more = f" and {len(others) - _LISTED} more" if len(others) > _LISTED else ""
    return [f"Not read, since only neural activity is used: {', '.join(others[:_LISTED])}{more}."]
