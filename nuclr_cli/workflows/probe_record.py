"""What a probe is asked, and what it answers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from nuclr_cli.errors import InputError
from nuclr_cli.evaluation.balance import BALANCES, Balance
from nuclr_cli.evaluation.hierarchy import ParentScore
from nuclr_cli.evaluation.metrics import ClassScore
from nuclr_cli.evaluation.permutation import PermutationTest
from nuclr_cli.evaluation.probes import DEFAULT_C, NESTED, Variant, variant_named
from nuclr_cli.evaluation.records import MethodResult, Score
from nuclr_cli.evaluation.splits import DEFAULT_SEED
from nuclr_cli.workflows.probe_baselines import DEFAULT_LEVEL, MissingBaseline, check_level
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
        folds: Folds of a unit, subject or session split; None = 5 of units (fewer where a class is small), or
            one subject (session) left out at a time.
        classes: Classes to keep; () = all.
        bootstrap: Resamples of the intervals.
        permutations: Labellings of the permutation test; None = 200 when the label is constant within
            subjects, else 0.
        seed: Of the unit split, the resamples and the permutations.
        balance: ``weights``, ``oversample`` or ``none``; ``auto`` = as the variant does.
        c: Inverse strength of the probe's L2 penalty, or ``nested``: chosen inside each fold's training rows.
        baselines: ``fast``, ``full`` or ``none``: what the result is compared with.
        parent: Label whose classes hold those of `label`: the probe is also asked parent first, then child.
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
    balance: str = "auto"
    c: float | str = DEFAULT_C
    parent: str | None = None
    baselines: str = DEFAULT_LEVEL

    def __post_init__(self) -> None:
        check_level(self.baselines)
        if self.bootstrap < 1:
            raise InputError(f"{self.bootstrap} bootstrap resamples are too few.", "The default is 1000")
        if self.permutations is not None and self.permutations < 0:
            raise InputError(f"--permutations {self.permutations} is below 0.", "0 skips the test")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"--seed {self.seed} is not between 0 and 2**32 - 1.", "Choose another number")
        if self.balance not in ("auto", *BALANCES):
            raise InputError(
                f"--balance {self.balance} is not known.", f"Choose --balance {' or '.join(BALANCES)}"
            )
        if not _is_penalty(self.c):
            raise InputError(
                f"--C {self.c} is not a penalty that a probe can have.",
                "Give a number above 0 (1 as in the protocol; smaller shrinks more), or --C nested",
            )
        if self.parent is not None and self.parent == self.label:
            raise InputError(f"--parent {self.parent} is the label itself.", "Name the coarser label")

    @property
    def recipe(self) -> Variant:
        """The variant with the balance and the C that were asked for.

        Raises:
            InputError: There is no such variant.
        """
        variant = variant_named(self.variant)
        if self.balance != "auto":
            variant = replace(variant, balance=cast(Balance, self.balance))
        return replace(variant, c=NESTED if self.c == NESTED else float(self.c))


def penalty(text: str) -> float | str:
    """``--C`` as a number where it is one; `ProbeConfig` says what is wrong with anything else."""
    try:
        return float(text)
    except ValueError:
        return text


def _is_penalty(c: float | str) -> bool:
    return c == NESTED if isinstance(c, str) else math.isfinite(c) and c > 0


@dataclass(frozen=True)
class FoldRecord:
    """One fold: units with an embedding that trained and tested it, its own macro F1, and its C."""

    name: str
    n_train: int
    n_test: int
    macro_f1: float | None
    c: float | None = None


@dataclass(frozen=True)
class HierarchyRecord:
    """The same question asked parent first, then child: p(parent) x p(child | parent).

    Attributes:
        parent: Label of the parents.
        flat, hierarchical: Macro F1 over the children: of the probe of all children at once, of the product.
        hierarchical_minus_flat: Their difference, resampled together.
        flat_parent_accuracy, hierarchical_parent_accuracy: How often the predicted child is one of the true
            parent's.
        parents: How well each parent's children are told from one another.
        notes: What went less than well.
    """

    parent: str
    flat: Score
    hierarchical: Score
    hierarchical_minus_flat: Score
    flat_parent_accuracy: Score
    hierarchical_parent_accuracy: Score
    parents: tuple[ParentScore, ...]
    notes: tuple[str, ...] = ()


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
        missing_baselines: Those that could not be computed or were not asked for.
        per_class: NuCLR's per-class table, over the pooled folds.
        confusion: (K, K) counts, true by predicted.
        folds: One record a fold.
        readouts: Other ways to read the same embedding (nearest neighbours, centroids): no baselines.
        balance: How classes of unequal size were balanced.
        c: What was asked for: a number, or ``nested``.
        c_grid: Values that ``nested`` chose from; () otherwise.
        c_inner: How the training rows were split to choose; empty otherwise.
        c_saved: C of the probe that is kept, which is fitted on all usable units.
        hierarchy: Parent first, then child; None when nobody asked.
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
        kind: What was asked: ``classification``, as against the other records of a run's probes.
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
    kind: str = "classification"
    readouts: tuple[MethodResult, ...] = ()
    balance: str = "weights"
    c: float | str = DEFAULT_C
    c_grid: tuple[float, ...] = ()
    c_inner: str = ""
    c_saved: float = DEFAULT_C
    hierarchy: HierarchyRecord | None = None
