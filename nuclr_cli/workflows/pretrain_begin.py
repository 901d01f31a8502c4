"""What a run begins with: found again or made, on the first rank, and read by the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nuclr_cli.data.file_cache import Cache
from nuclr_cli.data.remote import place_of, text_of
from nuclr_cli.data.store import Session
from nuclr_cli.errors import InputError
from nuclr_cli.workflows.checkpoints import Checkpoint, load_checkpoint, newest_whole_checkpoint
from nuclr_cli.workflows.config import flatten
from nuclr_cli.workflows.data_place import open_data
from nuclr_cli.workflows.devices import Device
from nuclr_cli.workflows.loggers import checked
from nuclr_cli.workflows.pair_model import PairModel, initial_model
from nuclr_cli.workflows.presets import PretrainSettings, for_modalities, preset_settings, with_changes
from nuclr_cli.workflows.pretrain_sessions import (
    check_same_sessions,
    say_skipped,
    say_unknown_origin,
    session_roles,
)
from nuclr_cli.workflows.reporting import Reporter
from nuclr_cli.workflows.run_data import data_of, is_data_of
from nuclr_cli.workflows.run_lock import RunLock
from nuclr_cli.workflows.runs import (
    DATA,
    RUNS,
    Run,
    check_name,
    create_run,
    find_run,
    list_runs,
    open_run,
    resume_command,
)

OF_THE_MACHINE = frozenset(
    f"train.{name}"
    for name in (
        "max_tokens",
        "recompute",
        "processes_per_window",
        "workers",
        "prefetch",
        "keep_checkpoints",
        "peak_tflops",
    )
)
"""Settings that say what fits where, which a run may change on its way; no window or view depends on them."""


@dataclass(frozen=True)
class PretrainConfig:
    """What the user asked for.

    Attributes:
        data: DATA folder (or one session file).
        runs: Folder that holds the runs.
        name: Of the run; None = preset and time.
        preset: None = by modality on a GPU, ``tiny`` on a CPU.
        changes: Dotted settings that differ from the preset.
        seed: None = the preset's.
        hold_out_subjects: Subjects that pretraining must not see.
        gpus: GPUs of a machine; None = one if there is one, else the CPU.
        nodes: Machines; None = what a launcher has started, else one.
        resume: Continue the named (or newest unfinished) run, else start it.
        init_from: Run whose weights to start from.
        cache: Where copies of sessions lie that are not on this machine; see `open_data`.
        loggers: ``wandb``, ``mlflow``, or ``none`` alone; None = as the resumed run had them.
    """

    data: Path = DATA
    runs: Path = RUNS
    name: str | None = None
    preset: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    hold_out_subjects: tuple[str, ...] = ()
    gpus: int | None = None
    nodes: int | None = None
    resume: bool = False
    init_from: Path | None = None
    cache: Cache | None = None
    loggers: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Place:
    """Where a run begins: what the first rank tells the others.

    Attributes:
        run: Its folder.
        data: The sessions.
        step: Of the checkpoint that it goes on from; None = it begins with `ancestor`'s weights or new ones.
        ancestor: Folder of the run whose weights it starts from.
        cache: As in `PretrainConfig`.
    """

    run: Path
    data: Path
    step: int | None
    ancestor: Path | None
    cache: Cache | None


@dataclass(frozen=True)
class Begun:
    """A run that is about to train on this rank."""

    place: Place
    run: Run
    model: PairModel
    sessions: list[Session]
    checkpoint: Checkpoint | None


def begin(config: PretrainConfig, device: Device, world: int, reporter: Reporter, lock: RunLock) -> Begun:
    """Find the run to go on with, or make one.

    Args:
        config: What the user asked for.
        device: Of each process.
        world: Processes that will train together.
        reporter: Told what was found.
        lock: Takes the run, unless it is finished.

    Raises:
        InputError: Bad data, settings or checkpoint; nothing has been made then. Or another process trains
            the run.
        MissingPackageError: That of a logger.
    """
    loggers = checked(config.loggers or ())
    run = _run_to_resume(config, reporter)
    if run is not None:
        if run.record.state != "finished":
            lock.take(run.folder)
            run = open_run(run.folder)  # as whoever held it before has left it
        kept = checked(run.record.loggers) if config.loggers is None else loggers
        run = dataclasses.replace(run, record=dataclasses.replace(run.record, loggers=kept))
        checkpoint = newest_whole_checkpoint(run.checkpoints, reporter.warn)
        settings = _settings_to_resume(run, config)
        check_fits(settings, world)
        step = checkpoint.step if checkpoint else 0
        if step >= run.settings.train.steps:
            reporter.note(f"run {run.record.name} is finished: nothing to do")
        else:
            lock.take(run.folder)
            reporter.note(f"continuing run {run.record.name} at step {step} of {run.settings.train.steps}")
        data = _data_to_resume(run, config, reporter)
        sessions = open_data(data, config.cache, reporter)
        check_same_sessions(run, sessions, data)
        if step < settings.train.steps:
            run = _with_settings(run, settings, reporter)
        model = initial_model(run.settings)
        ancestor = None
        if checkpoint is None and run.record.init_from:
            source = open_run(Path(run.record.init_from))
            _same_ancestor(run, source)
            take_ancestor(model, source)
            ancestor = source.folder
        place = Place(
            run.folder.resolve(), place_of(data), step if checkpoint else None, ancestor, config.cache
        )
        return Begun(place, run, model, sessions, checkpoint)
    if config.resume:
        which = f"no run {config.name}" if config.name is not None else "no unfinished run"
        reporter.note(f"there is {which} in {config.runs} to go on with: a new one is started")
    if config.name is not None:
        check_name(config.name)
    sessions = open_data(config.data, config.cache, reporter)
    settings = settings_for(config, sessions, device, reporter)
    check_fits(settings, world)
    roles = session_roles(sessions, settings, config.hold_out_subjects)
    say_skipped(roles, reporter)
    model = initial_model(settings)
    origin = find_run(config.init_from, config.runs) if config.init_from else None
    if origin is not None:
        take_ancestor(model, origin)
        say_unknown_origin(origin, config.hold_out_subjects, reporter)
        met = sorted(set(config.hold_out_subjects) & set(origin.record.seen_subjects))
        if met:
            reporter.warn(
                f"{', '.join(met)}: held out here, but the weights of {origin.folder} come from them, so "
                "probes that test on them are not inductive"
            )
    run = create_run(config.runs, config.name, settings, config.data, roles, origin, loggers=loggers)
    lock.take(run.folder)
    ancestor = origin.folder.resolve() if origin else None
    place = Place(run.folder.resolve(), place_of(config.data), None, ancestor, config.cache)
    return Begun(place, run, model, sessions, None)


def check_fits(settings: PretrainSettings, world: int) -> None:
    """Raise InputError for what several processes, or a step of several batches, cannot train."""
    together = settings.train.processes_per_window
    if world % together:
        raise InputError(
            f"train.processes_per_window is {together}, which does not divide the number of processes, "
            f"{world}.",
            f"Start a multiple of it (--gpus {together}, torchrun or srun), or --set "
            "train.processes_per_window=1",
        )
    if settings.loss.name == "vicreg" and world > together:
        raise InputError(
            f"VICReg is a statistic of the whole batch; {world} processes would each see a part.",
            f"Train on one device, hold windows together (--set train.processes_per_window={world}), or use "
            "--set loss.name=dcl",
        )
    if settings.train.compile and together > 1:
        raise InputError(
            f"train.compile is for windows that one process holds; train.processes_per_window is {together}.",
            "Leave one of them out",
        )
    if settings.loss.name == "vicreg" and settings.train.target_pairs is not None:
        raise InputError(
            f"VICReg is a statistic of the whole batch; train.target_pairs = {settings.train.target_pairs} "
            "adds up several.",
            "Raise train.batch_windows instead of --set train.target_pairs, or use --set loss.name=dcl",
        )


def follow(place: Place) -> Begun:
    """On another rank than the first: read what that one has found or made.

    Raises:
        InputError: It is not here, or other sessions are, as on a machine with an old copy.
    """
    run = open_run(place.run)
    sessions = open_data(place.data, place.cache)
    check_same_sessions(run, sessions, place.data)
    model = initial_model(run.settings)
    checkpoint = None if place.step is None else load_checkpoint(run.checkpoints, place.step)
    if place.ancestor is not None:
        take_ancestor(model, open_run(place.ancestor))
    return Begun(place, run, model, sessions, checkpoint)


def _same_ancestor(run: Run, source: Run) -> None:
    """Raise InputError when another run stands where the one was that `run` is to start from.

    Probes are called inductive by the subjects and recordings that `run` wrote down when it was made.
    """
    new = set(source.record.seen_subjects) - set(run.record.inherited_subjects)
    written, seen = run.record.inherited_digests, source.record.seen_digests
    if written is not None:
        new |= {subject for subject, digest in seen or () if (subject, digest) not in written}
    if source.record.inherited_how == "unknown" != run.record.inherited_how:
        new.add("subjects that nobody named")
    unknown = sorted(new)
    if unknown:
        raise InputError(
            f"{source.folder} is not the run any more that {run.record.name} was to start from: it has also "
            f"seen {', '.join(unknown)}.",
            "Start a new run with --init-from and another --name",
        )


def take_ancestor(model: PairModel, source: Run) -> None:
    """Start from the weights of another run."""
    weights = load_checkpoint(source.checkpoints).model
    try:
        model.load_state_dict(weights)
    except RuntimeError:
        raise InputError(
            f"The model of {source.folder} differs from the one asked for.",
            "Use the same preset, model and loss settings, with sessions of the same modality",
        ) from None


def _run_to_resume(config: PretrainConfig, reporter: Reporter) -> Run | None:
    if not config.resume:
        return None
    if config.name is not None:
        check_name(config.name)
        folder = config.runs / config.name
        return open_run(folder) if folder.is_dir() else None
    # A run whose loss went wrong would go wrong again: it is continued only when it is named.
    going = [
        run for run in list_runs(config.runs, reporter.warn) if run.record.state in ("running", "stopped")
    ]
    return going[-1] if going else None


def settings_for(
    config: PretrainConfig, sessions: Sequence[Session], device: Device, reporter: Reporter
) -> PretrainSettings:
    """What a new run would train with: the preset (or the default one, said aloud) and the changes to it.

    Raises:
        InputError: An unknown preset or setting, or a value that does not fit.
    """
    modalities = frozenset(session.modality for session in sessions)
    preset = config.preset or str(config.changes.get("preset", ""))
    if not preset:
        if device.accelerator == "cpu":
            preset, why = "tiny", "this is a CPU"
        elif modalities == {"calcium"}:
            preset, why = "calcium", "the sessions are calcium recordings"
        else:
            preset, why = "ephys", "the sessions hold spikes"
        reporter.note(f"preset {preset}, since {why} (--preset chooses another)")
    changes = {key: value for key, value in config.changes.items() if key != "preset"}
    settings = with_changes(preset_settings(preset), changes)
    if config.seed is not None:
        settings = dataclasses.replace(settings, seed=config.seed)
    return for_modalities(settings, modalities)


def _data_to_resume(run: Run, config: PretrainConfig, reporter: Reporter) -> Path:
    """Where the run's sessions are: in a moved project, what the command line names."""
    if config.data != DATA:
        return config.data
    return data_of(run, resume_command(run.folder).replace("pretrain", "pretrain DATA", 1), reporter.note)


