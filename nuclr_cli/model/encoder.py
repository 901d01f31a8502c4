"""The encoder: from the activity of packed populations to one vector a unit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nuclr_cli.model.blocks import Layout, SpatiotemporalBlock, TemporalBlock
from nuclr_cli.model.config import ModelConfig, TokenKind
from nuclr_cli.model.patches import PatchEmbedding, RotaryPositions


class Encoder(nn.Module):
    """NuCLR encoder (arXiv 2512.01199): patches, temporal blocks, spatiotemporal blocks, mean over patches.

    A unit's embedding depends on its own activity and that of its population in the same window, on nothing
    else in the batch; permuting the units of a population permutes their embeddings. Call ``.eval()`` to
    embed.

    Args:
        config: Sizes.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.patches = nn.ModuleDict(
            {kind: PatchEmbedding(config.samples(kind), config.dim) for kind in config.tokens}
        )
        self.rotary = nn.ModuleDict(
            {
                kind: RotaryPositions(config.head_dim, config.patches(kind), config.rotary_fraction)
                for kind in config.tokens
            }
        )
        self.temporal_blocks = nn.ModuleList(TemporalBlock(config) for _ in range(config.temporal_layers))
        self.spatiotemporal_blocks = nn.ModuleList(
            SpatiotemporalBlock(config) for _ in range(config.spatiotemporal_layers)
        )

    def forward(
        self, inputs: Tensor, units_per_population: Tensor | Sequence[int], tokens: TokenKind | None = None
    ) -> Tensor:
        """Embed every unit.

        Args:
            inputs: (U, L, samples) spike counts or dF/F, any real dtype, populations packed along the first
                axis.
            units_per_population: (B,) integers summing to U. Keep them on the CPU: without a fused kernel
                their values are read at every layer.
            tokens: Token kind of the inputs; default the first kind of the configuration.

        Returns:
            (U, D) embeddings, in the dtype of the weights (autocast aside).

        Raises:
            ValueError: Shapes do not fit each other or the configuration.
        """
        kind = self.config.tokens[0] if tokens is None else tokens
        if kind not in self.config.tokens:
            raise ValueError(f"tokens is {kind!r}; this encoder takes {', '.join(self.config.tokens)}")
        expected = (self.config.patches(kind), self.config.samples(kind))
        if inputs.ndim != 3 or tuple(inputs.shape[1:]) != expected:
            raise ValueError(
                f"inputs of {kind} must have shape (units, {expected[0]} patches, {expected[1]} samples); "
                f"got {tuple(inputs.shape)}"
            )
        cos, sin = self.rotary[kind](expected[0])
        layout = Layout(_offsets(units_per_population, len(inputs)), cos, sin)
        x: Tensor = self.patches[kind](inputs)
        for block in (*self.temporal_blocks, *self.spatiotemporal_blocks):
            x = block(x, layout)
        return x.mean(dim=1)


def _offsets(units_per_population: Tensor | Sequence[int], n_units: int) -> Tensor:
    sizes = torch.as_tensor(units_per_population)
    if sizes.ndim != 1 or sizes.is_floating_point():
        raise ValueError(
            f"units_per_population must be a list of integers; got {tuple(sizes.shape)}, {sizes.dtype}"
        )
    if bool((sizes < 0).any()) or int(sizes.sum()) != n_units:
        raise ValueError(
            f"units_per_population must add up to the {n_units} units of inputs; got {sizes.tolist()}"
        )
    return F.pad(sizes.cumsum(0), (1, 0)).to(torch.int32)
