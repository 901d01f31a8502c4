"""Maps from many raw names to a few classes: shipped ones by name, a user's own as TOML."""

from __future__ import annotations

import difflib
import hashlib
import importlib.resources
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import Population
from nuclr_cli.errors import InputError
from nuclr_cli.workflows.labels import RESERVED, contradiction, texts_of

_MAP_KEYS = ("title", "column", "target", "drop", "keep_unmapped")
_SHOWN = 12


@dataclass(frozen=True)
class LabelMap:
    """Raw names to classes.

    Attributes:
        name: Of a shipped map, else of the file.
        sha256: Of its text.
        title: One line for people.
        columns: Columns of the units table that may hold the raw names; the first that is there counts.
        target: Column of the classes.
        class_of: Raw name -> class ('' = dropped).
        pattern_class_of: The same for names with ``*``; a name spelled out goes first, ``*`` alone last.
        keep_unmapped: A name in no class stays what it is, instead of becoming unlabelled.
    """

    name: str
    sha256: str
    title: str
    columns: tuple[str, ...]
    target: str
    class_of: Mapping[str, str]
    pattern_class_of: Mapping[str, str]
    keep_unmapped: bool = False

    @property
    def classes(self) -> tuple[str, ...]:
        """All classes, in the order of the file."""
        found = (*self.class_of.values(), *self.pattern_class_of.values())
        return tuple(dict.fromkeys(name for name in found if name))

    @property
    def fingerprint(self) -> str:
        """Name and content of the map, for comparing runs."""
        return f"{self.name} sha256:{self.sha256}"

    def class_for(self, raw: str) -> str | None:
        """Class of a raw name, '' = dropped, None = unmapped.

        Raises:
            InputError: Patterns of two classes fit.
        """
        if raw in self.class_of:
            return self.class_of[raw]
        fits = {
            name: to for name, to in self.pattern_class_of.items() if name != "*" and fnmatchcase(raw, name)
        }
        if len(set(fits.values())) > 1:
            both = " and ".join(f"{pattern!r} ({to or 'drop'})" for pattern, to in fits.items())
            raise InputError(
                f"The map {self.name} is not clear about {raw!r}: {both} fit.",
                f"Spell {raw!r} out in one of them.",
            )
        return next(iter(fits.values()), self.pattern_class_of.get("*"))


def shipped_maps() -> tuple[LabelMap, ...]:
    """The maps that come with nuclr, by name."""
    folder = importlib.resources.files("nuclr_cli") / "label_maps"
    files = sorted(
        (item for item in folder.iterdir() if item.name.endswith(".toml")), key=lambda item: item.name
    )
    return tuple(_parse(item.name.removesuffix(".toml"), item.read_bytes()) for item in files)


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
        return _parse(path.name, path.read_bytes())
    except FileNotFoundError:
        raise InputError(
            f"{path} does not exist.", "`nuclr label --maps` lists the maps that nuclr brings."
        ) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.", "Check the path.") from None


