"""Probabilities that mean what they say: temperature or isotonic calibration, fitted on validation units.

Fitted on the out-of-fold predictions of the probe's own split, so no unit calibrates a probe that it
trained. A correction is kept only where it helps units that it was not fitted on: few validation units may
well make probabilities worse. The result is a handful of numbers: scikit-learn's CalibratedClassifierCV would
have to be trusted to load from a file, and fits as many probes as there are folds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from nuclr_cli.evaluation.reliability import Reliability, ThresholdCurve, decide, reliability, threshold_curve

Method = Literal["temperature", "isotonic", "none"]

FEWEST_UNITS = 20
"""Below so many validation units nothing is calibrated."""
ISOTONIC_UNITS = 1000
"""From so many validation units on (and `ISOTONIC_PER_CLASS` of each class) isotonic curves are tried."""
ISOTONIC_PER_CLASS = 100

_LOWEST_T, _HIGHEST_T = 0.05, 20.0


@dataclass(frozen=True)
class Curve:
    """A rising piecewise linear function: knots `x` and their values `y`; constant outside."""

    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Calibration:
    """How a probability is corrected.

    Attributes:
        method: ``temperature``: p_k ** (1 / T), divided by the sum (Guo et al. 2017, arXiv 1706.04599): the
            order of the classes stays. ``isotonic``: one rising curve for each class, divided by the sum.
            ``none``: as the probe gives it.
        why: Why this method.
        temperature: T; above 1 the probe was too sure, below 1 too unsure.
        curves: K curves of the isotonic method, in the order of the classes; () otherwise.
    """

    method: Method
    why: str
    temperature: float = 1.0
    curves: tuple[Curve, ...] = ()

    def apply(self, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, K) corrected probabilities; rows of NaN stay NaN.

        Raises:
            ValueError: Isotonic curves for another number of classes.
        """
        if self.method == "none":
            return probabilities
        if self.method == "temperature":
            return _tempered(probabilities, self.temperature)
        if len(self.curves) != probabilities.shape[1]:
            raise ValueError(f"{len(self.curves)} curves for {probabilities.shape[1]} classes")
        columns = [
            np.interp(column, curve.x, curve.y)
            for column, curve in zip(probabilities.T, self.curves, strict=True)
        ]
        raised = np.stack(columns, axis=1)
        total = raised.sum(axis=1, keepdims=True)
        # A row that every curve sends to 0 keeps what the probe said.
        return np.where(total > 0, raised / np.where(total > 0, total, 1.0), probabilities)


@dataclass(frozen=True)
class Trial:
    """A correction that was tried, and not kept.

    Attributes:
        method: ``temperature`` or ``isotonic``.
        cross_fitted: As in `CalibrationReport`, of the trial.
        after: What the probabilities would have been worth, cross-fitted.
    """

    method: Method
    cross_fitted: str
    after: Reliability


@dataclass(frozen=True)
class CalibrationReport:
    """A calibration, and what it does to units that it was not fitted on.

    Attributes:
        calibration: Fitted on all validation units.
        n_units: Validation units.
        cross_fitted: What `after` and `thresholds` rest on: each part predicted by a calibration fitted
            on the others (``4 folds``); empty when nothing is corrected.
        before: Of the probe's own probabilities.
        after: Of those that `calibration` gives, cross-fitted; `before` when nothing is corrected.
        thresholds: Accuracy by threshold of those that `calibration` gives, cross-fitted.
        rejected: The correction that would have made probabilities worse; None where one was kept, or none
            was tried.
    """

    calibration: Calibration
    n_units: int
    cross_fitted: str
    before: Reliability
    after: Reliability
    thresholds: ThresholdCurve
    rejected: Trial | None = None


