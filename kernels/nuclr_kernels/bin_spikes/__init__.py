"""Spike times to the counts that the patch projection takes."""

from nuclr_kernels.bin_spikes.function import bin_spikes

__all__ = ["bin_spikes"]
