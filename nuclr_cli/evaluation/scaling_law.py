"""Whether a score follows a law as something grows, and how sure that is.

The question is asked in this order: are there enough points; is there any trend beyond chance; is it a power
law that levels off rather than a simpler curve. A law is reported only when all three are yes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from nuclr_cli.evaluation.bootstrap import LEVEL, interval
from nuclr_cli.evaluation.scaling_forms import (
    CONSTANT,
    EXPONENTS,
    SATURATING,
    FloatArray,
    FormFit,
    Saturating,
    compare_forms,
    fit_saturating,
)

MIN_POINTS = 6
"""Different sizes below which three parameters cannot be told from the data."""
CLEAR = 2.0
"""Difference in AICc from which one curve is preferred to another (Burnham and Anderson 2002)."""

Status = Literal["law", "trend", "no trend", "not identifiable", "no values"]


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Trend:
    """How a score changes with the logarithm of the size.

    Attributes:
        spearman: Rank correlation over all values; None where sizes or values do not differ.
        per_doubling: Slope of the straight line in log2(size), with the interval of normal errors; None with
            fewer than three values, or one size.
    """

    spearman: float | None
    per_doubling: Estimate | None


@dataclass(frozen=True)
class Law:
    """y = limit + sign * scale * x^-exponent.

    Attributes:
        limit, scale, exponent: With percentile intervals of the bootstrap.
        sign: 1 falls, -1 rises.
        resampled: What the bootstrap drew: ``seeds within points``, or ``residuals (normal)`` where a point
            has one seed.
        n_resamples: How often.
        curve_x, curve_y, curve_low, curve_high: The fitted curve over the sizes measured, and its band.
    """

    limit: Estimate
    scale: Estimate
    exponent: Estimate
    sign: int
    resampled: str
    n_resamples: int
    curve_x: tuple[float, ...]
    curve_y: tuple[float, ...]
    curve_low: tuple[float, ...]
    curve_high: tuple[float, ...]


@dataclass(frozen=True)
class ScalingFit:
    """What one score says about scaling.

    Attributes:
        score: Name of the score.
        status: ``law``; ``trend`` (but no law); ``no trend``; ``not identifiable`` (too few sizes) or
            ``no values``.
        says: The same in sentences.
        n_points, n_values: Different sizes, and values over all seeds.
        n_dropped: Values that were no finite number.
        trend: None without values.
        forms: Curves compared, best first; () below `MIN_POINTS` sizes.
        law: The fitted law, None unless `status` is ``law``.
    """

    score: str
    status: Status
    says: tuple[str, ...]
    n_points: int
    n_values: int
    n_dropped: int
    trend: Trend | None = None
    forms: tuple[FormFit, ...] = ()
    law: Law | None = None


def fit_scaling(
    sizes: Sequence[float],
    values: Sequence[float | None],
    *,
    score: str,
    size: str,
    falls: bool,
    bounds: tuple[float, float] = (-math.inf, math.inf),
    n_resamples: int = 1000,
    seed: int = 0,
) -> ScalingFit:
    """Judge the values of all seeds.

    Args:
        sizes: (n,) positive; equal ones are seeds of one point.
        values: (n,); None and NaN are left out and counted.
        score, size: What they are, for the sentences.
        falls: Whether a better score is a lower one.
        bounds: Of the limit.
        n_resamples: Of the bootstrap.
        seed: Of the bootstrap.
    """
    x_all = np.asarray(sizes, dtype=np.float64)
    y_all = np.array([math.nan if value is None else value for value in values], dtype=np.float64)
    if (x_all <= 0).any() or not np.isfinite(x_all).all():
        raise ValueError("sizes must be positive and finite")
    usable = np.isfinite(y_all)
    x, y = x_all[usable], y_all[usable]
    n_points, n_dropped = len(np.unique(x)), int((~usable).sum())
    if not len(y):
        return ScalingFit(score, "no values", (f"{score}: no values.",), 0, 0, n_dropped)
    trend = _trend(x, y)
    told = _trend_sentence(trend, size)
    says: tuple[str, ...]
    if n_points < MIN_POINTS:
        says = (
            f"{score}: a law is not identifiable from {n_points} size{'s' if n_points > 1 else ''} "
            f"(at least {MIN_POINTS} are needed).",
            told,
        )
        return ScalingFit(score, "not identifiable", says, n_points, len(y), n_dropped, trend)
    sign = 1 if falls else -1
    forms = compare_forms(x, y, sign, bounds)
    by_name = {form.name: form for form in forms}
    flat, best = by_name[CONSTANT], forms[0]
    if flat.delta <= CLEAR:
        says = (f"{score}: no trend; {_preferred(flat, forms)}.", told)
        return ScalingFit(score, "no trend", says, n_points, len(y), n_dropped, trend, forms)
    if best.name != SATURATING:
        law_form = by_name[SATURATING]
        says = (
            f"{score}: there is a trend, but the data do not support a saturating power law: the {best.name} "
            f"describes them better ({_versus(law_form, best)}).",
            told,
        )
        return ScalingFit(score, "trend", says, n_points, len(y), n_dropped, trend, forms)
    law = _law(x, y, sign, bounds, n_resamples, seed)
    says = (_law_sentence(score, size, law), *_caveats(forms, law, bounds, len(y)), told)
    return ScalingFit(score, "law", says, n_points, len(y), n_dropped, trend, forms, law)


def _preferred(flat: FormFit, forms: Sequence[FormFit]) -> str:
    rival = next(form for form in forms if form.name != CONSTANT)
    if flat is forms[0]:
        return f"a constant describes the values best (next: {rival.name}, AICc {_plus(rival.delta)})"
    return f"a constant describes the values as well as any curve ({_versus(flat, forms[0])})"


def _versus(form: FormFit, best: FormFit) -> str:
    return f"AICc of the {form.name} {_plus(form.delta)} above the {best.name}'s"


def _plus(delta: float) -> str:
    return "infinitely" if math.isinf(delta) else f"{delta:.1f}"


def _trend(x: FloatArray, y: FloatArray) -> Trend:
    if len(np.unique(x)) < 2:
        return Trend(None, None)
    if np.ptp(y) == 0:
        return Trend(None, Estimate(0.0, 0.0, 0.0) if len(y) > 2 else None)
    spearman = float(stats.spearmanr(x, y).statistic)
    if len(y) < 3:
        return Trend(spearman, None)
    line = stats.linregress(np.log2(x), y)
    reach = float(stats.t.ppf(0.5 + LEVEL / 2.0, len(y) - 2) * line.stderr)
    slope = float(line.slope)
    return Trend(spearman, Estimate(slope, slope - reach, slope + reach))


def _trend_sentence(trend: Trend, size: str) -> str:
    slope = trend.per_doubling
    if slope is None:
        return f"Too few values for a trend with {size}."
    if slope.value == slope.low == slope.high == 0.0:
        return "All values are equal."
    rank = "" if trend.spearman is None else f"; Spearman correlation {trend.spearman:+.2f}"
    sure = "which includes 0" if slope.low <= 0.0 <= slope.high else "which excludes 0"
    return (
        f"Each doubling of {size} changes it by {slope.value:+.3g} (95% interval {slope.low:+.3g} to "
        f"{slope.high:+.3g}, {sure}){rank}."
    )


def _law(
    x: FloatArray, y: FloatArray, sign: int, bounds: tuple[float, float], n_resamples: int, seed: int
) -> Law:
    fitted = fit_saturating(x, y, sign, bounds)
    draw, resampled = _resampling(x, y, fitted)
    rng = np.random.default_rng(seed)
    again = [fit_saturating(x, draw(rng), sign, bounds) for _ in range(n_resamples)]
    curve_x = np.geomspace(x.min(), x.max(), 60)
    curves = np.stack([one.at(curve_x) for one in again])
    tail = 100.0 * (1.0 - LEVEL) / 2.0
    low, high = np.percentile(curves, [tail, 100.0 - tail], axis=0)

    def estimate(name: str) -> Estimate:
        spread = interval(np.array([getattr(one, name) for one in again]))
        return Estimate(getattr(fitted, name), spread.low, spread.high)

    return Law(
        estimate("limit"),
        estimate("scale"),
        estimate("exponent"),
        sign,
        resampled,
        n_resamples,
        tuple(curve_x.tolist()),
        tuple(fitted.at(curve_x).tolist()),
        tuple(low.tolist()),
        tuple(high.tolist()),
    )


def _resampling(
    x: FloatArray, y: FloatArray, fitted: Saturating
) -> tuple[Callable[[np.random.Generator], FloatArray], str]:
    """Values of another sweep of the same sizes: other seeds where each point has some, else other errors."""
    members = [np.flatnonzero(x == size) for size in np.unique(x)]
    if min(len(rows) for rows in members) > 1:

        def draw_seeds(rng: np.random.Generator) -> FloatArray:
            drawn = y.copy()
            for rows in members:
                mean, m = y[rows].mean(), len(rows)
                # m values drawn from m vary less than m new ones would, by (m - 1) / m.
                drawn[rows] = mean + math.sqrt(m / (m - 1)) * (y[rng.choice(rows, m)] - mean)
            return drawn

        return draw_seeds, "seeds within points"
    curve = fitted.at(x)
    spread = math.sqrt(float(((y - curve) ** 2).sum()) / (len(y) - 3))

    def draw_errors(rng: np.random.Generator) -> FloatArray:
        return curve + spread * rng.normal(size=len(curve))

    return draw_errors, "residuals (normal)"


def _law_sentence(score: str, size: str, law: Law) -> str:
    sign = "+" if law.sign > 0 else "-"
    return (
        f"{score} = {law.limit.value:.4g} {sign} {law.scale.value:.4g} * ({size})^-{law.exponent.value:.3g}; "
        f"95% intervals: limit {_range(law.limit)}, exponent {_range(law.exponent)} "
        f"(bootstrap, {law.n_resamples} x {law.resampled})."
    )


def _range(estimate: Estimate) -> str:
    return f"{estimate.low:.4g} to {estimate.high:.4g}"


def _caveats(
    forms: Sequence[FormFit], law: Law, bounds: tuple[float, float], n_values: int
) -> tuple[str, ...]:
    found = []
    rival = forms[1]
    if rival.delta <= CLEAR:
        found.append(
            f"The {rival.name} describes the values almost as well (AICc {rival.delta:.1f} higher), so "
            "whether there is a limit, and where, is not settled."
        )
    if law.exponent.value <= 1.01 * EXPONENTS[0] or law.exponent.value >= 0.99 * EXPONENTS[1]:
        found.append(f"The exponent stands at its bound ({EXPONENTS[0]} to {EXPONENTS[1]}): distrust it.")
    if any(math.isclose(law.limit.value, bound, abs_tol=1e-6) for bound in bounds):
        found.append(f"The limit stands at its bound, {law.limit.value:g}: distrust it.")
    if n_values < 3 * MIN_POINTS:
        found.append("With few seeds the intervals are a rough guide.")
    return tuple(found)
