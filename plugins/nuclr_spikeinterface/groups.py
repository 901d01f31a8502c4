"""Units of several probes are several populations: what different insertions recorded is kept apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import Population, Spikes
from nuclr_spikeinterface.probes import Channels
from nuclr_spikeinterface.sorting import RawSorting

_GROUP_COLUMNS = ("group", "channel_group")


def assign_probes(raw: RawSorting, channels: Channels, peaks: NDArray[np.intp] | None) -> RawSorting:
    """Say which probe each unit is on, when there are several.

    A unit is on the probe of its peak channel, else on the one that holds all channels of its group. The
    shanks of one probe stay together.

    Args:
        raw: The sorting.
        channels: The channels.
        peaks: (N,) row of each unit's peak channel, -1 = unknown; None = all unknown.
    """
    if channels.probe is None or len(channels.probe_names) < 2:
        return replace(raw, probe_names=channels.probe_names)
    n_units = len(raw.unit_ids)
    probe = np.full(n_units, -1, dtype=np.intp)
    if peaks is not None:
        probe = np.where(peaks >= 0, channels.probe[peaks], -1)
    by_group = _by_group(raw, channels)
    differing = int(((probe >= 0) & (by_group >= 0) & (probe != by_group)).sum())
    probe = np.where(probe >= 0, probe, by_group)
    notes, warnings = [], []
    if (probe < 0).any():
        lost = raw.unit_ids[probe < 0].tolist()
        warnings.append(
            f"The recording has {len(channels.probe_names)} probes, but for {len(lost)} of {n_units} units "
            f"({', '.join(lost[:5])}) nothing says on which they are: all units stay in one population. "
            "Compute the extension 'templates', or save the property 'group'."
        )
        return replace(raw, probe_names=channels.probe_names, warnings=(*raw.warnings, *warnings))
    if differing:
        warnings.append(
            f"For {differing} of {n_units} units the peak channel and the property 'group' name different "
            "probes; the peak channel was taken."
        )
    counts = np.bincount(probe, minlength=len(channels.probe_names))
    told = ", ".join(f"{name!r} {n}" for name, n in zip(channels.probe_names, counts, strict=True))
    notes.append(
        f"The recording has {len(channels.probe_names)} probes; the units of each are a population of its "
        f"own (units: {told}). Shanks of one probe stay together."
    )
    return replace(
        raw,
        probe_of_unit=probe,
        probe_names=channels.probe_names,
        notes=(*raw.notes, *notes),
        warnings=(*raw.warnings, *warnings),
    )


def _by_group(raw: RawSorting, channels: Channels) -> NDArray[np.intp]:
    """Probe of each unit by its group, -1 where the group is not told or spreads over several probes."""
    unknown = np.full(len(raw.unit_ids), -1, dtype=np.intp)
    column = next((raw.properties[name] for name in _GROUP_COLUMNS if name in raw.properties), None)
    if column is None or column.ndim != 1 or channels.group is None or channels.probe is None:
        return unknown
    probe_of: dict[str, int] = {}
    for name in np.unique(channels.group).tolist():
        probes = np.unique(channels.probe[channels.group == name])
        if len(probes) == 1:
            probe_of[name] = int(probes[0])
    return np.array([probe_of.get(str(value), -1) for value in column.tolist()], dtype=np.intp)


def unexplained_groups(raw: RawSorting) -> list[str]:
    """A note when units are in several groups and no file tells whether these are probes, shanks or areas."""
    for name in _GROUP_COLUMNS:
        column = raw.properties.get(name)
        if raw.probe_names or column is None or column.ndim != 1 or column.dtype.kind not in "iu":
            continue
        n_groups = len(np.unique(column))
        if n_groups > 1:
            return [
                f"The units are in {n_groups} groups (column {name!r}), and no file says whether these are "
                "probes or shanks of one probe; all units are one population."
            ]
    return []


def split(
    population: Population, probe: NDArray[np.intp] | None, names: tuple[str, ...]
) -> Iterator[Population]:
    """One population per probe; the population as it is when there is one probe.

    Args:
        population: All units together.
        probe: (N,) row of `names` of each unit; None = not told.
        names: Names of the probes.
    """
    if probe is None or population.spikes is None:
        yield population
        return
    times, index = population.spikes.times, population.spikes.unit_index
    used = np.unique(probe).tolist()
    n_spikes = np.bincount(index, minlength=len(probe))
    fired = [number for number in used if n_spikes[probe == number].any()]
    silent = [number for number in used if number not in fired]
    extra: list[str] = []
    for number in silent:
        ids = [str(unit) for unit in population.units["id"][probe == number]]
        extra.append(
            f"Probe {names[number]!r} was left out: none of its {len(ids)} units has a spike "
            f"({', '.join(ids[:10])}{', ...' if len(ids) > 10 else ''})."
        )
    for number in fired:
        mine = probe == number
        row: NDArray[Any] = np.cumsum(mine) - 1
        here = mine[index]
        others = [str(unit) for unit in population.units["id"][~mine]]
        provenance = dict(population.provenance)
        # A label table of the whole recording names the units of the other probes, too.
        provenance["dropped_unit_ids"] = [*provenance.get("dropped_unit_ids", ()), *others]
        yield replace(
            population,
            population=names[number],
            units={name: column[mine] for name, column in population.units.items()},
            spikes=Spikes(times[here], row[index[here]].astype(index.dtype)),
            notes=(*population.notes, *extra),
            provenance=provenance,
        )
