"""`nuclr probe --pairs`: how well a linear probe tells connected pairs of units from others."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.errors import InputError
from nuclr_cli.evaluation.pair_splits import DEFAULT_PAIR_FOLDS, PairSplit, split_pairs, units_of_pairs
from nuclr_cli.evaluation.pairs import (
    PairFeatures,
    PairInput,
    PairPredictions,
    Strength,
    cross_predict_pairs,
)
from nuclr_cli.evaluation.probes import NESTED
from nuclr_cli.evaluation.ranking import (
    PairMethod,
    PairPlan,
    compare_pairs,
    pair_plan,
    pair_verdict,
    ranking_scores,
)
from nuclr_cli.evaluation.records import NUCLR
from nuclr_cli.evaluation.splits import LEFT_OUT, Split, unit_split
from nuclr_cli.wording import counted
from nuclr_cli.workflows.pair_baselines import pair_inputs
from nuclr_cli.workflows.pair_table import PairTable, read_pairs
from nuclr_cli.workflows.probe_baselines import MissingBaseline
from nuclr_cli.workflows.probe_card import checkpoint_of
from nuclr_cli.workflows.probe_common import common_warnings, place_of, run_id
from nuclr_cli.workflows.probe_inputs import (
    AUTO_SUBJECTS,
    Labels,
    ProbeTable,
    choose_split,
    knowledge,
    read_table,
)
from nuclr_cli.workflows.probe_pairs_folder import write_pairs_folder
from nuclr_cli.workflows.probe_pairs_record import PairFeatureRecord, PairFoldRecord, PairsConfig, PairsRecord
from nuclr_cli.workflows.probe_report import versions
from nuclr_cli.workflows.reporting import Reporter, SilentReporter

_TAKES_PART = "paired"


@dataclass(frozen=True)
class _Question:
    """What all methods share.

    Attributes:
        source: The table of embeddings.
        table: The pairs.
        split: Who trains and who is tested.
        strength: C, or nested.
        seed: As configured.
    """

    source: ProbeTable
    table: PairTable
    split: PairSplit
    strength: Strength
    seed: int

    @property
    def embedded(self) -> NDArray[np.bool_]:
        """(P,) whether both units have an embedding."""
        return _embedded(self.source, self.table)

    @property
    def own(self) -> PairInput:
        return PairInput(NUCLR, "NuCLR", units=self.source.table.embedding)

    def predict(self, described: PairInput, kind: PairFeatures) -> PairPredictions:
        return cross_predict_pairs(
            described, kind, self.split, self.table.connected, self.strength, self.seed
        )


def _embedded(source: ProbeTable, table: PairTable) -> NDArray[np.bool_]:
    return np.asarray(source.embedded[table.pre] & source.embedded[table.post])


def probe_pairs(config: PairsConfig, reporter: Reporter | None = None) -> PairsRecord:
    """Probe which pairs are connected, compare with every baseline on the same pairs, and write the folder.

    Raises:
        InputError: No embeddings, a table of pairs that cannot be right, too few pairs for the split, or
            nowhere to write.
    """
    reporter = reporter or SilentReporter()
    began = time.monotonic()
    source = read_table(config.run, config.embeddings, config.runs, reporter)
    if config.run is None and config.embeddings is None and source.run is not None:
        reporter.note(f"run {source.run.record.name}, the newest (--run chooses another)")
    table = read_pairs(config.pairs, source)
    units, choices = _split_units(source, table, config)
    split = split_pairs(units, table.pre, table.post, _embedded(source, table))
    question = _Question(source, table, split, _strength(config.c), config.seed)
    notes = (*table.notes, *choices, *units.remarks, *_left_out(question))
    for text in notes:
        reporter.note(text)

    own = {kind: question.predict(question.own, kind) for kind in config.kinds}
    tested = np.isfinite(own[config.kinds[0]].score)
    _require_both_classes(question, tested)
    used = (split.trains | (split.fold_of >= 0)) & question.embedded
    others, missing = pair_inputs(
        source, table.pre, table.post, used, config.data, reporter, config.baselines
    )
    plan = pair_plan(
        source.keys.subject[table.pre[tested]],
        source.keys.recording[table.pre[tested]],
        table.pre[tested],
        table.post[tested],
    )
    results, scores, more = _compare(question, own, others, missing, tested, plan, config, reporter)
    status, why = knowledge(source, units)
    in_pairs = units_of_pairs(table.pre, table.post)
    n_lost = int((~source.embedded[in_pairs]).sum())
    order = source.keys.order
    takes_part = (units.fold != LEFT_OUT) & source.embedded & np.isin(np.arange(len(order)), in_pairs)
    rows = order[takes_part[order]]
    found = common_warnings(source, units, missing, n_lost, "of the pairs", rows)
    warnings = (*units.warnings, *found)
    for text in (*plan.notes, *more):
        reporter.note(text)
    for text in warnings:
        reporter.warn(text)
    record = PairsRecord(
        folder=_folder(source, table, units, config),
        pairs=config.pairs,
        pairs_sha256=table.sha256,
        main=config.kinds[0],
        results=results,
        verdict=results[0].verdict,
        missing_baselines=missing,
        split=units.kind,
        split_how=units.how,
        knowledge=status,
        knowledge_why=why,
        resampled=plan.unit,
        n_resampled=plan.n_groups,
        subjects=tuple(sorted(set(source.keys.subject[table.pre].tolist()))),
        test_subjects=tuple(sorted(set(source.keys.subject[table.pre[tested]].tolist()))),
        n_pairs=len(table.pre),
        n_connected=int(table.connected.sum()),
        n_units=len(in_pairs),
        n_tested=int(tested.sum()),
        n_tested_connected=int(table.connected[tested].sum()),
        n_across=int((split.across & question.embedded).sum()),
        n_without_embedding=int((~question.embedded).sum()),
        n_not_in_split=int((~split.in_split).sum()),
        notes=(*source.notes, *notes, *plan.notes, *more),
        warnings=(*source.warnings, *warnings),
        run=run_id(source),
        checkpoint=checkpoint_of(source.table.metadata),
        embeddings=source.path,
        embeddings_sha256=source.sha256,
        seed=config.seed,
        bootstrap=config.bootstrap,
        versions=versions(),
        seconds=time.monotonic() - began,
    )
    write_pairs_folder(record, source, table, split, own, scores, question.strength)
    return record


def _folder(source: ProbeTable, table: PairTable, units: Split, config: PairsConfig) -> Path:
    """Where the result lies: a folder of its own when another table of that name has one already."""
    suffix = config.features if config.folds is None else f"{config.features}-folds-{config.folds}"
    folder = place_of(
        source,
        f"pairs-{table.name}",
        units,
        config.split,
        suffix,
        config.baselines,
        sorted(config.test_subjects),
    )
    try:
        there = json.loads((folder / "report.json").read_text(encoding="utf-8"))["pairs_sha256"]
    except (OSError, ValueError, TypeError, KeyError):  # no result, or one that nobody can read
        return folder
    return folder if there == table.sha256 else folder.with_name(f"{folder.name}-{table.sha256[:8]}")


def _strength(c: float | str) -> Strength:
    return NESTED if isinstance(c, str) else c


def _split_units(source: ProbeTable, table: PairTable, config: PairsConfig) -> tuple[Split, tuple[str, ...]]:
    """Split the units that are in pairs: by subject when three carry pairs, else by session, else by unit."""
    rows = units_of_pairs(table.pre, table.post)
    takes_part = np.full(len(source.keys), "", dtype=f"<U{len(_TAKES_PART)}")
    takes_part[rows] = _TAKES_PART
    kind, notes = config.split, []
    n_subjects = len(set(source.keys.subject[rows].tolist()))
    n_sessions = len(set(source.keys.recording[rows].tolist()))
    if kind == "auto":
        kind = "subject"
        if not config.test_subjects and n_subjects < AUTO_SUBJECTS:
            kind = "session" if n_sessions >= AUTO_SUBJECTS else "unit"
            notes.append(
                f"Split by {kind}: only {counted(n_subjects, 'subject carries', 'subjects carry')} pairs (a "
                f"subject split is the default from {AUTO_SUBJECTS} on). It says nothing about new animals."
            )
    if kind != "unit" or config.test_subjects:
        split, more = choose_split(
            source, Labels("pairs", takes_part), kind, config.test_subjects, config.folds, config.seed
        )
        return split, (*notes, *more)
    return _parts_of_units(source, rows, config), tuple(notes)


def _parts_of_units(source: ProbeTable, rows: NDArray[np.int64], config: PairsConfig) -> Split:
    """Parts of the units, each with as many of every session as the others."""
    n_folds = DEFAULT_PAIR_FOLDS if config.folds is None else config.folds
    if not 2 <= n_folds <= len(rows) // 2:
        raise InputError(
            f"{counted(n_folds, 'part')} of {counted(len(rows), 'unit')} that are in pairs do not fit: a "
            "part with fewer than 2 units tests no pair.",
            f"Choose --folds from 2 to {len(rows) // 2}" if len(rows) >= 4 else "Give more pairs",
        )
    strata = np.full(len(source.keys), "", dtype=source.keys.recording.dtype)
    strata[rows] = source.keys.recording[rows]
    if np.unique(strata[rows], return_counts=True)[1].min() < n_folds:
        strata[rows] = strata[rows[0]]
    split = unit_split(source.keys, strata, n_folds, config.seed)
    how = (
        f"{n_folds} parts of units: a fold tests the pairs inside its part and trains on those wholly "
        "outside; units of one population train and test"
    )
    return dataclasses.replace(split, how=how)


def _left_out(question: _Question) -> tuple[str, ...]:
    """One sentence for each reason why pairs are not tested."""
    split, embedded = question.split, question.embedded
    cases = (
        (int((~embedded).sum()), "take no part: a unit has no embedding (never active in a window)"),
        (int((~split.in_split).sum()), "take no part: a unit is not in the split"),
        (
            int((split.across & embedded).sum()),
            "are never tested: their units lie in different parts of the split",
        ),
    )
    return tuple(f"{n} of {len(embedded)} pairs {text}." for n, text in cases if n)


def _require_both_classes(question: _Question, tested: NDArray[np.bool_]) -> None:
    connected = question.table.connected
    n_hits = int(connected[tested].sum())
    if 0 < n_hits < tested.sum():
        return
    sides = [
        f"fold {fold.name!r} trains on {int(connected[fold.train].sum())} connected of "
        f"{len(fold.train)} pairs and tests {int(connected[fold.test].sum())} of {len(fold.test)}"
        for fold in question.split.folds[:3]
    ]
    raise InputError(
        f"With this {question.split.units.kind} split the pairs that can be tested are not of both kinds: "
        f"{'; '.join(sides)}{'; ...' if len(question.split.folds) > 3 else ''}.",
        "Give more pairs, or choose other parts: --folds 2, --seed, --split FILE.csv",
    )


def _compare(
    question: _Question,
    own: dict[PairFeatures, PairPredictions],
    others: tuple[PairInput, ...],
    missing: tuple[MissingBaseline, ...],
    tested: NDArray[np.bool_],
    plan: PairPlan,
    config: PairsConfig,
    reporter: Reporter,
) -> tuple[tuple[PairFeatureRecord, ...], dict[PairFeatures, list[PairMethod]], tuple[str, ...]]:
    """Score every method with every kind of features on the same pairs.

    Returns:
        The results, the scores of the tested pairs by every method, and notes.
    """
    connected = question.table.connected[tested]
    results: list[PairFeatureRecord] = []
    scores: dict[PairFeatures, list[PairMethod]] = {}
    notes: list[str] = []
    progress = reporter if others else SilentReporter()
    with progress.progress("baselines", len(others) * len(own), "methods") as bar:
        for kind, predictions in own.items():
            scores[kind] = [PairMethod(NUCLR, "NuCLR", predictions.score[tested])]
            notes += [note for note in predictions.notes if note not in notes]
            for other in others:
                found = question.predict(other, kind)
                scores[kind].append(PairMethod(other.name, other.title, found.score[tested]))
                notes += [f"{other.title}: {note}" for note in found.notes if note not in notes]
                bar.update(sum(map(len, scores.values())) - len(scores), f"{other.title}, {kind}")
            methods = compare_pairs(
                connected,
                scores[kind][0],
                scores[kind][1:],
                plan,
                n_resamples=config.bootstrap,
                seed=config.seed,
            )
            results.append(
                PairFeatureRecord(
                    kind,
                    pair_verdict(methods, [one.title for one in missing]),
                    methods,
                    _folds(question, predictions),
                )
            )
    return tuple(results), scores, tuple(notes)


def _folds(question: _Question, predictions: PairPredictions) -> tuple[PairFoldRecord, ...]:
    connected, folds = question.table.connected, []
    for fold, strength in zip(question.split.folds, predictions.strengths, strict=True):
        hits = int(connected[fold.test].sum())
        average = area = None
        if strength is not None and 0 < hits < len(fold.test):
            scores = ranking_scores(connected[fold.test], predictions.score[fold.test])
            average, area = float(scores.average_precision), float(scores.roc_auc)
        folds.append(
            PairFoldRecord(
                name=fold.name,
                n_train=len(fold.train),
                n_test=len(fold.test),
                n_across=fold.n_across,
                n_train_connected=int(connected[fold.train].sum()),
                n_test_connected=hits,
                c=strength,
                average_precision=average,
                roc_auc=area,
            )
        )
    return tuple(folds)
