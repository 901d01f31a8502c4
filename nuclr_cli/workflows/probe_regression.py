"""`nuclr probe --target`: how well a linear probe reads a number from the embeddings, beside baselines."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.errors import InputError
from nuclr_cli.evaluation.baselines import Representation
from nuclr_cli.evaluation.bootstrap import ResamplingPlan
from nuclr_cli.evaluation.permutation import PermutationTest, default_permutations, permutation_test
from nuclr_cli.evaluation.probes import PLAIN, FrontEnd
from nuclr_cli.evaluation.records import NUCLR
from nuclr_cli.evaluation.regression import (
    MEAN,
    RegressionMethod,
    RegressionResult,
    compare_regression,
    group_means,
    quantile_strata,
    regression_scores,
    regression_verdict,
    subject_plan,
    training_means,
)
from nuclr_cli.evaluation.ridge import RidgePredictions, RidgeProbe, prepare_ridge
from nuclr_cli.evaluation.splits import LEFT_OUT, Split
from nuclr_cli.wording import counted
from nuclr_cli.workflows.probe_baselines import MissingBaseline, representations
from nuclr_cli.workflows.probe_card import checkpoint_of
from nuclr_cli.workflows.probe_common import (
    common_warnings,
    constant_within,
    place_of,
    run_id,
)
from nuclr_cli.workflows.probe_inputs import Labels, ProbeTable, choose_split, knowledge, read_table
from nuclr_cli.workflows.probe_regression_folder import write_regression_folder
from nuclr_cli.workflows.probe_regression_record import RegressionConfig, RegressionFold, RegressionRecord
from nuclr_cli.workflows.probe_report import versions
from nuclr_cli.workflows.probe_target import Target, read_target
from nuclr_cli.workflows.reporting import Reporter, SilentReporter


@dataclass(frozen=True)
class _Question:
    """What all methods share.

    Attributes:
        source: The table of embeddings.
        target: The number of its N rows.
        split: Who trains and who is tested.
        seed: Of the inner folds.
    """

    source: ProbeTable
    target: Target
    split: Split
    seed: int

    @property
    def usable(self) -> NDArray[np.bool_]:
        """(N,) rows that may train or be tested: in the split, so with a value, and with an embedding."""
        return np.asarray((self.split.fold != LEFT_OUT) & self.source.embedded)

    def prepare(self, values: NDArray[np.floating], front: FrontEnd = PLAIN) -> RidgeProbe:
        return prepare_ridge(values, self.split, self.usable, front, self.seed)


def probe_regression(config: RegressionConfig, reporter: Reporter | None = None) -> RegressionRecord:
    """Probe a number, compare with every baseline on the same units, and write the folder of the result.

    Raises:
        InputError: No embeddings, no such target, values that are no numbers, too few for the split, or
            nowhere to write.
    """
    reporter = reporter or SilentReporter()
    began = time.monotonic()
    source = read_table(config.run, config.embeddings, config.runs, reporter)
    if config.run is None and config.embeddings is None and source.run is not None:
        reporter.note(f"run {source.run.record.name}, the newest (--run chooses another)")
    target = read_target(source, config.target, config.target_file, config.data, reporter.warn)
    has_value = np.isfinite(target.values)
    split, choices = _split(source, target, config)
    question = _Question(source, target, split, config.seed)
    n_without = int((~has_value).sum())
    notes = [
        f"{config.target}: {counted(int(has_value.sum()), 'unit')} of {len(has_value)} ({target.origin})."
    ]
    if n_without:
        notes.append(f"{counted(n_without, 'unit has', 'units have')} no {config.target} and no part.")
    for text in (*notes, *target.notes, *choices, *split.remarks):
        reporter.note(text)

    prepared = question.prepare(source.table.embedding)
    own = prepared.predict(target.values)
    order = source.keys.order
    tested = order[np.isfinite(own.predicted[order])]
    truth = target.values[tested]
    if len(tested) < 2 or truth.min() == truth.max():
        raise InputError(
            f"{counted(len(tested), 'unit is', 'units are')} tested"
            f"{f', all with {config.target} {truth[0]:g}' if len(tested) else ''}: there is no spread to "
            "explain.",
            "Test more units: --split unit, or other --test-subjects",
        )
    used = order[question.usable[order]]
    others, missing = representations(source, used, config.data, reporter, config.baselines)
    plan = subject_plan(source.keys.subject[tested])
    methods, probe_notes = _compare(question, own, others, tested, plan, config, reporter)
    permutation = _permute(question, prepared, used, tested, config, reporter)
    status, why = knowledge(source, split)
    warnings = (*split.warnings, *_warnings(question, missing, used))
    for text in (*plan.notes, *own.notes, *probe_notes):
        reporter.note(text)
    for text in warnings:
        reporter.warn(text)
    record = RegressionRecord(
        folder=place_of(
            source,
            config.target,
            split,
            config.split,
            "ridge" if config.folds is None else f"ridge-folds-{config.folds}",
            config.baselines,
            sorted(config.test_subjects),
            target.sha256,
        ),
        target=config.target,
        target_from=target.origin,
        split=split.kind,
        split_how=split.how,
        knowledge=status,
        knowledge_why=why,
        verdict=regression_verdict(methods, [one.title for one in missing]),
        methods=methods,
        missing_baselines=missing,
        folds=_folds(question, own),
        resampled=plan.unit,
        n_resampled=plan.n_groups,
        permutation=permutation,
        target_range=(float(truth.min()), float(truth.max())),
        target_mean=float(truth.mean()),
        target_sd=float(truth.std()),
        subjects=tuple(sorted(set(source.keys.subject[has_value].tolist()))),
        test_subjects=split.test_subjects,
        n_units=len(has_value),
        n_with_target=int(has_value.sum()),
        n_without_target=n_without,
        n_tested=len(tested),
        n_without_embedding=int((has_value & ~source.embedded).sum()),
        n_not_in_split=int((has_value & (split.fold == LEFT_OUT)).sum()),
        notes=(
            *source.notes,
            *notes,
            *target.notes,
            *choices,
            *split.remarks,
            *plan.notes,
            *own.notes,
            *probe_notes,
        ),
        warnings=(*source.warnings, *warnings),
        run=run_id(source),
        checkpoint=checkpoint_of(source.table.metadata),
        embeddings=source.path,
        embeddings_sha256=source.sha256,
        target_file_sha256=target.sha256,
        seed=config.seed,
        bootstrap=config.bootstrap,
        versions=versions(),
        seconds=time.monotonic() - began,
    )
    write_regression_folder(record, source, target, split, own, used)
    return record


def _split(source: ProbeTable, target: Target, config: RegressionConfig) -> tuple[Split, tuple[str, ...]]:
    """The split that a label would have; folds of units are stratified by the target's quantiles."""
    n_values = int(np.isfinite(target.values).sum())
    if config.folds is not None and config.folds > n_values:
        raise InputError(
            f"--folds {config.folds} does not fit: {n_values} units have a {config.target}.",
            f"Choose a number from 2 to {n_values}",
        )
    strata = quantile_strata(target.values, source.keys, config.folds)
    split, choices = choose_split(
        source,
        Labels(config.target, strata),
        config.split,
        config.test_subjects,
        config.folds,
        config.seed,
    )
    if split.kind == "unit":
        how = split.how.replace("stratified", f"stratified (by quantiles of {config.target})")
        split = dataclasses.replace(split, how=how)
    return split, choices


