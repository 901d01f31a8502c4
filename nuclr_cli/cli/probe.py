"""`nuclr probe`: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nuclr_cli.cli.console import Console
from nuclr_cli.cli.options import Seed, command
from nuclr_cli.wording import counted

if TYPE_CHECKING:
    from nuclr_cli.evaluation.records import Score
    from nuclr_cli.workflows.probe_record import ProbeRecord


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    command(app, "probe")(probe)


def probe(
    console: Console,
    label: Annotated[str, typer.Option(metavar="NAME", help="Label column, e.g. cell_type.")],
    split: Annotated[
        str,
        typer.Option(
            metavar="KIND|FILE",
            help="subject (zero-shot), session, unit, or a CSV with subject,session,population,unit_id,fold. "
            "Default: subject from 3 labelled subjects on, else unit.",
        ),
    ] = "auto",
    variant: Annotated[
        str, typer.Option(help="default (class weights), or paper (oversampling, as the paper's numbers).")
    ] = "default",
    run: Annotated[Path | None, typer.Option(help="Run folder or name. Default: the newest.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder that holds the runs.")] = Path("nuclr-runs"),
    embeddings: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Embeddings. Default: those of the run.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Sessions that the baselines read. Default: those of the run.")
    ] = None,
    test_subjects: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="Subjects to test on. Default: those held out of pretraining, else each in turn.",
        ),
    ] = None,
    classes: Annotated[
        str | None, typer.Option(metavar="A,B", help="Classes that take part. Default: all.")
    ] = None,
    folds: Annotated[int | None, typer.Option(help="Folds of the unit split. Default: 5.")] = None,
    bootstrap: Annotated[int, typer.Option(help="Resamples of the intervals.")] = 1000,
    permutations: Annotated[
        int | None,
        typer.Option(
            help="Labellings of the permutation test. Default: 200 when the label is constant within each "
            "subject, else 0."
        ),
    ] = None,
    seed: Seed = None,
) -> None:
    """Read a label from the embeddings by logistic regression, beside baselines on the same units."""
    from nuclr_cli.evaluation.splits import DEFAULT_SEED
    from nuclr_cli.workflows.probe import probe as work
    from nuclr_cli.workflows.probe_record import ProbeConfig

    record = work(
        ProbeConfig(
            label=label,
            run=run,
            embeddings=embeddings,
            runs=runs,
            data=data,
            split=split,
            variant=variant,
            test_subjects=_names(test_subjects),
            folds=folds,
            classes=_names(classes),
            bootstrap=bootstrap,
            permutations=permutations,
            seed=DEFAULT_SEED if seed is None else seed,
        ),
        console,
    )
    console.result(record, lambda: show(console, record))
    console.done(f"written to {record.folder}")


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def show(console: Console, record: ProbeRecord) -> None:
    """Print the tables of one probe."""
    from nuclr_cli.evaluation.bootstrap import FEW_SUBJECTS

    rows = [
        (
            method.title,
            _with_interval(method.macro_f1),
            f"{method.balanced_accuracy.value:.3f}",
            "" if method.nuclr_minus is None else _with_interval(method.nuclr_minus, sign=True),
        )
        for method in record.methods
    ]
    rows += [(missing.title, "missing", "", "") for missing in record.missing_baselines]
    console.table(
        f"{record.label}: {counted(record.n_tested, 'unit')}, {len(record.classes)} classes",
        ("method", "macro F1 [95%]", "balanced acc.", "NuCLR minus it [95%]"),
        rows,
        right=(1, 2, 3),
    )
    console.table(
        "NuCLR, class by class",
        ("class", "precision", "recall", "F1", "units"),
        [
            (one.name, f"{one.precision:.3f}", f"{one.recall:.3f}", f"{one.f1:.3f}", str(one.support))
            for one in record.per_class
        ],
        right=(1, 2, 3, 4),
    )
    console.print(record.verdict)
    console.print(f"Split: {record.split_how}.")
    console.print(f"{record.knowledge.capitalize()}: {record.knowledge_why}")
    few = ": too few for more than a rough guide" if record.n_resampled < FEW_SUBJECTS else ""
    console.print(f"Intervals: {record.bootstrap} resamples of {record.n_resampled} {record.resampled}{few}.")
    if record.permutation is not None:
        test = record.permutation
        kind = "all" if test.exact else f"{test.n} random"
        console.print(
            f"Permutation test ({test.permuted}, {kind} labellings): p = {test.p_value:.3g}, "
            f"the smallest possible being {test.smallest_p:.3g}."
        )


def _with_interval(score: Score, *, sign: bool = False) -> str:
    form = "+.3f" if sign else ".3f"
    return f"{score.value:{form}} [{score.low:{form}}, {score.high:{form}}]"
