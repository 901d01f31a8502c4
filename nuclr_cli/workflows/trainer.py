"""The training loop: from a checkpoint (or nothing) to the last step."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nuclr_cli.data.pretrain_stream import StepBatch, StreamState
from nuclr_cli.data.streams import Purpose, torch_seed
from nuclr_cli.errors import InputError, Interrupted
from nuclr_cli.model.rankme import rankme
from nuclr_cli.workflows.checkpoints import (
    Checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from nuclr_cli.workflows.devices import Device
from nuclr_cli.workflows.metrics_log import MetricsLog
from nuclr_cli.workflows.pair_model import PairModel, learning_rate_at, parameter_groups
from nuclr_cli.workflows.reporting import Reporter
from nuclr_cli.workflows.runs import Run, resume_command, write_json
from nuclr_cli.workflows.signals import StopRequest

if TYPE_CHECKING:
    from lightning_fabric import Fabric

RANKME_ROWS = 2048


@dataclass
class Counters:
    """What a run adds up over its steps; travels in the checkpoint."""

    windows: int = 0
    dropped: int = 0
    pairs: int = 0


@dataclass(frozen=True)
class StepResult:
    """Numbers of one optimiser step, as Python floats."""

    loss: float
    numerator: float
    denominator: float
    grad_norm_encoder: float
    grad_norm_loss: float
    n_units: int
    embeddings: Tensor


def make_fabric(device: Device, precision: str) -> Fabric:
    """Lightning Fabric on one device; ``auto`` is bf16 with fp32 weights on a GPU and fp32 on a CPU."""
    try:
        from lightning_fabric import Fabric
    except ModuleNotFoundError:  # the `lightning` distribution carries the same class
        from lightning.fabric import Fabric  # type: ignore[no-redef]

    if precision == "auto":
        precision = "bf16" if device.accelerator == "cuda" else "fp32"
    fabric = Fabric(
        accelerator=device.accelerator,
        devices=1,
        precision="bf16-mixed" if precision == "bf16" else "32-true",
    )
    fabric.launch()
    return fabric


class Trainer:
    """Runs the steps of one run.

    Args:
        run: The run folder.
        model: At step 0, or with the weights of another run.
        device: Where.
        checkpoint: To continue from, or None.
        reporter: Hears about progress.
        session_names: Of the sessions trained on, in the order that `Window.session` counts in.
    """

    def __init__(
        self,
        run: Run,
        model: PairModel,
        device: Device,
        checkpoint: Checkpoint | None,
        reporter: Reporter,
        session_names: Sequence[str],
    ) -> None:
        self.run, self.settings, self.train = run, run.settings, run.settings.train
        self.reporter, self.session_names = reporter, session_names
        self.fabric = make_fabric(device, self.train.precision)
        self.step = 0
        self.stream_state = StreamState(0, 0)
        self.counters = Counters()
        if checkpoint is not None:
            model.load_state_dict(checkpoint.model)
            self.step = checkpoint.step
            self.stream_state = StreamState(**checkpoint.state["stream"])
            self.counters = Counters(**checkpoint.state["counters"])
        optimizer = torch.optim.AdamW(
            parameter_groups(model, self.train.weight_decay), lr=self.train.learning_rate
        )
        self.model = model
        self._wrapped, self._stepper = self.fabric.setup(model, optimizer)
        self._optimizer = optimizer
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}
        if checkpoint is not None:
            restore_optimizer(optimizer, self._names, checkpoint.optimizer)

    def fit(self, batches: Iterator[StepBatch], warmup_steps: int) -> None:
        """Train to the last step, logging and saving on the way.

        Raises:
            Interrupted: A signal asked for a stop; a checkpoint was saved first.
            InputError: The loss is not finite, no window gives two views, or the disk refuses a checkpoint.
        """
        train = self.train
        log = MetricsLog(self.run.folder, self.step, self.reporter)
        began = time.monotonic()
        waited = worked = 0.0
        units_since, steps_since = 0, 0
        try:
            with StopRequest() as stop, self.reporter.progress("pretrain", train.steps, "steps") as bar:
                self._wrapped.train()
                while self.step < train.steps:
                    t0 = time.perf_counter()
                    batch = next(batches)
                    t1 = time.perf_counter()
                    log_now = (self.step + 1) % train.log_every == 0 or self.step + 1 == train.steps
                    rate = learning_rate_at(self.step, train.learning_rate, warmup_steps, train.steps)
                    result = self._take_step(batch, rate, keep_embeddings=log_now)
                    self.step += 1
                    self.stream_state = batch.state_after
                    t2 = time.perf_counter()
                    waited, worked = waited + (t1 - t0), worked + (t2 - t1)
                    steps_since += 1
                    if result is not None:
                        units_since += result.n_units
                    if log_now:
                        row: dict[str, float | int] = {"step": self.step, "epoch": self.stream_state.epoch}
                        if result is not None:
                            row |= self._numbers(result, rate)
                        elapsed = waited + worked
                        row |= {
                            "windows": self.counters.windows,
                            "windows_dropped": self.counters.dropped,
                            "pairs": self.counters.pairs,
                            "units_per_s": units_since / elapsed,
                            "wait_share": waited / elapsed,
                            "step_s": elapsed / steps_since,
                            "elapsed_s": time.monotonic() - began,
                        }
                        log.write(row)
                        waited = worked = 0.0
                        units_since = steps_since = 0
                    bar.update(self.step, f"loss {result.loss:.3f}" if result is not None else "")
                    if stop.exit_code:
                        self._save()
                        raise self._interrupted(stop.exit_code)
                    if self.step % train.checkpoint_every == 0 or self.step == train.steps:
                        self._save()
                        self.run = self.run.with_state("running", self.step)
        finally:
            log.close()

    def _interrupted(self, exit_code: int) -> Interrupted:
        self.run = self.run.with_state("stopped", self.step)
        return Interrupted(
            f"Stopped by a signal after step {self.step} of {self.train.steps}; a checkpoint is saved.",
            f"Continue with: {resume_command(self.run.folder)}",
            exit_code=exit_code,
        )

    def _take_step(self, batch: StepBatch, rate: float, *, keep_embeddings: bool) -> StepResult | None:
        """One optimiser step on a global batch cut into micro-batches; None when no window gave two views."""
        counters = self.counters
        counters.windows += batch.n_windows
        counters.dropped += batch.n_dropped
        n_pairs = batch.n_pairs
        counters.pairs += n_pairs
        if not n_pairs:
            return None
        if self.settings.loss.name == "vicreg" and len(batch.micro) > 1:
            raise InputError(
                f"VICReg is a statistic of the whole batch; this one is cut into {len(batch.micro)} parts: "
                f"its {sum(m.n_tokens for m in batch.micro)} tokens exceed train.max_tokens.",
                "Raise --set train.max_tokens, lower --set train.batch_windows, or use --set loss.name=dcl",
            )
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._stepper.zero_grad(set_to_none=True)
        # Added up on the device: reading one micro-batch's terms would keep the next from being launched.
        sums = torch.zeros(3, dtype=torch.float64, device=self.fabric.device)
        kept: list[Tensor] = []
        for i, micro in enumerate(batch.micro):
            # Dropout masks depend on the step and the micro-batch alone: a resumed run draws the same.
            torch.manual_seed(torch_seed(self.settings.seed, self.step, i, Purpose.MODEL))
            pair = self.model.prepare(micro, self.fabric.device)
            total, numerator, denominator, embeddings = self._wrapped(pair, n_pairs)
            self.fabric.backward(total)
            sums += torch.stack([total, numerator, denominator]).detach().double()
            if keep_embeddings:
                kept.append(embeddings.float())
        loss, attraction, repulsion = sums.tolist()
        norms = [
            float(torch.nn.utils.clip_grad_norm_(part.parameters(), self.train.grad_clip))
            for part in (self.model.encoder, self.model.loss)
        ]
        if not all(math.isfinite(value) for value in (loss, *norms)):
            raise self._not_finite(batch, loss, norms)
        self._stepper.step()
        return StepResult(
            loss,
            attraction,
            repulsion,
            norms[0],
            norms[1],
            sum(len(m.view1.ids) + len(m.view2.ids) for m in batch.micro),
            torch.cat(kept)[:RANKME_ROWS].cpu() if kept else torch.empty(0),
        )

    def _not_finite(self, batch: StepBatch, loss: float, norms: list[float]) -> InputError:
        path = self.run.folder / f"not-finite-step-{self.step:08d}.json"
        document: dict[str, Any] = {
            "step": self.step,
            "loss": str(loss),
            "grad_norms": [str(norm) for norm in norms],
            "stream_before": asdict(self.stream_state),
            "windows": [
                {
                    "session": self.session_names[drawn.window.session],
                    "start_s": drawn.window.start_s,
                    "epoch": drawn.epoch,
                    "index": drawn.index,
                }
                for drawn in batch.drawn
            ],
        }
        write_json(path, document)
        self.run = self.run.with_state("failed", self.step)
        return InputError(
            f"The loss or its gradient is not finite at step {self.step} (loss {loss}). "
            f"The windows of this batch are listed in {path}.",
            "Look at those sessions with nuclr info, or lower --set train.learning_rate",
        )

    @staticmethod
    def _numbers(result: StepResult, rate: float) -> dict[str, float | int]:
        return {
            "loss": result.loss,
            "loss_numerator": result.numerator,
            "loss_denominator": result.denominator,
            "grad_norm": math.hypot(result.grad_norm_encoder, result.grad_norm_loss),
            "grad_norm_encoder": result.grad_norm_encoder,
            "grad_norm_loss": result.grad_norm_loss,
            "learning_rate": rate,
            "rankme": rankme(result.embeddings),
        }

    def _save(self) -> None:
        save_checkpoint(
            self.run.checkpoints,
            self.step,
            self.model.state_dict(),
            optimizer_tensors(self._optimizer, self._names),
            {"stream": asdict(self.stream_state), "counters": asdict(self.counters)},
            self.train.keep_checkpoints,
        )
