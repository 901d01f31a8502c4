"""From what the user typed to questions that can be answered: all is checked before anything is done."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.errors import InputError
from nuclr_cli.evaluation.hierarchy import Tree
from nuclr_cli.evaluation.probes import describe_folds, encode, one_sided
from nuclr_cli.evaluation.splits import Split
from nuclr_cli.workflows.probe_inputs import ProbeTable, choose_split, label_column, read_labels
from nuclr_cli.workflows.probe_question import Question
from nuclr_cli.workflows.probe_record import ProbeConfig


@dataclass(frozen=True)
class Asked:
    """A question that can be answered.

    Attributes:
        config: What the user asked for, with this question's label.
        question: Rows, classes, split.
        notes: Choices that were made, and what the split cannot tell.
        warnings: What the user should look at.
    """

    config: ProbeConfig
    question: Question
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def label_names(labels: Sequence[str], source: ProbeTable) -> tuple[str, ...]:
    """Names of the labels asked for, each once: ``A,B`` is two, unless a column is called so."""
    names: list[str] = []
    for text in labels:
        names += [text] if text in source.table.labels else [name.strip() for name in text.split(",")]
    return tuple(dict.fromkeys(name for name in names if name)) or tuple(labels)


def ask_all(source: ProbeTable, config: ProbeConfig, labels: Sequence[str]) -> tuple[Asked, ...]:
    """Check every label; nothing has been computed or written when one of them is refused.

    Raises:
        InputError: As `ask`, naming the label when there are several; or options that fit one label only.
    """
    if len(labels) == 1:
        return (ask(source, dataclasses.replace(config, label=labels[0])),)
    for option, given in (("--classes", config.classes), ("--parent", config.parent)):
        if given:
            raise InputError(
                f"{option} speaks of one label, and {len(labels)} were asked for: {', '.join(labels)}.",
                "Ask for that label in a call of its own",
            )
    asked = []
    for name in labels:
        try:
            asked.append(ask(source, dataclasses.replace(config, label=name)))
        except InputError as error:
            raise InputError(f"--label {name}: {error.what}", error.fix) from None
    return tuple(asked)


def ask(source: ProbeTable, config: ProbeConfig) -> Asked:
    """Read the labels, choose the split, and check that it can answer.

    Raises:
        InputError: No such label, too few labels for the split, classes that only train or are only tested,
            or a class with two parents.
    """
    labels = read_labels(source, config.label, config.classes)
    split, choices = choose_split(
        source, labels, config.split, config.test_subjects, config.folds, config.seed
    )
    classes, codes = encode(labels.values)
    tree = None if config.parent is None else read_tree(source, config.label, config.parent, labels.values)
    question = Question(source, labels, classes, codes, split, config.recipe, tree)
    fold_notes = describe_folds(split, codes, classes, question.usable)
    warnings = check_sides(split, codes, classes, question.usable, config.label, bool(config.classes))
    notes = (*labels.notes, *choices, *split.remarks, *fold_notes)
    return Asked(config, question, notes, (*split.warnings, *warnings))


def check_sides(
    split: Split,
    codes: NDArray[np.int64],
    classes: tuple[str, ...],
    usable: NDArray[np.bool_],
    label: str,
    named: bool,
) -> tuple[str, ...]:
    """Refuse classes that are on one side of the split only, unless the user named them in ``--classes``.

    Returns:
        What is on one side only, as a warning, when they were named.

    Raises:
        InputError: They were not named.
    """
    untested, untrained = one_sided(split, codes, classes, usable)
    found = []
    if untrained:
        found.append(
            f"{', '.join(untrained)}: tested but never trained, so all units of it are errors, whatever is "
            "predicted"
        )
    if untested:
        found.append(
            f"{', '.join(untested)}: trained but never tested, so it can only be predicted wrongly, and "
            "macro F1 counts it as 0 when it is"
        )
    if not found:
        return ()
    said = f"This {split.kind} split has classes of {label} on one side only. {'. '.join(found)}."
    if named:
        return (said,)
    kept = [klass for klass in classes if klass not in (*untested, *untrained)]
    if len(kept) < 2:
        fix = "Test on other subjects (--test-subjects), or choose --split unit"
    else:
        fix = (
            f"Leave them out: --classes {','.join(kept)}; or keep them, knowing that: --classes "
            f"{','.join(classes)}"
        )
    raise InputError(said, fix)


def read_tree(source: ProbeTable, child: str, parent: str, values: NDArray[np.str_]) -> Tree:
    """Which parent each class has, from the units that carry both labels.

    Args:
        source: The table of embeddings.
        child: Label that is probed.
        parent: Label of the parents.
        values: (N,) the child label, empty = unlabelled or left out.

    Raises:
        InputError: No such label; a class with two parents, or with none; or one parent for all.
    """
    parents = label_column(source, parent, "--parent")
    classes, codes = encode(values)
    both = (values != "") & (parents != "")
    found = {klass: sorted(set(parents[both & (codes == i)].tolist())) for i, klass in enumerate(classes)}
    torn = [f"{klass} ({' and '.join(names)})" for klass, names in found.items() if len(names) > 1]
    if torn:
        raise InputError(
            f"Each {child} must belong to one {parent}, but some have several: {'; '.join(torn[:5])}"
            f"{f'; and {len(torn) - 5} more' if len(torn) > 5 else ''}.",
            "Correct the labels (nuclr preprocess SOURCE --labels FILE.csv), or name a coarser --parent than "
            f"{parent}",
        )
    orphans = [klass for klass, names in found.items() if not names]
    if orphans:
        rest = [klass for klass in classes if klass not in orphans]
        raise InputError(
            f"No unit of {child} = {', '.join(orphans)} has a {parent}.",
            f"Label them, or leave them out: --classes {','.join(rest)}"
            if len(rest) >= 2
            else "Label them, or name another --parent",
        )
    names = tuple(sorted({names[0] for names in found.values()}))
    if len(names) == 1:
        raise InputError(
            f"All classes of {child} belong to {parent} = {names[0]}: there is nothing to ask first.",
            "Leave --parent away",
        )
    return Tree(names, np.array([names.index(found[klass][0]) for klass in classes], dtype=np.int64))
