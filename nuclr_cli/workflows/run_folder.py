"""Names and places in a run's folder. Imports nothing heavy: `nuclr runs` looks there, too."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Literal

RUNS = Path("nuclr-runs")

AVERAGE = "average.safetensors"
"""In the checkpoints of a run that keeps a moving average; `nuclr embed` takes it unless told otherwise."""

State = Literal["running", "stopped", "failed", "finished"]


def resume_command(folder: Path) -> str:
    """What to type to continue the run in `folder`."""
    runs = "" if folder.parent == RUNS else f" --runs {shlex.quote(str(folder.parent))}"
    return f"nuclr pretrain --resume --name {shlex.quote(folder.name)}{runs}"


def after_a_full_disk(folder: Path) -> str:
    """What to do when something of the run in `folder` could not be written."""
    whole = "Earlier checkpoints are whole. " if steps_available(folder / "checkpoints") else ""
    return f"{whole}Free space or mend permissions, then: {resume_command(folder)}"


def folder_of(checkpoints: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return checkpoints / f"step-{step:08d}"


def steps_available(checkpoints: Path) -> list[int]:
    """Steps that have a whole checkpoint folder, ascending (unfinished writes have another name)."""
    if not checkpoints.is_dir():
        return []
    found = []
    for folder in checkpoints.iterdir():
        prefix, _, number = folder.name.partition("-")
        if prefix == "step" and number.isdigit() and folder.is_dir():
            found.append(int(number))
    return sorted(found)
