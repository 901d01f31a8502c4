"""Attention of a unit's latents to the unit's own spikes, at the spikes' real times."""

from nuclr_kernels.event_attention.function import event_attention
from nuclr_kernels.event_attention.waves import SpikeWaves, spike_waves

__all__ = ["SpikeWaves", "event_attention", "spike_waves"]
