"""What `nuclr probe` is asked: a label, a number, or pairs. Which options go together, and who answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nuclr_cli.cli.console import Console
from nuclr_cli.wording import counted

if TYPE_CHECKING:
    from nuclr_cli.evaluation.records import Score
    from nuclr_cli.workflows.probe_pairs_record import PairsRecord
    from nuclr_cli.workflows.probe_regression_record import RegressionRecord

PANEL = "Numbers and pairs"

Target = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=PANEL,
        help="Column of numbers, e.g. depth_um: ridge regression instead of a label.",
    ),
]
TargetFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        rich_help_panel=PANEL,
        help="CSV with subject,session,population,unit_id and the column of --target.",
    ),
]
Pairs = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        rich_help_panel=PANEL,
        help="CSV with pre,post,label (0 or 1), and subject,session,population where ids repeat: which unit "
        "is connected to which.",
    ),
]
PairFeatures = Annotated[
    str | None,
    typer.Option(
        metavar="KIND",
        rich_help_panel=PANEL,
        help="directed (a, b, a-b, a*b), symmetric (|a-b|, a*b), or both; directed is then the main one. "
        "Default: both.",
    ),
]


def kind_of(
    label: object,
    target: str | None,
    target_file: Path | None,
    pairs: Path | None,
    pair_features: str | None,
    only_labels: Mapping[str, bool],
    only_units: Mapping[str, bool],
) -> str:
    """``label``, ``target`` or ``pairs``.

    Args:
        label, target, target_file, pairs, pair_features: As typed; None = not given.
        only_labels: Option -> whether it was given, of options that need a label.
        only_units: The same of options that do not go with pairs.

    Raises:
        BadParameter: None or several of the three, or an option that does not go with the one (exit 2).
    """
    asked = {"--label": bool(label), "--target": target is not None, "--pairs": pairs is not None}
    given = [option for option, is_given in asked.items() if is_given]
    if len(given) != 1:
        found = " and ".join(given) if given else "none of them"
        raise typer.BadParameter(
            f"give exactly one of --label NAME, --target NAME and --pairs FILE.csv; there is {found}"
        )
    kind = given[0]
    wrong = {
        "--target-file": target_file is not None and kind != "--target",
        "--pair-features": pair_features is not None and kind != "--pairs",
        **{option: is_given and kind != "--label" for option, is_given in only_labels.items()},
        **{option: is_given and kind == "--pairs" for option, is_given in only_units.items()},
    }
    astray = [option for option, is_astray in wrong.items() if is_astray]
    if astray:
        raise typer.BadParameter(f"{' and '.join(astray)} do not go with {kind}; leave them away")
    return kind.removeprefix("--")


def probe_target(console: Console, options: Mapping[str, Any]) -> None:
    """Read a number: call, print. `options` are those of `RegressionConfig`."""
    from nuclr_cli.workflows.probe_regression import probe_regression
    from nuclr_cli.workflows.probe_regression_record import RegressionConfig

    record = probe_regression(RegressionConfig(**options), console)
    console.result(record, lambda: show_regression(console, record))
    console.done(f"written to {record.folder}")


def probe_pairs(console: Console, options: Mapping[str, Any]) -> None:
    """Tell connected pairs from others: call, print. `options` are those of `PairsConfig`."""
    from nuclr_cli.workflows.probe_pairs import probe_pairs as work
    from nuclr_cli.workflows.probe_pairs_record import PairsConfig

    record = work(PairsConfig(**options), console)
    console.result(record, lambda: show_pairs(console, record))
    console.done(f"written to {record.folder}")


def show_regression(console: Console, record: RegressionRecord) -> None:
    """Print the tables of one regression probe."""
    rows = [
        (
            method.title,
            with_interval(method.r2),
            "" if method.spearman is None else with_interval(method.spearman),
            f"{method.mae.value:.4g}",
            "" if method.nuclr_minus is None else with_interval(method.nuclr_minus, sign=True),
        )
        for method in record.methods
    ]
    rows += [(missing.title, "missing", "", "", "") for missing in record.missing_baselines]
    console.table(
        f"{record.target}: {counted(record.n_tested, 'unit')}, "
        f"{record.target_range[0]:.4g} to {record.target_range[1]:.4g}",
        ("method", "R2 [95%]", "Spearman [95%]", "mean abs. error", "R2: NuCLR minus it [95%]"),
        rows,
        right=(1, 2, 3, 4),
    )
    console.table(
        "NuCLR, fold by fold",
        ("fold", "train", "test", "alpha", "R2", "Spearman"),
        [
            (
                fold.name,
                str(fold.n_train),
                str(fold.n_test),
                "" if fold.alpha is None else f"{fold.alpha:.3g}",
                "" if fold.r2 is None else f"{fold.r2:.3f}",
                "" if fold.spearman is None else f"{fold.spearman:.3f}",
            )
            for fold in record.folds
        ],
        right=(1, 2, 3, 4, 5),
    )
    console.print(record.verdict)
    _show_split(console, record)
    if record.permutation is not None:
        test = record.permutation
        kind = "all" if test.exact else f"{test.n} random"
        console.print(
            f"Permutation test of R2 ({test.permuted}, {kind} orders): p = {test.p_value:.3g}, "
            f"the smallest possible being {test.smallest_p:.3g}."
        )


def show_pairs(console: Console, record: PairsRecord) -> None:
    """Print the tables of one probe of pairs."""
    tested = f"{counted(record.n_tested, 'pair')}, {record.n_tested_connected} connected"
    for result in record.results:
        rows = [
            (
                method.title,
                with_interval(method.average_precision),
                with_interval(method.roc_auc),
                "" if method.nuclr_minus is None else with_interval(method.nuclr_minus, sign=True),
            )
            for method in result.methods
        ]
        rows += [(missing.title, "missing", "", "") for missing in record.missing_baselines]
        main = " (the main result)" if result.features == record.main and len(record.results) > 1 else ""
        console.table(
            f"{record.pairs.stem}, {result.features} features{main}: {tested}",
            ("method", "average precision [95%]", "ROC AUC [95%]", "AP: NuCLR minus it [95%]"),
            rows,
            right=(1, 2, 3),
        )
    console.print(record.verdict)
    _show_split(console, record)


def _show_split(console: Console, record: RegressionRecord | PairsRecord) -> None:
    from nuclr_cli.evaluation.bootstrap import FEW_SUBJECTS

    console.print(f"Split: {record.split_how}.")
    console.print(f"{record.knowledge.capitalize()}: {record.knowledge_why}")
    few = ": too few for more than a rough guide" if record.n_resampled < FEW_SUBJECTS else ""
    console.print(f"Intervals: {record.bootstrap} resamples of {record.n_resampled} {record.resampled}{few}.")


def with_interval(score: Score, *, sign: bool = False) -> str:
    """``0.712 [0.650, 0.771]``."""
    form = "+.3f" if sign else ".3f"
    return f"{score.value:{form}} [{score.low:{form}}, {score.high:{form}}]"
