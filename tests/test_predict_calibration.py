"""Calibration with answers that are known before: planted temperatures, hand-computed errors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from nuclr_cli.evaluation.calibration import (
    FEWEST_UNITS,
    ISOTONIC_UNITS,
    Calibration,
    Curve,
    calibrate,
    fit_curves,
    fit_temperature,
)
from nuclr_cli.evaluation.reliability import THRESHOLDS, decide, reliability, threshold_curve


def drawn(
    n: int, temperature: float, seed: int = 0, n_classes: int = 3
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels drawn from softmax(logits), and what a probe says that is `temperature` times too sure."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2.0, size=(n, n_classes))
    honest = softmax(logits, axis=1)
    truth = (honest.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    return softmax(logits * temperature, axis=1), truth.astype(np.int64), rng.integers(0, 5, n)


@pytest.mark.parametrize("planted", [0.5, 1.0, 2.5])
def test_a_planted_temperature_is_found(planted: float) -> None:
    probabilities, truth, _ = drawn(4000, planted)
    assert fit_temperature(probabilities, truth) == pytest.approx(planted, rel=0.08)


def test_an_overconfident_probe_is_mended_on_units_that_it_was_not_fitted_on() -> None:
    probabilities, truth, parts = drawn(900, 3.0)
    report = calibrate(probabilities, truth, parts, "folds")
    assert report.calibration.method == "temperature"
    assert report.calibration.temperature == pytest.approx(3.0, rel=0.15)
    assert report.cross_fitted == "5 folds"
    assert report.before.ece > 0.12
    assert report.after.ece < 0.05
    assert report.after.brier < report.before.brier
    assert report.after.accuracy == report.before.accuracy
    assert str(ISOTONIC_UNITS) in report.calibration.why


def test_what_is_calibrated_already_stays() -> None:
    probabilities, truth, parts = drawn(900, 1.0)
    report = calibrate(probabilities, truth, parts, "folds")
    assert report.calibration.temperature == pytest.approx(1.0, abs=0.12)
    assert report.after.ece == pytest.approx(report.before.ece, abs=0.03)


def test_the_error_after_calibration_is_not_that_of_the_units_it_was_fitted_on() -> None:
    """Parts that err in opposite ways: calibrated on all of them nothing is left to see."""
    rng = np.random.default_rng(3)
    n = 400
    truth = rng.integers(0, 2, n)
    parts = (np.arange(n) < n // 2).astype(np.int64)
    said = np.where(rng.random(n) < np.where(parts == 1, 0.55, 0.99), truth, 1 - truth)
    probabilities = np.full((n, 2), 0.2)
    probabilities[np.arange(n), said] = 0.8
    report = calibrate(probabilities, truth, parts, "subjects")
    together = Calibration("temperature", "", fit_temperature(probabilities, truth)).apply(probabilities)
    assert reliability(together, said, truth).ece < 0.05
    assert report.rejected is not None
    assert report.rejected.after.ece > 0.15
    assert report.calibration.method == "none"


@given(st.integers(0, 2**32 - 1), st.floats(0.06, 19.0), st.integers(2, 6))
def test_a_temperature_never_changes_the_likeliest_class(seed: int, temperature: float, k: int) -> None:
    rng = np.random.default_rng(seed)
    raw = rng.dirichlet(np.full(k, 0.3), size=40)
    calibrated = Calibration("temperature", "", temperature).apply(raw)
    assert np.allclose(calibrated.sum(axis=1), 1)
    assert decide(calibrated, raw).tolist() == raw.argmax(axis=1).tolist()


def test_classes_that_a_fold_never_trained_on_stay_impossible_and_do_not_break_the_fit() -> None:
    probabilities, truth, _ = drawn(600, 2.0)
    probabilities[:200, 2] = 0
    probabilities[:200] /= probabilities[:200].sum(axis=1, keepdims=True)
    found = fit_temperature(probabilities, truth)
    assert 1 < found < 3
    calibrated = Calibration("temperature", "", found).apply(probabilities)
    assert (calibrated[:200, 2] == 0).all()
    assert np.isfinite(calibrated).all()


def test_a_probe_that_is_always_right_is_not_made_certain_by_few_units() -> None:
    probabilities = np.tile([[0.8, 0.2], [0.2, 0.8]], (20, 1))
    truth = np.tile([0, 1], 20)
    report = calibrate(probabilities, truth, np.arange(40) % 4, "folds")
    assert report.calibration.apply(probabilities).max() < 0.999


def test_the_expected_calibration_error_of_a_hand_computed_case() -> None:
    # (0.6, 0.7]: 2 units at 0.65, 1 right: |0.5 - 0.65| = 0.15. (0.8, 0.9]: 3 units at 0.9 (the edge belongs
    # to the bin below it), 3 right: 0.1. (0.9, 1]: 5 at 0.95, 4 right: 0.15.
    confidence = np.array([0.65] * 2 + [0.9] * 3 + [0.95] * 5)
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    truth = np.array([0, 1] + [0] * 3 + [0, 0, 0, 0, 1])
    found = reliability(probabilities, np.zeros(10, dtype=np.int64), truth)
    assert found.ece == pytest.approx((2 * 0.15 + 3 * 0.1 + 5 * 0.15) / 10)
    assert found.brier == pytest.approx(
        (2 * (0.35**2 + 0.65**2) + 3 * 2 * 0.1**2 + 2 * (4 * 0.05**2 + 0.95**2)) / 10
    )
    # The second class: (0, 0.1] promises 0.05 to 5 (1 true) and 0.1 to 3 (none), together 0.06875; 1 - 0.9 is
    # below 0.1 in binary. (0.3, 0.4] promises 0.35 to 2 (1 true).
    second = (abs(1 - (5 * 0.05 + 3 * 0.1)) + abs(1 - 2 * 0.35)) / 10
    assert found.class_ece == pytest.approx((found.ece + second) / 2)
    assert found.accuracy == 0.8
    assert found.confidence == pytest.approx(confidence.mean())
    assert [one.n for one in found.bins] == [0, 0, 0, 0, 0, 0, 2, 0, 3, 5]
    assert (found.bins[8].accuracy, found.bins[8].confidence) == (1.0, pytest.approx(0.9))
    assert (found.bins[0].accuracy, found.bins[0].confidence) == (None, None)


def test_few_units_or_one_part_are_left_as_they_are_and_it_says_why() -> None:
    probabilities, truth, parts = drawn(FEWEST_UNITS - 1, 3.0)
    few = calibrate(probabilities, truth, parts, "folds")
    assert (few.calibration.method, few.cross_fitted) == ("none", "")
    assert f"{FEWEST_UNITS - 1} validation units" in few.calibration.why
    assert few.after == few.before
    assert np.array_equal(few.calibration.apply(probabilities), probabilities)
    probabilities, truth, parts = drawn(60, 3.0)
    assert calibrate(probabilities, truth, np.zeros(60, dtype=np.int64), "folds").calibration.method == "none"


def test_isotonic_curves_are_chosen_when_a_temperature_cannot_mend_it() -> None:
    """A class whose probability is three times too large: scaling all logits alike cannot undo that."""
    rng = np.random.default_rng(5)
    honest = rng.beta(0.6, 2.4, 4000)
    truth = (rng.random(4000) < honest).astype(np.int64)
    odds = honest / (1 - honest) * 4
    said = np.stack([1 / (1 + odds), odds / (1 + odds)], axis=1)
    parts = rng.integers(0, 5, 4000)
    report = calibrate(said, truth, parts, "folds")
    assert report.calibration.method == "isotonic"
    assert "Brier" in report.calibration.why
    assert report.before.ece < 0.05  # too much here, too little there: the likeliest class does not show it
    assert report.before.class_ece > 0.15
    assert report.after.class_ece < 0.03
    calibrated = report.calibration.apply(said)
    assert np.allclose(calibrated.sum(axis=1), 1)
    assert np.abs(calibrated[:, 1] - honest).mean() < 0.03
    few = rng.permutation(4000)[:900]
    assert calibrate(said[few], truth[few], parts[few], "folds").calibration.method == "temperature"


def test_isotonic_curves_rise_and_a_row_that_they_empty_keeps_the_probes_word() -> None:
    probabilities, truth, _ = drawn(500, 2.0)
    for curve in fit_curves(probabilities, truth):
        assert (np.diff(curve.x) >= 0).all()
        assert (np.diff(curve.y) >= 0).all()
    nothing = Calibration("isotonic", "", curves=(Curve((0.0, 1.0), (0.0, 0.0)),) * 2)
    assert nothing.apply(np.array([[0.7, 0.3]])).tolist() == [[0.7, 0.3]]
    with pytest.raises(ValueError, match="2 curves for 3 classes"):
        nothing.apply(np.full((1, 3), 1 / 3))


def test_ties_after_calibration_are_decided_by_the_probe() -> None:
    assert decide(np.array([[0.5, 0.5], [0.5, 0.5]]), np.array([[0.6, 0.4], [0.4, 0.6]])).tolist() == [0, 1]


def test_rows_without_probabilities_stay_without() -> None:
    rows = np.array([[0.9, 0.1], [np.nan, np.nan]])
    for one in (Calibration("temperature", "", 2.0), Calibration("none", "")):
        assert np.isnan(one.apply(rows)[1]).all()
        assert np.isfinite(one.apply(rows)[0]).all()


def test_thresholds_count_what_they_keep() -> None:
    confidence = np.concatenate([np.full(20, 0.55), np.full(20, 0.8), np.full(12, 0.95)])
    right = np.concatenate([np.arange(20) < 10, np.arange(20) < 18, np.ones(12, dtype=bool)])
    curve = threshold_curve(confidence, right)
    assert curve.at(0.0) == (52, 40)
    assert curve.at(0.55) == (52, 40)
    assert curve.at(0.56) == (32, 30)
    assert curve.at(0.805) == (32, 30)  # counted at 0.80
    assert curve.at(0.81) == (12, 12)
    assert curve.lowest_reaching(0.5) == 0.0
    assert curve.lowest_reaching(0.9) == 0.56
    assert curve.lowest_reaching(1.0) == 0.81
    assert curve.best(0.25) == (0.56, 30 / 32)  # a quarter of 52 is more than the 12 that are all right
    assert curve.best(0.2) == (0.81, 1.0)
    few = threshold_curve(confidence[-9:], right[-9:])
    assert few.lowest_reaching(0.9) is None
    assert few.best(0.25) is None
    assert len(curve.kept) == len(THRESHOLDS)
