"""`nuclr pretrain`: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nuclr_cli.cli.console import Console
from nuclr_cli.cli.options import CacheFolder, CacheSize, ConfigFile, Seed, Settings, command
from nuclr_cli.wording import counted


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    command(app, "pretrain")(pretrain)


def pretrain(
    console: Console,
    data: Annotated[Path, typer.Argument(metavar="[DATA]", help="Sessions: folder, file or URL.")] = Path(
        "nuclr-data"
    ),
    preset: Annotated[
        str | None, typer.Option(help="ephys, calcium or tiny. Default: by modality on a GPU, tiny on a CPU.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run. Default: preset and time.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder that holds the runs.")] = Path("nuclr-runs"),
    hold_out_subjects: Annotated[
        str | None,
        typer.Option(
            metavar="A,B|FILE", help="Subjects that pretraining must not see, for zero-shot probes."
        ),
    ] = None,
    balance: Annotated[
        str | None,
        typer.Option(
            metavar="WHOSE",
            help="subject or session: each comes equally often; same as --set data.balance=WHOSE. "
            "Default: none, every window once an epoch.",
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps; same as --set train.steps=N.")] = None,
    gpus: Annotated[
        int | None, typer.Option(help="GPUs of a machine; 0 is the CPU. Default: a GPU if there is one.")
    ] = None,
    nodes: Annotated[
        int | None, typer.Option(help="Machines. Default: what torchrun or srun started, else 1.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the named (or newest unfinished) run, else start it.")
    ] = False,
    init_from: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Start from the weights of another run.")
    ] = None,
    cache: CacheFolder = None,
    cache_size: CacheSize = None,
    logger: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Show the metrics there as well, beside TensorBoard: wandb or mlflow. Repeatable. A "
            "resumed run keeps its loggers; none ends that.",
        ),
    ] = None,
    find_lr: Annotated[
        bool,
        typer.Option("--find-lr", help="Make no run: try rising learning rates on a copy, and suggest one."),
    ] = False,
    config: ConfigFile = None,
    settings: Settings = None,
    seed: Seed = None,
) -> None:
    """Train the encoder on sessions, without labels.

    Ctrl-C, SIGTERM and a closed terminal stop it cleanly, with a checkpoint; --resume goes on.
    """
    from nuclr_cli.workflows.config import parse_settings, read_toml
    from nuclr_cli.workflows.data_place import chosen_cache
    from nuclr_cli.workflows.pretrain import PretrainConfig
    from nuclr_cli.workflows.pretrain import pretrain as work
    from nuclr_cli.workflows.pretrain_sessions import read_subject_list

    console.speak_once()
    changes = {**(read_toml(config) if config else {}), **parse_settings(settings or [])}
    if steps is not None:
        changes["train.steps"] = str(steps)
    if balance is not None:
        changes["data.balance"] = balance
    asked = PretrainConfig(
        data=data,
        runs=runs,
        name=name,
        preset=preset,
        changes=changes,
        seed=seed,
        hold_out_subjects=read_subject_list(hold_out_subjects) if hold_out_subjects is not None else (),
        gpus=gpus,
        nodes=nodes,
        resume=resume,
        init_from=init_from,
        cache=chosen_cache(cache, cache_size),
        loggers=None if logger is None else tuple(logger),
    )
    if find_lr:
        from nuclr_cli.cli.learning_rates import show_learning_rates

        show_learning_rates(console, asked)
        return
    record = work(asked, console)

    def show() -> None:
        now, taken = record.steps - record.resumed_from, f"in {record.seconds:.0f} s"
        if now < record.steps:
            taken = f"in all, {now} of them now, {taken}" if now else "in all, none of them now"
        rows = [
            ("run", str(record.run)),
            ("preset", f"{record.preset}, {record.parameters / 1e6:.2f} M parameters"),
            ("device", record.device + (f", {record.processes} processes" if record.processes > 1 else "")),
            (
                "sessions",
                f"{record.sessions} ({counted(record.units, 'unit')}, "
                f"{counted(len(record.subjects), 'subject')})",
            ),
            ("held out", ", ".join(record.held_out_subjects) or "nobody"),
            ("steps", f"{record.steps} {taken}"),
            ("windows", f"{record.windows} drawn, {record.windows_dropped} without two large enough views"),
        ]
        # Not every step is logged: the first loss is not that of the first step.
        logged = {record.first_loss_step: record.first_loss, record.last_loss_step: record.last_loss}
        rows += [(f"loss at step {step}", f"{loss:.3f}") for step, loss in logged.items() if loss is not None]
        if record.rankme is not None:
            rows.append(("RankMe", f"{record.rankme:.1f}"))
        console.table("", ("", ""), rows)

    console.result(record, show)
    console.next_step(f"nuclr embed --run {record.run}")
