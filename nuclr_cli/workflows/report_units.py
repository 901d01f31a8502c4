"""The units of the map as columns: codes instead of repeated texts, packed as a browser reads them."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nuclr_cli.data.embeddings import KEY_COLUMNS, EmbeddingTable
from nuclr_cli.workflows.report_charts import rounded
from nuclr_cli.workflows.report_map import Projection

MOST_TEXTS = 2000
"""A label with more different texts than this names units: it is no group that a color could show."""
_MOST_NUMBERS_AS_NAMES = 12
"""A column of numbers with more different values is drawn on a scale of colors."""

Role = Literal["key", "label", "prediction"]


@dataclass(frozen=True)
class Category:
    """A text a unit.

    Attributes:
        title: For people.
        role: What it is.
        levels: Different texts; '' stands for none.
        codes: (N,) which.
        probability: (N,) of a prediction, NaN where there is none; None for anything else.
    """

    title: str
    role: Role
    levels: tuple[str, ...]
    codes: NDArray[np.int64]
    probability: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Number:
    """(N,) a number a unit, NaN = none, and its unit of measure."""

    title: str
    values: NDArray[np.float64]
    unit: str = ""


@dataclass(frozen=True)
class UnitColumns:
    """What the map and the table of units show, row by row."""

    categories: tuple[Category, ...]
    numbers: tuple[Number, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class PredictionColumns:
    """What a predictions.parquet says of each row of the table of embeddings.

    Attributes:
        label, prediction: (N,) text, '' = none; of numbers the text is empty.
        subject: (N,).
        probability: (N,) of the prediction, NaN = none.
        target, number: (N,) true and predicted number, NaN = none.
    """

    subject: NDArray[np.str_]
    label: NDArray[np.str_]
    prediction: NDArray[np.str_]
    probability: NDArray[np.float64]
    target: NDArray[np.float64]
    number: NDArray[np.float64]


def category(title: str, role: Role, texts: NDArray[np.str_]) -> Category:
    """Code texts, the levels sorted."""
    levels, codes = np.unique(texts, return_inverse=True)
    return Category(title, role, tuple(levels.tolist()), codes.astype(np.int64))


def unit_columns(
    table: EmbeddingTable, window_s: Mapping[str, float], predictions: Sequence[tuple[str, PredictionColumns]]
) -> UnitColumns:
    """All columns, in the order in which they are offered.

    Args:
        table: The units.
        window_s: Length of a window by modality.
        predictions: Title and columns of each probe, for the rows of `table`.
    """
    keys = [category(name.replace("_id", ""), "key", getattr(table, name)) for name in KEY_COLUMNS]
    kinds = category("modality", "key", table.modality)
    labels: list[Category] = []
    numbers: list[Number] = []
    left_out: list[str] = []
    for name, texts in table.labels.items():
        values = _numbers(texts)
        if values is not None:
            numbers.append(Number(name, values))
            continue
        coded = category(name, "label", texts)
        if len(coded.levels) > MOST_TEXTS:
            left_out.append(name)
        elif coded.levels != ("",):
            labels.append(coded)
    rate = _rate(table, window_s)
    if np.isfinite(rate).any():
        numbers.insert(0, Number("rate", rate, "Hz"))
    guessed = []
    for title, columns in predictions:
        if (columns.prediction != "").any():
            coded = category(title, "prediction", columns.prediction)
            guessed.append(
                Category(coded.title, "prediction", coded.levels, coded.codes, columns.probability)
            )
        elif np.isfinite(columns.number).any():
            numbers.append(Number(title, columns.number))
    return UnitColumns((*keys, kinds, *labels, *guessed), tuple(numbers), tuple(left_out))


def _rate(table: EmbeddingTable, window_s: Mapping[str, float]) -> NDArray[np.float64]:
    """Spikes per second of the windows in which the unit was active; NaN for calcium."""
    seconds = table.n_windows * float(window_s.get("spikes", np.nan))
    spikes = (table.modality == "spikes") & (table.n_windows > 0)
    rate: NDArray[np.float64] = np.divide(
        table.n_events, seconds, out=np.full(table.n_units, np.nan), where=spikes
    )
    return rate


def _numbers(texts: NDArray[np.str_]) -> NDArray[np.float64] | None:
    """A column of texts as numbers, where all are, and too many differ to be names."""
    named = texts != ""
    if len(set(texts[named].tolist())) <= _MOST_NUMBERS_AS_NAMES:
        return None
    values = np.full(len(texts), np.nan)
    try:
        values[named] = texts[named].astype(np.float64)
    except ValueError:
        return None
    return values if np.isfinite(values[named]).all() else None


def read_predictions(path: Path, table: EmbeddingTable) -> PredictionColumns:
    """Read a predictions.parquet of units.

    Raises:
        OSError: It cannot be read.
        ValueError: It is damaged, or its rows are not those of the table of embeddings.
    """
    stored = read_parquet(path)
    names = set(stored.column_names)
    if missing := {*KEY_COLUMNS, "prediction"} - names:
        raise ValueError(f"it has no column {', '.join(sorted(missing))}")
    same = stored.num_rows == table.n_units and all(
        (_texts(stored, name) == getattr(table, name)).all() for name in KEY_COLUMNS
    )
    if not same:
        raise ValueError("its units are not those of the embeddings")
    n = table.n_units
    nothing, empty = np.full(n, np.nan), np.full(n, "")
    if pa.types.is_floating(stored.column("prediction").type):
        target = floats(stored, "target") if "target" in names else nothing
        return PredictionColumns(table.subject, empty, empty, nothing, target, floats(stored, "prediction"))
    prediction = _texts(stored, "prediction")
    probability = np.full(n, np.nan)
    for name in sorted(set(prediction.tolist()) - {""}):
        if f"probability_{name}" in names:
            mine = prediction == name
            probability[mine] = floats(stored, f"probability_{name}")[mine]
    label = _texts(stored, "label") if "label" in names else empty
    return PredictionColumns(table.subject, label, prediction, probability, nothing, nothing)


def read_parquet(path: Path) -> pa.Table:
    """A Parquet table.

    Raises:
        OSError: It cannot be read.
        ValueError: It is damaged.
    """
    if not path.is_file():
        raise ValueError("there is no such file")
    try:
        return pq.read_table(path, memory_map=False, partitioning=None)
    except pa.ArrowException as error:
        raise ValueError(str(error)) from None


def floats(stored: pa.Table, name: str) -> NDArray[np.float64]:
    """(N,) float64, null = NaN.

    Raises:
        ValueError: The column holds something else.
    """
    column = stored.column(name)
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        raise ValueError(f"column {name} holds {column.type}, expected numbers")
    values: NDArray[np.float64] = column.cast(pa.float64()).to_numpy()
    return values


def _texts(stored: pa.Table, name: str) -> NDArray[np.str_]:
    """(N,) str, null = ''."""
    return np.array(["" if value is None else str(value) for value in stored.column(name).to_pylist()])


def units_document(
    columns: UnitColumns, maps: Sequence[Projection], shown: NDArray[np.int64]
) -> dict[str, Any]:
    """The columns of some rows as plain JSON values, arrays in base64."""
    return {
        "n": len(shown),
        "categories": [_category(one, shown) for one in columns.categories],
        "numbers": [_number(one, shown) for one in columns.numbers],
        "maps": [
            {
                "name": one.name,
                "title": one.title,
                "xTitle": one.x_title,
                "yTitle": one.y_title,
                "x": packed(one.places[shown, 0].astype("<f4")),
                "y": packed(one.places[shown, 1].astype("<f4")),
            }
            for one in maps
        ],
    }


def _category(one: Category, shown: NDArray[np.int64]) -> dict[str, Any]:
    used, codes = np.unique(one.codes[shown], return_inverse=True)
    kind = "<u1" if len(used) < 2**8 else "<u2" if len(used) < 2**16 else "<u4"
    document = {
        "title": one.title,
        "role": one.role,
        "levels": [one.levels[code] for code in used.tolist()],
        "codes": packed(codes.astype(kind)),
    }
    if one.probability is not None:
        # Four digits in two bytes; the largest code is "none".
        chance = one.probability[shown]
        coded = np.where(np.isnan(chance), 65535, np.round(np.nan_to_num(chance) * 1e4))
        document["probability"] = packed(coded.astype("<u2"))
    return document


def _number(one: Number, shown: NDArray[np.int64]) -> dict[str, Any]:
    finite = one.values[np.isfinite(one.values)]
    # The ends of the scale are percentiles: one strange unit must not take all the colors.
    low, high = np.percentile(finite, [2, 98]) if len(finite) else (0.0, 1.0)
    if low == high:
        low, high = low - 0.5, high + 0.5
    log = bool(len(finite) and finite.min() > 0 and high / low > 50)
    return {
        "title": one.title,
        "unit": one.unit,
        "bounds": rounded([float(low), float(high)]),
        "log": log,
        "values": packed(one.values[shown].astype("<f4")),
    }


def packed(array: NDArray[Any]) -> dict[str, str]:
    """An array as its type and its bytes."""
    return {"type": array.dtype.str[1:], "bytes": base64.b64encode(array.tobytes()).decode("ascii")}
