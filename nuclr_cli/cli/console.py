"""What a person (or a script) sees: notes, warnings, progress, tables, errors, one JSON document."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from nuclr_cli.cli.listeners import is_terminal, that_may_go
from nuclr_cli.errors import NuclrError
from nuclr_cli.workflows.launchers import is_first_process

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from nuclr_cli.workflows.reporting import Progress

PLAIN_LINE_EVERY_S = (5.0, 15.0)
"""Between two lines of a batch log: at first, and when the work has gone on for a while."""

PIPE_WIDTH = 1_000_000
"""A pipe has no width: a row of a table is one line there, for `grep`, however long its cells are."""


def to_jsonable(value: Any) -> Any:
    """Turn records, paths and numpy values into plain JSON values (NaN and infinities become None)."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_jsonable(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_jsonable(v) for k, v in value.items()}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (str, int, bool)) or value is None:
        return value
    if hasattr(value, "tolist"):
        return to_jsonable(value.tolist())
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_jsonable(v) for v in value]
    return str(value)


class _RichProgress:
    def __init__(self, bar: RichProgress, task: TaskID) -> None:
        self._bar, self._task = bar, task

    def update(self, done: float, detail: str = "") -> None:
        self._bar.update(self._task, completed=done, detail=detail)


class _PlainProgress:
    """One line every few seconds, fewer as hours pass: a batch log stays readable and is never silent."""

    def __init__(
        self, write: Callable[[str], None], title: str, total: float | None, unit: str, start: float = 0
    ) -> None:
        self._write, self._title, self._total, self._unit = write, title, total, unit
        self._began = self._last = time.monotonic()
        self._start = self._done = start
        self._printed = -1.0
        self._detail = ""

    def update(self, done: float, detail: str = "") -> None:
        self._done, self._detail = done, detail
        least, most = PLAIN_LINE_EVERY_S
        now = time.monotonic()
        if now - self._last >= min(max((now - self._began) / 20, least), most):
            self.line()

    def line(self) -> None:
        now = time.monotonic()
        self._last, self._printed = now, self._done
        rate = (self._done - self._start) / max(now - self._began, 1e-9)
        text = f"{self._title}: {self._done:g}"
        if self._total is not None:
            text += f"/{self._total:g}"
        text += f" {self._unit}, {rate:.3g} {self._unit}/s"
        if self._total is not None and rate > 0:
            text += f", {_lasting((self._total - self._done) / rate)} left"
        self._write(text + (f", {self._detail}" if self._detail else ""))

    def close(self) -> None:
        if self._printed != self._done:
            self.line()


