"""The operations that cost a NuCLR training step its time, on packed ragged batches.

Every operation takes populations of different sizes packed one after the other along the unit axis; nothing
is padded. What an operation has to know of a batch besides its tensors is worked out once, on the host, by
its ``make_..._plan``; a call with a plan reads nothing back from the GPU.
Letters in shapes: B populations, U units (sum over populations), L patches, H heads, Dh head width, D
    embedding width.
"""

from nuclr_kernels.bin_spikes import bin_spikes
from nuclr_kernels.contrastive import LossPlan, contrastive_loss, make_loss_plan
from nuclr_kernels.event_attention import SpikeWaves, event_attention, spike_waves
from nuclr_kernels.population_attention import (
    PopulationPlan,
    make_plan,
    make_population_plan,
    population_attention,
    population_attention_of_some,
)
from nuclr_kernels.temporal_attention import temporal_attention

__all__ = [
    "LossPlan",
    "PopulationPlan",
    "SpikeWaves",
    "bin_spikes",
    "contrastive_loss",
    "event_attention",
    "make_loss_plan",
    "make_plan",
    "make_population_plan",
    "population_attention",
    "population_attention_of_some",
    "spike_waves",
    "temporal_attention",
]
