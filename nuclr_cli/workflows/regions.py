"""Joins a table of recording channels and their brain regions to the units, by channel or by position."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import Population
from nuclr_cli.errors import InputError
from nuclr_cli.wording import counted
from nuclr_cli.workflows.labels import Claims, combined
from nuclr_cli.workflows.region_tables import (
    CHANNEL_COLUMNS,
    REGION,
    RegionRow,
    RegionTable,
    read_region_table,
    whole_number,
)

__all__ = ["RegionTable", "add_regions", "read_region_table"]

UNIT_POSITIONS = (
    ("x_um", "y_um", "z_um"),
    ("x_um", "y_um"),
    ("peak_channel_x_um", "peak_channel_y_um", "peak_channel_z_um"),
    ("peak_channel_x_um", "peak_channel_y_um"),
    ("unit_locations",),
    ("lateral_um", "axial_um"),
    ("x", "y", "z"),
    ("x", "y"),
    ("peak_channel_depth_um",),
    ("depth_um",),
    ("depth",),
)
#: A unit is seen from some 100 um; farther from every channel means another origin or unit of length.
FARTHEST_UM = 200.0


def add_regions(
    population: Population, table: RegionTable, overwrite: bool | None = None, claims: Claims | None = None
) -> Population:
    """Give every unit the region of its channel, else of the channel nearest to it, as ``brain_region``.

    Returns:
        The population with that column ('' = no channel, or a channel without a region), and notes that say
        how the two were joined, the largest distance, and how many units found no channel.

    Raises:
        InputError: Nothing joins the two; the units' own ``brain_region`` says something else.
    """
    name = f"{population.subject}/{population.session}"
    rows = [row for row in table.rows if row.concerns(population)]
    if not rows:
        text = f"{table.path.name} has no channel of this session: no unit gets a region from it."
        return replace(population, notes=(*population.notes, text))
    found, notes, warnings = _joined(population, table, rows, name)
    if claims is not None:
        for row in sorted({int(row) for row in found if row >= 0}):
            claims.take(population, rows[row].number, f"channel {rows[row].channel!r}")
    labels = [rows[row].region if row >= 0 else "" for row in found]
    who = f"{table.path.name}, {REGION},"
    units = {**population.units, REGION: combined(population, REGION, labels, who, overwrite)}
    lost = [str(population.units["id"][unit]) for unit in np.flatnonzero(found < 0)]
    if lost:
        shown = ", ".join(lost[:5]) + (", ..." if len(lost) > 5 else "")
        notes.append(f"{len(lost)} of {len(found)} units have no channel in {table.path.name}: {shown}.")
    blank = sum(row >= 0 and not rows[row].region for row in found)
    if blank:
        lie = counted(blank, "unit lies on a channel", "units lie on channels")
        notes.append(f"{lie} to which {table.path.name} gives no region.")
    return replace(
        population,
        units=units,
        notes=(*population.notes, *table.notes, *notes),
        warnings=(*population.warnings, *warnings),
    )


def _joined(
    population: Population, table: RegionTable, rows: Sequence[RegionRow], name: str
) -> tuple[NDArray[np.int64], list[str], list[str]]:
    """(N,) row of each unit, -1 = none; notes; warnings."""
    n_units = population.n_units
    order = dict.fromkeys((table.channel_column, *CHANNEL_COLUMNS))  # the column of the same name first
    columns = [column for column in order if _is_flat(population.units.get(column))]
    tried = []
    if table.channel_column:
        for column in columns:
            found = _by_channel(population.units[column], rows, table)
            n_found = int((found >= 0).sum())
            if n_found:
                how = (
                    f"{table.path.name}: {n_found} of {n_units} units found their channel, the units' column "
                    f"{column!r} by its column {table.channel_column!r}."
                )
                return found, [how], []
            first = _channel_texts(population.units[column])[0]
            tried.append(f"the units' {column!r} holds {first!r}, ...; the table {rows[0].channel!r}, ...")
    axes = _common_axes(population, table)
    if axes is None:
        reasons = tried or [f"the units of {name} have no column of {_wanted(table)}"]
        raise InputError(
            f"{table.path}: nothing joins its {len(rows)} channels to the units of {name}: "
            f"{'; '.join(reasons)} (columns of the units: {', '.join(population.units)}).",
            "Names must match exactly, as text. Or give both sides positions in micrometres: x_um and y_um.",
        )
    units_um, rows_um, unit_names, row_names = axes
    rows_um = np.where(np.isfinite(rows_um), rows_um, np.inf)
    found, distance, n_tied = _nearest(units_um, rows_um, [row.region for row in rows])
    near = found >= 0
    if not near.any():
        raise InputError(
            f"{table.path}: no unit of {name} lies within {FARTHEST_UM:g} um of a channel (the nearest is "
            f"{np.nanmin(distance) if np.isfinite(distance).any() else math.nan:.0f} um away; units: "
            f"{_range(units_um)}; channels: {_range(rows_um)}).",
            "Both must be in micrometres from the same origin.",
        )
    notes = []
    if tried:
        notes.append(f"{table.path.name}: no channel name is shared ({'; '.join(tried)}).")
    notes.append(
        f"{table.path.name}: {int(near.sum())} of {n_units} units took the region of the nearest channel, "
        f"the units' {', '.join(unit_names)} against {', '.join(row_names)} in micrometres; the largest "
        f"distance is {float(distance[near].max()):.1f} um."
    )
    warnings = []
    far = int((~near & np.isfinite(distance)).sum())
    if far:
        warnings.append(
            f"{counted(far, 'unit lies', 'units lie')} over {FARTHEST_UM:g} um from every channel of "
            f"{table.path.name}: no region."
        )
    if n_tied:
        warnings.append(
            f"{counted(n_tied, 'unit is', 'units are')} equally near to channels of different regions in "
            f"{table.path.name}; the first in the table is taken."
        )
    return found, notes, warnings


def _by_channel(column: NDArray[Any], rows: Sequence[RegionRow], table: RegionTable) -> NDArray[np.int64]:
    """(N,) row with the unit's channel, -1 = none. Numbers are compared as numbers, texts as texts."""
    numeric = column.dtype.kind in "iuf"
    row_of: dict[str, int] = {}
    for at, row in enumerate(rows):
        name = _whole(row.channel) if numeric else row.channel
        first = rows[row_of.setdefault(name, at)]
        if name and first.region != row.region:
            raise InputError(
                f"{table.path}: rows {first.number} and {row.number} say {first.region!r} and "
                f"{row.region!r} of channel {name} ({first.channel!r} and {row.channel!r} are one number).",
                "Keep one of them.",
            )
    row_of.pop("", None)
    return np.array([row_of.get(text, -1) for text in _channel_texts(column)], dtype=np.int64)


