"""Dropout whose masks are cheap to draw on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_VALUES = 1 << 16  # of the 16 random bits that decide about one element


class Dropout(nn.Module):
    """Zero each element with probability `p`, scale the others so that the mean stays (arXiv 1207.0580).

    On a CPU PyTorch draws one number of its generator for each element, a quarter of a training step of the
    `ephys` preset. Here one draw of 64 bits decides about four elements, so `p` is rounded to a multiple of
    2**-16 and the scale is that of the rounded `p`. Elsewhere this is `torch.nn.functional.dropout`.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout is {p}; it must be at least 0 and below 1")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Same shape, dtype and device as `x`."""
        if not self.training or self.p == 0 or x.device.type != "cpu":
            return F.dropout(x, self.p, self.training)
        dropped = min(round(self.p * _VALUES), _VALUES - 1)
        words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        bits = words.view(torch.int16)[: x.numel()].view(x.shape)
        keep = bits >= dropped - _VALUES // 2
        return x * keep.to(x.dtype).mul_(_VALUES / (_VALUES - dropped))

    def extra_repr(self) -> str:
        return f"p={self.p}"
