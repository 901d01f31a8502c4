"""The answer to one question: NuCLR beside its baselines, and what a reader has to know to believe it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.errors import InputError
from nuclr_cli.evaluation.baselines import Representation, chance_scores, majority_predictions
from nuclr_cli.evaluation.bootstrap import resampling_plan
from nuclr_cli.evaluation.cross_prediction import fit_bytes
from nuclr_cli.evaluation.metrics import confusion, per_class, scores
from nuclr_cli.evaluation.nested import GRID, INNER_FOLDS
from nuclr_cli.evaluation.permutation import PermutationTest, default_permutations, permutation_test
from nuclr_cli.evaluation.predictions import Predictions
from nuclr_cli.evaluation.probes import NESTED
from nuclr_cli.evaluation.readouts import centroid_predictions, n_neighbours, neighbour_predictions
from nuclr_cli.evaluation.records import MAJORITY, NUCLR, Judge, MethodPredictions, MethodResult
from nuclr_cli.evaluation.splits import LEFT_OUT
from nuclr_cli.evaluation.verdicts import classification_verdict
from nuclr_cli.workflows.probe_ask import Asked
from nuclr_cli.workflows.probe_baselines import MissingBaseline, missing_warnings
from nuclr_cli.workflows.probe_folder import result_folder, write_folder
from nuclr_cli.workflows.probe_hierarchy import ask_parents_first
from nuclr_cli.workflows.probe_inputs import Labels, assumed_subjects, choose_split, knowledge
from nuclr_cli.workflows.probe_leaks import leak_warnings
from nuclr_cli.workflows.probe_question import Question
from nuclr_cli.workflows.probe_record import FoldRecord, ProbeConfig, ProbeRecord
from nuclr_cli.workflows.probe_report import versions
from nuclr_cli.workflows.probe_rivals import Rivals
from nuclr_cli.workflows.reporting import Reporter, SilentReporter


def answer(asked: Asked, rivals: Rivals, reporter: Reporter) -> ProbeRecord:
    """Probe, compare, test, and write the folder of the result.

    Raises:
        InputError: C cannot be chosen, or nowhere to write.
    """
    began = time.monotonic()
    config, question = asked.config, asked.question
    source, split, codes = question.source, question.split, question.codes
    own, kept = question.predict_and_keep()
    if config.c == NESTED and not own.chosen:
        raise InputError(
            f"--C nested chooses among each fold's training {split.grouped_by}s, and no fold of this split "
            "has enough of them.",
            f"Label more {split.grouped_by}s, or keep --C 1",
        )
    described, missing = rivals.of(question.used)
    truth = codes[question.tested]
    plan = resampling_plan(source.keys.subject[question.tested], truth)
    judge = Judge.with_resamples(
        truth,
        len(question.classes),
        MethodPredictions(NUCLR, "NuCLR", own.predicted[question.tested]),
        plan,
        n_resamples=config.bootstrap,
        seed=config.seed,
    )
    methods, probe_notes = _compare(question, judge, described, config, reporter)
    readouts, extra = _readouts(question, judge)
    hierarchy = None
    if config.parent is not None:
        hierarchy, extra["hierarchical"] = ask_parents_first(question, config.parent, own, judge)
        probe_notes += hierarchy.notes
    permutation = _permute(question, config, reporter)
    if permutation is not None and split.kind == "file":
        probe_notes += (
            "The permutation test keeps the folds of the file: if these were made to fit the labels, its p "
            "value is too small.",
        )
    status, why = knowledge(source, split)
    warnings = (*_warnings(question, missing), *leak_warnings(question, methods[-1].macro_f1))
    for text in (*plan.notes, *own.notes, *probe_notes):
        reporter.note(text)
    for text in warnings:
        reporter.warn(text)

    matrix = confusion(truth, own.predicted[question.tested], len(question.classes))
    labelled = codes >= 0
    record = ProbeRecord(
        folder=result_folder(source, split, config),
        label=config.label,
        classes=question.classes,
        variant=question.variant.name,
        split=split.kind,
        split_how=split.how,
        knowledge=status,
        knowledge_why=why,
        verdict=classification_verdict(methods, [one.title for one in missing]),
        methods=methods,
        missing_baselines=missing,
        per_class=per_class(matrix, question.classes),
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
        notes=(*source.notes, *asked.notes, *plan.notes, *own.notes, *probe_notes),
        warnings=(*source.warnings, *asked.warnings, *warnings),
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
        readouts=readouts,
        balance=question.variant.balance,
        c=config.c,
        c_grid=GRID if config.c == NESTED else (),
        c_inner=f"at most {INNER_FOLDS} folds of the training {split.grouped_by}s"
        if config.c == NESTED
        else "",
        c_saved=kept.choice.c,
        hierarchy=hierarchy,
    )
    others = {name: one.predicted for name, one in extra.items()}
    write_folder(record, question, own, kept.pipeline, others)
    return record


def _compare(
    question: Question,
    judge: Judge,
    others: tuple[Representation, ...],
    config: ProbeConfig,
    reporter: Reporter,
) -> tuple[tuple[MethodResult, ...], tuple[str, ...]]:
    """Run the probe on every other description of the units and score all of them together."""
    tested, n_classes = question.tested, len(question.classes)
    notes: list[str] = []
    results = [judge.nuclr_result()]
    progress = reporter if others else SilentReporter()
    with progress.progress("baselines", len(others), "methods") as bar:
        for number, other in enumerate(others):
            predictions = question.predict(other.values, front=other.front)
            results.append(
                judge.result(MethodPredictions(other.name, other.title, predictions.predicted[tested]))
            )
            notes += [f"{other.title}: {note}" for note in predictions.notes]
            bar.update(number + 1, other.title)
    majority = majority_predictions(question.codes, n_classes, question.split, question.usable)
    results.append(judge.result(MethodPredictions(MAJORITY, "most frequent class", majority[tested])))
    chance = chance_scores(question.codes, n_classes, question.split, question.usable, seed=config.seed)
    results.append(judge.chance(chance))
    return tuple(results), tuple(notes)


def _readouts(question: Question, judge: Judge) -> tuple[tuple[MethodResult, ...], dict[str, Predictions]]:
    """Read the same embedding in other ways."""
    asked = (question.codes, len(question.classes), question.split, question.usable)
    values, balance = question.source.table.embedding, question.variant.balance
    trained = [int(question.usable[fold.train].sum()) for fold in question.split.folds]
    k = sorted({n_neighbours(n) for n in trained if n})
    title = f"NuCLR, {k[0]} nearest neighbours" if len(k) == 1 else f"NuCLR, {k[0]} to {k[-1]} neighbours"
    weighing = "one vote each" if balance == "none" else "votes weighted by inverse class frequency"
    makers: dict[str, tuple[str, str, Callable[[], Predictions]]] = {
        "neighbours": (
            title,
            f"standardised columns, Euclidean; k = square root of the training units, at most 20; {weighing}",
            lambda: neighbour_predictions(values, *asked, balance),
        ),
        "centroid": (
            "NuCLR, nearest class centroid",
            "standardised columns, Euclidean",
            lambda: centroid_predictions(values, *asked),
        ),
    }
    results, made = [], {}
    for name, (said, note, make) in makers.items():
        made[name] = make()
        results.append(
            judge.result(MethodPredictions(name, said, made[name].predicted[question.tested]), note)
        )
    return tuple(results), made


def _permute(question: Question, config: ProbeConfig, reporter: Reporter) -> PermutationTest | None:
    """Compare NuCLR's macro F1 with that of labels dealt anew, to whole subjects where each has one label.

    Folds that were stratified by the labels are made anew, too: those of the true labels would fit them
    better than any others, and the p value would be too small.
    """
    used, tested = question.used, question.tested
    subject, codes = question.source.keys.subject[used], question.codes[used]
    n = default_permutations(subject, codes) if config.permutations is None else config.permutations
    if n == 0:
        return None

    kind = question.split.kind
    stratified = kind == "unit" or (kind != "file" and config.folds is not None)
    names = np.array([*question.classes, ""])  # unlabelled is -1: the last

    def score(labelling: NDArray[np.int64]) -> float:
        permuted = question.codes.copy()
        permuted[used] = labelling
        asked = question
        if stratified:
            labels = Labels(config.label, names[permuted])
            split, _ = choose_split(
                question.source, labels, config.split, config.test_subjects, config.folds, config.seed
            )
            asked = replace(question, split=split)
        predicted = asked.predict(question.source.table.embedding, permuted).predicted
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
            # Units are shuffled class by class, in the order of the names: other names, other folds.
            symmetric=not (stratified and kind == "unit"),
            bytes_each=fit_bytes(
                question.source.table.embedding, question.codes, question.usable, question.variant
            ),
        )


def _warnings(question: Question, missing: tuple[MissingBaseline, ...]) -> tuple[str, ...]:
    source, found = question.source, list(missing_warnings(missing))
    assumed = assumed_subjects(source)
    if assumed and question.split.kind != "unit":
        found.append(
            f"Subject(s) {', '.join(assumed)} are folder names that nobody confirmed: if one animal has two "
            "names, the split is not by animal. Say who is who: nuclr preprocess SOURCE --subject ID"
        )
    lost = int(((question.codes >= 0) & ~source.embedded).sum())
    if lost:
        found.append(f"{lost} labelled units have no embedding (never active in a window) and no prediction.")
    limit = source.table.metadata.get("limit_s", "")
    if limit:
        found.append(f"The embeddings saw only the first {limit} s of each session, the baselines all of it.")
    return tuple(found)


def _folds(question: Question, own: Predictions) -> tuple[FoldRecord, ...]:
    records = []
    for fold, c in zip(question.split.folds, own.c, strict=True):
        train = fold.train[question.usable[fold.train]]
        test = fold.test[question.usable[fold.test]]
        test = test[own.predicted[test] >= 0]
        matrix = confusion(question.codes[test], own.predicted[test], len(question.classes))
        f1 = float(scores(matrix).macro_f1) if len(test) else None
        records.append(FoldRecord(fold.name, len(train), len(test), f1, c))
    return tuple(records)
