"""What a probe of pairs is asked, and what it answers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nuclr_cli.errors import InputError
from nuclr_cli.evaluation.pairs import PAIR_FEATURES, PairFeatures
from nuclr_cli.evaluation.ranking import PairResult
from nuclr_cli.evaluation.splits import DEFAULT_SEED
from nuclr_cli.workflows.probe_baselines import MissingBaseline
from nuclr_cli.workflows.probe_common import check_numbers
from nuclr_cli.workflows.probe_inputs import Knowledge
from nuclr_cli.workflows.runs import RUNS

BOTH = "both"


@dataclass(frozen=True)
class PairsConfig:
    """What the user asked for.

    Attributes:
        pairs: Table of pairs: pre, post, label.
        features: ``directed``, ``symmetric``, or ``both``, of which directed is the main one.
        run: Run folder or name; None = the newest (or the one that made `embeddings`).
        embeddings: File of embeddings; None = those of the run.
        runs: Folder that holds the runs.
        data: DATA folder that the baselines read; None = that of the run.
        split: ``auto``, ``subject``, ``session``, ``unit`` or a file.
        test_subjects: Subjects that a subject split tests on; () = those held out of pretraining, else each
            in turn.
        folds: Folds; None = 3 parts of units, or one subject (session) left out at a time.
        c: Inverse strength of the penalty, or ``nested``: chosen on each fold's training pairs.
        baselines: ``full``, ``fast`` or ``none``: which other descriptions of the pairs are read beside.
        bootstrap: Resamples of the intervals.
        seed: Of the unit split, inner parts, draws and resamples.
    """

    pairs: Path
    features: str = BOTH
    run: Path | None = None
    embeddings: Path | None = None
    runs: Path = RUNS
    data: Path | None = None
    split: str = "auto"
    test_subjects: tuple[str, ...] = ()
    folds: int | None = None
    c: float | str = "nested"
    baselines: str = "full"
    bootstrap: int = 1000
    seed: int = DEFAULT_SEED

    def __post_init__(self) -> None:
        check_numbers(self.bootstrap, self.seed)
        if self.features not in (BOTH, *PAIR_FEATURES):
            raise InputError(
                f"Unknown pair features {self.features!r}.",
                f"Choose --pair-features {', '.join(PAIR_FEATURES)} or {BOTH}",
            )
        if isinstance(self.c, str) and self.c != "nested":
            raise InputError(f"C is {self.c!r}.", "Give a number above 0, or nested")
        if not isinstance(self.c, str) and not (math.isfinite(self.c) and self.c > 0):
            raise InputError(f"C is {self.c:g}.", "Give a number above 0, or nested")

    @property
    def kinds(self) -> tuple[PairFeatures, ...]:
        """The features to use, the main one first."""
        return tuple(kind for kind in PAIR_FEATURES if self.features in (BOTH, kind))


@dataclass(frozen=True)
class PairFoldRecord:
    """One fold, by pairs that have embeddings.

    Attributes:
        name: Of the tested part.
        n_train, n_test: Pairs.
        n_across: Pairs with one unit inside and one outside: they take no part in this fold.
        n_train_connected, n_test_connected: Connected ones among them.
        c: Inverse strength of the penalty, None where the fold could not be fitted.
        average_precision, roc_auc: NuCLR's own, None where the tested pairs are of one class.
    """

    name: str
    n_train: int
    n_test: int
    n_across: int
    n_train_connected: int
    n_test_connected: int
    c: float | None
    average_precision: float | None
    roc_auc: float | None


@dataclass(frozen=True)
class PairFeatureRecord:
    """The answer of one kind of features.

    Attributes:
        features: ``directed`` or ``symmetric``.
        verdict: Who has the highest average precision, in plain words.
        methods: NuCLR first, then the baselines, then chance.
        folds: One record a fold.
    """

    features: PairFeatures
    verdict: str
    methods: tuple[PairResult, ...]
    folds: tuple[PairFoldRecord, ...]


@dataclass(frozen=True)
class PairsRecord:
    """What came out; report.json holds the same.

    Attributes:
        folder: Where everything was written.
        pairs, pairs_sha256: The table that was asked about.
        main: Kind of features that the answer is read from.
        results: One for each kind of features, the main one first.
        verdict: Of the main one.
        missing_baselines: Those that could not be computed.
        split, split_how: Kind of split, and the split in one sentence.
        knowledge, knowledge_why: ``inductive``, ``transductive`` or ``unknown``, and why.
        resampled: What the bootstrap draws: subjects, or units.
        n_resampled: How many of them there are.
        subjects: Subjects with pairs.
        test_subjects: Those that are tested.
        n_pairs, n_connected: Pairs of the table, without repetitions.
        n_units: Units in them.
        n_tested, n_tested_connected: Pairs that were scored.
        n_across: Pairs never tested because their units lie in different parts of the split.
        n_without_embedding: Pairs left out because a unit has no embedding.
        n_not_in_split: Pairs with a unit that a split file leaves out.
        notes, warnings: What else the reader should know.
        run: Id of the run, empty when unknown.
        checkpoint: Step and digest of the checkpoint, as the embeddings' file has them.
        embeddings, embeddings_sha256: The file that was probed.
        seed, bootstrap: As configured.
        versions: Of the libraries that the numbers depend on.
        seconds: Wall time.
        kind: ``pairs``.
    """

    folder: Path
    pairs: Path
    pairs_sha256: str
    main: PairFeatures
    results: tuple[PairFeatureRecord, ...]
    verdict: str
    missing_baselines: tuple[MissingBaseline, ...]
    split: str
    split_how: str
    knowledge: Knowledge
    knowledge_why: str
    resampled: str
    n_resampled: int
    subjects: tuple[str, ...]
    test_subjects: tuple[str, ...]
    n_pairs: int
    n_connected: int
    n_units: int
    n_tested: int
    n_tested_connected: int
    n_across: int
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
    kind: Literal["pairs"] = "pairs"
