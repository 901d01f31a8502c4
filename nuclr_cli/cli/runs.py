"""`nuclr runs`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nuclr_cli.cli.console import Console
from nuclr_cli.cli.options import command
from nuclr_cli.wording import counted

if TYPE_CHECKING:
    from nuclr_cli.workflows.runs_overview import RunSummary

_LEFT = ("run", "state", "last row", "embedded")  # words; the other columns are numbers
_DISPENSABLE = ("best", "steps/s", "probes", "saved", "embedded", "last row")
"""Columns that a narrow terminal does without, the first one first: a run is one line."""


def register(app: typer.Typer) -> None:
    """Add the subcommand."""

    @command(app, "runs")
    def runs(
        console: Console,
        runs: Annotated[Path, typer.Option(help="Folder that holds the runs.")] = Path("nuclr-runs"),
    ) -> None:
        """List the runs, also while they train: state, step, loss, speed, time left, what they hold."""
        from nuclr_cli.workflows.runs_overview import runs_overview

        record = runs_overview(runs)
        console.result(record, lambda: _render(console, record.runs))
        for run in record.runs:
            if run.problem:
                console.warn(f"{run.folder} is damaged: {run.problem}")


def _render(console: Console, runs: tuple[RunSummary, ...]) -> None:
    rows = [_cells(run) for run in runs]
    width = console.out.width if console.out.is_terminal else None
    rows, missing = _fitted(rows, width)
    names = tuple(rows[0])
    right = [i for i, name in enumerate(names) if name not in _LEFT]
    console.table("", names, [tuple(row.values()) for row in rows], right=right)
    if missing:
        console.print(f"No room for {', '.join(missing)}; --json has all.")
    _commands(
        console,
        "Stopped or broken off; to continue:",
        [run.resume for run in runs if run.resume and run.silent_s is None],
    )
    _commands(
        console,
        "Silent, so hanging or broken off elsewhere; to continue one that runs no more:",
        [run.resume for run in runs if run.silent_s is not None],
    )
    _commands(
        console,
        "Embedded before they went on; for embeddings of the newest weights:",
        [run.embed for run in runs if run.embed],
    )


def _commands(console: Console, what: str, commands: Sequence[str]) -> None:
    """Each on a line of its own, to be copied whole."""
    if commands:
        console.print(what)
    for line in commands:
        console.print(f"  {line}")


def _cells(run: RunSummary) -> dict[str, str]:
    """Column -> cell."""
    return {
        "run": run.name,
        "state": _state(run),
        "last row": "-" if run.row_age_s is None else f"{_lasting(run.row_age_s)} ago",
        "step": str(run.step),
        "of": _or_dash(run.steps, "d"),
        "loss": _or_dash(run.loss, ".3f"),
        "saved": _or_dash(run.checkpoint, "d"),
        "best": _or_dash(run.best, "d"),
        "steps/s": _or_dash(run.steps_per_s, ".3g"),
        "left": "-" if run.left_s is None else _lasting(run.left_s),
        "embedded": _embedded(run),
        "probes": str(run.probes),
    }


def _fitted(rows: list[dict[str, str]], width: int | None) -> tuple[list[dict[str, str]], list[str]]:
    """The rows without the columns that have no room, and the names of these."""
    missing: list[str] = []
    for name in _DISPENSABLE:
        if width is None or _width(rows) <= width:
            break
        rows = [{key: cell for key, cell in row.items() if key != name} for row in rows]
        missing.append(name)
    return rows, missing


def _width(rows: Sequence[Mapping[str, str]]) -> int:
    """Of the table: three blanks between columns, one at each end."""
    from rich.cells import cell_len

    columns = [max(cell_len(text) for text in (name, *(row[name] for row in rows))) for name in rows[0]]
    return sum(columns) + 3 * (len(columns) - 1) + 2


def _state(run: RunSummary) -> str:
    if run.gone:
        return "broken off"
    return run.state if run.silent_s is None else f"silent {_lasting(run.silent_s)}"


def _embedded(run: RunSummary) -> str:
    if run.embeddings is None:
        return "no"
    return f"step {run.embedded_step}" if run.embedded_older else "yes"


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _lasting(seconds: float) -> str:
    """``4 s``, ``12 min``, ``3 h``, ``5 days``: rounded down, from two of the next larger on in that one."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 120 * 60:
        return f"{seconds // 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds // 3600:.0f} h"
    return counted(int(seconds // 86400), "day")
