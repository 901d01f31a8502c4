"""`nuclr probe --label-fractions`: how many labels NuCLR and its baselines need."""

from __future__ import annotations

import csv
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nuclr_cli.errors import InputError
from nuclr_cli.evaluation.baselines import Representation, chance_scores
from nuclr_cli.evaluation.bootstrap import interval, resampling_plan
from nuclr_cli.evaluation.label_efficiency import FULL_SHARE, Curve, efficiency_curves
from nuclr_cli.evaluation.probes import DEFAULT_C, NESTED
from nuclr_cli.evaluation.records import NUCLR, Score
from nuclr_cli.evaluation.split_files import split_document
from nuclr_cli.workflows.label_efficiency_plot import plot_curves
from nuclr_cli.workflows.probe_ask import ask
from nuclr_cli.workflows.probe_baselines import MissingBaseline
from nuclr_cli.workflows.probe_card import checkpoint_of
from nuclr_cli.workflows.probe_common import common_warnings, run_id
from nuclr_cli.workflows.probe_folder import result_folder
from nuclr_cli.workflows.probe_inputs import Knowledge, knowledge, read_table
from nuclr_cli.workflows.probe_leaks import shortcut
from nuclr_cli.workflows.probe_question import Question
from nuclr_cli.workflows.probe_record import ProbeConfig
from nuclr_cli.workflows.probe_report import replacing_folder, versions, write_document
from nuclr_cli.workflows.probe_rivals import Rivals
from nuclr_cli.workflows.reporting import Reporter, SilentReporter

DEFAULT_REPEATS = 10
DEFAULT_FRACTIONS = (0.01, 0.03, 0.1, 0.3, 1.0)


@dataclass(frozen=True)
class LabelEfficiencyConfig:
    """What the user asked for.

    Attributes:
        probe: Label, split, variant and so on, as for a probe with all labels.
        fractions: Of the labelled training units, each in (0, 1]; 1 is added when it is not among them.
        repeats: Draws of which units are labelled, at least 1.
    """

    probe: ProbeConfig
    fractions: tuple[float, ...] = DEFAULT_FRACTIONS
    repeats: int = DEFAULT_REPEATS

    def __post_init__(self) -> None:
        bad = [value for value in self.fractions if not 0 < value <= 1]
        if bad or not self.fractions:
            shown = ", ".join(f"{value:g}" for value in bad) or "none"
            raise InputError(
                f"--label-fractions must lie above 0 and at most at 1, and there is: {shown}.",
                f"{in_percent(bad)}They are fractions, not percent: 0.1 is 10 %. For example "
                "--label-fractions 0.01,0.03,0.1,0.3,1",
            )
        if self.repeats < 1:
            raise InputError(f"--repeats {self.repeats} is below 1.", "The default is 10")
        if self.probe.parent is not None:
            raise InputError("--label-fractions does not go with --parent.", "Ask one label at a time")

    @property
    def asked(self) -> tuple[float, ...]:
        """The fractions, ascending, with 1."""
        return tuple(sorted({*self.fractions, 1.0}))

    @property
    def name(self) -> str:
        """Of the folder: a curve of fewer points or draws does not take the place of a fuller one."""
        name = "label-efficiency"
        if self.repeats != DEFAULT_REPEATS:
            name += f"-repeats-{self.repeats}"
        if self.asked != DEFAULT_FRACTIONS:
            name += "-fractions-" + "_".join(f"{value:g}" for value in self.asked)
        return name


@dataclass(frozen=True)
class LabelEfficiencyRecord:
    """What came out; report.json holds the same.

    Attributes:
        folder: Where everything was written.
        label, classes, variant, balance, c: The question, and the probe.
        split, split_how, knowledge, knowledge_why: As in the record of a probe.
        curves: NuCLR first.
        missing_baselines: Those that could not be computed.
        full_share: Share of the score with all labels that `Needed` speaks of.
        n_tested: Units that are predicted, at every fraction the same.
        resampled, n_resampled: What the intervals are over, besides the draws.
        repeats: Draws of which units are labelled.
        notes, warnings: What else the reader should know.
        run, checkpoint, embeddings, embeddings_sha256: What was probed.
        seed, bootstrap, versions, seconds: As in the record of a probe.
    """

    folder: Path
    label: str
    classes: tuple[str, ...]
    variant: str
    balance: str
    c: float | str
    split: str
    split_how: str
    knowledge: Knowledge
    knowledge_why: str
    curves: tuple[Curve, ...]
    missing_baselines: tuple[MissingBaseline, ...]
    full_share: float
    n_tested: int
    resampled: str
    n_resampled: int
    repeats: int
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    run: str
    checkpoint: str
    embeddings: Path
    embeddings_sha256: str
    seed: int
    bootstrap: int
    versions: dict[str, str]
    seconds: float
    kind: str = "label_efficiency"


def in_percent(values: Sequence[float]) -> str:
    """The option for values that are likely percent, as the beginning of a sentence; '' where none can be."""
    if not values or not all(0 < value <= 100 for value in values):
        return ""
    return f"Did you mean --label-fractions {','.join(f'{value / 100:g}' for value in values)}? "


