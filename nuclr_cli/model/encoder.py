"""The encoder: from the activity of packed populations to one vector a unit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import torch
from torch import Tensor, nn

from nuclr_cli.model.blocks import Layout, SpatiotemporalBlock, TemporalBlock
from nuclr_cli.model.config import ModelConfig, TokenKind
from nuclr_cli.model.events import EventLayout, EventSpatiotemporalBlock, EventTemporalBlock, EventTokens
from nuclr_cli.model.patches import PatchEmbedding, RotaryPositions
from nuclr_kernels import PopulationPlan, make_population_plan

Sizes = Tensor | Sequence[int]


class Encoder(nn.Module):
    """NuCLR encoder (arXiv 2512.01199): patches, temporal blocks, spatiotemporal blocks, mean over patches.

    Spike events take the place of patches where the configuration says so: latents read the times.

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
            {kind: PatchEmbedding(config.samples(kind), config.dim) for kind in config.patched}
        )
        self.rotary = nn.ModuleDict(
            {
                kind: RotaryPositions(config.head_dim, config.patches(kind), config.rotary_fraction)
                for kind in config.patched
            }
        )
        self.events = EventTokens(config) if "events" in config.tokens else None
        temporal = TemporalBlock if self.events is None else EventTemporalBlock
        spatiotemporal = SpatiotemporalBlock if self.events is None else EventSpatiotemporalBlock
        self.temporal_blocks = nn.ModuleList(temporal(config) for _ in range(config.temporal_layers))
        self.spatiotemporal_blocks = nn.ModuleList(
            spatiotemporal(config) for _ in range(config.spatiotemporal_layers)
        )

    @overload
    def forward(
        self, inputs: Tensor, units_per_population: Sizes, tokens: TokenKind | None = None
    ) -> Tensor: ...

    @overload
    def forward(self, inputs: Tensor, spikes_per_unit: Sizes, units_per_population: Sizes) -> Tensor: ...

    @overload
    def forward(self, inputs: Tensor, *, layout: Layout) -> Tensor: ...

    def forward(self, inputs: Tensor, *sizes: Any, layout: Layout | None = None, **named: Any) -> Tensor:
        """Embed every unit: ``encoder(inputs, units_per_population, tokens)``, or of spike events
        ``encoder(times, spikes_per_unit, units_per_population)``.

        Where the pass must neither read sizes nor copy tables to the device (inside `torch.compile` or a CUDA
        graph, or while a GPU is busy) make the layout beforehand: ``encoder(inputs, layout=layout)``.

        Args:
            inputs: (U, L, samples) spike counts or dF/F, any real dtype, populations packed along the first
                axis. Of events (S,) float32 or float64 seconds from the start of the window, unit after unit,
                in any order within a unit.
            units_per_population: (B,) integers summing to U. Keep them on the CPU, where their values are
                read.
            tokens: Token kind of the patches; default the first kind of the configuration.
            spikes_per_unit: (U,) integers summing to S, best on the CPU. A unit without spikes has an
                embedding that its population alone decides.
            layout: What `patch_layout` or `event_layout` made of the sizes, in place of them. That of events
                holds the spikes: `inputs` are not looked at.

        Returns:
            (U, D) embeddings, in the dtype of the weights (autocast aside).

        Raises:
            ValueError: Shapes do not fit each other or the configuration.
        """
        if layout is not None:
            if sizes or named:
                raise ValueError("layout already holds the sizes; give either a layout or sizes")
            return self._embed(inputs, layout)
        # Events are packed at two levels, spikes in units in populations, so they come with sizes of both.
        if (
            "spikes_per_unit" in named
            or (len(sizes) == 1 and "units_per_population" in named)
            or (len(sizes) == 2 and not isinstance(sizes[1], str | None))
        ):
            return self._embed(inputs, self.event_layout(inputs, *sizes, **named))
        return self._embed(inputs, self.patch_layout(inputs, *sizes, **named))

    def patch_layout(
        self, inputs: Tensor, units_per_population: Sizes, tokens: TokenKind | None = None
    ) -> Layout:
        """Where the patches of a batch lie, on the device of `inputs`; arguments as those of `forward`.

        Of `inputs` only shape and device matter, so one layout serves all batches of the same sizes. The host
        waits for the device if the sizes are there, and not otherwise.
        """
        kind = self.config.tokens[0] if tokens is None else tokens
        if kind not in self.config.tokens:
            raise ValueError(f"tokens is {kind!r}; this encoder takes {', '.join(self.config.tokens)}")
        if kind == "events":
            raise ValueError(
                "tokens is 'events'; give those as encoder(times, spikes_per_unit, units_per_population)"
            )
        self._check_patches(inputs, kind)
        cos, sin = self.rotary[kind](self.config.patches(kind))
        return Layout(kind, _plan(units_per_population, len(inputs), inputs.device), cos, sin)

    def event_layout(self, times: Tensor, spikes_per_unit: Sizes, units_per_population: Sizes) -> EventLayout:
        """The spikes of a packed batch and where its units lie; arguments as those of `forward`."""
        if self.events is None:
            raise ValueError(f"tokens of this encoder are {', '.join(self.config.tokens)}, not events")
        waves = self.events.waves(times, spikes_per_unit)
        cos, sin = self.events.positions()
        return EventLayout(
            "events", _plan(units_per_population, waves.n_units, times.device), cos, sin, waves
        )

    def _embed(self, inputs: Tensor, layout: Layout) -> Tensor:
        if layout.tokens not in self.config.tokens:
            raise ValueError(
                f"layout is of {layout.tokens}; this encoder takes {', '.join(self.config.tokens)}"
            )
        if isinstance(layout, EventLayout):
            assert self.events is not None  # events are among its tokens
            x = self.events(layout)
        else:
            self._check_patches(inputs, layout.tokens)
            if layout.plan.n_units != len(inputs):
                raise ValueError(f"layout is of {layout.plan.n_units} units; inputs have {len(inputs)}")
            x = self.patches[layout.tokens](inputs)
        for block in (*self.temporal_blocks, *self.spatiotemporal_blocks):
            x = block(x, layout)
        out: Tensor = x.mean(dim=1)
        return out

    def _check_patches(self, inputs: Tensor, kind: TokenKind) -> None:
        expected = (self.config.patches(kind), self.config.samples(kind))
        if inputs.ndim != 3 or tuple(inputs.shape[1:]) != expected:
            raise ValueError(
                f"inputs of {kind} must have shape (units, {expected[0]} patches, {expected[1]} samples); "
                f"got {tuple(inputs.shape)}"
            )


def _plan(units_per_population: Sizes, n_units: int, device: torch.device) -> PopulationPlan:
    """What all population attentions of this pass share."""
    sizes = torch.as_tensor(units_per_population)
    if sizes.ndim != 1 or sizes.is_floating_point():
        raise ValueError(
            f"units_per_population must be a list of integers; got {tuple(sizes.shape)}, {sizes.dtype}"
        )
    if bool((sizes < 0).any()) or int(sizes.sum()) != n_units:
        raise ValueError(
            f"units_per_population must add up to the {n_units} units of inputs; got {sizes.tolist()}"
        )
    return make_population_plan(sizes, device)
