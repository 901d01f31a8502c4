"""What a probe is asked, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nuclr_cli.errors import InputError
from nuclr_cli.evaluation.metrics import ClassScore
from nuclr_cli.evaluation.permutation import PermutationTest
from nuclr_cli.evaluation.records import MethodResult
from nuclr_cli.evaluation.splits import DEFAULT_SEED
from nuclr_cli.workflows.probe_baselines import MissingBaseline
from nuclr_cli.workflows.probe_inputs import Knowledge
from nuclr_cli.workflows.runs import RUNS


@dataclass(frozen=True)
class ProbeConfig:
    """What the user asked for.

    Attributes:
        label: Label column of the units table.
        run: Run folder or name; None = the newest (or the one that made `embeddings`).
        embeddings: File of embeddings; None = those of the run.
        runs: Folder that holds the runs.
        data: DATA folder that the baselines read; None = that of the run.
        split: ``auto``, ``subject``, ``session``, ``unit`` or a file.
        variant: ``default`` or ``paper``.
        test_subjects: Subjects that a subject split tests on; () = those held out of pretraining, else each
            in turn.
        folds: Folds of a unit split; None = 5, fewer where a class is small.
        classes: Classes to keep; () = all.
        bootstrap: Resamples of the intervals.
        permutations: Labellings of the permutation test; None = 200 when the label is constant within
            subjects, else 0.
        seed: Of the unit split, the resamples and the permutations.
    """

    label: str
    run: Path | None = None
    embeddings: Path | None = None
    runs: Path = RUNS
    data: Path | None = None
    split: str = "auto"
    variant: str = "default"
    test_subjects: tuple[str, ...] = ()
    folds: int | None = None
    classes: tuple[str, ...] = ()
    bootstrap: int = 1000
    permutations: int | None = None
    seed: int = DEFAULT_SEED

    def __post_init__(self) -> None:
        if self.bootstrap < 1:
            raise InputError(f"{self.bootstrap} bootstrap resamples are too few.", "The default is 1000")
        if self.permutations is not None and self.permutations < 0:
            raise InputError(f"--permutations {self.permutations} is below 0.", "0 skips the test")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"--seed {self.seed} is not between 0 and 2**32 - 1.", "Choose another number")


@dataclass(frozen=True)
class FoldRecord:
    """One fold: units with an embedding that trained and tested it, and its own macro F1."""

    name: str
    n_train: int
    n_test: int
    macro_f1: float | None


@dataclass(frozen=True)
class ProbeRecord:
    """What came out; report.json holds the same.

    Attributes:
        folder: Where everything was written.
        label, classes, variant: The question, and the probe.
        split, split_how: Kind of split, and the split in one sentence.
        knowledge, knowledge_why: ``inductive``, ``transductive`` or ``unknown``, and why.
        verdict: Who has the highest macro F1, in plain words.
        methods: NuCLR first, then the baselines, then chance.
        missing_baselines: Those that could not be computed.
        per_class: NuCLR's per-class table, over the pooled folds.
        confusion: (K, K) counts, true by predicted.
        folds: One record a fold.
        resampled: What the bootstrap draws: subjects, subjects within class, or units.
        n_resampled: How many of them there are.
        permutation: The permutation test, None when it was not run.
        subjects: Subjects with labelled units.
        test_subjects: Those that are tested.
        n_units: Rows of the table of embeddings.
        n_labelled: Rows with a label (of the chosen classes).
        n_tested: Rows that were predicted.
        n_without_embedding: Labelled rows that have no embedding and so no prediction.
        n_not_in_split: Labelled rows that a split file leaves out.
        notes, warnings: What else the reader should know.
        run: Id of the run, empty when unknown.
        checkpoint: Step and digest of the checkpoint, as the embeddings' file has them.
        embeddings, embeddings_sha256: The file that was probed.
        seed, bootstrap: As configured.
        versions: Of the libraries that the numbers depend on.
        seconds: Wall time.
    """

    folder: Path
    label: str
    classes: tuple[str, ...]
    variant: str
    split: str
    split_how: str
    knowledge: Knowledge
    knowledge_why: str
    verdict: str
    methods: tuple[MethodResult, ...]
    missing_baselines: tuple[MissingBaseline, ...]
    per_class: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]
    folds: tuple[FoldRecord, ...]
    resampled: str
    n_resampled: int
    permutation: PermutationTest | None
    subjects: tuple[str, ...]
    test_subjects: tuple[str, ...]
    n_units: int
    n_labelled: int
    n_tested: int
    n_without_embedding: int
    n_not_in_split: int
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    run: str
    checkpoint: str
    embeddings: Path
    embeddings_sha256: str
    seed: int
    bootstrap: int
    versions: dict[str, str]
    seconds: float
