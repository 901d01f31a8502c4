"""Checkpoints: safetensors and JSON, written whole or not at all, verified before they are used."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from nuclr_cli.disk_errors import disk_reason
from nuclr_cli.errors import InputError
from nuclr_cli.workflows.best_checkpoint import KeepBest, best_step
from nuclr_cli.workflows.run_folder import (
    AVERAGE,
    after_a_full_disk,
    folder_of,
    resume_command,
    steps_available,
)

__all__ = [
    "Checkpoint",
    "damage",
    "folder_of",
    "load_checkpoint",
    "newest_whole_checkpoint",
    "optimizer_tensors",
    "restore_optimizer",
    "save_checkpoint",
    "steps_available",
]

_FILES = ("model.safetensors", "optimizer.safetensors", "state.json")


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint in memory.

    Attributes:
        step: Optimiser steps done.
        model: Parameter and buffer name -> tensor, of the encoder (``encoder.``) and the loss (``loss.``).
        optimizer: ``NAME.exp_avg`` and so on -> tensor.
        state: Position of the data stream and counters.
        digest: sha256 over the checkpoint's files; names these weights in every table made from them.
        average: Moving average of `model`, under the same names; None where the run keeps none.
        average_digest: sha256 of its file, likewise.
    """

    step: int
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]
    digest: str
    average: dict[str, Tensor] | None = None
    average_digest: str = ""


