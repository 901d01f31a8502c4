"""`nuclr pretrain --find-lr`: which learning rate a model learns fastest with, tried on a copy of it."""

from __future__ import annotations

import copy
import math
import shlex
import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from nuclr_cli.data.pretrain_stream import PretrainStream
from nuclr_cli.data.remote import text_of
from nuclr_cli.errors import InputError
from nuclr_cli.workflows.accumulation import StepGradient
from nuclr_cli.workflows.data_place import open_data
from nuclr_cli.workflows.devices import choose_device, float32_products
from nuclr_cli.workflows.freed_memory import keep_freed_memory
from nuclr_cli.workflows.launchers import Layout, layout_of
from nuclr_cli.workflows.optimisers import build_optimizer
from nuclr_cli.workflows.pair_model import PairModel, initial_model
from nuclr_cli.workflows.presets import PretrainSettings
from nuclr_cli.workflows.pretrain_begin import PretrainConfig, check_fits, settings_for, take_ancestor
from nuclr_cli.workflows.pretrain_sessions import say_skipped, session_roles, training_parts
from nuclr_cli.workflows.ranks import Ranks
from nuclr_cli.workflows.reporting import Reporter, SilentReporter
from nuclr_cli.workflows.runs import find_run

STEPS = 100
LOWEST, HIGHEST = 1e-6, 1.0
_SMOOTHED_OVER = 2.5
"""Width of the Gaussian that smooths the curve, in steps: 0.15 decades."""


@dataclass(frozen=True)
class RatePoint:
    """One step.

    Attributes:
        rate: Learning rate.
        loss: Before the step, of the model that learns.
        loss_at_start: Of the model as it was at first, on the same views with the same dropout.
        change: ``loss - loss_at_start``, smoothed over neighbouring steps.
    """

    rate: float
    loss: float
    loss_at_start: float
    change: float


@dataclass(frozen=True)
class RateRecord:
    """What came out.

    Attributes:
        learning_rate: Where the smoothed loss falls most steeply; None where it falls nowhere.
        lowest_at: Where the smoothed loss is lowest: above, steps begin to unlearn.
        setting: `learning_rate`, as ``--set`` takes it.
        command: That starts a run with it.
        preset, optimizer, device: What it was tried with, and where.
        sessions, units: That were trained on.
        curve: All steps, by rising rate; they end before the first loss that is not finite.
    """

    learning_rate: float | None
    lowest_at: float
    setting: str | None
    command: str | None
    preset: str
    optimizer: str
    device: str
    sessions: int
    units: int
    curve: tuple[RatePoint, ...]
    seconds: float


def find_learning_rate(config: PretrainConfig, reporter: Reporter | None = None) -> RateRecord:
    """Train a copy of the model for 100 steps with exponentially rising rates (arXiv 1506.01186).

    Batches differ in their loss by more than one step teaches, so a copy of the model that does not learn
    goes along: what counts is how much lower the loss is than that copy's, on the same views. Nothing is
    written.

    Args:
        config: As for a run; its name, and where runs are, have no effect but on `init_from`.
        reporter: Told about progress.

    Raises:
        InputError: Bad data, settings or device; or a run is to be resumed, or several processes are asked
            for.
    """
    reporter = reporter or SilentReporter()
    began = time.monotonic()
    if config.resume:
        raise InputError(
            "--find-lr and --resume contradict one another: a run keeps its learning rate.",
            "Leave one of them out",
        )
    device = choose_device(config.gpus)
    world = layout_of(config.gpus, config.nodes).world
    if world > 1:
        raise InputError(
            f"--find-lr is one process, and there are to be {world}.",
            "Start it by itself, with --gpus 1 or --gpus 0; the rate it finds serves any number of them",
        )
    if device.accelerator == "cpu":
        keep_freed_memory()
    sessions = open_data(config.data, config.cache, reporter)
    settings = settings_for(config, sessions, device, reporter)
    # How many processes share a window changes no number, and here is one.
    settings = replace(settings, train=replace(settings.train, processes_per_window=1))
    check_fits(settings, 1)
    roles = session_roles(sessions, settings, config.hold_out_subjects)
    say_skipped(roles, reporter)
    trained = [s for s, role in zip(sessions, roles, strict=True) if role.role == "train"]
    model = initial_model(settings)
    if config.init_from is not None:
        take_ancestor(model, find_run(config.init_from, config.runs))
    stream = PretrainStream(
        training_parts(trained, settings),
        settings.tokens,
        seed=settings.seed,
        batch_windows=settings.train.batch_windows,
        max_tokens=settings.train.max_tokens,
        dropout=(settings.views.dropout_low, settings.views.dropout_high),
        min_units=settings.views.min_units,
        balance=settings.data.balance,
        num_workers=settings.train.workers or 0,
    )
    try:
        with float32_products(device, tf32=settings.train.tf32):
            rates, losses, at_start = _climb(model, stream, settings, Ranks(device, Layout(1, 1)), reporter)
    finally:
        stream.close()
    change = smoothed(losses - at_start)
    found = steepest_descent(rates, losses - at_start)
    setting = None if found is None else f"train.learning_rate={found:g}"
    points = zip(rates.tolist(), losses.tolist(), at_start.tolist(), change.tolist(), strict=True)
    return RateRecord(
        learning_rate=found,
        lowest_at=float(rates[change.argmin()]),
        setting=setting,
        command=None if setting is None else _command(config, setting),
        preset=settings.preset,
        optimizer=settings.train.optimizer,
        device=device.name,
        sessions=len(trained),
        units=sum(role.units_trained or 0 for role in roles if role.role == "train"),
        curve=tuple(RatePoint(*point) for point in points),
        seconds=time.monotonic() - began,
    )


