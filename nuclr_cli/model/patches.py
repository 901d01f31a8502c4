"""From patches of samples to tokens, and where the tokens lie in time."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class PatchEmbedding(nn.Module):
    """Map each patch of samples to the width of the trunk with one linear layer.

    Args:
        samples: Samples in a patch.
        dim: Width D of the trunk.
    """

    def __init__(self, samples: int, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(samples, dim)

    def forward(self, inputs: Tensor) -> Tensor:
        """Embed (U, L, samples), any real dtype, to (U, L, D) in the dtype of the weights."""
        embedded: Tensor = self.linear(inputs.to(self.linear.weight.dtype))
        return embedded


class RotaryPositions(nn.Module):
    """Angles by which the pairs of a head's dimensions turn from patch to patch (arXiv 2104.09864).

    The first ``fraction`` of a head's dimensions turn, with periods log-spaced from 1 patch to 8 windows; the
    rest stay as they are.

    Args:
        head_dim: Width of a head, even.
        patches: Patches in a window.
        fraction: Share of the dimensions that turn.

    Attributes:
        omega: (head_dim/2,) float32 buffer, radians per patch. It is saved with the weights; keep it in
            float32 or float64, below that the phases lose their meaning.
    """

    omega: Tensor

    def __init__(self, head_dim: int, patches: int, fraction: float) -> None:
        super().__init__()
        turning = round(head_dim * fraction) // 2
        periods = torch.logspace(0, math.log10(8 * patches), turning, dtype=torch.float64)
        omega = torch.zeros(head_dim // 2, dtype=torch.float64)
        omega[:turning] = 2 * math.pi / periods
        self.register_buffer("omega", omega.float())

    def forward(self, patches: int) -> tuple[Tensor, Tensor]:
        """Return cosines and sines of float64 phases, each (patches, head_dim/2) of the dtype of `omega`."""
        position = torch.arange(patches, dtype=torch.float64, device=self.omega.device)
        phase = position[:, None] * self.omega.double()
        return phase.cos().to(self.omega.dtype), phase.sin().to(self.omega.dtype)
