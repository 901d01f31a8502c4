"""Plots as data: lines, points and bands by the number of a colour; the page's script draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

INK, QUIET = -1, -2
"""Colours by number: 0 is the accent, the others follow; these two are the text's and a pale one."""

MOST_POINTS = 2000
"""Of one line or cloud: more would not be told apart on a screen."""


@dataclass(frozen=True)
class Axis:
    """An axis; `bounds` in the units of the data, None = as the data."""

    title: str
    bounds: tuple[float, float] | None = None
    log: bool = False
    ticks: tuple[float, ...] = ()


@dataclass(frozen=True)
class Line:
    """One line, cloud or band.

    Attributes:
        name: In the legend; empty = not in it.
        x, y: Where; None is a gap.
        color: By number.
        low, high: A band around it; () = none.
        mode: How it is drawn.
        width: Of the line.
        dash: Of the line.
        opacity: Of all of it.
        symbol: Of the points, by number.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    color: int = 0
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    mode: Literal["lines", "markers", "lines+markers"] = "lines"
    width: float = 2.0
    dash: str = "solid"
    opacity: float = 1.0
    symbol: int = 0


@dataclass(frozen=True)
class Chart:
    """One plot."""

    name: str
    x: Axis
    y: Axis
    lines: tuple[Line, ...]

    def document(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "x": _axis(self.x),
            "y": _axis(self.y),
            "lines": [_line(one) for one in self.lines],
        }


def _axis(axis: Axis) -> dict[str, Any]:
    document: dict[str, Any] = {"title": axis.title}
    if axis.bounds is not None:
        document["bounds"] = list(axis.bounds)
    if axis.log:
        document["log"] = True
    if axis.ticks:
        document["ticks"] = list(axis.ticks)
    return document


def _line(line: Line) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": line.name,
        "x": rounded(line.x),
        "y": rounded(line.y),
        "color": line.color,
        "mode": line.mode,
        "width": line.width,
        "dash": line.dash,
        "opacity": line.opacity,
        "symbol": line.symbol,
    }
    if len(line.low):
        document |= {"low": rounded(line.low), "high": rounded(line.high)}
    return document


def rounded(values: Sequence[float | None]) -> list[float | None]:
    """Six digits are enough for a screen; what is no finite number is null."""
    return [
        None if value is None or not np.isfinite(value) else float(f"{float(value):.6g}") for value in values
    ]


def thinned(n: int, most: int = MOST_POINTS) -> NDArray[np.int64]:
    """At most so many of n rows, evenly spaced, the first and the last among them."""
    if n <= most:
        return np.arange(n)
    return np.unique(np.linspace(0, n - 1, most).round().astype(np.int64))
