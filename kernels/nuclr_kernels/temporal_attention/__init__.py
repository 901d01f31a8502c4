"""Rotary attention among the patches of one unit."""

from nuclr_kernels.temporal_attention.function import temporal_attention

__all__ = ["temporal_attention"]
