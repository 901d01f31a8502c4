"""What a sweep is made of, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nuclr_cli.evaluation.scaling_law import ScalingFit
from nuclr_cli.workflows.scale_config import Axis


@dataclass(frozen=True)
class SweepSession:
    """One session as the sweep met it.

    Attributes:
        subject, session, population: The key.
        n_units: Units in the table.
        activity: Digest of the recorded activity (of files that nuclr did not write: size and time).
        labels: Digest of the label that is probed.
    """

    subject: str
    session: str
    population: str
    n_units: int
    activity: str
    labels: str

    @property
    def key(self) -> str:
        return f"{self.subject}/{self.session}/{self.population}"


@dataclass(frozen=True)
class PointSpec:
    """One point of the grid: one training.

    Attributes:
        name: Its folder.
        value: What was asked for: subjects, share of the units, minutes, width of the model.
        size: What that comes to, the x of the law: subjects, units, mean minutes of a session, parameters of
            the encoder.
        seed: Of the subset, the weights and every draw of training.
        steps: Optimiser steps.
        subjects: That pretraining sees.
        n_sessions, n_units, minutes: Of what pretraining sees; minutes is the mean over sessions.
        changes: Settings of pretraining that make this point.
    """

    name: str
    value: float
    size: float
    seed: int
    steps: int
    subjects: tuple[str, ...]
    n_sessions: int
    n_units: int
    minutes: float
    changes: Mapping[str, str | int | float]


@dataclass(frozen=True)
class Sweep:
    """What sweep.json says: all that the numbers depend on.

    Attributes:
        label, axis: The question.
        data: Absolute path of the DATA folder.
        preset, changes: Settings of pretraining that all points share, as text.
        steps, epochs: How long points train; one of them is None.
        classes, variant: Of the probe.
        threads: CPU threads of each point.
        seed: First seed.
        held_out: Subjects that no point trains on.
        split: How the probe splits, the same at every point.
        probe_test_subjects: Subjects that the probe tests on; () for a split by unit.
        time_share: Share of each session's time, from its start, that points may train on. The rest is for
            the held-out loss; 1 where whole subjects are.
        loss_from: What the held-out loss is computed on, for people.
        loss_windows: At most so many windows of it.
        sessions: Every session of the DATA folder.
        points: The grid.
        version: nuclr's.
    """

    label: str
    axis: Axis
    data: str
    preset: str
    changes: Mapping[str, str]
    steps: int | None
    epochs: float | None
    classes: tuple[str, ...]
    variant: str
    threads: int
    seed: int
    held_out: tuple[str, ...]
    split: Literal["subject", "unit"]
    probe_test_subjects: tuple[str, ...]
    time_share: float
    loss_from: str
    loss_windows: int
    sessions: tuple[SweepSession, ...]
    points: tuple[PointSpec, ...]
    version: str


@dataclass(frozen=True)
class BaselineScore:
    """A baseline of the probe, which no point of the sweep changes."""

    name: str
    title: str
    macro_f1: float


@dataclass(frozen=True)
class PointResult:
    """What one point came to; point.json, written last.

    Attributes:
        point: Which.
        parameters: Of encoder and loss.
        held_out_loss: Loss on windows that no point trains on, the same views everywhere; None = none.
        held_out_pairs: Matched units behind it.
        train_loss: Mean over the logged steps of the last tenth.
        rankme: Of the last logged step.
        macro_f1, macro_f1_low, macro_f1_high, balanced_accuracy, n_tested: Of the probe.
        knowledge: ``inductive`` or ``transductive``, of the probe.
        baselines: Filled for one point of the sweep.
        run, checkpoint: Id of the run; step and digest of its checkpoint.
        device, threads, version: What it was computed with.
        seconds: Of pretraining (its last start), embedding, probing.
    """

    point: str
    parameters: int
    held_out_loss: float | None
    held_out_pairs: int
    train_loss: float | None
    rankme: float | None
    macro_f1: float
    macro_f1_low: float
    macro_f1_high: float
    balanced_accuracy: float
    n_tested: int
    knowledge: str
    baselines: tuple[BaselineScore, ...]
    run: str
    checkpoint: str
    device: str
    threads: int
    version: str
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (None for one seed) over the seeds of a size."""

    mean: float
    sd: float | None


@dataclass(frozen=True)
class SizeSummary:
    """All seeds of one size."""

    size: float
    n_seeds: int
    steps: int
    held_out_loss: Spread | None
    train_loss: Spread | None
    macro_f1: Spread


@dataclass(frozen=True)
class ScaleRecord:
    """What came out; scale.json holds the same.

    Attributes:
        folder: Of the sweep.
        label, axis, size_name: The question, and what a size counts.
        sweep: All of sweep.json.
        choices: What the numbers rest on, one sentence each.
        warnings: What else the reader should know.
        results: One a point.
        sizes: The same by size.
        fits: Of the held-out loss, then of macro F1.
        baselines: Of the probe.
        knowledge: Of the probes.
        n_before: Points that were there already.
        seconds: This command took.
    """

    folder: Path
    label: str
    axis: Axis
    size_name: str
    sweep: Sweep
    choices: tuple[str, ...]
    warnings: tuple[str, ...]
    results: tuple[PointResult, ...]
    sizes: tuple[SizeSummary, ...]
    fits: tuple[ScalingFit, ...]
    baselines: tuple[BaselineScore, ...]
    knowledge: str
    n_before: int
    seconds: float


@dataclass(frozen=True)
class MeasuredPoint:
    """A few steps of one point, timed."""

    name: str
    size: float
    steps_measured: int
    step_s: float


@dataclass(frozen=True)
class DryRun:
    """What a sweep would do.

    Attributes:
        folder: That it would write.
        sweep: The grid and all else.
        choices: As in `ScaleRecord`.
        jobs: Points at once.
        measured: The smallest and the largest point.
        training_s, embedding_s: Estimated, over all points one after the other.
        total_s: With `jobs` at once.
        how: How that was estimated, and what it leaves out.
    """

    folder: Path
    sweep: Sweep
    choices: tuple[str, ...]
    jobs: int
    measured: tuple[MeasuredPoint, ...]
    training_s: float
    embedding_s: float
    total_s: float
    how: str
