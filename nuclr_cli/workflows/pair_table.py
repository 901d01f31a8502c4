"""Reads a table of pairs: which unit is connected to which."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.errors import InputError
from nuclr_cli.wording import counted
from nuclr_cli.workflows.manifest import read_table as read_csv
from nuclr_cli.workflows.probe_inputs import ProbeTable
from nuclr_cli.workflows.probe_report import file_sha256
from nuclr_cli.workflows.unit_rows import SCOPE_COLUMNS, Named, UnitRows, key_text

SIDES = ("pre", "post")
_TRUTH = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}
_COLUMNS = (
    "It needs pre, post (unit ids) and label (0 or 1); where ids repeat, also subject, session or population "
    "(pre_population and post_population where the two differ)"
)


@dataclass(frozen=True)
class PairTable:
    """P pairs in the order of their units' keys, so that neither table's order matters.

    Attributes:
        path: The file.
        sha256: Of its bytes.
        pre, post: (P,) rows of the table of embeddings.
        connected: (P,) whether `pre` is connected to `post`.
        notes: What was merged, one sentence each.
    """

    path: Path
    sha256: str
    pre: NDArray[np.int64]
    post: NDArray[np.int64]
    connected: NDArray[np.bool_]
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.path.stem


def read_pairs(path: Path, source: ProbeTable) -> PairTable:
    """Read and check every pair.

    Columns: ``pre`` and ``post`` (unit ids), ``label`` (0 or 1), and as far as ids repeat ``subject``,
    ``session``, ``population`` (each also with ``pre_`` or ``post_`` before it, for one side). Others are
    ignored.

    Args:
        path: CSV, or TSV by its suffix.
        source: The table of embeddings.

    Raises:
        InputError: A missing column, a label that is neither 0 nor 1, an unknown or ambiguous unit, a unit
            paired with itself, a pair of two sessions, pairs that contradict one another, or one class only.
    """
    header, lines = read_csv(path)
    missing = [name for name in (*SIDES, "label") if name not in header]
    if missing:
        raise InputError(
            f"{path} has no column {' and no column '.join(map(repr, missing))}; its columns are: "
            f"{', '.join(header)}.",
            _COLUMNS,
        )
    if not lines:
        raise InputError(f"{path} has no pairs.", "Write one row per pair")
    connected = np.array([_truth(path, line, cells["label"]) for line, cells in lines])
    pre, post = (_rows(path, source, side, header, lines) for side in SIDES)
    _check_pairs(path, source, pre, post, [line for line, _ in lines])
    keep, notes = _merged(path, source, pre, post, connected, [line for line, _ in lines])
    pre, post, connected = pre[keep], post[keep], connected[keep]
    if connected.all() or not connected.any():
        only = "1 (connected)" if connected[0] else "0 (not connected)"
        raise InputError(
            f"Every pair of {path} ({len(connected)}) has the label {only}: there is nothing to tell apart.",
            "Add the pairs that were tested and found otherwise",
        )
    rank = np.empty(len(source.keys), dtype=np.int64)
    rank[source.keys.order] = np.arange(len(source.keys))
    order = np.lexsort((rank[post], rank[pre]))
    return PairTable(path, file_sha256(path), pre[order], post[order], connected[order], notes)


def _truth(path: Path, line: int, text: str) -> bool:
    if text.lower() not in _TRUTH:
        raise InputError(
            f"{path}, row {line}: the label is {text!r}.",
            "Write 1 where pre is connected to post, 0 where it was tested and is not; leave out other pairs",
        )
    return _TRUTH[text.lower()]


def _rows(
    path: Path, source: ProbeTable, side: str, header: list[str], lines: list[tuple[int, dict[str, str]]]
) -> NDArray[np.int64]:
    """(P,) row of one side's units."""
    columns: dict[str, str] = {}
    for name in SCOPE_COLUMNS:
        own = f"{side}_{name}"
        if own in header or name in header:
            columns[name] = own if own in header else name
    lookup = UnitRows(source.keys, tuple(columns))
    wanted = [
        Named(line, tuple((name, cells[column]) for name, column in columns.items()), cells[side])
        for line, cells in lines
    ]
    return lookup.find(path, wanted)


def _check_pairs(
    path: Path, source: ProbeTable, pre: NDArray[np.int64], post: NDArray[np.int64], line_of: list[int]
) -> None:
    same = np.flatnonzero(pre == post)
    if len(same):
        raise InputError(
            f"{path}, row {line_of[int(same[0])]}: unit {key_text(source.keys, int(pre[same[0]]))} is paired "
            f"with itself ({counted(len(same), 'such row')}).",
            "Remove such rows",
        )
    apart = np.flatnonzero(source.keys.recording[pre] != source.keys.recording[post])
    if len(apart):
        first = int(apart[0])
        raise InputError(
            f"{path}, row {line_of[first]}: {key_text(source.keys, int(pre[first]))} and "
            f"{key_text(source.keys, int(post[first]))} are of two sessions "
            f"({counted(len(apart), 'such row')}).",
            "Only units that were recorded together can be a pair",
        )


def _merged(
    path: Path,
    source: ProbeTable,
    pre: NDArray[np.int64],
    post: NDArray[np.int64],
    connected: NDArray[np.bool_],
    line_of: list[int],
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """The first row of each ordered pair; what says it again must say the same."""
    first: dict[tuple[int, int], int] = {}
    keep: list[int] = []
    for i, pair in enumerate(zip(pre.tolist(), post.tolist(), strict=True)):
        before = first.setdefault(pair, i)
        if before == i:
            keep.append(i)
        elif connected[before] != connected[i]:
            raise InputError(
                f"{path}: rows {line_of[before]} and {line_of[i]} contradict one another: "
                f"{key_text(source.keys, pair[0])} to {key_text(source.keys, pair[1])} is labelled "
                f"{int(connected[before])} and {int(connected[i])}.",
                "Keep the row that is right",
            )
    n_again = len(pre) - len(keep)
    notes: tuple[str, ...] = ()
    if n_again:
        notes = (
            counted(n_again, f"row of {path.name} repeats a pair", f"rows of {path.name} repeat pairs") + ".",
        )
    return np.array(keep, dtype=np.int64), notes
