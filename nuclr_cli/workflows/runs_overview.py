"""What there is to say about the runs of a folder, also while they train.

Only reads. What another process writes at the same time is either seen whole or not at all, so nothing here
waits for it. Imports nothing heavy, and so not `nuclr_cli.workflows.runs`.
"""

from __future__ import annotations

import json
import math
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from nuclr_cli.data.embeddings_origin import origin
from nuclr_cli.errors import InputError
from nuclr_cli.workflows.best_checkpoint import KeepBest, best_step
from nuclr_cli.workflows.embedded_step import EmbeddedStep, embed_again, embedded_step
from nuclr_cli.workflows.folder_lock import said_in
from nuclr_cli.workflows.from_json import rebuild
from nuclr_cli.workflows.lock_holder import is_gone
from nuclr_cli.workflows.metrics_log import last_rows
from nuclr_cli.workflows.run_folder import RUNS, State, folder_of, resume_command, steps_available

T = TypeVar("T")

# A run writes every `train.log_every` steps. Some such times pass before its silence is worth a word, and no
# less than a start may take: reading the sessions, compiling kernels. Before the first row nothing says how
# long a step is.
PATIENCE_ROWS = 5
PATIENCE_S = 120.0
PATIENCE_WITHOUT_ROWS_S = 600.0


@dataclass(frozen=True)
class RunSummary:
    """One run.

    Attributes:
        name: Of its folder.
        folder: Where it lies.
        state: As run.json says; ``damaged`` when its files do not.
        gone: The process that trains it by run.json is gone, as this machine can tell: it was killed, or
            ended with an error of its own.
        silent_s: Seconds since a run that should be running has written anything, where that is longer than
            its steps explain (see `patience_s`): it is gone, or hangs. None = no reason to think so, or it
            is known to be gone.
        created: UTC time, ISO 8601, '' = unknown.
        preset: Name, '' = unknown.
        step: Steps done, of which those after `checkpoint` would be done again.
        steps: Steps that it is to have; None = unknown.
        loss: Of the newest row that has one.
        steps_per_s, units_per_s: Of the newest row.
        left_s: Seconds until the last step at that speed; only while it runs.
        row_age_s: Seconds since rows were written (by the clock of this machine and the file's time).
        checkpoint: Step of the newest one.
        best: Step of the one that the run keeps as its best, by what that one says; None = none.
        embeddings: The table of ``nuclr embed``; None = not made yet.
        embedded_step: Step of the checkpoint that made it; None = there is none, or it does not say.
        embedded_older: The run has gone beyond that step.
        probes: Results of ``nuclr probe`` in the folder.
        resume: What to type to continue it, where that makes sense; else ''.
        embed: What to type to embed with the newest weights, where older ones did by nobody's choice, and
            the run neither trains nor is damaged; else ''.
        problem: What is damaged; else ''.
    """

    name: str
    folder: Path
    state: State | Literal["damaged"]
    gone: bool
    silent_s: float | None
    created: str
    preset: str
    step: int
    steps: int | None
    loss: float | None
    steps_per_s: float | None
    units_per_s: float | None
    left_s: float | None
    row_age_s: float | None
    checkpoint: int | None
    best: int | None
    embeddings: Path | None
    embedded_step: int | None
    embedded_older: bool
    probes: int
    resume: str
    embed: str
    problem: str


@dataclass(frozen=True)
class RunsRecord:
    """The runs of a folder.

    Attributes:
        folder: That holds them.
        runs: Oldest first; those without a known age come before all others.
    """

    folder: Path
    runs: tuple[RunSummary, ...]


@dataclass(frozen=True)
class _Recorded:
    """What is needed of run.json."""

    created: str
    state: State
    step: int
    name: str = ""


@dataclass(frozen=True)
class _Train:
    steps: int
    log_every: int
    keep_best: KeepBest = "none"


@dataclass(frozen=True)
class _Settings:
    """What is needed of config.json."""

    preset: str
    train: _Train


def runs_overview(folder: Path = RUNS) -> RunsRecord:
    """Sum up every run in a folder; damaged ones are in the list.

    Args:
        folder: Holds the runs. Other things in it are passed over, such as a run that is being made: its name
            is hidden until it is whole.

    Raises:
        InputError: There is no such folder, or no run in it.
    """
    if not folder.is_dir():
        what = "is a file, not a folder of runs" if folder.is_file() else "does not exist"
        raise InputError(f"The folder {folder} {what}.", _where(folder))
    summaries = []
    for place in sorted(folder.iterdir()):
        if place.name.startswith(".") or not place.is_dir():
            continue
        summary = _summary(place)
        if summary is not None:
            summaries.append(summary)
    if not summaries:
        if (folder / "run.json").is_file():
            raise InputError(
                f"{folder} is a run itself.", f"Name the folder it is in: --runs {folder.parent}"
            )
        raise InputError(f"There is no run in {folder}.", _where(folder))
    return RunsRecord(folder, tuple(sorted(summaries, key=lambda run: (run.created, run.name))))


def patience_s(log_every: int | None, rows: Sequence[Mapping[str, Any]]) -> float:
    """How long a run may write nothing before that is worth a word, in seconds.

    Args:
        log_every: Steps between rows; None = unknown.
        rows: The newest; the slowest of them counts.
    """
    durations = [value for row in rows if (value := _number(row, "step_s")) is not None]
    if log_every is None or not durations:
        return PATIENCE_WITHOUT_ROWS_S
    return max(PATIENCE_S, PATIENCE_ROWS * log_every * max(durations))


