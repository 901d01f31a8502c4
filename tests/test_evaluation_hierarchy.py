"""Parent first, then child: the product of two probes, each fitted on its own training rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nuclr_cli.evaluation.hierarchy import Tree, hierarchical_predictions, parent_scores
from nuclr_cli.evaluation.probes import NESTED, VARIANTS, encode
from nuclr_cli.evaluation.splits import UnitKeys, subject_split

TREE = Tree(("E", "I"), np.array([0, 0, 1, 1, 1]))
CLASSES = ("e1", "e2", "i1", "i2", "i3")


def make_units(n_units=50, seed=0):
    rng = np.random.default_rng(seed)
    subject = np.repeat(["m0", "m1", "m2"], n_units)
    unit = np.tile([f"u{i:03d}" for i in range(n_units)], 3)
    keys = UnitKeys(subject, np.full(len(unit), "day"), np.full(len(unit), "0"), unit)
    labels = rng.choice(CLASSES, len(unit))
    codes = encode(labels)[1]
    values = rng.normal(size=(len(unit), 8)) + 1.5 * np.eye(5, 8)[codes]
    return keys, labels, codes, values, np.ones(len(keys), dtype=bool)


def script_probe(values, codes):
    probe = make_pipeline(
        StandardScaler(), LogisticRegression(solver="newton-cg", max_iter=1000, class_weight="balanced")
    )
    return probe.fit(values, codes)


def test_the_product_is_that_of_a_script():
    keys, labels, codes, values, usable = make_units()
    split = subject_split(keys, labels)
    got = hierarchical_predictions(values, codes, TREE, split, usable, VARIANTS["default"])
    parents = TREE.parent_of[codes]
    for fold in split.folds:
        of_parent = script_probe(values[fold.train], parents[fold.train]).predict_proba(values[fold.test])
        for parent in (0, 1):
            own = fold.train[parents[fold.train] == parent]
            of_child = script_probe(values[own], codes[own]).predict_proba(values[fold.test])
            np.testing.assert_allclose(
                got.probability[fold.test][:, TREE.children(parent)], of_parent[:, [parent]] * of_child
            )
    np.testing.assert_allclose(got.probability.sum(axis=1), 1.0)
    assert (got.predicted == got.probability.argmax(axis=1)).all()


def test_a_parent_with_one_child_gives_it_all_its_probability():
    keys, labels, codes, values, usable = make_units()
    tree = Tree(("E", "I", "J"), np.array([0, 0, 1, 1, 2]))
    split = subject_split(keys, labels)
    got = hierarchical_predictions(values, codes, tree, split, usable, VARIANTS["default"])
    fold = split.folds[0]
    of_parent = script_probe(values[fold.train], tree.parent_of[codes][fold.train]).predict_proba(
        values[fold.test]
    )
    np.testing.assert_allclose(got.probability[fold.test, 4], of_parent[:, 2])


@pytest.mark.parametrize("variant", [*VARIANTS.values(), replace(VARIANTS["default"], c=NESTED)])
def test_no_probe_of_the_hierarchy_looks_at_test_rows(variant):
    keys, labels, codes, values, usable = make_units()
    split = subject_split(keys, labels, ["m2"])
    (fold,) = split.folds
    first = hierarchical_predictions(values, codes, TREE, split, usable, variant)
    spoiled, relabelled = values.copy(), codes.copy()
    kept, changed = fold.test[:10], fold.test[10:]
    spoiled[changed] *= 1e6
    relabelled[changed] = 0
    second = hierarchical_predictions(spoiled, relabelled, TREE, split, usable, variant)
    np.testing.assert_array_equal(first.probability[kept], second.probability[kept])


def test_the_children_of_a_parent_are_scored_among_themselves():
    truth = np.array([0, 0, 1, 1, 2, 3, 4, 4])
    flat = np.zeros((8, 5))
    flat[np.arange(8), [0, 2, 1, 0, 2, 2, 4, 0]] = 0.6  # whole answers: two cross the border between E and I
    flat[[1, 7], [0, 4]] = 0.4  # what would have been chosen among the parent's own children
    perfect = np.eye(5)[truth]
    one, two = parent_scores(TREE, CLASSES, truth, flat, perfect)
    assert (one.name, one.children, one.support) == ("E", ("e1", "e2"), 4)
    assert one.flat == pytest.approx(f1_score([0, 0, 1, 1], [0, 0, 1, 0], average="macro"))
    assert two.flat == pytest.approx(f1_score([2, 3, 4, 4], [2, 2, 4, 4], average="macro"))
    assert one.hierarchical == two.hierarchical == 1.0


def test_an_only_child_and_an_untested_parent_have_no_score():
    tree = Tree(("E", "I", "J"), np.array([0, 1, 1, 2, 2]))
    truth = np.array([0, 1, 2])
    scores = parent_scores(tree, CLASSES, truth, np.eye(5)[truth], np.eye(5)[truth])
    assert [(one.support, one.flat) for one in scores] == [(1, None), (2, 1.0), (0, None)]
