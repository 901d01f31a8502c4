"""Splits on disk: a CSV that the user wrote, or the split.json of an earlier probe."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nuclr_cli.errors import InputError
from nuclr_cli.evaluation.splits import LEFT_OUT, TRAIN_ONLY, Split, Strings, UnitKeys

KEY_COLUMNS = ("subject", "session", "population", "unit_id")
TRAIN_ROLE = "train"
TEST_ROLE = "test"


def split_document(split: Split) -> dict[str, Any]:
    """The split as JSON: each unit that takes part with the fold that tests it (``train``: never tested).

    Every fold trains on all the units listed that it does not test. `file_split` reads this back.
    """
    keys = split.keys
    rows = keys.order[split.fold[keys.order] != LEFT_OUT]
    names = (*split.fold_names, TRAIN_ROLE)  # TRAIN_ONLY is -1: the last
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
        raise InputError(
            f"Cannot read the split file {path}: {error.strerror}.",
            "--split takes subject, unit, session, or a CSV file with the columns "
            "subject,session,population,unit_id,fold",
        ) from None
    except UnicodeDecodeError:
        raise InputError(f"The split file {path} is not UTF-8 text.", "Save it as CSV in UTF-8") from None
    columns, table = _from_json(path, text) if path.suffix.lower() == ".json" else _from_csv(path, text)
    chosen = dict(zip(KEY_COLUMNS, keys.columns(), strict=True))
    fold = np.full(len(keys), LEFT_OUT, dtype=np.int64)
    names = sorted(set(table.values()) - {TRAIN_ROLE})
    if not names:
        raise InputError(
            f"The split file {path} tests no unit: every row is {TRAIN_ROLE!r}.", "Add test rows"
        )
    code = {name: i for i, name in enumerate(names)} | {TRAIN_ROLE: TRAIN_ONLY}
    met: set[tuple[str, ...]] = set()
    n_unlisted = 0
    for row, key in enumerate(zip(*(chosen[name].tolist() for name in columns), strict=True)):
        if key in table:
            met.add(key)
        if labels[row] == "":
            continue
        if key in table:
            fold[row] = code[table[key]]
        else:
            n_unlisted += 1
    if not met:
        raise InputError(
            f"No row of the split file {path} matches a unit of the embeddings: it says "
            f"{'/'.join(next(iter(table)))}, they say {'/'.join(str(chosen[name][0]) for name in columns)}.",
            f"The columns {', '.join(columns)} must hold the ids that nuclr info prints",
        )
    notes: list[str] = []
    if len(met) < len(table):
        notes.append(f"{len(table) - len(met)} of {len(table)} rows of {path.name} match no embedded unit.")
    if n_unlisted:
        notes.append(f"{n_unlisted} labelled units are not in {path.name} and take no part.")
    empty = [name for i, name in enumerate(names) if not (fold == i).any()]
    if empty:
        raise InputError(
            f"No labelled unit is tested by fold {', '.join(map(repr, empty))} of the split file {path}.",
            "Remove that fold from the file, or label its units",
        )
    return Split("file", f"as written in {path.name}", keys, fold, tuple(names), notes=tuple(notes))


Table = Mapping[tuple[str, ...], str]


def _from_csv(path: Path, text: str) -> tuple[tuple[str, ...], Table]:
    header = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text), delimiter="\t" if "\t" in header else ",")
    found = tuple(name.strip() for name in reader.fieldnames or ())
    reader.fieldnames = list(found)
    columns = tuple(name for name in KEY_COLUMNS if name in found)
    value = next((name for name in ("fold", "role") if name in found), None)
    if "subject" not in columns or value is None:
        raise InputError(
            f"The split file {path} has the columns {', '.join(found) or '(none)'}.",
            "It needs subject, session, population, unit_id (the last three may be absent) and fold or role",
        )
    rows = []
    for record in reader:
        if None in record or any(record[name] is None for name in found):
            raise InputError(
                f"Line {reader.line_num} of {path} does not have {len(found)} fields.", "Mend that line"
            )
        name = record[value].strip()
        if value == "role" and name not in (TRAIN_ROLE, TEST_ROLE):
            raise InputError(
                f"Line {reader.line_num} of {path} has the role {name!r}.",
                f"A role is {TRAIN_ROLE} or {TEST_ROLE}; leave other units out of the file",
            )
        rows.append((tuple(record[column].strip() for column in columns), name))
    return columns, _table(path, rows)


def _from_json(path: Path, text: str) -> tuple[tuple[str, ...], Table]:
    try:
        document = json.loads(text)
        if document["columns"] != [*KEY_COLUMNS, "fold"]:
            raise ValueError(f"columns are {document['columns']}")
        rows = [((str(a), str(b), str(c), str(d)), str(name)) for a, b, c, d, name in document["units"]]
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{path} is not a split that nuclr probe wrote: {error}.", "Give its split.json, or a CSV file"
        ) from None
    return KEY_COLUMNS, _table(path, rows)


def _table(path: Path, rows: Sequence[tuple[tuple[str, ...], str]]) -> Table:
    if not rows:
        raise InputError(f"The split file {path} has no rows.", "Add one row a unit")
    table: dict[tuple[str, ...], str] = {}
    for key, name in rows:
        if not name:
            raise InputError(
                f"{path} gives {'/'.join(key)} an empty fold.", "Write a fold, or remove the row"
            )
        if key in table:
            raise InputError(f"{path} names {'/'.join(key)} twice.", "Keep one row for it")
        table[key] = name
    return table
