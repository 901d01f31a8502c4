"""Results of probes and sweeps as a report reads them: report.json, card.json and scale.json, checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from nuclr_cli.evaluation.calibration import CalibrationReport
from nuclr_cli.evaluation.metrics import ClassScore
from nuclr_cli.evaluation.permutation import PermutationTest
from nuclr_cli.evaluation.ranking import PairResult
from nuclr_cli.evaluation.records import MethodResult, Score
from nuclr_cli.evaluation.regression import RegressionResult
from nuclr_cli.evaluation.scaling_law import ScalingFit
from nuclr_cli.workflows.from_json import rebuild


@dataclass(frozen=True)
class Missing:
    """A baseline that a result lacks, and why."""

    title: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Result:
    """What every result of `nuclr probe` says of itself; the fields are those of its records."""

    split: str
    split_how: str
    knowledge: str
    knowledge_why: str
    missing_baselines: tuple[Missing, ...]
    resampled: str
    n_resampled: int
    n_tested: int
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    run: str
    checkpoint: str
    embeddings_sha256: str
    seed: int
    bootstrap: int
    versions: Mapping[str, str]
    seconds: float

    @property
    def name(self) -> str:
        """What was asked for."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise ValueError where parts contradict one another."""


@dataclass(frozen=True)
class Fold:
    """One fold of a classification."""

    name: str
    n_train: int
    n_test: int
    macro_f1: float | None
    c: float | None = None


@dataclass(frozen=True)
class Parent:
    """How well the children of one parent are told from one another."""

    name: str
    children: tuple[str, ...]
    support: int
    flat: float | None
    hierarchical: float | None


@dataclass(frozen=True)
class Hierarchy:
    """Parent first, then child."""

    parent: str
    flat: Score
    hierarchical: Score
    hierarchical_minus_flat: Score
    flat_parent_accuracy: Score
    hierarchical_parent_accuracy: Score
    parents: tuple[Parent, ...]


@dataclass(frozen=True, kw_only=True)
class Classification(Result):
    """A label."""

    label: str
    classes: tuple[str, ...]
    variant: str
    verdict: str
    methods: tuple[MethodResult, ...]
    per_class: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]
    folds: tuple[Fold, ...]
    permutation: PermutationTest | None
    subjects: tuple[str, ...]
    test_subjects: tuple[str, ...]
    n_labelled: int
    n_without_embedding: int
    n_not_in_split: int
    readouts: tuple[MethodResult, ...] = ()
    balance: str = "weights"
    c: float | str = 1.0
    hierarchy: Hierarchy | None = None

    @property
    def name(self) -> str:
        return self.label

    def check(self) -> None:
        n = len(self.classes)
        _expect(n >= 2 and bool(self.methods), "there are fewer than two classes, or no method")
        square = len(self.confusion) == n and all(len(row) == n for row in self.confusion)
        _expect(square, f"the confusion matrix does not fit {n} classes")
        _expect(len(self.per_class) == n, f"the table by class does not fit {n} classes")


@dataclass(frozen=True)
class NumberFold:
    """One fold of a regression."""

    name: str
    n_train: int
    n_test: int
    alpha: float | None
    r2: float | None
    spearman: float | None


@dataclass(frozen=True, kw_only=True)
class Regression(Result):
    """A number."""

    target: str
    target_from: str
    verdict: str
    methods: tuple[RegressionResult, ...]
    folds: tuple[NumberFold, ...]
    permutation: PermutationTest | None
    n_with_target: int
    n_without_target: int
    n_without_embedding: int
    n_not_in_split: int

    @property
    def name(self) -> str:
        return self.target

    def check(self) -> None:
        _expect(bool(self.methods), "there is no method")


@dataclass(frozen=True)
class PairFold:
    """One fold of pairs."""

    name: str
    n_train: int
    n_test: int
    n_across: int
    average_precision: float | None
    roc_auc: float | None


@dataclass(frozen=True)
class PairAnswer:
    """Pairs read through one kind of features."""

    features: str
    verdict: str
    methods: tuple[PairResult, ...]
    folds: tuple[PairFold, ...]


