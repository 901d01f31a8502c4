"""Curves that a score may follow as something grows, each fitted by least squares and counted by AICc.

``no trend``: y = c. ``logarithm``: y = c + m ln x. ``power law without limit``: y = a x^p.
``saturating power law``: y = limit + a x^-b where y falls, y = limit - a x^-b where it rises, a >= 0, b > 0
(the form that Hestness et al., arXiv 1712.00409, fit to generalisation errors).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, minimize_scalar

FloatArray = NDArray[np.float64]

CONSTANT, LOGARITHM, POWER, SATURATING = (
    "no trend",
    "logarithm",
    "power law without limit",
    "saturating power law",
)
EXPONENTS = (0.02, 4.0)
"""Bounds of b. Below, the curve is a logarithm; above, a step after the first point."""

_GRID = np.geomspace(*EXPONENTS, 80)
_EXACT = 1e-12
"""Residuals of this share of the largest value count as none: rounding must not decide between curves."""


@dataclass(frozen=True)
class Saturating:
    """Parameters of y = limit + sign * scale * x^-exponent."""

    limit: float
    scale: float
    exponent: float
    sign: int

    def at(self, x: FloatArray) -> FloatArray:
        """The curve at x."""
        values: FloatArray = self.limit + self.sign * self.scale * x**-self.exponent
        return values


@dataclass(frozen=True)
class FormFit:
    """One curve fitted to n values.

    Attributes:
        name: Which curve.
        parameters: Fitted values by name.
        rss: Sum of squared residuals.
        aicc: Akaike's criterion with the correction for few values; infinite where there are too few.
        delta: Above the lowest of the curves compared.
    """

    name: str
    parameters: Mapping[str, float]
    rss: float
    aicc: float
    delta: float = 0.0


def fit_saturating(x: FloatArray, y: FloatArray, sign: int, bounds: tuple[float, float]) -> Saturating:
    """Bounded least squares: the best exponent of a grid, then all three parameters together.

    Args:
        x: (n,) positive.
        y: (n,) finite.
        sign: 1 = falls towards the limit, -1 = rises.
        bounds: Of the limit; infinite ones are replaced by ten ranges of y beyond y.
    """
    low, high = _finite_bounds(y, bounds)
    unit = float(x.min())
    log_x = np.log(x / unit)
    limits, scales, rss = _grid_fits(np.exp(-_GRID[:, None] * log_x), y, sign, (low, high))
    best = int(np.argmin(rss))

    def residual(p: FloatArray) -> FloatArray:
        difference: FloatArray = p[0] + sign * p[1] * np.exp(-p[2] * log_x) - y
        return difference

    def slopes(p: FloatArray) -> FloatArray:
        z = sign * np.exp(-p[2] * log_x)
        return np.stack([np.ones_like(z), z, -p[1] * log_x * z], axis=1)

    most = max(float(scales.max()), float(np.ptp(y)), _tiny(y)) * 1e3
    start = np.array([limits[best], scales[best], _GRID[best]])
    lower, upper = np.array([low, 0.0, EXPONENTS[0]]), np.array([high, most, EXPONENTS[1]])
    # The solver wants a start within the bounds, not on them.
    margin = 1e-9 * (upper - lower)
    solved = least_squares(
        residual, np.clip(start, lower + margin, upper - margin), slopes, bounds=(lower, upper), x_scale="jac"
    )
    limit, scale, exponent = start if rss[best] <= 2.0 * solved.cost else solved.x
    return Saturating(float(limit), float(scale * unit**exponent), float(exponent), sign)


def _finite_bounds(y: FloatArray, bounds: tuple[float, float]) -> tuple[float, float]:
    reach = 10.0 * max(float(np.ptp(y)), _tiny(y))
    low = bounds[0] if math.isfinite(bounds[0]) else float(y.min()) - reach
    high = bounds[1] if math.isfinite(bounds[1]) else float(y.max()) + reach
    return low, high


def _tiny(y: FloatArray) -> float:
    return max(1e-9 * float(np.abs(y).max()), 1e-12)


def _grid_fits(
    z: FloatArray, y: FloatArray, sign: int, bounds: tuple[float, float]
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """For each of (G, n) shapes z the best limit (within bounds) and scale (0 or more), and the rss: (G,)."""
    low, high = bounds
    z = sign * z
    mean_z, mean_y = z.mean(axis=1), float(y.mean())
    centred = z - mean_z[:, None]
    spread = (centred**2).sum(axis=1)
    slope = np.divide(
        centred @ (y - mean_y), spread, out=np.zeros(len(z)), where=spread > np.finfo(float).tiny
    )
    square = (z**2).sum(axis=1)
    candidates = [(mean_y - slope * mean_z, slope)]
    # On the edges of the box: no slope, or the limit at one of its bounds.
    candidates.append((np.full(len(z), min(max(mean_y, low), high)), np.zeros(len(z))))
    for edge in (low, high):
        candidates.append((np.full(len(z), edge), np.maximum((z @ (y - edge)) / square, 0.0)))
    limits, scales = (np.stack(values) for values in zip(*candidates, strict=True))
    rss = ((limits[..., None] + scales[..., None] * z - y) ** 2).sum(axis=2)
    rss[(scales < 0.0) | (limits < low) | (limits > high)] = np.inf
    best, every = np.argmin(rss, axis=0), np.arange(len(z))
    return limits[best, every], scales[best, every], rss[best, every]


def compare_forms(
    x: FloatArray, y: FloatArray, sign: int, bounds: tuple[float, float]
) -> tuple[FormFit, ...]:
    """Fit every curve to (n,) values, lowest AICc first; arguments as in `fit_saturating`."""
    unit = float(np.exp(np.log(x).mean()))
    log_x = np.log(x / unit)
    law = fit_saturating(x, y, sign, bounds)
    fits = [
        _form(CONSTANT, {"value": float(y.mean())}, y - y.mean(), y, 1),
        _logarithm(log_x, y, unit),
        _power(log_x, y, unit),
        _form(
            SATURATING,
            {"limit": law.limit, "scale": law.scale, "exponent": law.exponent},
            y - law.at(x),
            y,
            3,
        ),
    ]
    fits.sort(key=lambda fit: (fit.aicc, len(fit.parameters)))
    lowest = fits[0].aicc
    return tuple(
        FormFit(fit.name, fit.parameters, fit.rss, fit.aicc, _difference(fit.aicc, lowest)) for fit in fits
    )


def _difference(aicc: float, lowest: float) -> float:
    return 0.0 if aicc == lowest else aicc - lowest


def _form(
    name: str, parameters: Mapping[str, float], residual: FloatArray, y: FloatArray, n_free: int
) -> FormFit:
    """AICc of normal errors of one unknown size, which is a parameter, too."""
    n, k = len(y), n_free + 1
    rss = float((residual**2).sum())
    if n - k - 1 < 1:
        return FormFit(name, parameters, rss, math.inf)
    # The square of a small share underflows, as where all values are 0; its logarithm must not.
    floor = n * max((_EXACT * float(np.abs(y).max())) ** 2, float(np.finfo(float).tiny))
    aicc = n * math.log(max(rss, floor) / n) + 2 * k + 2 * k * (k + 1) / (n - k - 1)
    return FormFit(name, parameters, rss, aicc)


def _logarithm(log_x: FloatArray, y: FloatArray, unit: float) -> FormFit:
    design = np.stack([np.ones_like(log_x), log_x], axis=1)
    (level, slope), *_ = np.linalg.lstsq(design, y, rcond=None)
    parameters = {"value_at_1": float(level - slope * math.log(unit)), "per_e_fold": float(slope)}
    return _form(LOGARITHM, parameters, y - level - slope * log_x, y, 2)


def _power(log_x: FloatArray, y: FloatArray, unit: float) -> FormFit:
    """y = a x^p of any sign; for each p the best a is known, so one number is searched."""

    def level(p: float) -> float:
        z = np.exp(p * log_x)
        return float(y @ z / (z @ z))

    def cost(p: float) -> float:
        return float(((level(p) * np.exp(p * log_x) - y) ** 2).sum())

    powers = [*(-_GRID[::-1]).tolist(), 0.0, *_GRID.tolist()]
    best = min(range(len(powers)), key=lambda i: cost(powers[i]))
    around = (powers[max(best - 1, 0)], powers[min(best + 1, len(powers) - 1)])
    found = minimize_scalar(cost, bounds=around, method="bounded", options={"xatol": 1e-9})
    p = float(found.x) if found.fun <= cost(powers[best]) else powers[best]
    parameters = {"scale": level(p) * unit**-p, "power": p}
    return _form(POWER, parameters, y - level(p) * np.exp(p * log_x), y, 2)
