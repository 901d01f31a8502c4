"""What a probe reads: the table of embeddings, the run behind it, the labels, the split."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.data.embeddings import EmbeddingTable, load_embeddings
from nuclr_cli.errors import InputError
from nuclr_cli.evaluation.split_files import file_split
from nuclr_cli.evaluation.splits import Split, UnitKeys, session_split, subject_split, unit_split
from nuclr_cli.wording import counted
from nuclr_cli.workflows.embedded_step import embed_again, embedded_step
from nuclr_cli.workflows.probe_provenance import Knowledge as Knowledge
from nuclr_cli.workflows.probe_provenance import pretraining_knowledge, refuse_mixture
from nuclr_cli.workflows.probe_report import file_sha256
from nuclr_cli.workflows.reporting import Reporter, SilentReporter
from nuclr_cli.workflows.run_data import embed_command
from nuclr_cli.workflows.runs import Run, find_run, list_runs

AUTO_SUBJECTS = 3
"""From so many labelled subjects on, the default split is by subject."""


@dataclass(frozen=True)
class ProbeTable:
    """The embeddings under test.

    Attributes:
        path: The file.
        sha256: Of its bytes.
        table: Its content.
        keys: Key of every row.
        run: The run that made it, None when that run is not to be found.
        notes, warnings: Of which weights it is, where the run has gone on since.
    """

    path: Path
    sha256: str
    table: EmbeddingTable
    keys: UnitKeys
    run: Run | None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def embedded(self) -> NDArray[np.bool_]:
        """(N,) False where the unit was never seen active, so that it has no embedding."""
        return self.table.seen


@dataclass(frozen=True)
class Labels:
    """One label of every row.

    Attributes:
        name: Column.
        values: (N,) text, empty = unlabelled or left out by the user.
        notes: What was left out.
    """

    name: str
    values: NDArray[np.str_]
    notes: tuple[str, ...] = ()


def read_table(
    run: Path | None, embeddings: Path | None, runs: Path, reporter: Reporter | None = None
) -> ProbeTable:
    """Find and read the embeddings: those of a run (the newest by default), or a file.

    The reporter is told where the run has gone on since they were made.

    Raises:
        InputError: No run, no embeddings, a file that the named run did not make, a unit that stands twice in
            it, or one that was joined from several.
    """
    reporter = reporter or SilentReporter()
    found = find_run(run, runs, reporter.warn) if run is not None or embeddings is None else None
    if embeddings is None:
        assert found is not None
        embeddings = found.embeddings
        if not embeddings.is_file():
            raise InputError(
                f"The run {found.folder} has no embeddings yet.",
                f"Make them with: nuclr embed --run {found.folder}",
            )
    table = load_embeddings(embeddings)
    made_by = table.metadata.get("run", "")
    if found is None:
        found = next((one for one in reversed(list_runs(runs)) if one.id == made_by), None)
    elif made_by and made_by != found.id:
        raise InputError(
            f"{embeddings} was made by the run {made_by}, not by {found.id}.",
            f"Make it again with: nuclr embed --run {found.folder}, or leave --run away",
        )
    keys = UnitKeys(table.subject, table.session, table.population, table.unit_id)
    refuse_mixture(embeddings, table.metadata, keys)
    if not made_by:
        reporter.warn(
            f"{embeddings} does not say which run made it. If its rows come from different runs, no probe of "
            "them means anything; files of nuclr embed keep that word when they are written with pyarrow"
        )
    notes, warnings = _of_which_step(embeddings, table, found)
    for text in notes:
        reporter.note(text)
    for text in warnings:
        reporter.warn(text)
    return ProbeTable(embeddings, file_sha256(embeddings), table, keys, found, notes, warnings)


def _of_which_step(
    path: Path, table: EmbeddingTable, run: Run | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """That the run has gone on since: a note where that is the user's choice, else a warning."""
    if run is None:
        return (), ()
    found = embedded_step(table.metadata, run.id, run.record.step, run.checkpoints)
    if found is None or not found.older:
        return (), ()
    said = f"{path} holds embeddings of step {found.step}{found.choice}"
    stands = f"the run {run.record.name} stands at step {found.stands}"
    if not found.outdated:
        return (f"{said}; {stands}.",), ()
    again = embed_again(run.folder, found)
    if path.resolve() != run.embeddings.resolve():
        again = embed_command(run, shlex.join([*found.options, "-o", str(path)]))
    return (), (f"{said}, but {stands}. For its newest weights: {again}, then nuclr probe.",)


