"""Encoder and loss as one module: what the optimiser and the checkpoint see."""

from __future__ import annotations

import math

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
from nuclr_cli.workflows.presets import PretrainSettings
from nuclr_kernels import LossPlan

MODALITY_OF: dict[TokenKind, Modality] = {"counts": "spikes", "events": "spikes", "calcium": "calcium"}


def token_kind(views: PackedViews) -> TokenKind:
    """What packed views hold."""
    if views.modality == "calcium":
        return "calcium"
    return "counts" if views.spikes_per_unit is None else "events"


def encode(
    encoder: Encoder, inputs: Tensor, spikes_per_unit: Tensor | None, units: Tensor, tokens: TokenKind
) -> Tensor:
    """(U, D) embeddings of what packed views hold, on the encoder's device."""
    embedded: Tensor = (
        encoder(inputs, units, tokens) if spikes_per_unit is None else encoder(inputs, spikes_per_unit, units)
    )
    return embedded


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

    def prepare(self, batch: PairBatch, device: torch.device | str) -> PairInputs:
        """Move a micro-batch to `device`, where the model is, and plan it from the sizes and ids on the host.

        Nothing is read back from the device.
        """
        one, two = batch.view1, batch.view2
        moved = batch.to(device, non_blocking=True)
        inputs = torch.cat([moved.view1.inputs, moved.view2.inputs])
        inputs = inputs.to(next(self.encoder.parameters()).dtype)
        units = torch.cat([one.units_per_population, two.units_per_population])
        if one.spikes_per_unit is None or two.spikes_per_unit is None:
            layout = self.encoder.patch_layout(inputs, units, token_kind(one))
        else:
            spikes = torch.cat([one.spikes_per_unit, two.spikes_per_unit])
            layout = self.encoder.event_layout(inputs, spikes, units)
        matches = plan_loss(
            one.ids, two.ids, one.units_per_population, two.units_per_population, inputs.device
        )
        return PairInputs(inputs, layout, matches)

    def forward(self, pair: PairInputs, n_pairs_total: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Score one micro-batch: no more than launches on the device, where the kernels run.

        Args:
            pair: What `prepare` made of it.
            n_pairs_total: Matched pairs of the whole global batch; the sum of the totals over its
                micro-batches is the loss of the global batch.

        Returns:
            Total, numerator and denominator of the loss, and the (U1, D) embeddings of view 1, detached.
        """
        z = self.encoder(pair.inputs, layout=pair.layout)
        z1, z2 = torch.split(z, [pair.matches.n_units1, pair.matches.n_units2])
        terms = self.loss(z1, z2, plan=pair.matches, n_pairs_total=n_pairs_total)
        return terms.total, terms.numerator, terms.denominator, z1.detach()


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
