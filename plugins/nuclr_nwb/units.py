"""The units table of an NWB file becomes populations of spikes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import ReaderError, ReadOptions, Spikes
from nuclr_nwb.curation import kept_by_quality
from nuclr_nwb.observed import declared, invalid_times, observation_intervals, subtract
from nuclr_nwb.regions import APART, Places, cleaned_regions, places, split_by_probe
from nuclr_nwb.spikes import UnitTimes, in_time_order, merge, read_times, refuse_negative, rows_of
from nuclr_nwb.tables import Table, read_table
from nuclr_nwb.tree import Tree

UNITS = "/units"


@dataclass
class SpikePart:
    """Units recorded together, before they are given subject and session.

    Attributes:
        name: Of the probe, '' when there are not several.
        units: Columns of the units table.
        intervals: (M, 2) float64 seconds.
        spikes: Of these units.
        notes, warnings: For the user.
        details: For the provenance.
    """

    name: str
    units: dict[str, NDArray[Any]]
    intervals: NDArray[np.float64]
    spikes: Spikes
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)


def has_units(tree: Tree) -> bool:
    """Whether the file has a units table with spikes, or a link where one should be."""
    return "spike_times" in tree.names(UNITS) or tree.broken_link(UNITS) is not None


def read_units(tree: Tree, options: ReadOptions) -> Iterator[SpikePart]:
    """One part, or one for each probe.

    Raises:
        ReaderError: No units, a broken index, impossible times.
    """
    target = tree.broken_link(UNITS)
    if target is not None:
        raise ReaderError(
            f"{tree.place}: the units are a link to {target}.",
            f"Put the linked file back where {tree.place.name} expects it.",
        )
    table = read_table(tree, UNITS, apart=APART)
    place = f"{tree.place}:{UNITS}"
    if not len(table.ids):
        raise ReaderError(f"{place}: the table has no units.", "Check that the sorter found any.")
    notes, warnings = table.notes, table.warnings
    found = places(tree, table)
    columns = _columns(table, found, notes)
    kept = kept_by_quality(table, options, place, notes, warnings)
    if "quality" in table.columns:
        columns.setdefault("quality", table.columns["quality"])
    unit_times = read_times(tree, UNITS, table.ids, kept)
    warnings += unit_times.warnings
    if not len(unit_times.times):
        raise ReaderError(f"{place}: its {int(kept.sum())} units have no spikes.", "Check the source.")
    intervals = _intervals(tree, options, kept, unit_times, table.ids[kept], notes, warnings)
    parts = split_by_probe(Places(None, found.group[kept], found.probe[kept]))
    if len(parts) > 1:
        sizes = ", ".join(f"{name} ({len(rows)} units)" for name, rows in parts)
        notes.append(f"The units come from several probes; each is a population of its own: {sizes}.")
    dropped = table.ids[~kept].tolist()
    del table
    columns = {name: column[kept] for name, column in columns.items()}
    for name, rows in parts:
        own = rows_of(unit_times, rows)
        if len(parts) == 1:
            del unit_times  # the flat array is as large as the result
        part_notes = list(notes)
        if not len(own.times):
            warnings.append(f"The {len(rows)} units of {name} have no spikes: this probe was left out.")
            continue
        spikes = _sorted(own, intervals, part_notes, place)
        del own
        yield SpikePart(
            name=name,
            units={key: column[rows] for key, column in columns.items()},
            intervals=intervals,
            spikes=spikes,
            notes=[*part_notes, *found.notes],
            warnings=[*warnings, *found.warnings],
            details={"table": UNITS, "dropped_unit_ids": dropped},
        )


def _columns(table: Table, found: Places, notes: list[str]) -> dict[str, NDArray[Any]]:
    columns: dict[str, NDArray[Any]] = {"id": table.ids, **table.columns}
    if found.region is not None:
        columns.setdefault("brain_region", found.region)
        if (cleaned_regions(columns["brain_region"].tolist()) == "").all():
            columns["brain_region"] = found.region
    if "celltype" in columns and "cell_type" not in columns:
        columns["cell_type"] = columns["celltype"]
        notes.append("The column 'celltype' is also there as 'cell_type'.")
    for name, values in (("electrode_group", found.group), ("probe", found.probe)):
        if (values != "").any():
            columns.setdefault(name, values)
    return columns


def _intervals(
    tree: Tree,
    options: ReadOptions,
    kept: NDArray[np.bool_],
    unit_times: UnitTimes,
    ids: NDArray[np.str_],
    notes: list[str],
    warnings: list[str],
) -> NDArray[np.float64]:
    """When the units were recorded: as said, else as the file says, else up to the last spike."""
    place = str(tree.place)
    last_s = float(unit_times.times.max())
    said = declared(options, place, last_s)
    if said is not None:
        intervals = said
        notes.append("The recording runs as --segment-starts and --duration say; obs_intervals do not count.")
        times = unit_times.times
        refuse_negative(place, unit_times, ids, intervals)
        outside = int(((times < said[0, 0]) | (times > said[-1, 1])).sum())
        if outside:
            raise ReaderError(
                f"{place}: {outside} of {len(times)} spikes lie outside {said[0, 0]:g} to {said[-1, 1]:g} s, "
                f"as --segment-starts and --duration say; they span {times.min():.6g} to {last_s:.6g} s.",
                "Correct them, or leave them out.",
            )
    else:
        observed = observation_intervals(tree, UNITS, kept, notes, warnings)
        if observed is None:
            intervals = np.array([[0.0, last_s]])
            notes.append(
                "The file does not say when the units were observed (no obs_intervals); the recording is "
                f"taken to run from 0 to the last spike, at {last_s:.6g} s. --duration says otherwise."
            )
        else:
            intervals = observed
            notes.append("The intervals are the union of the units' obs_intervals.")
        refuse_negative(place, unit_times, ids, intervals)
        if intervals[-1, 1] <= intervals[0, 0]:
            raise ReaderError(f"{place}: the recording has no length ({intervals[0, 0]:g} s).", "--duration")
    gone = invalid_times(tree)
    if len(gone):
        valid = subtract(merge(intervals) if said is None else intervals, gone)
        if not len(valid):
            raise ReaderError(f"{place}: invalid_times cover the whole recording.", "Repair the file.")
        lost = float((intervals[:, 1] - intervals[:, 0]).sum() - (valid[:, 1] - valid[:, 0]).sum())
        if lost > 0:
            notes.append(f"{lost:g} s are left out because the file lists them under invalid_times.")
        intervals = valid
    return intervals


def _sorted(own: UnitTimes, intervals: NDArray[np.float64], notes: list[str], place: str) -> Spikes:
    n_spikes = len(own.times)
    spikes, outside = in_time_order(own, intervals)
    if outside:
        notes.append(f"{outside} of {n_spikes} spikes lie outside the intervals and were left out.")
    if not len(spikes.times):
        raise ReaderError(
            f"{place}: all {n_spikes} spikes lie outside the recording, {intervals[0, 0]:g} to "
            f"{intervals[-1, 1]:g} s.",
            "Are the times seconds? Say when the recording ran: --segment-starts 0 --duration SECONDS.",
        )
    return spikes
