"""What `nuclr probe` prints about a label."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nuclr_cli.cli.probe_kinds import with_interval
from nuclr_cli.wording import counted

if TYPE_CHECKING:
    from nuclr_cli.cli.console import Console
    from nuclr_cli.workflows.probe_record import HierarchyRecord, ProbeRecord


def show(console: Console, record: ProbeRecord) -> None:
    """Print the tables of one probe."""
    from nuclr_cli.evaluation.bootstrap import FEW_SUBJECTS

    rows = [
        (
            method.title,
            with_interval(method.macro_f1),
            f"{method.balanced_accuracy.value:.3f}",
            "" if method.nuclr_minus is None else with_interval(method.nuclr_minus, sign=True),
        )
        # The other ways to read the same embedding stand below it, above the baselines.
        for method in (record.methods[0], *record.readouts, *record.methods[1:])
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
    if record.hierarchy is not None:
        _show_hierarchy(console, record.label, record.hierarchy)
    console.print(record.verdict)
    console.print(f"Split: {record.split_how}.")
    console.print(f"{record.knowledge.capitalize()}: {record.knowledge_why}")
    if record.c_grid:
        chosen = sorted({fold.c for fold in record.folds if fold.c is not None})
        console.print(
            f"C of the folds: {', '.join(f'{c:g}' for c in chosen)}, chosen within each one's training units "
            f"({record.c_inner}); C of the probe that is kept: {record.c_saved:g}."
        )
    few = ": too few for more than a rough guide" if record.n_resampled < FEW_SUBJECTS else ""
    console.print(f"Intervals: {record.bootstrap} resamples of {record.n_resampled} {record.resampled}{few}.")
    if record.permutation is not None:
        test = record.permutation
        kind = "all" if test.exact else f"{test.n} random"
        console.print(
            f"Permutation test ({test.permuted}, {kind} labellings): p = {test.p_value:.3g}, "
            f"the smallest possible being {test.smallest_p:.3g}."
        )


def _show_hierarchy(console: Console, label: str, found: HierarchyRecord) -> None:
    console.table(
        f"{found.parent} first, then {label}",
        ("probe", "macro F1 [95%]", f"{found.parent} right [95%]"),
        [
            (f"all of {label} at once", with_interval(found.flat), with_interval(found.flat_parent_accuracy)),
            (
                f"p({found.parent}) x p({label} | {found.parent})",
                with_interval(found.hierarchical),
                with_interval(found.hierarchical_parent_accuracy),
            ),
            ("difference", with_interval(found.hierarchical_minus_flat, sign=True), ""),
        ],
        right=(1, 2),
    )
    console.table(
        f"Macro F1 among the {label} of one {found.parent}",
        (found.parent, "classes", "at once", "parent first", "units"),
        [
            (
                one.name,
                str(len(one.children)),
                "" if one.flat is None else f"{one.flat:.3f}",
                "" if one.hierarchical is None else f"{one.hierarchical:.3f}",
                str(one.support),
            )
            for one in found.parents
        ],
        right=(1, 2, 3, 4),
    )