def _settings_to_resume(run: Run, config: PretrainConfig) -> PretrainSettings:
    """A resumed run keeps its settings, but for those of the machine that it goes on with.

    Raises:
        InputError: What the command line says contradicts the others.
    """
    stored = flatten(dataclasses.asdict(run.settings))
    asked = dict(config.changes)
    if config.preset is not None:
        asked["preset"] = config.preset
    if config.seed is not None:
        asked["seed"] = config.seed
    changes = {key: value for key, value in asked.items() if key != "preset"}
    settings = with_changes(run.settings, changes)
    wanted = flatten(dataclasses.asdict(settings))
    wanted["preset"] = asked.get("preset", stored["preset"])
    changed = [key for key in stored if stored[key] != wanted[key]]
    differing = [
        f"{key} is {stored[key]} in the run, {wanted[key]} here"
        for key in changed
        if key not in OF_THE_MACHINE
    ]
    if config.data != DATA and not is_data_of(run, config.data, config.cache):
        differing.append(
            f"the data are {text_of(run.data)} in the run, {text_of(place_of(config.data))} here"
        )
    if config.hold_out_subjects and tuple(sorted(config.hold_out_subjects)) != run.record.held_out_subjects:
        kept = ", ".join(run.record.held_out_subjects) or "nobody"
        differing.append(f"held-out subjects: {kept} in the run, {', '.join(config.hold_out_subjects)} here")
    if differing:
        raise InputError(
            f"Run {run.record.name} was started with other settings: {'; '.join(differing)}.",
            "Leave those options out to continue it, or start another run with --name; --init-from "
            f"{run.record.name} lets that one start with what this one has learned",
        )
    return settings


def _with_settings(run: Run, settings: PretrainSettings, reporter: Reporter) -> Run:
    """The run with what has changed, which is said."""
    before, after = (flatten(dataclasses.asdict(each)) for each in (run.settings, settings))
    for key in before:
        if before[key] != after[key]:
            reporter.note(f"{key} is {after[key]} from here on; it was {before[key]}")
    return run if settings == run.settings else run.with_settings(settings)
