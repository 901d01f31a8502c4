"""A label map as it stands in a TOML file: many raw names, a few classes."""

from __future__ import annotations

import difflib
import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from nuclr_cli.errors import InputError
from nuclr_cli.workflows.labels import RESERVED

_MAP_KEYS = ("title", "column", "target", "drop", "keep_unmapped")


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
        text: The TOML that it was read from.
    """

    name: str
    sha256: str
    title: str
    columns: tuple[str, ...]
    target: str
    class_of: Mapping[str, str]
    pattern_class_of: Mapping[str, str]
    keep_unmapped: bool = False
    text: str = ""

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

    def takes_as_rest(self, raw: str) -> bool:
        """Nothing but ``*`` alone fits a raw name."""
        if raw in self.class_of or "*" not in self.pattern_class_of:
            return False
        return not any(fnmatchcase(raw, name) for name in self.pattern_class_of if name != "*")


def parse_label_map(name: str, content: bytes) -> LabelMap:
    """A map from the bytes of its TOML.

    Raises:
        InputError: Not TOML; an unknown key; a raw name in two classes; a target that cannot be one.
    """
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
        text=content.decode("utf-8"),
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
