"""Reads a manifest: one row per source, for recordings of many animals."""

from __future__ import annotations

import csv
import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nuclr_cli.data.not_sessions import MANIFEST_COLUMNS
from nuclr_cli.errors import InputError
from nuclr_cli.evaluation.split_names import close_name

REQUIRED = MANIFEST_COLUMNS
_MISTAKEN_FOR = {"duration": "duration_s", "fs": "fs_hz", "segment_starts_s": "segment_starts"}
_CLOSE = 0.75  # lets session_type be an attribute, and takes duraton_s, durations and fs_khz for mistakes
OPTION_COLUMNS = ("subject", "session", "reader", "duration_s", "fs_hz", "segment_starts")


@dataclass(frozen=True)
class ManifestRow:
    """What one row says about one source.

    Attributes:
        number: Line of the table, the header being 1.
        path: Source, resolved against the manifest's folder.
        subject, session: Never empty.
        reader: Reader to use, None = let every reader look.
        duration_s, segment_starts_s: Seconds, one per segment; () = not said.
        fs_hz: None = not said.
        attributes: Every other column, as written.
    """

    number: int
    path: Path
    subject: str
    session: str
    reader: str | None = None
    duration_s: tuple[float, ...] = ()
    fs_hz: float | None = None
    segment_starts_s: tuple[float, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)


def read_manifest(path: Path, broadcast: Sequence[str] = ()) -> tuple[ManifestRow, ...]:
    """Read and check every row.

    Args:
        path: CSV, or TSV by its suffix.
        broadcast: Columns that the caller wants to use as unit labels.

    Raises:
        InputError: Unreadable; a column or a value is missing; a path does not exist; two rows name the same
            source or the same session. Names the rows.
    """
    header, rows = read_table(path)
    missing = [name for name in REQUIRED if name not in header]
    if missing:
        raise InputError(
            f"{path} has no column {' and no column '.join(map(repr, missing))}; "
            f"its columns are: {', '.join(header)}.",
            f"A manifest needs the columns {', '.join(REQUIRED)}.",
        )
    for column in broadcast:
        if column not in header or column in ("path", *OPTION_COLUMNS):
            usable = [name for name in header if name not in ("path", *OPTION_COLUMNS)]
            close = difflib.get_close_matches(column, usable, n=1)
            raise InputError(
                f"--broadcast {column}: {path} has no such column to broadcast; "
                f"it has: {', '.join(usable) or 'none'}.",
                f"--broadcast {close[0]}" if close else "Name one of the columns, or leave --broadcast out.",
            )
    if not rows:
        raise InputError(f"{path} has no rows.", "Write one row per source.")
    parsed = tuple(_row(path, number, values) for number, values in rows)
    unknown = [row for row in parsed if not row.path.exists()]
    if unknown:
        raise InputError(
            f"{path}: {len(unknown)} of {len(parsed)} paths do not exist: "
            + "; ".join(f"row {row.number}: {row.path}" for row in unknown[:5])
            + ("; ..." if len(unknown) > 5 else "")
            + ".",
            f"Paths are relative to the folder of the table, {path.parent.resolve()}: correct them.",
        )
    _refuse_repeats(path, "source", {row.number: row.path.resolve() for row in parsed})
    _refuse_repeats(path, "subject and session", {row.number: (row.subject, row.session) for row in parsed})
    return parsed


def mistaken_columns(rows: Sequence[ManifestRow], broadcast: Sequence[str] = ()) -> dict[str, str]:
    """Attributes that are named almost like an option column that no row uses -> that column.

    Args:
        rows: Of one manifest.
        broadcast: Columns that are wanted as labels, and so are meant as they are.
    """
    unused = []
    for option in OPTION_COLUMNS:
        field_name = "segment_starts_s" if option == "segment_starts" else option
        if all(getattr(row, field_name) in (None, ()) for row in rows):
            unused.append(option)
    present = {name: None for row in rows for name in row.attributes if name not in broadcast}
    close = {name: _MISTAKEN_FOR.get(name) or close_name(name, unused, _CLOSE) for name in present}
    return {name: option for name, option in close.items() if option in unused and _is_meant(name, option)}


