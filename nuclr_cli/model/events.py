"""Spike events as tokens: latents that read their own unit's spikes, at first and after every attention.

Letters in shapes: U units (all populations, packed), L latents, D width, H heads, Dh head width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nuclr_cli.model.blocks import (
    Attention,
    AttentionPair,
    FeedForward,
    Layout,
    PopulationAttention,
    SpatiotemporalBlock,
    TemporalAttention,
    TemporalBlock,
)
from nuclr_cli.model.config import ModelConfig
from nuclr_cli.model.dropout import Dropout
from nuclr_kernels.event_attention import SpikeWaves, event_attention, spike_waves

SHORTEST_PERIOD_S = 1e-4


@dataclass(frozen=True)
class EventLayout(Layout):
    """A batch of event tokens: what blocks know of any batch, and its spikes.

    Attributes:
        waves: The spikes of all units.
    """

    waves: SpikeWaves


class EventAttention(nn.Module):
    """Attention of a unit's latents to its spikes.

    A spike has no content but its time: what a linear layer makes of the zero vector is its bias, so the key
    and the value of all spikes are two learned vectors.

    Args:
        config: Sizes.
        normalise: Apply LayerNorm to the latents first.
    """

    def __init__(self, config: ModelConfig, *, normalise: bool = True) -> None:
        super().__init__()
        inner = config.heads * config.head_dim
        self.heads = (config.heads, config.head_dim)
        self.norm = nn.LayerNorm(config.dim) if normalise else nn.Identity()
        self.query = nn.Linear(config.dim, inner)
        self.content = nn.Parameter(torch.empty(2 * inner).uniform_(-1, 1) / math.sqrt(config.dim))
        self.out = nn.Linear(inner, config.dim)

    def forward(self, x: Tensor, layout: EventLayout) -> Tensor:
        """(U, L, D) to (U, L, D)."""
        query = self.query(self.norm(x)).unflatten(-1, self.heads)
        key, value = self.content.to(query.dtype).view(2, *self.heads).unbind()
        attended = event_attention(query, key, value, layout.waves, layout.cos, layout.sin)
        out: Tensor = self.out(attended.flatten(-2))
        return out


class EventPair(AttentionPair):
    """An attention, event attention and a feed-forward layer, each on a residual branch with dropout.

    Batches of other token kinds pass the event attention by.
    """

    def __init__(self, attention: Attention, config: ModelConfig) -> None:
        super().__init__(attention, config)
        self.events = EventAttention(config)

    def _layers(self, x: Tensor, layout: Layout) -> Tensor:
        x = x + self.dropout(self.attention(x, layout))
        if isinstance(layout, EventLayout):
            x = x + self.dropout(self.events(x, layout))
        x = x + self.dropout(self.feed_forward(x))
        return x


class EventTemporalBlock(TemporalBlock):
    """A temporal block whose latents also read their spikes."""

    def __init__(self, config: ModelConfig) -> None:
        nn.Module.__init__(self)
        self.temporal = EventPair(TemporalAttention(config), config)


class EventSpatiotemporalBlock(SpatiotemporalBlock):
    """A spatiotemporal block whose latents also read their spikes, after either attention."""

    def __init__(self, config: ModelConfig) -> None:
        nn.Module.__init__(self)
        self.population = EventPair(PopulationAttention(config), config)
        self.temporal = EventPair(TemporalAttention(config), config)


class EventTokens(nn.Module):
    """Latents of every unit, equally spaced in the window, that have read the unit's spikes once.

    Latents start at zero, so the first reading is the only thing that tells one unit from another. Periods of
    the rotary positions are log-spaced from 0.1 ms to 8 windows over the first ``rotary_fraction`` of a
    head's dimensions.

    Args:
        config: Sizes.

    Attributes:
        omega: (Dh/2,) float32 buffer, rad/s, 0 for pairs that do not turn; those come last. It is saved with
            the weights; keep it in float32 or float64.
        latent_times: (L,) float32 buffer, seconds from the start of the window.
    """

    omega: Tensor
    latent_times: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.turning = round(config.head_dim * config.rotary_fraction) // 2
        longest = math.log10(8 * config.events_window_s)
        periods = torch.logspace(math.log10(SHORTEST_PERIOD_S), longest, self.turning, dtype=torch.float64)
        omega = torch.zeros(config.head_dim // 2, dtype=torch.float64)
        omega[: self.turning] = 2 * math.pi / periods
        spacing_s = config.events_window_s / config.events_latents
        times = (torch.arange(config.events_latents, dtype=torch.float64) + 0.5) * spacing_s
        self.register_buffer("omega", omega.float())
        self.register_buffer("latent_times", times.float())
        self.attention = EventAttention(config, normalise=False)
        self.feed_forward = FeedForward(config)
        self.dropout = Dropout(config.dropout)

    def positions(self) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the latents' float64 phases, each (L, Dh/2) of the dtype of `omega`."""
        phase = self.latent_times.double()[:, None] * self.omega.double()
        return phase.cos().to(self.omega.dtype), phase.sin().to(self.omega.dtype)

    def waves(self, times: Tensor, spikes_per_unit: Tensor | Sequence[int]) -> SpikeWaves:
        """The spikes as every layer reads them; arguments as those of `Encoder`."""
        dtype = torch.promote_types(self.attention.query.weight.dtype, torch.float32)
        return spike_waves(times, spikes_per_unit, self.omega[: self.turning], dtype=dtype)

    def forward(self, layout: EventLayout) -> Tensor:
        """(U, L, D) latents in the dtype of the weights (autocast aside)."""
        weight = self.attention.query.weight
        x: Tensor = weight.new_zeros(layout.waves.n_units, len(self.latent_times), weight.shape[1])
        x = x + self.dropout(self.attention(x, layout))
        x = x + self.dropout(self.feed_forward(x))
        return x