def _compare(
    question: _Question,
    own: RidgePredictions,
    others: tuple[Representation, ...],
    tested: NDArray[np.int64],
    plan: ResamplingPlan,
    config: RegressionConfig,
    reporter: Reporter,
) -> tuple[tuple[RegressionResult, ...], tuple[str, ...]]:
    """Run the same ridge on every other description of the units and score all of them together."""
    target = question.target.values
    notes: list[str] = []
    rivals: list[RegressionMethod] = []
    progress = reporter if others else SilentReporter()
    with progress.progress("baselines", len(others), "methods") as bar:
        for number, other in enumerate(others):
            predictions = question.prepare(other.values, other.front).predict(target)
            rivals.append(RegressionMethod(other.name, other.title, predictions.predicted[tested]))
            notes += [f"{other.title}: {note}" for note in predictions.notes if note not in own.notes]
            bar.update(number + 1, other.title)
    means = training_means(target, question.split, question.usable)
    shared = {"unit": "session", "session": "subject"}.get(question.split.grouped_by)
    if shared:
        group = question.source.keys.recording if shared == "session" else question.source.keys.subject
        if len(set(group[tested].tolist())) > 1:
            own_group = group_means(target, group, question.split, question.usable)
            title = f"mean of the {shared}'s training units"
            rivals.append(RegressionMethod(f"{shared}_mean", title, own_group[tested]))
    rivals.append(RegressionMethod(MEAN, "mean of the training units (chance)", means[tested]))
    methods = compare_regression(
        target[tested],
        RegressionMethod(NUCLR, "NuCLR", own.predicted[tested]),
        rivals,
        plan,
        n_resamples=config.bootstrap,
        seed=config.seed,
    )
    return methods, tuple(notes)


