"""Frozen dataclasses back from JSON, every value checked against its annotation."""

from __future__ import annotations

import collections.abc
import dataclasses
import types
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def rebuild(kind: type[T], value: Any, where: str = "") -> T:
    """The dataclass that `value` was written from.

    Fields of plain values, dataclasses, ``tuple[X, ...]``, ``Mapping[str, X]``, ``Literal`` and unions of
    them. A field that is absent takes its default; keys that the class does not have are passed over.

    Args:
        kind: The dataclass.
        value: What JSON gave.
        where: Path to `value`, for messages.

    Raises:
        ValueError: A value is absent or of another type; says where.
    """
    built: T = _build(kind, value, where)
    return built


def _build(kind: Any, value: Any, where: str) -> Any:
    origin = get_origin(kind)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, where)
    if origin in (Union, types.UnionType):
        return _union(kind, value, where)
    if origin is Literal:
        return _expect(value in get_args(kind), value, " or ".join(map(repr, get_args(kind))), where)
    if origin is tuple:
        _expect(isinstance(value, list), value, "a list", where)
        return tuple(_build(get_args(kind)[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is collections.abc.Mapping:
        _expect(isinstance(value, dict), value, "an object", where)
        return {key: _build(get_args(kind)[1], item, f"{where}.{key}") for key, item in value.items()}
    if kind is type(None):
        return _expect(value is None, value, "null", where)
    if kind is float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return float(_expect(is_number, value, "a number", where))
    if kind is int:
        return _expect(type(value) is int, value, "a whole number", where)
    return _expect(type(value) is kind, value, {str: "text", bool: "true or false"}[kind], where)


def _dataclass(kind: Any, value: Any, where: str) -> Any:
    _expect(isinstance(value, dict), value, "an object", where)
    hints = _hints(kind)
    values = {}
    for one in dataclasses.fields(kind):
        inside = f"{where}.{one.name}".removeprefix(".")
        if one.name in value:
            values[one.name] = _build(hints[one.name], value[one.name], inside)
        elif one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING:
            raise ValueError(f"{inside} is missing")
    return kind(**values)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _union(kind: Any, value: Any, where: str) -> Any:
    errors = []
    for choice in get_args(kind):
        try:
            return _build(choice, value, where)
        except ValueError as error:
            errors.append(str(error))
    raise ValueError(errors[0])


def _expect(is_so: bool, value: Any, what: str, where: str) -> Any:
    if not is_so:
        shown = repr(value)
        shown = shown if len(shown) <= 60 else f"{shown[:60]}..."
        raise ValueError(f"{where or 'it'} is {shown}, expected {what}")
    return value
