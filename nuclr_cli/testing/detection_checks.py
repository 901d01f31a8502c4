"""Checks of what a reader says of itself and of what it recognises."""

from __future__ import annotations

import dataclasses
import os
import re
import time
from pathlib import Path

from nuclr_cli.api import ReadOptions
from nuclr_cli.registry import Registry
from nuclr_cli.testing.decoys import make_decoys
from nuclr_cli.testing.reader_case import CheckFailed, CheckSkipped, ReaderCase

_GROWN_BYTES = 10 << 30
_MOST_SNIFFED_BYTES = 16 << 20
_MOST_SNIFFED_S = 5.0


def says_what_it_is(case: ReaderCase) -> str:
    reader = case.reader
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", reader.name):
        raise CheckFailed(f"The name {reader.name!r} cannot be typed.", "Lower case letters, digits, _ - .")
    if not reader.formats or not all(isinstance(text, str) and text for text in reader.formats):
        raise CheckFailed(f"formats is {reader.formats!r}.", 'Name at least one: formats = ("my format",)')
    if not reader.looks_for:
        raise CheckFailed(
            "looks_for is empty; it is what people see when no reader knows their path.",
            "Say in one sentence what detect looks for.",
        )
    known = {f.name for f in dataclasses.fields(ReadOptions)}
    unknown = sorted((reader.options or frozenset()) - known)
    if unknown:
        raise CheckFailed(
            f"options names {', '.join(unknown)}, which ReadOptions does not have.",
            f"Choose among {', '.join(sorted(known))}.",
        )
    return f"{reader.name}: {', '.join(reader.formats)}"


def recognises_the_source(case: ReaderCase) -> str:
    seen = case.reader.detect(case.source)
    if not isinstance(seen, str) or not seen.strip():
        raise CheckFailed(
            f"detect returned {seen!r} for {case.source}.",
            f"It looks for {case.reader.looks_for or '(it does not say)'}; return what was seen, as text.",
        )
    return seen


def refuses_foreign_sources(case: ReaderCase) -> str:
    folder = _fresh(case, "decoys")
    decoys = [decoy.path for decoy in make_decoys(folder) if decoy.owner != case.reader.name]
    claimed = []
    for path in (*decoys, *case.foreign):
        try:
            seen = case.reader.detect(path)
        except Exception as error:
            raise CheckFailed(
                f"detect raised {type(error).__name__} on {path.name}: {error}.",
                "It must return None for what it does not know, whatever the bytes are.",
            ) from None
        if seen is not None:
            claimed.append(f"{path.name} ({seen})")
    if claimed:
        raise CheckFailed(
            f"detect takes as its own what is not: {', '.join(claimed)}.", "Look for something rarer."
        )
    return f"{len(decoys) + len(case.foreign)} other files and folders"


def is_the_only_one(case: ReaderCase) -> str:
    warnings: list[str] = []
    claims = Registry.load().claims(case.source, warn=warnings.append)
    others = [claim for claim in claims if claim.reader.name != case.reader.name]
    if others:
        seen = "; ".join(f"{claim.reader.name} sees {claim.detected}" for claim in others)
        raise CheckFailed(
            f"Other installed readers recognise {case.source.name}, too: {seen}.",
            "Look for something that only your format has; else everybody needs --reader.",
        )
    return "no other installed reader recognises it"


def detection_is_cheap(case: ReaderCase) -> str:
    """Count bytes while the largest file of the source, and one beside it, seem to hold 10 GB."""
    places = [case.source]
    try:
        grown = case.copy("grown")
        largest = max(case.files, key=lambda path: path.stat().st_size, default=None)
        inside = None if largest is None else case.in_copy(largest, grown)
        if inside is not None:
            os.truncate(inside, _GROWN_BYTES)
        beside = (grown if grown.is_dir() else grown.parent) / "recording.dat"
        beside.touch()
        os.truncate(beside, _GROWN_BYTES)
        places.append(grown)
    except (CheckSkipped, OSError):
        pass  # too large to copy, so detect is measured on something large anyway; or no sparse files here
    most = 0
    for place in places:
        before, began = _bytes_read(), time.monotonic()
        case.reader.detect(place)
        seconds, n_bytes = time.monotonic() - began, _bytes_read() - before
        most = max(most, n_bytes)
        if n_bytes > _MOST_SNIFFED_BYTES or seconds > _MOST_SNIFFED_S:
            raise CheckFailed(
                f"detect read {n_bytes / 1e6:.1f} MB in {seconds:.1f} s of a source whose largest file holds "
                f"{_GROWN_BYTES / 1e9:.0f} GB.",
                "Look at names and headers only; the readers of a lab's whole disk are asked, too.",
            )
    return f"at most {most / 1e3:.1f} kB read"


def _bytes_read() -> int:
    """Bytes this process has asked files for, where the system counts them."""
    try:
        counters = Path("/proc/self/io").read_text(encoding="ascii")
    except OSError:
        return 0
    return int(counters.split()[1])


def _fresh(case: ReaderCase, name: str) -> Path:
    folder = case.scratch / name
    folder.mkdir()
    return folder
