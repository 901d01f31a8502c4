"""The linear probe of pairs: is unit a connected to unit b? Everything is fitted on training rows only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from nuclr_cli.evaluation.fold_workers import map_folds
from nuclr_cli.evaluation.front_steps import front_steps
from nuclr_cli.evaluation.pair_splits import PairSplit, Rows, units_of_pairs
from nuclr_cli.evaluation.probes import DEFAULT_C, NESTED, PLAIN, FrontEnd
from nuclr_cli.evaluation.splits import UnitKeys

Floats = NDArray[np.float64]
PairFeatures = Literal["directed", "symmetric"]
Strength = float | Literal["nested"]

PAIR_FEATURES: tuple[PairFeatures, ...] = ("directed", "symmetric")
"""The first one is the main one: whether a is connected to b is another question than b to a."""

STRENGTHS: tuple[float, ...] = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Values of C that ``nested`` chooses from, the strongest penalty first."""
GIVE_UP_AFTER = 2
"""The search ends after so many values of C in a row that are no better than the best."""
INNER_PARTS = 3
MAX_TRAIN_PAIRS = 10_000
"""A fit takes no more pairs: all connected ones (up to half) and a random draw of the others."""
MAX_ITER = 1000
_TIE = 1e-12
_AT_ONCE = 4096  # pairs whose features are held at a time when predicting


@dataclass(frozen=True)
class PairInput:
    """One way to describe the P pairs.

    Attributes:
        name: Short name; ``nuclr`` is the embedding under test.
        title: For people.
        units: (N, D) values of units, from which the features of pairs are made; None when `pairs` is given.
        front: What stands before the scaler of the units.
        pairs: Kind of features -> (P, F) values of the pairs themselves, e.g. a distance.
    """

    name: str
    title: str
    units: NDArray[np.floating[Any]] | None = None
    front: FrontEnd = PLAIN
    pairs: dict[PairFeatures, Floats] | None = None


