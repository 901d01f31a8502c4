"""Fixtures shared by all tests."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# The same examples in every run, so that a change is judged by the change. New ones are searched for with
# `pytest --hypothesis-profile=search`; what it finds becomes an @example or a test of its own.
settings.register_profile("same", derandomize=True)
settings.register_profile("search", derandomize=False, max_examples=500, print_blob=True)
settings.load_profile("same")

if hasattr(signal, "SIGHUP") and threading.current_thread() is threading.main_thread():
    # Under nohup all that tests start would ignore what some of them send.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

SHARED = Path(__file__).parents[2] / "shared"


@dataclass(frozen=True)
class Finished:
    """A finished `nuclr` process."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON document on stdout; fails when there is anything else."""
        return json.loads(self.out)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of sample and real recordings beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"the folder of sample recordings is not here: {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def nuclr() -> Callable[..., Finished]:
    """Run the command line in a process of its own."""

    def run(*arguments: object, cwd: Path | None = None, timeout: float = 300) -> Finished:
        done = subprocess.run(
            [sys.executable, "-m", "nuclr_cli", *map(str, arguments)],
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, "COLUMNS": "200"},
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    return run


class Forked:
    """Runs `nuclr` one command after the other, without the seconds that Python takes to start."""

    def __init__(self, server: subprocess.Popen[str]) -> None:
        self._server = server

    def _ask(self, document: Any) -> Any:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(document) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def start(
        self,
        *words: object,
        largest_file: int | None = None,
        environment: Mapping[str, str | None] | None = None,
        cwd: Path | None = None,
    ) -> int:
        """Start a command and return the id of its process.

        Args:
            words: After `nuclr`.
            largest_file: Bytes that no file may exceed; None = no limit.
            environment: Variables to set, or to remove where they are None.
            cwd: Where; None = where the tests run.
        """
        asked = {
            "largest_file": largest_file,
            "environment": dict(environment or {}),
            "cwd": str(cwd or Path.cwd()),
        }
        pid: int = self._ask({"words": [str(word) for word in words], **asked})
        return pid

    def wait(self) -> Finished:
        """Wait for the command that was started."""
        return Finished(*self._ask(None))

    def __call__(self, *words: object, **how: Any) -> Finished:
        self.start(*words, **how)
        return self.wait()


@pytest.fixture(scope="session")
def forked() -> Iterator[Forked]:
    """Like `nuclr`, quicker."""
    if not hasattr(os, "fork"):
        pytest.skip("this system cannot fork")
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("forked.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
    ) as server:
        yield Forked(server)
        assert server.stdin is not None
        server.stdin.close()


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DATA folder of four small sessions of four subjects; unit 3 of each never fires."""
    from nuclr_cli.data.store import SourceRecord, write_population
    from nuclr_cli.testing.simulate import tiny_population

    folder = tmp_path_factory.mktemp("tiny") / "nuclr-data"
    folder.mkdir()
    for i in range(4):
        population = tiny_population(
            i, n_units=24, minutes=2.0, subject=f"s{i}", session=f"day{i}", silent_units=1
        )
        population = dataclasses.replace(population, attributes={"rig": "A"})
        source = SourceRecord(path=f"tiny-{i}", reader="test", detected="made in memory")
        write_population(population, folder / f"s{i}.h5", source=source)
    return folder


@pytest.fixture(scope="session")
def uneven_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sessions whose populations differ much in size."""
    from nuclr_cli.data.store import SourceRecord, write_population
    from nuclr_cli.testing.simulate import tiny_population

    folder = tmp_path_factory.mktemp("uneven") / "nuclr-data"
    folder.mkdir()
    for i, n_units in enumerate((8, 16, 60)):
        population = tiny_population(
            i, n_units=n_units, minutes=1.0 + i, subject=f"s{i}", session=f"day{i}", silent_units=1
        )
        source = SourceRecord(path=f"tiny-{i}", reader="test", detected="made in memory")
        write_population(population, folder / f"s{i}.h5", source=source)
    return folder
