"""`nuclr probe`: parse, call, print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nuclr_cli.cli.console import Console
from nuclr_cli.cli.label_fractions import Fractions, Repeats, probe_fractions
from nuclr_cli.cli.options import DaskAddress, Seed, command
from nuclr_cli.cli.probe_kinds import (
    PairFeatures,
    Pairs,
    Target,
    TargetFile,
    kind_of,
    probe_pairs,
    probe_target,
)
from nuclr_cli.cli.probe_options import Balance, Classes, Jobs, Label, Parent, Penalty, Variant
from nuclr_cli.cli.probe_show import show

if TYPE_CHECKING:
    from nuclr_cli.workflows.probe_record import ProbeRecord


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    command(app, "probe")(probe)


def probe(
    console: Console,
    label: Label = None,
    target: Target = None,
    target_file: TargetFile = None,
    pairs: Pairs = None,
    pair_features: PairFeatures = None,
    split: Annotated[
        str,
        typer.Option(
            metavar="KIND|FILE",
            help="subject (zero-shot), session, unit, or a CSV with subject,session,population,unit_id,fold. "
            "Default: subject from 3 labelled subjects on, else unit.",
        ),
    ] = "auto",
    variant: Variant = "default",
    balance: Balance = "auto",
    c: Penalty = "1",
    parent: Parent = None,
    classes: Classes = None,
    label_fractions: Fractions = None,
    repeats: Repeats = None,
    run: Annotated[Path | None, typer.Option(help="Run folder or name. Default: the newest.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder that holds the runs.")] = Path("nuclr-runs"),
    embeddings: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Embeddings. Default: those of the run.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Sessions that the baselines read. Default: those of the run.")
    ] = None,
    baselines: Annotated[
        str,
        typer.Option(
            metavar="LEVEL",
            help="full: chance, majority, features (rate, ISI, autocorrelogram, burst, coupling), PCA of "
            "activity, 3D autocorrelogram, raw window average, untrained encoder. fast: chance, majority, "
            "features, raw window average. none: chance, majority; the result then says what it lacks.",
        ),
    ] = "full",
    test_subjects: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="Subjects to test on. Default: those held out of pretraining, else each in turn.",
        ),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(help="Folds. Default: 5 of units, or one subject (session) left out at a time."),
    ] = None,
    bootstrap: Annotated[int, typer.Option(help="Resamples of the intervals.")] = 1000,
    permutations: Annotated[
        int | None,
        typer.Option(
            help="Labellings of the permutation test. Default: 200 when the label is constant within each "
            "subject, else 0."
        ),
    ] = None,
    jobs: Jobs = None,
    dask: DaskAddress = None,
    seed: Seed = None,
) -> None:
    """Read a label, a number or connected pairs from the embeddings, beside baselines on the same units."""
    from nuclr_cli.evaluation.splits import DEFAULT_SEED

    kind = kind_of(
        label,
        target,
        target_file,
        pairs,
        pair_features,
        only_labels={
            "--variant": variant != "default",
            "--classes": classes is not None,
            "--balance": balance != "auto",
            "--C": c != "1",
            "--parent": parent is not None,
            "--label-fractions": label_fractions is not None,
            "--repeats": repeats is not None,
        },
        only_units={"--permutations": permutations is not None},
    )
    shared = {
        "run": run,
        "embeddings": embeddings,
        "runs": runs,
        "data": data,
        "split": split,
        "test_subjects": _names(test_subjects),
        "folds": folds,
        "baselines": baselines,
        "bootstrap": bootstrap,
        "seed": DEFAULT_SEED if seed is None else seed,
    }
    from nuclr_cli.workflows.fold_cluster import folds_fitted

    if kind == "target":
        about = {"target": target, "target_file": target_file, "permutations": permutations}
        with folds_fitted(jobs, dask):
            return probe_target(console, {**shared, **about})
    if kind == "pairs":
        with folds_fitted(jobs, dask):
            return probe_pairs(console, {**shared, "pairs": pairs, "features": pair_features or "both"})
    assert label is not None  # or `kind_of` would have refused
    from nuclr_cli.workflows.probe import probe_labels
    from nuclr_cli.workflows.probe_record import ProbeConfig, penalty

    config = ProbeConfig(
        label=label[0],
        run=run,
        embeddings=embeddings,
        runs=runs,
        data=data,
        split=split,
        variant=variant,
        test_subjects=_names(test_subjects),
        folds=folds,
        classes=_names(classes),
        baselines=baselines,
        bootstrap=bootstrap,
        permutations=permutations,
        seed=DEFAULT_SEED if seed is None else seed,
        balance=balance,
        c=penalty(c),
        parent=parent,
    )
    if label_fractions is not None:
        with folds_fitted(jobs, dask):
            return probe_fractions(console, config, label, label_fractions, repeats)
    if repeats is not None:
        raise typer.BadParameter("goes with --label-fractions only.", param_hint="--repeats")
    with folds_fitted(jobs, dask):
        records = probe_labels(config, label, console)
    console.result(records[0] if len(records) == 1 else {"probes": records}, lambda: _show(console, records))
    for record in records:
        console.done(f"written to {record.folder}")


def _show(console: Console, records: Sequence[ProbeRecord]) -> None:
    for record in records:
        show(console, record)


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())
