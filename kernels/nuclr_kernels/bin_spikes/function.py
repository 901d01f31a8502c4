"""Public entry of binning: checks, then the plain PyTorch implementation, on any device."""

from __future__ import annotations

import torch
from torch import Tensor

from nuclr_kernels.bin_spikes.reference import bin_spikes_reference


def bin_spikes(
    times: Tensor,
    unit_offsets: Tensor,
    *,
    n_patches: int,
    samples_per_patch: int,
    bin_s: float,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Count the spikes of packed units in bins, laid out as patches.

    Bin b of a unit holds its spikes with ``floor(t * (1 / bin_s)) = b``, computed in the dtype of `times`; a
    spike at the very end of the window, or beyond by a rounding error, belongs to the last bin. In float64
    that is the rule of torch_brain's ``BinSpikes``, spike for spike. float32 is half the size, but may move a
    spike that lies within 1e-6 s of an edge into the neighbouring bin (windows of 10 s).

    Plain PyTorch on every device; there is no fused kernel. Whole numbers are added, so the same spikes give
    the same bits in any order.

    Args:
        times: (S,) float64 or float32 seconds from the start of the window, 0 to its length, unit after unit,
            in any order within a unit. On a GPU values are not looked at: what lies before the window counts
            in the first bin, what lies after in the last.
        unit_offsets: (U+1,) int32 or int64, offsets of the units' spikes in `times`, ascending from 0 to S.
            Their values are read to check them, so keep them on the CPU.
        n_patches: Patches L in a window.
        samples_per_patch: Bins in a patch.
        bin_s: Width of a bin, seconds.
        dtype: Of the counts.

    Returns:
        (U, L, samples) counts on the device of `times`.

    Raises:
        ValueError: An argument has the wrong shape, dtype or values; the message names it.
    """
    if times.ndim != 1 or times.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            "times must be one-dimensional, float32 or float64; "
            f"got shape {tuple(times.shape)}, {times.dtype}"
        )
    for name, value in (("n_patches", n_patches), ("samples_per_patch", samples_per_patch)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}")
    if not 0 < bin_s < float("inf"):
        raise ValueError(f"bin_s must be a positive number of seconds; got {bin_s}")
    _check_offsets(unit_offsets, len(times))
    if times.device.type == "cpu" and len(times):
        least, most = (float(value) for value in times.aminmax())
        end_s = n_patches * samples_per_patch * bin_s
        if not (least >= 0 and most < end_s + bin_s):
            raise ValueError(
                f"times must lie in the window, 0 to {end_s:g} s; got {least:g} to {most:g} s, unless NaN"
            )
    return bin_spikes_reference(times, unit_offsets, n_patches, samples_per_patch, bin_s, dtype)


def _check_offsets(unit_offsets: Tensor, n_spikes: int) -> None:
    if (
        unit_offsets.ndim != 1
        or len(unit_offsets) < 1
        or unit_offsets.dtype not in (torch.int32, torch.int64)
    ):
        raise ValueError(
            "unit_offsets must be one-dimensional, int32 or int64, with U+1 offsets; "
            f"got shape {tuple(unit_offsets.shape)}, {unit_offsets.dtype}"
        )
    first, last = int(unit_offsets[0]), int(unit_offsets[-1])
    if first != 0 or last != n_spikes or bool((unit_offsets.diff() < 0).any()):
        raise ValueError(
            f"unit_offsets must ascend from 0 to the number of spikes, {n_spikes}; "
            f"got {first} to {last}" + (", not ascending" if (first, last) == (0, n_spikes) else "")
        )
