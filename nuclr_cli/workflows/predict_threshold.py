"""When a probe abstains: the probability below which validation says that it is wrong too often."""

from __future__ import annotations

from nuclr_cli.errors import InputError
from nuclr_cli.evaluation.calibration import CalibrationReport
from nuclr_cli.evaluation.reliability import FEWEST_KEPT, THRESHOLDS, ThresholdCurve
from nuclr_cli.wording import counted
from nuclr_cli.workflows.predict_record import Threshold

DEFAULT_TARGET = 0.9
"""Share of right predictions that the default threshold aims at."""
LEAST = 0.5
"""Where that cannot be had, the default is not lower: below it a label is rather wrong than right."""
_SMALLEST_SHARE = 0.25
"""Of the validation units that such a threshold keeps, as far as `LEAST` lets it."""


def choose_threshold(
    report: CalibrationReport | None, min_probability: float | None, target_accuracy: float | None
) -> tuple[Threshold, tuple[str, ...]]:
    """The threshold that the user gave, or the lowest that reaches a validation accuracy.

    Args:
        report: Of the card; None when nothing was validated.
        min_probability, target_accuracy: As in `PredictConfig`.

    Returns:
        The threshold, and warnings.

    Raises:
        InputError: A target that the user gave cannot be reached.
    """
    if min_probability is not None:
        return _given(report, min_probability)
    target = DEFAULT_TARGET if target_accuracy is None else target_accuracy
    curve = None if report is None else report.thresholds
    value = None if curve is None else curve.lowest_reaching(target)
    if value is not None:
        why = f"the lowest at which at least {target:.0%} of the validation units are predicted right"
        return _described(report, value, why), ()
    best = None if curve is None else curve.best(_SMALLEST_SHARE)
    if best is None:
        n = 0 if curve is None else curve.n
        if target_accuracy is not None:
            raise InputError(
                f"{n} validation units are too few to choose a threshold from ({FEWEST_KEPT} are needed).",
                f"Give the threshold: --min-probability {LEAST:g}",
            )
        warning = (
            f"The probe was validated on {counted(n, 'unit')}, too few to say from which probability on it "
            f"is right: it abstains below {LEAST:g}. --min-probability sets another threshold."
        )
        return _described(report, LEAST, "too few validation units to choose one"), (warning,)
    reached, accuracy = best
    if target_accuracy is not None:
        raise InputError(
            f"No probability reaches --target-accuracy {target:g}: at best {accuracy:.0%} of the validation "
            f"units are right, at {reached:g} and above.",
            f"--target-accuracy {int(accuracy * 100) / 100:g}, or --min-probability {reached:g}",
        )
    assert curve is not None  # `best` is of it
    threshold = _described(report, max(reached, LEAST), _most_accurate(curve, reached))
    share, kept = threshold.validation_accuracy, threshold.validation_kept
    reaching = "no validation unit reaches it"
    if share is not None and kept is not None:
        reaching = f"{kept:.0%} of the validation units reach it, {share:.0%} of these are right"
    warning = (
        f"No threshold makes {target:.0%} of the validation units right. It abstains below "
        f"{threshold.value:g} ({reaching}); --min-probability sets another threshold."
    )
    return threshold, (warning,)


def _most_accurate(curve: ThresholdCurve, reached: float) -> str:
    """Why a threshold was chosen where none is as accurate as wanted.

    Args:
        curve: What each threshold keeps.
        reached: The most accurate that keeps a quarter of the units, and not fewer than `FEWEST_KEPT`.
    """
    fewest = _SMALLEST_SHARE * curve.n
    enough = "a quarter" if fewest >= FEWEST_KEPT else str(FEWEST_KEPT)
    if reached >= LEAST:
        return f"the most accurate that keeps {enough} of the validation units"
    kept, _ = curve.at(LEAST)
    if kept < max(fewest, FEWEST_KEPT):
        there = f"it kept {kept / curve.n:.0%}" if kept else "it kept none"
        return f"no threshold from {LEAST:g} on keeps {enough} of the validation units; at {LEAST:g} {there}"
    return (
        f"of the thresholds that keep {enough} of the validation units {reached:g} is the most accurate, but "
        f"below {LEAST:g} a label is rather wrong than right"
    )


def _given(report: CalibrationReport | None, value: float) -> tuple[Threshold, tuple[str, ...]]:
    """A threshold that the user gave, and a warning where the card did not count what reaches it."""
    why = "as --min-probability says"
    curve = None if report is None else report.thresholds
    if curve is None or curve.exactly_at(value) is not None:
        return _described(report, value, why), ()
    below = max(one for one in THRESHOLDS if one <= value + 1e-12)
    kept, right = curve.at(below)
    return _described(report, value, f"{why}; the card does not tell what reaches it, only hundredths"), (
        f"What reaches probability {value:g} is not known, only at hundredths up to {THRESHOLDS[-1]:g}: of "
        f"the validation units {kept / curve.n:.0%} reach {below:g}, and {right / kept:.0%} of these are "
        "right.",
    )


def _described(report: CalibrationReport | None, value: float, why: str) -> Threshold:
    counted = None if report is None else report.thresholds.exactly_at(value)
    if report is None or counted is None:
        return Threshold(value, why, None, None)
    kept, right = counted
    return Threshold(value, why, right / kept if kept else None, kept / report.thresholds.n)
