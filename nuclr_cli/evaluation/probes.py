"""The linear probe: standardise, then logistic regression. Everything is fitted on training rows only."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from nuclr_cli.errors import InputError
from nuclr_cli.evaluation.splits import Split

VariantName = Literal["default", "paper"]

_OVERSAMPLING_SEED = 42


@dataclass(frozen=True)
class Variant:
    """One of the two probes of the NuCLR code (arXiv 2512.01199).

    Both: StandardScaler, then L2 logistic regression with C = 1 and at most 1000 iterations.
    The code picks a training epoch by validation score; here the probe reads the one embedding it is given,
    so no label ever chooses a checkpoint, and there is no validation part to refit on.

    Attributes:
        name: ``default``: classes weighted by inverse frequency, newton-cg.
            ``paper``: what gave the paper's numbers: minority classes of the training rows drawn again (with
            replacement, seed 42) up to the size of the largest, scaler fitted on the resampled rows, lbfgs.
        solver: Of scikit-learn's LogisticRegression.
        tol: Its tolerance.
        oversample: Whether classes are balanced by resampling instead of by weight.
        max_iter: Largest number of iterations; a fit that stops there is reported.
    """

    name: VariantName
    solver: str
    tol: float
    oversample: bool
    max_iter: int = 1000


VARIANTS: dict[str, Variant] = {
    "default": Variant("default", "newton-cg", 1e-4, False),
    "paper": Variant("paper", "lbfgs", 1e-5, True),
}


def variant_named(name: str) -> Variant:
    """The variant of that name.

    Raises:
        InputError: There is none.
    """
    if name not in VARIANTS:
        raise InputError(f"Unknown probe variant {name!r}.", f"Choose --variant {' or '.join(VARIANTS)}")
    return VARIANTS[name]


@dataclass(frozen=True)
class FrontEnd:
    """What stands before the scaler when the input is no embedding; fitted on training rows like the rest.

    Attributes:
        impute: Replace NaN by the training median of the column.
        n_components: Reduce by PCA to at most this many columns; None = no PCA.
    """

    impute: bool = False
    n_components: int | None = None


PLAIN = FrontEnd()


@dataclass(frozen=True)
class Predictions:
    """Out-of-fold predictions.

    Attributes:
        predicted: (N,) int64 class code, -1 where no fold predicted the row.
        probability: (N, K) float64, NaN where not predicted; 0 for a class that the fold never trained on.
        notes: What went less than well, one sentence each.
    """

    predicted: NDArray[np.int64]
    probability: NDArray[np.float64]
    notes: tuple[str, ...] = ()


def encode(labels: NDArray[np.str_]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Class names (sorted) and the (N,) code of each row; -1 = unlabelled (empty text)."""
    classes = tuple(sorted(set(labels.tolist()) - {""}))
    code_of = {name: i for i, name in enumerate(classes)} | {"": -1}
    return classes, np.array([code_of[name] for name in labels.tolist()], dtype=np.int64)


def oversample(codes: NDArray[np.integer[Any]], seed: int = _OVERSAMPLING_SEED) -> NDArray[np.int64]:
    """Rows that make all classes as large as the largest: every row once, then draws with replacement.

    The same rows, in the same order, as imbalanced-learn's ``RandomOverSampler(random_state=seed)``.

    Args:
        codes: (n,) class of each row.
        seed: Seed of the draws.

    Returns:
        (m,) int64 row indices, m >= n.
    """
    random = check_random_state(seed)
    classes, counts = np.unique(codes, return_counts=True)
    largest = counts.argmax()
    rows = [np.arange(len(codes), dtype=np.int64)]
    for i, klass in enumerate(classes):
        if i == largest:
            continue
        members = np.flatnonzero(codes == klass)
        rows.append(members[random.randint(0, len(members), size=int(counts.max() - counts[i]))])
    return np.concatenate(rows)


def fit_probe(
    values: NDArray[np.floating[Any]], labels: NDArray[Any], variant: Variant, front: FrontEnd = PLAIN
) -> Pipeline:
    """Fit one probe.

    Args:
        values: (n, D) float, one row a unit, finite (NaN allowed when `front` imputes).
        labels: (n,) class of each row, text or codes; at least two classes.
        variant: Which probe.
        front: What stands before the scaler.

    Returns:
        A fitted scikit-learn Pipeline; for `PLAIN` exactly (StandardScaler, LogisticRegression).
    """
    values = np.asarray(values, dtype=np.float64)
    if variant.oversample:
        rows = oversample(np.unique(labels, return_inverse=True)[1])
        values, labels = values[rows], labels[rows]
    steps: list[tuple[str, Any]] = []
    if front.impute:
        steps.append(("impute", SimpleImputer(strategy="median", keep_empty_features=True)))
    if front.n_components is not None:
        n_components = min(front.n_components, *values.shape)
        steps.append(("pca", PCA(n_components, random_state=0)))
    steps.append(("scale", StandardScaler()))
    steps.append(
        (
            "classify",
            LogisticRegression(
                C=1.0,
                solver=variant.solver,
                tol=variant.tol,
                max_iter=variant.max_iter,
                class_weight=None if variant.oversample else "balanced",
            ),
        )
    )
    return Pipeline(steps).fit(values, labels)


