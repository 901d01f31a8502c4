"""The folder of one probe: written beside its place under a temporary name, then moved there whole."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli import __version__
from nuclr_cli.errors import InputError
from nuclr_cli.evaluation.splits import UnitKeys


def versions() -> dict[str, str]:
    """Versions that the numbers of a probe may depend on."""
    packages = ("numpy", "scipy", "scikit-learn", "skops", "pyarrow")
    return {"nuclr": __version__} | {name: metadata.version(name) for name in packages}


def folder_name(text: str) -> str:
    """`text` as the name of a folder on any system; a changed name gets a digest so that no two collide."""
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", text).strip(".")[:80]
    if safe == text:
        return safe
    return f"{safe}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def file_sha256(path: Path) -> str:
    """Digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder beside `target`; when the block ends well, it takes `target`'s place as a whole.

    Raises:
        InputError: The place cannot be written or the disk is full. An older `target` stays as it was.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    retired = target.with_name(f".{target.name}.{os.getpid()}.old")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for path in temporary.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        if target.exists():
            target.rename(retired)
        try:
            temporary.rename(target)
        except OSError:
            if retired.exists():
                retired.rename(target)
            raise
    except OSError as error:
        raise InputError(
            f"Cannot write {target}: {error}.", "Free some space or mend the permissions, then run it again"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(retired, ignore_errors=True)


def write_document(document: Any, path: Path, *, indent: int | None = 2) -> None:
    """Write a record or a mapping as JSON; NaN is refused, since JSON has none."""
    if dataclasses.is_dataclass(document) and not isinstance(document, type):
        document = dataclasses.asdict(document)
    text = json.dumps(document, indent=indent, ensure_ascii=False, allow_nan=False, default=_plain)
    path.write_text(text + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} in a report")


def write_predictions(
    path: Path,
    keys: UnitKeys,
    label: NDArray[np.str_],
    fold: NDArray[np.str_],
    predicted: NDArray[np.int64],
    probability: NDArray[np.float64],
    classes: tuple[str, ...],
    reason: NDArray[np.str_],
    about: Mapping[str, str],
    others: Mapping[str, NDArray[np.int64]] | None = None,
) -> None:
    """Write predictions.parquet: one row for every row of the table of embeddings, in its order.

    Columns: the key, ``label`` (empty = unlabelled), ``fold`` that tested the unit, ``prediction`` and
    ``probability_CLASS`` (null where nothing was predicted), ``reason`` why not (empty where it was),
    ``prediction_NAME`` for each of `others`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    absent = predicted < 0
    names = np.array([*classes, ""])[predicted]  # -1 is the last: empty
    columns: dict[str, Any] = {
        "subject": pa.array(keys.subject.tolist(), pa.string()),
        "session": pa.array(keys.session.tolist(), pa.string()),
        "population": pa.array(keys.population.tolist(), pa.string()),
        "unit_id": pa.array(keys.unit_id.tolist(), pa.string()),
        "label": pa.array(label.tolist(), pa.string()),
        "fold": pa.array(fold.tolist(), pa.string()),
        "prediction": pa.array(names.tolist(), pa.string(), mask=absent),
    }
    for i, name in enumerate(classes):
        columns[f"probability_{name}"] = pa.array(probability[:, i], pa.float64(), mask=absent)
    columns["reason"] = pa.array(reason.tolist(), pa.string())
    for name, other in (others or {}).items():
        guessed = np.array([*classes, ""])[other]
        columns[f"prediction_{name}"] = pa.array(guessed.tolist(), pa.string(), mask=other < 0)
    table = pa.table(columns).replace_schema_metadata({"nuclr": json.dumps(dict(about))})
    pq.write_table(table, path)
