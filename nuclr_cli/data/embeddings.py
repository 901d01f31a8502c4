"""The embedding table: one row a unit, as a Parquet file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nuclr_cli.data.atomic import replacing
from nuclr_cli.errors import InputError

KEY_COLUMNS = ("subject", "session", "population", "unit_id")
_TEXT_COLUMNS = (*KEY_COLUMNS, "modality")
_COUNT_COLUMNS = ("n_windows", "n_events")
_NUMBER_COLUMNS = (*_COUNT_COLUMNS, "embedding")
RESERVED_COLUMNS = (*_TEXT_COLUMNS, *_NUMBER_COLUMNS)
_METADATA = b"nuclr"


@dataclass(frozen=True)
class EmbeddingTable:
    """Embeddings of N units with what identifies and labels them.

    Attributes:
        subject, session, population, unit_id: (N,) str; together the key of a unit.
        modality: (N,) str, ``spikes`` or ``calcium``.
        n_windows: (N,) int64, windows averaged over.
        n_events: (N,) int64, spikes (or frames) seen in them.
        embedding: (N, D) float32; a row of NaN is a unit that no window had.
        labels: Label column -> (N,) str, '' = unlabelled.
        metadata: Run id, checkpoint hash, config, ...: text by name.
    """

    subject: NDArray[np.str_]
    session: NDArray[np.str_]
    population: NDArray[np.str_]
    unit_id: NDArray[np.str_]
    modality: NDArray[np.str_]
    n_windows: NDArray[np.int64]
    n_events: NDArray[np.int64]
    embedding: NDArray[np.float32]
    labels: Mapping[str, NDArray[np.str_]] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def n_units(self) -> int:
        return len(self.unit_id)

    @property
    def seen(self) -> NDArray[np.bool_]:
        """(N,) whether the unit has an embedding."""
        return np.asarray(~np.isnan(self.embedding).any(axis=1))


def write_embeddings(table: EmbeddingTable, path: Path) -> None:
    """Write `table` as Parquet, whole or not at all.

    `embedding` is a fixed-size list of float32, null where no window had the unit; label columns follow the
    fixed ones, empty = unlabelled; the metadata is JSON under the schema key ``nuclr``.

    Raises:
        InputError: Columns of different lengths, an embedding partly NaN or infinite, a label column whose
            name is taken, a unit that occurs twice, or a place that cannot be written.
    """
    _check(table)
    columns: dict[str, pa.Array] = {name: _text_array(getattr(table, name)) for name in _TEXT_COLUMNS}
    columns |= {name: pa.array(getattr(table, name), pa.int64()) for name in _COUNT_COLUMNS}
    columns |= {name: _text_array(values) for name, values in table.labels.items()}
    flat = pa.array(np.ascontiguousarray(table.embedding, dtype=np.float32).reshape(-1), pa.float32())
    width = table.embedding.shape[1]
    columns["embedding"] = pa.FixedSizeListArray.from_arrays(
        flat, width, mask=pa.array(~table.seen, pa.bool_())
    )
    metadata = {_METADATA: json.dumps({name: str(value) for name, value in table.metadata.items()}).encode()}
    with replacing(path) as temporary:
        pq.write_table(pa.table(columns).replace_schema_metadata(metadata), temporary)


def load_embeddings(path: Path) -> EmbeddingTable:
    """Read what `write_embeddings` (or a tool that kept its columns) wrote; null embeddings become NaN rows.

    Raises:
        InputError: No such file, no Parquet, a column that is missing or of another type.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist.", "Make it with `nuclr embed`.")
    try:
        table = pq.read_table(path, memory_map=False, partitioning=None)
        metadata = json.loads((table.schema.metadata or {}).get(_METADATA, b"{}"))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as a Parquet table ({error}).", "Make it anew with `nuclr embed`."
        ) from error
    missing = [name for name in RESERVED_COLUMNS if name not in table.column_names]
    if missing:
        raise InputError(
            f"{path} is no embedding table: it has no column {', '.join(map(repr, missing))}.",
            "Give a file made by `nuclr embed`.",
        )
    text = {name: _text(path, table, name) for name in table.column_names if name not in _NUMBER_COLUMNS}
    return EmbeddingTable(
        subject=text.pop("subject"),
        session=text.pop("session"),
        population=text.pop("population"),
        unit_id=text.pop("unit_id"),
        modality=text.pop("modality"),
        n_windows=_counts(path, table, "n_windows"),
        n_events=_counts(path, table, "n_events"),
        embedding=_embedding(path, table),
        labels=text,
        metadata=metadata,
    )


