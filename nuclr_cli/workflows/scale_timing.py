"""How long a sweep would take, from a few steps of its smallest and its largest point."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from nuclr_cli.data.store import Session
from nuclr_cli.data.tokens import TokenSpec
from nuclr_cli.data.windows import evaluation_windows
from nuclr_cli.workflows.devices import Device
from nuclr_cli.workflows.embed_sessions import embed_sessions
from nuclr_cli.workflows.metrics_log import read_metrics
from nuclr_cli.workflows.pair_model import initial_model
from nuclr_cli.workflows.presets import PretrainSettings
from nuclr_cli.workflows.pretrain import PretrainConfig, pretrain
from nuclr_cli.workflows.reporting import Reporter
from nuclr_cli.workflows.scale_grid import point_settings
from nuclr_cli.workflows.scale_point import pretrain_changes
from nuclr_cli.workflows.scale_record import DryRun, MeasuredPoint, PointSpec, Sweep

_UNTIMED, _TIMED = 2, 5
_WINDOWS = 4


def estimate(
    folder: Path,
    sweep: Sweep,
    choices: tuple[str, ...],
    sessions: Sequence[Session],
    settings: PretrainSettings,
    device: Device,
    jobs: int,
    reporter: Reporter,
) -> DryRun:
    """Measure, in a temporary folder that is removed, and extrapolate.

    Args:
        folder: That the sweep would write; only named.
        sweep: The grid and all else.
        choices: For the record.
        sessions: All of them.
        settings: As all points share them.
        device: That points would use.
        jobs: Points at once.
        reporter: Told about progress.
    """
    first_seed = [point for point in sweep.points if point.seed == sweep.seed]
    ends = sorted({min(first_seed, key=_size).name, max(first_seed, key=_size).name})
    own = sorted((point for point in first_seed if point.name in ends), key=_size)
    threads = torch.get_num_threads()
    torch.set_num_threads(sweep.threads)
    try:
        measured = []
        with reporter.progress("measure", len(own) + 1, "points") as bar:
            for number, point in enumerate(own):
                measured.append(_measure(sweep, point, device, reporter))
                bar.update(number + 1)
            largest = point_settings(settings, own[-1], sweep.time_share)
            embedding_s = len(sweep.points) * _embedding_s(sessions, largest, device)
            bar.update(len(own) + 1)
    finally:
        torch.set_num_threads(threads)
    training_s = sum(point.steps * _step_s(point.size, measured) for point in sweep.points)
    ends_text = " and ".join(f"{one.step_s:.3g} s a step at {one.size:.6g}" for one in measured)
    how = (
        f"Training: median of {_TIMED} measured steps ({ends_text}), steps of other sizes in between on a "
        f"straight line. Embedding: {_WINDOWS} windows of the session with most units, as often as all "
        f"sessions need. Measured one at a time, divided by {jobs} at once. Starting "
        f"{len(sweep.points)} processes and probing come on top."
    )
    total_s = (training_s + embedding_s) / jobs
    return DryRun(folder, sweep, choices, jobs, tuple(measured), training_s, embedding_s, total_s, how)


def _size(point: PointSpec) -> float:
    return point.size


def _measure(sweep: Sweep, point: PointSpec, device: Device, reporter: Reporter) -> MeasuredPoint:
    with tempfile.TemporaryDirectory(prefix="nuclr-dry-run-") as folder:
        record = pretrain(
            PretrainConfig(
                data=Path(sweep.data),
                runs=Path(folder),
                name="dry-run",
                preset=sweep.preset,
                changes={
                    **pretrain_changes(sweep, point),
                    "train.steps": _UNTIMED + _TIMED,
                    "train.log_every": 1,
                    "train.checkpoint_every": _UNTIMED + _TIMED,
                },
                seed=point.seed,
                hold_out_subjects=sweep.held_out,
                gpus=0 if device.accelerator == "cpu" else 1,
            )
        )
        rows = read_metrics(record.run / "metrics.jsonl")
    steps = [row["step_s"] for row in rows][_UNTIMED:]
    return MeasuredPoint(point.name, point.size, len(steps), statistics.median(steps))


def _step_s(size: float, measured: Sequence[MeasuredPoint]) -> float:
    small, large = measured[0], measured[-1]
    if large.size == small.size:
        return large.step_s
    share = (size - small.size) / (large.size - small.size)
    return small.step_s + share * (large.step_s - small.step_s)


def _embedding_s(sessions: Sequence[Session], settings: PretrainSettings, device: Device) -> float:
    """Seconds to embed all sessions once, from a few windows of one."""
    tokens = settings.tokens
    windows = {session.key: len(evaluation_windows(session, tokens)) for session in sessions}
    able = [session for session in sessions if windows[session.key]]
    if not able:
        return 0.0
    sample = max(able, key=lambda session: session.n_units)
    _embed(sample, 1, settings, tokens, device)  # loads what the first pass has to load
    n_windows = min(_WINDOWS, windows[sample.key])
    began = time.monotonic()
    _embed(sample, n_windows, settings, tokens, device)
    taken = time.monotonic() - began
    total = sum(session.n_units * windows[session.key] for session in able)
    return taken * total / (sample.n_units * n_windows)


def _embed(
    session: Session, n_windows: int, settings: PretrainSettings, tokens: TokenSpec, device: Device
) -> None:
    limit_s = n_windows * tokens.of(session.modality).window_s
    embed_sessions(
        initial_model(settings).encoder,
        [session],
        tokens,
        device,
        max_tokens=settings.train.max_tokens,
        limit_s=limit_s,
    )
