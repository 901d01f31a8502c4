"""The gradient of one optimiser step, added up over micro-batches, global batches and ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nuclr_cli.data.batch import PairBatch
from nuclr_cli.data.pretrain_stream import StepBatch
from nuclr_cli.data.shares import DrawnWindow
from nuclr_cli.data.streams import Purpose, torch_seed
from nuclr_cli.errors import InputError
from nuclr_cli.wording import counted
from nuclr_cli.workflows.out_of_memory import told_of_memory
from nuclr_cli.workflows.pace import batch_flops
from nuclr_cli.workflows.pair_model import PairModel
from nuclr_cli.workflows.presets import PretrainSettings
from nuclr_cli.workflows.ranks import Ranks
from nuclr_cli.workflows.window_groups import WindowGroup

if TYPE_CHECKING:
    from lightning_fabric import Fabric

RANKME_ROWS = 2048


def _too_much(micro: PairBatch, settings: PretrainSettings, device: torch.device, of: int) -> tuple[str, str]:
    """What is going on, and what to type, when the memory does not suffice for a micro-batch."""
    windows = len(micro.view1.units_per_population)
    fix = "Use a machine with more memory, or a GPU"
    if windows > 1 and settings.loss.name != "vicreg":
        fix = f"Take fewer at a time: --set train.max_tokens={micro.n_tokens // (2 * of)}"
    elif settings.train.recompute != "layers":
        fix = "Keep less: --set train.recompute=layers"
    elif device.type == "cuda":
        fix = "Share the units of windows among more GPUs: --gpus N --set train.processes_per_window=N"
    what = f"train on {counted(windows, 'window')} of {micro.n_tokens:,} tokens at once"
    return what, f"{fix} (a run goes on with it and --resume)"


@dataclass(frozen=True)
class StepSums:
    """Of a whole step, over all ranks.

    Attributes:
        loss, numerator, denominator: Of the loss.
        n_units, n_tokens: That were encoded.
        flops: That took, see `nuclr_cli.model.flops`.
    """

    loss: float
    numerator: float
    denominator: float
    n_units: int
    n_tokens: int
    flops: float


class StepGradient:
    """What a step adds up before the optimiser moves the weights; gradients lie in the parameters' ``grad``.

    Without `train.target_pairs` a step is one global batch. Its pairs are known before its first term, which
    is weighted by them. With a target it is as many global batches as it takes; how many pairs they have
    together is known after the last. Until then a term weighs as many as it has pairs, and the sum is
    divided by all of them in the end: the loss is a mean over pairs, so that is the gradient of one batch of
    all those windows.

    Args:
        model: Its parameters have no gradient yet; if none takes one, the loss alone is added up.
        fabric, ranks: That train it.
        group: Processes that hold a window together with this one; None = it holds whole windows.
        settings: Of the run.
        step: Steps done; names the dropout masks.
        keep_embeddings: Keep some.

    Attributes:
        pairs: Matched pairs of all ranks so far.
        batches: Global batches so far.
        drawn: Windows of this rank.
    """

    def __init__(
        self,
        model: PairModel,
        fabric: Fabric,
        ranks: Ranks,
        settings: PretrainSettings,
        step: int,
        *,
        keep_embeddings: bool,
        group: WindowGroup | None = None,
    ) -> None:
        self._group = WindowGroup() if group is None else group
        self._model, self._fabric, self._ranks = model, fabric, ranks
        self._settings, self._step, self._keep = settings, step, keep_embeddings
        self._target = settings.train.target_pairs
        self.pairs = self.batches = 0
        self.drawn: list[DrawnWindow] = []
        # Added up on the device: reading one micro-batch's terms would keep the next from being launched.
        self._sums = torch.zeros(6, dtype=torch.float64, device=fabric.device)
        self._kept: list[Tensor] = []
        self._micro = 0

    @property
    def complete(self) -> bool:
        """Whether the step has all its pairs; the same on all ranks."""
        return self.batches > 0 if self._target is None else self.pairs >= self._target

    @property
    def embeddings(self) -> Tensor:
        """Some embeddings of view 1, float32 on the host; empty where none were kept."""
        return torch.cat(self._kept)[:RANKME_ROWS].cpu() if self._kept else torch.empty(0)

    def add(self, batch: StepBatch, n_pairs: int) -> None:
        """Add a global batch, of which this rank has some micro-batches, or none.

        Args:
            batch: This rank's share.
            n_pairs: Of all ranks. Without any the batch adds nothing.

        Raises:
            InputError: VICReg, and the batch is in parts.
        """
        self.batches += 1
        self.drawn += batch.drawn
        if not n_pairs:
            return
        self.pairs += n_pairs
        if self._settings.loss.name == "vicreg" and len(batch.micro) > 1:
            raise InputError(
                f"VICReg is a statistic of the whole batch; this one is cut into {len(batch.micro)} parts: "
                f"its {sum(m.n_tokens for m in batch.micro)} tokens exceed train.max_tokens.",
                "Raise --set train.max_tokens, lower --set train.batch_windows, or use --set loss.name=dcl",
            )
        for micro in batch.micro:
            self._add_micro(micro, n_pairs)

    def _add_micro(self, micro: PairBatch, n_pairs: int) -> None:
        # Dropout masks depend on the step and the micro-batch alone: a resumed run draws the same, if as
        # many ranks go on.
        number = self._micro * self._ranks.world + self._ranks.rank
        self._micro += 1
        torch.manual_seed(torch_seed(self._settings.seed, self._step, number, Purpose.MODEL))
        # A power of two divides and multiplies without rounding: the shares are float32.
        unit = n_pairs if self._target is None else 1 << micro.n_pairs.bit_length()
        device = self._fabric.device
        with (
            self._group.working(),
            told_of_memory(*_too_much(micro, self._settings, device, self._group.of)),
        ):
            pair = self._model.prepare(micro, device, self._group)
            # Not through Fabric's wrapper of the model, which would round terms in float64.
            with self._fabric.autocast():
                total, numerator, denominator, embeddings = self._model(pair, unit)
            terms = torch.stack([total, numerator, denominator]).detach().double()
            if self._target is not None:
                total, terms = total * unit, terms * unit
            if total.requires_grad:
                self._fabric.backward(total)
        self._sums[:3] += terms
        if self._group.leads:
            self._sums[3] += len(micro.view1.ids) + len(micro.view2.ids)
            self._sums[4] += micro.n_tokens
            self._sums[5] += batch_flops(self._settings, micro)
        if self._keep and sum(map(len, self._kept)) < RANKME_ROWS:
            self._kept.append(embeddings.float())

    def finish(self) -> StepSums:
        """Replace the gradients by those of the whole step, on every rank."""
        self._add_up_ranks()
        if self._target is not None:
            self._sums[:3] /= self.pairs
            for parameter in self._model.parameters():
                if parameter.grad is not None:
                    parameter.grad /= self.pairs
        loss, attraction, repulsion, n_units, n_tokens, flops = self._sums.tolist()
        return StepSums(loss, attraction, repulsion, round(n_units), round(n_tokens), flops)

    def _add_up_ranks(self) -> None:
        if self._ranks.world == 1:
            return
        parameters = list(self._model.parameters())
        # What no rank has used stays without a gradient: the optimiser passes over it, as it does alone.
        used = self._ranks.sum([parameter.grad is not None for parameter in parameters])
        gradients = []
        for parameter, n_ranks in zip(parameters, used, strict=True):
            if n_ranks:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                gradients.append(parameter.grad)
        self._ranks.sum_into(gradients)
        self._ranks.sum_into([self._sums])
