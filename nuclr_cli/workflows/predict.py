"""`nuclr predict`: what a fitted probe says of units that have no label, and how far to believe it."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from nuclr_cli.errors import InputError
from nuclr_cli.evaluation.applicability import check
from nuclr_cli.evaluation.calibration import CalibrationReport
from nuclr_cli.evaluation.reliability import decide
from nuclr_cli.wording import counted
from nuclr_cli.workflows.predict_applicability import session_warnings
from nuclr_cli.workflows.predict_export import plan_export
from nuclr_cli.workflows.predict_inputs import find_table, load_fitted, require_same_encoder
from nuclr_cli.workflows.predict_record import (
    CSV_EXPORT,
    PredictConfig,
    PredictRecord,
    SessionPredictions,
    Threshold,
)
from nuclr_cli.workflows.predict_score import fitted_on, fitted_text, probe_score, score_warnings
from nuclr_cli.workflows.predict_table import Rows, write_csv
from nuclr_cli.workflows.predict_threshold import choose_threshold
from nuclr_cli.workflows.probe_card import ProbeCard, read_card, units_of
from nuclr_cli.workflows.probe_inputs import ProbeTable
from nuclr_cli.workflows.probe_report import folder_name
from nuclr_cli.workflows.reporting import Reporter, SilentReporter

VALUE = "value"
"""What `Rows.outside` says of a number outside those that the probe was fitted on."""


def predict(config: PredictConfig, reporter: Reporter | None = None) -> PredictRecord:
    """Apply a fitted probe, and write what it says.

    Raises:
        InputError: No probe, a damaged or foreign one, embeddings of another encoder, no unit to predict, a
            file that exists, or an export that does not fit.
    """
    reporter = reporter or SilentReporter()
    began = time.monotonic()
    card = read_card(config.probe)
    if card.kind == "pairs":
        raise InputError(
            f"{config.probe} is a probe of pairs of units: it says nothing about a single unit.",
            "Give a probe of a label: nuclr probe --label NAME",
        )
    csv = _csv_path(config, card.label)
    source = find_table(config, reporter)
    require_same_encoder(card, source, config.probe)
    fitted = load_fitted(config.probe, card)
    threshold: Threshold | None = None
    warnings: list[str] = []
    if card.kind == "classification":
        threshold, said = choose_threshold(card.calibration, config.min_probability, config.target_accuracy)
        warnings += said
    elif config.min_probability is not None or config.target_accuracy is not None:
        raise InputError(
            f"{card.label} is a number: its probe gives no probability to abstain by.",
            "Leave --min-probability and --target-accuracy out",
        )
    asked = _asked(config, card, source)
    outside = _outside(card, source)
    rows = _rows(card, source, fitted, threshold, asked, outside)
    score = probe_score(card)
    warnings += score_warnings(config.probe, card, score)
    fitted_rows = fitted_on(config.probe, card, source.keys)
    n_fitted = None if fitted_rows is None else int(fitted_rows[asked].sum())
    if n_fitted and not (config.all_units and card.label in source.table.labels):
        warnings.append(fitted_text(n_fitted, len(asked)))  # with --all-units it is what was asked for
    notes = _notes(config, card, source, asked, threshold, n_fitted)
    sessions = _sessions(card, source, rows)
    warnings += [f"{one.subject}/{one.session}: {text}." for one in sessions for text in one.warnings]
    plan = plan_export(config, rows, reporter) if _has_exporter(config) else None
    warnings += () if plan is None else plan.warnings
    _require_free([csv] if csv else [], config.overwrite)
    for text in notes:
        reporter.note(text)
    for text in warnings:
        reporter.warn(text)
    exported = () if plan is None else plan.run()
    if csv is not None:
        write_csv(rows, csv)
    return PredictRecord(
        probe=config.probe,
        probe_sha256=card.probe_sha256,
        label=card.label,
        kind=card.kind,
        classes=card.classes,
        run=source.table.metadata.get("run", ""),
        checkpoint=card.checkpoint,
        embeddings=source.path,
        embeddings_sha256=source.sha256,
        calibration=_calibration(card),
        expected_calibration_error=None if card.calibration is None else card.calibration.after.ece,
        threshold=threshold,
        score=score,
        n_fitted_on=n_fitted,
        n_units=len(asked),
        n_predicted=int((~rows.abstain).sum()),
        n_abstained=int(rows.abstain.sum()),
        n_without_embedding=int((~source.embedded[asked]).sum()),
        sessions=sessions,
        csv=csv,
        exporter=None if plan is None else plan.exporter.name,
        exported=exported,
        notes=(*source.notes, *notes),
        warnings=(*source.warnings, *warnings),
        seconds=time.monotonic() - began,
    )


def _has_exporter(config: PredictConfig) -> bool:
    return config.export not in (None, CSV_EXPORT)


def _csv_path(config: PredictConfig, label: str) -> Path | None:
    if config.export == CSV_EXPORT:
        return config.to
    if config.out is None and config.export is None:
        return Path(f"predicted-{folder_name(label)}.csv")
    return config.out


def _require_free(paths: list[Path], overwrite: bool) -> None:
    for path in paths:
        if path.is_dir():
            raise InputError(f"{path} is a folder.", "Name a file: -o FILE.csv")
        if path.exists() and not overwrite:
            raise InputError(f"{path} exists.", "Name another file with -o, or replace it with --overwrite")


def _calibration(card: ProbeCard) -> str | None:
    if card.kind != "classification":
        return None
    return "none" if card.calibration is None else card.calibration.calibration.method


def _asked(config: PredictConfig, card: ProbeCard, source: ProbeTable) -> NDArray[np.int64]:
    """Rows to predict, in the order of the table.

    Raises:
        InputError: There is none.
    """
    keys = source.keys
    inside = np.ones(len(keys), dtype=np.bool_)
    if config.session is not None:
        inside = np.array(
            [config.session in (a, b) for a, b in zip(keys.session, keys.recording, strict=True)]
        )
        if not inside.any():
            there = sorted(set(keys.recording.tolist()))
            raise InputError(
                f"There is no session {config.session!r} in {source.path}.",
                f"Sessions: {', '.join(there[:8])}{', ...' if len(there) > 8 else ''}",
            )
    known = _known(card, source)
    wanted = inside if config.all_units else inside & (known == "")
    if not wanted.any():
        where = f" of session {config.session}" if config.session else ""
        raise InputError(
            f"Every unit{where} in {source.path} has a {card.label} already.",
            "Add --all-units to predict these, or give other embeddings: --embeddings FILE",
        )
    return np.flatnonzero(wanted)


def _known(card: ProbeCard, source: ProbeTable) -> NDArray[np.str_]:
    """(N,) label of each unit as the table has it, '' = none."""
    none = np.full(len(source.keys), "", dtype=np.str_)
    return source.table.labels.get(card.label, none)


def _outside(card: ProbeCard, source: ProbeTable) -> list[tuple[str, ...]]:
    if card.applicability is None:
        return [()] * len(source.keys)
    return check(card.applicability, units_of(source))


def _rows(
    card: ProbeCard,
    source: ProbeTable,
    fitted: object,
    threshold: Threshold | None,
    asked: NDArray[np.int64],
    outside: list[tuple[str, ...]],
) -> Rows:
    seen = source.embedded[asked]
    values = source.table.embedding[asked[seen]].astype(np.float64)
    probability = np.full((len(asked), len(card.classes)), np.nan)
    label = np.full(len(asked), "", dtype=object)
    reason = np.where(seen, "", "no embedding: never active in a window").astype(object)
    beyond = np.zeros(len(asked), dtype=np.bool_)
    if len(values):
        with threadpool_limits(1):
            if threshold is None:
                numbers = fitted.predict(values).ravel()  # type: ignore[attr-defined]
                label[seen] = [f"{number:.7g}" for number in numbers]
                beyond[seen] = _beyond(card, numbers)
            else:
                raw = fitted.predict_proba(values)  # type: ignore[attr-defined]
                shares = raw if card.calibration is None else card.calibration.calibration.apply(raw)
                probability[seen] = shares
                label[seen] = np.array(card.classes, dtype=object)[decide(shares, raw)]
    if threshold is not None:
        with np.errstate(invalid="ignore"):
            low = seen & (probability.max(axis=1) < threshold.value)
        reason[low] = f"probability below {threshold.value:g}"
    return Rows(
        card=card,
        source=source,
        row=asked,
        label=label.astype(np.str_),
        probability=probability,
        reason=reason.astype(np.str_),
        outside=tuple(
            outside[row] + ((VALUE,) if extreme else ())
            for row, extreme in zip(asked.tolist(), beyond.tolist(), strict=True)
        ),
        known=_known(card, source)[asked],
    )


def _beyond(card: ProbeCard, numbers: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether predicted numbers are outside those that the probe was fitted on."""
    if card.target_range is None:
        return np.zeros(len(numbers), dtype=np.bool_)
    return np.asarray((numbers < card.target_range.low) | (numbers > card.target_range.high))


