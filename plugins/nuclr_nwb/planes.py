"""Imaging planes: the ROIs and frame times of each series, and which planes were recorded together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import ReaderError, ReadOptions
from nuclr_nwb.curation import kept_by_iscell
from nuclr_nwb.series import Series
from nuclr_nwb.tables import read_table, row_numbers
from nuclr_nwb.traces import Frames, Matrix, open_matrix, read_frames
from nuclr_nwb.tree import Tree, join

_IMAGING = "/general/optophysiology"
_NOT_A_REGION = frozenset({"", "unknown", "n/a", "na", "nan", "none", "null", "void"})
_APART = frozenset({"pixel_mask", "voxel_mask", "image_mask", "iscell"})
_SAME_STEP = 0.1  # of a frame: planes whose frames drift by more were not recorded together


@dataclass
class Plane:
    """One series with its ROIs, values not read yet.

    Attributes:
        series: Where it comes from.
        name: Of the imaging plane, else of the series.
        ids: (n,) str of the ROIs that are kept.
        columns: Column name -> (n,).
        kept: (n_rois,) bool, which ROIs of the series these are.
        matrix: The values.
        frames: Their times.
        indicator: Of the imaging plane, '' = unknown.
        notes, warnings: For the user.
    """

    series: Series
    name: str
    ids: NDArray[np.str_]
    columns: dict[str, NDArray[Any]]
    kept: NDArray[np.bool_]
    matrix: Matrix
    frames: Frames
    indicator: str = ""
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def open_plane(tree: Tree, series: Series, options: ReadOptions) -> Plane:
    """ROIs, times and place of one series.

    Raises:
        ReaderError: Its ROIs, values and times do not fit together.
    """
    at = join(series.path, "rois")
    if not series.table or not tree.is_group(series.table):
        target = tree.broken_link(series.table) if series.table else None
        raise ReaderError(
            f"{tree.place}:{at} does not lead to a table of ROIs"
            + (f" (a link to {target})." if target else "."),
            "Export the file again.",
        )
    table = read_table(tree, series.table, apart=_APART)
    notes, warnings = table.notes, table.warnings
    rows = row_numbers(tree, at, len(table.ids))
    if not len(rows):
        raise ReaderError(
            f"{tree.place}:{series.path} has no ROIs.", "Check that the segmentation found any."
        )
    matrix = open_matrix(tree, series.path, len(rows), notes)
    frames = read_frames(tree, series.path, matrix.n_frames, options, notes)
    if len(rows) < len(table.ids):
        notes.append(f"{series.path} holds {len(rows)} of the {len(table.ids)} ROIs of {series.table}.")
    kept = kept_by_iscell(tree, table, rows, options, notes)
    columns = {name: column[rows][kept] for name, column in table.columns.items()}
    plane_at = join(series.table, "imaging_plane")
    target = tree.broken_link(plane_at)
    if target is not None:
        warnings.append(f"The imaging plane of {series.table} is a link to {target}.")
    name = _plane_name(tree, plane_at)
    n_kept = int(kept.sum())
    region = tree.text(join(plane_at, "location")) or str(tree.attributes(plane_at).get("location") or "")
    own = columns.get("brain_region")
    if own is None and region.lower() not in _NOT_A_REGION:
        columns["brain_region"] = np.full(n_kept, region)
        notes.append(f"brain_region {region!r} is the location of the imaging plane {name or plane_at}.")
    columns.setdefault("imaging_plane", np.full(n_kept, name or series.name))
    return Plane(
        series=series,
        name=name or series.name,
        ids=table.ids[rows][kept],
        columns=columns,
        kept=kept,
        matrix=matrix,
        frames=frames,
        indicator=tree.text(join(plane_at, "indicator")),
        notes=notes,
        warnings=warnings,
    )


def _plane_name(tree: Tree, plane_at: str) -> str:
    if not tree.is_group(plane_at):
        return ""
    target = tree.resolve(plane_at)
    return next((n for n in tree.names(_IMAGING) if tree.resolve(join(_IMAGING, n)) == target), "")


def recorded_together(planes: Sequence[Plane]) -> list[list[Plane]]:
    """Planes with the same frames, apart from a constant offset below one frame, in the given order."""
    groups: list[list[Plane]] = []
    for plane in planes:
        for group in groups:
            if offset_s(plane, group) is not None:
                group.append(plane)
                break
        else:
            groups.append([plane])
    return groups


def offset_s(plane: Plane, group: Sequence[Plane]) -> float | None:
    """Seconds by which a plane's frames come after those of the group's first; None = not together."""
    own, first = plane.frames, group[0].frames
    if plane is group[0]:
        return 0.0
    if len(own.times) != len(first.times) or plane.series.kind is not group[0].series.kind:
        return None
    frame_s = 1.0 / first.fs_hz
    differences = own.times - first.times
    offset = float(np.median(differences))
    together = float(np.abs(differences - offset).max()) < _SAME_STEP * frame_s and abs(offset) < frame_s
    return offset if together else None


def joined_columns(group: Sequence[Plane]) -> dict[str, NDArray[Any]]:
    """Columns of all planes, one below the other; a plane without a column has '' or NaN there."""
    names = list(dict.fromkeys(name for plane in group for name in plane.columns))
    return {name: _joined([plane.columns.get(name) for plane in group], group) for name in names}


def _joined(parts: list[NDArray[Any] | None], group: Sequence[Plane]) -> NDArray[Any]:
    present = [part for part in parts if part is not None]
    as_text = any(part.dtype.kind == "U" for part in present)
    filled = []
    for part, plane in zip(parts, group, strict=True):
        if part is None:
            part = np.full(len(plane.ids), "") if as_text else np.full(len(plane.ids), np.nan)
        filled.append(part.astype(np.str_) if as_text else part)
    return np.concatenate(filled)
