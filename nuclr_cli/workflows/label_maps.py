"""Maps from many raw names to a few classes: shipped ones by name, a user's own as TOML."""

from __future__ import annotations

import difflib
import importlib.resources
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import Population
from nuclr_cli.errors import InputError
from nuclr_cli.wording import counted
from nuclr_cli.workflows.label_map_text import LabelMap, parse_label_map
from nuclr_cli.workflows.labels import contradiction, texts_of

__all__ = [
    "MADE_BY",
    "LabelMap",
    "add_map",
    "classes_of",
    "noted_maps",
    "read_label_map",
    "shipped_maps",
    "source_column",
    "with_map",
]

#: Key of a population's provenance: the maps that made its columns of classes, one entry a column.
MADE_BY = "label_maps"
_SHOWN = 12


def shipped_maps() -> tuple[LabelMap, ...]:
    """The maps that come with nuclr, by name."""
    folder = importlib.resources.files("nuclr_cli") / "label_maps"
    files = sorted(
        (item for item in folder.iterdir() if item.name.endswith(".toml")), key=lambda item: item.name
    )
    return tuple(parse_label_map(item.name.removesuffix(".toml"), item.read_bytes()) for item in files)


def read_label_map(name: str) -> LabelMap:
    """A shipped map by its name, or the map in a TOML file.

    Raises:
        InputError: Neither; not TOML; an unknown key; a raw name in two classes; a target that cannot be one.
    """
    path = Path(name)
    if path.suffix.lower() != ".toml" and not path.is_file():
        known = {item.name: item for item in shipped_maps()}
        if name in known:
            return known[name]
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        raise InputError(
            f"There is no label map {name!r}; nuclr brings {', '.join(known)}.",
            f"--label-map {close[0]}" if close else "Name one of them, or a file ending in .toml.",
        )
    try:
        return parse_label_map(path.name, path.read_bytes())
    except FileNotFoundError:
        raise InputError(
            f"{path} does not exist.", "`nuclr label --maps` lists the maps that nuclr brings."
        ) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.", "Check the path.") from None


def add_map(population: Population, label_map: LabelMap, overwrite: bool | None = None) -> Population:
    """Add the map's target column.

    Returns:
        The population with one more column ('' = unlabelled, dropped or unmapped), notes with the counts, and
        the map in its provenance.

    Raises:
        InputError: The raw column is not there or holds several values per unit; the target column is there
            and says something else (unless `overwrite`, as in `labels.combined`).
    """
    name = f"{population.subject}/{population.session}"
    column = source_column(population.units, label_map)
    if column is None:
        texts = [key for key, values in population.units.items() if values.dtype.kind == "U" and key != "id"]
        raise InputError(
            f"The map {label_map.name} reads the column {' or '.join(map(repr, label_map.columns))}, which "
            f"the units of {name} do not have (text columns: {', '.join(texts) or 'none'}).",
            "Add it with --labels or --regions, or name another column in a map of your own.",
        )
    raw_values = population.units[column]
    if raw_values.ndim != 1:
        raise InputError(
            f"The map {label_map.name} cannot read {column!r}: it has {raw_values.shape[1]} values per unit.",
            "Name another column in the map.",
        )
    raws = texts_of(raw_values)
    found = {raw: label_map.class_for(raw) for raw in dict.fromkeys(raws) if raw}
    unmapped = Counter(raw for raw in raws if raw and found[raw] is None)
    dropped = Counter(raw for raw in raws if raw and found[raw] == "")
    labels = classes_of(label_map, raws)
    who = f"The map {label_map.name}, column {label_map.target!r},"
    target = _replaced(population, label_map.target, labels, who, overwrite)
    counts = Counter(label for label in target.tolist() if label)
    n_blank = sum(not raw for raw in raws)
    made = _listed(counts) or "no unit has a class"
    text = f"{label_map.name}: {column!r} becomes {label_map.target!r}: {made}"
    notes = [text + (f"; {counted(n_blank, 'unit')} had no {column}." if n_blank else ".")]
    rest = label_map.pattern_class_of.get("*")
    caught = Counter(raw for raw in raws if raw and rest and label_map.takes_as_rest(raw))
    if caught:
        notes.append(f"{label_map.name} takes every other name as {rest!r}: {_listed(caught)}.")
    if dropped:
        notes.append(f"{label_map.name} drops {counted(sum(dropped.values()), 'unit')}: {_listed(dropped)}.")
    if unmapped:
        n = sum(unmapped.values())
        kept = "unlabelled" if n == 1 else "they are unlabelled"
        if label_map.keep_unmapped:
            kept = "which keeps its name" if n == 1 else "which keep their name"
        notes.append(f"{label_map.name} has no class for {counted(n, 'unit')}, {kept}: {_listed(unmapped)}.")
    units = {**population.units, label_map.target: target}
    made_by = with_map(population.provenance, label_map, column)
    return replace(population, units=units, notes=(*population.notes, *notes), provenance=made_by)


