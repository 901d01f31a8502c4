"""Finds plugins, keeps the broken ones from harming the rest, and picks the reader of a path."""

from __future__ import annotations

import difflib
import importlib.metadata
import itertools
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from nuclr_cli.api import Exporter, Reader
from nuclr_cli.errors import InputError
from nuclr_cli.plugin_loading import ENTRY_POINT_GROUP, Part, PluginInfo, load_plugin

__all__ = ["ENTRY_POINT_GROUP", "Claim", "PluginInfo", "Registry"]

_MOST_CHILDREN = 200
MOST_INSIDE = 5
"""Recordings inside a folder that are named at most."""


@dataclass(frozen=True)
class Claim:
    """A reader that recognises a path, and what it saw there."""

    reader: Reader
    detected: str


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
        loaded = [load_plugin(entry) for entry in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)]
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

    def _named(self, kind: str, name: str, parts: tuple[Part, ...]) -> Part:
        for part in parts:
            if part.name == name:
                return part
        names = [part.name for part in parts]
        close = difflib.get_close_matches(name, names, n=1)
        broken = [info for info in self.plugins if info.error and name in _names_of(info)]
        what = f"There is no {kind} {name!r}; installed: {', '.join(names) or 'none'}."
        if broken:
            what = f"The {kind} {name!r} cannot be used: {broken[0].error}."
        option = {"reader": "--reader", "exporter": "--export"}[kind]
        raise InputError(what, f"{option} {close[0]}" if close else "nuclr plugins list")

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
        inside = self.recognised_inside(path)
        if inside:
            return f"Did you mean one of these inside it? {' '.join(map(str, inside))}"
        broken = [info.name for info in self.plugins if info.error]
        if broken:
            return f"These plugins failed to load: {', '.join(broken)}. See why: nuclr plugins list"
        return "Point at the folder of one sorting, or install a plugin that knows the format."

    def recognised_inside(self, path: Path) -> list[Path]:
        """Things directly inside a folder that a reader knows: people point one level too high."""
        try:
            children = sorted(path.iterdir())[:_MOST_CHILDREN]
        except OSError:
            return []
        known = (child for child in children if self.claims(child, warn=lambda text: None))
        return list(itertools.islice(known, MOST_INSIDE))


def _names_of(info: PluginInfo) -> tuple[str, ...]:
    return (info.name, *info.readers, *info.exporters)


def _without_clashes(
    kind: str, brought: list[tuple[PluginInfo, tuple[Part, ...]]]
) -> tuple[tuple[Part, ...], list[str]]:
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


def _looks_for(reader: Reader) -> str:
    return str(reader.looks_for or ", ".join(reader.formats) or "(it does not say)").rstrip(".")


def _closest_path(path: Path) -> str:
    """A hint for a mistyped path."""
    try:
        siblings = sorted(item.name for item in path.parent.iterdir())
    except OSError:
        return f"The folder {path.parent} does not exist either: check the spelling."
    close = difflib.get_close_matches(path.name, siblings, n=1)
    return f"Did you mean {path.parent / close[0]}?" if close else "Check the spelling."
