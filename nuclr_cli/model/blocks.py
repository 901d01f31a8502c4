"""Layers of the trunk. Every layer normalises its input and returns a branch for its block to add.

Letters in shapes: U units (all populations, packed), L patches, D width, H heads, Dh head width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from nuclr_cli.model.config import ModelConfig, Recompute, TokenKind
from nuclr_cli.model.dropout import Dropout
from nuclr_cli.model.pieces import in_pieces
from nuclr_cli.model.recompute import forgetting
from nuclr_cli.model.unit_shards import UnitShards
from nuclr_kernels import (
    PopulationPlan,
    population_attention,
    population_attention_of_some,
    temporal_attention,
)


@dataclass(frozen=True)
class Layout:
    """What every block of one forward pass has to know about the packed batch.

    Attributes:
        tokens: Token kind of the batch.
        plan: Where the populations lie along the unit axis, and what attention among them needs for that.
        cos: (L, Dh/2) cosines of the rotary phases.
        sin: (L, Dh/2) sines.
        shards: Who holds the units, where several processes do: `plan` is then of those that are here.
    """

    tokens: TokenKind
    plan: PopulationPlan
    cos: Tensor
    sin: Tensor
    shards: UnitShards | None = field(default=None, kw_only=True)


class FeedForward(nn.Module):
    """Gated GELU feed-forward layer (arXiv 2002.05202): one projection holds values and gates.

    Attributes:
        recompute: What it forgets after the forward pass: nothing, ``gates`` all behind the first product,
            ``ffn`` all but its input.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden = config.ffn_mult * config.dim
        self.norm = nn.LayerNorm(config.dim)
        self.up = nn.Linear(config.dim, 2 * hidden)
        self.down = nn.Linear(hidden, config.dim)
        self.dropout = Dropout(config.dropout)
        self.recompute: Recompute = "none"

    def forward(self, x: Tensor) -> Tensor:
        """(U, L, D) to (U, L, D)."""
        if self.recompute == "ffn":
            return forgetting(self._layer, x)
        return in_pieces(self._layer, x)

    def _layer(self, x: Tensor) -> Tensor:
        both: Tensor = self.up(self.norm(x))
        return forgetting(self._gated, both) if self.recompute == "gates" else self._gated(both)

    def _gated(self, both: Tensor) -> Tensor:
        value, gate = both.chunk(2, dim=-1)
        out: Tensor = self.down(self.dropout(F.gelu(gate) * value))
        return out


class Attention(nn.Module, ABC):
    """What both attentions share: normalise, one projection to query, key and value, and one back."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        inner = config.heads * config.head_dim
        self.heads = (3, config.heads, config.head_dim)
        self.norm = nn.LayerNorm(config.dim)
        self.qkv = nn.Linear(config.dim, 3 * inner)
        self.out = nn.Linear(inner, config.dim)

    @abstractmethod
    def attend(self, qkv: Tensor, layout: Layout) -> Tensor:
        """(U, L, 3, H, Dh) to (U, L, H, Dh)."""

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """(U, L, D) to (U, L, D)."""
        attended = self.attend(in_pieces(self._project, x), layout)
        return in_pieces(self.out, attended.flatten(-2))

    def _project(self, x: Tensor) -> Tensor:
        qkv: Tensor = self.qkv(self.norm(x)).unflatten(-1, self.heads)
        return qkv


class TemporalAttention(Attention):
    """Attention among the patches of one unit, with rotary positions."""

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """(U, L, D) to (U, L, D)."""
        return in_pieces(lambda piece: Attention.forward(self, piece, layout), x)

    def attend(self, qkv: Tensor, layout: Layout) -> Tensor:
        return temporal_attention(qkv, layout.cos, layout.sin)


class PopulationAttention(Attention):
    """Attention among the units of a population at one patch, without positions."""

    def attend(self, qkv: Tensor, layout: Layout) -> Tensor:
        shards = layout.shards
        if shards is None:
            return population_attention(qkv, plan=layout.plan)
        key, value = shards.gather(qkv[:, :, 1:]).unbind(2)
        return population_attention_of_some(qkv[:, :, 0], key, value, shards.own_sizes, shards.sizes)


class AttentionPair(nn.Module):
    """An attention and a feed-forward layer, each on a residual branch with dropout.

    Attributes:
        recompute: ``layers``: it forgets all but its input after the forward pass.
    """

    def __init__(self, attention: Attention, config: ModelConfig) -> None:
        super().__init__()
        self.attention = attention
        self.feed_forward = FeedForward(config)
        self.dropout = Dropout(config.dropout)
        self.recompute: Recompute = "none"

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """(U, L, D) to (U, L, D)."""
        if self.recompute == "layers":
            return forgetting(partial(self._layers, layout=layout), x)
        return self._layers(x, layout)

    def _layers(self, x: Tensor, layout: Layout) -> Tensor:
        x = x + self.dropout(self.attention(x, layout))
        x = x + self.dropout(self.feed_forward(x))
        return x


class TemporalBlock(nn.Module):
    """Sees one unit at a time."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.temporal = AttentionPair(TemporalAttention(config), config)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """(U, L, D) to (U, L, D)."""
        out: Tensor = self.temporal(x, layout)
        return out


class SpatiotemporalBlock(nn.Module):
    """Looks across the population first, then along time."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.population = AttentionPair(PopulationAttention(config), config)
        self.temporal = AttentionPair(TemporalAttention(config), config)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """(U, L, D) to (U, L, D)."""
        out: Tensor = self.temporal(self.population(x, layout), layout)
        return out


def set_recompute(model: nn.Module, recompute: Recompute) -> None:
    """Set what all layers of a model forget."""
    forgotten_whole: set[FeedForward] = set()
    for module in model.modules():
        if isinstance(module, AttentionPair):
            module.recompute = recompute
            forgotten_whole.add(module.feed_forward)
    for module in model.modules():
        if isinstance(module, FeedForward):
            module.recompute = recompute
            if recompute == "layers":
                # Within a pair nothing is left to forget; those that stand alone forget what they can.
                module.recompute = "none" if module in forgotten_whole else "ffn"
