"""Who trains the probe and who tests it: explicit, frozen, the same in every process.

A split knows no data set. It names the rows of a table by the key of each unit and guards its own promise:
a `subject` split cannot be built with a subject on both sides, nor a `session` split with such a session.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.errors import InputError
from nuclr_cli.evaluation.grouping import deal_units, stratified_groups

SplitKind = Literal["subject", "unit", "session", "file"]
Strings = NDArray[np.str_]

TRAIN_ONLY = -1
"""`Split.fold` of a row that trains every fold and is never tested."""
LEFT_OUT = -2
"""`Split.fold` of a row that takes no part: unlabelled, or absent from a split file."""

DEFAULT_FOLDS = 5
DEFAULT_SEED = 42


@dataclass(frozen=True)
class UnitKeys:
    """The key of every row: (subject, session, population, unit_id), four (N,) arrays of text.

    Raises:
        InputError: The same key twice.
    """

    subject: Strings
    session: Strings
    population: Strings
    unit_id: Strings

    def __post_init__(self) -> None:
        rows = list(zip(*self.columns(), strict=True))
        if len(set(rows)) < len(rows):
            seen: set[tuple[str, ...]] = set()
            twice = next(row for row in rows if row in seen or seen.add(row))  # type: ignore[func-returns-value]
            raise InputError(
                f"The unit {'/'.join(twice)} stands twice in the table of embeddings.",
                "Embed each session once, under its own subject and session id",
            )

    def __len__(self) -> int:
        return len(self.subject)

    def columns(self) -> tuple[Strings, Strings, Strings, Strings]:
        return self.subject, self.session, self.population, self.unit_id

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """(N,) rows sorted by key: what makes every result independent of the order of the table."""
        return np.lexsort(self.columns()[::-1]).astype(np.int64)

    @cached_property
    def recording(self) -> Strings:
        """(N,) subject and session joined: session ids alone may repeat between subjects."""
        return np.array([f"{a}/{b}" for a, b in zip(self.subject, self.session, strict=True)], dtype=str)


@dataclass(frozen=True)
class Fold:
    """One fit and its test. Rows stand in the order of their keys, so the table's order changes nothing."""

    name: str
    train: NDArray[np.int64]
    test: NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """A partition of labelled rows.

    Attributes:
        kind: ``subject``, ``session``, ``unit`` or ``file``.
        how: The split in one sentence, for people.
        keys: The N rows it speaks of.
        fold: (N,) int64: which fold tests the row (each row at most one), `TRAIN_ONLY` or `LEFT_OUT`.
        fold_names: One name a fold.
        seed: Seed of the random part, None where there is none.
        notes: What the user should know, one sentence each.
        warnings: Those of `notes` that the user should look at before believing a result.

    Raises:
        InputError: A subject (session) is on both sides of a fold of a subject (session) split,
            or a fold has no training or no test row.
    """

    kind: SplitKind
    how: str
    keys: UnitKeys
    fold: NDArray[np.int64]
    fold_names: tuple[str, ...]
    seed: int | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def remarks(self) -> tuple[str, ...]:
        """`notes` that are no warnings."""
        return tuple(note for note in self.notes if note not in self.warnings)

    def __post_init__(self) -> None:
        if self.fold.shape != (len(self.keys),):
            raise ValueError(f"fold has shape {self.fold.shape}, expected ({len(self.keys)},)")
        for fold in self.folds:
            for side, rows in (("training", fold.train), ("test", fold.test)):
                if not len(rows):
                    raise InputError(
                        f"Fold {fold.name!r} of the {self.kind} split has no {side} unit.",
                        "Label units of more subjects, or choose another --split",
                    )
            self._guard(fold)

    def _guard(self, fold: Fold) -> None:
        groups = {"subject": self.keys.subject, "session": self.keys.recording}.get(self.kind)
        if groups is None:
            return
        both = sorted(set(groups[fold.train].tolist()) & set(groups[fold.test].tolist()))
        if both:
            raise InputError(
                f"A {self.kind} split must not train and test on the same {self.kind}, "
                f"but fold {fold.name!r} does: {', '.join(both[:5])}.",
                f"Give each {self.kind} one fold",
            )

    @cached_property
    def folds(self) -> tuple[Fold, ...]:
        order = self.keys.order
        sorted_folds = self.fold[order]
        return tuple(
            Fold(
                name=name,
                train=order[(sorted_folds != i) & (sorted_folds != LEFT_OUT)],
                test=order[sorted_folds == i],
            )
            for i, name in enumerate(self.fold_names)
        )

    @cached_property
    def tested(self) -> NDArray[np.bool_]:
        """(N,) True where some fold tests the row."""
        return self.fold >= 0

    @cached_property
    def test_subjects(self) -> tuple[str, ...]:
        return tuple(sorted(set(self.keys.subject[self.tested].tolist())))

    @cached_property
    def subjects_disjoint(self) -> bool:
        """True when no fold has a subject on both sides, whatever the kind."""
        return self._disjoint(self.keys.subject)

    @cached_property
    def grouped_by(self) -> Literal["subject", "session", "unit"]:
        """What never is on both sides of a fold: how validation inside the training rows has to be split."""
        if self.kind == "file":
            if self.subjects_disjoint:
                return "subject"
            return "session" if self._disjoint(self.keys.recording) else "unit"
        return self.kind

    def _disjoint(self, group: Strings) -> bool:
        return all(not np.isin(group[f.test], group[f.train]).any() for f in self.folds)


