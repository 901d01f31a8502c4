"""`nuclr report`: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nuclr_cli.cli.console import Console
from nuclr_cli.cli.options import command
from nuclr_cli.wording import counted


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    command(app, "report")(report)


def report(
    console: Console,
    run: Annotated[
        Path | None, typer.Argument(metavar="[RUN]", help="Run folder or name. Default: the newest.")
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder that holds the runs.")] = Path("nuclr-runs"),
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", help="Default: RUN/report.html.")
    ] = None,
    scale: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of a sweep (nuclr scale) that is shown, too.")
    ] = None,
    umap: Annotated[
        bool | None,
        typer.Option(
            "--umap/--no-umap", help="Draw a UMAP beside the PCA. Default: if umap-learn is installed."
        ),
    ] = None,
    max_points: Annotated[
        int, typer.Option(metavar="N", help="Units on the map; of more, so many are drawn at random.")
    ] = 100_000,
) -> None:
    """Write everything that a run has to show into one HTML file: map, probes, baselines, curves."""
    from nuclr_cli.workflows.report import ReportConfig
    from nuclr_cli.workflows.report import report as work

    record = work(ReportConfig(run, runs, out, scale, umap, max_points), console)

    def show() -> None:
        units = counted(record.n_units, "unit")
        shown = "" if record.n_shown == record.n_units else f", {record.n_shown} of them on the map"
        console.print(
            f"{counted(len(record.results), 'result')}, {units}{shown} -> {record.out}  "
            f"({record.n_bytes / 1e6:.1f} MB, {record.seconds:.0f} s)"
        )

    console.result(record, show)