def with_map(provenance: Mapping[str, Any], label_map: LabelMap, column: str) -> dict[str, Any]:
    """A provenance that says which map made its target, whole, and from which column.

    The map travels in the file, so that its classes can be made again when the raw names change.
    """
    entry = {
        "name": label_map.name,
        "sha256": label_map.sha256,
        "reads": column,
        "target": label_map.target,
        "text": label_map.text,
    }
    ours, others = noted_maps(provenance)
    by_target = {
        item["target"]: item
        for item in ours
        if item["target"] or item["name"] != label_map.name  # noted by an older nuclr without its target
    }
    return {**provenance, MADE_BY: [*others, *{**by_target, label_map.target: entry}.values()]}


def noted_maps(provenance: Mapping[str, Any]) -> tuple[list[Mapping[str, str]], list[Any]]:
    """The entries of `with_map` in a provenance, and whatever else a reader put under the same key."""
    found = provenance.get(MADE_BY, ())
    items = list(found) if isinstance(found, (list, tuple)) else [found]
    ours = [item for item in items if _is_entry(item)]
    return ours, [item for item in items if not _is_entry(item)]


def _is_entry(item: object) -> bool:
    names = ("name", "sha256", "reads", "target", "text")
    return isinstance(item, Mapping) and all(isinstance(item.get(name), str) for name in names)


def classes_of(label_map: LabelMap, raws: Sequence[str]) -> list[str]:
    """The class of each raw name, '' = none.

    Raises:
        InputError: Patterns of two classes fit a name.
    """
    found = {raw: label_map.class_for(raw) for raw in dict.fromkeys(raws) if raw}
    return [_class_or(found.get(raw), raw if label_map.keep_unmapped else "") for raw in raws]


def source_column(units: Mapping[str, NDArray[Any]], label_map: LabelMap) -> str | None:
    """The column that the map reads, None = not there."""
    return next((name for name in label_map.columns if name in units), None)


def _class_or(found: str | None, otherwise: str) -> str:
    return otherwise if found is None else found


def _replaced(
    population: Population, column: str, labels: Sequence[str], who: str, overwrite: bool | None
) -> NDArray[np.str_]:
    """`labels`, where '' says something, too: else the classes of two maps would mix in one column."""
    own = population.units.get(column)
    if own is not None and not overwrite:
        if own.ndim != 1:
            raise InputError(
                f"{who} would replace the property {column!r}, which has {own.shape[1]} values per unit.",
                "Give the map another target.",
            )
        pairs = list(zip(labels, texts_of(own), strict=True))
        differing = [row for row, (new, old) in enumerate(pairs) if old and new != old]
        if differing:
            raise contradiction(population, pairs, differing, who, overwrite)
    return np.array(labels, dtype=np.str_)


def _listed(counts: Counter[str]) -> str:
    """``PV 12, SST 3``, the most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    text = ", ".join(f"{name} {n}" for name, n in ordered[:_SHOWN])
    return text + (f", {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else "")
