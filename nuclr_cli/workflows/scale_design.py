"""What stays the same at every point of a sweep: who is tested, how, and where the loss is computed."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.data.batch import covered_events
from nuclr_cli.data.embeddings import RESERVED_COLUMNS, EmbeddingTable
from nuclr_cli.data.store import Session
from nuclr_cli.data.streams import Purpose, random_order, stream
from nuclr_cli.data.tokens import TokenSpec
from nuclr_cli.errors import InputError
from nuclr_cli.evaluation.probes import describe_folds, encode, variant_named
from nuclr_cli.evaluation.splits import LEFT_OUT, UnitKeys, subject_split, unit_split
from nuclr_cli.wording import counted
from nuclr_cli.workflows.pretrain_sessions import check_subjects
from nuclr_cli.workflows.probe_ask import check_sides
from nuclr_cli.workflows.probe_inputs import AUTO_SUBJECTS, Labels, ProbeTable, read_labels
from nuclr_cli.workflows.scale_config import Axis, ScaleConfig
from nuclr_cli.workflows.scale_record import SweepSession

AUTO_AXIS_SUBJECTS = 4
"""From so many subjects on, the default axis is subjects."""

TEST_SHARE = 0.25
"""Share of the labelled subjects that are tested, at least one."""

HELD_OUT_TIME = 0.2
"""Where no subject is held out: share of each session, at its end, that is."""

_MOST_SETS = 500


@dataclass(frozen=True)
class Design:
    """What no point changes.

    Attributes:
        axis: What grows.
        held_out: Subjects that no point trains on.
        split, probe_test_subjects: Of the probe.
        time_share: Share of each session that points may train on.
        loss_from: Where the held-out loss is computed, for people; empty = nowhere.
        choices: How this came about, one sentence each.
        warnings: What the reader should know.
    """

    axis: Axis
    held_out: tuple[str, ...]
    split: Literal["subject", "unit"]
    probe_test_subjects: tuple[str, ...]
    time_share: float
    loss_from: str
    choices: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def label_of(session: Session, label: str) -> str:
    """The units column behind a label: the table of embeddings renames one called like its own columns."""
    base = label.removesuffix("_label")
    return base if label not in session.label_names and base in RESERVED_COLUMNS else label


def planned_table(data: Path, sessions: Sequence[Session], label: str, tokens: TokenSpec) -> ProbeTable:
    """The table that every point will be probed on, before there are embeddings: one number a unit.

    It is NaN where no window has the unit, as far as sessions have the label; the others are not read.
    """

    def column(values: list[list[str]]) -> NDArray[np.str_]:
        return np.array([value for part in values for value in part], dtype=np.str_)

    names = sorted({name for session in sessions for name in session.label_names})
    labels = {f"{name}_label" if name in RESERVED_COLUMNS else name: name for name in names}
    events = np.concatenate([_events(session, label, tokens) for session in sessions])
    table = EmbeddingTable(
        subject=column([[s.key.subject] * s.n_units for s in sessions]),
        session=column([[s.key.session] * s.n_units for s in sessions]),
        population=column([[s.key.population] * s.n_units for s in sessions]),
        unit_id=column([s.unit_ids.tolist() for s in sessions]),
        modality=column([[s.modality] * s.n_units for s in sessions]),
        n_windows=(events > 0).astype(np.int64),
        n_events=events,
        embedding=np.where(events > 0, 0.0, np.nan).astype(np.float32)[:, None],
        labels={to: column([s.label(name).tolist() for s in sessions]) for to, name in labels.items()},
    )
    keys = UnitKeys(table.subject, table.session, table.population, table.unit_id)
    return ProbeTable(data, "", table, keys, None)


def _events(session: Session, label: str, tokens: TokenSpec) -> NDArray[np.int64]:
    """(N,) events of each unit in the windows of an embedding; 1 where nobody asks."""
    if not (session.label(label_of(session, label)) != "").any():
        return np.ones(session.n_units, dtype=np.int64)
    return covered_events(session, tokens)


def design(config: ScaleConfig, sessions: Sequence[Session], tokens: TokenSpec) -> Design:
    """Choose what stays the same.

    Raises:
        InputError: No such label, too few labels for the probe's split, unknown test subjects, or too few
            subjects for the axis.
    """
    variant_named(config.variant)  # a wrong one would be found after hours of training
    table = planned_table(config.data, sessions, config.label, tokens)
    labels = read_labels(table, config.label, config.classes)
    subjects = sorted({session.key.subject for session in sessions})
    labelled = sorted(set(table.keys.subject[labels.values != ""].tolist()))
    choices: list[str] = []
    warnings: list[str] = []
    axis: Axis
    if config.axis == "auto":
        axis = "subjects" if len(subjects) >= AUTO_AXIS_SUBJECTS else "minutes"
        choices.append(
            f"Axis {axis}, since there {'are' if len(subjects) > 1 else 'is'} "
            f"{counted(len(subjects), 'subject')} (subjects is the default from {AUTO_AXIS_SUBJECTS} on; "
            "--axis chooses)."
        )
    else:
        axis = config.axis  # type: ignore[assignment]
    held_out, how = _held_out(config, axis, table, labels, subjects, labelled)
    if how:
        choices.append(how)
    tested = tuple(subject for subject in held_out if subject in labelled)
    split: Literal["subject", "unit"] = "subject" if tested and len(tested) < len(labelled) else "unit"
    probe_test = tested if split == "subject" else ()
    if split == "subject":
        chosen = subject_split(table.keys, labels.values, probe_test)
        choices.append(f"The probe {chosen.how}, the same at every point.")
    else:
        chosen = unit_split(table.keys, labels.values, seed=config.seed)
        choices.append(f"The probe's split is the same at every point: {chosen.how}.")
    classes, codes = encode(labels.values)
    try:
        fold_notes = describe_folds(chosen, codes, classes, (chosen.fold != LEFT_OUT) & table.embedded)
    except InputError as error:  # what else it proposes are options of a single probe
        raise InputError(error.what, "Test other subjects (--test-subjects), or label more of them") from None
    warnings += check_sides(chosen, codes, classes, table.embedded, config.label, bool(config.classes))
    choices += [*labels.notes, *chosen.notes, *fold_notes]
    time_share, loss_from = 1.0, ""
    if held_out:
        loss_from = f"all sessions of {', '.join(held_out)}, which no point trains on"
    elif _tail_is_long_enough(sessions, tokens):
        time_share = 1.0 - HELD_OUT_TIME
        loss_from = f"the last {HELD_OUT_TIME:.0%} of each session, which no point trains on"
    if loss_from:
        choices.append(f"The held-out loss is computed on {loss_from}; windows and views are the same.")
    else:
        warnings.append(
            "There is no held-out loss: no subject is held out, and the last "
            f"{HELD_OUT_TIME:.0%} of no session is as long as two windows."
        )
    if split == "unit":
        warnings.append(
            "The probe tests on other units of animals that it was trained on: this says nothing about new "
            "animals."
        )
    return Design(axis, held_out, split, probe_test, time_share, loss_from, tuple(choices), tuple(warnings))


def _held_out(
    config: ScaleConfig,
    axis: Axis,
    table: ProbeTable,
    labels: Labels,
    subjects: Sequence[str],
    labelled: Sequence[str],
) -> tuple[tuple[str, ...], str]:
    """Subjects that no point trains on, and the sentence that says why these."""
    if config.test_subjects:
        check_subjects("--test-subjects", config.test_subjects, subjects)
        if not set(config.test_subjects) & set(labelled):
            raise InputError(
                f"None of the --test-subjects ({', '.join(config.test_subjects)}) carries {config.label}.",
                f"Subjects with {config.label}: {', '.join(labelled)}",
            )
        return tuple(sorted(set(config.test_subjects))), ""
    if len(labelled) >= AUTO_SUBJECTS:
        test = _choose_tested(table, labels, labelled, config.seed)
        return test, (
            f"No point trains on {', '.join(test)}, drawn once to be tested (--test-subjects chooses)."
        )
    if axis == "subjects":  # whoever is probed must stay out of what grows
        return tuple(labelled), (
            f"No point trains on {', '.join(labelled)}: nobody else carries {config.label}, and whoever is "
            "tested stays out of what grows."
        )
    return (), ""


def _choose_tested(table: ProbeTable, labels: Labels, labelled: Sequence[str], seed: int) -> tuple[str, ...]:
    """A random set of subjects, among those that leave fewest classes on one side only."""
    n_test = min(max(1, round(TEST_SHARE * len(labelled))), len(labelled) - 1)
    classes = {
        subject: set(labels.values[(table.keys.subject == subject) & (labels.values != "")].tolist())
        for subject in labelled
    }

    def one_sided(test: tuple[str, ...]) -> int:
        tested = set().union(*(classes[s] for s in test))
        trained = set().union(*(classes[s] for s in labelled if s not in test))
        return len(tested ^ trained)

    return min(_sets(labelled, n_test, seed), key=one_sided)


def _sets(names: Sequence[str], n: int, seed: int) -> Iterator[tuple[str, ...]]:
    """Subsets of n names in random order: all of them, or `_MOST_SETS` draws."""
    if math.comb(len(names), n) <= _MOST_SETS:
        every = list(itertools.combinations(names, n))
        for place in random_order(len(every), stream(seed, 0, 1, Purpose.SUBJECTS)).tolist():
            yield every[place]
        return
    for draw in range(_MOST_SETS):
        order = random_order(len(names), stream(seed, draw, 1, Purpose.SUBJECTS))
        yield tuple(sorted(names[place] for place in order[:n].tolist()))


def _tail_is_long_enough(sessions: Sequence[Session], tokens: TokenSpec) -> bool:
    from nuclr_cli.data.part import after_seconds
    from nuclr_cli.data.windows import long_enough

    for session in sessions:
        tail = after_seconds(session.intervals, (1.0 - HELD_OUT_TIME) * session.duration_s)
        if len(long_enough(tail, 2 * tokens.of(session.modality).window_s)):
            return True
    return False


def sweep_sessions(sessions: Sequence[Session], label: str) -> tuple[SweepSession, ...]:
    """What has to stay the same for a sweep to go on: activity, and the label that is probed."""
    found = []
    for session in sessions:
        values = session.label(label_of(session, label))
        rows = zip(session.unit_ids.tolist(), values.tolist(), strict=True)
        content = "\0".join(f"{unit}\1{value}" for unit, value in rows)
        activity = session.activity_digest or "size {} time {}".format(*session.stamp)
        digest = hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest()
        key = session.key
        found.append(
            SweepSession(key.subject, key.session, key.population, session.n_units, activity, digest[:16])
        )
    return tuple(found)
