"""Which units are left out, by their quality or by what the segmentation says of them."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import ReaderError, ReadOptions
from nuclr_nwb.tables import Table
from nuclr_nwb.tree import Tree, join

_QUALITY = ("quality", "KSLabel", "ks_label", "KS_label")
_NAMED = 10


def named(ids: NDArray[np.str_]) -> str:
    """The first ids, separated by commas."""
    return ", ".join(ids[:_NAMED].tolist()) + (", ..." if len(ids) > _NAMED else "")


def kept_by_quality(
    table: Table, options: ReadOptions, place: str, notes: list[str], warnings: list[str]
) -> NDArray[np.bool_]:
    """(N,) bool; adds the column ``quality`` where another name holds it.

    Raises:
        ReaderError: --keep is given but there are no labels, or nothing is left.
    """
    everyone = np.ones(len(table.ids), dtype=np.bool_)
    source = next((n for n in _QUALITY if n in table.columns and table.columns[n].dtype.kind == "U"), None)
    if source is not None and source != "quality":
        table.columns.setdefault("quality", table.columns[source])
        notes.append(f"quality is taken from {source}.")
    if options.keep == ("all",):
        return everyone
    if source is None:
        if options.keep:
            raise ReaderError(
                f"{place} has no curation labels, so --keep cannot choose.", "Leave out --keep."
            )
        return everyone
    quality = table.columns[source]
    lowered = np.char.lower(quality)
    wanted = [value.lower() for value in options.keep]
    kept = np.asarray(np.isin(lowered, wanted) if wanted else lowered != "noise")
    counts = Counter(str(value) or "(blank)" for value in quality.tolist())
    labels = ", ".join(f"{value}: {n}" for value, n in sorted(counts.items()))
    if not kept.any() and len(kept):
        raise ReaderError(
            f"{place}: no unit is left, none of its {len(kept)} units is labelled "
            f"{' or '.join(options.keep) or 'anything but noise'} (labels: {labels}).",
            "Pass other labels with --keep, or --keep all.",
        )
    unmatched = [value for value in options.keep if value.lower() not in set(lowered.tolist())]
    if unmatched:
        warnings.append(f"--keep: no unit is labelled {' or '.join(unmatched)} (labels here: {labels}).")
    if not kept.all():
        notes.append(
            f"{int((~kept).sum())} of {len(kept)} units were left out by their quality: "
            f"{named(table.ids[~kept])}. --keep all keeps every unit."
        )
    return kept


def kept_by_iscell(
    tree: Tree, table: Table, rows: NDArray[np.int64], options: ReadOptions, notes: list[str]
) -> NDArray[np.bool_]:
    """(len(rows),) bool of ROIs that were curated to be cells.

    ``iscell`` is 0 or 1 for each ROI, or two columns: that, and the probability of the classifier.

    Raises:
        ReaderError: --min-iscell is given but there are no probabilities, or nothing is left.
    """
    everyone = np.ones(len(rows), dtype=np.bool_)
    values = _iscell(tree, table)
    if options.min_iscell is not None and (values is None or values.shape[1] < 2):
        raise ReaderError(
            f"{tree.place}:{table.path} holds no cell probabilities (iscell with two columns), so "
            "--min-iscell cannot choose.",
            "Leave --min-iscell out.",
        )
    if values is None:
        return everyone
    chosen = values[:, 0] > 0 if options.min_iscell is None else values[:, 1] >= options.min_iscell
    kept = np.asarray(chosen[rows])
    if not kept.any() and len(kept):
        raise ReaderError(
            f"{tree.place}:{table.path}: none of {len(kept)} ROIs is a cell according to iscell.",
            "Pass --min-iscell 0 to keep all.",
        )
    if not kept.all():
        notes.append(
            f"{int((~kept).sum())} of {len(kept)} ROIs of {table.path} are no cells according to iscell and "
            f"were left out: {named(table.ids[rows][~kept])}. --min-iscell 0 keeps all."
        )
    return kept


def _iscell(tree: Tree, table: Table) -> NDArray[np.float64] | None:
    at = join(table.path, "iscell")
    if not tree.has_array(at) or tree.has_array(f"{at}_index"):
        return None
    try:
        array = tree.array(at)
        if array.dtype is None or len(array.shape) not in (1, 2) or array.shape[0] != len(table.ids):
            return None
        values = array.all().astype(np.float64).reshape(len(table.ids), -1)
    except ReaderError:
        return None
    return values if values.shape[1] else None
