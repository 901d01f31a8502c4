"""The law of a sweep: found where it was planted, not where there is none, never claimed from too little."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from nuclr_cli.evaluation.scaling_forms import compare_forms, fit_saturating
from nuclr_cli.evaluation.scaling_law import MIN_POINTS, ScalingFit, fit_scaling

SIZES = np.repeat(2.0 ** np.arange(8), 3)


def fit(sizes: object, values: object, *, falls: bool = True, n_resamples: int = 200) -> ScalingFit:
    bounds = (-math.inf, math.inf) if falls else (0.0, 1.0)
    return fit_scaling(
        list(sizes),  # type: ignore[call-overload]
        list(values),  # type: ignore[call-overload]
        score="loss" if falls else "macro F1",
        size="subjects",
        falls=falls,
        bounds=bounds,
        n_resamples=n_resamples,
    )


def noise(seed: int, n: int = len(SIZES)) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=n)


@pytest.mark.parametrize("falls", [True, False])
@pytest.mark.parametrize("exponent", [0.4, 0.8])
def test_a_planted_law_is_recovered(falls: bool, exponent: float) -> None:
    limit, scale = (2.5, 3.0) if falls else (0.8, 0.5)
    curve = limit + (scale if falls else -scale) * SIZES**-exponent
    found = fit(SIZES, curve + 0.004 * scale * noise(1), falls=falls)
    assert found.status == "law", found.says
    assert found.law is not None
    for name, truth in (("limit", limit), ("scale", scale), ("exponent", exponent)):
        estimate = getattr(found.law, name)
        assert estimate.value == pytest.approx(truth, rel=0.06), name
        assert estimate.low < estimate.value < estimate.high, name
    assert found.law.resampled == "seeds within points"
    assert found.law.curve_y[0] == pytest.approx(curve[0], rel=0.02)
    assert all(
        low <= y <= high
        for low, y, high in zip(found.law.curve_low, found.law.curve_y, found.law.curve_high, strict=True)
    )
    assert found.trend is not None
    assert found.trend.per_doubling is not None
    assert (found.trend.per_doubling.value < 0) == falls


def test_the_intervals_of_a_planted_law_hold_the_truth_most_times() -> None:
    held = 0
    for seed in range(20):
        found = fit(SIZES, 2.5 + 3.0 * SIZES**-0.6 + 0.03 * noise(seed), n_resamples=100)
        assert found.law is not None, found.says
        held += found.law.exponent.low <= 0.6 <= found.law.exponent.high
    assert held >= 13, held  # 88 % in 200 such sets: three seeds are few


def test_one_seed_a_point_draws_errors_instead() -> None:
    sizes = 2.0 ** np.arange(12)
    found = fit(sizes, 2.5 + 3.0 * sizes**-0.6 + 0.01 * noise(3, 12))
    assert found.law is not None, found.says
    assert found.law.resampled == "residuals (normal)"
    assert found.law.exponent.low < 0.6 < found.law.exponent.high
    assert any("rough guide" in text for text in found.says)


@pytest.mark.parametrize("sizes", [SIZES, np.arange(1.0, 7.0), np.repeat(np.arange(1.0, 9.0), 3)])
def test_noise_alone_is_no_trend(sizes: np.ndarray) -> None:
    statuses = Counter(
        fit(sizes, 0.5 + 0.05 * noise(seed, len(sizes)), falls=False, n_resamples=1).status
        for seed in range(150)
    )
    assert statuses["no trend"] >= 135, statuses
    assert statuses["law"] <= 3, statuses


def test_a_logarithm_is_a_trend_and_no_law() -> None:
    found = fit(SIZES, 3.0 - 0.1 * np.log(SIZES) + 0.01 * noise(5))
    assert (found.status, found.law) == ("trend", None)
    assert found.forms[0].name == "logarithm"
    assert "do not support" in found.says[0]


def test_a_score_that_gets_worse_is_no_law() -> None:
    found = fit(SIZES, 3.0 + 0.5 * SIZES**0.4 + 0.01 * noise(6))
    assert found.status == "trend"
    assert found.trend is not None
    assert found.trend.spearman == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("n_points", range(1, MIN_POINTS))
def test_below_six_sizes_only_the_trend_is_told(n_points: int) -> None:
    sizes = np.repeat(2.0 ** np.arange(n_points), 3)
    found = fit(sizes, 2.5 + 3.0 * sizes**-0.6 + 0.01 * noise(7, len(sizes)))
    assert (found.status, found.law, found.forms) == ("not identifiable", None, ())
    assert "not identifiable" in found.says[0]
    assert found.n_points == n_points
    assert found.trend is not None
    assert (found.trend.per_doubling is None) == (n_points == 1)


def test_data_without_information() -> None:
    equal = fit(SIZES, np.full(len(SIZES), 0.25))
    assert (equal.status, equal.law) == ("no trend", None)
    assert equal.says[-1] == "All values are equal."
    nothing = fit(SIZES, [math.nan] * len(SIZES))
    assert (nothing.status, nothing.n_dropped) == ("no values", len(SIZES))
    single = fit([3.0], [1.0])
    assert single.status == "not identifiable"
    assert single.trend is not None
    assert single.trend.per_doubling is None
    assert fit([], []).status == "no values"
    two = fit([1.0, 2.0], [1.0, 0.5])
    assert two.trend is not None
    assert two.trend.spearman == pytest.approx(-1.0)
    assert two.trend.per_doubling is None
    with pytest.raises(ValueError, match="positive"):
        fit([0.0, 1.0], [1.0, 2.0])


def test_missing_values_are_left_out_and_counted() -> None:
    values = (2.5 + 3.0 * SIZES**-0.6 + 0.01 * noise(8)).tolist()
    values[4], values[9] = None, math.inf
    found = fit(SIZES, values)
    assert (found.status, found.n_values, found.n_dropped) == ("law", 22, 2)


def test_a_perfect_law_is_fitted_to_the_last_digits() -> None:
    sizes = np.array([1.2e4, 3e4, 1e5, 3e5, 1e6, 6e6])
    law = fit_saturating(sizes, 1.5 + 80.0 * sizes**-0.35, 1, (-math.inf, math.inf))
    assert (law.limit, law.scale, law.exponent) == pytest.approx((1.5, 80.0, 0.35), rel=1e-3)


def test_the_limit_keeps_to_its_bounds() -> None:
    rising = 0.2 + 0.2 * np.log(SIZES)  # beyond 1 at the end
    law = fit_saturating(SIZES, rising, -1, (0.0, 1.0))
    assert 0.0 <= law.limit <= 1.0
    assert law.scale >= 0.0
    wrong_way = fit_saturating(SIZES, -rising, -1, (-math.inf, math.inf))
    assert wrong_way.scale == pytest.approx(0.0, abs=1e-6)


def test_aicc_counts_what_it_should() -> None:
    """By hand: n ln(RSS / n) + 2k + 2k(k+1)/(n-k-1), k with the variance."""
    sizes, values = 2.0 ** np.arange(6), np.array([1.0, 0.7, 0.6, 0.4, 0.45, 0.3])
    forms = {form.name: form for form in compare_forms(sizes, values, 1, (-math.inf, math.inf))}
    rss = float(((values - values.mean()) ** 2).sum())
    assert forms["no trend"].aicc == pytest.approx(6 * math.log(rss / 6) + 4 + 12 / 3)
    line = np.polyfit(np.log(sizes), values, 1)
    rss = float(((values - np.polyval(line, np.log(sizes))) ** 2).sum())
    assert forms["logarithm"].aicc == pytest.approx(6 * math.log(rss / 6) + 6 + 24 / 2)
    assert forms["saturating power law"].aicc > forms["logarithm"].aicc
    assert min(form.delta for form in forms.values()) == 0.0
