"""Finds plugins, keeps the broken ones from harming the rest, and picks the reader of a path."""

from __future__ import annotations

import difflib
import importlib.metadata
import itertools
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pluggy

from nuclr_cli.api import API_VERSION, Exporter, NuclrHooks, Reader
from nuclr_cli.errors import InputError

ENTRY_POINT_GROUP = "nuclr"
_MOST_CHILDREN = 200
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")
_API_CLAUSE = re.compile(r"(>=|<|)\s*(\d+)(?:\.(\d+))?")

_Part = TypeVar("_Part", Reader, Exporter)


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
class Claim:
    """A reader that recognises a path, and what it saw there."""

    reader: Reader
    detected: str


@dataclass(frozen=True)
class _Loaded:
    """A plugin and those of its parts that are sound."""

    info: PluginInfo
    readers: tuple[Reader, ...] = ()
    exporters: tuple[Exporter, ...] = ()


@dataclass(frozen=True)
class Registry:
    """The readers and exporters that are installed and work.

    Attributes:
        plugins: Every plugin, sorted by name, broken ones included.
        readers: Usable readers, sorted by name.
        exporters: Usable exporters, sorted by name.
    """

    plugins: tuple[PluginInfo, ...] = ()
    readers: tuple[Reader, ...] = ()
    exporters: tuple[Exporter, ...] = ()

    @classmethod
    def load(cls) -> Registry:
        """Load every plugin of the entry point group ``nuclr``, one by one.

        A plugin that fails in any way is listed with its error; the others are not touched by it.
        """
        loaded = [_load_plugin(entry) for entry in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)]
        readers, reader_clashes = _without_clashes("reader", [(p.info, p.readers) for p in loaded])
        exporters, exporter_clashes = _without_clashes("exporter", [(p.info, p.exporters) for p in loaded])
        plugins = []
        for plugin, *clashes in zip(loaded, reader_clashes, exporter_clashes, strict=True):
            errors = [text for text in (plugin.info.error, *clashes) if text]
            plugins.append(replace(plugin.info, error="; ".join(errors) or None))
        plugins.sort(key=lambda info: (info.name, info.distribution))
        return cls(tuple(plugins), readers, exporters)

    def reader(self, name: str) -> Reader:
        """The reader called `name`.

        Raises:
            InputError: No usable reader has that name; names the closest, or why the one there is broken.
        """
        return self._named("reader", name, self.readers)

    def exporter(self, name: str) -> Exporter:
        """The exporter called `name`.

        Raises:
            InputError: No usable exporter has that name; names the closest, or why the one there is broken.
        """
        return self._named("exporter", name, self.exporters)

    def _named(self, kind: str, name: str, parts: tuple[_Part, ...]) -> _Part:
        for part in parts:
            if part.name == name:
                return part
        names = [part.name for part in parts]
        close = difflib.get_close_matches(name, names, n=1)
        broken = [info for info in self.plugins if info.error and name in _names_of(info)]
        what = f"There is no {kind} {name!r}; installed: {', '.join(names) or 'none'}."
        if broken:
            what = f"The {kind} {name!r} cannot be used: {broken[0].error}."
        raise InputError(what, f"--{kind} {close[0]}" if close else "nuclr plugins list")

    def claims(self, path: Path, *, warn: Callable[[str], None]) -> tuple[Claim, ...]:
        """Every reader that recognises `path`. One whose `detect` raises counts as not recognising it."""
        found = []
        for reader in self.readers:
            try:
                detected = reader.detect(path)
            except Exception as error:
                warn(
                    f"Reader {reader.name!r} failed while looking at {path} "
                    f"({type(error).__name__}: {error}); it is left out."
                )
                continue
            if detected:
                found.append(Claim(reader, str(detected)))
        return tuple(found)

    def find(
        self,
        path: Path,
        reader: str | None = None,
        *,
        detect: bool = True,
        warn: Callable[[str], None] = lambda text: None,
    ) -> tuple[Reader, str]:
        """Pick the reader of a source.

        Args:
            path: File or folder.
            reader: Name of the reader to use, None = the only one that recognises the path.
            detect: False = take the named reader at its word, without asking whether it recognises the path.
            warn: Receives one sentence per reader that broke while looking.

        Returns:
            The reader and what it saw.

        Raises:
            InputError: The path does not exist; no reader (or more than one) recognises it; there is no
                reader of that name, or it does not recognise the path.
        """
        if not path.exists():
            raise InputError(f"{path} does not exist.", _closest_path(path))
        if reader is not None:
            chosen = self.reader(reader)
            if not detect:
                return chosen, "read as you said"
            alone = replace(self, readers=(chosen,))
            claims = alone.claims(path, warn=warn)
            if not claims:
                raise InputError(
                    f"Reader {reader!r} does not recognise {path}; it looks for {_looks_for(chosen)}.",
                    "Leave --reader out to let every reader look.",
                )
        else:
            claims = self.claims(path, warn=warn)
        if len(claims) > 1:
            seen = "; ".join(f"{claim.reader.name} sees {claim.detected}" for claim in claims)
            options = " or ".join(f"--reader {claim.reader.name}" for claim in claims)
            raise InputError(f"Several readers recognise {path}: {seen}.", f"Choose one: {options}")
        if not claims:
            raise InputError(
                f"No reader recognises {path.resolve()}.{self._what_is_known()}", self._what_next(path)
            )
        return claims[0].reader, claims[0].detected

    def _what_is_known(self) -> str:
        return "".join(f"\n  {reader.name} looks for {_looks_for(reader)}" for reader in self.readers)

    def _what_next(self, path: Path) -> str:
        inside = self._recognised_inside(path)
        if inside:
            return f"Did you mean one of these inside it? {' '.join(map(str, inside))}"
        broken = [info.name for info in self.plugins if info.error]
        if broken:
            return f"These plugins failed to load: {', '.join(broken)}. See why: nuclr plugins list"
        return "Point at the folder of one sorting, or install a plugin that knows the format."

    def _recognised_inside(self, path: Path) -> list[Path]:
        """Things directly inside a folder that a reader knows: people point one level too high."""
        try:
            children = sorted(path.iterdir())[:_MOST_CHILDREN]
        except OSError:
            return []
        known = (child for child in children if self.claims(child, warn=lambda text: None))
        return list(itertools.islice(known, 5))


