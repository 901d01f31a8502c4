"""`nuclr plugins check`: does a reader keep its promises on a real source?"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from nuclr_cli.api import ReadOptions
from nuclr_cli.errors import InputError
from nuclr_cli.registry import Registry
from nuclr_cli.testing.reader_case import ReaderCase
from nuclr_cli.testing.reader_checks import CHECKS, CheckResult, run_checks
from nuclr_cli.workflows.reporting import Reporter


@dataclass(frozen=True)
class PluginCheckConfig:
    """What to check.

    Attributes:
        reader: Name of an installed reader.
        path: Source that it should be able to read.
        options: Handed to the reader.
        needs: Import names of optional packages without which the source cannot be read.
    """

    reader: str
    path: Path
    options: ReadOptions = field(default_factory=ReadOptions)
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class PluginCheckRecord:
    """What the checks found.

    Attributes:
        reader: Its name.
        path: The source.
        checks: One result per check.
    """

    reader: str
    path: Path
    checks: tuple[CheckResult, ...]

    @property
    def failed(self) -> tuple[CheckResult, ...]:
        """The checks that failed."""
        return tuple(result for result in self.checks if result.status == "failed")


def check_plugin(config: PluginCheckConfig, reporter: Reporter) -> PluginCheckRecord:
    """Run every check of a reader on a source. The source is not changed: damage is done to copies.

    Raises:
        InputError: There is no such reader, or no such path.
    """
    registry = Registry.load()
    reader, _ = registry.find(config.path, config.reader, detect=False)
    with (
        tempfile.TemporaryDirectory(prefix="nuclr-check-") as scratch,
        reporter.progress("checking", len(CHECKS), "checks") as progress,
    ):
        case = ReaderCase(
            reader=reader,
            source=config.path.resolve(),
            scratch=Path(scratch),
            options=config.options,
            needs=config.needs,
        )
        finished: list[CheckResult] = []

        def done(result: CheckResult) -> None:
            finished.append(result)
            progress.update(len(finished), result.check)

        results = run_checks(case, done)
    return PluginCheckRecord(config.reader, config.path, results)


def failure(record: PluginCheckRecord) -> InputError | None:
    """The error to end with, or None when nothing failed."""
    if not record.failed:
        return None
    names = ", ".join(result.check for result in record.failed)
    error = InputError(
        f"{len(record.failed)} of {len(record.checks)} checks of {record.reader!r} failed: {names}.",
        "The table says what to do about each.",
    )
    error.record = record
    return error
