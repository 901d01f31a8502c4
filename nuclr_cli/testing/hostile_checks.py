"""Checks with damaged and hostile sources: refused with a `ReaderError`, and nothing in them runs."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nuclr_cli.api import ReaderError
from nuclr_cli.data.check import check_population
from nuclr_cli.errors import InputError
from nuclr_cli.testing.reader_case import CheckFailed, CheckSkipped, ReaderCase, differences, digest

_MARKER = "a-payload-ran"


class _Payload:
    """Pickled, it makes a folder when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def refuses_cut_off_files(case: ReaderCase) -> str:
    """Every file of the source, without its second half and empty, one at a time."""
    files = [path for path in case.files if path.stat().st_size > 1]
    if len(files) > case.most_cut:
        files = [files[i] for i in np.linspace(0, len(files) - 1, case.most_cut).astype(int)]
    copied = case.copy("cut")
    for path in files:
        size = path.stat().st_size
        inside = case.in_copy(path, copied)
        if inside is None:
            continue
        for length in (size // 2, 0):
            os.truncate(inside, length)
            what = f"{path.name} cut to {length} of {size} bytes"
            unnoticed = any(path.match(pattern) for pattern in case.cut_unnoticed)
            _expect_refusal(case, copied, what, unchanged_is_fine=True, change_is_fine=unnoticed)
        shutil.copyfile(path, inside)
    return f"{len(files)} of {len(case.files)} files cut off"


def runs_no_pickles(case: ReaderCase) -> str:
    """A payload in the place of every file that may hold a pickle or code."""
    marker = case.scratch / _MARKER
    planted = 0
    copied = case.copy("payload")
    for path in case.files:
        plant = _PLANTS.get(path.suffix)
        if plant is None:
            continue
        inside = case.in_copy(path, copied)
        if inside is None:
            continue
        plant(inside, marker)
        planted += 1
        what = f"{path.name} with a payload"
        _expect_refusal(case, copied, what, unchanged_is_fine=True, change_is_fine=True)
        if marker.exists():
            marker.rmdir()
            raise CheckFailed(
                f"Code that was planted in {path.name} was run.",
                "Use nuclr_cli.api.safe_files instead of np.load(allow_pickle=True), pickle, exec and eval.",
            )
        shutil.copyfile(path, inside)
    if not planted:
        raise CheckSkipped("none of its files can hold a pickle or Python code")
    return f"{planted} payloads stayed still"


def refuses_hostile_sources(case: ReaderCase) -> str:
    if not case.hostile:
        raise CheckSkipped("no hostile sources were given")
    for path in case.hostile:
        _expect_refusal(case, path, path.name)
    return f"{len(case.hostile)} sources refused"


def _expect_refusal(
    case: ReaderCase,
    source: Path,
    what: str,
    *,
    unchanged_is_fine: bool = False,
    change_is_fine: bool = False,
) -> None:
    """Reading must end in a `ReaderError`, or what was read be refused by nuclr or be accounted for."""
    try:
        found = case.read(source)
        warnings = [text for population in found for text in check_population(population)]
    except (ReaderError, InputError) as error:
        if not error.what.strip():
            raise CheckFailed(f"{what}: the error says nothing.", "ReaderError(what, fix)") from None
        return
    except Exception as error:
        raise CheckFailed(
            f"{what}: {type(error).__name__}: {error}",
            "Raise ReaderError(what, fix) whatever the bytes are; nuclr_cli.api.safe_files does.",
        ) from None
    if not unchanged_is_fine:
        raise CheckFailed(f"{what}: it was read.", "Refuse it with ReaderError(what, fix).")
    if not found:
        raise CheckFailed(f"{what}: nothing was read and nothing said.", "Raise ReaderError(what, fix).")
    said = {text for population in case.populations for text in population.warnings}
    warned = {*warnings, *(text for population in found for text in population.warnings)} - said
    differing = differences(digest(case.populations), digest(found))
    if differing and not change_is_fine and not warned:
        raise CheckFailed(
            f"{what}: it was read, with other {', '.join(differing)}, and without a warning.",
            "Compare lengths (of headers, tables, counts) and raise ReaderError, or warn.",
        )


def _plant_npy(path: Path, marker: Path) -> None:
    path.write_bytes(_object_npy(marker))


def _plant_npz(path: Path, marker: Path) -> None:
    """The first array of the archive becomes a pickle."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members[next(iter(members))] = _object_npy(marker)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def _plant_pickle(path: Path, marker: Path) -> None:
    path.write_bytes(pickle.dumps(_Payload(marker)))


def _plant_python(path: Path, marker: Path) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(f"\n__import__('os').mkdir({str(marker)!r})\n")


def _plant_json(path: Path, marker: Path) -> None:
    """A class to build, as SpikeInterface and others take it from JSON."""
    content = json.loads(path.read_bytes())
    if isinstance(content, dict):
        content |= {"class": "os.mkdir", "kwargs": {"path": str(marker)}, "module": "os"}
        path.write_text(json.dumps(content), encoding="utf-8")


def _object_npy(marker: Path) -> bytes:
    array = np.empty(1, dtype=object)
    array[0] = _Payload(marker)
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


_PLANTS: dict[str, Callable[[Path, Path], None]] = {
    ".npy": _plant_npy,
    ".npz": _plant_npz,
    ".pkl": _plant_pickle,
    ".pickle": _plant_pickle,
    ".py": _plant_python,
    ".json": _plant_json,
}
