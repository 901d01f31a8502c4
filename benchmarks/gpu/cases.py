"""What is measured: problem sizes, the work they are, and the targets they are held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

HEADS, HEAD_DIM, WIDTH = 4, 64, 256


@dataclass(frozen=True)
class Case:
    """One problem.

    Attributes:
        operation: ``population``, ``temporal`` or ``loss``.
        name: For tables.
        sizes: Units of each population.
        n_patches: L; 0 for the loss.
        forward_target, backward_target: Milliseconds on an H200 that count as reached; None = no target.
    """

    operation: str
    name: str
    sizes: tuple[int, ...]
    n_patches: int = 0
    forward_target: float | None = None
    backward_target: float | None = None

    @property
    def n_units(self) -> int:
        return sum(self.sizes)

    def flop(self, backward: bool) -> float:
        """Floating point operations of the matrix products, the number that peers are rated by."""
        pairs = float(sum(n * n for n in self.sizes))
        if self.operation == "population":
            return (2.5 if backward else 1.0) * 4 * HEADS * HEAD_DIM * self.n_patches * pairs
        if self.operation == "loss":
            return (2.0 if backward else 1.0) * 8 * WIDTH * pairs
        return (2.5 if backward else 1.0) * 4 * HEADS * HEAD_DIM * self.n_units * self.n_patches**2

    def n_bytes(self, backward: bool) -> float:
        """Bytes that must be read and written at least, 16-bit operands."""
        tokens = self.n_units * self.n_patches
        if self.operation == "loss":
            return (4.0 if backward else 2.0) * 2 * self.n_units * WIDTH
        if self.operation == "temporal":
            return tokens * (3584.0 if backward else 2048.0)
        return tokens * (4128.0 if backward else 2064.0)


def ragged(n: int, least: int, most: int, seed: int = 0) -> tuple[int, ...]:
    """Sizes spread evenly in logarithm between two bounds, in random order."""
    sizes = np.geomspace(least, most, n).round().astype(int)
    return tuple(int(size) for size in np.random.default_rng(seed).permutation(sizes))


def cases(small: bool) -> list[Case]:
    """All problems; `small` ones only prove that the script runs."""
    if small:
        return [
            Case("population", "1 x 70", (70,), 4),
            Case("population", "3 ragged 5-40", ragged(3, 5, 40), 4),
            Case("temporal", "60 units, L10", (60,), 10),
            Case("loss", "1 x 50", (50,)),
            Case("loss", "3 x 20", (20,) * 3),
        ]
    mixed = ragged(16, 20, 2000)
    return [
        Case("population", "16 x 128, L10", (128,) * 16, 10, 0.018),
        Case("population", "16 x 1k, L10", (1000,) * 16, 10, 0.42),
        Case("population", "16 ragged 20-2000, L10", mixed, 10),
        Case("population", "256 ragged 50-300, L10", ragged(256, 50, 300), 10),
        Case("population", "1 x 10k, L10", (10_000,), 10, 2.3, 7.3),
        Case("population", "1 x 10k, L32", (10_000,), 32),
        Case("population", "1 x 100k, L10", (100_000,), 10, 233.0),
        Case("temporal", "2k units, L10", (2_048,), 10),
        Case("temporal", "100k units, L10", (100_000,), 10, 0.60, 1.1),
        Case("temporal", "100k units, L32", (100_000,), 32),
        Case("loss", "16 x 128", (128,) * 16),
        Case("loss", "128 ragged 50-200", ragged(128, 50, 200)),
        Case("loss", "16 x 1k", (1000,) * 16),
        Case("loss", "1 x 10k", (10_000,)),
        Case("loss", "1 x 100k", (100_000,), 0, 37.0, 91.0),
    ]


def most_units(sizes: Sequence[int]) -> int:
    """Largest population."""
    return max(sizes, default=0)
