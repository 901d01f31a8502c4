"""The linear probe: standardise, then logistic regression. Everything is fitted on training rows only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from nuclr_cli.errors import InputError
from nuclr_cli.evaluation.balance import Balance, oversample
from nuclr_cli.evaluation.splits import Split
from nuclr_cli.wording import counted

VariantName = Literal["default", "paper"]

NESTED: Literal["nested"] = "nested"
"""`Variant.c` of a probe that chooses C by cross-validation inside its training rows."""
DEFAULT_C = 1.0


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
        balance: How classes of unequal size are balanced.
        max_iter: Largest number of iterations; a fit that stops there is reported.
        c: Inverse strength of the L2 penalty, or `NESTED`.
    """

    name: VariantName
    solver: str
    tol: float
    balance: Balance
    max_iter: int = 1000
    c: float | Literal["nested"] = DEFAULT_C


VARIANTS: dict[str, Variant] = {
    "default": Variant("default", "newton-cg", 1e-4, "weights"),
    "paper": Variant("paper", "lbfgs", 1e-5, "oversample"),
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


def encode(labels: NDArray[np.str_]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Class names (sorted) and the (N,) code of each row; -1 = unlabelled (empty text)."""
    classes = tuple(sorted(set(labels.tolist()) - {""}))
    code_of = {name: i for i, name in enumerate(classes)} | {"": -1}
    return classes, np.array([code_of[name] for name in labels.tolist()], dtype=np.int64)


@dataclass(frozen=True)
class Prepared:
    """Rows ready for the classifier.

    Attributes:
        steps: What prepared them, by name, fitted on them.
        values: (m, D') float64.
        labels: (m,) class of each row.
        balance: How the classifier still has to balance the classes.
    """

    steps: tuple[tuple[str, Any], ...]
    values: NDArray[np.float64]
    labels: NDArray[Any]
    balance: Balance

    def classifier(self, variant: Variant, c: float) -> LogisticRegression:
        """Logistic regression with the penalty `c`, fitted on these rows."""
        return LogisticRegression(
            C=c,
            solver=variant.solver,
            tol=variant.tol,
            max_iter=variant.max_iter,
            class_weight="balanced" if self.balance == "weights" else None,
        ).fit(self.values, self.labels)

    def transform(self, values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Other rows, brought into the classifier's space by what these rows fitted."""
        transformed: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
        for _, step in self.steps:
            transformed = step.transform(transformed)
        return transformed


def prepare(
    values: NDArray[np.floating[Any]], labels: NDArray[Any], variant: Variant, front: FrontEnd = PLAIN
) -> Prepared:
    """Balance, impute, reduce and standardise training rows; nothing here depends on C.

    Args, as for `fit_probe`.
    """
    ready: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    if variant.balance == "oversample":
        rows = oversample(np.unique(labels, return_inverse=True)[1])
        ready, labels = ready[rows], labels[rows]
    steps: list[tuple[str, Any]] = []
    if front.impute:
        steps.append(("impute", SimpleImputer(strategy="median", keep_empty_features=True)))
    if front.n_components is not None:
        n_components = min(front.n_components, *ready.shape)
        steps.append(("pca", PCA(n_components, random_state=0)))
    steps.append(("scale", StandardScaler()))
    for _, step in steps:
        ready = step.fit_transform(ready)
    return Prepared(tuple(steps), ready, labels, variant.balance)


def fit_probe(
    values: NDArray[np.floating[Any]], labels: NDArray[Any], variant: Variant, front: FrontEnd = PLAIN
) -> Pipeline:
    """Fit one probe.

    Args:
        values: (n, D) float, one row a unit, finite (NaN allowed when `front` imputes).
        labels: (n,) class of each row, text or codes; at least two classes.
        variant: Which probe; its C is a number.
        front: What stands before the scaler.

    Returns:
        A fitted scikit-learn Pipeline; for `PLAIN` exactly (StandardScaler, LogisticRegression).
    """
    if variant.c == NESTED:
        raise ValueError("choose C first: nested.choose_c")
    ready = prepare(values, labels, variant, front)
    return Pipeline([*ready.steps, ("classify", ready.classifier(variant, variant.c))])


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
                f"Fold {fold.name!r} never trains on {names}: its {counted(n, 'test unit')} of it count as "
                "errors."
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


def one_sided(
    split: Split, codes: NDArray[np.int64], classes: tuple[str, ...], usable: NDArray[np.bool_]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Classes that some fold trains but none tests, and classes that some fold tests but none trains."""
    trained, tested = np.zeros((2, len(classes)), dtype=bool)
    for fold in split.folds:
        trained[codes[fold.train[usable[fold.train]]]] = True
        tested[codes[fold.test[usable[fold.test]]]] = True

    def names(which: NDArray[np.bool_]) -> tuple[str, ...]:
        return tuple(name for name, is_one in zip(classes, which.tolist(), strict=True) if is_one)

    return names(trained & ~tested), names(tested & ~trained)
