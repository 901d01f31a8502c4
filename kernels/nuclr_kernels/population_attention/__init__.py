"""Attention among the units of one population, patch by patch."""

from nuclr_kernels.population_attention.function import population_attention

__all__ = ["population_attention"]
