"""Splits keep their promises: no subject on both sides, every unit tested once, the same in every process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuclr_cli.errors import InputError
from nuclr_cli.evaluation.split_files import file_split, split_document
from nuclr_cli.evaluation.splits import LEFT_OUT, Split, UnitKeys, session_split, subject_split, unit_split


def make_keys(subjects: list[str], n_units: int = 6, n_sessions: int = 2) -> UnitKeys:
    rows = [
        (subject, f"day{s}", "0", f"u{i}")
        for subject in subjects
        for s in range(n_sessions)
        for i in range(n_units)
    ]
    return UnitKeys(*(np.array(column) for column in zip(*rows, strict=True)))


def make_labels(keys: UnitKeys, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice(["", "EC", "IN", "X"], size=len(keys), p=[0.1, 0.4, 0.3, 0.2])


names = st.text(alphabet="abcXYZ-_ é/0", min_size=1, max_size=6)


@given(
    subjects=st.lists(names, min_size=2, max_size=6, unique=True),
    n_units=st.integers(1, 8),
    seed=st.integers(0, 999),
)
@settings(max_examples=60, deadline=None)
def test_leaving_one_subject_out_tests_every_labelled_unit_once(subjects, n_units, seed):
    keys = make_keys(subjects, n_units)
    labels = make_labels(keys, seed)
    labels[:: n_units * 2] = "EC"  # every subject carries the label
    split = subject_split(keys, labels)
    tested = np.concatenate([fold.test for fold in split.folds])
    assert sorted(tested.tolist()) == np.flatnonzero(labels != "").tolist()
    assert split.subjects_disjoint
    for fold in split.folds:
        assert set(keys.subject[fold.test]) == {fold.name}
        assert fold.name not in keys.subject[fold.train]
        assert len(fold.train) + len(fold.test) == (labels != "").sum()


@given(seed=st.integers(0, 999), folds=st.integers(2, 5))
@settings(max_examples=40, deadline=None)
def test_unit_folds_are_balanced_and_cover_every_labelled_unit(seed, folds):
    keys = make_keys(["a", "b", "c"], 10)
    labels = make_labels(keys, seed)
    for klass in ("EC", "IN", "X"):
        labels[:18][["EC", "IN", "X"].index(klass) :: 3] = klass
    split = unit_split(keys, labels, folds, seed=42)
    tested = np.concatenate([fold.test for fold in split.folds])
    assert sorted(tested.tolist()) == np.flatnonzero(labels != "").tolist()
    for klass in ("EC", "IN", "X"):
        sizes = [int((labels[fold.test] == klass).sum()) for fold in split.folds]
        assert max(sizes) - min(sizes) <= 1
    sizes = [len(fold.test) for fold in split.folds]
    assert max(sizes) - min(sizes) <= 1


@given(seed=st.integers(0, 9999))
@settings(max_examples=30, deadline=None)
def test_a_unit_keeps_its_fold_when_the_table_is_shuffled(seed):
    keys = make_keys(["a", "b", "c"], 7)
    labels = make_labels(keys)
    order = np.random.default_rng(seed).permutation(len(keys))
    shuffled = UnitKeys(*(column[order] for column in keys.columns()))
    in_folds = (partial(subject_split, n_folds=2), partial(session_split, n_folds=3))
    for make in (subject_split, session_split, unit_split, *in_folds):
        one, two = make(keys, labels), make(shuffled, labels[order])
        assert (one.fold[order] == two.fold).all()
        for a, b in zip(one.folds, two.folds, strict=True):
            assert (a.train == order[b.train]).all()  # even the order of the training rows is the same


@given(
    sizes=st.lists(st.integers(1, 12), min_size=3, max_size=9),
    folds=st.integers(2, 5),
    seed=st.integers(0, 999),
)
@settings(max_examples=60, deadline=None)
def test_folds_of_subjects_test_every_unit_once_and_share_no_subject(sizes, folds, seed):
    rows = [(f"m{s}", "day", "0", f"u{i}") for s, size in enumerate(sizes) for i in range(size)]
    keys = UnitKeys(*(np.array(column) for column in zip(*rows, strict=True)))
    labels = np.random.default_rng(seed).choice(["EC", "IN", "X"], size=len(keys))
    folds = min(folds, len(sizes))
    split = subject_split(keys, labels, n_folds=folds)
    assert len(split.folds) == folds
    assert split.subjects_disjoint
    tested = np.concatenate([fold.test for fold in split.folds])
    assert sorted(tested.tolist()) == list(range(len(keys)))


def test_folds_of_subjects_share_out_a_class_that_few_subjects_have():
    """Ten subjects, five of them with the rare class: one in eight pairings gives it to all folds."""
    keys = make_keys([f"m{i}" for i in range(10)], n_units=8, n_sessions=1)
    labels = np.where(np.arange(len(keys)) % 2 == 0, "EC", "IN").astype("<U4")
    labels[np.isin(keys.subject, ["m0", "m1", "m2", "m8", "m9"]) & (keys.unit_id == "u7")] = "rare"
    split = subject_split(keys, labels, n_folds=5)
    assert [int((labels[fold.test] == "rare").sum()) for fold in split.folds] == [1] * 5
    assert [len(fold.test) for fold in split.folds] == [16] * 5


def test_as_many_folds_as_subjects_leave_one_out():
    keys = make_keys(["a", "b", "c"])
    labels = make_labels(keys)
    one, two = subject_split(keys, labels), subject_split(keys, labels, n_folds=3)
    assert (one.how, one.fold.tolist()) == (two.how, two.fold.tolist())


@pytest.mark.parametrize("folds", [-1, 0, 1, 4])
def test_folds_that_the_subjects_or_sessions_do_not_fill_are_refused(folds):
    keys = make_keys(["a", "b", "c"], n_sessions=1)
    for make, what in ((subject_split, "subjects"), (session_split, "sessions")):
        with pytest.raises(InputError, match=f"--folds {folds} does not fit: 3 {what}") as caught:
            make(keys, make_labels(keys), n_folds=folds)
        assert "from 2 to 3" in caught.value.fix


def test_a_split_knows_what_it_keeps_apart(tmp_path):
    keys = make_keys(["a", "b", "c"])
    labels = make_labels(keys)
    assert subject_split(keys, labels).grouped_by == "subject"
    assert session_split(keys, labels).grouped_by == "session"
    assert unit_split(keys, labels).grouped_by == "unit"
    path = tmp_path / "mine.csv"
    for columns, rows, expected in (
        ("subject,fold", "a,1\nb,2\nc,2", "subject"),
        ("subject,session,fold", "a,day0,1\na,day1,2\nb,day0,2", "session"),
        ("subject,session,population,unit_id,fold", "a,day0,0,u0,1\na,day0,0,u1,2", "unit"),
    ):
        path.write_text(f"{columns}\n{rows}\n")
        assert file_split(path, keys, np.full(len(keys), "EC")).grouped_by == expected


def test_a_subject_on_both_sides_cannot_be_built():
    keys = make_keys(["a", "b"])
    fold = np.arange(len(keys)) % 2
    with pytest.raises(InputError, match="same subject"):
        Split("subject", "wrong", keys, fold, ("one", "two"))
    with pytest.raises(InputError, match="same session"):
        Split("session", "wrong", keys, fold, ("one", "two"))
    Split("unit", "fine", keys, fold, ("one", "two"))


def test_sessions_of_the_same_name_in_two_subjects_are_two_sessions():
    keys = make_keys(["a", "b"], n_sessions=1)
    labels = np.where(np.arange(len(keys)) % 2 == 0, "EC", "IN")
    assert [fold.name for fold in session_split(keys, labels).folds] == ["a/day0", "b/day0"]


def test_held_out_subjects_are_tested_and_all_others_train():
    keys = make_keys(["a", "b", "c", "d"])
    labels = make_labels(keys)
    split = subject_split(keys, labels, ["d", "b"], reason="held out of pretraining")
    (fold,) = split.folds
    assert set(keys.subject[fold.test]) == {"b", "d"}
    assert set(keys.subject[fold.train]) == {"a", "c"}
    assert split.test_subjects == ("b", "d")
    assert "held out of pretraining" in split.how


@pytest.mark.parametrize(
    ("subjects", "arguments", "message"),
    [
        (["a"], (), "at least 2 labelled subjects"),
        (["a", "b"], (["z"],), "test subject"),
        (["a", "b"], (["a", "b"],), "nothing is left to train"),
    ],
)
def test_poor_subject_splits_are_refused_with_a_way_out(subjects, arguments, message):
    keys = make_keys(subjects)
    with pytest.raises(InputError, match=message) as caught:
        subject_split(keys, make_labels(keys), *arguments)
    assert caught.value.fix


def test_a_class_of_one_unit_cannot_be_split_by_unit():
    keys = make_keys(["a"])
    labels = np.array(["EC"] * (len(keys) - 1) + ["IN"])
    with pytest.raises(InputError, match="'IN' has 1 unit") as caught:
        unit_split(keys, labels)
    assert "--classes" in caught.value.fix


def test_the_default_number_of_folds_is_capped_by_the_smallest_class_and_said():
    keys = make_keys(["a"])
    labels = np.array(["EC"] * (len(keys) - 3) + ["IN"] * 3)
    split = unit_split(keys, labels)
    assert len(split.folds) == 3
    assert "IN" in split.notes[0]
    with pytest.raises(InputError, match="--folds 4"):
        unit_split(keys, labels, 4)


def test_the_same_key_twice_is_refused():
    with pytest.raises(InputError, match="a/day0/0/u0 stands twice"):
        UnitKeys(*(np.array([text, text]) for text in ("a", "day0", "0", "u0")))


PROCESS = """
import numpy as np
from nuclr_cli.evaluation.cross_prediction import cross_predict
from nuclr_cli.evaluation.probes import VARIANTS, encode
from nuclr_cli.evaluation.splits import UnitKeys, session_split, subject_split, unit_split
subject = np.repeat(["m1", "m2", "m3"], 12)
session = np.tile(np.repeat(["day1", "day2"], 6), 3)
keys = UnitKeys(subject, session, np.full(36, "0"), np.tile([f"u{i}" for i in range(12)], 3))
rng = np.random.default_rng(0)
labels, values = rng.choice(["EC", "IN"], 36), rng.normal(size=(36, 4))
classes, codes = encode(labels)
for split in (subject_split(keys, labels), session_split(keys, labels), unit_split(keys, labels)):
    print(split.fold.tolist())
    for variant in VARIANTS.values():
        got = cross_predict(values, codes, len(classes), split, labels != "", variant)
        print(got.probability.tobytes().hex())