def cross_predict(
    values: NDArray[np.floating[Any]],
    codes: NDArray[np.int64],
    n_classes: int,
    split: Split,
    usable: NDArray[np.bool_],
    variant: Variant,
    front: FrontEnd = PLAIN,
) -> Predictions:
    """Fit on each fold's training rows and predict its test rows.

    Args:
        values: (N, D) float.
        codes: (N,) int64 class codes (those of rows outside the split are never read).
        n_classes: K.
        split: Rows of each fold.
        usable: (N,) rows that may be fitted and predicted (False: no embedding).
        variant: Which probe.
        front: What stands before the scaler.

    Returns:
        Pooled predictions; a fold that trains on one class predicts that class.
    """
    predicted = np.full(len(codes), -1, dtype=np.int64)
    probability = np.full((len(codes), n_classes), np.nan)
    notes: list[str] = []
    with threadpool_limits(1):  # folds are small: more BLAS threads only wait for one another
        for fold in split.folds:
            train, test = fold.train[usable[fold.train]], fold.test[usable[fold.test]]
            if not len(train) or not len(test):
                continue
            trained = np.unique(codes[train])
            shares = np.zeros((len(test), n_classes))
            if len(trained) == 1:
                shares[:, trained[0]] = 1.0
            else:
                with _convergence() as failed:
                    probe = fit_probe(values[train], codes[train], variant, front)
                if failed:
                    notes.append(
                        f"Fold {fold.name!r}: the probe did not converge in {variant.max_iter} iterations."
                    )
                shares[:, trained] = probe.predict_proba(np.asarray(values[test], dtype=np.float64))
            probability[test] = shares
            predicted[test] = shares.argmax(axis=1)
    return Predictions(predicted, probability, tuple(notes))


@contextmanager
def _convergence() -> Iterator[list[str]]:
    """Collect scikit-learn's convergence warnings instead of printing them."""
    failed: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield failed
    for warning in caught:
        if issubclass(warning.category, ConvergenceWarning):
            failed.append(str(warning.message))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def _named(codes: NDArray[np.int64], classes: tuple[str, ...]) -> str:
    return ", ".join(classes[code] for code in np.unique(codes).tolist()) or "nothing"


def describe_folds(
    split: Split, codes: NDArray[np.int64], classes: tuple[str, ...], usable: NDArray[np.bool_]
) -> tuple[str, ...]:
    """Notes on folds whose training side lacks a class; their test units of it count as errors.

    Raises:
        InputError: Nothing can be learned: no fold trains on two classes, or no tested unit is of a class
            that its fold trains on.
    """
    notes: list[str] = []
    any_fit = any_hope = False
    sides: list[str] = []
    for fold in split.folds:
        train, test = codes[fold.train[usable[fold.train]]], codes[fold.test[usable[fold.test]]]
        sides.append(
            f"fold {fold.name!r} trains on {_named(train, classes)} and tests on {_named(test, classes)}"
        )
        any_fit |= len(np.unique(train)) >= 2
        any_hope |= bool(np.isin(test, train).any())
        never = sorted(set(test.tolist()) - set(train.tolist()))
        if never:
            names = ", ".join(classes[i] for i in never)
            n = int(np.isin(test, never).sum())
            notes.append(
                f"Fold {fold.name!r} never trains on {names}: its {n} test unit(s) of it count as errors."
            )
        if len(np.unique(train)) == 1:
            notes.append(f"Fold {fold.name!r} trains on one class only, so it can only predict that class.")
    if not (any_fit and any_hope):
        raise InputError(
            f"With this {split.kind} split no fold can train on two classes and test on one of them: "
            f"{'; '.join(sides[:3])}{'; ...' if len(sides) > 3 else ''}.",
            "Every class must be on the training side: label more subjects, hold out other ones "
            "(--test-subjects, nuclr pretrain --hold-out-subjects), or name the folds: --split FILE.csv",
        )
    return tuple(notes)
