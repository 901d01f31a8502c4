"""Binning in plain PyTorch: every spike's cell, then one scattered sum of ones."""

from __future__ import annotations

import torch
from torch import Tensor


def bin_spikes_reference(
    times: Tensor,
    unit_offsets: Tensor,
    n_patches: int,
    samples_per_patch: int,
    bin_s: float,
    dtype: torch.dtype,
) -> Tensor:
    """Counts (U, L, samples); arguments as `bin_spikes`, already checked."""
    n_units, n_bins = len(unit_offsets) - 1, n_patches * samples_per_patch
    offsets = unit_offsets.to(times.device, torch.int64)
    first_cell = torch.arange(n_units, device=times.device) * n_bins
    cell = (times * (1.0 / bin_s)).to(torch.int64).clamp_(0, n_bins - 1)
    cell += torch.repeat_interleave(first_cell, offsets.diff(), output_size=len(times))
    counts = torch.zeros(n_units * n_bins, dtype=torch.int32, device=times.device)
    counts.scatter_add_(0, cell, counts.new_ones(()).expand(len(times)))
    return counts.to(dtype).view(n_units, n_patches, samples_per_patch)
