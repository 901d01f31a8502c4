"""The probe: balanced as the reference, fitted on training rows only, independent of row order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imblearn.over_sampling import RandomOverSampler
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from nuclr_cli.errors import InputError
from nuclr_cli.evaluation.balance import oversample
from nuclr_cli.evaluation.baselines import chance_scores, majority_predictions
from nuclr_cli.evaluation.cross_prediction import cross_predict
from nuclr_cli.evaluation.probes import (
    VARIANTS,
    FrontEnd,
    describe_folds,
    encode,
    fit_probe,
    variant_named,
)
from nuclr_cli.evaluation.splits import UnitKeys, subject_split, unit_split


def make_units(n_subjects: int = 4, n_units: int = 30, seed: int = 0, dim: int = 6):
    rng = np.random.default_rng(seed)
    subject = np.repeat([f"m{i}" for i in range(n_subjects)], n_units)
    unit = np.tile([f"u{i}" for i in range(n_units)], n_subjects)
    keys = UnitKeys(subject, np.full(len(unit), "day"), np.full(len(unit), "0"), unit)
    labels = rng.choice(["A", "B", "C"], size=len(unit), p=[0.6, 0.3, 0.1])
    values = rng.normal(size=(len(unit), dim)) + 1.5 * np.eye(3, dim)[encode(labels)[1]]
    return keys, labels, values


@given(codes=st.lists(st.integers(0, 3), min_size=2, max_size=60).filter(lambda c: len(set(c)) > 1))
@settings(max_examples=60, deadline=None)
def test_oversampling_draws_the_rows_that_imbalanced_learn_draws(codes):
    y = np.array(codes)
    theirs, _ = RandomOverSampler(random_state=42).fit_resample(np.arange(len(y)).reshape(-1, 1), y)
    assert oversample(y).tolist() == theirs.ravel().tolist()


def test_the_paper_variant_equals_the_reference_recipe():
    _, labels, values = make_units()
    rows, _ = RandomOverSampler(random_state=42).fit_resample(np.arange(len(labels)).reshape(-1, 1), labels)
    rows = rows.ravel()
    scaler = StandardScaler().fit(values[rows])
    reference = LogisticRegression(C=1.0, tol=1e-5, max_iter=1000).fit(
        scaler.transform(values[rows]), labels[rows]
    )
    own = fit_probe(values, labels, VARIANTS["paper"])
    np.testing.assert_array_equal(
        own.predict_proba(values), reference.predict_proba(scaler.transform(values))
    )


def test_the_default_variant_weighs_classes():
    _, labels, values = make_units()
    scaler = StandardScaler().fit(values)
    reference = LogisticRegression(solver="newton-cg", max_iter=1000, class_weight="balanced")
    reference.fit(scaler.transform(values), labels)
    own = fit_probe(values, labels, VARIANTS["default"])
    np.testing.assert_array_equal(
        own.predict_proba(values), reference.predict_proba(scaler.transform(values))
    )


@pytest.mark.parametrize("name", ["default", "paper"])
@pytest.mark.parametrize("front", [FrontEnd(), FrontEnd(impute=True, n_components=3)])
def test_nothing_is_fitted_on_test_rows(name, front):
    keys, labels, values = make_units()
    classes, codes = encode(labels)
    split = subject_split(keys, labels, ["m3"])
    usable = np.ones(len(keys), dtype=bool)
    (fold,) = split.folds
    first = cross_predict(values, codes, len(classes), split, usable, VARIANTS[name], front)
    spoiled, relabelled = values.copy(), codes.copy()
    kept, changed = fold.test[:10], fold.test[10:]
    spoiled[changed] = 1e6
    relabelled[changed] = 0
    second = cross_predict(spoiled, relabelled, len(classes), split, usable, VARIANTS[name], front)
    np.testing.assert_array_equal(first.probability[kept], second.probability[kept])
    assert (first.predicted[fold.train] == -1).all()


@given(seed=st.integers(0, 9999))
@settings(max_examples=10, deadline=None)
def test_the_order_of_the_units_changes_nothing(seed):
    keys, labels, values = make_units()
    order = np.random.default_rng(seed).permutation(len(keys))
    shuffled = UnitKeys(*(column[order] for column in keys.columns()))
    classes, codes = encode(labels)
    usable = np.ones(len(keys), dtype=bool)
    for make in (subject_split, unit_split):
        for variant in VARIANTS.values():
            one = cross_predict(values, codes, 3, make(keys, labels), usable, variant)
            split = make(shuffled, labels[order])
            two = cross_predict(values[order], codes[order], 3, split, usable, variant)
            np.testing.assert_array_equal(one.probability[order], two.probability)
    assert classes == ("A", "B", "C")


def test_units_without_an_embedding_neither_train_nor_get_a_prediction():
    keys, labels, values = make_units()
    classes, codes = encode(labels)
    split = subject_split(keys, labels)
    values[::7] = np.nan
    usable = np.isfinite(values).all(axis=1)
    got = cross_predict(values, codes, len(classes), split, usable, VARIANTS["default"])
    assert ((got.predicted == -1) == ~usable).all()
    assert np.isnan(got.probability[~usable]).all()
    np.testing.assert_allclose(got.probability[usable].sum(axis=1), 1.0)


def test_a_class_that_a_fold_never_trains_on_has_probability_zero_and_is_noted():
    keys, labels, values = make_units()
    labels = np.where(labels == "C", "A", labels)
    labels[keys.subject == "m0"] = "C"
    classes, codes = encode(labels)
    split = subject_split(keys, labels)
    usable = np.ones(len(keys), dtype=bool)
    notes = describe_folds(split, codes, classes, usable)
    assert [note for note in notes if "'m0'" in note] == [
        "Fold 'm0' never trains on C: its 30 test units of it count as errors."
    ]
    got = cross_predict(values, codes, 3, split, usable, VARIANTS["default"])
    assert (got.probability[keys.subject == "m0", 2] == 0).all()
    assert (got.predicted[keys.subject == "m0"] != 2).all()


def test_a_fold_with_one_training_class_predicts_that_class():
    keys, labels, values = make_units(3)
    labels = np.where(keys.subject == "m0", "A", np.where(keys.subject == "m1", "A", labels))
    classes, codes = encode(labels)
    split = subject_split(keys, labels)
    got = cross_predict(values, codes, 3, split, np.ones(len(keys), dtype=bool), VARIANTS["default"])
    assert (got.predicted[keys.subject == "m2"] == 0).all()
    assert any(
        "one class only" in note
        for note in describe_folds(split, codes, classes, np.ones(len(keys), dtype=bool))
    )


def test_two_subjects_with_a_class_each_cannot_be_split_by_subject():
    keys, _, _ = make_units(2)
    labels = np.where(keys.subject == "m0", "A", "B")
    classes, codes = encode(labels)
    with pytest.raises(InputError, match="no fold can train on two classes") as caught:
        describe_folds(subject_split(keys, labels), codes, classes, np.ones(len(keys), dtype=bool))
    assert "fold 'm0' trains on B and tests on A; fold 'm1' trains on A and tests on B" in caught.value.what
    assert "label more subjects" in caught.value.fix
    assert "--split unit" not in caught.value.fix  # it would mostly test which animal a unit is of


def test_a_probe_that_does_not_converge_is_reported():
    keys, labels, values = make_units()
    _, codes = encode(labels)
    hasty = replace(VARIANTS["paper"], max_iter=1)
    got = cross_predict(values, codes, 3, subject_split(keys, labels), np.ones(len(keys), dtype=bool), hasty)
    assert len(got.notes) == 4
    assert got.notes[0] == "Fold 'm0': the probe did not converge in 1 iterations."


def test_an_unknown_variant_lists_the_known_ones():
    with pytest.raises(InputError, match="'papper'") as caught:
        variant_named("papper")
    assert "default or paper" in caught.value.fix


def test_majority_predicts_the_most_frequent_training_class():
    keys, labels, _ = make_units()
    classes, codes = encode(labels)
    labels[keys.subject == "m0"] = "B"
    _, codes = encode(labels)
    split = subject_split(keys, labels, ["m1"])
    predicted = majority_predictions(codes, len(classes), split, np.ones(len(keys), dtype=bool))
    counts = np.bincount(codes[keys.subject != "m1"])
    assert (predicted[keys.subject == "m1"] == counts.argmax()).all()
    assert (predicted[keys.subject != "m1"] == -1).all()


def test_chance_scores_what_guesses_score():
    keys, labels, _ = make_units(4, 40)
    classes, codes = encode(labels)
    split = subject_split(keys, labels)
    usable = np.ones(len(keys), dtype=bool)
    got = chance_scores(codes, len(classes), split, usable, n_simulations=4000, seed=1)
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(0)
    direct = []
    for _ in range(400):
        guess = np.zeros(len(codes), dtype=int)
        for fold in split.folds:
            share = np.bincount(codes[fold.train], minlength=3) / len(fold.train)
            guess[fold.test] = rng.choice(3, size=len(fold.test), p=share)
        direct.append(f1_score(codes, guess, average="macro"))
    assert got.macro_f1.mean() == pytest.approx(np.mean(direct), abs=4 * np.std(direct) / 20)
    assert got.macro_f1.std() == pytest.approx(np.std(direct), rel=0.15)
    assert got.balanced_accuracy.mean() == pytest.approx(1 / 3, abs=0.01)