def _where(folder: Path) -> str:
    runs = "" if folder == RUNS else f" --runs {shlex.quote(str(folder))}"
    return f"Make a run with: nuclr pretrain{runs}, or name the folder that has some with --runs"


def _summary(folder: Path) -> RunSummary | None:
    """One run; None where `folder` is none, or is gone meanwhile."""
    problems: list[str] = []
    try:
        run_json, config, metrics = (
            (folder / name).exists() for name in ("run.json", "config.json", "metrics.jsonl")
        )
        if not run_json and not (config and metrics):  # both: a run that has lost its record
            return None
        recorded = _read(_Recorded, folder / "run.json", problems)
        gone = recorded is not None and recorded.state == "running" and is_gone(said_in(folder))
        if gone and recorded != _read(_Recorded, folder / "run.json", []):
            return _summary(folder)  # it ended well in between: it says so before it ends
        settings = _read(_Settings, folder / "config.json", problems)
        checkpoints = steps_available(folder / "checkpoints")
        embeddings = folder / "embeddings.parquet"
        embedded = embeddings.is_file()
        of = _embedded_step(folder, recorded, embeddings) if embedded else None
        probes = sum(
            not any(part.startswith(".") for part in path.relative_to(folder).parts)
            for path in folder.glob("probes/*/*/report.json")
        )
    except OSError as error:
        if not folder.is_dir():
            return None
        problems.append(f"it cannot be read: {error.strerror or error}")
        recorded = settings = None
        gone = False
        checkpoints, embedded, probes, of = [], False, 0, None
    rows = last_rows(folder / "metrics.jsonl")
    state: State | Literal["damaged"] = "damaged" if recorded is None or problems else recorded.state
    step = max(recorded.step if recorded else 0, int(rows[-1]["step"]) if rows else 0, *checkpoints[-1:])
    steps = settings.train.steps if settings else None
    step_s = _number(rows[-1], "step_s") if rows else None
    gone = gone and state == "running"  # not of a damaged one
    now = time.time()
    silent_s = left_s = None
    if state == "running" and not gone:
        silence = now - max(_written(path) for path in _written_on_the_way(folder, checkpoints))
        if silence > patience_s(settings.train.log_every if settings else None, rows):
            silent_s = silence
        elif step_s is not None and steps is not None:
            left_s = max(steps - step, 0) * step_s
    return RunSummary(
        name=folder.name,
        folder=folder,
        state=state,
        gone=gone,
        silent_s=silent_s,
        created=recorded.created if recorded else "",
        preset=settings.preset if settings else "",
        step=step,
        steps=steps,
        loss=next((loss for row in reversed(rows) if (loss := _number(row, "loss")) is not None), None),
        steps_per_s=1 / step_s if step_s else None,
        units_per_s=_number(rows[-1], "units_per_s") if rows else None,
        left_s=left_s,
        row_age_s=max(now - _written(folder / "metrics.jsonl"), 0.0) if rows else None,
        checkpoint=checkpoints[-1] if checkpoints else None,
        best=_best(folder / "checkpoints", settings),
        embeddings=embeddings if embedded else None,
        embedded_step=of.step if of else None,
        embedded_older=of is not None and of.older,
        probes=probes,
        resume=resume_command(folder) if state == "stopped" or gone or silent_s is not None else "",
        embed=embed_again(folder, of)
        if of is not None and of.outdated and state not in ("running", "damaged")
        else "",
        problem="; ".join(problems),
    )


def _embedded_step(folder: Path, recorded: _Recorded | None, embeddings: Path) -> EmbeddedStep | None:
    if recorded is None:
        return None
    run_id = f"{recorded.name}@{recorded.created}"
    return embedded_step(origin(embeddings), run_id, recorded.step, folder / "checkpoints")


def _best(checkpoints: Path, settings: _Settings | None) -> int | None:
    """Checksums are not looked at: a listing must not read gigabytes."""
    if settings is None or settings.train.keep_best == "none":
        return None
    return best_step(checkpoints, settings.train.keep_best, lambda folder: True)


def _read(kind: type[T], path: Path, problems: list[str]) -> T | None:
    """What is needed of a JSON file; None, and a problem, where it is not there."""
    try:
        return rebuild(kind, json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise
        problems.append(f"{path.name} is missing")
    except OSError as error:
        problems.append(f"{path.name} cannot be read: {error.strerror or error}")
    except (ValueError, RecursionError) as error:
        problems.append(f"{path.name} is damaged: {error}")
    return None


def _number(row: Mapping[str, Any], key: str) -> float | None:
    """A finite number of a row, which may hold anything."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _written_on_the_way(folder: Path, checkpoints: Sequence[int]) -> list[Path]:
    """What a run writes while it trains."""
    places = [folder / "run.json", folder / "metrics.jsonl", folder / "checkpoints"]
    return places + [folder_of(folder / "checkpoints", step) for step in checkpoints[-1:]]


def _written(path: Path) -> float:
    """Time at which a file or folder was last written, in seconds since 1970; 0 = it is not there."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
