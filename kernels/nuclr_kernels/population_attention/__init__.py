"""Attention among the units of one population, patch by patch."""

from nuclr_kernels.population_attention.across import population_attention_of_some
from nuclr_kernels.population_attention.function import population_attention
from nuclr_kernels.population_attention.plan import PopulationPlan, make_plan, make_population_plan

__all__ = [
    "PopulationPlan",
    "make_plan",
    "make_population_plan",
    "population_attention",
    "population_attention_of_some",
]
