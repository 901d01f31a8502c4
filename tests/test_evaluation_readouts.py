"""Neighbours and centroids read the embedding as scikit-learn's do, on standardised training columns."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.preprocessing import StandardScaler

from nuclr_cli.evaluation import readouts
from nuclr_cli.evaluation.probes import encode
from nuclr_cli.evaluation.readouts import centroid_predictions, n_neighbours, neighbour_predictions
from nuclr_cli.evaluation.splits import UnitKeys, subject_split


def make_units(n_units=60, seed=0, shares=(0.5, 0.3, 0.2)):
    rng = np.random.default_rng(seed)
    subject = np.repeat(["m0", "m1", "m2"], n_units)
    unit = np.tile([f"u{i:03d}" for i in range(n_units)], 3)
    keys = UnitKeys(subject, np.full(len(unit), "day"), np.full(len(unit), "0"), unit)
    labels = rng.choice(["A", "B", "C"], len(unit), p=shares)
    codes = encode(labels)[1]
    values = rng.normal(size=(len(unit), 4)) * [1, 1, 30, 1] + np.eye(3, 4)[codes]
    return keys, labels, codes, values, np.ones(len(keys), dtype=bool)


def folds_standardised(split, values):
    for fold in split.folds:
        scaler = StandardScaler().fit(values[fold.train])
        yield fold, scaler.transform(values[fold.train]), scaler.transform(values[fold.test])


def test_the_neighbours_vote_as_scikit_learns():
    keys, labels, codes, values, usable = make_units()
    split = subject_split(keys, labels)
    got = neighbour_predictions(values, codes, 3, split, usable, "none")
    for fold, train, test in folds_standardised(split, values):
        k = n_neighbours(len(train))
        assert k == 10  # the square root of 120
        theirs = KNeighborsClassifier(k, algorithm="brute").fit(train, codes[fold.train])
        shares = theirs.predict_proba(test)
        np.testing.assert_allclose(got.probability[fold.test], shares)
        clear = np.sort(shares, axis=1)[:, -1] > np.sort(shares, axis=1)[:, -2]
        assert (got.predicted[fold.test][clear] == theirs.predict(test)[clear]).all()


def test_equal_votes_go_to_the_class_of_the_nearest():
    keys = UnitKeys(*(np.array(c) for c in (["a"] * 4 + ["b"], ["d"] * 5, ["0"] * 5, list("uvwxy"))))
    labels = np.array(["A", "A", "B", "B", "A"])
    values = np.array([[3.0], [100.0], [1.0], [90.0], [0.0]])  # k = 2: one B, one A, the B is nearer
    codes = encode(labels)[1]
    split = subject_split(keys, labels, ["b"])
    got = neighbour_predictions(values, codes, 2, split, np.ones(5, dtype=bool), "none")
    assert got.probability[4].tolist() == [0.5, 0.5]
    assert got.predicted[4] == 1


def test_a_vote_of_a_rare_class_weighs_more_unless_nothing_is_balanced():
    keys, labels, codes, values, usable = make_units(200, shares=(0.9, 0.05, 0.05))
    split = subject_split(keys, labels)
    recall = {}
    for balance in ("weights", "oversample", "none"):
        got = neighbour_predictions(values, codes, 3, split, usable, balance)
        recall[balance] = (got.predicted == codes)[codes > 0].mean()
    assert recall["weights"] == recall["oversample"]
    assert recall["weights"] > recall["none"] + 0.2


def test_the_nearest_centroid_is_scikit_learns():
    keys, labels, codes, values, usable = make_units()
    split = subject_split(keys, labels)
    got = centroid_predictions(values, codes, 3, split, usable)
    for fold, train, test in folds_standardised(split, values):
        theirs = NearestCentroid().fit(train, codes[fold.train])
        assert (got.predicted[fold.test] == theirs.predict(test)).all()
    np.testing.assert_allclose(got.probability.sum(axis=1), 1.0)
    assert (got.probability.argmax(axis=1) == got.predicted).all()


@pytest.mark.parametrize(("n_train", "k"), [(1, 1), (3, 1), (4, 2), (99, 9), (400, 20), (10**6, 20)])
def test_k_grows_with_the_training_rows_up_to_twenty(n_train, k):
    assert n_neighbours(n_train) == k


def test_many_training_rows_are_thinned_within_class_the_same_way_every_time(monkeypatch):
    keys, labels, codes, values, usable = make_units(200, shares=(0.9, 0.09, 0.01))
    split = subject_split(keys, labels)
    full = neighbour_predictions(values, codes, 3, split, usable, "weights")
    monkeypatch.setattr(readouts, "MOST_TRAINING_ROWS", 60)
    one = neighbour_predictions(values, codes, 3, split, usable, "weights")
    two = neighbour_predictions(values, codes, 3, split, usable, "weights")
    np.testing.assert_array_equal(one.probability, two.probability)
    assert not np.array_equal(one.probability, full.probability)
    assert (one.probability[:, 2] > 0).any()  # two of the 200 training units: one is kept


def test_rows_without_an_embedding_take_no_part():
    keys, labels, codes, values, usable = make_units()
    values[::5] = np.nan
    usable[::5] = False
    split = subject_split(keys, labels)
    for got in (
        neighbour_predictions(values, codes, 3, split, usable, "weights"),
        centroid_predictions(values, codes, 3, split, usable),
    ):
        assert ((got.predicted == -1) == ~usable).all()
        assert np.isfinite(got.probability[usable]).all()
