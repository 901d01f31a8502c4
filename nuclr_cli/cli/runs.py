"""`nuclr runs`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nuclr_cli.cli.console import Console
from nuclr_cli.cli.options import command
from nuclr_cli.wording import counted

if TYPE_CHECKING:
    from nuclr_cli.workflows.runs_overview import RunSummary

_COLUMNS = (
    "run",
    "state",
    "last row",
    "step",
    "of",
    "loss",
    "saved",
    "best",
    "steps/s",
    "left",
    "embedded",
    "probes",
)
_TOGETHER = ((0,), (1, 2), (3, 4), (5, 6, 7), (8, 9), (10, 11))  # that share a column of a narrow table
_NUMBERS = frozenset(("step", "of", "loss", "saved", "best", "steps/s", "left", "probes"))
_WIDE = 138  # a terminal of so many columns has room for a usual row of the wide table


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
    rows = [_row(run) for run in runs]
    if console.out.width >= _WIDE:
        right = [i for i, name in enumerate(_COLUMNS) if name in _NUMBERS]
        console.table("", _COLUMNS, rows, right=right)
    else:
        narrow = [[_stacked(row, together) for together in _TOGETHER] for row in rows]
        right = [i for i, together in enumerate(_TOGETHER) if _COLUMNS[together[0]] in _NUMBERS]
        console.table("", [_stacked(_COLUMNS, together) for together in _TOGETHER], narrow, right=right)
    for run in runs:
        if run.killed:
            console.print(f"{run.name}: its process is gone, it was killed. Continue it with: {run.resume}")
        elif run.silent_s is not None:
            console.print(
                f"{run.name} has written nothing for {_lasting(run.silent_s)}. "
                f"If it was killed, continue it with: {run.resume}"
            )
        elif run.resume:
            console.print(f"{run.name}: continue it with: {run.resume}")
        if run.embed:
            console.print(
                f"{run.name}: its embeddings are of step {run.embedded_step}. For its newest weights: "
                f"{run.embed}"
            )


def _row(run: RunSummary) -> list[str]:
    """The cells of a run, in the order of `_COLUMNS`."""
    return [
        run.name,
        _state(run),
        "-" if run.row_age_s is None else f"{_lasting(run.row_age_s)} ago",
        str(run.step),
        _or_dash(run.steps, "d"),
        _or_dash(run.loss, ".3f"),
        _or_dash(run.checkpoint, "d"),
        _or_dash(run.best, "d"),
        _or_dash(run.steps_per_s, ".3g"),
        "-" if run.left_s is None else _lasting(run.left_s),
        _embedded(run),
        str(run.probes),
    ]


def _state(run: RunSummary) -> str:
    if run.killed:
        return "killed"
    return run.state if run.silent_s is None else f"{run.state}, silent for {_lasting(run.silent_s)}"


def _embedded(run: RunSummary) -> str:
    if run.embeddings is None:
        return "no"
    return f"step {run.embedded_step}" if run.embedded_older else "yes"


def _stacked(cells: Sequence[str], together: Sequence[int]) -> str:
    """Cells below each other, the parts of one (``running, silent for 3 h``) as well."""
    return "\n".join(cells[i].replace(", ", ",\n") for i in together)


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
