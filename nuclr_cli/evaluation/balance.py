"""Class balance of a probe: weights, or rows of small classes drawn again. Training rows only."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state

Balance = Literal["weights", "oversample", "none"]
"""``weights``: a class counts by the inverse of its frequency; ``oversample``: as `oversample`; ``none``: a
unit counts one, so frequent classes are favoured.
"""

BALANCES: tuple[Balance, ...] = ("weights", "oversample", "none")
OVERSAMPLING_SEED = 42


def oversample(codes: NDArray[np.integer[Any]], seed: int = OVERSAMPLING_SEED) -> NDArray[np.int64]:
    """Rows that make all classes as large as the largest: every row once, then draws with replacement.

    The same rows, in the same order, as imbalanced-learn's ``RandomOverSampler(random_state=seed)``.

    Args:
        codes: (n,) class of each row.
        seed: Seed of the draws.

    Returns:
        (m,) int64 row indices, m >= n.
    """
    random = check_random_state(seed)
    classes, counts = np.unique(codes, return_counts=True)
    largest = counts.argmax()
    rows = [np.arange(len(codes), dtype=np.int64)]
    for i, klass in enumerate(classes):
        if i == largest:
            continue
        members = np.flatnonzero(codes == klass)
        rows.append(members[random.randint(0, len(members), size=int(counts.max() - counts[i]))])
    return np.concatenate(rows)
