"""Finds reader plugins, keeps the broken ones from harming the rest, and picks the reader of a path."""

from __future__ import annotations

import difflib
import importlib.metadata
import itertools
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pluggy

from nuclr_cli.api import NuclrHooks, Reader
from nuclr_cli.errors import InputError

ENTRY_POINT_GROUP = "nuclr"
_MOST_CHILDREN = 200
_READER_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")


@dataclass(frozen=True)
class PluginInfo:
    """One installed plugin.

    Attributes:
        name: Name of its entry point.
        distribution: Package that brought it.
        version: Version of that package.
        readers: Names of its readers, also of those that cannot be used.
        formats: Formats that its readers know.
        error: Why it (or one of its readers) cannot be used; None when all is well.
    """

    name: str
    distribution: str
    version: str
    readers: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class Claim:
    """A reader that recognises a path, and what it saw there."""

    reader: Reader
    detected: str


@dataclass(frozen=True)
class Registry:
    """The readers that are installed and work.

    Attributes:
        plugins: Every plugin, sorted by name, broken ones included.
        readers: Usable readers, sorted by name.
    """

    plugins: tuple[PluginInfo, ...] = ()
    readers: tuple[Reader, ...] = ()

    @classmethod
    def load(cls) -> Registry:
        """Load every plugin of the entry point group ``nuclr``, one by one.

        A plugin that fails in any way is listed with its error; the others are not touched by it.
        """
        loaded = [_load_plugin(entry) for entry in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)]
        owners: dict[str, list[str]] = defaultdict(list)
        for info, readers in loaded:
            for reader in readers:
                owners[reader.name].append(f"{info.name} ({info.distribution} {info.version})")
        plugins = []
        usable = []
        for info, readers in loaded:
            clashes = sorted({reader.name for reader in readers if len(owners[reader.name]) > 1})
            if clashes:
                message = "; ".join(f"reader {c!r} is brought by {' and '.join(owners[c])}" for c in clashes)
                info = replace(info, error=message + ": none of them is used")
            plugins.append(info)
            usable += [reader for reader in readers if reader.name not in clashes]
        plugins.sort(key=lambda info: (info.name, info.distribution))
        usable.sort(key=lambda reader: reader.name)
        return cls(tuple(plugins), tuple(usable))

    def reader(self, name: str) -> Reader:
        """The reader called `name`.

        Raises:
            InputError: No usable reader has that name; names the closest, or why the one there is broken.
        """
        for reader in self.readers:
            if reader.name == name:
                return reader
        names = [reader.name for reader in self.readers]
        close = difflib.get_close_matches(name, names, n=1)
        broken = [info for info in self.plugins if info.error and name in (*info.readers, info.name)]
        what = f"There is no reader {name!r}; installed: {', '.join(names) or 'none'}."
        if broken:
            what = f"The reader {name!r} cannot be used: {broken[0].error}."
        raise InputError(what, f"--reader {close[0]}" if close else "nuclr plugins list")

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
        self, path: Path, reader: str | None = None, *, warn: Callable[[str], None] = lambda text: None
    ) -> tuple[Reader, str]:
        """Pick the reader of a source.

        Args:
            path: File or folder.
            reader: Name of the reader to use, None = the only one that recognises the path.
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


def _load_plugin(entry: importlib.metadata.EntryPoint) -> tuple[PluginInfo, tuple[Reader, ...]]:
    """Load one entry point; whatever it raises ends up in `PluginInfo.error`."""
    distribution, version = _distribution(entry)
    info = PluginInfo(entry.name, distribution, version)
    try:
        # SystemExit too: a module that calls sys.exit() when imported must not end nuclr.
        plugin = entry.load()
        readers = _call_hook(entry.name, plugin)
    except (Exception, SystemExit) as error:
        return replace(info, error=f"{type(error).__name__}: {_one_line(error)}"), ()
    errors = []
    sound = []
    for reader in readers:
        problem = _reader_problem(reader)
        if problem:
            errors.append(problem)
        else:
            sound.append(reader)
    names = tuple(reader.name for reader in sound)
    formats = tuple(str(text) for reader in sound for text in reader.formats)
    if len(set(names)) < len(names):
        errors.append("two of its readers have the same name")
        sound = []
    info = replace(info, readers=names, formats=formats, error="; ".join(errors) or None)
    return info, tuple(sound)


def _call_hook(name: str, plugin: object) -> list[Reader]:
    """Register `plugin` in a manager of its own, so that its mistakes stay its own; ask for its readers."""
    manager = pluggy.PluginManager(ENTRY_POINT_GROUP)
    manager.add_hookspecs(NuclrHooks)
    manager.register(plugin, name)
    manager.check_pending()
    if not manager.get_hookcallers(plugin):
        raise TypeError("it implements no hook of nuclr; decorate nuclr_readers with nuclr_cli.api.hookimpl")
    readers = [reader for readers in manager.hook.nuclr_readers() for reader in readers]
    if not readers:
        raise TypeError("nuclr_readers returned no reader")
    return readers


def _reader_problem(reader: object) -> str | None:
    """Why an object returned by a plugin cannot serve as a reader, or None."""
    if not isinstance(reader, Reader):
        return f"{reader!r} is not a nuclr_cli.api.Reader"
    kind = type(reader).__name__
    name = getattr(reader, "name", None)
    if not isinstance(name, str) or not _READER_NAME.fullmatch(name):
        return f"reader {kind} has no usable name: {name!r} (lower case letters, digits, '_', '-', '.')"
    if not isinstance(reader.formats, tuple):
        return f"reader {kind}: formats is {type(reader.formats).__name__}, expected a tuple of str"
    return None


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
