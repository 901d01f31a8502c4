"""What a regression probe is asked, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nuclr_cli.evaluation.permutation import PermutationTest
from nuclr_cli.evaluation.regression import RegressionResult
from nuclr_cli.evaluation.splits import DEFAULT_SEED
from nuclr_cli.workflows.probe_baselines import MissingBaseline
from nuclr_cli.workflows.probe_common import check_numbers
from nuclr_cli.workflows.probe_inputs import Knowledge
from nuclr_cli.workflows.runs import RUNS


@dataclass(frozen=True)
class RegressionConfig:
    """What the user asked for.

    Attributes:
        target: Column of numbers.
        target_file: Table with that column and the key of each unit; None = the embeddings' labels and the
            session files.
        run: Run folder or name; None = the newest (or the one that made `embeddings`).
        embeddings: File of embeddings; None = those of the run.
        runs: Folder that holds the runs.
        data: DATA folder that the target and the baselines come from; None = that of the run.
        split: ``auto``, ``subject``, ``session``, ``unit`` or a file.
        test_subjects: Subjects that a subject split tests on; () = those held out of pretraining, else each
            in turn.
        folds: Folds; None = 5 of units, or one subject (session) left out at a time.
        baselines: ``full``, ``fast`` or ``none``: which other descriptions of the units are read beside.
        bootstrap: Resamples of the intervals.
        permutations: Orders of the values in the permutation test; None = 200 when the target is constant
            within subjects, else 0.
        seed: Of the unit split, the inner folds, the resamples and the permutations.
    """

    target: str
    target_file: Path | None = None
    run: Path | None = None
    embeddings: Path | None = None
    runs: Path = RUNS
    data: Path | None = None
    split: str = "auto"
    test_subjects: tuple[str, ...] = ()
    folds: int | None = None
    baselines: str = "full"
    bootstrap: int = 1000
    permutations: int | None = None
    seed: int = DEFAULT_SEED

    def __post_init__(self) -> None:
        check_numbers(self.bootstrap, self.seed, self.permutations)


@dataclass(frozen=True)
class RegressionFold:
    """One fold: units that trained and tested it, its penalty, and NuCLR's own scores on it.

    `r2` and `spearman` are None where they are undefined: all tested values equal, or fewer than two.
    """

    name: str
    n_train: int
    n_test: int
    alpha: float | None
    r2: float | None
    spearman: float | None


@dataclass(frozen=True)
class RegressionRecord:
    """What came out; report.json holds the same.

    Attributes:
        folder: Where everything was written.
        target, target_from: The question, and where the values stood.
        split, split_how: Kind of split, and the split in one sentence.
        knowledge, knowledge_why: ``inductive``, ``transductive`` or ``unknown``, and why.
        verdict: Who has the highest R2, in plain words.
        methods: NuCLR first, then the baselines, then the mean of the training units (chance).
        missing_baselines: Those that could not be computed.
        folds: One record a fold.
        resampled: What the bootstrap draws: subjects, or units.
        n_resampled: How many of them there are.
        permutation: The permutation test (of R2), None when it was not run.
        target_range, target_mean, target_sd: Of the tested units.
        subjects: Subjects with a value.
        test_subjects: Those that are tested.
        n_units: Rows of the table of embeddings.
        n_with_target, n_without_target: Rows with and without a value.
        n_tested: Rows that were predicted.
        n_without_embedding: Rows with a value that have no embedding and so no prediction.
        n_not_in_split: Rows with a value that a split file leaves out.
        notes, warnings: What else the reader should know.
        run: Id of the run, empty when unknown.
        checkpoint: Step and digest of the checkpoint, as the embeddings' file has them.
        embeddings, embeddings_sha256: The file that was probed.
        target_file_sha256: Of the table of values, '' without one.
        seed, bootstrap: As configured.
        versions: Of the libraries that the numbers depend on.
        seconds: Wall time.
        kind: ``regression``.
    """

    folder: Path
    target: str
    target_from: str
    split: str
    split_how: str
    knowledge: Knowledge
    knowledge_why: str
    verdict: str
    methods: tuple[RegressionResult, ...]
    missing_baselines: tuple[MissingBaseline, ...]
    folds: tuple[RegressionFold, ...]
    resampled: str
    n_resampled: int
    permutation: PermutationTest | None
    target_range: tuple[float, float]
    target_mean: float
    target_sd: float
    subjects: tuple[str, ...]
    test_subjects: tuple[str, ...]
    n_units: int
    n_with_target: int
    n_without_target: int
    n_tested: int
    n_without_embedding: int
    n_not_in_split: int
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    run: str
    checkpoint: str
    embeddings: Path
    embeddings_sha256: str
    target_file_sha256: str
    seed: int
    bootstrap: int
    versions: dict[str, str]
    seconds: float
    kind: Literal["regression"] = "regression"
