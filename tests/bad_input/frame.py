"""The frame of the bad-input matrix: what a case is, and what `nuclr preprocess` must do with it.

How to add a format. Write a module ``<something>_cases.py`` in this folder; `test_bad_input.py` finds it by
its name. It has three things:

- ``FORMATS``: names of the formats, which begin the test ids (``numpy_folder-UNSORTED-...``);
- ``CASES``: a list of `BadInput`. Generate it: one list of mutations, crossed with the formats in which they
  can occur. ``make(folder)`` writes the source (copy from `SAMPLES` only what is read) into an empty folder
  and returns its path; ``names`` are regular expressions that the one error message must match: the file,
  the unit, the count. In ``options``, ``{folder}`` stands for that folder. A payload is made with
  ``Payload(marker(folder))`` or its kin below; the marker must not be there afterwards;
- ``CANNOT_OCCUR``: for every (rule, format) without a case, a true sentence that says why; see `cannot`.

Every rule of `rules.py` has to appear for every format, in one of the two. `label_cases` gives the cases
about ``--labels``, which are the same for all. A case that hides a payload where no reader needs to look is
``harmless=`` the maker of the clean source: both must read as the same population. `check_population` can
name the file only when the reader puts ``path`` into `Population.provenance`.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import typer
from typer.testing import CliRunner

from bad_input.rules import Rule
from nuclr_cli.api import Population, ReadOptions
from nuclr_cli.cli import preprocess
from nuclr_cli.registry import Registry

SAMPLES = Path(__file__).parents[3] / "shared" / "samples"

Maker = Callable[[Path], Path]


@dataclass(frozen=True)
class BadInput:
    """One source that must be refused, or whose payload must stay without effect.

    Attributes:
        rule: The rule it breaks.
        format: Format of the source.
        name: What was done to it, for the test id.
        make: Writes it into an empty folder, returns its path.
        names: Regular expressions, each found in the error message: file, unit, count.
        options: Of the command line; ``{folder}`` stands for the folder given to `make`.
        trust: The message must name ``--trust``; otherwise it must not.
        runs_trusted: With ``--trust`` the payload runs (its marker appears) and the source is read.
        harmless: Maker of the clean source when the bad part is one that no reader needs: exit code 0 and
            the same population instead of an error; `names` are then found in its notes.
        adds: Columns that it has and the clean source has not.
        only_untrusted: With ``--trust`` a library loads the source in its own way, which may run the payload.
    """

    rule: Rule
    format: str
    name: str
    make: Maker
    names: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    trust: bool = False
    runs_trusted: bool = False
    harmless: Maker | None = None
    adds: tuple[str, ...] = ()
    only_untrusted: bool = False

    @property
    def id(self) -> str:
        return f"{self.format}-{self.rule.name}-{self.name}".replace(" ", "_")


CannotOccur = Mapping[tuple[Rule, str], str]


def cannot(rules: Iterable[Rule], formats: Iterable[str], reason: str) -> dict[tuple[Rule, str], str]:
    """Entries of ``CANNOT_OCCUR``: one reason for some rules in some formats."""
    formats = tuple(formats)
    return {(rule, name): reason for rule in rules for name in formats}


@dataclass(frozen=True)
class Outcome:
    """What one run of the command left."""

    code: int
    out: str
    err: str
    error: str
    folder: Path
    written: Path


# Looking for plugins and building every command take three times as long as a case.
known_readers = functools.cache(Registry.load)


@functools.cache
def command_line() -> typer.Typer:
    """`nuclr` with no other command than `preprocess`."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.callback()(lambda: None)
    preprocess.register(app)
    return app