def _notes(
    config: PredictConfig,
    card: ProbeCard,
    source: ProbeTable,
    asked: NDArray[np.int64],
    threshold: Threshold | None,
    n_fitted: int | None,
) -> tuple[str, ...]:
    notes = [f"{source.path}: {counted(len(asked), 'unit')} to predict."]
    if card.label not in source.table.labels:
        told = f"The embeddings have no column {card.label}, so they do not say which units have one already"
        if n_fitted == 0:
            told += "; the probe was fitted on none of these"
        notes.append(f"{told}.")
    elif config.all_units and n_fitted:
        notes.append(fitted_text(n_fitted, len(asked)))
    elif config.all_units and n_fitted is None:
        trained = int(((_known(card, source) != "") & source.embedded)[asked].sum())
        if trained:
            notes.append(
                f"{counted(trained, 'unit has', 'units have')} a {card.label} already: the probe may have "
                "been fitted on it: what it says of them proves nothing. predictions.parquet of the probe "
                "has predictions by folds that did not see them."
            )
    if card.calibration is not None:
        how = card.calibration.calibration
        before, after = card.calibration.before, card.calibration.after
        error = f"calibration error {before.ece:.3f} ({before.class_ece:.3f} a class)"
        notes.append(
            _uncalibrated(card.calibration, error)
            if how.method == "none"
            else f"Probabilities are calibrated ({how.method}, {card.calibration.n_units} validation units): "
            f"{error} before, {after.ece:.3f} ({after.class_ece:.3f}) after, cross-fitted over "
            f"{card.calibration.cross_fitted}."
        )
    if threshold is not None:
        what = (
            f"Abstains below probability {threshold.value:g}"
            if threshold.value
            else "Abstains on no probability"
        )
        notes.append(f"{what}: {threshold.why}.")
    return tuple(notes)