def _channel_texts(column: NDArray[Any]) -> list[str]:
    return [_whole(str(value)) if column.dtype.kind in "iuf" else str(value) for value in column.tolist()]


def _whole(text: str) -> str:
    """``9`` for 9.0; '' for what is no number."""
    return whole_number(text)


def _common_axes(
    population: Population, table: RegionTable
) -> tuple[NDArray[np.float64], NDArray[np.float64], tuple[str, ...], tuple[str, ...]] | None:
    """Positions of units and channels along the axes that both have, with the names of their columns."""
    if not table.position_columns:
        return None
    mine = [row.position for row in table.rows if row.concerns(population)]
    channels = np.array(mine, dtype=np.float64)
    for names in UNIT_POSITIONS:
        columns = [population.units.get(name) for name in names]
        if any(column is None or column.dtype.kind not in "iuf" for column in columns):
            continue
        units = np.column_stack(
            [np.asarray(column, dtype=np.float64) for column in columns if column is not None]
        )
        shown: tuple[str, ...] = names
        if len(names) == 1 and units.shape[1] > 1:
            shown = tuple(f"{names[0]}[{axis}]" for axis in range(units.shape[1]))
        n_axes = min(units.shape[1], channels.shape[1])
        if 1 in (units.shape[1], channels.shape[1]):
            # One number is the place along the insertion, which is the second axis of the others.
            unit_axes, channel_axes = [[0] if part.shape[1] == 1 else [1] for part in (units, channels)]
        else:
            unit_axes = channel_axes = list(range(n_axes))
        return (
            units[:, unit_axes],
            channels[:, channel_axes],
            tuple(shown[axis] for axis in unit_axes),
            tuple(table.position_columns[axis] for axis in channel_axes),
        )
    return None


def _nearest(
    units: NDArray[np.float64], channels: NDArray[np.float64], regions: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.float64], int]:
    """(N,) nearest channel (-1 = none within reach), (N,) its distance (NaN = no position), and the number of
    units that are as near to a channel of another region.
    """
    found = np.full(len(units), -1, dtype=np.int64)
    distance = np.full(len(units), np.nan)
    n_tied = 0
    for unit, place in enumerate(units):
        if not np.isfinite(place).all():
            continue
        apart = np.sqrt(((channels - place) ** 2).sum(axis=1))
        best = int(np.argmin(apart))
        distance[unit] = apart[best]
        if apart[best] > FARTHEST_UM:
            continue
        found[unit] = best
        n_tied += len({regions[int(row)] for row in np.flatnonzero(apart <= apart[best] + 1e-6)}) > 1
    return found, distance, n_tied


def _is_flat(column: NDArray[Any] | None) -> bool:
    return column is not None and column.ndim == 1 and column.dtype.kind in "iufU"


def _wanted(table: RegionTable) -> str:
    channels = f"channels ({', '.join(CHANNEL_COLUMNS)})" if table.channel_column else ""
    positions = "positions (x_um and y_um, unit_locations, depth)" if table.position_columns else ""
    return " or ".join(part for part in (channels, positions) if part)


def _range(places: NDArray[np.float64]) -> str:
    inside = places[np.isfinite(places).all(axis=1)]
    if not len(inside):
        return "no positions"
    return " by ".join(f"{low:g} to {high:g}" for low, high in zip(inside.min(0), inside.max(0), strict=True))