def calibrate(
    probabilities: NDArray[np.float64],
    truth: NDArray[np.int64],
    parts: NDArray[np.int64],
    parts_name: str,
) -> CalibrationReport:
    """Choose and fit a calibration, or none where it does not help, see `helps`.

    Args:
        probabilities: (n, K) out-of-fold probabilities of the probe, no NaN, n > 0. 0 for a class that the
            fold never trained on.
        truth: (n,) class codes.
        parts: (n,) which part each unit belongs to; parts are what cross-fitting leaves out.
        parts_name: What a part is, in the plural (``folds``, ``subjects``).
    """
    n_parts = len(np.unique(parts))
    before = _judge(probabilities, probabilities, truth)
    if len(truth) < FEWEST_UNITS or n_parts < 2:
        found = f"{len(truth)} validation units" if n_parts > 1 else "one part of the validation units"
        needed = f"{FEWEST_UNITS} are" if n_parts > 1 else "two parts are"
        return CalibrationReport(
            calibration=Calibration("none", f"{found}: {needed} needed to calibrate."),
            n_units=len(truth),
            cross_fitted="",
            before=before[0],
            after=before[0],
            thresholds=before[1],
        )
    cross_fitted = f"{n_parts} {parts_name}"
    tried = [
        (calibration, *_judge(held_out, probabilities, truth))
        for calibration, held_out in _candidates(probabilities, truth, parts)
    ]
    for calibration, after, thresholds in tried:
        if helps(calibration.method, before[0], after):
            return CalibrationReport(
                calibration=calibration,
                n_units=len(truth),
                cross_fitted=cross_fitted,
                before=before[0],
                after=after,
                thresholds=thresholds,
            )
    calibration, after, _ = tried[0]
    trial = Trial(calibration.method, cross_fitted, after)
    return CalibrationReport(
        calibration=Calibration("none", _refusal(before[0], trial)),
        n_units=len(truth),
        cross_fitted="",
        before=before[0],
        after=before[0],
        thresholds=before[1],
        rejected=trial,
    )


def helps(method: Method, before: Reliability, after: Reliability) -> bool:
    """Whether a correction makes probabilities better on units that it was not fitted on.

    Args:
        method: Of the correction.
        before: Without it.
        after: With it, cross-fitted.
    """
    # The Brier score judges first. It is proper: lowest for probabilities that are true. The calibration
    # error is not (promising everybody the mean accuracy brings it to 0), and with few units it is mostly the
    # noise of its bins, which one unit across an edge moves. Log loss is proper, too, but has no finite value
    # where an isotonic curve, or a fold that never trained on it, gives the true class 0.
    if after.brier >= before.brier:
        return False
    # And nothing is called calibrated whose calibration error rose: a correction that is worth something
    # lowers both, and where the two disagree there is little to gain.
    if after.ece <= before.ece:
        return True
    # Too much of a rare class and as much too little of a frequent one cancel in the likeliest class, so its
    # error may be near 0 before. Curves, unlike one temperature, mend that class by class.
    return method == "isotonic" and before.class_ece - after.class_ece > after.ece - before.ece


def _refusal(before: Reliability, trial: Trial) -> str:
    """Why a correction is not kept."""
    after = trial.after
    error = f"ECE from {_pair(before.ece, after.ece)}"
    brier = f"the Brier score from {_pair(before.brier, after.brier)}"
    if after.brier == before.brier:
        would = f"left the Brier score at {before.brier:.4f}"
    elif after.brier < before.brier:
        would = f"raised {error}"
    elif after.ece > before.ece:
        would = f"raised {error}, and {brier}"
    else:
        would = f"raised {brier}"
    return (
        f"Left uncorrected: calibration would have {would} ({trial.method}, cross-fitted over "
        f"{trial.cross_fitted})."
    )


def _pair(before: float, after: float) -> str:
    """``0.069 to 0.089``, with as many digits as tell the two apart."""
    digits = next((n for n in range(3, 16) if f"{before:.{n}f}" != f"{after:.{n}f}"), 16)
    return f"{before:.{digits}f} to {after:.{digits}f}"