def read_labels(source: ProbeTable, name: str, classes: Sequence[str]) -> Labels:
    """The label column, checked: it exists, and at least two classes have two embedded units each.

    Args:
        source: The table.
        name: Column wanted.
        classes: Classes to keep, () = all.

    Raises:
        InputError: Says which labels (classes) there are, with counts.
    """
    values = label_column(source, name)
    present, counts = np.unique(values[values != ""], return_counts=True)
    if not len(present):
        raise InputError(
            f"No unit in {source.path} has a {name}: the column is empty.",
            "Add labels with nuclr preprocess SOURCE --labels FILE.csv, then run nuclr embed again",
        )
    notes: tuple[str, ...] = ()
    if classes:
        unknown = sorted(set(classes) - set(present.tolist()))
        if unknown:
            raise InputError(
                f"No unit has {name} = {', '.join(unknown)}.", f"Classes: {_counts_text(values)}"
            )
        dropped = ~np.isin(values, list(classes)) & (values != "")
        if dropped.any():
            left = sorted(set(values[dropped].tolist()))
            of = ", ".join(left)
            take = counted(int(dropped.sum()), f"unit of {of} takes", f"units of {of} take")
            notes = (f"{take} no part (--classes).",)
        values = np.where(np.isin(values, list(classes)), values, "")
    embedded = values[source.embedded]
    kept, counts = np.unique(embedded[embedded != ""], return_counts=True)
    if len(kept) < 2:
        found = _counts_text(values)
        raise InputError(
            f"A probe needs at least 2 classes of {name} among units with an embedding, and there is "
            f"{len(kept)} (all units: {found}).",
            "Label more units, or choose another --label",
        )
    poor = [str(klass) for klass, count in zip(kept, counts, strict=True) if count < 2]
    poor += sorted(set(values.tolist()) - {""} - set(kept.tolist()))
    if poor:
        rest = [str(klass) for klass in kept if klass not in poor]
        raise InputError(
            f"{name} has classes with fewer than 2 units that have an embedding: {', '.join(poor)}.",
            f"Label more units, or leave them out: --classes {','.join(rest)}"
            if len(rest) >= 2
            else "Label more units",
        )
    return Labels(name, values, notes)


def label_column(source: ProbeTable, name: str, option: str = "--label") -> NDArray[np.str_]:
    """(N,) text of a label column.

    Args:
        source: The table.
        name: Column wanted.
        option: What the user named it with.

    Raises:
        InputError: Says which labels there are.
    """
    columns = source.table.labels
    if name not in columns:
        close = difflib.get_close_matches(name, columns, n=1, cutoff=0.4)
        known = ", ".join(f"{key} ({_counts_text(columns[key])})" for key in sorted(columns)) or "none"
        raise InputError(
            f"No label {name!r} in {source.path}. Labels: {known}.",
            f"Did you mean {option} {close[0]}?"
            if close
            else "Add labels with nuclr preprocess SOURCE --labels FILE.csv, then run nuclr embed again",
        )
    return columns[name]


def _counts_text(values: NDArray[np.str_]) -> str:
    names, counts = np.unique(values[values != ""], return_counts=True)
    if not len(names):
        return "no units"
    order = np.argsort(-counts, kind="stable")
    shown = [f"{names[i]} {counts[i]}" for i in order[:8].tolist()]
    return ", ".join(shown) + (f", and {len(names) - 8} more" if len(names) > 8 else "")