def label_efficiency(
    config: LabelEfficiencyConfig, reporter: Reporter | None = None
) -> LabelEfficiencyRecord:
    """Probe with ever fewer labels, beside every baseline on the same units, and write the folder.

    Raises:
        InputError: As `nuclr_cli.workflows.probe.probe`.
    """
    reporter = reporter or SilentReporter()
    began = time.monotonic()
    asked_of = config.probe
    _ = asked_of.recipe
    source = read_table(asked_of.run, asked_of.embeddings, asked_of.runs, reporter)
    if asked_of.run is None and asked_of.embeddings is None and source.run is not None:
        reporter.note(f"run {source.run.record.name}, the newest (--run chooses another)")
    asked = ask(source, asked_of)
    for text in asked.notes:
        reporter.note(text)
    question = asked.question
    tested = question.tested
    plan = resampling_plan(source.keys.subject[tested], question.codes[tested])

    def curves_of(methods: Sequence[Representation]) -> tuple[Curve, ...]:
        with reporter.progress("label efficiency", len(methods), "methods") as bar:
            return efficiency_curves(
                methods,
                question.codes,
                len(question.classes),
                question.split,
                question.usable,
                question.variant,
                plan,
                fractions=config.asked,
                repeats=config.repeats,
                n_resamples=asked_of.bootstrap,
                seed=asked_of.seed,
                done=bar.update,
            )

    curves = curves_of([Representation(NUCLR, "NuCLR", source.table.embedding)])
    if asked_of.c == NESTED and not curves[0].c_chosen:
        raise InputError(
            f"--C nested chooses among each fold's training {question.split.grouped_by}s, and no fold of "
            "this split has enough of them, even with all labels.",
            f"Label more {question.split.grouped_by}s, or keep --C 1",
        )
    described, missing = Rivals(source, [question.used], asked_of.data, asked_of.baselines, reporter).of(
        question.used
    )
    if described:
        curves += curves_of(described)
    status, why = knowledge(source, question.split)
    fit_notes = tuple(note for curve in curves for note in _fit_notes(curve, question))
    warnings = (*asked.warnings, *_warnings(question, missing, asked_of.seed))
    for text in (*plan.notes, *fit_notes):
        reporter.note(text)
    for text in warnings:
        reporter.warn(text)
    folder = result_folder(source, question.split, asked_of)
    record = LabelEfficiencyRecord(
        folder=folder.with_name(f"{folder.name}-{config.name}"),
        label=asked_of.label,
        classes=question.classes,
        variant=question.variant.name,
        balance=question.variant.balance,
        c=asked_of.c,
        split=question.split.kind,
        split_how=question.split.how,
        knowledge=status,
        knowledge_why=why,
        curves=curves,
        missing_baselines=missing,
        full_share=FULL_SHARE,
        n_tested=len(tested),
        resampled=plan.unit,
        n_resampled=plan.n_groups,
        repeats=config.repeats,
        notes=(*source.notes, *asked.notes, *plan.notes, *fit_notes),
        warnings=(*source.warnings, *warnings),
        run=run_id(source),
        checkpoint=checkpoint_of(source.table.metadata),
        embeddings=source.path,
        embeddings_sha256=source.sha256,
        seed=asked_of.seed,
        bootstrap=asked_of.bootstrap,
        versions=versions(),
        seconds=time.monotonic() - began,
    )
    with replacing_folder(record.folder) as written:
        write_document(split_document(question.split), written / "split.json", indent=None)
        _write_table(curves, written / "curve.csv")
        title = f"{record.label}, split by {record.split}, {record.n_tested} units tested, {record.knowledge}"
        plot_curves(curves, title, written / "curve.png")
        write_document(record, written / "report.json")
    return record


def _warnings(question: Question, missing: Sequence[MissingBaseline], seed: int) -> tuple[str, ...]:
    """As a probe with all labels has them."""
    source, split = question.source, question.split
    n_lost = int(((question.codes >= 0) & ~source.embedded).sum())
    what = f"with a {question.labels.name}"
    guessed = chance_scores(question.codes, len(question.classes), split, question.usable, seed=seed).macro_f1
    bounds = interval(guessed)
    told = shortcut(question, Score(float(guessed.mean()), bounds.low, bounds.high))
    found = common_warnings(source, split, missing, n_lost, what, question.used)
    return (*found, *([told] if told else []))


def _fit_notes(curve: Curve, question: Question) -> tuple[str, ...]:
    """Which fits of a curve are not what was asked for, by fraction."""
    grouped_by, n_most = question.split.grouped_by, question.variant.max_iter
    cases = (
        (
            "n_default_c",
            f"the labelled {grouped_by}s did not allow a choice of C, so that C = {DEFAULT_C:g},",
        ),
        ("n_unconverged", f"the probe did not converge in {n_most} iterations"),
    )
    notes = []
    for name, text in cases:
        counts = [(point, getattr(point, name)) for point in curve.points if getattr(point, name)]
        if counts:
            shown = ", ".join(f"{n} of {point.n_fits} fits with {point.fraction:g}" for point, n in counts)
            notes.append(f"{curve.title}: {text} in {shown} of the labels.")
    return tuple(notes)


def _write_table(curves: Sequence[Curve], path: Path) -> None:
    """One row a method and fraction."""
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["method", "fraction", "n_labelled", "macro_f1", "low", "high", "sd_of_draws"])
        for curve in curves:
            for point in curve.points:
                spread = float(np.std(point.draws, ddof=1)) if len(point.draws) > 1 else ""
                score = point.macro_f1
                rows.writerow(
                    [curve.name, point.fraction, point.n_labelled, score.value, score.low, score.high, spread]
                )
