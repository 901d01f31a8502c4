"""The map of the embeddings: principal components, and UMAP where umap-learn is installed."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.workflows.reporting import Reporter

_ROWS = 65536
"""Rows turned into float64 at once."""
_NEIGHBOURS = 15
SEED = 0


@dataclass(frozen=True)
class Projection:
    """Two numbers for each unit.

    Attributes:
        name: ``pca`` or ``umap``.
        title: For people.
        x_title, y_title: Of the axes.
        places: (N, 2) float32; NaN for units without an embedding.
    """

    name: str
    title: str
    x_title: str
    y_title: str
    places: NDArray[np.float32]


def principal_components(embedding: NDArray[np.float32]) -> Projection:
    """The first two principal components of the rows without NaN.

    Args:
        embedding: (N, D).
    """
    seen = ~np.isnan(embedding).any(axis=1)
    rows = np.flatnonzero(seen)
    width = embedding.shape[1]
    mean = np.zeros(width)
    for start in range(0, len(rows), _ROWS):
        mean += embedding[rows[start : start + _ROWS]].astype(np.float64).sum(axis=0) / len(rows)
    scatter = np.zeros((width, width))
    for start in range(0, len(rows), _ROWS):
        part = embedding[rows[start : start + _ROWS]].astype(np.float64) - mean
        scatter += part.T @ part
    values, vectors = np.linalg.eigh(scatter)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    axes = np.zeros((width, 2))
    axes[:, : min(2, width)] = vectors[:, :2]
    # An eigenvector may point either way: the same table always gives the same picture.
    axes *= np.where(axes[np.abs(axes).argmax(axis=0), np.arange(2)] < 0, -1.0, 1.0)
    places = np.full((len(embedding), 2), np.nan, dtype=np.float32)
    for start in range(0, len(rows), _ROWS):
        some = rows[start : start + _ROWS]
        places[some] = ((embedding[some].astype(np.float64) - mean) @ axes).astype(np.float32)
    total = float(values.sum())
    shares = [float(value) / total if total > 0 else 0.0 for value in (*values[:2], 0.0)[:2]]
    return Projection(
        "pca",
        "PCA",
        f"component 1 ({shares[0]:.0%} of the variance)",
        f"component 2 ({shares[1]:.0%})",
        places,
    )


def umap_is_installed() -> bool:
    """Whether umap-learn is there."""
    return find_spec("umap") is not None


def umap(embedding: NDArray[np.float32], reporter: Reporter) -> Projection | None:
    """UMAP with a fixed seed; None where there are too few units for it.

    Args:
        embedding: (N, D); rows of NaN get no place.
        reporter: Told that it takes a while.
    """
    rows = np.flatnonzero(~np.isnan(embedding).any(axis=1))
    if len(rows) <= _NEIGHBOURS:
        reporter.note(f"no UMAP: {len(rows)} units are too few for {_NEIGHBOURS} neighbours")
        return None
    reporter.note(f"UMAP of {len(rows)} units")
    from umap import UMAP

    fitted = UMAP(n_neighbors=_NEIGHBOURS, metric="cosine", random_state=SEED, n_jobs=1)
    places = np.full((len(embedding), 2), np.nan, dtype=np.float32)
    places[rows] = fitted.fit_transform(embedding[rows])
    return Projection("umap", "UMAP", "UMAP 1", "UMAP 2", places)
