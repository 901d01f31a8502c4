"""Tables of NWB (DynamicTable): columns by name, rows by position, ids by their own column."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import ReaderError
from nuclr_nwb.tree import COPY_AGAIN, Tree, join
from nuclr_nwb.zarr_tree import is_pickled


@dataclass
class Table:
    """A table without its ragged columns.

    Attributes:
        path: Of its group.
        ids: (N,) str, unique.
        columns: Name -> (N,) numbers, booleans or text.
        notes, warnings: What was left out, and why.
    """

    path: str
    ids: NDArray[np.str_]
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def read_table(tree: Tree, path: str, *, apart: frozenset[str] = frozenset()) -> Table:
    """Ids and every one-dimensional column.

    Args:
        tree: The file.
        path: Group of the table.
        apart: Columns that are read elsewhere.

    Raises:
        ReaderError: No ids, duplicate ids, or a column of another length.
    """
    table = Table(path, read_ids(tree, path))
    left_out: list[str] = []
    pickled: list[str] = []
    for name in column_names(tree, path):
        at = join(path, name)
        if name in apart:
            continue
        if is_pickled(tree, at):
            pickled.append(name)
        elif join(path, name + "_index").rpartition("/")[2] in tree.names(path):
            left_out.append(name)
        else:
            _read_column(tree, table, name, left_out)
    if left_out:
        table.notes.append(
            f"Columns of {path} with several values per unit, or with references, were left out: "
            f"{', '.join(left_out)}."
        )
    if pickled:
        table.warnings.append(pickle_warning(tree, path, pickled))
    return table


def pickle_warning(tree: Tree, path: str, names: list[str]) -> str:
    """What to say about columns that only a pickle could tell."""
    return (
        f"{tree.place}: {', '.join(names)} of {path} are object references stored as pickles, which could "
        "run code, so they were not read. An export to HDF5 holds them in the open."
    )


def column_names(tree: Tree, path: str) -> list[str]:
    """Columns in the order of ``colnames``; those that it does not name after them, in order of name."""
    listed = _listed(tree, path)
    others = [
        name
        for name in tree.names(path)
        if name not in [*listed, "id"]
        and not name.endswith(("_index", "_elements"))
        and _is_column(tree, path, name)
    ]
    return [*listed, *others]


def _listed(tree: Tree, path: str) -> list[str]:
    named = tree.attributes(path).get("colnames")
    # Some writers list the ids too, which are no column.
    return [str(name) for name in named if name != "id"] if isinstance(named, list) else []


def _is_column(tree: Tree, path: str, name: str) -> bool:
    at = join(path, name)
    return tree.has_array(at) or tree.broken_link(at) is not None


def read_ids(tree: Tree, path: str) -> NDArray[np.str_]:
    """(N,) str ids of the rows.

    Raises:
        ReaderError: No ids, or duplicate ids.
    """
    array = tree.array(join(path, "id"))
    if len(array.shape) != 1 or (array.dtype is None and not array.is_text):
        raise ReaderError(f"{array.place} has shape {array.shape}, expected one id per row.", COPY_AGAIN)
    ids = array.all().astype(np.str_)
    unique, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        repeated = ", ".join(
            f"{unit!r} x{n}" for unit, n in zip(unique.tolist(), counts.tolist(), strict=True) if n > 1
        )
        raise ReaderError(
            f"{array.place}: {int((counts > 1).sum())} ids occur more than once: {repeated}.",
            "A label could land on the wrong unit; give every unit its own id.",
        )
    return ids


def _read_column(tree: Tree, table: Table, name: str, left_out: list[str]) -> None:
    at = join(table.path, name)
    target = tree.broken_link(at)
    if target is not None:
        table.warnings.append(f"The column {name!r} is a link to {target}: left out.")
        return
    if not tree.has_array(at):
        table.warnings.append(f"{table.path} names a column {name!r} that it does not hold: left out.")
        return
    try:
        array = tree.array(at)
        is_plain = array.is_text or array.dtype is not None
        if len(array.shape) != 1 or not is_plain or "table" in tree.attributes(at):
            left_out.append(name)
            return
        if array.shape[0] == len(table.ids):
            values = array.all()
    except ReaderError as error:
        table.warnings.append(f"The column {name!r} was left out: {error.what}")
        return
    if array.shape[0] != len(table.ids):
        if name not in _listed(tree, table.path):
            left_out.append(name)  # something that lies beside the table
            return
        raise ReaderError(
            f"{array.place} has {array.shape[0]} values for {len(table.ids)} rows.",
            "Labels could land on the wrong units; repair the file, or delete that column.",
        )
    table.columns[name] = _enumerated(tree, at, values)


def _enumerated(tree: Tree, at: str, values: NDArray[Any]) -> NDArray[Any]:
    """Numbers of an EnumData column become the texts they stand for."""
    elements = tree.attributes(at).get("elements")
    if values.dtype.kind == "U":
        return values
    values = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("="))
    if not isinstance(elements, str) or not elements or values.dtype.kind not in "iu" or not len(values):
        return values
    try:
        texts = tree.array(elements).all()
    except ReaderError:
        return values
    known = texts.ndim == 1 and texts.dtype.kind == "U" and values.min() >= 0 and values.max() < len(texts)
    return texts[values] if known else values


def row_numbers(tree: Tree, path: str, n_rows: int) -> NDArray[np.int64]:
    """Rows that a region points at (``rois`` of a series).

    Raises:
        ReaderError: Not integers, outside the table, or a row twice.
    """
    array = tree.array(path)
    rows = array.numbers("rows", kinds="iu").astype(np.int64)
    outside = int(((rows < 0) | (rows >= n_rows)).sum())
    if outside:
        raise ReaderError(
            f"{array.place}: {outside} of {len(rows)} rows lie outside the table, which has {n_rows}.",
            "Export the file again.",
        )
    if len(np.unique(rows)) != len(rows):
        raise ReaderError(
            f"{array.place}: {len(rows) - len(np.unique(rows))} rows occur more than once.",
            "Every unit has one trace; export the file again.",
        )
    return rows