def _names_of(info: PluginInfo) -> tuple[str, ...]:
    return (info.name, *info.readers, *info.exporters)


def _without_clashes(
    kind: str, brought: list[tuple[PluginInfo, tuple[_Part, ...]]]
) -> tuple[tuple[_Part, ...], list[str]]:
    """Parts whose name is theirs alone, sorted by it; and for each plugin what clashes, or nothing."""
    owners: dict[str, list[str]] = defaultdict(list)
    for info, parts in brought:
        for part in parts:
            owners[part.name].append(str(info))
    usable = [part for _, parts in brought for part in parts if len(owners[part.name]) == 1]
    messages = []
    for _, parts in brought:
        clashes = sorted({part.name for part in parts if len(owners[part.name]) > 1})
        text = "; ".join(f"{kind} {name!r} is brought by {' and '.join(owners[name])}" for name in clashes)
        messages.append(text + ": none of them is used" if text else "")
    return tuple(sorted(usable, key=lambda part: part.name)), messages


def _load_plugin(entry: importlib.metadata.EntryPoint) -> _Loaded:
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
            return _Loaded(replace(info, error=problem))
        found = _call_hooks(entry.name, plugin)
        readers, reader_errors = _sound("reader", Reader, found["nuclr_readers"])  # type: ignore[type-abstract]
        exporters, exporter_errors = _sound(
            "exporter",
            Exporter,  # type: ignore[type-abstract]
            found["nuclr_exporters"],
        )
    except (Exception, SystemExit) as error:
        return _Loaded(replace(info, error=f"{type(error).__name__}: {_one_line(error)}"))
    info = replace(
        info,
        readers=tuple(reader.name for reader in readers),
        formats=tuple(str(text) for reader in readers for text in reader.formats),
        exporters=tuple(exporter.name for exporter in exporters),
        error="; ".join([*reader_errors, *exporter_errors]) or None,
    )
    # Two of one name: both are listed, neither can be told from the other.
    return _Loaded(info, _if_distinct(readers), _if_distinct(exporters))


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


def _sound(kind: str, base: type[_Part], parts: list[object]) -> tuple[list[_Part], list[str]]:
    """The parts that can be used, and what is wrong with the others."""
    sound: list[_Part] = []
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


def _if_distinct(parts: list[_Part]) -> tuple[_Part, ...]:
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


def _looks_for(reader: Reader) -> str:
    return str(reader.looks_for or ", ".join(reader.formats) or "(it does not say)").rstrip(".")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _closest_path(path: Path) -> str:
    """A hint for a mistyped path."""
    try:
        siblings = sorted(item.name for item in path.parent.iterdir())
    except OSError:
        return f"The folder {path.parent} does not exist either: check the spelling."
    close = difflib.get_close_matches(path.name, siblings, n=1)
    return f"Did you mean {path.parent / close[0]}?" if close else "Check the spelling."
