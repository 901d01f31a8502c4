"""The channel on which a unit is largest, and columns that follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_spikeinterface.probes import Channels

_TEMPLATES_AT_ONCE = 64
_REGION_COLUMNS = ("brain_region", "brain_area", "location")


def peak_rows(templates: NDArray[Any], sign: str = "both", mode: str = "extremum") -> NDArray[np.intp]:
    """Channel with the largest template of each unit.

    Args:
        templates: (N, samples, C) numbers; may be mapped from disk, is read in parts.
        sign: ``neg``, ``pos`` or ``both``: which extremum counts.
        mode: ``peak_to_peak`` compares ranges; anything else extrema.

    Returns:
        (N,) row of the channel; -1 where the template is flat or not finite.
    """
    rows = np.full(len(templates), -1, dtype=np.intp)
    if 0 in templates.shape:
        return rows
    for begin in range(0, len(templates), _TEMPLATES_AT_ONCE):
        part = np.asarray(templates[begin : begin + _TEMPLATES_AT_ONCE], dtype=np.float64)
        if mode == "peak_to_peak":
            size = part.max(axis=1) - part.min(axis=1)
        elif sign == "neg":
            size = -part.min(axis=1)
        elif sign == "pos":
            size = part.max(axis=1)
        else:
            size = np.abs(part).max(axis=1)
        sound = np.isfinite(size).all(axis=1) & (size.max(axis=1) > size.min(axis=1))
        if size.shape[1] == 1:
            sound = np.isfinite(size[:, 0]) & (size[:, 0] != 0)
        rows[begin : begin + len(part)] = np.where(sound, size.argmax(axis=1), -1)
    return rows


def peak_columns(
    channels: Channels,
    rows: NDArray[np.intp],
    known: Mapping[str, NDArray[Any]],
    how: str,
) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """``peak_channel``, its position, ``depth_um`` and the brain region of the channel, where missing.

    Args:
        channels: The channels.
        rows: (N,) row of each unit's peak channel, -1 = unknown.
        known: Columns that are there already; none of them is replaced.
        how: Where the peak channel comes from, for the note.

    Returns:
        New columns, notes.
    """
    found = rows >= 0
    if not found.any():
        return {}, []
    columns: dict[str, NDArray[Any]] = {"peak_channel": np.where(found, channels.ids[rows], "")}
    notes = [f"peak_channel is {how}."]
    if not found.all():
        notes[0] = f"peak_channel is {how}; {int((~found).sum())} of {len(rows)} units have none."
    if channels.positions_um is not None:
        at = np.where(found[:, None], channels.positions_um[rows], np.nan)
        columns["peak_channel_x_um"], columns["peak_channel_y_um"] = at[:, 0].copy(), at[:, 1].copy()
        locations = known.get("unit_locations")
        if locations is not None and locations.ndim == 2 and locations.dtype.kind == "f":
            columns["depth_um"] = np.ascontiguousarray(locations[:, 1])
            depth = "of unit_locations"
        else:
            columns["depth_um"] = at[:, 1].copy()
            depth = "of the peak channel"
        if "depth_um" not in known:
            notes.append(
                f"depth_um is the y coordinate {depth} on the probe, no depth below the surface of the brain."
            )
    if channels.region is not None and not any(_has_text(known.get(name)) for name in _REGION_COLUMNS):
        columns["brain_region"] = np.where(found, channels.region[rows], "")
        notes.append("brain_region is the region of the peak channel: the units themselves have none.")
        return {name: c for name, c in columns.items() if name not in known or name == "brain_region"}, notes
    return {name: column for name, column in columns.items() if name not in known}, notes


def _has_text(column: NDArray[Any] | None) -> bool:
    """A column of labels, not all of them blank."""
    return column is not None and column.ndim == 1 and any(isinstance(v, str) and v for v in column.tolist())
