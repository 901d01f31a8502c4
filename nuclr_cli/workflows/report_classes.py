"""Intervals of the per-class table: the probe's predictions resampled again, as the probe resampled them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from nuclr_cli.evaluation.bootstrap import draw_weights, interval, resampling_plan
from nuclr_cli.evaluation.metrics import ClassScore, confusion
from nuclr_cli.evaluation.records import Score
from nuclr_cli.workflows.report_results import Classification
from nuclr_cli.workflows.report_units import PredictionColumns

_AT_A_TIME = 100


@dataclass(frozen=True)
class ClassIntervals:
    """Precision, recall and F1 of a class with their intervals."""

    precision: Score
    recall: Score
    f1: Score


def class_intervals(result: Classification, columns: PredictionColumns) -> tuple[ClassIntervals, ...]:
    """Resample what the probe resampled, with its seed; one record a class.

    Raises:
        ValueError: The predictions are not those of the report.
    """
    rows = columns.prediction != ""
    code = {name: number for number, name in enumerate(result.classes)}
    names = {*columns.label[rows].tolist(), *columns.prediction[rows].tolist()}
    if names - set(code):
        raise ValueError("its classes are not those of report.json")
    truth = np.array([code[name] for name in columns.label[rows].tolist()], dtype=np.int64)
    predicted = np.array([code[name] for name in columns.prediction[rows].tolist()], dtype=np.int64)
    n = len(result.classes)
    if confusion(truth, predicted, n).tolist() != [list(row) for row in result.confusion]:
        raise ValueError("its predictions do not add up to the confusion matrix of report.json")
    plan = resampling_plan(columns.subject[rows], truth)
    weights = draw_weights(plan, result.bootstrap, result.seed)
    counts = sparse.csr_matrix(
        (np.ones(len(truth)), (plan.group, truth * n + predicted)), shape=(plan.n_groups, n * n)
    )
    precision, recall, f1 = (np.empty((len(weights), n)) for _ in range(3))
    for start in range(0, len(weights), _AT_A_TIME):
        some = slice(start, start + _AT_A_TIME)
        matrices = np.asarray((counts.T @ weights[some].T.astype(np.float64)).T).reshape(-1, n, n)
        hits = np.diagonal(matrices, axis1=1, axis2=2)
        true, guessed = matrices.sum(axis=2), matrices.sum(axis=1)
        precision[some], recall[some] = _ratio(hits, guessed), _ratio(hits, true)
        f1[some] = _ratio(2 * hits, true + guessed)
    return tuple(
        ClassIntervals(
            _score(one.precision, precision[:, k]), _score(one.recall, recall[:, k]), _score(one.f1, f1[:, k])
        )
        for k, one in enumerate(result.per_class)
    )


def without_intervals(one: ClassScore) -> ClassIntervals:
    """The values alone, where nothing can be resampled."""
    return ClassIntervals(*(Score(value, value, value) for value in (one.precision, one.recall, one.f1)))


def _ratio(top: NDArray[np.float64], bottom: NDArray[np.float64]) -> NDArray[np.float64]:
    """NaN where there is no denominator: a resample without the class says nothing about it."""
    result: NDArray[np.float64] = np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)
    return result


def _score(value: float, resampled: NDArray[np.float64]) -> Score:
    """The value and its interval over the resamples that have one; the value alone where none has."""
    if np.isnan(resampled).all():
        return Score(value, value, value)
    bounds = interval(resampled)
    return Score(value, bounds.low, bounds.high)
