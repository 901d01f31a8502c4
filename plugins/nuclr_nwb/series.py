"""Finds the fluorescence series of a file and chooses among them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from nuclr_cli.api import ReaderError, ReadOptions
from nuclr_nwb.tree import Tree, join, walk_groups

_TOPS = ("/processing", "/acquisition", "/analysis")
_DIGITS = re.compile(r"(\d+)")


class Kind(Enum):
    """What the values of a series are."""

    DFF = "dF/F"
    RAW = "raw fluorescence"
    NEUROPIL = "neuropil"
    SPKS = "deconvolved"


@dataclass(frozen=True)
class Series:
    """One RoiResponseSeries.

    Attributes:
        path: Of its group.
        name: Last part of the path.
        kind: By its container, its name and its unit.
        table: Path of the table of its ROIs; '' when the file does not tell.
    """

    path: str
    name: str
    kind: Kind
    table: str

    def is_called(self, name: str) -> bool:
        """Whether `name` is its name, or the end of its path (``DfOverF/dff0``)."""
        return self.name == name or self.path == name or self.path.endswith("/" + name.strip("/"))


def find_series(tree: Tree) -> list[Series]:
    """Every group with ``data`` and ``rois``, and every RoiResponseSeries, in natural order of its path."""
    found = []
    for top in _TOPS:
        # Raw recordings lie there, and often in files of their own.
        for path in walk_groups(tree, top, "rois" if top == "/acquisition" else None):
            names, kind = tree.names(path), tree.attributes(path).get("neurodata_type")
            # One that lacks a part is found too, so that reading says what is missing.
            if {"data", "rois"} <= set(names) or kind == "RoiResponseSeries":
                container = path.rpartition("/")[0]
                table = tree.attributes(join(path, "rois")).get("table")
                found.append(
                    Series(
                        path,
                        path.rpartition("/")[2],
                        _kind(tree, path, container),
                        table if isinstance(table, str) else "",
                    )
                )
    return sorted(found, key=lambda series: natural(series.path))


def natural(text: str) -> list[tuple[int, int, str]]:
    """Sort key that puts plane2 before plane10."""
    parts = _DIGITS.split(text)
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts]


def _kind(tree: Tree, path: str, container: str) -> Kind:
    names = f"{container.rpartition('/')[2]}/{path.rpartition('/')[2]}".lower()
    if re.search(r"deconv|spks|spike|event|oasis", names):
        return Kind.SPKS
    if "neuropil" in names or "fneu" in names:
        return Kind.NEUROPIL
    unit = str(tree.attributes(join(path, "data")).get("unit", "")).lower().replace(" ", "")
    is_dff = tree.attributes(container).get("neurodata_type") == "DfOverF"
    if is_dff or re.search(r"dff|df_?over_?f|df/f", names) or unit in ("df/f", "dff", "deltaf/f"):
        return Kind.DFF
    return Kind.RAW


def choose(tree: Tree, found: Sequence[Series], options: ReadOptions, notes: list[str]) -> list[Series]:
    """The series to read: as named by --series, else the best kind, one for each table of ROIs.

    Raises:
        ReaderError: A name is unknown, or several series of the kind lie on one table.
    """
    listed = ", ".join(f"{series.path} ({series.kind.value})" for series in found)
    if options.series:
        unknown = [name for name in options.series if not any(s.is_called(name) for s in found)]
        if unknown:
            raise ReaderError(
                f"{tree.place} has no series {' or '.join(map(repr, unknown))}; it has: {listed}.",
                f"nuclr preprocess {tree.place} --series {found[0].name}",
            )
        chosen = [s for s in found if any(s.is_called(name) for name in options.series)]
    else:
        order = [Kind.SPKS, Kind.RAW] if options.signal == "spks" else [Kind.DFF, Kind.RAW]
        kinds = {series.kind for series in found}
        kind = next((kind for kind in order if kind in kinds), None)
        if kind is None:
            raise ReaderError(
                f"{tree.place} has neither {order[0].value} nor {order[1].value}; it has: {listed}.",
                "Name the series to take as it is: --series NAME, or --signal spks for deconvolved ones.",
            )
        chosen = [series for series in found if series.kind is kind]
        others = [series.path for series in found if series.kind is not kind]
        if others:
            notes.append(f"{kind.value} is read; not read: {', '.join(others)}.")
    _refuse_ambiguous(tree, chosen)
    if any(s.kind is Kind.RAW for s in chosen) and any(s.kind is Kind.NEUROPIL for s in found):
        notes.append("The file holds neuropil traces too; they were not subtracted.")
    return chosen


def _refuse_ambiguous(tree: Tree, chosen: Sequence[Series]) -> None:
    by_table: dict[str, list[Series]] = {}
    for series in chosen:
        key = tree.resolve(series.table) if series.table else f"no table {series.path}"
        by_table.setdefault(key, []).append(series)
    for several in by_table.values():
        if len(several) > 1:
            raise ReaderError(
                f"{tree.place}: {len(several)} series hold {several[0].kind.value} of the ROIs of "
                f"{several[0].table}: {', '.join(series.path for series in several)}.",
                f"Say which: --series {several[0].path.lstrip('/')}",
            )
