"""The training loop: from a checkpoint (or nothing) to the last step."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from nuclr_cli.data.pretrain_stream import StepBatch, StreamState
from nuclr_cli.errors import InputError, Interrupted, NuclrError
from nuclr_cli.model.rankme import rankme
from nuclr_cli.workflows.accumulation import StepGradient
from nuclr_cli.workflows.best_checkpoint import Score
from nuclr_cli.workflows.checkpoints import (
    Checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
    take_weights,
)
from nuclr_cli.workflows.compiling import compile_encoder
from nuclr_cli.workflows.devices import Device, float32_products
from nuclr_cli.workflows.launchers import Layout
from nuclr_cli.workflows.loggers import Sinks
from nuclr_cli.workflows.metrics_log import MetricsLog
from nuclr_cli.workflows.moving_average import MovingAverage
from nuclr_cli.workflows.optimisers import build_optimizer
from nuclr_cli.workflows.pace import Pace
from nuclr_cli.workflows.pair_model import PairModel, learning_rate_at
from nuclr_cli.workflows.ranks import Ranks
from nuclr_cli.workflows.reporting import Reporter
from nuclr_cli.workflows.runs import Run, State, resume_command, write_json
from nuclr_cli.workflows.signals import StopRequest
from nuclr_cli.workflows.window_groups import WindowGroup


@dataclass
class Counters:
    """What a run adds up over its steps; travels in the checkpoint."""

    windows: int = 0
    dropped: int = 0
    pairs: int = 0


@dataclass(frozen=True)
class _Everybody:
    """What all ranks together bring to a step: matched pairs, and whether one of them was asked to stop."""

    pairs: int
    exit_code: int


@dataclass(frozen=True)
class StepResult:
    """Numbers of one optimiser step over all ranks, as Python floats; embeddings of this one."""

    loss: float
    numerator: float
    denominator: float
    grad_norm_encoder: float
    grad_norm_loss: float
    n_units: int
    n_tokens: int
    flops: float
    embeddings: Tensor


def _drawn(batches: Iterator[StepBatch]) -> tuple[StepBatch | None, NuclrError | None]:
    """The next batch, or why there is none: the other ranks have to know before this one ends."""
    try:
        return next(batches), None
    except NuclrError as error:
        return None, error


def _nothing(row: Mapping[str, float | int]) -> None:
    """What other ranks than the first write."""


def _raise(error: NuclrError | None) -> None:
    if error is not None:
        raise error


class Trainer:
    """Runs the steps of one run.

    Args:
        run: The run folder.
        model: At step 0, or with the weights of another run.
        device: Where.
        checkpoint: To continue from, or None.
        reporter: Hears about progress.
        session_names: Of the sessions trained on, in the order that `Window.session` counts in.
        ranks: The processes that train together; None = this one alone.
        group: Of these, those that hold a window together with this one; None = it holds whole windows.
    """

    def __init__(
        self,
        run: Run,
        model: PairModel,
        device: Device,
        checkpoint: Checkpoint | None,
        reporter: Reporter,
        session_names: Sequence[str],
        ranks: Ranks | None = None,
        group: WindowGroup | None = None,
    ) -> None:
        self.run, self.settings, self.train = run, run.settings, run.settings.train
        self.device, self.reporter, self.session_names = device, reporter, session_names
        self.ranks = Ranks(device, Layout(1, 1)) if ranks is None else ranks
        self.group = WindowGroup(self.ranks.rank, self.ranks.world) if group is None else group
        self.fabric = self.ranks.fabric(self.train.precision)
        if self.train.precision == "fp64":
            model.double()
        self.step = 0
        self.stream_state = StreamState(0, 0)
        self.counters = Counters()
        self.score = Score()
        self.barren_limit = math.inf
        self._barren = 0
        if checkpoint is not None:
            take_weights(model, checkpoint, run.folder)
            self.step = checkpoint.step
            self.stream_state = StreamState(**checkpoint.state["stream"])
            self.counters = Counters(**checkpoint.state["counters"])
            self.score = Score.after(checkpoint.state)
        optimizer = build_optimizer(model, self.train)
        self.model = model
        _, self._stepper = self.fabric.setup(model, optimizer)
        self._optimizer = optimizer
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}
        if self.train.compile:
            compile_encoder(model.encoder, self.fabric.device, reporter)
        if checkpoint is not None:
            restore_optimizer(optimizer, self._names, checkpoint.optimizer)
        self._average = None if self.train.ema is None else MovingAverage(model, self.train.ema)
        if self._average is not None and checkpoint is not None:
            self._average.restore(checkpoint, run)

    def fit(self, batches: Iterator[StepBatch], warmup_steps: int) -> None:
        """Train to the last step, logging and saving on the way; what concerns all ranks happens on all.

        Raises:
            Interrupted: A signal asked for a stop; a checkpoint was saved first.
            InputError: The loss is not finite, no window gives two views, or the disk refuses a checkpoint.
        """
        train = self.train
        opened: list[MetricsLog] = []
        self.ranks.once(lambda: opened.append(self._open_log()))
        log = opened[0] if opened else None
        write = opened[0].write if opened else _nothing
        began, complete = time.monotonic(), self.step >= train.steps
        pace = Pace(self.settings, self.fabric.device, self.ranks.world)
        try:
            with (
                float32_products(self.device, tf32=train.tf32),
                StopRequest() as stop,
                self.reporter.progress("pretrain", train.steps, "steps", self.step) as bar,
            ):
                self.model.train()
                while self.step < train.steps:
                    log_now = (self.step + 1) % train.log_every == 0 or self.step + 1 == train.steps
                    gradient = self._gradient(keep_embeddings=log_now)
                    waited = worked = 0.0
                    while not gradient.complete:
                        t0 = time.perf_counter()
                        batch, failure = _drawn(batches)
                        t1 = time.perf_counter()
                        everybody = self._everybody(batch, failure, stop.exit_code)
                        assert batch is not None  # or all ranks would have ended
                        gradient.add(batch, everybody.pairs)
                        after = batch.state_after
                        waited, worked = waited + (t1 - t0), worked + (time.perf_counter() - t1)
                    t2 = time.perf_counter()
                    rate = learning_rate_at(self.step, train.learning_rate, warmup_steps, train.steps)
                    result = self._take_step(gradient, rate)
                    self.step += 1
                    self.stream_state = after
                    worked += time.perf_counter() - t2
                    did = (0, 0, 0.0) if result is None else (result.n_units, result.n_tokens, result.flops)
                    pace.add(waited, worked, *did)
                    if log_now:
                        row: dict[str, float | int] = {"step": self.step, "epoch": self.stream_state.epoch}
                        if result is not None:
                            row |= self._numbers(result, rate)
                        row |= {
                            "windows": self.counters.windows,
                            "windows_dropped": self.counters.dropped,
                            "pairs": self.counters.pairs,
                            "pairs_per_step": gradient.pairs,
                            "batches_per_step": gradient.batches,
                            **pace.numbers(),
                            "elapsed_s": time.monotonic() - began,
                        }
                        self.score.add(row)
                        self.ranks.once(partial(write, row))
                    bar.update(self.step, pace.said(None if result is None else result.loss))
                    if everybody.exit_code:
                        self._save()
                        raise self.ranks.said_once(self._interrupted(everybody.exit_code))
                    if self.step % train.checkpoint_every == 0 or self.step == train.steps:
                        self._save()
                        self._note_state("running")
                complete = True
        finally:
            if log is not None:
                log.close(finished=complete)

    def _open_log(self) -> MetricsLog:
        return MetricsLog(self.run.folder, self.step, Sinks(self.run, self.step, self.reporter))

    def _everybody(self, batch: StepBatch | None, failure: NuclrError | None, exit_code: int) -> _Everybody:
        """Add up what the ranks have to know of one another before a step.

        Raises:
            NuclrError: A rank has no batch: why.
        """
        own = (0, 0, 0)
        if batch is not None and self.group.leads:
            own = (batch.n_windows, batch.n_dropped, batch.n_pairs)
        counts = (*own, exit_code == 143, exit_code == 130, failure is not None)
        windows, dropped, pairs, *asked, failed = (round(value) for value in self.ranks.sum(counts))
        if failed:
            self.ranks.of_each(lambda: _raise(failure))
        counters = self.counters
        counters.windows += windows
        counters.dropped += dropped
        counters.pairs += pairs
        self._barren = 0 if pairs else self._barren + windows
        if self.ranks.world > 1 and self._barren > self.barren_limit:
            raise self.ranks.said_once(
                InputError(
                    f"Not one of {self._barren} windows in a row gave a training pair.",
                    "Use populations with more active units, or ask for fewer: --set views.min_units=NUMBER",
                )
            )
        return _Everybody(pairs, 143 if asked[0] else 130 if asked[1] else 0)

    def _note_state(self, state: State) -> None:
        """Write down how far the run is, on the first rank."""
        if self.ranks.first:
            self.run = self.run.with_state(state, self.step)

    def _interrupted(self, exit_code: int) -> Interrupted:
        self._note_state("stopped")
        return Interrupted(
            f"Stopped by a signal after step {self.step} of {self.train.steps}; a checkpoint is saved.",
            f"Continue with: {resume_command(self.run.folder)}",
            exit_code=exit_code,
        )

    def _gradient(self, *, keep_embeddings: bool) -> StepGradient:
        """Where the next step adds up its gradient; that of the last one is dropped."""
        self._stepper.zero_grad(set_to_none=True)
        return StepGradient(
            *(self.model, self.fabric, self.ranks, self.settings, self.step),
            keep_embeddings=keep_embeddings,
            group=self.group,
        )

    def _take_step(self, gradient: StepGradient, rate: float) -> StepResult | None:
        """Move the weights by a gradient.

        Args:
            gradient: Complete.
            rate: Learning rate.

        Returns:
            None when no window of any rank gave two views.
        """
        if not gradient.pairs:
            return None
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        sums = gradient.finish()
        norms = [
            float(torch.nn.utils.clip_grad_norm_(part.parameters(), self.train.grad_clip))
            for part in (self.model.encoder, self.model.loss)
        ]
        if not all(math.isfinite(value) for value in (sums.loss, *norms)):
            raise self.ranks.said_once(self._not_finite(gradient, sums.loss, norms))
        self._stepper.step()
        if self._average is not None:
            self._average.update(self.step + 1)
        return StepResult(
            sums.loss,
            sums.numerator,
            sums.denominator,
            norms[0],
            norms[1],
            sums.n_units,
            sums.n_tokens,
            sums.flops,
            gradient.embeddings,
        )

    def _not_finite(self, gradient: StepGradient, loss: float, norms: list[float]) -> InputError:
        path = self.run.folder / f"not-finite-step-{self.step:08d}.json"
        windows = [
            {
                "session": self.session_names[drawn.window.session],
                "start_s": drawn.window.start_s,
                "epoch": drawn.epoch,
                "index": drawn.index,
            }
            for drawn in (gradient.drawn if self.group.leads else ())
        ]
        document: dict[str, Any] = {
            "step": self.step,
            "loss": str(loss),
            "grad_norms": [str(norm) for norm in norms],
            "stream_before": asdict(self.stream_state),
            "windows": [window for of_rank in self.ranks.gather(windows) for window in of_rank],
        }
        listed = f"The windows of this step are listed in {path}."
        if self.ranks.first:
            try:
                write_json(path, document)
            except OSError as error:
                listed = f"The windows of this step could not be listed in {path}: {error.strerror or error}."
        self._note_state("failed")
        return InputError(
            f"The loss or its gradient is not finite at step {self.step} (loss {loss}). {listed}",
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
        regular = self.step % self.train.checkpoint_every == 0 or self.step == self.train.steps
        self.ranks.once(
            lambda: save_checkpoint(
                self.run.checkpoints,
                self.step,
                self.model.state_dict(),
                optimizer_tensors(self._optimizer, self._names),
                {
                    "stream": asdict(self.stream_state),
                    "counters": asdict(self.counters),
                    "score": self.score.state(regular),
                },
                self.train.keep_checkpoints,
                self.train.keep_best,
                None if self._average is None else self._average.tensors,
            )
        )
        if regular:
            self.score = Score()