def _check(table: EmbeddingTable) -> None:
    n_units = table.n_units
    lengths = {name: len(getattr(table, name)) for name in RESERVED_COLUMNS}
    lengths |= {name: len(values) for name, values in table.labels.items()}
    wrong = {name: length for name, length in lengths.items() if length != n_units}
    if wrong:
        raise InputError(f"The embedding table has {n_units} units, but columns of other lengths: {wrong}.")
    if table.embedding.ndim != 2 or table.embedding.shape[1] == 0:
        raise InputError(f"Embeddings have shape {table.embedding.shape}, expected (units, dimensions).")
    taken = [name for name in table.labels if name in RESERVED_COLUMNS]
    if taken:
        raise InputError(
            f"Label columns {taken} would hide columns of the embedding table.",
            "Rename them in the units table.",
        )
    # A row is either wholly NaN (never seen) or wholly finite; anything between is a model that blew up.
    unseen, finite = np.isnan(table.embedding).all(axis=1), np.isfinite(table.embedding).all(axis=1)
    broken = np.flatnonzero(~(unseen | finite))
    if len(broken):
        raise InputError(
            f"Embeddings of {len(broken)} units hold NaN or infinite numbers, the first is unit "
            f"{str(table.unit_id[broken[0]])!r} of session {str(table.session[broken[0]])!r}.",
            "Embed again with --debug, or from an earlier checkpoint.",
        )
    keys = np.stack([np.asarray(getattr(table, name), dtype=np.str_) for name in KEY_COLUMNS], axis=1)
    unique, counts = np.unique(keys, axis=0, return_counts=True)
    if n_units and counts.max() > 1:
        key = "/".join(unique[int(np.argmax(counts))])
        raise InputError(
            f"{int((counts > 1).sum())} units occur more than once in the table, the first is {key}.",
            "Give the subjects or sessions different names (--subject, --session) and preprocess again.",
        )


def _text_array(values: NDArray[np.str_]) -> Any:
    return pa.array(values.tolist(), pa.string())


def _text(path: Path, table: pa.Table, name: str) -> NDArray[np.str_]:
    """(N,) str; null = ''. Dictionary-encoded text is decoded, numbers and flags become text."""
    column = table.column(name)
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_nested(kind) or pa.types.is_binary(kind):
        raise InputError(
            f"{path}: column {name!r} holds {column.type}, expected text.", "Drop or convert that column."
        )
    values = ["" if value is None else str(value) for value in column.to_pylist()]
    return np.array(values, dtype=np.str_)


def _counts(path: Path, table: pa.Table, name: str) -> NDArray[np.int64]:
    column = table.column(name)
    if not pa.types.is_integer(column.type) or column.null_count:
        raise InputError(
            f"{path}: column {name!r} holds {column.type} with {column.null_count} nulls, expected integers."
        )
    values: NDArray[np.int64] = column.to_numpy().astype(np.int64)
    return values


def _embedding(path: Path, table: pa.Table) -> NDArray[np.float32]:
    """(N, D) float32. A list's `flatten` skips null rows, shifting all units behind; `values` does not."""
    column = table.column("embedding")
    if not pa.types.is_fixed_size_list(column.type):
        raise InputError(
            f"{path}: column 'embedding' holds {column.type}, expected a fixed-size list of numbers.",
            "pandas drops the fixed size: write with pyarrow, or use the file made by `nuclr embed`.",
        )
    width = column.type.list_size
    parts = [_dense(chunk, width) for chunk in column.chunks]
    return np.concatenate(parts) if parts else np.empty((0, width), dtype=np.float32)


def _dense(chunk: Any, width: int) -> NDArray[np.float32]:
    # `values` is the whole child array, whatever slice of it the chunk is.
    values = chunk.values.slice(chunk.offset * width, len(chunk) * width)
    dense: NDArray[np.float32] = np.array(values.to_numpy(zero_copy_only=False), dtype=np.float32)
    dense = dense.reshape(len(chunk), width)
    dense[chunk.is_null().to_numpy(zero_copy_only=False)] = np.nan
    return dense
