"""What a probe says of units that it was not fitted on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Predictions:
    """Out-of-fold predictions.

    Attributes:
        predicted: (N,) int64 class code, -1 where no fold predicted the row.
        probability: (N, K) float64, NaN where not predicted; 0 for a class that the fold never trained on.
        notes: What went less than well, one sentence each.
        c: The penalty of each fold's fit, in the order of the split's folds; None where nothing was fitted.
        chosen: Whether any fold chose its own C by nested cross-validation.
    """

    predicted: NDArray[np.int64]
    probability: NDArray[np.float64]
    notes: tuple[str, ...] = ()
    c: tuple[float | None, ...] = ()
    chosen: bool = False