"""


def test_folds_and_predictions_do_not_depend_on_the_process():
    outputs = {
        subprocess.run(
            [sys.executable, "-c", PROCESS],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "12345")
    }
    assert len(outputs) == 1
    assert outputs.pop().count("\n") == 9


def test_a_saved_split_reads_back_as_the_same_folds(tmp_path):
    keys = make_keys(["a", "b", "c"])
    labels = make_labels(keys)
    for split in (
        subject_split(keys, labels),
        subject_split(keys, labels, ["b"]),
        subject_split(keys, labels, n_folds=2),
        unit_split(keys, labels),
    ):
        path = tmp_path / "split.json"
        path.write_text(json.dumps(split_document(split)))
        again = file_split(path, keys, labels)
        assert {f.name: (f.train.tolist(), f.test.tolist()) for f in again.folds} == {
            f.name: (f.train.tolist(), f.test.tolist()) for f in split.folds
        }


def test_a_csv_of_units_leaves_out_what_it_does_not_name(tmp_path):
    keys = make_keys(["a", "b"], 3, 1)
    labels = np.array(["EC", "IN", "EC", "IN", "EC", "IN"])
    path = tmp_path / "split.csv"
    path.write_text(
        "subject,session,population,unit_id,fold\n"
        "a,day0,0,u0,one\na,day0,0,u1,one\nb,day0,0,u0,two\nb,day0,0,u1,train\nz,day0,0,u9,one\n"
    )
    split = file_split(path, keys, labels)
    assert split.fold.tolist() == [0, 0, LEFT_OUT, 1, -1, LEFT_OUT]
    assert [(f.train.tolist(), f.test.tolist()) for f in split.folds] == [([3, 4], [0, 1]), ([0, 1, 4], [3])]
    assert any("1 of 5 rows" in note for note in split.notes)
    assert any("2 labelled units" in note for note in split.notes)


def test_a_csv_may_assign_whole_subjects_by_role(tmp_path):
    keys = make_keys(["a", "b"])
    path = tmp_path / "split.tsv"
    path.write_text("\ufeffsubject\trole\na\ttrain\nb\ttest\n", encoding="utf-8")
    split = file_split(path, keys, make_labels(keys))
    assert split.test_subjects == ("b",)
    assert split.subjects_disjoint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("unit,fold\nu0,1\n", "has the columns unit, fold"),
        ("subject,role\na,val\n", "role 'val'"),
        ("subject,role\na,train\n", "tests no unit"),
        ("subject,role\na,train\na,test\n", "names a twice"),
        ("subject,role\nz,test\n", "No row"),
        ("subject,role\na\n", "Line 2"),
        ("subject,fold\na,\n", "empty fold"),
        ("subject,fold\n", "has no rows"),
        ("", "columns"),
    ],
)
def test_malformed_split_files_are_named(tmp_path, text, message):
    path = tmp_path / "split.csv"
    path.write_text(text)
    keys = make_keys(["a", "b"])
    with pytest.raises(InputError, match=message) as caught:
        file_split(path, keys, make_labels(keys))
    assert caught.value.fix


def test_a_missing_split_file_lists_the_choices(tmp_path):
    keys = make_keys(["a", "b"])
    with pytest.raises(InputError, match="Cannot read the split file") as caught:
        file_split(tmp_path / "subjects", keys, make_labels(keys))
    assert "--split takes subject, unit, session" in caught.value.fix
