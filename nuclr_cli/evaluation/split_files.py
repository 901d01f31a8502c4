"""Splits on disk: a CSV that the user wrote, or the split.json of an earlier probe."""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nuclr_cli.errors import InputError
from nuclr_cli.evaluation.split_names import KEY_COLUMNS, close_name, describe_columns, describe_strangers
from nuclr_cli.evaluation.splits import LEFT_OUT, TRAIN_ONLY, Split, Strings, UnitKeys

SPLIT_KINDS = ("subject", "session", "unit")
TRAIN_ROLE = "train"
TEST_ROLE = "test"
_SHOWN = 5
_SPLIT_SUFFIXES = (".csv", ".tsv", ".json")


def split_document(split: Split) -> dict[str, Any]:
    """The split as JSON: each unit that takes part with the fold that tests it (``train``: never tested).

    Every fold trains on all the units listed that it does not test. `file_split` reads this back. Where a
    fold is called ``train`` (as that of a subject of this name), null stands for never tested.
    """
    keys = split.keys
    rows = keys.order[split.fold[keys.order] != LEFT_OUT]
    never = None if TRAIN_ROLE in split.fold_names else TRAIN_ROLE
    names = (*split.fold_names, never)  # TRAIN_ONLY is -1: the last
    return {
        "kind": split.kind,
        "how": split.how,
        "seed": split.seed,
        "subjects_disjoint": split.subjects_disjoint,
        "folds": [{"name": f.name, "n_train": len(f.train), "n_test": len(f.test)} for f in split.folds],
        "columns": [*KEY_COLUMNS, "fold"],
        "units": [
            [*(str(column[row]) for column in keys.columns()), names[split.fold[row]]]
            for row in rows.tolist()
        ],
    }


