"""`nuclr scale`: parse, call, print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nuclr_cli.cli.console import Console
from nuclr_cli.cli.options import WHERE, ConfigFile, DaskAddress, Seed, Settings, command
from nuclr_cli.wording import counted

if TYPE_CHECKING:
    from nuclr_cli.workflows.scale_record import DryRun, PointSpec, ScaleRecord, Spread, Sweep

_GRID = "What grows"
_TRAINING = "Every point"


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    command(app, "scale")(scale)


def scale(
    console: Console,
    label: Annotated[str, typer.Option(metavar="NAME", help="Label that every point is probed for.")],
    data: Annotated[Path, typer.Argument(metavar="[DATA]", help="Folder of sessions.")] = Path("nuclr-data"),
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FOLDER", help="Default: nuclr-scale/LABEL-AXIS."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the grid and the time it would take; write nothing.")
    ] = False,
    axis: Annotated[
        str,
        typer.Option(
            help="subjects, units, minutes or parameters. Default: subjects from 4 on, else minutes.",
            rich_help_panel=_GRID,
        ),
    ] = "auto",
    values: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...",
            help="Sizes: numbers of subjects, shares of the units, minutes of each session, widths of the "
            "model. Default: a grid.",
            rich_help_panel=_GRID,
        ),
    ] = None,
    points: Annotated[int, typer.Option(help="Sizes of the default grid.", rich_help_panel=_GRID)] = 6,
    seeds: Annotated[int, typer.Option(help="Trainings of each size.", rich_help_panel=_GRID)] = 3,
    test_subjects: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="Subjects that no point trains on. Default: a quarter of those with the label, drawn once.",
            rich_help_panel=_GRID,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Optimiser steps of every point. Default: the preset's.", rich_help_panel=_TRAINING
        ),
    ] = None,
    epochs: Annotated[
        float | None,
        typer.Option(help="Instead: passes over what a point sees.", rich_help_panel=_TRAINING),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="As for pretrain. Default: tiny on a CPU.", rich_help_panel=_TRAINING)
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="A,B", help="Classes that the probe tells apart. Default: all.", rich_help_panel=_TRAINING
        ),
    ] = None,
    variant: Annotated[
        str, typer.Option(help="Of the probe: default or paper.", rich_help_panel=_TRAINING)
    ] = "default",
    gpus: Annotated[
        int | None,
        typer.Option(help="0 is the CPU. Default: a GPU if there is one.", rich_help_panel=WHERE),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            help="Points at once. Default: one beside a GPU, else cores / threads, at most 8.",
            rich_help_panel=WHERE,
        ),
    ] = None,
    threads: Annotated[
        int,
        typer.Option(
            help="CPU threads of each point; the last digits depend on it, not on --jobs.",
            rich_help_panel=WHERE,
        ),
    ] = 1,
    dask: DaskAddress = None,
    config: ConfigFile = None,
    settings: Settings = None,
    seed: Seed = None,
) -> None:
    """Pretrain, embed and probe at growing sizes, and fit a law. Killed and started again, it goes on."""
    from nuclr_cli.workflows.config import parse_settings, parse_value, read_toml
    from nuclr_cli.workflows.pretrain_sessions import read_subject_list
    from nuclr_cli.workflows.scale_config import ScaleConfig

    changes: dict[str, Any] = {**(read_toml(config) if config else {}), **parse_settings(settings or [])}
    given = ScaleConfig(
        label=label,
        data=data,
        out=out,
        axis=axis,
        values=parse_value("--values", values, tuple[float, ...]) if values else (),
        points=points,
        seeds=seeds,
        seed=42 if seed is None else seed,
        steps=steps,
        epochs=epochs,
        preset=preset,
        changes=changes,
        test_subjects=read_subject_list(test_subjects) if test_subjects is not None else (),
        classes=tuple(name.strip() for name in (classes or "").split(",") if name.strip()),
        variant=variant,
        gpus=gpus,
        jobs=jobs,
        threads=threads,
        dask=dask,
    )
    if dry_run:
        from nuclr_cli.workflows.scale import plan_only

        planned = plan_only(given, console)
        console.result(planned, lambda: _show_plan(console, planned))
        return
    from nuclr_cli.workflows.scale import scale as work

    record = work(given, console)
    console.result(record, lambda: _show(console, record))
    console.done(f"written to {record.folder}")


def _show_plan(console: Console, planned: DryRun) -> None:
    _grid_table(console, planned.sweep)
    _say(console, planned.choices)
    console.print(f"Folder: {planned.folder} (nothing was written).")
    console.print(
        f"Estimate: {_duration(planned.total_s)} with {counted(planned.jobs, 'point')} at once: training "
        f"{_duration(planned.training_s)}, embedding {_duration(planned.embedding_s)} one after the other."
    )
    console.print(planned.how)


def _grid_table(console: Console, sweep: Sweep) -> None:
    by_size: dict[float, list[PointSpec]] = {}
    for point in sweep.points:
        by_size.setdefault(point.size, []).append(point)
    console.table(
        f"{sweep.label}, axis {sweep.axis}: {counted(len(sweep.points), 'point')}",
        ("size", "asked for", "subjects", "sessions", "units", "minutes each", "steps", "seeds"),
        [
            (
                f"{size:.6g}",
                f"{own[0].value:.4g}",
                _range([len(point.subjects) for point in own]),
                _range([point.n_sessions for point in own]),
                _range([point.n_units for point in own]),
                _range([point.minutes for point in own]),
                _range([point.steps for point in own]),
                ", ".join(str(point.seed) for point in own),
            )
            for size, own in sorted(by_size.items())
        ],
        right=(0, 1, 2, 3, 4, 5, 6),
    )


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.4g}", f"{max(values):.4g}"
    return low if low == high else f"{low} to {high}"


def _show(console: Console, record: ScaleRecord) -> None:
    console.table(
        f"{record.label}, axis {record.axis}, {record.knowledge}",
        (record.size_name, "seeds", "steps", "held-out loss", "training loss", "macro F1"),
        [
            (
                f"{size.size:.6g}",
                str(size.n_seeds),
                str(size.steps),
                _spread(size.held_out_loss),
                _spread(size.train_loss),
                _spread(size.macro_f1),
            )
            for size in record.sizes
        ],
        right=(0, 1, 2, 3, 4, 5),
    )
    for fit in record.fits:
        for sentence in fit.says:
            console.print(sentence)
    if record.baselines:
        best = ", ".join(f"{one.title} {one.macro_f1:.3f}" for one in record.baselines)
        console.print(f"Baselines of the same probe, macro F1: {best}.")
    console.print("Numbers after +- are standard deviations over seeds.")
    _say(console, record.choices)


def _say(console: Console, sentences: Sequence[str]) -> None:
    for sentence in sentences:
        console.print(sentence)


def _spread(value: Spread | None) -> str:
    if value is None:
        return "-"
    return f"{value.mean:.3f}" + ("" if value.sd is None else f" +- {value.sd:.3f}")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