def fit_temperature(probabilities: NDArray[np.float64], truth: NDArray[np.int64]) -> float:
    """The temperature of least log loss, held towards 1 by as much as one unit counts.

    Without that hold, validation units that are all right would call for T = 0. Units of a class that their
    fold never trained on have no finite loss and take no part.

    Args:
        probabilities: (n, K).
        truth: (n,) class codes.
    """
    with np.errstate(divide="ignore"):
        logits = np.log(probabilities)
    own = logits[np.arange(len(truth)), truth]
    possible = np.isfinite(own)
    logits, own = logits[possible], own[possible]

    def loss(log_t: float) -> float:
        t = np.exp(log_t)
        return float((logsumexp(logits / t, axis=1) - own / t).sum() + 0.5 * log_t**2)

    bounds = (np.log(_LOWEST_T), np.log(_HIGHEST_T))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def fit_curves(probabilities: NDArray[np.float64], truth: NDArray[np.int64]) -> tuple[Curve, ...]:
    """One isotonic curve a class: its probability against whether it was the true one.

    Args:
        probabilities: (n, K).
        truth: (n,) class codes.
    """
    from sklearn.isotonic import IsotonicRegression

    curves = []
    for code, column in enumerate(probabilities.T):
        fitted = IsotonicRegression(y_min=0.0, y_max=1.0).fit(column, (truth == code).astype(np.float64))
        curves.append(Curve(_plain(fitted.X_thresholds_), _plain(fitted.y_thresholds_)))
    return tuple(curves)


def _candidates(
    probabilities: NDArray[np.float64], truth: NDArray[np.int64], parts: NDArray[np.int64]
) -> list[tuple[Calibration, NDArray[np.float64]]]:
    """Calibrations, best first, and what the kind of each gives to every part when fitted on the others."""

    def temperature(p: NDArray[np.float64], t: NDArray[np.int64]) -> Calibration:
        return Calibration("temperature", "", temperature=fit_temperature(p, t))

    def isotonic(p: NDArray[np.float64], t: NDArray[np.int64]) -> Calibration:
        return Calibration("isotonic", "", curves=fit_curves(p, t))

    tempered = _cross_fitted(temperature, probabilities, truth, parts)
    counts = np.bincount(truth, minlength=probabilities.shape[1])
    smallest = int(counts.min())
    if len(truth) < ISOTONIC_UNITS or smallest < ISOTONIC_PER_CLASS:
        why = (
            f"One number suits {len(truth)} validation units, {smallest} of the smallest class; isotonic "
            f"curves are tried from {ISOTONIC_UNITS} and {ISOTONIC_PER_CLASS} on."
        )
        return [(dataclasses.replace(temperature(probabilities, truth), why=why), tempered)]
    curved = _cross_fitted(isotonic, probabilities, truth, parts)
    scores = [_judge(one, probabilities, truth)[0].brier for one in (tempered, curved)]
    why = f"Cross-fitted Brier score: isotonic {scores[1]:.4f}, temperature {scores[0]:.4f}."
    both = [
        (dataclasses.replace(fit(probabilities, truth), why=why), held_out)
        for fit, held_out in ((temperature, tempered), (isotonic, curved))
    ]
    return both[::-1] if scores[1] < scores[0] else both


def _cross_fitted(
    fit: Callable[[NDArray[np.float64], NDArray[np.int64]], Calibration],
    probabilities: NDArray[np.float64],
    truth: NDArray[np.int64],
    parts: NDArray[np.int64],
) -> NDArray[np.float64]:
    result = np.empty_like(probabilities)
    for part in np.unique(parts):
        inside = parts == part
        result[inside] = fit(probabilities[~inside], truth[~inside]).apply(probabilities[inside])
    return result


def _judge(
    probabilities: NDArray[np.float64], raw: NDArray[np.float64], truth: NDArray[np.int64]
) -> tuple[Reliability, ThresholdCurve]:
    predicted = decide(probabilities, raw)
    confidence = probabilities[np.arange(len(truth)), predicted]
    return reliability(probabilities, predicted, truth), threshold_curve(confidence, predicted == truth)


def _tempered(probabilities: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    with np.errstate(divide="ignore"):
        logits = np.log(probabilities) / temperature
    scaled: NDArray[np.float64] = np.exp(logits - logsumexp(logits, axis=1, keepdims=True))
    return scaled


def _plain(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
