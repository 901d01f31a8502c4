"""What a fitted probe is asked about other units, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nuclr_cli.errors import InputError
from nuclr_cli.workflows.probe_card import Kind
from nuclr_cli.workflows.runs import RUNS

CSV_EXPORT = "csv"


@dataclass(frozen=True)
class PredictConfig:
    """What the user asked for.

    Attributes:
        probe: Folder of a fitted probe.
        embeddings: File of embeddings; None = those of `run`.
        run: Run folder or name; None = the one (or the file) that the probe was fitted on.
        runs: Folder that holds the runs.
        data: DATA folder, whose session files say what they were read from; None = that of the run.
        session: Predict this session only: ``SESSION`` or ``SUBJECT/SESSION``.
        all_units: Also units that have the label.
        min_probability: Abstain below it; None = chosen by `target_accuracy`.
        target_accuracy: Share of right predictions wanted among validation units that are not abstained on;
            None = `DEFAULT_TARGET`, or the nearest that can be had.
        out: CSV file; None = ``predicted-LABEL.csv`` here, unless there is an export.
        export: Name of an exporter, or ``csv``.
        to: File or folder that the exporter writes.
        source: What the units were read from; None = as their session file says.
        overwrite: Replace files that exist.
    """

    probe: Path
    embeddings: Path | None = None
    run: Path | None = None
    runs: Path = RUNS
    data: Path | None = None
    session: str | None = None
    all_units: bool = False
    min_probability: float | None = None
    target_accuracy: float | None = None
    out: Path | None = None
    export: str | None = None
    to: Path | None = None
    source: Path | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        for option, value in (
            ("--min-probability", self.min_probability),
            ("--target-accuracy", self.target_accuracy),
        ):
            if value is not None and not 0 <= value <= 1:
                raise InputError(f"{option} {value:g} is not between 0 and 1.", f"e.g. {option} 0.8")
        if self.min_probability is not None and self.target_accuracy is not None:
            raise InputError(
                "--min-probability and --target-accuracy both say when to abstain.", "Give one of them"
            )
        if self.export is None and self.to is not None:
            raise InputError(f"--to {self.to} says where, but not what to write.", "Add --export NAME")
        if self.export is not None and self.to is None:
            raise InputError(
                f"--export {self.export} needs a place to write to.", f"--export {self.export} --to PATH"
            )
        if self.export == CSV_EXPORT and self.out is not None:
            raise InputError("--export csv --to and -o both name a CSV file.", "Give one of them")


@dataclass(frozen=True)
class Threshold:
    """When the probe abstains.

    Attributes:
        value: Below this probability.
        why: How it was chosen.
        validation_accuracy: Share of right predictions among validation units at or above it; None when
            there are none.
        validation_kept: Share of the validation units at or above it; None when nothing was validated.
    """

    value: float
    why: str
    validation_accuracy: float | None
    validation_kept: float | None


@dataclass(frozen=True)
class ProbeScore:
    """How good the probe was on units that it was not fitted on.

    Attributes:
        metric: ``macro F1`` or ``R2``.
        value: Over all tested units.
        low, high: 95 % interval.
        split: Kind of the split.
    """

    metric: str
    value: float
    low: float
    high: float
    split: str


@dataclass(frozen=True)
class SessionPredictions:
    """How one population came out.

    Attributes:
        n_units: Units that were asked for.
        labels: Class -> units that got it; empty for a number.
        n_abstained: Units without a label (or number), those without an embedding included.
        n_without_embedding: Units that were never active in a window.
        n_outside: Units with something outside what the probe has seen.
        warnings: What of the session is outside, one sentence each.
    """

    subject: str
    session: str
    population: str
    n_units: int
    labels: dict[str, int]
    n_abstained: int
    n_without_embedding: int
    n_outside: int
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class PredictRecord:
    """What came out.

    Attributes:
        probe: The folder of the probe.
        probe_sha256: Digest of the fitted probe.
        label, kind, classes: What was predicted.
        run, checkpoint: That made the embeddings.
        embeddings, embeddings_sha256: The file.
        calibration: ``temperature``, ``isotonic`` or ``none`` (the probe's own probabilities, because too few
            units were validated, or a correction would have made them worse: `notes` say which); None for a
            number.
        expected_calibration_error: Of the probabilities that were written, on validation units; cross-fitted
            where they are corrected.
        threshold: When the probe abstains; None for a number.
        score: Of the probe, as its card keeps it; None where it keeps none.
        n_fitted_on: How many of the units the probe was fitted on; None where its folder does not say.
        n_units, n_predicted, n_abstained, n_without_embedding: Units asked for, and what became of them.
        sessions: One record a population.
        csv: The table that was written, None when it was not asked for.
        exporter, exported: Which exporter, and what it wrote.
        notes, warnings: What else the reader should know.
        seconds: Wall time.
    """

    probe: Path
    probe_sha256: str
    label: str
    kind: Kind
    classes: tuple[str, ...]
    run: str
    checkpoint: str
    embeddings: Path
    embeddings_sha256: str
    calibration: str | None
    expected_calibration_error: float | None
    threshold: Threshold | None
    score: ProbeScore | None
    n_fitted_on: int | None
    n_units: int
    n_predicted: int
    n_abstained: int
    n_without_embedding: int
    sessions: tuple[SessionPredictions, ...]
    csv: Path | None
    exporter: str | None
    exported: tuple[Path, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    seconds: float