def choose_split(
    source: ProbeTable,
    labels: Labels,
    split: str,
    test_subjects: Sequence[str],
    n_folds: int | None,
    seed: int,
) -> tuple[Split, tuple[str, ...]]:
    """Build the split that the user asked for, or the default one.

    Returns:
        The split, and notes that say which choices were made.

    Raises:
        InputError: The data do not allow it, or options contradict one another.
    """
    keys, values = source.keys, labels.values
    notes: list[str] = []
    kind = split
    if split == "auto":
        n_subjects = len(set(keys.subject[values != ""].tolist()))
        if test_subjects or n_subjects >= AUTO_SUBJECTS:
            kind = "subject"
        else:
            kind = "unit"
            notes.append(
                f"Split by unit: only {n_subjects} subject(s) carry {labels.name} (a subject split is the "
                f"default from {AUTO_SUBJECTS} on). It says nothing about new animals."
            )
    if test_subjects and kind != "subject":
        raise InputError(f"--test-subjects does not go with --split {kind}.", "Use --split subject")
    by_group = kind in ("subject", "session")
    if n_folds is not None and not (by_group or kind == "unit"):
        raise InputError(f"--folds does not go with the split file {kind}.", "Its folds stand in the file")
    if n_folds is not None and test_subjects:
        raise InputError(
            "--folds does not go with --test-subjects, which make one fold.", "Leave one of the two away"
        )
    if kind == "unit":
        return unit_split(keys, values, n_folds, seed), tuple(notes)
    if kind == "session":
        return session_split(keys, values, n_folds), ()
    if kind != "subject":
        return file_split(Path(kind), keys, values), ()
    if test_subjects:
        return subject_split(keys, values, test_subjects, reason="--test-subjects"), ()
    held_out = source.run.record.held_out_subjects if source.run else ()
    if n_folds is not None:
        if held_out:
            notes.append(
                f"--folds {n_folds} tests all subjects, not only those held out of pretraining "
                f"({', '.join(held_out)}): leave --folds away to test on exactly those."
            )
        return subject_split(keys, values, n_folds=n_folds), tuple(notes)
    labelled = set(keys.subject[values != ""].tolist())
    usable = sorted(labelled & set(held_out))
    if usable and len(usable) < len(labelled):
        absent = sorted(set(held_out) - labelled)
        if absent:
            notes.append(f"Held-out subject(s) without {labels.name}: {', '.join(absent)}.")
        return subject_split(keys, values, usable, reason="held out of pretraining"), tuple(notes)
    if held_out and not usable:
        notes.append(
            f"None of the subjects held out of pretraining ({', '.join(held_out)}) carries {labels.name}: "
            "one subject is left out at a time instead."
        )
    return subject_split(keys, values), tuple(notes)


def knowledge(source: ProbeTable, split: Split) -> tuple[Knowledge, str]:
    """Whether the test subjects were new, see `pretraining_knowledge`.

    Returns:
        ``inductive`` only when neither pretraining nor the probe of any fold saw a subject that it tests;
        and the reason in one sentence.
    """
    keys = source.keys
    here = zip(keys.subject.tolist(), keys.session.tolist(), keys.population.tolist(), strict=True)
    sessions = sorted({one for one in here if one[0] in split.test_subjects})
    status, why = pretraining_knowledge(source.table.metadata, source.run, split.test_subjects, sessions)
    if status == "inductive" and not split.subjects_disjoint:
        return (
            "transductive",
            "Pretraining never saw the test subjects, but the probe trained on other units of them.",
        )
    return status, why


def assumed_subjects(source: ProbeTable) -> tuple[str, ...]:
    """Subjects among the rows that are only a folder's name, as the run's record has it."""
    if source.run is None:
        return ()
    present = set(source.table.subject.tolist())
    return tuple(sorted({s.subject for s in source.run.record.sessions if s.subject_assumed} & present))