def _climb(
    model: PairModel, stream: PretrainStream, settings: PretrainSettings, ranks: Ranks, reporter: Reporter
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Rates, and the losses of the model that learns and of the one that does not, (steps,) each."""
    fabric = ranks.fabric(settings.train.precision)
    if settings.train.precision == "fp64":
        model.double()
    still = copy.deepcopy(model).requires_grad_(False).to(fabric.device).train()
    _, stepper = fabric.setup(model, optimizer := build_optimizer(model, settings.train))
    model.train()
    rows: list[tuple[float, float, float]] = []
    batches = iter(stream)
    with reporter.progress("find-lr", STEPS, "steps") as bar:
        for step, rate in enumerate(np.geomspace(LOWEST, HIGHEST, STEPS).tolist()):
            stepper.zero_grad(set_to_none=True)
            learning, standing = (
                StepGradient(one, fabric, ranks, settings, step, keep_embeddings=False)
                for one in (model, still)
            )
            while not (learning.complete and learning.pairs):
                batch = next(batches)
                for gradient in (learning, standing):
                    gradient.add(batch, batch.n_pairs)
            loss, before = learning.finish().loss, standing.finish().loss
            norms = [
                float(torch.nn.utils.clip_grad_norm_(part.parameters(), settings.train.grad_clip))
                for part in (model.encoder, model.loss)
            ]
            if not all(math.isfinite(value) for value in (loss, *norms)):
                break
            rows.append((rate, loss, before))
            for group in optimizer.param_groups:
                group["lr"] = rate
            stepper.step()
            bar.update(step + 1, f"rate {rate:.1e}, loss {loss:.3f}")
    if len(rows) < 2:
        raise InputError(
            f"The loss or its gradient is not finite at a learning rate of {LOWEST:g} already.",
            "Look at the sessions with nuclr info",
        )
    table = np.array(rows)
    return table[:, 0], table[:, 1], table[:, 2]


def smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gaussian mean over neighbouring steps, (steps,)."""
    steps = np.arange(len(values))
    weights = np.exp(-0.5 * ((steps[:, None] - steps[None, :]) / _SMOOTHED_OVER) ** 2)
    mean: NDArray[np.float64] = weights @ values / weights.sum(axis=1)
    return mean


def steepest_descent(rates: NDArray[np.float64], change: NDArray[np.float64]) -> float | None:
    """The rate at which the smoothed loss falls most steeply over the logarithm of the rate.

    Args:
        rates: (steps,) ascending.
        change: (steps,) of the loss, against that of the model that does not learn.

    Returns:
        Two digits of it; None where the loss falls by less than it scatters about its smoothed curve.
    """
    curve = smoothed(change)
    lowest = int(curve.argmin())
    if lowest < 1 or -curve[lowest] <= 2.0 * float((change - curve)[: lowest + 1].std()):
        return None
    slope = np.gradient(curve, np.log(rates))[: lowest + 1]
    return float(f"{rates[int(slope.argmin())]:.1e}")


def _command(config: PretrainConfig, setting: str) -> str:
    """What starts a run as it was tried, with the rate that was found."""
    changes = {key: value for key, value in config.changes.items() if key != "train.learning_rate"}
    given = {
        "--preset": config.preset,
        "--hold-out-subjects": ",".join(config.hold_out_subjects) or None,
        "--init-from": config.init_from,
        "--seed": config.seed,
        "--gpus": config.gpus,
        "--cache": None if config.cache is None else config.cache.folder,
        "--name": config.name,
        "--runs": config.runs if config.runs != PretrainConfig.runs else None,
    }
    options = [f"{name} {shlex.quote(str(value))}" for name, value in given.items() if value is not None]
    options += [f"--set {shlex.quote(f'{key}={_as_typed(value)}')}" for key, value in changes.items()]
    return " ".join(["nuclr pretrain", shlex.quote(text_of(config.data)), *options, f"--set {setting}"])


def _as_typed(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