def _is_meant(name: str, option: str) -> bool:
    """Whether a name that is like an option is no word of its own, as header, leader and breeder are."""
    return option != "reader" or set(name.strip().lower()) <= set("readers")


def read_table(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """A CSV or TSV file as text, without any guess at types: ``007`` and ``NA`` stay what they are.

    Returns:
        The header, and (line number, column -> value) of each row that is not blank.

    Raises:
        InputError: Unreadable, no header, a column named twice, or a row longer or shorter than the header.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter=_delimiter(path, first))
            lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.", "Check the spelling.") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a table: {error}.", "Save it as CSV in UTF-8.") from None
    lines = [(number, cells) for number, cells in lines if any(cells)]
    if not lines:
        raise InputError(f"{path} is empty.", "Its first line must name the columns.")
    header = lines[0][1]
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated or "" in header:
        problem = f"names {', '.join(repeated)} twice" if repeated else "has a column without a name"
        raise InputError(f"{path}: the header {problem}.", "Give every column its own name.")
    rows = []
    for number, cells in lines[1:]:
        if len(cells) != len(header):
            raise InputError(
                f"{path}, row {number}: {len(cells)} values for {len(header)} columns.",
                "Put values that hold a comma in double quotes.",
            )
        rows.append((number, dict(zip(header, cells, strict=True))))
    return header, rows


def _delimiter(path: Path, header: str) -> str:
    """A comma, unless the header has none; spreadsheets of many countries write semicolons."""
    if path.suffix.lower() == ".tsv":
        return "\t"
    return next((mark for mark in ",\t;" if mark in header), ",")


def parse_seconds(text: str, what: str) -> tuple[float, ...]:
    """Numbers separated by commas, semicolons or spaces; '' = none.

    Raises:
        InputError: Something else.
    """
    try:
        values = tuple(float(part) for part in re.split(r"[,;\s]+", text.strip()) if part)
    except ValueError:
        values = (math.nan,)
    if not all(math.isfinite(value) for value in values):
        raise InputError(f"{what}: {text!r} is not a list of numbers.", "Write seconds, e.g. 0,1860.5")
    return values


def _row(path: Path, number: int, values: dict[str, str]) -> ManifestRow:
    where = f"{path}, row {number}"
    for name in REQUIRED:
        if not values[name]:
            raise InputError(
                f"{where}: the column {name!r} is empty.", f"Every row needs {', '.join(REQUIRED)}."
            )
    rates = parse_seconds(values.get("fs_hz", ""), f"{where}, column fs_hz")
    if len(rates) > 1:
        raise InputError(f"{where}: fs_hz holds {len(rates)} numbers.", "Write one sampling rate in Hz.")
    return ManifestRow(
        number=number,
        path=path.parent / values["path"],
        subject=values["subject"],
        session=values["session"],
        reader=values.get("reader") or None,
        duration_s=parse_seconds(values.get("duration_s", ""), f"{where}, column duration_s"),
        fs_hz=rates[0] if rates else None,
        segment_starts_s=parse_seconds(values.get("segment_starts", ""), f"{where}, column segment_starts"),
        attributes={name: value for name, value in values.items() if name not in ("path", *OPTION_COLUMNS)},
    )


def _refuse_repeats(path: Path, what: str, by_row: Mapping[int, object]) -> None:
    rows_of: dict[object, list[int]] = {}
    for number, value in by_row.items():
        rows_of.setdefault(value, []).append(number)
    repeats = [rows for rows in rows_of.values() if len(rows) > 1]
    if repeats:
        listed = "; ".join(f"rows {' and '.join(map(str, rows))}" for rows in repeats[:5])
        raise InputError(
            f"{path}: {listed} name the same {what}.",
            "Each row is one recording of its own: remove one, or give it another session.",
        )
