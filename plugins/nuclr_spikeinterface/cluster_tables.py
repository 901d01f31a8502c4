"""Label tables of phy and Kilosort, ``cluster_*.tsv`` and ``cluster_*.csv``, as found in the wild.

Duplicates, blank rows, stray files and clusters that a file leaves out are tolerated and reported.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import ReaderError

_KEYS = ("cluster_id", "id")
# Labels stay text even when every value looks like a number.
_ALWAYS_TEXT = frozenset(
    [
        "group",
        "KSLabel",
        "quality",
        "cell_type",
        "celltype",
        "brain_region",
        "brain_area",
        "location",
        "region",
        "area",
        "label",
        "notes",
        "comment",
    ]
)
_NUMBER = re.compile(r"[+-]?(0|[1-9]\d*)?(\.\d*)?([eE][+-]?\d+)?")  # "007" is a name, not a number
_INTEGER = re.compile(r"[+-]?\d{1,18}")


@dataclass(frozen=True)
class ClusterTables:
    """All label tables of a folder, joined on the clusters that have spikes.

    Attributes:
        columns: Column name -> (N,) str (empty = blank), or, when every value is a number, int64 or float64
            (NaN = blank).
        without_spikes: Cluster numbers that the tables name but no spike has.
        notes, warnings: What was skipped, and why.
    """

    columns: dict[str, NDArray[Any]]
    without_spikes: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass
class _Column:
    file: Path
    values: dict[int, str] = field(default_factory=dict)


def cluster_table_files(folder: Path) -> list[Path]:
    """Label files in the order in which they are trusted.

    A ``.tsv`` goes before the ``.csv`` of that name; ``cluster_info``, which repeats the others, goes last.
    """
    files = [*folder.glob("cluster_*.tsv"), *folder.glob("cluster_*.csv")]
    return sorted(files, key=lambda f: (f.stem == "cluster_info", f.stem, f.suffix != ".tsv"))


def read_cluster_tables(folder: Path, clusters: NDArray[np.int64]) -> ClusterTables:
    """Join every label table of a folder.

    Args:
        folder: The phy folder.
        clusters: (N,) sorted cluster numbers that have spikes.

    Raises:
        ReaderError: A file contradicts itself about a cluster.
    """
    columns: dict[str, _Column] = {}
    named: set[int] = set()
    notes: list[str] = []
    warnings: list[str] = []
    for path in cluster_table_files(folder):
        twin = path.with_suffix(".tsv")
        if path.suffix == ".csv" and twin.is_file():
            notes.append(f"{path.name} was skipped: {twin.name} stands beside it.")
            continue
        table = _read_table(path, notes, warnings)
        for name, values in table.items():
            named.update(values)
            _merge(columns, name, path, values, warnings)
    known = set(clusters.tolist())
    return ClusterTables(
        columns={name: _as_array(name, column.values, clusters) for name, column in columns.items()},
        without_spikes=tuple(sorted(named - known)),
        notes=tuple(notes),
        warnings=tuple(warnings),
    )


def _read_table(path: Path, notes: list[str], warnings: list[str]) -> dict[str, dict[int, str]]:
    """Column name -> cluster number -> text. Empty when the file is no label table."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ReaderError(f"{path} cannot be read: {error}.", "Repair or delete it.") from None
    lines = text.splitlines()
    # phy has written tabs into .csv files, too.
    header_line = next((line for line in lines if line.strip()), "")
    # A file without any of them has one column; spreadsheets set to a comma for decimals write semicolons.
    delimiter = next((mark for mark in "\t,;" if mark in header_line), ",")
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter)]
    except csv.Error as error:
        raise ReaderError(f"{path} cannot be read: {error}.", "Repair or delete it.") from None
    rows = [row for row in rows if any(row)]
    header = rows[0] if rows else []
    key = next((name for name in _KEYS if name in header), None)
    if key is None:
        notes.append(f"{path.name} was skipped: it has no column cluster_id.")
        return {}
    at = header.index(key)
    table: dict[str, dict[int, str]] = {name: {} for i, name in enumerate(header) if i != at and name}
    unreadable = 0
    for row in rows[1:]:
        cluster = _cluster_number(row[at]) if at < len(row) else None
        if cluster is None:
            unreadable += 1
            continue
        for i, name in enumerate(header):
            if i == at or not name:
                continue
            value = row[i] if i < len(row) else ""
            earlier = table[name].setdefault(cluster, value)
            if earlier != value:
                if earlier and value:
                    raise ReaderError(
                        f"{path} gives cluster {cluster} two values of {name}: {earlier!r} and {value!r}.",
                        "Keep one of the two rows.",
                    )
                table[name][cluster] = earlier or value
    if unreadable:
        warnings.append(f"{path.name}: {unreadable} rows have no cluster number and were skipped.")
    return table


def _cluster_number(text: str) -> int | None:
    try:
        number = float(text)
        return int(number) if number.is_integer() else None
    except ValueError:
        return None


def _merge(
    columns: dict[str, _Column], name: str, path: Path, values: dict[int, str], warnings: list[str]
) -> None:
    """Add the column `name` of the file `path`; where two disagree, the file named after the column counts.

    Kilosort 4 writes cluster_group.tsv as a copy of cluster_KSLabel.tsv; cluster_info.tsv may be outdated.
    """
    column = columns.get(name)
    if column is None:
        columns[name] = _Column(path, dict(values))
        return
    differing = [
        c for c, value in values.items() if value and column.values.get(c) and column.values[c] != value
    ]
    own_file = path.stem == f"cluster_{name}"
    for cluster, value in values.items():
        if value and (own_file or not column.values.get(cluster)):
            column.values[cluster] = value
    if differing:
        chosen, other = (path, column.file) if own_file else (column.file, path)
        warnings.append(
            f"{chosen.name} and {other.name} disagree about {name} of {len(differing)} clusters "
            f"({', '.join(map(str, differing[:5]))}); {chosen.name} was taken."
        )
    if own_file:
        column.file = path


def _as_array(name: str, values: dict[int, str], clusters: NDArray[np.int64]) -> NDArray[Any]:
    texts = [values.get(cluster, "") for cluster in clusters.tolist()]
    filled = [text for text in texts if text]
    if name not in _ALWAYS_TEXT and filled and all(_is_number(text) for text in filled):
        if len(filled) == len(texts) and all(_INTEGER.fullmatch(text) for text in texts):
            return np.array([int(text) for text in texts], dtype=np.int64)
        return np.array([float(text) if text else np.nan for text in texts], dtype=np.float64)
    return np.array(texts, dtype=np.str_)


def _is_number(text: str) -> bool:
    return any(c.isdigit() for c in text) and _NUMBER.fullmatch(text) is not None