def _uncalibrated(report: CalibrationReport, error: str) -> str:
    """That probabilities are the probe's own, and why."""
    why = report.calibration.why.rstrip(".")
    if report.rejected is None:
        return f"Probabilities are not calibrated ({why}); {error}."
    return f"Probabilities are {why[:1].lower()}{why[1:]}; {error} as they are."


def _sessions(card: ProbeCard, source: ProbeTable, rows: Rows) -> tuple[SessionPredictions, ...]:
    """One record a population, in the order of their first unit."""
    units = units_of(source)
    result = []
    place = np.full(len(source.keys), -1)
    place[rows.row] = np.arange(len(rows.row))
    for name in dict.fromkeys(units.population[rows.row].tolist()):
        population = units.populations[name]
        inside = place[population]
        inside = inside[inside >= 0]
        first = int(population[0])
        found = [rows.outside[i] for i in inside.tolist()]
        given = rows.given[inside]
        result.append(
            SessionPredictions(
                subject=str(source.keys.subject[first]),
                session=str(source.keys.session[first]),
                population=str(source.keys.population[first]),
                n_units=len(inside),
                labels=dict(sorted(Counter(given[given != ""].tolist()).items())) if card.classes else {},
                n_abstained=int(rows.abstain[inside].sum()),
                n_without_embedding=int((~source.embedded[rows.row[inside]]).sum()),
                n_outside=sum(map(bool, found)),
                warnings=()
                if card.applicability is None
                else session_warnings(card.applicability, units, population, found),
            )
        )
    return tuple(result)
