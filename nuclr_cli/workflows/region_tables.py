"""Reads a table of recording channels and their brain regions."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nuclr_cli.errors import InputError
from nuclr_cli.workflows.labels import SCOPE_COLUMNS, Named
from nuclr_cli.workflows.manifest import read_table

REGION = "brain_region"
REGION_COLUMNS = ("brain_region", "brain_area", "region", "acronym", "location", "structure")
CHANNEL_COLUMNS = ("peak_channel", "channel_id", "main_channel_id", "channel", "electrode", "ch")
#: Columns of a position in micrometres, the axis across the insertion first; the first complete set counts.
TABLE_POSITIONS = (
    ("x_um", "y_um", "z_um"),
    ("x_um", "y_um"),
    ("lateral_um", "axial_um"),
    ("x", "y", "z"),
    ("x", "y"),
    ("lateral", "axial"),
    ("axial_um",),
    ("axial",),
    ("depth_um",),
    ("depth",),
)


@dataclass(frozen=True)
class RegionRow:
    """One channel: its session (where the table says so), name, position and region ('' = none)."""

    number: int
    scope: tuple[tuple[str, str], ...]
    channel: str
    position: tuple[float, ...]
    region: str

    def concerns(self, population: Named) -> bool:
        """Whether the row is about a channel of this population."""
        return all(getattr(population, name) == value for name, value in self.scope)


@dataclass(frozen=True)
class RegionTable:
    """A table of channels, read as text.

    Attributes:
        path: The file.
        sha256: Of its bytes.
        channel_column: Names the channel, '' = none.
        position_columns: Micrometres; () = none.
        scoped_by: Which of subject, session and population the table has.
        rows: One per channel.
        notes: What was assumed.
    """

    path: Path
    sha256: str
    channel_column: str
    position_columns: tuple[str, ...]
    scoped_by: tuple[str, ...]
    rows: tuple[RegionRow, ...]
    notes: tuple[str, ...] = ()

    columns = (REGION,)

    def n_elsewhere(self, populations: Sequence[Named]) -> int:
        """Rows that are about none of these populations."""
        return sum(not any(row.concerns(population) for population in populations) for row in self.rows)

    @property
    def fingerprint(self) -> str:
        """Name and content of the table, for comparing runs."""
        return f"{self.path.name} sha256:{self.sha256}"


def read_region_table(path: Path) -> RegionTable:
    """Read a CSV or TSV of channels. Names stay as written: ``007`` and ``NA`` are texts.

    Raises:
        InputError: Unreadable; no region, or neither channel nor position; a channel named twice; a position
            that is no number.
    """
    header, lines = read_table(path)
    region_column = next((name for name in REGION_COLUMNS if name in header), None)
    if region_column is None:
        raise InputError(
            f"{path} has no column of regions; its columns are: {', '.join(header)}.",
            f"Name it {REGION} (or {', '.join(REGION_COLUMNS[1:])}).",
        )
    scoped_by = tuple(name for name in SCOPE_COLUMNS if name in header)
    channel_column = next((name for name in CHANNEL_COLUMNS if name in header), "")
    positions = next((names for names in TABLE_POSITIONS if set(names) <= set(header)), ())
    if not channel_column and not positions:
        raise InputError(
            f"{path} names neither channels nor positions; its columns are: {', '.join(header)}.",
            f"It needs a column {', '.join(CHANNEL_COLUMNS)}; or x_um and y_um; or lateral_um and axial_um; "
            "or depth.",
        )
    rows = tuple(
        RegionRow(
            number,
            tuple((name, values[name]) for name in scoped_by),
            values[channel_column] if channel_column else "",
            tuple(_number(path, number, name, values[name]) for name in positions),
            values[region_column],
        )
        for number, values in lines
    )
    if not rows:
        raise InputError(f"{path} has no rows.", "Write one row per channel.")
    if channel_column:
        _refuse_repeats(path, channel_column, rows)
    notes = []
    if region_column != REGION:
        notes.append(f"{path.name}: regions are taken from its column {region_column!r}.")
    unused = [name for name in header if name in REGION_COLUMNS and name != region_column]
    if unused:
        notes.append(f"{path.name}: its column {', '.join(map(repr, unused))} is not used.")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return RegionTable(path, digest, channel_column, positions, scoped_by, rows, tuple(notes))


def _number(path: Path, number: int, name: str, text: str) -> float:
    """A coordinate; NaN for an empty cell."""
    try:
        return float(text) if text else math.nan
    except ValueError:
        raise InputError(
            f"{path}, row {number}, column {name}: {text!r} is not a number.", "Write micrometres, e.g. 320.5"
        ) from None


def whole_number(text: str) -> str:
    """``9`` for 9.0 and 09; '' for what is no plain number (float() would take ``1_0`` for 10)."""
    if not re.fullmatch(r"[+-]?[0-9]+(\.[0-9]*)?(e[+-]?[0-9]+)?", text):
        return ""
    value = float(text)
    if not math.isfinite(value):
        return ""
    return str(int(value)) if value.is_integer() else str(value)


def _refuse_repeats(path: Path, column: str, rows: Sequence[RegionRow]) -> None:
    first_of: dict[tuple[object, ...], RegionRow] = {}
    for row in rows:
        if not row.channel:
            raise InputError(
                f"{path}, row {row.number}: the column {column!r} is empty.", "Name the channel."
            )
        first = first_of.setdefault((row.scope, row.channel), row)
        if first is not row:
            raise InputError(
                f"{path}: rows {first.number} and {row.number} both name channel {row.channel!r}.",
                "Keep one row per channel. With several insertions, add the columns subject, session or "
                "population.",
            )