def run_case(case: BadInput, tmp_path: Path, *more: str) -> tuple[Path, Outcome]:
    """Make the source and run ``nuclr preprocess SOURCE -o OUT`` in this process."""
    folder = tmp_path / "source"
    folder.mkdir()
    source = case.make(folder)
    out = tmp_path / "out"
    options = [option.replace("{folder}", str(folder)) for option in case.options]
    before = listing(tmp_path)
    with (
        warnings.catch_warnings(),
        mock.patch.object(Registry, "load", known_readers),
        # numcodecs refuses pickles unless this is set, as those do who need old files: nobody may rely on it.
        mock.patch.dict(os.environ, NUMCODECS_ALLOW_UNSAFE_PICKLE_DECODE="1"),
    ):
        warnings.simplefilter("error", RuntimeWarning)  # numpy's warnings would be a second message
        arguments = ["preprocess", str(source), "-o", str(out), "--jobs", "1", *options, *more]
        done = CliRunner().invoke(command_line(), arguments)
    lines = done.stderr.splitlines()
    errors = [at for at, line in enumerate(lines) if line.startswith("error ")]
    error = "\n".join(lines[errors[0] :]) if len(errors) == 1 else ""
    if done.exit_code:
        assert len(errors) == 1, f"{len(errors)} error messages:\n{done.stderr}"
        assert listing(tmp_path) - {marker(folder)} == before - {marker(folder)}, "something was left behind"
    return source, Outcome(done.exit_code, done.stdout, done.stderr, error, folder, out)


def check(case: BadInput, tmp_path: Path, *more: str) -> None:
    """Assert that the source is refused as the specification asks, and that nothing in it ran."""
    source, done = run_case(case, tmp_path, *more)
    assert not marker(done.folder).exists(), "code found in the source was run"
    if case.harmless is not None:
        assert done.code == 0, done.err
        clean = tmp_path / "clean" / done.folder.name  # a subject may be called after it
        clean.mkdir(parents=True)
        found = population(source, case, trust="--trust" in more)
        assert set(case.adds) <= set(found.units)
        units = {name: column for name, column in found.units.items() if name not in case.adds}
        assert_same(population(case.harmless(clean), case), dataclasses.replace(found, units=units))
        for pattern in case.names:
            assert any(re.search(pattern, note) for note in found.notes), f"{pattern!r} is not in the notes"
        assert not marker(done.folder).exists(), "code found in the source was run"
        return
    check_refusal(case, done)


def check_refusal(case: BadInput, done: Outcome) -> None:
    """Assert exit code 3 and one message that names the file and the count, and says what to do."""
    assert done.code == 3, f"exit code {done.code}\n{done.out}\n{done.err}"
    assert "Traceback" not in done.out + done.err
    assert str(done.folder) in done.error, f"no path in:\n{done.error}"
    for pattern in case.names:
        assert re.search(pattern, done.error), f"{pattern!r} is not in:\n{done.error}"
    assert "\n  -> " in done.error, f"nothing to type next in:\n{done.error}"
    assert ("--trust" in done.error) == case.trust, done.error
    assert not done.written.exists()


def listing(folder: Path) -> set[Path]:
    """Every file and folder below, hidden ones too."""
    return set(folder.rglob("*"))


def population(source: Path, case: BadInput, *, trust: bool = False) -> Population:
    """The one population of a source, through the reader that recognises it."""
    reader, _ = known_readers().find(source)
    options = ReadOptions(trust=trust)
    if "--fs" in case.options:
        options = dataclasses.replace(options, fs_hz=float(case.options[case.options.index("--fs") + 1]))
    (only,) = reader.read(source, options)
    return only


def assert_same(expected: Population, found: Population) -> None:
    """Assert that whose it is, every column of the units, intervals, spikes and traces agree bit for bit."""
    for name in ("subject", "session", "population", "subject_assumed"):
        assert getattr(expected, name) == getattr(found, name), name
    assert set(expected.units) == set(found.units)
    for name, column in expected.units.items():
        np.testing.assert_array_equal(column, found.units[name], name)
    np.testing.assert_array_equal(expected.intervals, found.intervals)
    for part in ("spikes", "calcium"):
        one, other = getattr(expected, part), getattr(found, part)
        assert (one is None) == (other is None)
        for field in () if one is None else dataclasses.fields(one):
            np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))


# Payloads: each leaves its marker behind when it is unpickled by anything but a careful reader.


def marker(folder: Path) -> Path:
    """The file that a payload in the source `folder` leaves when it runs."""
    return folder / "code-has-run"


