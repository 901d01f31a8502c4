"""Typed settings from defaults, a TOML file and ``--set key=value``.

An unknown key fails and names the closest one.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import tomllib
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from nuclr_cli.errors import InputError

C = TypeVar("C")
_ALSO_CALLED = {"lr": "learning_rate", "wd": "weight_decay", "batch_size": "batch_windows"}
_LEAST_LETTERS = 3  # of a part of a name; fewer are in too many


def known_keys(kind: type) -> tuple[str, ...]:
    """Every dotted key that the dataclass `kind` (nested dataclasses included) understands."""
    hints = get_type_hints(kind)
    keys: list[str] = []
    for field in dataclasses.fields(kind):
        inner = hints[field.name]
        if dataclasses.is_dataclass(inner):
            keys += [f"{field.name}.{key}" for key in known_keys(inner)]  # type: ignore[arg-type]
        else:
            keys.append(field.name)
    return tuple(keys)


def replace_keys(config: C, changes: Mapping[str, Any]) -> C:
    """Copy of `config` with dotted keys changed.

    Args:
        config: A frozen dataclass, nested dataclasses allowed.
        changes: Dotted key -> value; text values are parsed by the field's type.

    Raises:
        InputError: An unknown key (the closest one is named) or a value of the wrong type.
    """
    kind = type(config)
    keys = known_keys(kind)
    for key in changes:
        if key not in keys:
            raise InputError(f"Unknown setting {key!r}.", _instead_of(key, keys))
    return _replaced(config, changes, "")


def _instead_of(key: str, keys: Sequence[str]) -> str:
    """The settings whose names, without the section, hold that of `key` or are like it; all where none is."""
    section, _, written = key.rpartition(".")
    name = _ALSO_CALLED.get(written.lower(), written)
    close = difflib.get_close_matches(name, {_name(known): None for known in keys}, n=3, cutoff=0.6)
    held = [known for known in keys if len(name) >= _LEAST_LETTERS and name in _name(known)]
    # Each begins with those whose section is the same, which is rarely the mistake.
    held.sort(
        key=lambda known: (
            known.rpartition(".")[0] != section,
            _name(known) != name,
            f"_{name}" not in f"_{_name(known)}",  # at the beginning of a word
        )
    )
    alike = [known for one in close for known in keys if _name(known) == one]
    alike.sort(key=lambda known: known.rpartition(".")[0] != section)
    meant = list(dict.fromkeys(held + alike))
    if not meant:
        return f"Settings: {', '.join(keys)}"
    listed = " or ".join(map(repr, meant[:3]))
    return f"Did you mean {listed}? All settings: docs/settings.md, or config.json of any run"


def _name(key: str) -> str:
    return key.rpartition(".")[2]


def _replaced(config: C, changes: Mapping[str, Any], prefix: str) -> C:
    hints = get_type_hints(type(config))
    values: dict[str, Any] = {}
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        key = prefix + field.name
        current = getattr(config, field.name)
        if dataclasses.is_dataclass(current):
            values[field.name] = _replaced(current, changes, key + ".")
        elif key in changes:
            values[field.name] = parse_value(key, changes[key], hints[field.name])
    return dataclasses.replace(config, **values)  # type: ignore[type-var]


def parse_value(key: str, value: Any, kind: Any) -> Any:
    """Turn text (or a TOML value) into a value of the annotated type `kind`.

    Raises:
        InputError: The value does not fit; says what is expected.
    """
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        options = [option for option in get_args(kind) if option is not type(None)]
        if type(None) in get_args(kind) and (
            value is None or (isinstance(value, str) and value.lower() in ("none", ""))
        ):
            return None
        return parse_value(key, value, options[0])
    if origin is Literal:
        choices = get_args(kind)
        if value in choices:
            return value
        raise InputError(
            f"{key} = {value!r} is not one of: {', '.join(map(str, choices))}.", f"Change {key}."
        )
    if origin is tuple:
        items = value
        if isinstance(value, str):
            items = [item.strip() for item in value.strip("[]()").split(",") if item.strip()]
        if not isinstance(items, Sequence):
            raise InputError(f"{key} = {value!r} is not a list.", f"Write it as {key}=A,B")
        inner = get_args(kind)[0]
        return tuple(parse_value(key, item, inner) for item in items)
    if kind is bool:
        text = str(value).lower()
        if text in ("true", "1", "yes", "on"):
            return True
        if text in ("false", "0", "no", "off"):
            return False
        raise InputError(f"{key} = {value!r} is not true or false.", f"Write {key}=true or {key}=false")
    if kind is Path:
        return Path(str(value))
    if kind in (int, float):
        try:
            if isinstance(value, bool):
                raise ValueError
            if kind is int:
                if isinstance(value, float) and not value.is_integer():
                    raise ValueError
                return int(value) if not isinstance(value, str) else int(value.replace("_", ""))
            number = float(value)
            if not math.isfinite(number):
                raise ValueError
            return number
        except (TypeError, ValueError, OverflowError):
            article = "a whole number" if kind is int else "a finite number"
            raise InputError(f"{key} = {value!r} is not {article}.", f"Write {key}=NUMBER") from None
    return str(value)


def parse_settings(settings: Sequence[str]) -> dict[str, str]:
    """Split ``--set key=value`` texts.

    Raises:
        InputError: One of them has no ``=``.
    """
    changes: dict[str, str] = {}
    for setting in settings:
        key, sign, value = setting.partition("=")
        if not sign:
            raise InputError(
                f"--set {setting!r} has no '='.", "Write --set key=value, e.g. --set train.steps=500"
            )
        changes[key.strip()] = value.strip()
    return changes


def read_toml(path: Path) -> dict[str, Any]:
    """Read a settings file as dotted keys.

    Raises:
        InputError: The file is missing or not TOML.
    """
    try:
        with path.open("rb") as file:
            tree = tomllib.load(file)
    except OSError as error:
        raise InputError(
            f"Cannot read the settings file {path}: {error.strerror}.", "Check --config"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid TOML: {error}.", "See toml.io for the syntax") from None
    return flatten(tree)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping -> dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def from_mapping(kind: type[C], tree: Mapping[str, Any]) -> C:
    """Rebuild a config dataclass from what `dataclasses.asdict` gave (as read from JSON).

    Raises:
        InputError: It is no mapping, or as `replace_keys`.
    """
    if not isinstance(tree, Mapping):
        raise InputError(f"Settings are expected, not {tree!r}.", "Start a new run with nuclr pretrain")
    return replace_keys(kind(), flatten(tree))
