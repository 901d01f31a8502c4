"""Everything before a linear model, by `FrontEnd`: impute, reduce, standardise."""

from __future__ import annotations

from typing import Any

from sklearn.decomposition import PCA
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import StandardScaler

from nuclr_cli.evaluation.probes import FrontEnd


def front_steps(front: FrontEnd, shape: tuple[int, ...]) -> list[tuple[str, Any]]:
    """Unfitted steps of a scikit-learn Pipeline, the last one a StandardScaler.

    Args:
        front: What the input needs.
        shape: (n, D) of the training rows, which bound the number of components.
    """
    steps: list[tuple[str, Any]] = []
    if front.impute:
        steps.append(("impute", SimpleImputer(strategy="median", keep_empty_features=True)))
    if front.n_components is not None:
        steps.append(("pca", PCA(min(front.n_components, *shape), random_state=0)))
    return [*steps, ("scale", StandardScaler())]
