"""What a sweep is asked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from nuclr_cli.errors import InputError
from nuclr_cli.workflows.dask_cluster import check_place
from nuclr_cli.workflows.runs import DATA

Axis = Literal["subjects", "units", "minutes", "parameters"]
AXES: tuple[Axis, ...] = get_args(Axis)

SWEEPS = Path("nuclr-scale")

SIZE_NAMES: dict[Axis, str] = {
    "subjects": "subjects",
    "units": "units",
    "minutes": "minutes per session",
    "parameters": "parameters",
}
"""What `PointSpec.size` counts."""

_SIZE_OF_MODEL = (
    "model.dim", "model.heads", "model.head_dim", "model.temporal_layers", "model.spatiotemporal_layers",
)  # fmt: skip


@dataclass(frozen=True)
class ScaleConfig:
    """What the user asked for.

    Attributes:
        label: Label column that every point is probed for.
        data: DATA folder.
        out: Folder of the sweep; None = ``nuclr-scale/LABEL-AXIS``.
        axis: What grows, or ``auto``: subjects from `AUTO_AXIS_SUBJECTS` subjects on, else minutes.
        values: Sizes wanted: numbers of subjects, shares of the units, minutes, widths of the model; () = a
            grid of `points` sizes.
        points: Sizes of the default grid.
        seeds: Trainings of each size.
        seed: The first seed; the others follow it.
        steps: Optimiser steps of every point; None = the preset's.
        epochs: Passes over what a point sees, instead of `steps`.
        preset, changes: Settings of pretraining, as in `PretrainConfig`.
        test_subjects: Subjects that no point trains on; () = chosen once, from `seed`.
        classes, variant: Of the probe.
        gpus: None = a GPU if there is one.
        jobs: Points at once; None = as many as the cores allow on a CPU, one beside a GPU.
        threads: CPU threads of each point. The numbers depend on it (in the last digits), never on `jobs`.
        dask: Address of a Dask scheduler whose workers run the points.
        dry_run: Only say what would be done, and how long it would take.
    """

    label: str
    data: Path = DATA
    out: Path | None = None
    axis: str = "auto"
    values: tuple[float, ...] = ()
    points: int = 6
    seeds: int = 3
    seed: int = 42
    steps: int | None = None
    epochs: float | None = None
    preset: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    test_subjects: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    variant: str = "default"
    gpus: int | None = None
    jobs: int | None = None
    threads: int = 1
    dask: str | None = None
    dry_run: bool = False

    def __post_init__(self) -> None:
        if self.axis not in ("auto", *AXES):
            raise InputError(f"--axis {self.axis} is not known.", f"Choose --axis {' or '.join(AXES)}")
        if not self.label:
            raise InputError("--label is empty.", "Name a label column, e.g. --label cell_type")
        counts = (("points", self.points), ("seeds", self.seeds), ("threads", self.threads))
        for name, value in (*counts, ("steps", self.steps)):
            if value is not None and value < 1:
                raise InputError(f"--{name} {value} is below 1.", f"Raise --{name}")
        check_place(self.jobs, self.dask)
        if not 0 <= self.seed < 2**32:
            raise InputError(f"--seed {self.seed} is not between 0 and 2**32 - 1.", "Choose another number")
        if self.epochs is not None and not (math.isfinite(self.epochs) and self.epochs > 0):
            raise InputError(f"--epochs {self.epochs} is not above 0.", "Give a number of passes, e.g. 20")
        if self.steps is not None and self.epochs is not None:
            raise InputError("--steps and --epochs say how long to train in two ways.", "Leave one away")
        wrong = [value for value in self.values if not (math.isfinite(value) and value > 0)]
        if wrong:
            raise InputError(f"--values has {wrong[0]}, which is no size.", "Give numbers above 0")
        size_of_model = _SIZE_OF_MODEL if self.axis == "parameters" else ()
        for key in self.changes:
            if key.startswith("data.") or key == "seed" or key in size_of_model:
                raise InputError(
                    f"{key} is what a sweep sets itself.",
                    "Choose with --axis, --values, --test-subjects and --seed",
                )
