"""`nuclr embed`: parse, call, print."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from nuclr_cli.cli.console import Console
from nuclr_cli.cli.options import CacheFolder, CacheSize, command
from nuclr_cli.wording import counted


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    command(app, "embed")(embed)


def _step(given: str | None) -> int | Literal["best"] | None:
    if given is None:
        return None
    if given == "best":
        return "best"
    try:
        return int(given)
    except ValueError:
        raise typer.BadParameter(
            f"{given!r} is neither a step nor 'best'.", param_hint="--checkpoint"
        ) from None


def embed(
    console: Console,
    data: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DATA]", help="Sessions: folder, file or URL. Default: those the run was trained on."
        ),
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Run folder or name. Default: the newest.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder that holds the runs.")] = Path("nuclr-runs"),
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE", help="Default: RUN/embeddings.parquet."),
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            metavar="STEP|best",
            help="Checkpoint to use; best: by what training logged (train.keep_best). Default: the last.",
        ),
    ] = None,
    limit: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Use only the first seconds of each session.")
    ] = None,
    select: Annotated[
        str,
        typer.Option(
            metavar="RULE",
            help="Checkpoint to use: last; retrieval (finds neurons again across time, needs no label); "
            "val-f1 (a probe on the subjects that pretraining was given; needs --select-label).",
        ),
    ] = "last",
    select_label: Annotated[
        str | None, typer.Option(metavar="NAME", help="Label of --select val-f1.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="raw|ema",
            help="Weights as trained, or their moving average. Default: ema where train.ema kept one.",
        ),
    ] = None,
    gpus: Annotated[int | None, typer.Option(help="0 is the CPU. Default: a GPU if there is one.")] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(metavar="N", help="Units x patches at once; fewer take less memory. As trained with."),
    ] = None,
    processes_per_window: Annotated[
        int, typer.Option(metavar="N", help="Processes that share the units of a window; for huge ones.")
    ] = 1,
    cache: CacheFolder = None,
    cache_size: CacheSize = None,
) -> None:
    """Turn every unit into one vector with a trained encoder: one row a unit, also for animals never seen."""
    from nuclr_cli.data.remote import text_of
    from nuclr_cli.workflows.data_place import chosen_cache
    from nuclr_cli.workflows.embed import EmbedConfig
    from nuclr_cli.workflows.embed import embed as work

    console.speak_once()
    record = work(
        EmbedConfig(
            *(data, run, runs, out, _step(checkpoint), gpus, limit, max_tokens),
            select=select,
            select_label=select_label,
            processes_per_window=processes_per_window,
            cache=chosen_cache(cache, cache_size),
            weights=weights,
        ),
        console,
    )

    def show() -> None:
        console.table(
            "",
            ("subject", "session", "units", "never active", "windows", "in training"),
            [
                (
                    s.subject,
                    s.session if s.population == "0" else f"{s.session}/{s.population}",
                    str(s.n_units),
                    str(s.n_unseen),
                    str(s.n_windows),
                    {True: "yes", False: "no", None: "unknown"}[s.seen_in_training],
                )
                for s in record.sessions
            ],
            right=(2, 3, 4),
        )
        if record.unseen:
            shown = ", ".join(record.unseen[:5]) + (" ..." if len(record.unseen) > 5 else "")
            console.print(
                counted(
                    record.n_unseen,
                    f"unit was active in no window; its embedding is null: {shown}",
                    f"units were active in no window; their embedding is null: {shown}",
                )
            )
        if record.diagnostics is not None:
            found = record.diagnostics
            again = found.retrieval
            console.print(
                f"Without labels: {again.top1:.1%} of units are found again in the other half of their "
                f"recording (95% {again.interval.low:.1%} to {again.interval.high:.1%}; by rate alone "
                f"{again.rate_top1:.1%}, chance {again.chance:.1%}); effective rank {found.rankme:.1f} of "
                f"{record.dim}; alignment {found.alignment:.3f}, uniformity {found.uniformity:.2f}."
            )
        console.print(
            f"{counted(record.n_units, 'unit')} x {record.dim} numbers -> {record.out}  "
            f"(run {record.run}, step {record.checkpoint}"
            f"{', moving average of the weights' if record.weights == 'ema' else ''}, {record.seconds:.0f} s)"
        )

    console.result(record, show)
    given = {
        "--embeddings": out,
        "--data": data,  # the baselines read the sessions themselves
        "--run": run,
        "--runs": None if runs == Path("nuclr-runs") else runs,
    }
    places = "".join(
        f" {option} {shlex.quote(text_of(Path(path)))}" for option, path in given.items() if path
    )
    if record.labels:
        label = "cell_type" if "cell_type" in record.labels else record.labels[0]
        console.next_step(f"nuclr probe --label {shlex.quote(label)}{places}")