def file_split(path: Path, keys: UnitKeys, labels: Strings) -> Split:
    """Read a split from a file.

    CSV (or TSV) columns: ``subject`` and, as fine as wanted, ``session``, ``population``, ``unit_id``; then
    ``fold`` (each fold is tested in turn, ``train`` = never tested) or ``role`` (``train`` or ``test``).
    JSON: a split.json that a probe wrote. Labelled units that the file does not name take no part, and are
    counted.

    Args:
        path: The file.
        keys: The N rows.
        labels: (N,) text, empty = unlabelled.

    Raises:
        InputError: The file is missing or malformed, names a unit twice, or fits no labelled unit.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise _unreadable(path, error) from None
    except UnicodeDecodeError:
        raise InputError(f"The split file {path} is not UTF-8 text.", "Save it as CSV in UTF-8") from None
    read = _from_json(path, text) if path.suffix.lower() == ".json" else _from_csv(path, text)
    columns, table = read.columns, read.folds
    chosen = dict(zip(KEY_COLUMNS, keys.columns(), strict=True))
    fold = np.full(len(keys), LEFT_OUT, dtype=np.int64)
    names = sorted({name for name in table.values() if name is not None})
    if not names:
        raise InputError(
            f"The split file {path} tests no unit: every row is {TRAIN_ROLE!r}.", "Add test rows"
        )
    code: dict[str | None, int] = {name: i for i, name in enumerate(names)} | {None: TRAIN_ONLY}
    met: set[tuple[str, ...]] = set()
    unlisted: list[int] = []
    for row, key in enumerate(zip(*(chosen[name].tolist() for name in columns), strict=True)):
        if key in table:
            met.add(key)
        if labels[row] == "":
            continue
        if key in table:
            fold[row] = code[table[key]]
        else:
            unlisted.append(row)
    known = [tuple(key) for key in zip(*(chosen[name].tolist() for name in columns), strict=True)]
    strangers = describe_strangers(columns, read.lines, known)
    if not met:
        raise InputError(
            f"No row of the split file {path} matches a unit of the embeddings: it says "
            f"{'/'.join(next(iter(table)))}, they say {'/'.join(known[0])}. {strangers}",
            f"The columns {', '.join(columns)} must hold the ids that nuclr info prints",
        )
    notes, warnings = list(read.notes), []
    listed = {key[0] for key in table}  # the first column is the subject
    absent = sorted({str(keys.subject[row]) for row in unlisted} - listed)
    if strangers:
        n_lost = len(table) - len(met)
        lost = f"{n_lost} of {len(table)} rows of {path.name} match no embedded unit"
        notes.append(f"{lost}: {strangers}")
        if absent or not listed <= set(keys.subject.tolist()):
            warnings.append(notes[-1])
    if unlisted:
        text = f"{len(unlisted)} labelled units are not in {path.name} and take no part"
        whole = f", among them all of {', '.join(absent[:_SHOWN])}{', ...' if len(absent) > _SHOWN else ''}"
        notes.append(f"{text}{whole if absent else ''}.")
        if absent and strangers:
            warnings.append(notes[-1])
    mend = "Mend these rows, " if strangers else ""
    empty = [name for i, name in enumerate(names) if not (fold == i).any()]
    if empty:
        what = f"No labelled unit is tested by fold {', '.join(map(repr, empty))} of the split file {path}."
        raise InputError(
            f"{what} {lost[:1].upper()}{lost[1:]}: {strangers}" if strangers else what,
            f"{mend}{'remove' if mend else 'Remove'} that fold from the file, or label its units",
        )
    try:
        how = f"as written in {path.name}"
        return Split("file", how, keys, fold, tuple(names), notes=tuple(notes), warnings=tuple(warnings))
    except InputError as error:
        if not strangers:
            raise
        fix = f"{error.fix[:1].lower()}{error.fix[1:]}"
        raise InputError(f"{error.what} {lost}: {strangers}", f"{mend}or {fix}") from None


def _unreadable(path: Path, error: OSError) -> InputError:
    """Why what followed ``--split`` is no split: a word that is not known, or a file that cannot be read."""
    takes = (
        "--split takes subject, unit, session, or a CSV file with the columns "
        "subject,session,population,unit_id,fold"
    )
    if not isinstance(error, FileNotFoundError):
        return InputError(f"Cannot read the split file {path}: {error.strerror}.", takes)
    beside = sorted(one.name for one in path.parent.glob("*") if one.suffix.lower() in _SPLIT_SUFFIXES)
    close = close_name(path.name, (*SPLIT_KINDS, *beside))
    if close in beside:
        close = str(path.with_name(close))
    what = f"Cannot read the split file {path}: it is neither subject, session, unit nor a file."
    return InputError(what, f"Did you mean --split {shlex.quote(close)}? {takes}" if close else takes)


Key = tuple[str, ...]
Rows = Sequence[tuple[Key, str | None, str]]
"""Key, the fold that tests it (None = never tested), and where it stands."""


@dataclass(frozen=True)
class _Table:
    """What a split file says.

    Attributes:
        columns: Of the keys.
        folds: Key -> the fold that tests it; None = never tested.
        lines: Key -> where it stands: ``line 2`` of a CSV file, ``entry 1 of units`` of a split.json.
        notes: What the user should know of the file itself.
    """

    columns: tuple[str, ...]
    folds: Mapping[Key, str | None]
    lines: Mapping[Key, str]
    notes: tuple[str, ...] = ()


def _from_csv(path: Path, text: str) -> _Table:
    try:
        return _read_csv(path, text)
    except csv.Error as error:
        raise InputError(f"{path} cannot be read as a table: {error}.", "Save it as CSV in UTF-8") from None


def _read_csv(path: Path, text: str) -> _Table:
    header = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text), delimiter="\t" if "\t" in header else ",")
    found = tuple(name.strip() for name in reader.fieldnames or ())
    reader.fieldnames = list(found)
    columns = tuple(name for name in KEY_COLUMNS if name in found)
    value = next((name for name in ("fold", "role") if name in found), None)
    typos = describe_columns(found)
    if "subject" not in columns or value is None:
        needs = (
            "It needs subject, session, population, unit_id (the last three may be absent) and fold or role"
        )
        raise InputError(
            f"The split file {path} has the columns {', '.join(found) or '(none)'}.",
            f"{typos} {needs}" if typos else needs,
        )
    rows: list[tuple[Key, str | None, str]] = []
    for record in reader:
        if None in record or any(record[name] is None for name in found):
            raise InputError(
                f"Line {reader.line_num} of {path} does not have {len(found)} fields.", "Mend that line"
            )
        if any("\n" in record[name].strip() for name in found):
            raise InputError(
                f"A value of {path} that ends in line {reader.line_num} goes over several lines: a quote is "
                "not closed.",
                "Close it, or remove it",
            )
        name = record[value].strip()
        if value == "role" and name not in (TRAIN_ROLE, TEST_ROLE):
            raise InputError(
                f"Line {reader.line_num} of {path} has the role {name!r}.",
                f"A role is {TRAIN_ROLE} or {TEST_ROLE}; leave other units out of the file",
            )
        key = tuple(record[column].strip() for column in columns)
        rows.append((key, None if name == TRAIN_ROLE else name, f"line {reader.line_num}"))
    if value == "fold":
        _refuse_ambiguous(path, columns, rows)
    notes = (f"Columns of {path.name} that are not read: {typos}",) if typos else ()
    return _table(path, columns, rows, typos, notes)


def _refuse_ambiguous(path: Path, columns: Sequence[str], rows: Rows) -> None:
    """Raise InputError where ``train`` may be a subject (session) of this name that is a fold like others."""
    for place, column in enumerate(columns):
        trained = [key[place] for key, name, _ in rows if name is None]
        others = [(key[place], name) for key, name, _ in rows if name is not None]
        if TRAIN_ROLE in trained and others and all(own == name for own, name in others):
            raise InputError(
                f"In {path} each {column} is a fold of its name, and one is called {TRAIN_ROLE!r}, which as "
                "a fold means that the unit is never tested.",
                f"Call its fold otherwise, e.g. '{column} {TRAIN_ROLE}'",
            )


def _from_json(path: Path, text: str) -> _Table:
    try:
        document = json.loads(text)
        if document["columns"] != [*KEY_COLUMNS, "fold"]:
            raise ValueError(f"columns are {document['columns']}")
        is_fold = any(fold["name"] == TRAIN_ROLE for fold in document.get("folds", ()))
        never = (None,) if is_fold else (None, TRAIN_ROLE)
        rows = [
            ((str(a), str(b), str(c), str(d)), None if name in never else str(name), f"entry {n} of units")
            for n, (a, b, c, d, name) in enumerate(document["units"], 1)
        ]
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{path} is not a split that nuclr probe wrote: {error}.", "Give its split.json, or a CSV file"
        ) from None
    return _table(path, KEY_COLUMNS, rows)


def _table(
    path: Path, columns: tuple[str, ...], rows: Rows, typos: str = "", notes: tuple[str, ...] = ()
) -> _Table:
    if not rows:
        raise InputError(f"The split file {path} has no rows.", "Add one row a unit")
    folds: dict[Key, str | None] = {}
    lines: dict[Key, str] = {}
    for key, name, line in rows:
        if name == "":
            raise InputError(
                f"{path} gives {'/'.join(key)} an empty fold.", "Write a fold, or remove the row"
            )
        if key in folds:
            what = f"{path} names {'/'.join(key)} twice ({lines[key]} and {line})."
            raise InputError(
                what, f"{typos} Otherwise keep one row for it" if typos else "Keep one row for it"
            )
        folds[key] = name
        lines[key] = line
    return _Table(columns, folds, lines, notes)


def split_title(path: str | Path) -> str:
    """What results of a split file are called after: its name, or the folder's where nuclr named the file."""
    file = Path(path)
    return file.resolve().parent.name if file.stem == "split" else file.stem