def add_map(population: Population, label_map: LabelMap, overwrite: bool | None = None) -> Population:
    """Add the map's target column.

    Returns:
        The population with one more column ('' = unlabelled, dropped or unmapped), and notes with the counts.

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
    labels = [_class_or(found.get(raw), raw if label_map.keep_unmapped else "") for raw in raws]
    who = f"The map {label_map.name}, column {label_map.target!r},"
    target = _replaced(population, label_map.target, labels, who, overwrite)
    counts = Counter(label for label in target.tolist() if label)
    n_blank = sum(not raw for raw in raws)
    made = _listed(counts) or "no unit has a class"
    text = f"{label_map.name}: {column!r} becomes {label_map.target!r}: {made}"
    notes = [text + (f"; {n_blank} units had no {column}." if n_blank else ".")]
    if dropped:
        notes.append(f"{label_map.name} drops {sum(dropped.values())} units: {_listed(dropped)}.")
    if unmapped:
        kept = "keeps their name" if label_map.keep_unmapped else "they are unlabelled"
        notes.append(
            f"{label_map.name} has no class for {sum(unmapped.values())} units, {kept}: {_listed(unmapped)}."
        )
    units = {**population.units, label_map.target: target}
    return replace(population, units=units, notes=(*population.notes, *notes))


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


def _parse(name: str, content: bytes) -> LabelMap:
    try:
        document = tomllib.loads(content.decode("utf-8-sig"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{name} cannot be read as TOML: {error}.", "Correct that line.") from None
    settings, classes = _settings(name, document)
    columns = _texts(name, "column", settings.get("column"))
    if not columns:
        raise InputError(f"{name} names no column.", 'Write [map] column = "brain_region".')
    target = settings.get("target", f"{columns[0]}_group")
    if not isinstance(target, str) or not target.strip():
        raise InputError(
            f"{name}: target is {target!r}, expected the name of a column.", 'E.g. target = "region_group"'
        )
    if target in columns or target in RESERVED:
        raise InputError(
            f"{name}: the target {target!r} cannot be replaced: the raw names stay.", "Choose another target."
        )
    keep = settings.get("keep_unmapped", False)
    if not isinstance(keep, bool):
        raise InputError(
            f"{name}: keep_unmapped is {keep!r}.", "Write keep_unmapped = true, or leave it out."
        )
    members = {to: _texts(name, to, raws) for to, raws in classes.items()}
    members[""] = _texts(name, "drop", settings.get("drop", []))
    class_of: dict[str, str] = {}
    for to, raws in members.items():
        for raw in raws:
            if class_of.setdefault(raw, to) != to:
                raise InputError(
                    f"{name}: {raw!r} is in {class_of[raw]!r} and in {to or 'drop'!r}.",
                    "Keep it in one of them.",
                )
    return LabelMap(
        name=name,
        sha256=hashlib.sha256(content).hexdigest(),
        title=str(settings.get("title", "")),
        columns=columns,
        target=target,
        class_of={raw: to for raw, to in class_of.items() if "*" not in raw},
        pattern_class_of={raw: to for raw, to in class_of.items() if "*" in raw},
        keep_unmapped=keep,
    )


def _settings(name: str, document: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings and classes. ``drop`` and ``keep_unmapped`` may stand at the top, in [map] or in [classes]."""
    tables = {key: document.pop(key, {}) for key in ("map", "classes")}
    for key, table in tables.items():
        if not isinstance(table, dict):
            raise InputError(f"{name}: {key} is no table.", f"Write [{key}] on a line of its own.")
    settings, classes = dict(tables["map"]), dict(tables["classes"])
    for place in (document, classes):
        for key in ("drop", "keep_unmapped"):
            if key in place:
                if key in settings:
                    raise InputError(f"{name} has {key} twice.", "Keep the one in [map].")
                settings[key] = place.pop(key)
    unknown = [*document, *(key for key in settings if key not in _MAP_KEYS)]
    if unknown:
        close = difflib.get_close_matches(unknown[0], (*_MAP_KEYS, "map", "classes"), n=1)
        raise InputError(
            f"{name}: unknown key {unknown[0]!r}.",
            f"Did you mean {close[0]!r}?"
            if close
            else f"[map] takes {', '.join(_MAP_KEYS)}; classes go into [classes].",
        )
    if not classes:
        raise InputError(
            f"{name} has no classes.", 'Write [classes] and lines such as VIS = ["VISp", "VISl"].'
        )
    if any(not to.strip() for to in classes):
        raise InputError(f"{name} has a class without a name.", "Name it, or put its members into drop.")
    return settings, classes


def _texts(name: str, key: str, value: object) -> tuple[str, ...]:
    items = [value] if isinstance(value, str) else value
    if items is None:
        return ()
    if not isinstance(items, list) or not all(isinstance(item, str) and item for item in items):
        raise InputError(
            f"{name}: {key} is {value!r}, expected names.", f'Write {key} = ["first", "second"].'
        )
    return tuple(items)
