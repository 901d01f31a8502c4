"""How many labels a representation needs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from nuclr_cli.cli.app import app
from nuclr_cli.errors import InputError
from nuclr_cli.evaluation.baselines import Representation
from nuclr_cli.evaluation.bootstrap import resampling_plan
from nuclr_cli.evaluation.label_efficiency import crossing, efficiency_curves, labelled_subset
from nuclr_cli.evaluation.probes import encode, variant_named
from nuclr_cli.evaluation.splits import UnitKeys, subject_split
from nuclr_cli.workflows.probe_label_efficiency import LabelEfficiencyConfig
from nuclr_cli.workflows.probe_record import ProbeConfig


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000), n=st.integers(4, 200), small=st.floats(0.01, 1.0), large=st.floats(0.01, 1.0)
)
def test_fewer_labels_are_part_of_more_labels(seed: int, n: int, small: float, large: float) -> None:
    small, large = sorted((small, large))
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 3, n + 50)
    train = np.sort(rng.choice(n + 50, n, replace=False))
    few, many = (labelled_subset(train, codes, share, seed) for share in (small, large))
    assert set(few.tolist()) <= set(many.tolist()) <= set(train.tolist())
    assert set(codes[few].tolist()) == set(codes[train].tolist())
    for klass in np.unique(codes[train]):
        of_class = int((codes[train] == klass).sum())
        assert int((codes[few] == klass).sum()) == max(1, round(small * of_class))
    assert labelled_subset(train, codes, 1.0, seed).tolist() == train.tolist()


def test_the_crossing_is_interpolated_on_a_log_axis() -> None:
    fractions = np.array([0.01, 0.1, 1.0])
    assert crossing(fractions, np.array([0.0, 0.8, 1.0])) == pytest.approx(10**-0.5)
    assert crossing(fractions, np.array([0.95, 0.97, 1.0])) == 0.01
    assert crossing(fractions, np.array([0.1, 0.9, 1.0])) == pytest.approx(0.1)
    assert crossing(fractions, np.array([0.1, 0.2, 1.0])) == pytest.approx(10 ** (-1 + 0.7 / 0.8))


def planted(n_subjects: int = 6, per_subject: int = 60) -> tuple[UnitKeys, np.ndarray, np.ndarray]:
    """Units whose class is plain in two columns, and hidden among noise in forty."""
    rng = np.random.default_rng(0)
    n = n_subjects * per_subject
    names = np.array([str(i) for i in range(n)])
    subject = np.repeat([f"s{i}" for i in range(n_subjects)], per_subject)
    keys = UnitKeys(subject, np.full(n, "a"), np.full(n, "0"), names)
    labels = np.array(["a", "b"])[rng.integers(0, 2, n)]
    return keys, labels, rng.normal(size=(n, 40)) + 0.7 * (labels == "b")[:, None]


def curves_of(keys: UnitKeys, labels: np.ndarray, methods: list[Representation], **changes: Any) -> Any:
    classes, codes = encode(labels)
    split = subject_split(keys, labels)
    usable = np.ones(len(codes), dtype=bool)
    tested = keys.order
    options = {"fractions": (0.02, 0.1, 1.0), "repeats": 4, "n_resamples": 200, "seed": 3} | changes
    return efficiency_curves(
        methods, codes, len(classes), split, usable, variant_named("default"),
        resampling_plan(keys.subject[tested], codes[tested]), **options,
    )  # fmt: skip


def test_more_labels_score_better_and_a_plain_signal_needs_fewer_of_them() -> None:
    keys, labels, values = planted()
    plain = np.stack([4.0 * (labels == "b"), np.zeros(len(labels))], axis=1)
    hidden, easy = curves_of(
        keys, labels, [Representation("n", "n", values), Representation("p", "p", plain)]
    )
    assert hidden.points[0].macro_f1.value < hidden.points[-1].macro_f1.value
    assert easy.points[0].macro_f1.value == 1.0
    assert easy.needed.at_most
    assert easy.needed.fraction == 0.02
    assert not hidden.needed.at_most
    assert hidden.needed.low <= hidden.needed.fraction <= hidden.needed.high
    for point in hidden.points:
        assert point.macro_f1.low <= point.macro_f1.value <= point.macro_f1.high
    assert [len(point.draws) for point in hidden.points] == [4, 4, 1]


def test_the_order_of_the_table_and_other_fractions_change_nothing() -> None:
    keys, labels, values = planted(4, 30)
    order = np.random.default_rng(1).permutation(len(labels))
    shuffled = UnitKeys(*(column[order] for column in keys.columns()))
    (one,) = curves_of(keys, labels, [Representation("n", "n", values)])
    (other,) = curves_of(shuffled, labels[order], [Representation("n", "n", values[order])])
    (fewer,) = curves_of(keys, labels, [Representation("n", "n", values)], fractions=(0.1, 1.0))
    assert [point.draws for point in other.points] == [point.draws for point in one.points]
    assert [point.draws for point in fewer.points] == [point.draws for point in one.points[1:]]


def test_test_rows_never_reach_a_fit() -> None:
    keys, labels, values = planted(4, 30)
    (clean,) = curves_of(keys, labels, [Representation("n", "n", values)])
    swapped = labels.copy()  # labels of the tested subject alone must not change what is predicted for it
    only = keys.subject == "s0"
    swapped[only] = np.where(labels[only] == "a", "b", "a")
    classes, codes = encode(swapped)
    assert classes == ("a", "b")
    split = subject_split(keys, labels, ["s0"])
    usable = np.ones(len(codes), dtype=bool)
    tested = keys.order[split.tested[keys.order]]
    results = []
    for these in (encode(labels)[1], codes):
        (curve,) = efficiency_curves(
            [Representation("n", "n", values)], these, 2, split, usable, variant_named("default"),
            resampling_plan(keys.subject[tested], these[tested]), fractions=(0.1, 1.0), repeats=3,
            n_resamples=50, seed=0,
        )  # fmt: skip
        results.append(curve)
    true, flipped = results
    assert true.points[-1].macro_f1.value > 0.8
    assert flipped.points[-1].macro_f1.value < 0.2
    assert clean.points[-1].macro_f1.value > 0.8


@pytest.fixture(scope="module")
def run_folder(nuclr: Callable[..., Any], tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("efficiency")
    few = ("--set", "train.steps=2", "--set", "train.batch_windows=2")
    for command in (("pretrain", tiny_data, "--preset", "tiny", "--gpus", 0, *few), ("embed",)):
        done = nuclr(*command, cwd=place)
        assert done.code == 0, done.err
    return place


def test_the_command_writes_curve_table_picture_and_record(
    nuclr: Callable[..., Any], run_folder: Path
) -> None:
    command = [
        "probe",
        "--label",
        "cell_type",
        "--label-fractions",
        "0.2,0.5",
        "--repeats",
        2,
        "--baselines",
        "fast",
    ]
    done = nuclr(*command, "--bootstrap", 50, "--json", cwd=run_folder)
    assert done.code == 0, done.err
    record = done.json
    assert record["kind"] == "label_efficiency"
    assert [point["fraction"] for point in record["curves"][0]["points"]] == [0.2, 0.5, 1.0]
    assert [curve["name"] for curve in record["curves"]] == ["nuclr", "features", "window_average"]
    folder = run_folder / record["folder"]
    assert sorted(path.name for path in folder.iterdir()) == [
        "curve.csv",
        "curve.png",
        "report.json",
        "split.json",
    ]
    assert json.loads((folder / "report.json").read_text()) == record
    assert len((folder / "curve.csv").read_text().splitlines()) == 1 + 9
    # With all labels it is the probe of all labels.
    whole = nuclr("probe", "--label", "cell_type", "--baselines", "fast", "--json", cwd=run_folder).json
    last = record["curves"][0]["points"][-1]["macro_f1"]["value"]
    assert last == pytest.approx(whole["methods"][0]["macro_f1"]["value"])
    assert Path(whole["folder"]).name == "subject-default-baselines-fast"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fractions": (0.0, 0.5)}, "must lie above 0"),
        ({"fractions": (2.0,)}, "at most at 1"),
        ({"fractions": ()}, "there is: none"),
        ({"repeats": 0}, "--repeats 0 is below 1"),
        ({"probe": ProbeConfig("cell_type", parent="brain_region")}, "does not go with --parent"),
    ],
)
def test_what_makes_no_curve_is_refused_before_anything_is_read(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        LabelEfficiencyConfig(**{"probe": ProbeConfig("cell_type"), **changes})


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--label-fractions", "some"], 2, "not a list of numbers"),
        (["--repeats", "3"], 2, "goes with --label-fractions only"),
        (["--label-fractions", "0.5", "--label", "brain_region"], 2, "one --label at a time"),
        (["--label-fractions", "7"], 3, "at most at 1"),
    ],
)
def test_the_command_says_what_does_not_go_together(options: list[str], code: int, said: str) -> None:
    done = CliRunner().invoke(app, ["probe", "--label", "cell_type", *options], env={"COLUMNS": "200"})
    assert done.exit_code == code
    assert said in " ".join(done.output.replace("│", " ").split())