def save_checkpoint(
    checkpoints: Path,
    step: int,
    model: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    state: Mapping[str, Any],
    keep: int,
    keep_best: KeepBest = "none",
    average: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write a checkpoint under a temporary name, rename it, then drop all but the newest `keep` up to it.

    The best one stays as well, if `keep_best` names a metric: see `nuclr_cli.workflows.best_checkpoint`.
    Without an `average` it has no file of one.

    Raises:
        InputError: The disk is full or read-only. Earlier checkpoints are untouched.
    """
    target = folder_of(checkpoints, step)
    temporary = checkpoints / f".writing-{step:08d}-{os.getpid()}"
    try:
        checkpoints.mkdir(parents=True, exist_ok=True)
        for leftover in checkpoints.glob(".writing-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        temporary.mkdir()
        save_file({k: v.detach().cpu().contiguous() for k, v in model.items()}, temporary / _FILES[0])
        save_file({k: v.detach().cpu().contiguous() for k, v in optimizer.items()}, temporary / _FILES[1])
        (temporary / _FILES[2]).write_text(json.dumps({"step": step, **state}, indent=2), encoding="utf-8")
        names = [*_FILES]
        if average is not None:
            names.append(AVERAGE)
            save_file({k: v.detach().cpu().contiguous() for k, v in average.items()}, temporary / AVERAGE)
        sums = {name: _sha256(temporary / name) for name in names}
        (temporary / "checksums.json").write_text(json.dumps(sums, indent=2), encoding="utf-8")
        for path in (*(temporary / name for name in (*names, "checksums.json")), temporary):
            _fsync(path)
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
        _fsync(checkpoints)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise InputError(
            f"Cannot write the checkpoint {target}: {disk_reason(error)}.",
            after_a_full_disk(checkpoints.parent),
        ) from None
    steps = steps_available(checkpoints)
    # Later ones can only be damaged ones that the run could not go on from: were they to stay, they would
    # be taken for the newest, and the whole ones dropped.
    doomed = [s for s in steps if s > step] + [s for s in steps if s <= step][:-keep]
    best = None if keep_best == "none" else best_step(checkpoints, keep_best, lambda f: not damage(f), step)
    for old in doomed:
        if old == best:
            continue
        shutil.rmtree(folder_of(checkpoints, old), ignore_errors=True)
    return target


def load_checkpoint(checkpoints: Path, step: int | None = None) -> Checkpoint:
    """Load and verify one checkpoint, the newest by default.

    Raises:
        InputError: There is none, or it is damaged; says which earlier one is whole.
    """
    steps = steps_available(checkpoints)
    if not steps:
        raise InputError(
            f"The run {checkpoints.parent} has no checkpoint yet.",
            f"Continue it with: {resume_command(checkpoints.parent)}",
        )
    if step is None:
        step = steps[-1]
    if step not in steps:
        raise InputError(
            f"The run {checkpoints.parent} has no checkpoint at step {step}.",
            f"It has: {', '.join(map(str, steps))}",
        )
    folder = folder_of(checkpoints, step)
    problem = damage(folder)
    if problem:
        whole = [s for s in steps if s != step and not damage(folder_of(checkpoints, s))]
        raise InputError(
            f"The checkpoint {folder} is damaged: {problem}.",
            f"Use an earlier one, which is whole: --checkpoint {whole[-1]}"
            if whole
            else "No other checkpoint of this run is whole: train again with nuclr pretrain",
        )
    digest = hashlib.sha256((folder / "checksums.json").read_bytes()).hexdigest()
    try:
        # Checksums tell accidents, not intent; neither JSON nor safetensors can make anything run.
        state = json.loads((folder / _FILES[2]).read_text(encoding="utf-8"))
        step = int(state.pop("step"))
        model, optimizer = load_file(folder / _FILES[0]), load_file(folder / _FILES[1])
        average = load_file(folder / AVERAGE) if (folder / AVERAGE).exists() else None
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"The checkpoint {folder} is not what nuclr writes, though its checksums fit: {error}.",
            "Use another --checkpoint, or have the run sent again by whom it comes from",
        ) from None
    average_digest = "" if average is None else _sha256(folder / AVERAGE)
    return Checkpoint(step, model, optimizer, state, digest, average, average_digest)


def take_weights(model: torch.nn.Module, checkpoint: Checkpoint, run: Path) -> None:
    """Put a checkpoint's weights into a model.

    Raises:
        InputError: They do not fit: the checkpoint or config.json is not that of the run.
    """
    try:
        model.load_state_dict(checkpoint.model)
    except RuntimeError as error:
        first = next((line.strip() for line in str(error).splitlines()[1:] if line.strip()), str(error))
        raise InputError(
            f"The checkpoint of {run} at step {checkpoint.step} does not fit the model of its config.json: "
            f"{first}",
            "Restore the run from a copy, or train again with nuclr pretrain",
        ) from None


def newest_whole_checkpoint(checkpoints: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """The checkpoint that a run goes on from: damaged ones are passed over, and told to `warn`.

    Every step is a function of the weights and the step's number, so an earlier start ends in the same place.

    Returns:
        None when there is no checkpoint yet.

    Raises:
        InputError: There are checkpoints, and all are damaged.
    """
    steps = steps_available(checkpoints)
    for step in reversed(steps):
        problem = damage(folder_of(checkpoints, step))
        if not problem:
            return load_checkpoint(checkpoints, step)
        warn(f"the checkpoint {folder_of(checkpoints, step)} is damaged and passed over: {problem}")
    return load_checkpoint(checkpoints) if steps else None


def damage(folder: Path) -> str:
    """What is wrong with a checkpoint folder; empty when it is whole."""
    try:
        sums = json.loads((folder / "checksums.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "checksums.json is missing or unreadable"
    # Of an average without a checksum nobody knows what it is.
    averaged = isinstance(sums, dict) and (AVERAGE in sums or (folder / AVERAGE).exists())
    for name in (*_FILES, AVERAGE) if averaged else _FILES:
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if _sha256(path) != sums.get(name):
            return f"the bytes of {name} ({path.stat().st_size} of them) do not match their checksum"
    return ""


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> dict[str, Tensor]:
    """Flatten AdamW's state; `names` maps ``id(parameter)`` to its name."""
    flat: dict[str, Tensor] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            for key, value in optimizer.state.get(parameter, {}).items():
                flat[f"{names[id(parameter)]}.{key}"] = torch.as_tensor(value)
    return flat


def restore_optimizer(
    optimizer: torch.optim.Optimizer, names: Mapping[int, str], flat: Mapping[str, Tensor]
) -> None:
    """Inverse of `optimizer_tensors`."""
    by_name: dict[str, dict[str, Tensor]] = {}
    for key, value in flat.items():
        name, _, field = key.rpartition(".")
        by_name.setdefault(name, {})[field] = value
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            fields = by_name.get(names[id(parameter)])
            if fields is not None:
                optimizer.state[parameter] = {
                    # AdamW keeps its step counter on the CPU; the moments live beside the parameter.
                    key: value if key == "step" else value.to(parameter.device)
                    for key, value in fields.items()
                }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows cannot open a folder
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
