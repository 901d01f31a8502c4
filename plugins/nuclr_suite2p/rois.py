"""The units of a plane: curation, positions, shapes, red cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import ReaderError, ReadOptions, safe_files
from nuclr_suite2p.layout import PlaneFolder
from nuclr_suite2p.settings import PlaneSettings

_SHAPES = ("npix", "radius", "skew", "compact")

_RED_RATIO = 0.65
"""Ratio of red inside an ROI to inside plus surround, 0.5 = no difference; the threshold of 0.14."""
_RED_OVERLAP = 0.25

_SAME_RUN = "They are of different runs; copy the whole folder again, or let Suite2p extract it again."


@dataclass(frozen=True)
class Rois:
    """Units of one plane, those that are kept and those that are not.

    Attributes:
        columns: Column -> (n,) array; ``roi``, ``y``, ``x``, and others where files hold them.
        kept: (n,) those taken for cells.
        red: (n,) red cells; None without a second channel.
        notes: What was assumed.
    """

    columns: Mapping[str, NDArray[Any]]
    kept: NDArray[np.bool_]
    red: NDArray[np.bool_] | None
    notes: tuple[str, ...]


def read_rois(folder: PlaneFolder, n_rois: int, settings: PlaneSettings, options: ReadOptions) -> Rois:
    """The units table of one plane.

    Args:
        folder: The plane.
        n_rois: Rows of its ``F.npy``.
        settings: Its settings.
        options: `min_iscell`, `trust`.

    Raises:
        ReaderError: A file is damaged, hostile, or has another number of ROIs.
    """
    notes: list[str] = []
    columns: dict[str, NDArray[Any]] = {"roi": np.arange(n_rois)}
    columns |= _stat_columns(folder, n_rois, notes, trust=options.trust)
    kept = np.ones(n_rois, dtype=bool)
    iscell = _two_columns(folder, "iscell.npy", n_rois)
    if iscell is not None:
        columns["iscell_probability"] = iscell[:, 1]
        limit = options.min_iscell
        kept = iscell[:, 0] > 0 if limit is None else iscell[:, 1] >= limit
    elif options.min_iscell is not None:
        raise ReaderError(
            f"{folder.path} has no iscell.npy, so --min-iscell has nothing to go by.",
            "Leave --min-iscell out.",
        )
    else:
        notes.append(f"{folder.path.name} has no iscell.npy: all of its {n_rois} ROIs are kept.")
    redcell = _two_columns(folder, "redcell.npy", n_rois)
    red = None
    if redcell is not None:
        columns["red_probability"] = redcell[:, 1]
        red, rule = _red(redcell, settings)
        notes.append(f"{folder.path.name}: a cell is red when its {rule}.")
    return Rois(columns, kept, red, tuple(notes))


def _red(redcell: NDArray[np.float64], settings: PlaneSettings) -> tuple[NDArray[np.bool_], str]:
    """Which units are red, and by what rule.

    1.x compares the intensity ratio, 0.5 where there is no red at all, with 0.25, a threshold meant for
    overlaps: column 0 then marks every ROI.
    """
    if settings.is_old:
        return redcell[:, 0] > 0, "flag in redcell.npy is set"
    if settings.red_by_overlap:
        limit = _RED_OVERLAP if settings.red_threshold is None else settings.red_threshold
        return redcell[:, 1] > limit, f"overlap with a red mask is above {limit:g} (column 1 of redcell.npy)"
    return (
        redcell[:, 1] > _RED_RATIO,
        f"red intensity ratio is above {_RED_RATIO:g} (column 1 of redcell.npy; column 0 marks every ROI in "
        "Suite2p 1.x)",
    )


def _two_columns(folder: PlaneFolder, name: str, n_rois: int) -> NDArray[np.float64] | None:
    """``iscell`` or ``redcell``: (n, 2), a flag and a probability; None when there is no such file."""
    if not folder.has(name):
        return None
    path = folder.file(name)
    array = safe_files.open_npy(path)
    if array.shape != (n_rois, 2) or array.dtype.kind not in "biuf":
        raise ReaderError(
            f"{path} holds {array.dtype} values of shape {array.shape}, F.npy has {n_rois} ROIs; "
            f"numbers of shape ({n_rois}, 2) are expected.",
            _SAME_RUN,
        )
    values = np.array(array, dtype=np.float64)
    broken = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(broken):
        raise ReaderError(
            f"{path}: {len(broken)} of {n_rois} rows are NaN or infinite, the first of ROI {broken[0]}.",
            "Repair the file, or let Suite2p classify the ROIs again.",
        )
    return values


def _stat_columns(
    folder: PlaneFolder, n_rois: int, notes: list[str], *, trust: bool
) -> dict[str, NDArray[Any]]:
    if not folder.has("stat.npy"):
        notes.append(f"{folder.path.name} has no stat.npy: positions of its ROIs are unknown.")
        unknown = np.full(n_rois, np.nan)
        return {"y": unknown, "x": unknown.copy()}
    path = folder.file("stat.npy")
    stat = safe_files.load_column(path, trust=trust)
    if stat.shape != (n_rois,):
        raise ReaderError(f"{path} describes {stat.shape} ROIs, F.npy has {n_rois}.", _SAME_RUN)
    strange = [roi for roi, entry in enumerate(stat) if not isinstance(entry, Mapping)]
    if strange:
        raise ReaderError(
            f"{path}: {len(strange)} of {n_rois} entries are no dicts, the first of ROI {strange[0]}.",
            _SAME_RUN,
        )
    columns = {
        name: np.array([_coordinate(entry.get("med"), axis) for entry in stat], dtype=np.float64)
        for axis, name in enumerate(("y", "x"))
    }
    lost = np.flatnonzero(~np.isfinite(columns["y"] + columns["x"]))
    if len(lost):
        notes.append(f"{folder.path.name}: {len(lost)} ROIs have no position (med) in stat.npy.")
    for name in _SHAPES:
        values = np.array([_scalar(entry.get(name)) for entry in stat], dtype=np.float64)
        if np.isfinite(values).any():
            columns[name] = values
    return columns


def _coordinate(med: Any, axis: int) -> float:
    try:
        return _scalar(med[axis]) if len(med) == 2 else np.nan
    except (TypeError, KeyError, IndexError):
        return float("nan")


def _scalar(value: Any) -> float:
    try:
        return float(value) if not isinstance(value, (str, bytes)) and np.ndim(value) == 0 else float("nan")
    except (TypeError, ValueError, OverflowError):
        return float("nan")
