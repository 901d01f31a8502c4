"""`nuclr pretrain`: sessions in, a run folder with checkpoints out."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from nuclr_cli.data.pretrain_stream import PretrainStream
from nuclr_cli.workflows.devices import Device, choose_device
from nuclr_cli.workflows.freed_memory import keep_freed_memory
from nuclr_cli.workflows.launchers import layout_of, may_be_restart
from nuclr_cli.workflows.metrics_log import read_metrics
from nuclr_cli.workflows.pretrain_begin import Begun, Place, begin, follow
from nuclr_cli.workflows.pretrain_begin import PretrainConfig as PretrainConfig
from nuclr_cli.workflows.pretrain_sessions import training_parts
from nuclr_cli.workflows.ranks import Ranks, resumed_with
from nuclr_cli.workflows.reporting import Reporter, SilentReporter
from nuclr_cli.workflows.run_lock import PATIENCE_S, RunLock
from nuclr_cli.workflows.runs import RunSession, resume_command
from nuclr_cli.workflows.trainer import Trainer
from nuclr_cli.workflows.window_groups import window_groups


@dataclass(frozen=True)
class PretrainRecord:
    """What came out.

    Attributes:
        run, name: Folder of the run, and its name.
        preset, device: What it ran with and where.
        processes: That trained together.
        steps: Optimiser steps of the run so far.
        parameters: Of the model.
        sessions, units, subjects: That were trained on.
        held_out_subjects, skipped: That were not.
        windows, windows_dropped: Drawn, and without two large enough views.
        first_loss, first_loss_step, last_loss, last_loss_step: Of the first and the last step in the metrics,
            which do not hold every step; None = no step is in them.
        rankme: Of the last step in the metrics.
        seconds: This command took.
        resumed_from: Step at which this command began.
    """

    run: Path
    name: str
    preset: str
    device: str
    processes: int
    steps: int
    parameters: int
    sessions: int
    units: int
    subjects: tuple[str, ...]
    held_out_subjects: tuple[str, ...]
    skipped: tuple[RunSession, ...]
    windows: int
    windows_dropped: int
    first_loss: float | None
    first_loss_step: int | None
    last_loss: float | None
    last_loss_step: int | None
    rankme: float | None
    seconds: float
    resumed_from: int


def pretrain(config: PretrainConfig, reporter: Reporter | None = None) -> PretrainRecord:
    """Train an encoder.

    Raises:
        InputError: Bad data, settings, device or checkpoint.
        Interrupted: A signal stopped the run after a checkpoint was saved.
    """
    reporter = reporter or SilentReporter()
    began = time.monotonic()
    device = choose_device(config.gpus, most=None)
    if device.accelerator == "cpu":
        keep_freed_memory()
    ranks = Ranks(device, layout_of(config.gpus, config.nodes))
    lock = RunLock(reporter, PATIENCE_S if may_be_restart() else 0.0)
    try:
        if not ranks.first:
            reporter = SilentReporter()
        ranks.agree(config)
        begun: list[Begun] = []

        def lead() -> Place:
            begun.append(begin(config, device, ranks.world, reporter, lock))
            return begun[0].place

        place = ranks.once(lead)

        def come_along() -> None:
            if not begun:
                begun.append(follow(place))

        ranks.of_each(come_along)
        return _train(begun[0], device, ranks, reporter, began)
    finally:
        lock.release()
        ranks.leave()


def _train(begun: Begun, device: Device, ranks: Ranks, reporter: Reporter, began: float) -> PretrainRecord:
    run, model, checkpoint = begun.run, begun.model, begun.checkpoint
    settings, train = run.settings, run.settings.train
    roles = {(s.subject, s.session, s.population): s.role for s in run.record.sessions}
    training = training_parts(
        [s for s in begun.sessions if roles[s.key.subject, s.key.session, s.key.population] == "train"],
        settings,
    )
    resumed_from = checkpoint.step if checkpoint else 0
    group = window_groups(ranks, train.processes_per_window, "train.processes_per_window")
    trainer = Trainer(run, model, device, checkpoint, reporter, [str(s.key) for s in training], ranks, group)
    if trainer.step < train.steps:
        if ranks.first:
            run = run.with_state("running", trainer.step)
        trainer.run = run
        workers = train.workers
        if workers is None:
            own_cores = (os.cpu_count() or 2) // ranks.layout.per_machine
            workers = 0 if device.accelerator == "cpu" else max(min(12, own_cores - 1), 1)
        stream = PretrainStream(
            training,
            settings.tokens,
            seed=settings.seed,
            batch_windows=train.batch_windows,
            max_tokens=train.max_tokens * group.of,
            dropout=(settings.views.dropout_low, settings.views.dropout_high),
            min_units=settings.views.min_units,
            rank=group.index,
            world=group.count,
            num_workers=workers,
            balance=settings.data.balance,
            prefetch=train.prefetch,
            pin_memory=device.accelerator == "cuda",
            state=trainer.stream_state,
        )
        trainer.barren_limit = 2 * stream.steps_in_epoch(1) + train.batch_windows
        warmup = train.warmup_steps
        if warmup is None:
            warmup = round(min(stream.steps_in_epoch(), train.steps / 10))
        try:
            with resumed_with(resume_command(run.folder)):
                trainer.fit(iter(stream), warmup)
        finally:
            stream.close()
        run = trainer.run
    if run.record.state != "finished" and ranks.first:  # also when it was stopped after its last step
        run = run.with_state("finished", trainer.step)
    rows = read_metrics(run.folder / "metrics.jsonl")
    logged = [(int(row["step"]), row["loss"]) for row in rows if row.get("loss") is not None]
    first, last = (logged[0], logged[-1]) if logged else ((None, None), (None, None))
    return PretrainRecord(
        run=run.folder,
        name=run.record.name,
        preset=settings.preset,
        device=device.name,
        processes=ranks.world,
        steps=trainer.step,
        parameters=sum(p.numel() for p in model.parameters()),
        sessions=len(training),
        units=sum(s.n_units for s in training),
        subjects=run.record.trained_subjects,
        held_out_subjects=run.record.held_out_subjects,
        skipped=tuple(s for s in run.record.sessions if s.role == "skipped"),
        windows=trainer.counters.windows,
        windows_dropped=trainer.counters.dropped,
        first_loss=first[1],
        first_loss_step=first[0],
        last_loss=last[1],
        last_loss_step=last[0],
        rankme=rows[-1].get("rankme") if rows else None,
        seconds=time.monotonic() - began,
        resumed_from=resumed_from,
    )