def _permute(
    question: _Question,
    prepared: RidgeProbe,
    used: NDArray[np.int64],
    tested: NDArray[np.int64],
    config: RegressionConfig,
    reporter: Reporter,
) -> PermutationTest | None:
    """Compare NuCLR's R2 with that of values dealt anew, to whole subjects where each has one value.

    Folds that were stratified by the values are made anew, too: those of the true values would fit them
    better than any others, and the p value would be too small.
    """
    values, codes = np.unique(question.target.values[used], return_inverse=True)
    codes = codes.astype(np.int64)
    subject = question.source.keys.subject[used]
    n = default_permutations(subject, codes) if config.permutations is None else config.permutations
    if n == 0:
        return None

    kind = question.split.kind
    stratified = kind == "unit" or (kind != "file" and config.folds is not None)

    def score(labelling: NDArray[np.int64]) -> float:
        permuted = question.target.values.copy()
        permuted[used] = values[labelling]
        probe = prepared
        if stratified:
            split = _split(question.source, dataclasses.replace(question.target, values=permuted), config)[0]
            probe = dataclasses.replace(question, split=split).prepare(question.source.table.embedding)
        predicted = probe.predict(permuted).predicted
        r2 = float(regression_scores(permuted[tested], predicted[tested]).r2)
        return r2 if np.isfinite(r2) else 0.0  # all tested units drew one value: nothing to explain

    with reporter.progress("permutation test", None, "orders") as bar:
        return permutation_test(
            score,
            subject,
            codes,
            n,
            config.seed,
            lambda done, total: bar.update(done, f"of {total}"),
            bytes_each=prepared.bytes_each,
        )


def _warnings(
    question: _Question, missing: tuple[MissingBaseline, ...], used: NDArray[np.int64]
) -> tuple[str, ...]:
    source, target, split = question.source, question.target, question.split
    found: list[str] = []
    for kind, group, shared in (
        ("subject", source.keys.subject, not split.subjects_disjoint),
        ("session", source.keys.recording, split.kind == "unit"),
    ):
        if shared and constant_within(group[used], target.values[used]):
            found.append(
                f"Every {kind} has one {target.name} only, and this split trains and tests on the same "
                f"{kind}s: recognising the {kind} is enough to score well. Ask with --split {kind}"
            )
            break
    n_lost = int((np.isfinite(target.values) & ~source.embedded).sum())
    return (*common_warnings(source, split, missing, n_lost, f"with a {target.name}", used), *found)


def _folds(question: _Question, own: RidgePredictions) -> tuple[RegressionFold, ...]:
    folds = []
    for fold, alpha in zip(question.split.folds, own.alphas, strict=True):
        train, test = fold.train[question.usable[fold.train]], fold.test[question.usable[fold.test]]
        r2 = spearman = None
        if alpha is not None and len(test) > 1:
            scores = regression_scores(question.target.values[test], own.predicted[test])
            r2 = float(scores.r2) if np.isfinite(scores.r2) else None
            spearman = float(scores.spearman) if np.isfinite(scores.spearman) else None
        folds.append(
            RegressionFold(fold.name, len(train), len(test) if alpha is not None else 0, alpha, r2, spearman)
        )
    return tuple(folds)
