"""`nuclr import-checkpoint`: parse, call, print."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from nuclr_cli.cli.console import Console
from nuclr_cli.cli.options import ConfigFile, Settings, command


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    command(app, "import-checkpoint")(import_checkpoint)


def import_checkpoint(
    console: Console,
    file: Annotated[Path, typer.Argument(metavar="FILE.pt", help="Checkpoint of the official NuCLR code.")],
    name: Annotated[str | None, typer.Option(help="Name of the run. Default: that of the file.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder that holds the runs.")] = Path("nuclr-runs"),
    tokens: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="What the encoder takes: counts, calcium or events. Default: as the file tells.",
        ),
    ] = None,
    trained_subjects: Annotated[
        str | None,
        typer.Option(
            metavar="A,B|FILE|none",
            help="All subjects that the weights have seen, by your word; none: no subject at all. "
            "Default: unknown, so no probe is inductive.",
        ),
    ] = None,
    config: ConfigFile = None,
    settings: Settings = None,
) -> None:
    """Make a run from weights of the official NuCLR code. Nothing in the file is run, whoever sent it."""
    from nuclr_cli.workflows.config import parse_settings, read_toml
    from nuclr_cli.workflows.import_checkpoint import ImportConfig
    from nuclr_cli.workflows.import_checkpoint import import_checkpoint as work
    from nuclr_cli.workflows.pretrain_sessions import read_subject_list

    subjects = None
    if trained_subjects is not None:
        nobody = trained_subjects.strip().lower() == "none"
        subjects = () if nobody else read_subject_list(trained_subjects, "--trained-subjects")
    changes = {**(read_toml(config) if config else {}), **parse_settings(settings or [])}
    record = work(ImportConfig(file, runs, name, tokens, subjects, changes), console)

    def show() -> None:
        seen = record.trained_subjects
        rows = [
            ("run", str(record.run)),
            ("imported from", str(record.file)),
            ("encoder of", f"{record.tokens}, windows of {record.window_s:g} s"),
            (
                "size",
                f"{record.parameters / 1e6:.2f} M parameters: width {record.dim}, {record.heads} heads of "
                f"{record.head_dim}, {record.temporal_layers} temporal and {record.spatiotemporal_layers} "
                "spatiotemporal blocks",
            ),
            ("steps", str(record.step)),
            ("has seen", "unknown" if seen is None else ", ".join(seen) or "nobody"),
        ]
        rows += [("from the file", one) for one in record.from_file]
        console.table("", ("", ""), rows)

    console.result(record, show)
    console.next_step(f"nuclr embed DATA --run {shlex.quote(str(record.run))}")
