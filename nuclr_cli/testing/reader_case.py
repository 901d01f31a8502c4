"""What the checks of a reader work on: a reader, a source it can read, and copies of that source."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import Population, Reader, ReaderError, ReadOptions
from nuclr_cli.data.check import RATE_RANGE_HZ

MOST_COPIED_BYTES = 1 << 30
_KEPT_PARENTS = 3
_PROCESS_TIMEOUT_S = 600


class CheckFailed(AssertionError):
    """A reader broke a promise.

    Args:
        what: What was found and expected.
        fix: What to change in the reader.
    """

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(f"{what}\n{fix}")
        self.what = what
        self.fix = fix


class CheckSkipped(Exception):
    """A check that does not apply here; says why."""


@dataclass(frozen=True)
class ReaderCase:
    """A reader and a source that it should be able to read.

    Attributes:
        reader: The reader under test.
        source: File or folder it reads.
        scratch: Existing folder for copies; everything in it may be overwritten.
        options: Handed to `read`.
        needs: Import names of optional packages without which this source cannot be read.
        foreign: Files and folders that the reader must not recognise, besides those of the checks.
        hostile: Sources it must refuse with a `ReaderError`.
        cut_unnoticed: Name patterns of text files that look whole when their end is missing.
        plausible_rate_hz: Range of the median firing rate in this source.
        most_cut: Files that are cut off, one after the other; a source with more is sampled evenly.
    """

    reader: Reader
    source: Path
    scratch: Path
    options: ReadOptions = field(default_factory=ReadOptions)
    needs: tuple[str, ...] = ()
    foreign: tuple[Path, ...] = ()
    hostile: tuple[Path, ...] = ()
    cut_unnoticed: tuple[str, ...] = ("*.csv", "*.tsv", "*.txt", "*.py")
    plausible_rate_hz: tuple[float, float] = RATE_RANGE_HZ
    most_cut: int = 40

    def read(self, source: Path | None = None, options: ReadOptions | None = None) -> list[Population]:
        """Read a source (the case's own unless said) to the end."""
        return list(self.reader.read(source or self.source, options or self.options))

    @cached_property
    def populations(self) -> list[Population]:
        """What the source holds, read once."""
        return self.read()

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """What the reader lists as its sources."""
        return tuple(self.reader.sources(self.source))

    def copy(self, name: str) -> Path:
        """A copy of the source that holds the files of `sources` and nothing else.

        Args:
            name: Folder in `scratch` to put it into; made anew.

        Returns:
            Where the copy of the source lies; it and the folders around it have the source's own names, since
            readers call sessions and subjects after them.

        Raises:
            CheckSkipped: It is too large to be copied.
        """
        total = sum(path.stat().st_size for path in self.files)
        if total > MOST_COPIED_BYTES:
            raise CheckSkipped(
                f"the source holds {total / 1e9:.1f} GB, more than the checks copy "
                f"({MOST_COPIED_BYTES / 1e9:.1f} GB); point at a smaller recording"
            )
        target = self.scratch / name
        shutil.rmtree(target, ignore_errors=True)
        around = [part for part in self.source.parent.parts if part != self.source.anchor][-_KEPT_PARENTS:]
        copied = target.joinpath(*around, self.source.name)
        copied.parent.mkdir(parents=True)
        if self.source.is_dir():
            copied.mkdir()
        for path in self.files:
            place = self.in_copy(path, copied)
            if place is not None:
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, place)
        return copied

    def in_copy(self, path: Path, copied: Path) -> Path | None:
        """Where a file of the source lies in a copy; None when it lies outside of the source's folder."""
        root = self.source.parent
        return copied.parent / path.relative_to(root) if path.is_relative_to(root) else None


