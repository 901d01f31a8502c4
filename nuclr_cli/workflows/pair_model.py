"""Encoder and loss as one module: what the optimiser and the checkpoint see."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from nuclr_cli.api import Modality
from nuclr_cli.data.batch import PackedViews, PairBatch
from nuclr_cli.data.streams import Purpose, torch_seed
from nuclr_cli.model.blocks import Layout, set_recompute
from nuclr_cli.model.config import TokenKind
from nuclr_cli.model.encoder import Encoder
from nuclr_cli.model.losses import build_loss
from nuclr_cli.model.matching import plan_loss
from nuclr_cli.model.unit_shards import UnitShards
from nuclr_cli.workflows.presets import PretrainSettings
from nuclr_cli.workflows.window_groups import WindowGroup
from nuclr_kernels import LossPlan

MODALITY_OF: dict[TokenKind, Modality] = {"counts": "spikes", "events": "spikes", "calcium": "calcium"}


def token_kind(views: PackedViews) -> TokenKind:
    """What packed views hold."""
    if views.modality == "calcium":
        return "calcium"
    return "counts" if views.spikes_per_unit is None else "events"


def encode(
    encoder: Encoder, views: PackedViews, tokens: TokenKind, shards: UnitShards | None = None
) -> Tensor:
    """(U, D) embeddings of packed views whose inputs are where the encoder is.

    Args:
        encoder: The encoder.
        views: Of the units that are here.
        tokens: What they hold.
        shards: Who holds the other units of these windows; the embeddings returned are of all U.
    """
    layout = layout_of_views(encoder, views.inputs, views.spikes_per_unit, views.units_per_population, tokens)
    embedded: Tensor = encoder(views.inputs, layout=replace(layout, shards=shards))
    return embedded if shards is None else shards.gather(embedded)


def layout_of_views(
    encoder: Encoder, inputs: Tensor, spikes_per_unit: Tensor | None, units: Tensor, tokens: TokenKind
) -> Layout:
    """Where the patches or events of packed views lie; see `Encoder.patch_layout`."""
    if spikes_per_unit is None:
        return encoder.patch_layout(inputs, units, tokens)
    return encoder.event_layout(inputs, spikes_per_unit, units)


class PairInputs:
    """What `PairModel.forward` reads: a micro-batch on the device, with all that its sizes and ids decide.

    Not a dataclass: Fabric's wrapper rebuilds those, and in mixed precision it would round what it finds in
    them, spike times too.

    Attributes:
        inputs: (U1 + U2, patches, samples) float32: view 1 of all populations, then view 2. Views are just
            further populations; one larger pass keeps the processor busier than two. Of events (S,) float32
            seconds.
        layout: Of these U1 + U2 units, for the encoder.
        matches: Which units of the views are the same, for the loss.

    Where several processes hold the batch, `inputs` and `layout` are of the units that are here, `matches` of
    all.
    """

    def __init__(self, inputs: Tensor, layout: Layout, matches: LossPlan) -> None:
        self.inputs, self.layout, self.matches = inputs, layout, matches


class PairModel(nn.Module):
    """Encodes both views of a micro-batch in one pass and scores them.

    Args:
        settings: Of the run; ``settings.model.tokens`` names what the encoder takes.
    """

    def __init__(self, settings: PretrainSettings) -> None:
        super().__init__()
        self.encoder = Encoder(settings.model)
        set_recompute(self.encoder, settings.train.recompute)
        self.loss = build_loss(settings.loss, settings.model.dim)

    def prepare(
        self, batch: PairBatch, device: torch.device | str, group: WindowGroup | None = None
    ) -> PairInputs:
        """Move a micro-batch to `device`, where the model is, and plan it from the sizes and ids on the host.

        Nothing is read back from the device.

        Args:
            batch: The whole micro-batch.
            device: Where to.
            group: The processes that hold it together; only the inputs of this one's units are moved.
        """
        one, two = batch.view1, batch.view2
        sizes = torch.cat([one.units_per_population, two.units_per_population])
        shards = None if group is None else group.shards(sizes, torch.device(device))
        own1, own2 = (one, two) if group is None or shards is None else (group.own(one), group.own(two))
        inputs = torch.cat([own.to(device, non_blocking=True).inputs for own in (own1, own2)])
        inputs = inputs.to(next(self.encoder.parameters()).dtype)
        units = torch.cat([own1.units_per_population, own2.units_per_population])
        spikes = None
        if own1.spikes_per_unit is not None and own2.spikes_per_unit is not None:
            spikes = torch.cat([own1.spikes_per_unit, own2.spikes_per_unit])
        layout = layout_of_views(self.encoder, inputs, spikes, units, token_kind(one))
        matches = plan_loss(
            one.ids, two.ids, one.units_per_population, two.units_per_population, inputs.device
        )
        return PairInputs(inputs, replace(layout, shards=shards), matches)

    def forward(self, pair: PairInputs, n_pairs_total: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Score one micro-batch: no more than launches on the device, where the kernels run.

        Args:
            pair: What `prepare` made of it.
            n_pairs_total: Matched pairs of the whole global batch; the sum of the totals over its
                micro-batches is the loss of the global batch.

        Returns:
            Total, numerator and denominator of the loss, and the (U1, D) embeddings of view 1, detached.
            Where several processes hold the batch, each returns its share of the same loss: totals and
            gradients add up over processes.
        """
        z = self.encoder(pair.inputs, layout=pair.layout)
        shards = pair.layout.shards
        if shards is not None:
            z = shards.gather(z)
        z1, z2 = torch.split(z, [pair.matches.n_units1, pair.matches.n_units2])
        terms = self.loss(z1, z2, plan=pair.matches, n_pairs_total=n_pairs_total)
        total, numerator, denominator = terms.total, terms.numerator, terms.denominator
        if shards is not None:
            total, numerator, denominator = (term / shards.of for term in (total, numerator, denominator))
        return total, numerator, denominator, z1.detach()


def initial_model(settings: PretrainSettings) -> PairModel:
    """The model at step 0: a function of the settings (and torch's version), also after training moved on."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(settings.seed, 0, 0, Purpose.INIT))
        return PairModel(settings)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Groups of an optimiser: decay on matrices, none on norms and biases (protocol of the reference)."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def learning_rate_at(step: int, peak: float, warmup_steps: int, steps: int) -> float:
    """Linear warmup, then cosine to 0.

    Args:
        step: 0-based index of the step about to be taken.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(steps - warmup_steps, 1)
    return peak * 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))
