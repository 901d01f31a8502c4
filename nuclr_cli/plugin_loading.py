"""Loads one plugin: whatever it does wrong is written down beside its name and harms no other."""

from __future__ import annotations

import importlib.metadata
import re
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import pluggy

from nuclr_cli.api import API_VERSION, Exporter, NuclrHooks, Reader

ENTRY_POINT_GROUP = "nuclr"
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")
_API_CLAUSE = re.compile(r"(>=|<|)\s*(\d+)(?:\.(\d+))?")

Part = TypeVar("Part", Reader, Exporter)


@dataclass(frozen=True)
class PluginInfo:
    """One installed plugin.

    Attributes:
        name: Name of its entry point.
        distribution: Package that brought it.
        version: Version of that package.
        readers: Names of its readers, also of those that cannot be used.
        formats: Formats that its readers know.
        exporters: Names of its exporters, also of those that cannot be used.
        api: Versions of the plugin interface it says it works with; None when it does not say.
        error: Why it (or one of its readers or exporters) cannot be used; None when all is well.
    """

    name: str
    distribution: str
    version: str
    readers: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    exporters: tuple[str, ...] = ()
    api: str | None = None
    error: str | None = None

    def __str__(self) -> str:
        return f"{self.name} ({self.distribution} {self.version})"


@dataclass(frozen=True)
class Loaded:
    """A plugin and those of its parts that are sound."""

    info: PluginInfo
    readers: tuple[Reader, ...] = ()
    exporters: tuple[Exporter, ...] = ()


def load_plugin(entry: importlib.metadata.EntryPoint) -> Loaded:
    """Load one entry point; whatever it raises ends up in `PluginInfo.error`."""
    distribution, version = _distribution(entry)
    info = PluginInfo(entry.name, distribution, version)
    try:
        # SystemExit too: a module that calls sys.exit() when imported must not end nuclr.
        plugin = entry.load()
        api = getattr(plugin, "NUCLR_API", None)
        info = replace(info, api=None if api is None else str(api))
        problem = None if api is None else _api_problem(api)
        if problem:
            return Loaded(replace(info, error=problem))
        found = _call_hooks(entry.name, plugin)
        readers, reader_errors = _sound("reader", Reader, found["nuclr_readers"])  # type: ignore[type-abstract]
        exporters, exporter_errors = _sound(
            "exporter",
            Exporter,  # type: ignore[type-abstract]
            found["nuclr_exporters"],
        )
    except (Exception, SystemExit) as error:
        return Loaded(replace(info, error=f"{type(error).__name__}: {_one_line(error)}"))
    info = replace(
        info,
        readers=tuple(reader.name for reader in readers),
        formats=tuple(str(text) for reader in readers for text in reader.formats),
        exporters=tuple(exporter.name for exporter in exporters),
        error="; ".join([*reader_errors, *exporter_errors]) or None,
    )
    # Two of one name: both are listed, neither can be told from the other.
    return Loaded(info, _if_distinct(readers), _if_distinct(exporters))


def _call_hooks(name: str, plugin: object) -> dict[str, list[object]]:
    """Register `plugin` in a manager of its own, so that its mistakes stay its own; ask for its parts.

    Returns:
        Name of each hook -> what the plugin returned.
    """
    manager = pluggy.PluginManager(ENTRY_POINT_GROUP)
    manager.add_hookspecs(NuclrHooks)
    manager.register(plugin, name)
    manager.check_pending()
    implemented = {caller.name for caller in manager.get_hookcallers(plugin) or ()}
    if not implemented:
        raise TypeError("it implements no hook of nuclr; decorate nuclr_readers with nuclr_cli.api.hookimpl")
    found: dict[str, list[object]] = {}
    for hook in ("nuclr_readers", "nuclr_exporters"):
        found[hook] = [part for parts in getattr(manager.hook, hook)() for part in parts]
        if hook in implemented and not found[hook]:
            raise TypeError(f"{hook} returned no {hook.removeprefix('nuclr_').removesuffix('s')}")
    return found


def _sound(kind: str, base: type[Part], parts: list[object]) -> tuple[list[Part], list[str]]:
    """The parts that can be used, and what is wrong with the others."""
    sound: list[Part] = []
    errors = []
    for part in parts:
        problem = _part_problem(kind, base, part)
        if problem is None and isinstance(part, base):
            sound.append(part)
        else:
            errors.append(str(problem))
    if len({part.name for part in sound}) < len(sound):
        errors.append(f"two of its {kind}s have the same name")
    return sound, errors


def _if_distinct(parts: list[Part]) -> tuple[Part, ...]:
    return tuple(parts) if len({part.name for part in parts}) == len(parts) else ()


def _part_problem(kind: str, base: type[Reader] | type[Exporter], part: Any) -> str | None:
    """Why an object returned by a plugin cannot serve, or None."""
    if not isinstance(part, base):
        return f"{part!r} is not a nuclr_cli.api.{base.__name__}"
    name = getattr(part, "name", None)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return (
            f"{kind} {type(part).__name__} has no usable name: {name!r} "
            "(lower case letters, digits, '_', '-', '.')"
        )
    if not isinstance(part.formats, tuple):
        return (
            f"{kind} {type(part).__name__}: formats is {type(part.formats).__name__}, expected a tuple of str"
        )
    return None


def _api_problem(wanted: object) -> str | None:
    """Why a plugin that says ``NUCLR_API = wanted`` cannot be used with this interface, or None."""
    have = tuple(int(part) for part in API_VERSION.split("."))
    clauses = [_API_CLAUSE.fullmatch(text.strip()) for text in str(wanted).split(",")]
    if not isinstance(wanted, str) or not all(clauses):
        return f"NUCLR_API is {wanted!r}, expected text such as '1', '1.2' or '>=1.2,<3'"
    for clause in clauses:
        if clause and not _satisfies(have, clause[1], (int(clause[2]), int(clause[3] or 0))):
            return (
                f"it is made for version {wanted} of nuclr's plugin interface, and this nuclr has "
                f"{API_VERSION}: update the plugin or nuclr"
            )
    return None


def _satisfies(have: tuple[int, ...], sign: str, wanted: tuple[int, int]) -> bool:
    """Whether version `have` lies where a clause wants it. No sign: that major, at least that minor."""
    if sign == "<":
        return have < wanted
    return have >= wanted and (sign == ">=" or have[0] == wanted[0])


def _distribution(entry: importlib.metadata.EntryPoint) -> tuple[str, str]:
    """Name and version of the package of an entry point, as far as its metadata tells."""
    if entry.dist is None:
        return "unknown", "unknown"
    try:
        return str(entry.dist.name or "unknown"), str(entry.dist.version or "unknown")
    except Exception:
        # Metadata without a Name or Version raises or returns None depending on the Python version.
        return "unknown", "unknown"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
