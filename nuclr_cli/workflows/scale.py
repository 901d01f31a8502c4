"""`nuclr scale`: how held-out loss and a probe's score change with subjects, units, minutes or parameters."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from nuclr_cli import __version__
from nuclr_cli.data.remote import place_of, text_of
from nuclr_cli.data.sessions import open_sessions
from nuclr_cli.data.store import Session
from nuclr_cli.errors import InputError, Interrupted
from nuclr_cli.wording import counted
from nuclr_cli.workflows.devices import Device, choose_device
from nuclr_cli.workflows.folder_lock import FolderInUse, NoLocks, only_here
from nuclr_cli.workflows.launchers import refuse_several
from nuclr_cli.workflows.presets import PretrainSettings
from nuclr_cli.workflows.pretrain_begin import PretrainConfig, settings_for
from nuclr_cli.workflows.reporting import Reporter, SilentReporter
from nuclr_cli.workflows.scale_config import Axis, ScaleConfig
from nuclr_cli.workflows.scale_design import Design, design, sweep_sessions
from nuclr_cli.workflows.scale_folder import folder_of, read_result, settle
from nuclr_cli.workflows.scale_grid import make_grid
from nuclr_cli.workflows.scale_record import DryRun, PointSpec, ScaleRecord, Sweep
from nuclr_cli.workflows.scale_report import summarise, write_report
from nuclr_cli.workflows.scale_run import Outcome, run_jobs
from nuclr_cli.workflows.scale_timing import estimate
from nuclr_cli.workflows.worker_pool import usable_cores

LOSS_WINDOWS = 256
"""Windows of the held-out loss, at most."""

MOST_JOBS = 8
"""Points at once on a CPU unless the user says otherwise: each of them is a process that loads torch."""


_MATCHED: dict[Axis, str] = {
    "subjects": "compute-matched: less data is seen more often",
    "minutes": "compute-matched: less data is seen more often",
    "units": "the same windows; a step on more units takes more computing",
    "parameters": "the same data; a step of a larger model takes more computing",
}


@dataclass(frozen=True)
class _Plan:
    """A sweep that was worked out, and with what."""

    sweep: Sweep
    design: Design
    notes: tuple[str, ...]
    sessions: Sequence[Session]
    settings: PretrainSettings
    device: Device
    jobs: int


def scale(config: ScaleConfig, reporter: Reporter | None = None) -> ScaleRecord:
    """Do a sweep, or what is left of it, and judge it.

    Raises:
        InputError: Bad data, label, options or folder, or points that failed; those that are done stay.
        Interrupted: A signal came; the same call goes on.
        MissingPackageError: `config.dask` is given and distributed is not installed.
    """
    reporter = reporter or SilentReporter()
    began = time.monotonic()
    plan = _plan(config, reporter)
    folder = folder_of(config, plan.sweep.axis)
    said = settle(folder, plan.sweep)
    for text in (*_choices(plan), *([said] if said else [])):
        reporter.note(text)
    with _alone_in(folder, reporter):
        todo = [point for point in plan.sweep.points if read_result(folder, point.name) is None]
        n_before = len(plan.sweep.points) - len(todo)
        if n_before:
            reporter.note(f"{n_before} of {len(plan.sweep.points)} points are done already")
        if todo:
            _run(config, plan, folder, todo, reporter)
        record = summarise(
            folder, plan.sweep, _choices(plan), plan.design.warnings, n_before, time.monotonic() - began
        )
        write_report(record)
    for text in record.warnings:
        reporter.warn(text)
    return record


@contextmanager
def _alone_in(folder: Path, reporter: Reporter) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(only_here(folder))
        except FolderInUse:
            raise InputError(
                f"Another nuclr scale is at work in {folder}.", "Wait for it, or name another folder with -o"
            ) from None
        except NoLocks:
            reporter.warn(
                f"the file system of {folder} knows no locks: see to it that no second sweep works there"
            )
        except OSError as error:
            raise InputError(
                f"The sweep {folder} cannot be written: {error.strerror or error}.",
                "Mend its permissions or free some space, or name another folder with -o",
            ) from None
        yield


def plan_only(config: ScaleConfig, reporter: Reporter | None = None) -> DryRun:
    """Work out a sweep and measure a few steps, without writing anything that stays.

    Raises:
        InputError: As `scale`, before the first point would start.
    """
    reporter = reporter or SilentReporter()
    plan = _plan(config, reporter)
    for text in plan.design.warnings:
        reporter.warn(text)
    return estimate(
        folder_of(config, plan.sweep.axis),
        plan.sweep,
        _choices(plan),
        plan.sessions,
        plan.settings,
        plan.device,
        plan.jobs,
        reporter,
    )


def _plan(config: ScaleConfig, reporter: Reporter) -> _Plan:
    refuse_several("nuclr scale")
    device = choose_device(config.gpus)
    sessions = open_sessions(config.data)
    shared = PretrainConfig(
        data=config.data, preset=config.preset, changes=config.changes, seed=config.seed, gpus=config.gpus
    )
    settings = settings_for(shared, sessions, device, reporter)
    chosen = design(config, sessions, settings.tokens)
    grid = make_grid(config, chosen, sessions, settings)
    sweep = Sweep(
        label=config.label,
        axis=chosen.axis,
        data=text_of(place_of(config.data)),
        preset=settings.preset,
        changes={key: _text(value) for key, value in config.changes.items() if key != "preset"},
        steps=None if config.epochs is not None else grid.points[0].steps,
        epochs=config.epochs,
        classes=tuple(sorted(config.classes)),
        variant=config.variant,
        threads=config.threads,
        seed=config.seed,
        held_out=chosen.held_out,
        split=chosen.split,
        probe_test_subjects=chosen.probe_test_subjects,
        time_share=chosen.time_share,
        loss_from=chosen.loss_from,
        loss_windows=LOSS_WINDOWS,
        sessions=sweep_sessions(sessions, config.label),
        points=grid.points,
        version=__version__,
    )
    jobs = config.jobs
    if jobs is None:
        jobs = 1 if device.accelerator == "cuda" else min(usable_cores() // config.threads, MOST_JOBS)
    elif jobs * config.threads > usable_cores():
        reporter.warn(
            f"{jobs} points at once with {counted(config.threads, 'thread')} each, on "
            f"{counted(usable_cores(), 'core')}: they slow each other down"
        )
    return _Plan(sweep, chosen, grid.notes, sessions, settings, device, max(1, min(jobs, len(grid.points))))


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _choices(plan: _Plan) -> tuple[str, ...]:
    """What the numbers rest on; a reader must know it to compare them."""
    sweep = plan.sweep
    if sweep.epochs is None:
        length = (
            f"Every point trains {sweep.steps} steps of {plan.settings.train.batch_windows} windows, "
            f"whatever its size ({_MATCHED[sweep.axis]})."
        )
    else:
        length = f"Every point makes {sweep.epochs:g} passes over what it sees: larger points train longer."
    if sweep.axis == "parameters":
        length += " All sizes share one learning rate and schedule; the embedding is as wide as the model."
    return (*plan.design.choices, length, *plan.notes)


def _run(
    config: ScaleConfig, plan: _Plan, folder: Path, todo: Sequence[PointSpec], reporter: Reporter
) -> None:
    """Do the points.

    Raises:
        InputError: Some failed.
        Interrupted: A signal came.
    """
    outcomes, exit_code = run_jobs(
        folder,
        todo,
        data=Path(plan.sweep.data),
        gpus=config.gpus,
        threads=config.threads,
        jobs=min(plan.jobs, len(todo)),
        dask=config.dask,
        reporter=reporter,
    )
    remaining = [outcome for outcome in outcomes if outcome.status != "done"]
    total = len(plan.sweep.points)
    if exit_code and remaining:
        raise Interrupted(
            f"Stopped by a signal: {total - len(remaining)} of {counted(total, 'point')} are done; there "
            f"remain {_names(remaining)}. Points in training have saved a checkpoint.",
            "Run the same command again to go on",
            exit_code=exit_code,
        )
    failed = [outcome for outcome in remaining if outcome.status == "failed"]
    if failed:
        first = failed[0]
        fix = f"{first.fix.rstrip('.')}. " if first.fix else ""
        raise InputError(
            f"{len(failed)} of {counted(total, 'point')} failed: {_names(failed)}. "
            f"{first.point}: {first.what}",
            f"{fix}The other points are kept: the same command does what is left",
        )
    if remaining:
        raise InputError(
            f"{len(remaining)} of {counted(total, 'point')} were stopped: {_names(remaining)}.",
            "Run the same command again to go on",
        )


def _names(outcomes: Sequence[Outcome], shown: int = 8) -> str:
    names = [outcome.point for outcome in outcomes]
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")