def subject_split(
    keys: UnitKeys,
    labels: Strings,
    test_subjects: Sequence[str] = (),
    *,
    reason: str = "",
    n_folds: int | None = None,
) -> Split:
    """Zero-shot split: no subject trains and tests.

    Args:
        keys: The N rows.
        labels: (N,) text, empty = unlabelled.
        test_subjects: Test on exactly these, train on all others; () = each subject is tested once.
        reason: Where `test_subjects` comes from, for people.
        n_folds: Folds of whole subjects, as even in every class as subjects allow; None = leave one subject
            out, each in turn. Not with `test_subjects`.

    Raises:
        InputError: Fewer than two labelled subjects, an unknown test subject, nobody left to train on, or
            `n_folds` outside 2 ... number of labelled subjects.
    """
    labelled = labels != ""
    subjects = sorted(set(keys.subject[labelled].tolist()))
    if len(subjects) < 2:
        found = f"only one subject ({subjects[0]}) has labelled units" if subjects else "no unit is labelled"
        raise InputError(
            f"A subject split needs at least 2 labelled subjects, and {found}.", "Use --split unit"
        )
    if not test_subjects:
        return _by_group("subject", keys, keys.subject, labels, subjects, n_folds)
    wanted = sorted(set(test_subjects))
    unknown = [name for name in wanted if name not in subjects]
    if unknown:
        raise InputError(
            f"No labelled units in the test subjects {', '.join(unknown)}.",
            f"Subjects with labels: {', '.join(subjects)}",
        )
    if len(wanted) == len(subjects):
        raise InputError(
            "Every labelled subject is a test subject, so nothing is left to train the probe on.",
            "Name fewer in --test-subjects",
        )
    fold = np.full(len(keys), LEFT_OUT, dtype=np.int64)
    fold[labelled] = TRAIN_ONLY
    fold[labelled & np.isin(keys.subject, wanted)] = 0
    how = f"tests on {', '.join(wanted)}, trains on the other {len(subjects) - len(wanted)}"
    return Split("subject", f"{how}{f' ({reason})' if reason else ''}", keys, fold, ("held-out subjects",))


def session_split(keys: UnitKeys, labels: Strings, n_folds: int | None = None) -> Split:
    """Leave one session out, each in turn, or test on folds of sessions. A subject may be on both sides.

    Raises:
        InputError: Fewer than two sessions have labelled units, or `n_folds` does not fit them.
    """
    sessions = sorted(set(keys.recording[labels != ""].tolist()))
    if len(sessions) < 2:
        raise InputError(
            f"A session split needs at least 2 sessions with labelled units, and there is {len(sessions)}.",
            "Use --split unit",
        )
    return _by_group("session", keys, keys.recording, labels, sessions, n_folds)


def _by_group(
    kind: Literal["subject", "session"],
    keys: UnitKeys,
    group: Strings,
    labels: Strings,
    names: list[str],
    n_folds: int | None,
) -> Split:
    labelled = labels != ""
    fold = np.full(len(keys), LEFT_OUT, dtype=np.int64)
    if n_folds is None or n_folds == len(names):
        fold[labelled] = np.searchsorted(np.array(names), group[labelled])
        how = f"leave one {kind} out: {len(names)} folds, each tests on one {kind} and trains on the others"
        return Split(kind, how, keys, fold, tuple(names))
    if not 2 <= n_folds < len(names):
        raise InputError(
            f"--folds {n_folds} does not fit: {len(names)} {kind}s have labelled units.",
            f"Choose a number from 2 to {len(names)}; {len(names)} leaves one {kind} out at a time",
        )
    fold[labelled] = stratified_groups(group[labelled], labels[labelled], n_folds)
    how = (
        f"{n_folds} folds of whole {kind}s, stratified as far as {len(names)} {kind}s allow; each fold tests "
        f"on its {kind}s and trains on the others"
    )
    return Split(kind, how, keys, fold, tuple(f"fold {i + 1}" for i in range(n_folds)))


def unit_split(
    keys: UnitKeys,
    labels: Strings,
    n_folds: int | None = None,
    seed: int = DEFAULT_SEED,
) -> Split:
    """Stratified K-fold over units: units of one population are on both sides (transductive by nature).

    Args:
        keys: The N rows.
        labels: (N,) text, empty = unlabelled.
        n_folds: Number of folds; None = 5, fewer where a class has fewer units.
        seed: Seed of the shuffle within each class.

    Raises:
        InputError: A class with a single unit, or `n_folds` outside 2 ... size of the smallest class.
    """
    labelled = labels != ""
    classes, counts = np.unique(labels[labelled], return_counts=True)
    if not len(classes):
        raise InputError("No unit is labelled.", "Add labels: nuclr preprocess SOURCE --labels FILE.csv")
    smallest, name = int(counts.min()), str(classes[counts.argmin()])
    if smallest < 2:
        raise InputError(
            f"The class {name!r} has {smallest} unit: it cannot be both trained and tested.",
            "Label more units, or leave that class out with --classes",
        )
    notes: tuple[str, ...] = ()
    if n_folds is None:
        n_folds = min(DEFAULT_FOLDS, smallest)
        if n_folds < DEFAULT_FOLDS:
            notes = (f"{n_folds} folds instead of {DEFAULT_FOLDS}: the class {name!r} has {smallest} units.",)
    elif not 2 <= n_folds <= smallest:
        raise InputError(
            f"--folds {n_folds} does not fit: the smallest class ({name!r}) has {smallest} units.",
            f"Choose a number from 2 to {smallest}",
        )
    fold = np.full(len(keys), LEFT_OUT, dtype=np.int64)
    rows = keys.order[labelled[keys.order]]
    fold[rows] = deal_units(labels[rows], n_folds, seed)
    how = f"stratified {n_folds}-fold over units; units of one population train and test"
    return Split("unit", how, keys, fold, tuple(f"fold {i + 1}" for i in range(n_folds)), seed, notes)
