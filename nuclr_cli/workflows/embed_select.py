"""Which checkpoint of a run embeds: the last, or the best by a rule that is written down with the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from nuclr_cli.data.embeddings import EmbeddingTable
from nuclr_cli.data.store import Session
from nuclr_cli.errors import InputError
from nuclr_cli.evaluation.diagnostics import Halves, diagnose
from nuclr_cli.evaluation.metrics import confusion, scores
from nuclr_cli.evaluation.splits import Split, UnitKeys, subject_split, unit_split
from nuclr_cli.workflows.best_checkpoint import best_step
from nuclr_cli.workflows.best_checkpoint import scores as scores_of
from nuclr_cli.workflows.checkpoints import Checkpoint, damage, folder_of, load_checkpoint, steps_available
from nuclr_cli.workflows.reporting import Reporter
from nuclr_cli.workflows.runs import Run

SelectRule = Literal["last", "given", "retrieval", "val-f1", "loss", "rankme"]
RULES: tuple[SelectRule, ...] = ("last", "retrieval", "val-f1")
"""Those of ``--select``; the others are those of ``--checkpoint``."""

Embed = Callable[[Checkpoint, Sequence[Session]], tuple[EmbeddingTable, list[Halves]]]


@dataclass(frozen=True)
class Candidate:
    """One checkpoint that could have been taken, and its score."""

    step: int
    score: float


@dataclass(frozen=True)
class Selection:
    """How the checkpoint was chosen.

    Attributes:
        rule: ``last``: the newest; ``given``: the step that the user named; ``retrieval``: same-neuron
            retrieval across time, which needs no label; ``val-f1``: macro F1 of a probe on subjects that
            pretraining was given, which does; ``loss`` and ``rankme``: what training logged, by the run's
            ``train.keep_best``.
        step: The checkpoint that was taken.
        candidates: Every whole checkpoint of the run with its score; none for ``last`` and ``given``.
        subjects: Subjects that the scores were computed on; never those held out of pretraining.
        label: Label of ``val-f1``, else empty.
    """

    rule: SelectRule
    step: int
    candidates: tuple[Candidate, ...] = ()
    subjects: tuple[str, ...] = ()
    label: str = ""


def check_rule(rule: str, label: str | None, checkpoint: int | str | None) -> None:
    """Raise InputError when the options contradict one another."""
    if rule not in RULES:
        raise InputError(f"Unknown --select {rule!r}.", f"Choose {', '.join(RULES)}")
    if rule != "last" and checkpoint is not None:
        raise InputError(
            f"--checkpoint {checkpoint} and --select {rule} both choose a checkpoint.", "Give one of them"
        )
    if (rule == "val-f1") != (label is not None):
        raise InputError(
            f"--select {rule} {'needs' if label is None else 'does not take'} --select-label.",
            "nuclr embed --select val-f1 --select-label cell_type",
        )


def best_of_training(run: Run) -> Selection:
    """The checkpoint that the run keeps as its best one; reads nothing but its files.

    Raises:
        InputError: The run keeps none, or has none that is whole.
    """
    metric = run.settings.train.keep_best
    if metric == "none":
        raise InputError(
            f"The run {run.folder} keeps no best checkpoint: its train.keep_best is none.",
            "Give --checkpoint STEP, or let --select retrieval score those that are there",
        )
    step = best_step(run.checkpoints, metric, lambda folder: not damage(folder))
    if step is None:
        raise InputError(
            f"No whole checkpoint of the run {run.folder} says its {metric}.",
            "Leave --checkpoint out, or let --select retrieval score those that are there",
        )
    candidates = tuple(Candidate(*found) for found in sorted(scores_of(run.checkpoints, metric).items()))
    return Selection(metric, step, candidates, run.record.trained_subjects)


def select_checkpoint(
    run: Run,
    sessions: Sequence[Session],
    rule: SelectRule,
    label: str | None,
    embed: Embed,
    reporter: Reporter,
) -> tuple[Checkpoint, Selection]:
    """Load the checkpoint that the rule prefers; of equal scores the later one.

    Args:
        run: The run.
        sessions: Sessions of the run's own data.
        rule: One that scores checkpoints, see `Selection`.
        label: Label column of ``val-f1``.
        embed: Embeds sessions with a checkpoint.
        reporter: Told what was chosen.

    Raises:
        InputError: No whole checkpoint, or nothing to score them by.
    """
    roles = {(s.subject, s.session, s.population): s.role for s in run.record.sessions}
    training = [s for s in sessions if roles.get((s.key.subject, s.key.session, s.key.population)) == "train"]
    if not training:
        raise InputError(
            f"--select {rule} scores checkpoints on sessions that the run was trained on, and none is here.",
            "Embed the run's own data first, or leave --select away",
        )
    steps = [s for s in steps_available(run.checkpoints) if not damage(folder_of(run.checkpoints, s))]
    if not steps:
        load_checkpoint(run.checkpoints)  # says what is wrong
    scored = []
    for candidate in steps:
        table, halves = embed(load_checkpoint(run.checkpoints, candidate), training)
        value = _retrieval(halves) if label is None else _validation_f1(table, label)
        scored.append(Candidate(candidate, value))
        reporter.note(f"checkpoint {candidate}: {rule} {value:.3f}")
    best = max(scored, key=lambda one: (one.score, one.step))
    reporter.note(f"step {best.step} of {', '.join(str(one.step) for one in scored)} chosen by {rule}")
    subjects = tuple(sorted({session.key.subject for session in training}))
    return load_checkpoint(run.checkpoints, best.step), Selection(
        rule, best.step, tuple(scored), subjects, label or ""
    )


def _retrieval(halves: list[Halves]) -> float:
    found = diagnose(halves, float("nan"), n_resamples=1)
    if found is None:
        raise InputError(
            "--select retrieval needs a population with two units that are active in both halves.",
            "Give longer sessions, or use --select last",
        )
    return found.retrieval.top1


def _validation_f1(table: EmbeddingTable, label: str) -> float:
    """Macro F1, pooled over folds, by subject where three subjects carry the label, else by unit.

    Raises:
        InputError: No such label, or labels that no probe can be asked for.
    """
    from nuclr_cli.evaluation.cross_prediction import cross_predict
    from nuclr_cli.evaluation.probes import describe_folds, encode, variant_named

    if label not in table.labels:
        raise InputError(
            f"--select-label: no label {label!r} among the units.",
            f"Labels: {', '.join(sorted(table.labels)) or 'none'}",
        )
    keys = UnitKeys(table.subject, table.session, table.population, table.unit_id)
    labels = np.where(table.seen, table.labels[label], "")
    if not (labels != "").any():
        raise InputError(
            f"--select-label: no embedded unit of the training subjects has a {label}.",
            "Use --select retrieval, which needs no label",
        )
    classes, codes = encode(labels)
    try:
        split: Split = (
            subject_split(keys, labels)
            if len(set(table.subject[labels != ""].tolist())) >= 3
            else unit_split(keys, labels, None, seed=0)
        )
        describe_folds(split, codes, classes, table.seen)
    except InputError as error:  # what it proposes are options of nuclr probe
        raise InputError(
            f"--select-label {label}: {error.what}",
            "Choose another --select-label, or use --select retrieval, which needs no label",
        ) from None
    predicted = cross_predict(
        table.embedding, codes, len(classes), split, table.seen, variant_named("default")
    ).predicted
    tested = predicted >= 0
    return float(scores(confusion(codes[tested], predicted[tested], len(classes))).macro_f1)
