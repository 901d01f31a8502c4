"""Where units were recorded: brain region, electrode group and probe of each."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import ReaderError
from nuclr_nwb.spikes import ragged_ends
from nuclr_nwb.tables import Table, pickle_warning
from nuclr_nwb.tree import Tree, join
from nuclr_nwb.zarr_tree import is_pickled

APART = frozenset({"spike_times", "obs_intervals", "electrodes", "electrode_group"})
_REGION_COLUMNS = ("brain_area", "brain_region", "location", "structure")
_GROUPS = "/general/extracellular_ephys"
_ELECTRODES = "/general/extracellular_ephys/electrodes"
_NOT_A_REGION = frozenset(
    {"", "see electrode locations", "unknown", "n/a", "na", "nan", "none", "null", "void"}
)
_NAMED = 5


@dataclass
class Places:
    """Where each unit was recorded.

    Attributes:
        region: (N,) str, '' = unknown; None when nothing tells.
        group: (N,) str name of the electrode group, '' = unknown.
        probe: (N,) str name of the device, '' = unknown.
        notes, warnings: For the user.
    """

    region: NDArray[np.str_] | None
    group: NDArray[np.str_]
    probe: NDArray[np.str_]
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def places(tree: Tree, table: Table) -> Places:
    """Brain region, electrode group and probe of every unit, from wherever the file has them."""
    n_units = len(table.ids)
    blank = np.full(n_units, "", dtype=np.str_)
    found = Places(None, blank, blank)
    if tree.is_elsewhere(table.path) or tree.is_elsewhere(join(table.path, "id")):
        found.warnings.append(
            "The units are in another file, so their electrodes and electrode groups were not followed."
        )
        electrodes, groups = None, [""] * n_units
    else:
        electrodes = _electrodes(tree, table, found)
        groups = _groups(tree, table, electrodes, found)
    found.group = np.array([group.rpartition("/")[2] for group in groups], dtype=np.str_)
    found.probe = _probes(tree, groups)
    for name in _REGION_COLUMNS:
        column = table.columns.get(name)
        if column is None or column.dtype.kind != "U":
            continue
        cleaned = cleaned_regions(column.tolist())
        if (cleaned != "").any():
            found.region = cleaned
            if name != "brain_region":
                found.notes.append(f"brain_region is taken from the column {name!r} of {table.path}.")
            return found
    by_group = cleaned_regions(
        [str(tree.attributes(group).get("location") or "") if group else "" for group in groups]
    )
    if (by_group != "").any():
        found.region = by_group
        found.notes.append("brain_region is taken from the location of each unit's electrode group.")
    if electrodes is not None and (by_group == "").any():
        _majority(tree, table, electrodes, found)
        if found.region is not None and (by_group != "").any():
            found.region = np.where(by_group != "", by_group, found.region)
    return found


def _electrodes(tree: Tree, table: Table, found: Places) -> list[NDArray[np.int64]] | None:
    """Rows of the electrodes table for each unit; None when nothing (usable) tells."""
    at = join(table.path, "electrodes")
    if not tree.has_array(at):
        return None
    try:
        array = tree.array(at)
        rows = array.numbers("electrodes", kinds="iu").astype(np.int64)
        if tree.has_array(f"{at}_index"):
            ends = ragged_ends(tree, at, len(table.ids), len(rows))
        elif len(rows) == len(table.ids):
            ends = np.arange(1, len(rows) + 1)
        else:
            raise ReaderError(f"{array.place} has {len(rows)} rows for {len(table.ids)} units.")
    except ReaderError as error:
        found.warnings.append(f"The electrodes of the units cannot be used: {error.what}")
        return None
    return np.split(rows, ends[:-1]) if len(ends) else []


def _electrode_texts(tree: Tree, name: str, found: Places) -> NDArray[np.str_] | None:
    """A text column of the electrodes table."""
    at = join(_ELECTRODES, name)
    if not tree.has_array(at):
        target = tree.broken_link(at)
        if target is not None:
            found.warnings.append(f"The electrodes' {name} is a link to {target}.")
        return None
    try:
        array = tree.array(at)
        return array.all() if array.is_text and len(array.shape) == 1 else None
    except ReaderError as error:
        found.warnings.append(f"The electrodes' {name} was left out: {error.what}")
        return None


def _groups(tree: Tree, table: Table, electrodes: list[NDArray[np.int64]] | None, found: Places) -> list[str]:
    """Path of each unit's electrode group, '' = unknown."""
    at = join(table.path, "electrode_group")
    stored = tree.references(at)
    if stored is not None and len(stored) == len(table.ids):
        return stored
    if is_pickled(tree, at):
        found.warnings.append(pickle_warning(tree, table.path, ["electrode_group"]))
    names = None if electrodes is None else _electrode_texts(tree, "group_name", found)
    if names is None or electrodes is None:
        return [""] * len(table.ids)
    paths = []
    for rows in electrodes:
        valid = rows[(rows >= 0) & (rows < len(names))]
        most = Counter(names[valid].tolist()).most_common(1)
        path = join(_GROUPS, most[0][0]) if most and most[0][0] else ""
        paths.append(path if tree.is_group(path) else "")
    return paths


def _probes(tree: Tree, groups: list[str]) -> NDArray[np.str_]:
    devices = "/general/devices"
    names = {tree.resolve(join(devices, name)): name for name in tree.names(devices)}
    by_group = {
        group: names.get(tree.resolve(join(group, "device")), "") if group else "" for group in set(groups)
    }
    return np.array([by_group[group] for group in groups], dtype=np.str_)


def _majority(tree: Tree, table: Table, electrodes: list[NDArray[np.int64]], found: Places) -> None:
    """Region of most of a unit's electrodes; the first stored one where two are as frequent."""
    locations = _electrode_texts(tree, "location", found)
    if locations is None:
        return
    locations = cleaned_regions(locations.tolist())
    regions, mixed, outside = [], [], 0
    for row, electrode_rows in enumerate(electrodes):
        valid = electrode_rows[(electrode_rows >= 0) & (electrode_rows < len(locations))]
        outside += len(electrode_rows) - len(valid)
        counts = Counter(text for text in locations[valid].tolist() if text)
        regions.append(counts.most_common(1)[0][0] if counts else "")
        if len(counts) > 1:
            mixed.append(str(table.ids[row]))
    if outside:
        found.warnings.append(f"{outside} electrodes of units lie outside the electrodes table.")
    if not any(regions):
        return
    found.region = np.array(regions, dtype=np.str_)
    found.notes.append("brain_region is taken from the location of each unit's electrodes.")
    if mixed:
        shown = ", ".join(map(repr, mixed[:_NAMED])) + (", ..." if len(mixed) > _NAMED else "")
        found.warnings.append(
            f"{len(mixed)} units have electrodes in several regions ({shown}); the most frequent was taken."
        )


def cleaned_regions(texts: list[Any]) -> NDArray[np.str_]:
    """Texts that name no region become ''."""
    stripped = (str(text).strip() for text in texts)
    return np.array([t if t.lower() not in _NOT_A_REGION else "" for t in stripped], dtype=np.str_)


def split_by_probe(places_: Places) -> list[tuple[str, NDArray[np.int64]]]:
    """(probe, rows) for each device that recorded units; one entry named '' when there are not several."""
    probes = places_.probe
    names = sorted(set(probes.tolist()) - {""})
    everyone = [("", np.arange(len(probes)))]
    if len(names) < 2:
        return everyone
    parts = [(name, np.flatnonzero(probes == name)) for name in names]
    unknown = np.flatnonzero(probes == "")
    return [*parts, ("unassigned", unknown)] if len(unknown) else parts