def digest(populations: Sequence[Population]) -> list[dict[str, Any]]:
    """Everything nuclr keeps of the populations, arrays as their sha256; equal means read alike."""
    return [
        {
            "key": [pop.subject, pop.session, pop.population],
            "attributes": dict(pop.attributes),
            "intervals": _digest_of(pop.intervals),
            "units": {name: _digest_of(column) for name, column in pop.units.items()},
            **({} if pop.spikes is None else _digests(pop.spikes, ("times", "unit_index"))),
            **(
                {}
                if pop.calcium is None
                else _digests(pop.calcium, ("values", "timestamps", "time_offset", "sampling_rate_hz"))
            ),
        }
        for pop in populations
    ]


def differences(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> list[str]:
    """What differs between two digests, by name."""
    if len(first) != len(second):
        return [f"{len(first)} and {len(second)} populations"]
    found: list[str] = []
    for one, other in zip(first, second, strict=True):
        for name in dict.fromkeys([*one, *other]):
            if one.get(name) == other.get(name):
                continue
            columns = [f"units column {c!r}" for c in _differing(one.get(name), other.get(name))]
            found += columns if name == "units" else [name]
    return list(dict.fromkeys(found))


def _differing(one: Any, other: Any) -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        yield from (key for key in dict.fromkeys([*one, *other]) if one.get(key) != other.get(key))


def _digests(record: object, names: tuple[str, ...]) -> dict[str, str]:
    return {name: _digest_of(getattr(record, name)) for name in names}


def _digest_of(values: Any) -> str:
    array: NDArray[Any] = np.asarray(values)
    if array.dtype.kind in "UO":  # the same texts may be stored at another width
        content = json.dumps(array.tolist(), default=str).encode()
    else:
        content = np.ascontiguousarray(array).tobytes()
    kind = "text" if array.dtype.kind == "U" else str(array.dtype)
    return f"{kind} {array.shape} {hashlib.sha256(content).hexdigest()}"


_ELSEWHERE = """
import json, pickle, sys
job = pickle.load(sys.stdin.buffer)
sys.path[:] = job["path"]
for name in job["blocked"]:
    sys.modules[name] = None
from nuclr_cli.testing.reader_case import read_elsewhere
print("\\n" + json.dumps(read_elsewhere(job)))
"""


def in_another_process(case: ReaderCase, blocked: Sequence[str] = ()) -> dict[str, Any]:
    """Read the source in a fresh process, in which the packages in `blocked` cannot be imported.

    Returns:
        ``digest`` of what was read, or ``error`` (name of the exception), ``what`` and ``fix``; and
        ``torch``: whether torch was imported.

    Raises:
        CheckFailed: The reader cannot be sent there, or the process ended without an answer.
    """
    try:
        reader = pickle.dumps(case.reader)
    except Exception as error:
        raise CheckFailed(
            f"{type(case.reader).__name__} cannot be pickled: {type(error).__name__}: {error}.",
            "Define the reader at the top level of a module, and keep open files and locks out of it.",
        ) from None
    job = {
        "path": [str(Path(entry or ".").resolve()) for entry in sys.path],
        "blocked": list(blocked),
        "reader": reader,
        "source": str(case.source.resolve()),
        "options": case.options,
    }
    done = subprocess.run(
        [sys.executable, "-c", _ELSEWHERE],
        input=pickle.dumps(job),
        capture_output=True,
        cwd=case.scratch,
        env={name: value for name, value in os.environ.items() if name != "PYTHONHASHSEED"},
        timeout=_PROCESS_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise CheckFailed(
            f"The reader could not be used in another process: {' '.join(last)}.",
            f"{type(case.reader).__module__} must be a module that can be imported there.",
        )
    answer: dict[str, Any] = json.loads(done.stdout.decode().splitlines()[-1])
    return answer


def read_elsewhere(job: dict[str, Any]) -> dict[str, Any]:
    """The other end of `in_another_process`."""
    reader: Reader = pickle.loads(job["reader"])
    try:
        answer: dict[str, Any] = {"digest": digest(list(reader.read(Path(job["source"]), job["options"])))}
    except Exception as error:
        answer = {
            "error": type(error).__name__,
            "what": getattr(error, "what", str(error)),
            "fix": getattr(error, "fix", ""),
            "refused": isinstance(error, ReaderError),
        }
    return {**answer, "torch": "torch" in sys.modules}
