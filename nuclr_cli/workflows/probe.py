"""`nuclr probe`: how well a linear probe reads a label from the embeddings, beside what it has to beat."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.evaluation.baselines import Representation, chance_scores, majority_predictions
from nuclr_cli.evaluation.bootstrap import ResamplingPlan, resampling_plan
from nuclr_cli.evaluation.metrics import confusion, per_class, scores
from nuclr_cli.evaluation.permutation import PermutationTest, default_permutations, permutation_test
from nuclr_cli.evaluation.probes import (
    Predictions,
    describe_folds,
    encode,
    variant_named,
)
from nuclr_cli.evaluation.records import NUCLR, MethodPredictions, MethodResult, compare, verdict
from nuclr_cli.evaluation.splits import LEFT_OUT
from nuclr_cli.workflows.probe_baselines import MissingBaseline, representations
from nuclr_cli.workflows.probe_folder import result_folder, write_folder
from nuclr_cli.workflows.probe_inputs import (
    assumed_subjects,
    choose_split,
    knowledge,
    read_labels,
    read_table,
)
from nuclr_cli.workflows.probe_question import Question, shortcut
from nuclr_cli.workflows.probe_record import FoldRecord, ProbeConfig, ProbeRecord
from nuclr_cli.workflows.probe_report import (
    versions,
)
from nuclr_cli.workflows.reporting import Reporter, SilentReporter


def probe(config: ProbeConfig, reporter: Reporter | None = None) -> ProbeRecord:
    """Probe a label, compare with every baseline on the same units, and write the folder of the result.

    Raises:
        InputError: No embeddings, no such label, too few labels for the split, or nowhere to write.
    """
    reporter = reporter or SilentReporter()
    began = time.monotonic()
    variant = variant_named(config.variant)
    source = read_table(config.run, config.embeddings, config.runs, reporter.warn)
    if config.run is None and config.embeddings is None and source.run is not None:
        reporter.note(f"run {source.run.record.name}, the newest (--run chooses another)")
    labels = read_labels(source, config.label, config.classes)
    split, choices = choose_split(
        source, labels, config.split, config.test_subjects, config.folds, config.seed
    )
    classes, codes = encode(labels.values)
    question = Question(source, labels, classes, codes, split, variant)
    fold_notes = describe_folds(split, codes, classes, question.usable)
    for text in (*labels.notes, *choices, *split.notes, *fold_notes):
        reporter.note(text)

    own = question.predict(source.table.embedding)
    others, missing = representations(source, question.used, config.data, reporter)
    truth = codes[question.tested]
    plan = resampling_plan(source.keys.subject[question.tested], truth)
    methods, probe_notes = _compare(question, own, others, plan, config, reporter)
    permutation = _permute(question, config, reporter)
    status, why = knowledge(source, split)
    warnings = _warnings(question, missing, config)
    for text in (*plan.notes, *own.notes, *probe_notes):
        reporter.note(text)
    for text in warnings:
        reporter.warn(text)

    matrix = confusion(truth, own.predicted[question.tested], len(classes))
    labelled = codes >= 0
    record = ProbeRecord(
        folder=result_folder(source, split, config),
        label=config.label,
        classes=classes,
        variant=variant.name,
        split=split.kind,
        split_how=split.how,
        knowledge=status,
        knowledge_why=why,
        verdict=verdict(methods, [one.title for one in missing]),
        methods=methods,
        missing_baselines=missing,
        per_class=per_class(matrix, classes),
        confusion=tuple(tuple(row) for row in matrix.tolist()),
        folds=_folds(question, own),
        resampled=plan.unit,
        n_resampled=plan.n_groups,
        permutation=permutation,
        subjects=tuple(sorted(set(source.keys.subject[labelled].tolist()))),
        test_subjects=split.test_subjects,
        n_units=len(codes),
        n_labelled=int(labelled.sum()),
        n_tested=len(truth),
        n_without_embedding=int((labelled & ~source.embedded).sum()),
        n_not_in_split=int((labelled & (split.fold == LEFT_OUT)).sum()),
        notes=(*labels.notes, *choices, *split.notes, *fold_notes, *plan.notes, *own.notes, *probe_notes),
        warnings=warnings,
        run=source.run.id if source.run else source.table.metadata.get("run", ""),
        checkpoint="@".join(
            source.table.metadata.get(key, "?") for key in ("checkpoint_step", "checkpoint_sha256")
        ),
        embeddings=source.path,
        embeddings_sha256=source.sha256,
        seed=config.seed,
        bootstrap=config.bootstrap,
        versions=versions(),
        seconds=time.monotonic() - began,
    )
    write_folder(record, question, own)
    return record


def _compare(
    question: Question,
    own: Predictions,
    others: tuple[Representation, ...],
    plan: ResamplingPlan,
    config: ProbeConfig,
    reporter: Reporter,
) -> tuple[tuple[MethodResult, ...], tuple[str, ...]]:
    """Run the probe on every other description of the units and score all of them together."""
    tested, n_classes = question.tested, len(question.classes)
    notes: list[str] = []
    rivals: list[MethodPredictions] = []
    progress = reporter if others else SilentReporter()
    with progress.progress("baselines", len(others), "methods") as bar:
        for number, other in enumerate(others):
            predictions = question.predict(other.values, front=other.front)
            rivals.append(MethodPredictions(other.name, other.title, predictions.predicted[tested]))
            notes += [f"{other.title}: {note}" for note in predictions.notes]
            bar.update(number + 1, other.title)
    majority = majority_predictions(question.codes, n_classes, question.split, question.usable)
    rivals.append(MethodPredictions("majority", "most frequent class", majority[tested]))
    chance = chance_scores(question.codes, n_classes, question.split, question.usable, seed=config.seed)
    methods = compare(
        question.codes[tested],
        n_classes,
        MethodPredictions(NUCLR, "NuCLR", own.predicted[tested]),
        rivals,
        chance,
        plan,
        n_resamples=config.bootstrap,
        seed=config.seed,
    )
    return methods, tuple(notes)


def _permute(question: Question, config: ProbeConfig, reporter: Reporter) -> PermutationTest | None:
    used, tested = question.used, question.tested
    subject, codes = question.source.keys.subject[used], question.codes[used]
    n = default_permutations(subject, codes) if config.permutations is None else config.permutations
    if n == 0:
        return None

    def score(labelling: NDArray[np.int64]) -> float:
        permuted = question.codes.copy()
        permuted[used] = labelling
        predicted = question.predict(question.source.table.embedding, permuted).predicted
        matrix = confusion(permuted[tested], predicted[tested], len(question.classes))
        return float(scores(matrix).macro_f1)

    with reporter.progress("permutation test", None, "labellings") as bar:
        return permutation_test(
            score,
            subject,
            codes,
            n,
            config.seed,
            lambda done, total: bar.update(done, f"of {total}"),
            symmetric=True,
        )


def _warnings(
    question: Question, missing: tuple[MissingBaseline, ...], config: ProbeConfig
) -> tuple[str, ...]:
    source, found = question.source, []
    for one in missing:
        found.append(f"Baseline missing: {one.title}: {one.why}")
    assumed = assumed_subjects(source)
    if assumed and question.split.kind != "unit":
        found.append(
            f"Subject(s) {', '.join(assumed)} are folder names that nobody confirmed: if one animal has two "
            "names, the split is not by animal. Say who is who: nuclr preprocess SOURCE --subject ID"
        )
    easy_way = shortcut(question)
    if easy_way:
        found.append(easy_way)
    lost = int(((question.codes >= 0) & ~source.embedded).sum())
    if lost:
        found.append(f"{lost} labelled units have no embedding (never active in a window) and no prediction.")
    limit = source.table.metadata.get("limit_s", "")
    if limit:
        found.append(f"The embeddings saw only the first {limit} s of each session, the baselines all of it.")
    return tuple(found)


def _folds(question: Question, own: Predictions) -> tuple[FoldRecord, ...]:
    records = []
    for fold in question.split.folds:
        train = fold.train[question.usable[fold.train]]
        test = fold.test[question.usable[fold.test]]
        test = test[own.predicted[test] >= 0]
        matrix = confusion(question.codes[test], own.predicted[test], len(question.classes))
        f1 = float(scores(matrix).macro_f1) if len(test) else None
        records.append(FoldRecord(fold.name, len(train), len(test), f1))
    return tuple(records)