@dataclass
class Payload:
    """Pickles as a call of `os.open` that creates the marker."""

    marker: Path

    def __reduce__(self) -> Any:
        return os.open, (str(self.marker), os.O_CREAT | os.O_WRONLY)


@dataclass
class RunString:
    """Pickles as a call of a function that NumPy ships and that runs text."""

    marker: Path

    def __reduce__(self) -> Any:
        from numpy.testing._private.utils import runstring

        return runstring, (creating(self.marker), {})


@dataclass
class Evaluated:
    """Pickles as a call of `eval`."""

    marker: Path

    def __reduce__(self) -> Any:
        return eval, (creating(self.marker),)


PAYLOADS: Mapping[str, tuple[Rule, Callable[[Path], Any]]] = {
    "os.open": (Rule.PICKLE, Payload),
    "eval": (Rule.PICKLE, Evaluated),
    "runstring": (Rule.PICKLE_OF_NUMPY, RunString),
}


def creating(path: Path) -> str:
    """Python expression that creates the marker."""
    return f"open({str(path)!r}, 'w').close()"


def touching(path: Path) -> dict[str, Any]:
    """JSON that makes SpikeInterface's loader start a process which creates the marker."""
    return {
        "class": "subprocess.Popen",
        "module": "subprocess",
        "version": "1",
        "kwargs": {"args": ["touch", str(path)]},
        "annotations": {},
        "properties": {},
    }


# Damage that any file can suffer.


def truncated(fraction: float) -> Callable[[Path], None]:
    """Keep the first part of a file."""

    def cut(path: Path) -> None:
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * fraction)])

    return cut


def random_bytes(path: Path) -> None:
    """As many random bytes as the file had."""
    path.write_bytes(np.random.default_rng(5).bytes(path.stat().st_size))


def absurd_header(shape: tuple[int, ...] = (1 << 60,), descr: str = "<i8") -> Callable[[Path], None]:
    """A ``.npy`` header that promises more than any disk holds."""

    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(
                file, {"descr": descr, "fortran_order": False, "shape": shape}
            )

    return write


DAMAGE: Mapping[str, Callable[[Path], None]] = {
    "cut to 10%": truncated(0.1),
    "cut in half": truncated(0.5),
    "cut to 95%": truncated(0.95),
    "empty": truncated(0.0),
    "random bytes": random_bytes,
}


def edited(copy: Maker, *edits: Callable[[Path], Any]) -> Maker:
    """Maker of a copy to which some edits were made, each of which is given the source."""

    def make(folder: Path) -> Path:
        source = copy(folder)
        for edit in edits:
            edit(source)
        return source

    return make


def at(inside: str, change: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """An edit of the file `inside` the source."""
    return lambda source: change(source / inside)


def remove(path: Path) -> None:
    """Delete a file or a folder."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def copy_tree(origin: Path, target: Path, patterns: Iterable[str] = ("**/*",)) -> Path:
    """Writable copy of the files of `origin` that match any of the patterns."""
    for pattern in patterns:
        for file in origin.glob(pattern):
            if file.is_file():
                place = target / file.relative_to(origin)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, place)
    return target


def label_cases(format: str, copy: Maker, unit: str, options: tuple[str, ...] = ()) -> Iterator[BadInput]:
    """``--labels`` tables that name a unit twice, or one that is not there. `unit` is an id of the source."""
    tables = {
        Rule.LABELS_REPEAT: (f"{unit},PV\n{unit},SST\n", (r"table\.csv", rf"'?{re.escape(unit)}'?", r"\d")),
        Rule.LABELS_UNKNOWN: (f"{unit},PV\nnobody,SST\n", (r"table\.csv", "nobody", "1")),
    }
    for rule, (rows, names) in tables.items():

        def make(folder: Path, rows: str = rows) -> Path:
            (folder / "table.csv").write_text("id,cell_type\n" + rows)
            return copy(folder)

        yield BadInput(rule, format, "table", make, names, (*options, "--labels", "{folder}/table.csv"))


def case_modules() -> list[Any]:
    """Every module of this folder that holds cases."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("*_cases.py"))
    return [importlib.import_module(f"bad_input.{name}") for name in names]
