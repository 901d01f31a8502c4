"""Ways in which a result can be better than it should: what a probe may recognise instead of the label."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.evaluation.bootstrap import label_constant
from nuclr_cli.evaluation.records import Score
from nuclr_cli.evaluation.shortcuts import WORTH_SAYING, group_f1
from nuclr_cli.evaluation.splits import Split
from nuclr_cli.wording import counted
from nuclr_cli.workflows.probe_inputs import ProbeTable
from nuclr_cli.workflows.probe_provenance import spelling
from nuclr_cli.workflows.probe_question import Question


def leak_warnings(question: Question, chance: Score) -> tuple[str, ...]:
    """All warnings of this module, for the rows that the probe uses.

    Args:
        question: The question.
        chance: Macro F1 of guessing on this split.
    """
    told = shortcut(question, chance)
    return (*([told] if told else []), *split_leaks(question.source, question.split, question.used))


def split_leaks(source: ProbeTable, split: Split, used: NDArray[np.int64]) -> tuple[str, ...]:
    """The warnings that do not depend on what is read from the embeddings: a class, a number or pairs.

    Args:
        source: The table of embeddings.
        split: Who trains and who is tested.
        used: Rows that train or are tested.
    """
    found = (
        same_animal_twice(source, split, used),
        twins(source, split, used),
        alike_subjects(source.keys.subject[used].tolist()),
        chosen_by_labels(source, split),
    )
    return tuple(text for text in found if text)


def chosen_by_labels(source: ProbeTable, split: Split) -> str:
    """The checkpoint was chosen by labels of subjects that are tested (``nuclr embed --select val-f1``)."""
    try:
        selection = json.loads(source.table.metadata.get("selection", "{}"))
        rule, subjects = selection.get("rule"), set(selection.get("subjects", ()))
    except (ValueError, AttributeError, TypeError):
        return ""  # not a table of `nuclr embed`
    met = sorted(subjects & set(split.test_subjects))
    if rule != "val-f1" or not met:
        return ""
    return (
        f"The checkpoint was chosen by labels ({selection.get('label')}) of {', '.join(met)}, which this "
        "split tests: the score is not that of new animals. Hold subjects out of pretraining, or choose by "
        "nuclr embed --select retrieval"
    )


def shortcut(question: Question, chance: Score) -> str:
    """What the probe could recognise instead of the label, in one sentence; empty when there is nothing."""
    keys, used, name, split = question.source.keys, question.used, question.labels.name, question.split
    shared = {
        "subject": (keys.subject, split.grouped_by != "subject"),
        "session": (keys.recording, split.grouped_by == "unit"),
    }
    for kind, (group, both_sides) in shared.items():
        if not both_sides or len(set(group[used].tolist())) < 2:
            continue
        if label_constant(group[used], question.codes[used]):
            return (
                f"Every {kind} has one class of {name} only, and this split trains and tests on the same "
                f"{kind}s: recognising the {kind} is enough to score well. Ask with --split {kind}"
            )
        f1 = group_f1(question.codes, len(question.classes), group, split, question.usable)
        if f1 > max(chance.high, chance.value + WORTH_SAYING):
            return (
                f"Knowing of a unit only its {kind} scores macro F1 {f1:.3f} on this split (chance "
                f"{chance.value:.3f}): {name} is shared unevenly among {kind}s, and recognising the "
                f"{kind} may be part of the result. Ask with --split {kind}"
            )
    return ""


def same_animal_twice(source: ProbeTable, split: Split, used: NDArray[np.int64]) -> str:
    """A session split whose subjects have several sessions: the same tissue, perhaps the same neuron."""
    keys = source.keys
    if split.grouped_by != "session" or split.subjects_disjoint:
        return ""
    sessions: dict[str, set[str]] = defaultdict(set)
    for subject, session in zip(keys.subject[used].tolist(), keys.session[used].tolist(), strict=True):
        sessions[subject].add(session)
    several = sorted(subject for subject, names in sessions.items() if len(names) > 1)
    if not several:
        return ""
    names = f"{', '.join(several[:5])}{', ...' if len(several) > 5 else ''}"
    return (
        f"Subject(s) {names} have several sessions, which may stand on both sides of this split: the same "
        "tissue, and with chronic implants or repeated imaging the same neuron, trains and tests. For new "
        "animals: --split subject"
    )


def twins(source: ProbeTable, split: Split, used: NDArray[np.int64]) -> str:
    """Tested units whose embedding a training unit has too, bit for bit."""
    table, keys = source.table, source.keys
    rows = np.ascontiguousarray(table.embedding[used])
    _, first, alike, counts = np.unique(
        rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).reshape(-1),
        return_index=True,
        return_inverse=True,
        return_counts=True,
    )
    if len(first) == len(used):
        return ""
    vector = np.full(len(keys), -1, dtype=np.int64)
    vector[used] = np.where(counts[alike] > 1, alike, -1)
    tested: list[int] = []
    for fold in split.folds:
        trained = vector[fold.train]
        tested += fold.test[(vector[fold.test] >= 0) & np.isin(vector[fold.test], trained)].tolist()
    if not tested:
        return ""
    one = tested[0]
    other = next(row for row in used.tolist() if vector[row] == vector[one] and row != one)
    names = ["/".join(str(column[row]) for column in keys.columns()) for row in (one, other)]
    return (
        f"{counted(len(tested), 'tested unit has', 'tested units have')} exactly the embedding of a training "
        f"unit ({names[0]} that of {names[1]}): one recording under two names, or one neuron sorted twice?"
    )


def alike_subjects(names: Iterable[str]) -> str:
    """Subjects that may be one animal, spelled in two ways."""
    spelled: dict[str, set[str]] = defaultdict(set)
    for name in names:
        spelled[spelling(name)].add(name)
    alike = [" and ".join(sorted(group)) for group in spelled.values() if len(group) > 1]
    if not alike:
        return ""
    return (
        f"Subjects that differ in spelling only: {'; '.join(sorted(alike))}. If they are one animal, the "
        "split is not by animal: preprocess again with one --subject"
    )