@dataclass(frozen=True, kw_only=True)
class Pairs(Result):
    """Connected or not."""

    pairs: str
    pairs_sha256: str
    main: str
    verdict: str
    results: tuple[PairAnswer, ...]
    n_pairs: int
    n_connected: int
    n_units: int
    n_tested_connected: int
    n_across: int
    n_without_embedding: int
    n_not_in_split: int

    @property
    def name(self) -> str:
        return Path(self.pairs).stem

    def check(self) -> None:
        _expect(bool(self.results) and all(one.methods for one in self.results), "there is no method")


@dataclass(frozen=True)
class CurvePoint:
    """Macro F1 with a share of the labels."""

    fraction: float
    n_labelled: float
    macro_f1: Score


@dataclass(frozen=True)
class Needed:
    """Labels that suffice."""

    fraction: float
    low: float
    high: float
    n_labelled: float
    at_most: bool


@dataclass(frozen=True)
class Curve:
    """One method with ever fewer labels."""

    name: str
    title: str
    points: tuple[CurvePoint, ...]
    needed: Needed | None = None


@dataclass(frozen=True, kw_only=True)
class LabelEfficiency(Result):
    """How many labels are needed."""

    label: str
    classes: tuple[str, ...]
    variant: str
    curves: tuple[Curve, ...]
    repeats: int
    full_share: float = 0.9
    balance: str = ""  # older records lack both
    c: float | str | None = None

    @property
    def name(self) -> str:
        return self.label

    def check(self) -> None:
        _expect(bool(self.curves) and all(one.points for one in self.curves), "there is no curve")


AnyResult = Classification | Regression | Pairs | LabelEfficiency

_KINDS: dict[str, type[AnyResult]] = {
    "classification": Classification,
    "regression": Regression,
    "pairs": Pairs,
    "label_efficiency": LabelEfficiency,
}


@dataclass(frozen=True)
class Card:
    """What a report shows of card.json."""

    probe_sha256: str
    calibration: CalibrationReport | None = None


@dataclass(frozen=True)
class Point:
    """One point of a sweep."""

    name: str
    size: float
    seed: int


@dataclass(frozen=True)
class Sweep:
    """What the points of a sweep are."""

    points: tuple[Point, ...]
    held_out: tuple[str, ...]
    steps: int | None
    epochs: float | None
    preset: str
    variant: str
    split: str
    version: str


@dataclass(frozen=True)
class PointResult:
    """What one point came to."""

    point: str
    held_out_loss: float | None
    macro_f1: float
    macro_f1_low: float
    macro_f1_high: float
    parameters: int
    checkpoint: str


@dataclass(frozen=True)
class Baseline:
    """A baseline that no point changes."""

    title: str
    macro_f1: float


@dataclass(frozen=True)
class Scale:
    """A sweep."""

    label: str
    axis: str
    size_name: str
    sweep: Sweep
    choices: tuple[str, ...]
    warnings: tuple[str, ...]
    results: tuple[PointResult, ...]
    fits: tuple[ScalingFit, ...]
    baselines: tuple[Baseline, ...]
    knowledge: str
    seconds: float


def read_result(path: Path) -> AnyResult:
    """Read a report.json.

    Raises:
        OSError: It cannot be read.
        ValueError: It is damaged, or of a kind that is not known; says how.
    """
    document = read_document(path)
    kind = document.get("kind", "classification")
    if kind not in _KINDS:
        raise ValueError(f"its kind is {kind!r}, expected {', '.join(_KINDS)}")
    result = rebuild(_KINDS[kind], document)
    result.check()
    return result


def read_card_of(path: Path) -> Card:
    """Read a card.json; raises as `read_result`."""
    return rebuild(Card, read_document(path))


def read_scale(path: Path) -> Scale:
    """Read a scale.json; raises as `read_result`."""
    scale = rebuild(Scale, read_document(path))
    points = {point.name for point in scale.sweep.points}
    _expect(all(one.point in points for one in scale.results), "a result belongs to no point")
    return scale


def read_document(path: Path) -> dict[str, Any]:
    """A JSON object without NaN.

    Raises:
        OSError: It cannot be read.
        ValueError: It is none.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(document, dict):
        raise ValueError(f"it holds {type(document).__name__}, expected an object")
    return document


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"it holds {text}, which is no number")


def _expect(is_so: bool, otherwise: str) -> None:
    if not is_so:
        raise ValueError(otherwise)
