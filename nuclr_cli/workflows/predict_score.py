"""How good the probe is that predicts, and which units it was fitted on: what its own folder says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.errors import InputError
from nuclr_cli.evaluation.records import Score
from nuclr_cli.evaluation.regression import regression_rivals
from nuclr_cli.evaluation.splits import UnitKeys
from nuclr_cli.evaluation.verdicts import Rival, best_rival, classification_rivals, guessing_clause
from nuclr_cli.wording import counted
from nuclr_cli.workflows.from_json import rebuild
from nuclr_cli.workflows.predict_record import ProbeScore
from nuclr_cli.workflows.probe_card import ProbeCard, keys_sha256
from nuclr_cli.workflows.report_results import Classification, Regression, read_result

_METRICS = {"classification": ("macro_f1", "macro F1"), "regression": ("r2", "R2")}
_NOT_FITTED = ("unlabelled", "no value", "not in the split", "no embedding: never active in a window")
"""Reasons in predictions.parquet of units that the probe of probe.skops was not fitted on."""


def probe_score(card: ProbeCard) -> ProbeScore | None:
    """The score that the card keeps, of units that were not fitted on; None where it keeps none."""
    key, metric = _METRICS[card.kind]
    try:
        score = rebuild(Score, card.scores_of_the_split.get(key), key)
    except ValueError:
        return None
    return ProbeScore(metric, score.value, score.low, score.high, card.split)


def score_warnings(folder: Path, card: ProbeCard, score: ProbeScore | None) -> tuple[str, ...]:
    """That the probe is no better than guessing, and that a baseline is better.

    Baselines stand in the report.json beside the card; nothing is said of them without it, or when it is
    that of another probe.
    """
    said = []
    if card.kind == "regression" and score is not None and score.low <= 0:
        what = "it is" if score.value <= 0 else "its interval includes 0, so it may be"
        said.append(
            f"The probe has an R2 of {score.value:.3f} (95% interval {score.low:+.3f} to {score.high:+.3f}) "
            f"on units that it was not fitted on: {what} no better than one number for all."
        )
    rivals = _rivals(folder, card)
    guessing = guessing_clause(rivals)
    if guessing and not said:
        said.append(f"On units that it was not fitted on, the probe of {guessing}")
    best = best_rival(rivals, looks=True)
    gap = None if best is None else best.nuclr_minus
    if best is not None and gap is not None and gap.value < 0 and score is not None:
        lost, luck = "lost to", ""
        if gap.high >= 0:
            lost, luck = "scored below", "; the interval includes 0, so the difference may be luck"
        said.append(
            f"The probe {lost} {best.title} on the units that both were tested on: {score.metric} "
            f"{score.value:.3f} and {best.score.value:.3f}. NuCLR minus it: {gap.value:+.3f} (95% interval "
            f"{gap.low:+.3f} to {gap.high:+.3f}){luck}."
        )
    return tuple(said)


def _rivals(folder: Path, card: ProbeCard) -> Sequence[Rival]:
    """The baselines and guesses of the record beside a card; none where there is no such record."""
    try:
        result = read_result(folder / "report.json")
    except (OSError, ValueError):
        return ()
    if result.embeddings_sha256 != card.embeddings_sha256 or result.name != card.label:
        return ()
    if isinstance(result, Classification):
        return classification_rivals(result.methods)
    return regression_rivals(result.methods) if isinstance(result, Regression) else ()


def fitted_on(folder: Path, card: ProbeCard, keys: UnitKeys) -> NDArray[np.bool_] | None:
    """(N,) whether the probe was fitted on each unit; None where its folder does not say.

    The units are those of predictions.parquet that could train, if they are the ones of the card's digest.

    Args:
        folder: Of the probe.
        card: Of it.
        keys: The N units.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = ("subject", "session", "population", "unit_id")
    try:
        columns = pq.read_table(folder / "predictions.parquet", columns=[*names, "reason"]).to_pydict()
        rows = [i for i, reason in enumerate(columns["reason"]) if reason not in _NOT_FITTED]
        known = [np.array([columns[name][i] for i in rows], dtype=np.str_) for name in names]
        trained = UnitKeys(*known)
    except (OSError, pa.ArrowException, KeyError, InputError):
        return None
    if keys_sha256(trained, np.arange(len(trained))) != card.train_units_sha256:
        return None
    there = set(zip(*(column.tolist() for column in trained.columns()), strict=True))
    asked = zip(*(column.tolist() for column in keys.columns()), strict=True)
    return np.array([key in there for key in asked], dtype=np.bool_)


def fitted_text(n_fitted: int, n_asked: int) -> str:
    """That the probe has seen the answers of units that it is asked about."""
    return (
        f"The probe was fitted on {n_fitted} of {counted(n_asked, 'unit')}: what it says of them "
        "proves nothing. predictions.parquet of the probe has predictions by folds that did not see them."
    )
