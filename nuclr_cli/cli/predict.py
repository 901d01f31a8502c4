"""`nuclr predict`: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nuclr_cli.cli.console import Console
from nuclr_cli.cli.options import command
from nuclr_cli.wording import counted

if TYPE_CHECKING:
    from nuclr_cli.workflows.predict_record import PredictRecord

_WHICH, _WHEN, _WHERE = "Which units", "When to abstain", "What is written"


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    command(app, "predict")(predict)


def predict(
    console: Console,
    probe: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of a fitted probe: RUN/probes/LABEL/SPLIT-VARIANT.")
    ],
    embeddings: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Embeddings by the same checkpoint. Default: those that the probe was fitted on.",
            rich_help_panel=_WHICH,
        ),
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="Run whose embeddings are predicted.", rich_help_panel=_WHICH)
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder that holds the runs.", rich_help_panel=_WHICH)] = Path(
        "nuclr-runs"
    ),
    session: Annotated[
        str | None,
        typer.Option(metavar="[SUBJECT/]SESSION", help="Only this session.", rich_help_panel=_WHICH),
    ] = None,
    all_units: Annotated[
        bool,
        typer.Option("--all-units", help="Also units that have the label.", rich_help_panel=_WHICH),
    ] = False,
    min_probability: Annotated[
        float | None,
        typer.Option(metavar="P", help="Abstain below this probability.", rich_help_panel=_WHEN),
    ] = None,
    target_accuracy: Annotated[
        float | None,
        typer.Option(
            metavar="A",
            help="Abstain below the lowest probability from which so many validation units are right. "
            "Default: 0.9, or what can be had.",
            rich_help_panel=_WHEN,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="FILE.csv",
            help="Default: predicted-LABEL.csv, unless --export.",
            rich_help_panel=_WHERE,
        ),
    ] = None,
    export: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="phy (label tables in a phy folder), nwb or spikeinterface (a copy with labels), csv, or "
            "another of nuclr plugins list.",
            rich_help_panel=_WHERE,
        ),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Where --export writes.", rich_help_panel=_WHERE),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="What the units were read from. Default: as their session file says.",
            rich_help_panel=_WHERE,
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Their session files. Default: those of the run.", rich_help_panel=_WHERE),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that exist.", rich_help_panel=_WHERE)
    ] = False,
) -> None:
    """Label unlabelled units with a fitted probe, with calibrated probabilities; it abstains when unsure."""
    from nuclr_cli.workflows.predict import predict as work
    from nuclr_cli.workflows.predict_record import PredictConfig

    record = work(
        PredictConfig(
            probe=probe,
            embeddings=embeddings,
            run=run,
            runs=runs,
            data=data,
            session=session,
            all_units=all_units,
            min_probability=min_probability,
            target_accuracy=target_accuracy,
            out=out,
            export=export,
            to=to,
            source=source,
            overwrite=overwrite,
        ),
        console,
    )
    console.result(record, lambda: show(console, record))
    written = [*([record.csv] if record.csv else []), *record.exported]
    console.done(f"written to {', '.join(map(str, written))}")


def show(console: Console, record: PredictRecord) -> None:
    """Print one row per session."""
    rows = []
    for one in record.sessions:
        labels = ", ".join(f"{name} {n}" for name, n in one.labels.items())
        rows.append(
            (
                one.subject,
                one.session if one.population == "0" else f"{one.session}/{one.population}",
                str(one.n_units),
                labels or (str(one.n_units - one.n_abstained) if not record.classes else ""),
                str(one.n_abstained - one.n_without_embedding),
                str(one.n_without_embedding),
                str(one.n_outside),
            )
        )
    console.table(
        f"{record.label}: {counted(record.n_units, 'unit')}",
        ("subject", "session", "units", "predicted", "abstained", "never active", "outside training"),
        rows,
        right=(2, 4, 5, 6),
    )
    score = record.score
    if score is not None:
        console.print(
            f"The probe's {score.metric} is {score.value:.3f} (95% interval {score.low:.3f} to "
            f"{score.high:.3f}) on units that it was not fitted on, split by {score.split}."
        )
    if record.threshold is not None:
        low = record.threshold.value
        said = f"Abstains below probability {low:g}" if low else "Abstains on no probability"
        if record.threshold.validation_accuracy is not None and record.threshold.validation_kept is not None:
            said += (
                f"; of the validation units {record.threshold.validation_kept:.0%} reach it, and "
                f"{record.threshold.validation_accuracy:.0%} of these are right"
            )
        console.print(f"{said}.")
