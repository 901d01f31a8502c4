"""Scores equal scikit-learn's; intervals, differences and permutation tests mean what they say."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    precision_recall_fscore_support,
)

from nuclr_cli.evaluation.bootstrap import bootstrap_scores, draw_weights, interval, resampling_plan
from nuclr_cli.evaluation.metrics import confusion, per_class, scores
from nuclr_cli.evaluation.permutation import default_permutations, permutation_test
from nuclr_cli.evaluation.records import MethodPredictions, compare
from nuclr_cli.evaluation.verdicts import classification_verdict

pairs = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=80)


@given(pairs)
@settings(max_examples=150, deadline=None)
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.filterwarnings("ignore:A single label was found")
def test_scores_equal_scikit_learn(rows):
    truth, predicted = np.array(rows).T
    got = scores(confusion(truth, predicted, 5))
    assert got.macro_f1 == pytest.approx(f1_score(truth, predicted, average="macro"))
    assert got.balanced_accuracy == pytest.approx(balanced_accuracy_score(truth, predicted))
    assert got.accuracy == pytest.approx(accuracy_score(truth, predicted))
    table = per_class(confusion(truth, predicted, 5), tuple("abcde"))
    theirs = precision_recall_fscore_support(truth, predicted, labels=range(5), zero_division=0.0)
    for i, row in enumerate(table):
        assert (row.precision, row.recall, row.f1, row.support) == pytest.approx([part[i] for part in theirs])


def simulate(seed: int, n_subjects: int = 12, n_units: int = 40, skill: float = 0.6):
    rng = np.random.default_rng(seed)
    subject = np.repeat([f"m{i:02d}" for i in range(n_subjects)], n_units)
    truth = rng.integers(0, 3, len(subject))
    skills = np.clip(rng.normal(skill, 0.1, n_subjects), 0, 1).repeat(n_units)
    predicted = np.where(rng.random(len(subject)) < skills, truth, rng.integers(0, 3, len(subject)))
    return subject, truth, predicted


def test_resamples_are_scores_of_the_resampled_units():
    subject, truth, predicted = simulate(0, 5, 10)
    plan = resampling_plan(subject, truth)
    weights = draw_weights(plan, 20, seed=3)
    got = bootstrap_scores(plan, weights, truth, predicted, 3)
    names = np.unique(subject)
    for b in range(20):
        rows = np.concatenate(
            [np.tile(np.flatnonzero(subject == name), weights[b, i]) for i, name in enumerate(names)]
        )
        assert got.macro_f1[b] == pytest.approx(f1_score(truth[rows], predicted[rows], average="macro"))
    assert (weights.sum(axis=1) == 5).all()


@pytest.mark.parametrize("seed", range(8))
def test_the_interval_contains_the_score(seed):
    subject, truth, predicted = simulate(seed)
    plan = resampling_plan(subject, truth)
    assert plan.unit == "subjects"
    resampled = bootstrap_scores(plan, draw_weights(plan, 1000, seed), truth, predicted, 3)
    bounds = interval(resampled.macro_f1)
    assert bounds.low < scores(confusion(truth, predicted, 3)).macro_f1 < bounds.high
    assert bounds.high - bounds.low < 0.2


def test_intervals_over_subjects_cover_the_population_value():
    """Nominal 95%; cluster bootstraps of 12 subjects are a little narrow."""
    everyone = simulate(0, 4000)
    target = float(scores(confusion(everyone[1], everyone[2], 3)).accuracy)
    inside = 0
    for seed in range(200):
        subject, truth, predicted = simulate(seed + 1)
        plan = resampling_plan(subject, truth)
        bounds = interval(bootstrap_scores(plan, draw_weights(plan, 400, seed), truth, predicted, 3).accuracy)
        inside += bounds.low <= target <= bounds.high
    assert 0.85 <= inside / 200 <= 0.99


def test_subjects_are_drawn_within_class_when_each_has_one_class():
    subject = np.repeat(["a", "b", "c", "d", "e"], 4)
    truth = np.repeat([0, 0, 1, 1, 1], 4)
    plan = resampling_plan(subject, truth)
    assert plan.unit == "subjects within class"
    weights = draw_weights(plan, 200, 0)
    assert (weights[:, :2].sum(axis=1) == 2).all()
    assert (weights[:, 2:].sum(axis=1) == 3).all()
    lonely = resampling_plan(np.repeat(["a", "b", "c"], 4), np.repeat([0, 1, 1], 4))
    assert any("single test subject" in note for note in lonely.notes)
    assert any("3 test subjects" in note for note in lonely.notes)


def test_one_subject_of_each_class_leaves_only_units_to_draw():
    """Drawing one subject out of one would give an interval without width."""
    truth = np.repeat([0, 1], 10)
    plan = resampling_plan(np.repeat(["a", "b"], 10), truth)
    assert plan.unit == "units"
    assert any("nothing about other animals" in note for note in plan.notes)
    predicted = np.where(np.arange(20) % 3 == 0, 1 - truth, truth)
    bounds = interval(bootstrap_scores(plan, draw_weights(plan, 200, 0), truth, predicted, 2).macro_f1)
    assert bounds.low < bounds.high


def test_a_single_subject_is_resampled_by_unit_and_says_so():
    plan = resampling_plan(np.full(9, "a"), np.arange(9) % 2)
    assert plan.unit == "units"
    assert plan.n_groups == 9
    assert "says nothing about other animals" in plan.notes[0]


def compared(skill: float, baseline: float):
    subject, truth, own = simulate(1, skill=skill)
    _, _, other = simulate(1, skill=baseline)
    plan = resampling_plan(subject, truth)
    rng = np.random.default_rng(0)
    chance = scores(np.stack([confusion(truth, rng.integers(0, 3, len(truth)), 3) for _ in range(50)]))
    return compare(
        truth,
        3,
        MethodPredictions("nuclr", "NuCLR", own),
        [MethodPredictions("features", "features", other)],
        chance,
        plan,
        n_resamples=500,
        seed=0,
    )


def test_differences_are_paired_and_signed():
    methods = compared(0.8, 0.5)
    assert [method.name for method in methods] == ["nuclr", "features", "chance"]
    assert methods[0].nuclr_minus is None
    gap = methods[1].nuclr_minus
    assert gap.value == pytest.approx(methods[0].macro_f1.value - methods[1].macro_f1.value)
    assert 0 < gap.low < gap.value < gap.high
    # The simulated skills of the two methods move together over subjects, so pairing narrows the interval.
    assert gap.high - gap.low < (methods[0].macro_f1.high - methods[0].macro_f1.low) * 1.5


def test_the_verdict_is_plain():
    assert classification_verdict(compared(0.8, 0.5)).startswith("NuCLR has the highest macro F1")
    assert classification_verdict(compared(0.5, 0.8)).startswith(
        "NuCLR does not win: features has the highest macro F1"
    )
    same = classification_verdict(compared(0.6, 0.6), ["untrained encoder"])
    assert "may be luck" in same
    assert same.endswith("Not compared with: untrained encoder.")


def accuracy_of(rule):
    return lambda labels: float((labels == rule).mean())


def test_whole_subjects_trade_labels_and_few_ways_are_all_tried():
    subject = np.repeat(["a", "b", "c", "d"], 3)
    codes = np.repeat([0, 0, 1, 1], 3)
    tried = []

    def score(labels):
        tried.append(tuple(labels[::3]))
        assert all(len(set(labels[i : i + 3])) == 1 for i in range(0, 12, 3))
        return accuracy_of(codes)(labels)

    test = permutation_test(score, subject, codes, 200, seed=0)
    assert test.exact
    assert test.permuted == "subjects"
    assert set(tried) == set(itertools.permutations((0, 0, 1, 1)))
    assert len(tried) == 6
    assert test.p_value == pytest.approx(1 / 6)
    assert test.smallest_p == pytest.approx(1 / 6)


@pytest.mark.parametrize(
    ("classes", "smallest"), [([0, 0, 1, 1], 2 / 6), ([0, 0, 0, 1], 1 / 4), ([0, 1, 2, 2], 2 / 12)]
)
def test_a_score_without_class_names_ties_with_its_renamings(classes, smallest):
    subject = np.repeat(["a", "b", "c", "d"], 2)
    codes = np.repeat(classes, 2)

    def score(labels):
        same = labels[:, None] == labels[None, :]
        return float((same == (codes[:, None] == codes[None, :])).mean())

    test = permutation_test(score, subject, codes, 200, seed=0, symmetric=True)
    assert test.exact
    assert test.p_value == pytest.approx(smallest)
    assert test.smallest_p == pytest.approx(smallest)


def test_many_ways_are_sampled_and_the_true_labelling_counts():
    subject = np.repeat([f"m{i:02d}" for i in range(16)], 2)
    codes = np.repeat(np.arange(16) % 2, 2)
    steps = []
    test = permutation_test(
        accuracy_of(codes), subject, codes, 99, 0, lambda done, total: steps.append((done, total))
    )
    assert not test.exact
    assert test.p_value == pytest.approx(1 / 100)
    assert steps == [(i, 99) for i in range(1, 100)]
    constant = permutation_test(lambda labels: 0.5, subject, codes, 19, 0)
    assert constant.p_value == 1.0


def test_units_trade_labels_within_their_subject():
    subject = np.repeat(["a", "b"], [6, 4])
    codes = np.array([0, 1, 1, 1, 0, 0, 2, 2, 1, 1])

    def score(labels):
        assert sorted(labels[:6]) == sorted(codes[:6])
        assert sorted(labels[6:]) == sorted(codes[6:])
        return accuracy_of(codes)(labels)

    test = permutation_test(score, subject, codes, 50, seed=1)
    assert test.permuted == "units within subjects"
    assert 1 / 51 <= test.p_value < 0.2
    assert test.null_mean < 1


def test_p_values_of_meaningless_labels_are_uniform():
    rng = np.random.default_rng(0)
    subject = np.array([f"m{i}" for i in range(20)])
    values = []
    for seed in range(120):
        codes = rng.permutation(np.arange(20) % 2)
        signal = rng.normal(size=20)
        score = lambda labels, s=signal: float(s[labels == 1].mean() - s[labels == 0].mean())  # noqa: E731
        values.append(permutation_test(score, subject, codes, 39, seed).p_value)
    assert 0.4 < np.mean(values) < 0.6
    assert np.mean(np.array(values) <= 0.1) < 0.2


def test_the_test_runs_by_default_only_for_labels_that_are_constant_within_subjects():
    subject = np.repeat(["a", "b"], 3)
    assert default_permutations(subject, np.repeat([0, 1], 3)) == 200
    assert default_permutations(subject, np.array([0, 1, 0, 1, 1, 1])) == 0
