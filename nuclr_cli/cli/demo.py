"""`nuclr demo`: parse, call, print."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from nuclr_cli.cli.console import Console
from nuclr_cli.cli.options import Settings, command


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    command(app, "demo")(demo)


def demo(
    console: Console,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FOLDER", help="Where everything goes.")] = Path(
        "nuclr-demo"
    ),
    animals: Annotated[int, typer.Option(help="Simulated animals.")] = 10,
    units: Annotated[int, typer.Option(help="Units of each animal.")] = 60,
    minutes: Annotated[float, typer.Option(help="Minutes of recording of each animal.")] = 8.0,
    gpus: Annotated[int | None, typer.Option(help="0 is the CPU. Default: a GPU if there is one.")] = None,
    settings: Settings = None,
    seed: Annotated[int, typer.Option(help="Seed of the simulation and of training.")] = 0,
) -> None:
    """Run the whole chain on simulated animals, in minutes on a laptop CPU."""
    from nuclr_cli.cli.probe_show import show
    from nuclr_cli.workflows.config import parse_settings
    from nuclr_cli.workflows.demo import DemoConfig
    from nuclr_cli.workflows.demo import demo as work

    config = DemoConfig(out, animals, units, minutes, seed, gpus, parse_settings(settings or []))
    record = work(config, console)

    def render() -> None:
        for one in record.probes:
            show(console, one)
        trained = record.pretrain
        console.print(
            f"Simulated animals, {trained.units} units; {trained.steps} steps in {trained.seconds:.0f} s, "
            f"all in {record.seconds:.0f} s on {trained.device}."
        )

    console.result(record, render)
    console.done(f"everything is in {record.folder}")
    run = record.pretrain.run
    console.next_step(f"nuclr report {shlex.quote(run.name)} --runs {shlex.quote(str(run.parent))}")
