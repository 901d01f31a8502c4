"""Planted leaks: whatever could make a result better than it should be is shut out, or found and said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from nuclr_cli.evaluation.baselines import chance_scores
from nuclr_cli.evaluation.bootstrap import interval
from nuclr_cli.evaluation.cross_prediction import cross_predict
from nuclr_cli.evaluation.metrics import confusion, scores
from nuclr_cli.evaluation.probes import NESTED, PLAIN, VARIANTS, FrontEnd, encode
from nuclr_cli.evaluation.readouts import centroid_predictions, neighbour_predictions
from nuclr_cli.evaluation.shortcuts import WORTH_SAYING, group_f1
from nuclr_cli.evaluation.splits import UnitKeys, subject_split, unit_split

FRONTS = {"plain": PLAIN, "impute": FrontEnd(impute=True), "pca": FrontEnd(impute=True, n_components=4)}
PROBES = {
    f"{name}, {balance}, C {c}": replace(variant, balance=balance, c=c)
    for name, variant in VARIANTS.items()
    for balance in ("weights", "oversample", "none")
    for c in (1.0, NESTED)
}


def make_units(n_subjects=5, n_units=30, seed=0, dim=8, signal=1.0):
    rng = np.random.default_rng(seed)
    subject = np.repeat([f"m{i}" for i in range(n_subjects)], n_units)
    unit = np.tile([f"u{i:02d}" for i in range(n_units)], n_subjects)
    keys = UnitKeys(subject, np.full(len(unit), "day"), np.full(len(unit), "0"), unit)
    labels = rng.choice(["A", "B", "C"], size=len(unit), p=[0.5, 0.3, 0.2])
    values = rng.normal(size=(len(unit), dim)) + signal * np.eye(3, dim)[encode(labels)[1]]
    return keys, labels, encode(labels)[1], values, np.ones(len(keys), dtype=bool)


def methods(probe, front):
    """Everything that is fitted on training rows, by name."""
    return {
        "probe": lambda *asked: cross_predict(*asked, probe, front),
        "neighbours": lambda *asked: neighbour_predictions(*asked, probe.balance),
        "centroid": lambda *asked: centroid_predictions(*asked),
    }


def unmoved_by_test_rows(read, front=PLAIN) -> bool:
    """Whether predictions of ten test rows stay, bit for bit, when all other test rows change enormously."""
    keys, labels, codes, values, usable = make_units()
    split = subject_split(keys, labels, ["m4"])
    (fold,) = split.folds
    if front.impute:
        values[::11, 2] = np.nan
    spoiled, relabelled = values.copy(), codes.copy()
    kept, changed = fold.test[:10], fold.test[10:]
    spoiled[changed] = spoiled[changed] * 1e9 + 1e9
    spoiled[changed[::2], 1] = np.nan if front.impute else -1e12
    relabelled[changed] = (relabelled[changed] + 1) % 3
    first = read(values, codes, 3, split, usable)
    second = read(spoiled, relabelled, 3, split, usable)
    return (
        np.array_equal(first.probability[kept], second.probability[kept])
        and np.array_equal(first.predicted[kept], second.predicted[kept])
        and first.c == second.c
    )


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("front", FRONTS)
def test_scaler_imputer_pca_balance_and_c_are_fitted_on_training_rows(probe, front):
    assert unmoved_by_test_rows(methods(PROBES[probe], FRONTS[front])["probe"], FRONTS[front])


@pytest.mark.parametrize("name", ["neighbours", "centroid"])
@pytest.mark.parametrize("balance", ["weights", "none"])
def test_the_other_readouts_are_fitted_on_training_rows(name, balance):
    probe = replace(VARIANTS["default"], balance=balance)
    assert unmoved_by_test_rows(methods(probe, PLAIN)[name])


def test_a_scaler_fitted_on_all_rows_would_be_caught():
    def leaky(values, codes, n_classes, split, usable):
        everything = StandardScaler().fit_transform(values)
        return cross_predict(everything, codes, n_classes, split, usable, VARIANTS["default"])

    assert not unmoved_by_test_rows(leaky)


def test_a_c_chosen_on_test_rows_would_be_caught():
    def leaky(values, codes, n_classes, split, usable):
        (fold,) = split.folds
        scaler = StandardScaler().fit(values[fold.train])
        train, test = scaler.transform(values[fold.train]), scaler.transform(values[fold.test])
        fits = [LogisticRegression(C=c).fit(train, codes[fold.train]) for c in (1e-4, 1e-2, 1.0, 100.0)]
        best = max(fits, key=lambda fit: fit.score(test, codes[fold.test]))
        return cross_predict(
            values, codes, n_classes, split, usable, replace(VARIANTS["default"], c=float(best.C))
        )

    assert not unmoved_by_test_rows(leaky)


def uneven_labels(keys, seed=1):
    """A label of which every subject has mostly one class, another one each."""
    rng = np.random.default_rng(seed)
    favourite = np.searchsorted(np.unique(keys.subject), keys.subject) % 3
    return np.array(["A", "B", "C"])[
        np.where(rng.random(len(keys)) < 0.8, favourite, rng.integers(0, 3, len(keys)))
    ]


@pytest.mark.parametrize("code", ["one column a subject", "one number"])
def test_a_column_that_tells_the_subject_helps_only_where_subjects_are_on_both_sides(code):
    keys, *_ = make_units(n_subjects=6)
    labels = uneven_labels(keys)
    codes = encode(labels)[1]
    subject = np.searchsorted(np.unique(keys.subject), keys.subject)
    noise = np.random.default_rng(0).normal(size=(len(keys), 3))
    # As a number, m0 and m3, m1 and m4, m2 and m5 share a value, as they share a class.
    told = np.eye(6)[subject] if code == "one column a subject" else (subject % 3)[:, None]
    values, usable = np.column_stack([noise, 5.0 * told]), np.ones(len(keys), dtype=bool)

    def f1(split):
        got = cross_predict(values, codes, 3, split, usable, VARIANTS["default"])
        return float(scores(confusion(codes, got.predicted, 3)).macro_f1)

    by_unit, by_subject = unit_split(keys, labels), subject_split(keys, labels)
    chance = chance_scores(codes, 3, by_unit, usable)
    alone = group_f1(codes, 3, keys.subject, by_unit, usable)
    assert f1(by_unit) > chance.macro_f1.mean() + 0.3
    assert alone > max(np.percentile(chance.macro_f1, 97.5), chance.macro_f1.mean() + WORTH_SAYING)
    if code == "one column a subject":  # a new animal's column was never trained
        assert f1(by_subject) < np.percentile(chance.macro_f1, 97.5)
        assert group_f1(codes, 3, keys.subject, by_subject, usable) < chance.macro_f1.mean()


def test_knowing_the_subject_is_worth_nothing_where_the_label_is_shared_evenly():
    keys, labels, codes, _, usable = make_units(n_subjects=6, n_units=60)
    split = unit_split(keys, labels)
    chance = chance_scores(codes, 3, split, usable).macro_f1
    assert group_f1(codes, 3, keys.subject, split, usable) < chance.mean() + WORTH_SAYING


@pytest.mark.parametrize(
    "name", ["default, weights, C 1.0", "paper, oversample, C 1.0", "default, none, C nested"]
)
@pytest.mark.parametrize("kind", ["subject", "unit"])
def test_shuffled_labels_score_chance_and_true_ones_do_not(name, kind):
    keys, labels, _, values, usable = make_units(n_subjects=16, n_units=20, signal=3.0)

    def score(labels):
        codes = encode(labels)[1]
        split = subject_split(keys, labels, n_folds=4) if kind == "subject" else unit_split(keys, labels)
        got = cross_predict(values, codes, 3, split, usable, PROBES[name])
        found = scores(confusion(codes, got.predicted, 3))
        best_guess = interval(chance_scores(codes, 3, split, usable).macro_f1).high
        return float(found.balanced_accuracy), float(found.macro_f1), best_guess

    n = 3 if "nested" in name else 8
    accuracy, f1, best = np.array([score(np.random.default_rng(i).permutation(labels)) for i in range(n)]).T
    assert abs(accuracy.mean() - 1 / 3) < 0.03
    assert (f1 > best).sum() <= 1
    assert score(labels)[0] > 0.8
