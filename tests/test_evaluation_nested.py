"""Nested cross-validation chooses C as a careful script would, on training rows, grouped as the split is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nuclr_cli.evaluation import fold_workers
from nuclr_cli.evaluation.cross_prediction import cross_predict, cross_predict_and_keep
from nuclr_cli.evaluation.nested import GRID, choose_c, inner_folds
from nuclr_cli.evaluation.probes import NESTED, VARIANTS, FrontEnd, encode
from nuclr_cli.evaluation.splits import Split, UnitKeys, session_split, subject_split, unit_split

NESTED_DEFAULT = replace(VARIANTS["default"], c=NESTED)


def make_units(n_subjects=5, n_units=24, signal=1.0, dim=30, seed=0, n_classes=3):
    rng = np.random.default_rng(seed)
    subject = np.repeat([f"m{i}" for i in range(n_subjects)], n_units)
    session = np.tile(np.repeat(["day1", "day2"], n_units // 2), n_subjects)
    unit = np.tile([f"u{i:02d}" for i in range(n_units)], n_subjects)
    keys = UnitKeys(subject, session, np.full(len(unit), "0"), unit)
    labels = rng.choice(list("ABC")[:n_classes], len(unit))
    codes = encode(labels)[1]
    values = rng.normal(size=(len(unit), dim)) + signal * np.eye(n_classes, dim)[codes]
    return keys, labels, codes, values, np.ones(len(keys), dtype=bool)


@pytest.mark.parametrize("front", [FrontEnd(), FrontEnd(impute=True, n_components=8)])
def test_the_choice_is_that_of_a_script_on_the_same_inner_folds(front):
    keys, labels, codes, values, _ = make_units()
    split = subject_split(keys, labels)
    rows = split.folds[0].train
    found = choose_c(values, codes, 3, split, rows, NESTED_DEFAULT, front)
    inner = PredefinedSplit(inner_folds(split, rows, codes[rows]))
    expected = []
    for c in GRID:
        probe = make_pipeline(
            StandardScaler(),
            LogisticRegression(C=c, solver="newton-cg", max_iter=1000, class_weight="balanced"),
        )
        if front.n_components:
            from sklearn.decomposition import PCA

            probe.steps.insert(0, ("pca", PCA(front.n_components, random_state=0)))
        predicted = cross_val_predict(probe, values[rows], codes[rows], cv=inner)
        expected.append(f1_score(codes[rows], predicted, average="macro"))
    assert found.macro_f1 == pytest.approx(expected)
    assert found.c == GRID[int(np.argmax(expected))]


def test_the_smallest_of_equals_is_chosen():
    keys, labels, codes, values, _ = make_units(signal=50.0)
    found = choose_c(values, codes, 3, subject_split(keys, labels), np.arange(len(keys)), NESTED_DEFAULT)
    best = [c for c, f1 in zip(GRID, found.macro_f1, strict=True) if f1 == max(found.macro_f1)]
    assert len(best) > 1
    assert found.c == best[0]


@pytest.mark.parametrize("make", [subject_split, session_split, unit_split])
def test_inner_folds_keep_apart_what_the_split_keeps_apart(make):
    keys, labels, codes, _, _ = make_units()
    split = make(keys, labels)
    group = {"subject": keys.subject, "session": keys.recording, "unit": np.arange(len(keys)).astype(str)}
    for fold in split.folds:
        inner = inner_folds(split, fold.train, codes[fold.train])
        assert 2 <= len(set(inner.tolist())) <= 5
        names = group[split.grouped_by][fold.train]
        for name in set(names.tolist()):
            assert len(set(inner[names == name].tolist())) == 1


def test_nested_shrinks_where_shrinking_helps():
    """200 columns, 3 of them with signal, 320 training units: C = 1 fits the noise of the other 197."""
    keys, labels, codes, values, usable = make_units(n_units=80, dim=200, signal=1.2)
    split = subject_split(keys, labels)
    plain = cross_predict(values, codes, 3, split, usable, VARIANTS["default"])
    chosen = cross_predict(values, codes, 3, split, usable, NESTED_DEFAULT)
    assert chosen.chosen
    assert sorted(chosen.c)[2] < 1
    assert plain.c == (1.0,) * 5
    scored = [f1_score(codes, one.predicted, average="macro") for one in (plain, chosen)]
    assert scored[1] > scored[0] + 0.02


def test_where_the_training_rows_cannot_be_split_again_c_is_1_and_that_is_said():
    keys, labels, codes, values, usable = make_units(n_subjects=2)
    got = cross_predict(values, codes, 3, subject_split(keys, labels), usable, NESTED_DEFAULT)
    assert got.c == (1.0, 1.0)
    assert not got.chosen
    assert got.notes[0] == "Fold 'm0': its training subjects do not allow a choice of C; C = 1."


def test_the_probe_that_is_kept_chooses_by_the_same_rule_on_all_rows():
    keys, labels, codes, values, usable = make_units(dim=100)
    usable[::9] = False
    split = subject_split(keys, labels)
    got, kept = cross_predict_and_keep(values, codes, ("A", "B", "C"), split, usable, NESTED_DEFAULT)
    rows = np.flatnonzero(usable)
    assert kept.choice == choose_c(values, codes, 3, split, rows, NESTED_DEFAULT)
    assert kept.choice.c == kept.pipeline[-1].C
    assert kept.pipeline.classes_.tolist() == ["A", "B", "C"]
    np.testing.assert_allclose(kept.pipeline[0].mean_, values[usable].mean(axis=0))
    again = cross_predict(values, codes, 3, split, usable, NESTED_DEFAULT)
    np.testing.assert_array_equal(got.probability, again.probability)


@pytest.mark.parametrize("variant", [VARIANTS["default"], VARIANTS["paper"], NESTED_DEFAULT])
def test_how_many_folds_are_in_work_changes_no_number(variant, monkeypatch):
    keys, labels, codes, values, usable = make_units()
    split = subject_split(keys, labels)
    one = cross_predict(values, codes, 3, split, usable, variant)
    monkeypatch.setattr(fold_workers, "SMALL_BYTES", 0)
    monkeypatch.setattr(fold_workers, "cores", lambda: 4)
    many = cross_predict(values, codes, 3, split, usable, variant)
    np.testing.assert_array_equal(one.probability, many.probability)
    assert one.c == many.c


@pytest.mark.parametrize("threads", [1, 4])
def test_a_fit_that_does_not_converge_is_said_of_its_own_fold_only(threads, monkeypatch, recwarn):
    """All units are alike except those of m2, and both classes as frequent: fold m2 has nothing to fit."""
    keys, _, _, values, usable = make_units(dim=3)
    codes = np.arange(len(keys)) % 2
    fold = np.searchsorted(np.unique(keys.subject), keys.subject)
    values[fold != 2] = 0.0
    split = Split("subject", "one subject each", keys, fold, tuple(np.unique(keys.subject)))
    monkeypatch.setattr(fold_workers, "SMALL_BYTES", 0)
    monkeypatch.setattr(fold_workers, "cores", lambda: threads)
    hasty = replace(VARIANTS["paper"], balance="none", max_iter=1)
    got = cross_predict(values, codes, 2, split, usable, hasty)
    assert [note.split("'")[1] for note in got.notes] == ["m0", "m1", "m3", "m4"]
    assert not [warning for warning in recwarn if "converge" in str(warning.message)]