def _lasting(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3.4 h``: what a person wants to know of a time that is only estimated."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


class Console:
    """The terminal of one command. Results go to stdout, everything else to stderr.

    Args:
        json_output: Print exactly one JSON document on stdout instead of tables.
        quiet: Only errors, warnings and the result.
        verbose: Also details.
        debug: Show tracebacks.
    """

    def __init__(
        self, *, json_output: bool = False, quiet: bool = False, verbose: bool = False, debug: bool = False
    ) -> None:
        self.json_output, self.quiet, self.verbose, self.debug = json_output, quiet, verbose, debug
        self._speaks = True
        self._on_terminal = is_terminal(sys.stdout)  # asked now: one that is closed later is none any more
        self._err: RichConsole | None = None
        self._out: RichConsole | None = None
        self._printed_json = False

    def speak_once(self) -> None:
        """Of processes that do this command together, one has something to say; the others tell of errors."""
        self._speaks = is_first_process()
        self.quiet = self.quiet or not self._speaks

    @property
    def err(self) -> RichConsole:
        if self._err is None:
            from rich.console import Console as RichConsole

            # Progress must not be able to end the work that it tells of.
            self._err = RichConsole(
                file=that_may_go(sys.stderr),
                highlight=False,
                emoji=False,
                soft_wrap=not is_terminal(sys.stderr),
            )
        return self._err

    @property
    def out(self) -> RichConsole:
        if self._out is None:
            from rich.console import Console as RichConsole

            class Result(RichConsole):
                def on_broken_pipe(self) -> None:  # `nuclr info | head` is not an error
                    self.quiet = True
                    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                    raise SystemExit(0)

            wide = None if is_terminal(sys.stdout) else PIPE_WIDTH
            self._out = Result(file=self._stdout(), highlight=False, emoji=False, width=wide)
        return self._out

    def _stdout(self) -> IO[str] | None:
        """A result that cannot be written is an error, but not on a terminal that was closed meanwhile."""
        return that_may_go(sys.stdout) if self._on_terminal else sys.stdout

    def note(self, text: str) -> None:
        if not self.quiet:
            self.err.print(f"[cyan]note[/] {_plain(text)}")

    def warn(self, text: str) -> None:
        self.err.print(f"[yellow]warning[/] {_plain(text)}")

    def detail(self, text: str) -> None:
        if self.verbose and not self.quiet:
            self.err.print(f"[dim]{_plain(text)}[/]")

    def done(self, text: str) -> None:
        if not self.quiet:
            self.err.print(f"[green]done[/] {_plain(text)}")

    def next_step(self, command: str) -> None:
        if not self.quiet and not self.json_output:
            self.err.print(f"[dim]next:[/] {_plain(command)}")

    @contextmanager
    def progress(self, title: str, total: float | None, unit: str, start: float = 0) -> Iterator[Progress]:
        if self.quiet:
            from nuclr_cli.workflows.reporting import SilentReporter

            with SilentReporter().progress(title, total, unit, start) as silent:
                yield silent
            return
        if not self.err.is_terminal:
            plain = _PlainProgress(lambda line: self.err.print(_plain(line)), title, total, unit, start)
            try:
                yield plain
            finally:
                plain.close()
            return
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn(f"{unit}  {{task.fields[detail]}}"),
            TimeRemainingColumn(),
        )
        with RichProgress(*columns, console=self.err, transient=False) as bar:
            yield _RichProgress(bar, bar.add_task(title, total=total, completed=int(start), detail=""))

    def table(
        self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()
    ) -> None:
        """Print a table of the result on stdout.

        Columns whose index is in `right` are right-aligned; without any column name there is no header.
        """
        from rich import box
        from rich.table import Table

        headed = any(columns)
        table = Table(
            title=title or None,
            title_justify="left",
            box=box.SIMPLE_HEAD if headed else None,
            show_header=headed,
            pad_edge=False,
            padding=(0, 2, 0, 0),
        )
        for i, name in enumerate(columns):
            table.add_column(name, justify="right" if i in right else "left", overflow="fold")
        for row in rows:
            table.add_row(*(_plain(cell) for cell in row))
        self.out.print(table)

    def print(self, text: str = "") -> None:
        """Print a line of the result on stdout."""
        self.out.print(_plain(text), soft_wrap=True)

    def result(self, record: Any, render: Callable[[], None]) -> None:
        """Show the result of the command: `record` as the one JSON document, or what `render` prints."""
        if not self._speaks:
            return
        if self.json_output:
            self._print_json(to_jsonable(record))
        else:
            render()

    def _print_json(self, document: Any) -> None:
        self._printed_json = True
        text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
        out = self._stdout()
        if out is None:
            return
        try:
            text.encode(sys.stdout.encoding or "ascii")
        except UnicodeEncodeError:  # a terminal that is not UTF-8, or a file name that is no text
            text = json.dumps(document, indent=2, allow_nan=False)
        out.write(text + "\n")
        out.flush()

    def error(self, error: NuclrError) -> None:
        """Print what was found and what to type next; nothing of an error that has been told elsewhere."""
        if not error.what:
            return
        self.err.print(f"[bold red]error[/] {_plain(error.what)}")
        if error.fix:
            self.err.print(f"[bold]  ->[/] {_plain(error.fix)}")
        if self.json_output and self._speaks and not self._printed_json:
            said = {"what": error.what, "fix": error.fix, "exit_code": error.exit_code}
            done = {} if error.record is None else {"record": error.record}
            self._print_json(to_jsonable({"error": said, **done}))


def _plain(text: str) -> str:
    """User data may hold square brackets, which rich would read as markup."""
    from rich.markup import escape

    return escape(text)