@dataclass(frozen=True)
class PairPredictions:
    """Out-of-fold scores.

    Attributes:
        score: (P,) float64, higher = more likely connected; NaN where no fold predicted the pair.
        strengths: C of each fold, None where the fold could not be fitted.
        notes: What went less than well, one sentence each.
    """

    score: Floats
    strengths: tuple[float | None, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PairProbe:
    """A fitted probe.

    Attributes:
        kind: Which features.
        units: Standardises the values of units (fitted on each training unit once); None for pair values.
        pairs: (StandardScaler, LogisticRegression) on the features of pairs.
    """

    kind: PairFeatures
    units: Pipeline | None
    pairs: Pipeline

    @property
    def strength(self) -> float:
        return float(self.pairs[-1].C)

    @property
    def converged(self) -> bool:
        return bool(self.pairs[-1].n_iter_.max() < MAX_ITER)

    def score(self, described: PairInput, pre: Rows, post: Rows, at: Rows) -> Floats:
        """(n,) probability of a connection, for the pairs `at`, by a model with balanced classes."""
        parts = [
            self.pairs.predict_proba(_features(described, self.units, self.kind, pre, post, part))[:, 1]
            for part in np.array_split(at, max(1, -(-len(at) // _AT_ONCE)))
        ]
        return np.concatenate(parts)


def pair_features(a: Floats, b: Floats, kind: PairFeatures) -> Floats:
    """Features of the pairs (a, b).

    Args:
        a, b: (P, D) standardised values of the two units.
        kind: ``directed``: a, b, a - b, a * b, (P, 4D). ``symmetric``: |a - b|, a * b, (P, 2D), the same for
            (b, a).
    """
    if kind == "symmetric":
        return np.concatenate([np.abs(a - b), a * b], axis=1)
    return np.concatenate([a, b, a - b, a * b], axis=1)


@dataclass(frozen=True)
class _Ready:
    """Training pairs prepared once, for any penalty.

    Attributes:
        units: As in `PairProbe`.
        scale: Fitted on the features of the pairs.
        values: (n, F) standardised features.
        connected: (n,) 0 or 1.
    """

    units: Pipeline | None
    scale: StandardScaler
    values: Floats
    connected: Rows

    def classifier(self, strength: float) -> LogisticRegression:
        """Classes weighted by inverse frequency. Scikit-learn warns when the fit does not converge."""
        model = LogisticRegression(C=strength, max_iter=MAX_ITER, class_weight="balanced")
        return model.fit(self.values, self.connected)


def _prepare(
    described: PairInput,
    kind: PairFeatures,
    pre: Rows,
    post: Rows,
    connected: NDArray[np.bool_],
    at: Rows,
    seed: int,
) -> _Ready:
    """Standardise the units of the pairs `at` (each once), make the features, standardise these.

    Args:
        described: The description of units or pairs.
        kind: Which features.
        pre, post: (P,) rows of units.
        connected: (P,) truth.
        at: Pairs to fit on, both classes among them.
        seed: Of the draw when there are more than `MAX_TRAIN_PAIRS`.
    """
    at = thin(at, connected, seed)
    units: Pipeline | None = None
    if described.units is not None:
        rows = units_of_pairs(pre[at], post[at])
        values = np.asarray(described.units[rows], dtype=np.float64)
        units = Pipeline(front_steps(described.front, values.shape)).fit(values)
    scale = StandardScaler()
    scaled = scale.fit_transform(_features(described, units, kind, pre, post, at))
    return _Ready(units, scale, scaled, connected[at].astype(np.int64))


def thin(at: Rows, connected: NDArray[np.bool_], seed: int) -> Rows:
    """At most `MAX_TRAIN_PAIRS` of the pairs: the rarer class is kept whole up to half of them."""
    if len(at) <= MAX_TRAIN_PAIRS:
        return at
    rng = np.random.default_rng(seed)
    few, many = sorted((at[connected[at]], at[~connected[at]]), key=len)
    few = few if len(few) <= MAX_TRAIN_PAIRS // 2 else rng.choice(few, MAX_TRAIN_PAIRS // 2, replace=False)
    return np.sort(np.concatenate([few, rng.choice(many, MAX_TRAIN_PAIRS - len(few), replace=False)]))


def cross_predict_pairs(
    described: PairInput,
    kind: PairFeatures,
    split: PairSplit,
    connected: NDArray[np.bool_],
    strength: Strength,
    seed: int,
) -> PairPredictions:
    """Fit on each fold's training pairs and score its test pairs.

    A fold that trains on one class only is not predicted, whatever the description of the pairs.

    Args:
        described: The description of units or pairs.
        kind: Which features.
        split: Pairs of each fold.
        connected: (P,) truth.
        strength: C, or ``nested``: chosen on each fold's training pairs, without a unit on both sides.
        seed: Of inner parts and draws.
    """
    score = np.full(len(connected), np.nan)
    strengths: list[float | None] = [None] * len(split.folds)
    notes: list[str] = []
    places = []
    for place, fold in enumerate(split.folds):
        if 0 < connected[fold.train].sum() < len(fold.train):
            places.append(place)
        else:
            notes.append(_untrained_fold(fold.name, connected[fold.train]))

    def work(place: int) -> tuple[PairProbe, Floats]:
        fold = split.folds[place]
        probe = settle_and_fit(described, kind, split, connected, fold.train, strength, seed)
        return probe, probe.score(described, split.pre, split.post, fold.test)

    for place, ((probe, found), _) in zip(
        places, map_folds(work, places, _bytes(described, kind)), strict=True
    ):
        fold = split.folds[place]
        if not probe.converged:
            notes.append(f"Fold {fold.name!r}: the probe did not converge in {MAX_ITER} iterations.")
        score[fold.test] = found
        strengths[place] = probe.strength
    return PairPredictions(score, tuple(strengths), tuple(notes))


def fit_all(
    described: PairInput,
    kind: PairFeatures,
    split: PairSplit,
    connected: NDArray[np.bool_],
    at: Rows,
    strength: Strength,
    seed: int,
) -> PairProbe:
    """One probe fitted on all pairs `at`, its C chosen among them as in a fold. Arguments as there."""

    def work(at: Rows) -> PairProbe:
        return settle_and_fit(described, kind, split, connected, at, strength, seed)

    return map_folds(work, [at], _bytes(described, kind))[0][0]


def settle_and_fit(
    described: PairInput,
    kind: PairFeatures,
    split: PairSplit,
    connected: NDArray[np.bool_],
    train: Rows,
    strength: Strength,
    seed: int,
) -> PairProbe:
    """Choose C on `train` if asked to, and fit there."""
    c = (
        _best_strength(described, kind, split, connected, train, seed)
        if strength == NESTED
        else float(strength)
    )
    ready = _prepare(described, kind, split.pre, split.post, connected, train, seed)
    return PairProbe(kind, ready.units, Pipeline([("scale", ready.scale), ("classify", ready.classifier(c))]))


def _bytes(described: PairInput, kind: PairFeatures) -> int:
    """What one fold holds at most, about: features as they are and standardised, and those of inner parts."""
    if described.units is not None:
        width = int(described.units.shape[1]) * (4 if kind == "directed" else 2)
    else:
        width = 0 if described.pairs is None else int(described.pairs[kind].shape[1])
    return 8 * (3 + 2 * INNER_PARTS) * width * MAX_TRAIN_PAIRS


def _untrained_fold(name: str, connected: NDArray[np.bool_]) -> str:
    if not len(connected):
        return f"Fold {name!r} is not predicted: no pair trains it."
    only = "connected" if connected[0] else "unconnected"
    return f"Fold {name!r} is not predicted: it trains on {only} pairs only."


def _best_strength(
    described: PairInput,
    kind: PairFeatures,
    split: PairSplit,
    connected: NDArray[np.bool_],
    train: Rows,
    seed: int,
) -> float:
    """C with the highest average precision over inner parts of the training units; the smaller of equals.

    Where no inner part has both classes on both sides there is nothing to choose by: `DEFAULT_C`.
    """
    part_of = inner_parts(split.units.keys, split.pre[train], split.post[train], seed)
    first, second = part_of[split.pre[train]], part_of[split.post[train]]
    sides: list[tuple[_Ready, Floats, NDArray[np.bool_]]] = []
    for part in range(INNER_PARTS):
        inside = (first == part).astype(int) + (second == part)
        fit, held = train[inside == 0], thin(train[inside == 2], connected, seed)
        if all(0 < connected[side].sum() < len(side) for side in (fit, held)):
            ready = _prepare(described, kind, split.pre, split.post, connected, fit, seed)
            values = _features(described, ready.units, kind, split.pre, split.post, held)
            sides.append((ready, ready.scale.transform(values), connected[held]))
    best, precision_of_best, worse = DEFAULT_C, -1.0, 0
    for strength in STRENGTHS if sides else ():  # the strongest penalty first: it takes the fewest iterations
        found = [
            average_precision_score(truth, ready.classifier(strength).decision_function(values))
            for ready, values, truth in sides
        ]
        precision = float(np.mean(found))
        worse = 0 if precision > precision_of_best + _TIE else worse + 1
        if worse == 0:
            best, precision_of_best = strength, precision
        elif worse == GIVE_UP_AFTER:
            break
    return best


def inner_parts(keys: UnitKeys, pre: Rows, post: Rows, seed: int) -> Rows:
    """(N,) part of each unit of the pairs, -1 = in no pair.

    Whole subjects where there are at least `INNER_PARTS`, else whole sessions, else single units.
    """
    rows = np.unique(np.concatenate([pre, post]))
    rows = keys.order[np.isin(keys.order, rows)]  # in the order of keys, so that the table's changes nothing
    part_of = np.full(len(keys), -1, dtype=np.int64)
    for group in (keys.subject, keys.recording):
        names, member = np.unique(group[rows], return_inverse=True)
        if len(names) >= INNER_PARTS:
            dealt = np.empty(len(names), dtype=np.int64)
            dealt[np.argsort(-np.bincount(member), kind="stable")] = np.arange(len(names)) % INNER_PARTS
            part_of[rows] = dealt[member]
            return part_of
    dealt = np.arange(len(rows)) % INNER_PARTS
    part_of[np.random.default_rng(seed).permutation(rows)] = dealt
    return part_of


def _features(
    described: PairInput, units: Pipeline | None, kind: PairFeatures, pre: Rows, post: Rows, at: Rows
) -> Floats:
    if units is None or described.units is None:
        if described.pairs is None:
            raise ValueError(f"{described.name} describes neither units nor pairs")
        return described.pairs[kind][at]
    a, b = (units.transform(np.asarray(described.units[side[at]], dtype=np.float64)) for side in (pre, post))
    return pair_features(a, b, kind)
