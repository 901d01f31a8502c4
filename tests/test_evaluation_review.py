"""What evaluation says of itself holds: p values, intervals, thresholds, commands, files read again."""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from nuclr_cli.cli.app import app
from nuclr_cli.data.embeddings import EmbeddingTable, load_embeddings, write_embeddings
from nuclr_cli.data.sessions import open_sessions
from nuclr_cli.data.store import SourceRecord, write_population
from nuclr_cli.errors import InputError
from nuclr_cli.evaluation.calibration import calibrate
from nuclr_cli.evaluation.metrics import per_class
from nuclr_cli.evaluation.reliability import threshold_curve
from nuclr_cli.evaluation.scaling_law import fit_scaling
from nuclr_cli.evaluation.split_files import file_split, split_document
from nuclr_cli.evaluation.splits import LEFT_OUT, TRAIN_ONLY, Split, UnitKeys, subject_split
from nuclr_cli.testing.simulate import tiny_population
from nuclr_cli.workflows.predict import predict
from nuclr_cli.workflows.predict_record import PredictConfig
from nuclr_cli.workflows.predict_threshold import choose_threshold
from nuclr_cli.workflows.presets import for_modalities, preset_settings
from nuclr_cli.workflows.probe import probe
from nuclr_cli.workflows.probe_card import CARD, read_card
from nuclr_cli.workflows.probe_label_efficiency import LabelEfficiencyConfig, label_efficiency
from nuclr_cli.workflows.probe_pairs import probe_pairs
from nuclr_cli.workflows.probe_pairs_record import PairsConfig
from nuclr_cli.workflows.probe_record import ProbeConfig, ProbeRecord
from nuclr_cli.workflows.probe_regression import probe_regression
from nuclr_cli.workflows.probe_regression_record import RegressionConfig
from nuclr_cli.workflows.report_classes import class_intervals
from nuclr_cli.workflows.report_gather import Found
from nuclr_cli.workflows.report_provenance import ask_again
from nuclr_cli.workflows.report_results import Classification, read_result
from nuclr_cli.workflows.report_units import PredictionColumns, read_predictions
from nuclr_cli.workflows.runs import Run, RunSession, create_run
from nuclr_cli.workflows.scale_config import ScaleConfig
from nuclr_cli.workflows.scale_design import design

SETTINGS = for_modalities(preset_settings("tiny"), frozenset({"spikes"}))
QUICK = {"baselines": "none", "bootstrap": 20}


def make_table(
    subjects: list[str], labels: dict[str, np.ndarray], embedding: np.ndarray, **metadata: str
) -> EmbeddingTable:
    """Units of whole sessions, as many of each subject; `labels` and `embedding` have a row a unit."""
    n = len(embedding) // len(subjects)
    return EmbeddingTable(
        subject=np.repeat(subjects, n),
        session=np.full(len(embedding), "day1"),
        population=np.full(len(embedding), "0"),
        unit_id=np.array([f"u{i % n:02d}" for i in range(len(embedding))]),
        modality=np.full(len(embedding), "spikes"),
        n_windows=np.full(len(embedding), 12),
        n_events=np.full(len(embedding), 400),
        embedding=embedding.astype(np.float32),
        labels=labels,
        metadata={"checkpoint_step": "5", "checkpoint_sha256": "ab" * 32, **metadata},
    )


# --- permutation tests --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("split", "folds", "classes_are_alike"),
    [("subject", 3, True), ("session", 3, True), ("unit", None, False), ("subject", None, True)],
)
def test_whichever_labels_are_true_the_labellings_score_alike(
    tmp_path: Path, split: str, folds: int | None, classes_are_alike: bool
) -> None:
    """Of all labellings of 6 subjects, the scores are one set, of which the true one only takes its own out.

    They are not when the folds stay those of the true labels, which then have the best ones to themselves.
    """
    rng = np.random.default_rng(3)
    subjects = [f"m{i}" for i in range(6)]
    embedding = rng.normal(size=(60, 4)) + np.repeat(rng.normal(size=(6, 4)), 10, axis=0)
    overall, smallest = [], []
    for truth in ("aaabbb", "abbaba", "babbaa"):
        labels = {"state": np.repeat(list(truth), 10)}
        path = tmp_path / f"{truth}.parquet"
        write_embeddings(make_table(subjects, labels, embedding), path)
        made = probe(
            ProbeConfig(
                "state", embeddings=path, runs=tmp_path, split=split, folds=folds, balance="none", **QUICK
            )
        )
        test = made.permutation
        assert test is not None
        assert (test.n, test.exact) == (19, True)
        overall.append((made.methods[0].macro_f1.value + 19 * test.null_mean) / 20)
        smallest.append(test.smallest_p)
    assert overall == pytest.approx([overall[0]] * 3, abs=1e-9)
    # Where folds follow the order of the names, trading names is another labelling, with a score of its own.
    assert min(smallest) == pytest.approx(0.1 if classes_are_alike else 0.05)


def test_a_permutation_test_on_the_folds_of_a_file_says_what_it_cannot_know(tmp_path: Path) -> None:
    """Nobody knows how the folds of a file were made; they stay as they are, whatever the labels."""
    subjects = [f"m{i}" for i in range(6)]
    table = make_table(
        subjects, {"state": np.repeat(list("aaabbb"), 8)}, np.random.default_rng(0).normal(size=(48, 3))
    )
    write_embeddings(table, tmp_path / "t.parquet")
    (tmp_path / "folds.csv").write_text(
        "subject,fold\n" + "".join(f"m{i},{'xyz'[i % 3]}\n" for i in range(6))
    )
    said = "The permutation test keeps the folds of the file"
    for split, permutations, expected in (
        (str(tmp_path / "folds.csv"), None, True),
        (str(tmp_path / "folds.csv"), 0, False),
        ("subject", None, False),
    ):
        config = ProbeConfig(
            "state",
            embeddings=tmp_path / "t.parquet",
            runs=tmp_path,
            split=split,
            permutations=permutations,
            **QUICK,
        )
        assert any(said in note for note in probe(config).notes) == expected


# --- commands of a report -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of five subjects with labels of four classes, a depth, and a table of pairs beside it."""
    root = tmp_path_factory.mktemp("again") / "nuclr-runs"
    subjects = [f"m{i}" for i in range(5)]
    rows = [RunSession(name, "day1", "0", 30, "train") for name in subjects]
    made = create_run(root, "run", SETTINGS, root.parent / "nuclr-data", rows).with_state("finished", 5)
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 4, 150)
    embedding = rng.normal(size=(150, 6))
    embedding[np.arange(150), codes] += 2.0
    labels = {
        "cell_type": np.array(["exc", "PV", "SST", "VIP"])[codes],
        "depth": np.array([f"{100 * row[4] + 800:.2f}" for row in embedding]),
    }
    write_embeddings(make_table(subjects, labels, embedding, run=made.id), made.embeddings)
    pairs = [
        f"{name},u{i:02d},u{i + 1:02d},{int(rng.random() < 0.4)}" for name in subjects for i in range(0, 29)
    ]
    (root.parent / "wired.csv").write_text("\n".join(["subject,pre,post,label", *pairs]) + "\n")
    return made


def found(folder: Path) -> Found:
    return Found(folder, folder.name, read_result(folder / "report.json"), None, True)


def document(folder: Path) -> dict[str, Any]:
    stored: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return stored


ASKED: dict[str, Callable[[Run], Any]] = {
    "folds of subjects": lambda run: probe(
        ProbeConfig("cell_type", run=run.folder, split="subject", folds=2, permutations=0, **QUICK)
    ),
    "folds of units": lambda run: probe(
        ProbeConfig("cell_type", run=run.folder, split="unit", folds=3, seed=7, permutations=0, **QUICK)
    ),
    "test subjects of a number": lambda run: probe_regression(
        RegressionConfig("depth", run=run.folder, test_subjects=("m1", "m3"), permutations=0, **QUICK)
    ),
    "test subjects of pairs": lambda run: probe_pairs(
        PairsConfig(
            run.folder.parent.parent / "wired.csv",
            features="symmetric",
            run=run.folder,
            test_subjects=("m0", "m2"),
            **QUICK,
        )
    ),
    "label efficiency": lambda run: label_efficiency(
        LabelEfficiencyConfig(
            ProbeConfig(
                "cell_type", run=run.folder, classes=("PV", "SST", "exc"), folds=2, permutations=0, **QUICK
            ),
            fractions=(0.5, 1.0),
            repeats=2,
        )
    ),
}


@pytest.mark.parametrize("asked", ASKED)
def test_what_a_report_says_to_type_makes_the_same_result(run: Run, asked: str) -> None:
    first = ASKED[asked](run)
    before, split = document(first.folder), json.loads((first.folder / "split.json").read_text())
    words = shlex.split(ask_again(run.folder, found(first.folder)))
    assert words[0] == "nuclr"
    assert shlex.join(words).count("--baselines none") == 1
    done = CliRunner().invoke(app, [*words[1:], "--json"])
    assert done.exit_code == 0, done.output
    again = Path(json.loads(done.stdout)["folder"])
    assert json.loads((again / "split.json").read_text())["units"] == split["units"]
    after = document(again)
    for key in ("classes", "main", "results", "methods", "folds", "curves", "n_tested", "per_class"):
        assert after.get(key) == before.get(key), key


def test_without_its_split_a_result_is_asked_for_by_the_options_that_are_known(run: Run) -> None:
    folder = probe(
        ProbeConfig("cell_type", run=run.folder, test_subjects=("m1",), permutations=0, **QUICK)
    ).folder
    (folder / "split.json").unlink()
    assert "--test-subjects m1 --split subject" in ask_again(run.folder, found(folder))


def test_balance_and_c_of_label_efficiency_are_typed_where_they_are_recorded(run: Run) -> None:
    folder = ASKED["label efficiency"](run).folder
    plain = {key: value for key, value in document(folder).items() if key not in ("c", "balance")}
    for more, typed in (
        ({}, ""),
        ({"c": 1.0, "balance": "weights"}, ""),
        ({"c": "nested", "balance": "none"}, "--balance none --C nested "),
        ({"c": 0.01, "balance": "oversample"}, "--balance oversample --C 0.01 "),
    ):
        (folder / "report.json").write_text(json.dumps({**plain, **more}))
        assert f"--variant default {typed}--classes PV,SST,exc" in ask_again(run.folder, found(folder))


# --- intervals class by class -------------------------------------------------------------------------------


def test_a_resample_without_a_class_says_nothing_about_it(run: Run) -> None:
    """Class c is only in m3 and always right: every resample that has it says 1."""
    folder = probe(
        ProbeConfig("cell_type", run=run.folder, classes=("PV", "SST", "exc"), permutations=0, **QUICK)
    ).folder
    stored = read_result(folder / "report.json")
    assert isinstance(stored, Classification)
    labels = np.array(["PV", "SST"] * 12 + ["exc"] * 6 + ["PV"] * 6)
    predicted = labels.copy()
    predicted[:24:6] = "SST"  # some of PV are wrong
    subject = np.repeat(["m0", "m1", "m2", "m3"], [8, 8, 8, 12])
    codes = {name: i for i, name in enumerate(stored.classes)}
    matrix = np.zeros((3, 3), dtype=int)
    for true, guess in zip(labels.tolist(), predicted.tolist(), strict=True):
        matrix[codes[true], codes[guess]] += 1
    result = dataclasses.replace(
        stored,
        confusion=tuple(map(tuple, matrix.tolist())),
        per_class=per_class(matrix, stored.classes),
        bootstrap=400,
    )
    columns = dataclasses.replace(
        read_predictions(folder / "predictions.parquet", _table_of(run)),
        **{"subject": subject, "label": labels, "prediction": predicted},
    )
    intervals = dict(zip(stored.classes, class_intervals(result, columns), strict=True))
    alone = intervals["exc"]
    for score in (alone.precision, alone.recall, alone.f1):
        assert (score.low, score.value, score.high) == (1.0, 1.0, 1.0)
    assert intervals["PV"].recall.low < intervals["PV"].recall.value < intervals["PV"].recall.high


def test_a_score_that_no_resample_has_stands_alone(run: Run) -> None:
    """SST is never tested and never predicted: nothing is divided by nothing, and nothing is drawn."""
    folder = probe(
        ProbeConfig("cell_type", run=run.folder, classes=("PV", "SST", "exc"), permutations=0, **QUICK)
    ).folder
    stored = read_result(folder / "report.json")
    assert isinstance(stored, Classification)
    labels = np.array(["PV", "exc"] * 10)
    matrix = np.diag([10, 0, 10])
    assert stored.classes == ("PV", "SST", "exc")
    result = dataclasses.replace(
        stored, confusion=tuple(map(tuple, matrix.tolist())), per_class=per_class(matrix, stored.classes)
    )
    columns: PredictionColumns = dataclasses.replace(
        read_predictions(folder / "predictions.parquet", _table_of(run)),
        **{"subject": np.repeat(["m0", "m1"], 10), "label": labels, "prediction": labels},
    )
    never = class_intervals(result, columns)[1]
    for score in (never.precision, never.recall, never.f1):
        assert (score.low, score.value, score.high) == (0.0, 0.0, 0.0)


def _table_of(run: Run) -> EmbeddingTable:
    return load_embeddings(run.embeddings)


# --- splits in files ----------------------------------------------------------------------------------------


def keys_of(*subjects: str, n: int = 10) -> UnitKeys:
    n_all = n * len(subjects)
    units = np.array([f"u{i % n}" for i in range(n_all)])
    return UnitKeys(np.repeat(subjects, n), np.full(n_all, "day1"), np.full(n_all, "0"), units)


@pytest.mark.parametrize(
    "last",
    ['m2,"a\n' + "m3,b\n" * 30_000, 'm2,"a\nm3,b\nm4,b\n'],
    ids=["longer than a field may be", "short"],
)
def test_a_quote_that_is_not_closed_is_named(tmp_path: Path, last: str) -> None:
    path = tmp_path / "folds.csv"
    path.write_text(f"subject,fold\nm1,a\n{last}")
    keys = keys_of("m1", "m2", "m3")
    with pytest.raises(InputError, match=r"folds\.csv") as caught:
        file_split(path, keys, np.tile(["x", "y"], 15))
    assert caught.value.fix


def test_a_quoted_value_is_read_as_before(tmp_path: Path) -> None:
    path = tmp_path / "folds.csv"
    path.write_text('subject,fold\n"m1","a, or b"\n"m2",c\n')
    assert file_split(path, keys_of("m1", "m2"), np.tile(["x", "y"], 10)).fold_names == ("a, or b", "c")


def test_a_subject_called_train_is_tested_again(tmp_path: Path) -> None:
    keys = keys_of("m0", "m1", "test", "train")
    labels = np.tile(["x", "y"], 20)
    made = subject_split(keys, labels)
    path = tmp_path / "split.json"
    path.write_text(json.dumps(split_document(made)))
    again = file_split(path, keys, labels)
    assert again.fold_names == made.fold_names == ("m0", "m1", "test", "train")
    assert again.fold.tolist() == made.fold.tolist()
    assert int(again.tested.sum()) == 40


def test_never_tested_and_a_fold_called_train_are_told_apart(tmp_path: Path) -> None:
    keys = keys_of("m0", "m1", "train")
    labels = np.tile(["x", "y"], 15)
    fold = np.repeat([0, TRAIN_ONLY, 1], 10)
    fold[29] = LEFT_OUT
    path = tmp_path / "split.json"
    for names in (("m0", "train"), ("m0", "other")):
        made = Split("file", "", keys, fold, names)
        path.write_text(json.dumps(split_document(made)))
        again = file_split(path, keys, labels)
        order = [again.fold_names.index(name) for name in names]
        assert [again.fold[0], again.fold[10], again.fold[20], again.fold[29]] == [
            order[0],
            TRAIN_ONLY,
            order[1],
            LEFT_OUT,
        ]


def test_splits_of_earlier_versions_are_still_read(tmp_path: Path) -> None:
    keys = keys_of("m0", "m1", "train", n=2)
    labels = np.tile(["x", "y"], 3)
    columns = ["subject", "session", "population", "unit_id", "fold"]
    path = tmp_path / "split.json"

    def read(folds: list[str], fold_of: dict[str, str]) -> list[int]:
        units = [[s, "day1", "0", f"u{i}", fold_of[s]] for s in ("m0", "m1", "train") for i in range(2)]
        listed = [{"name": name, "n_train": 4, "n_test": 2} for name in folds]
        path.write_text(json.dumps({"kind": "subject", "folds": listed, "columns": columns, "units": units}))
        return file_split(path, keys, labels).fold.tolist()

    held_out = {"m0": "held-out subjects", "m1": "train", "train": "train"}
    assert read(["held-out subjects"], held_out) == [0, 0, -1, -1, -1, -1]
    own = {name: name for name in ("m0", "m1", "train")}
    assert read(["m0", "m1", "train"], own) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("column", ["subject", "session"])
def test_a_csv_in_which_train_may_be_a_fold_like_others_is_refused(tmp_path: Path, column: str) -> None:
    names = ("m0", "m1", "train")
    keys = keys_of(*names) if column == "subject" else UnitKeys(
        np.full(30, "a"), np.repeat(names, 10), np.full(30, "0"), np.array([f"u{i}" for i in range(30)])
    )  # fmt: skip
    labels = np.tile(["x", "y"], 15)
    path = tmp_path / "folds.csv"
    head = "subject,fold\n" if column == "subject" else "subject,session,fold\n"
    lead = "" if column == "subject" else "a,"
    path.write_text(head + "".join(f"{lead}{name},{name}\n" for name in names))
    with pytest.raises(
        InputError, match=r"each .* is a fold of its name, and one is called 'train'"
    ) as caught:
        file_split(path, keys, labels)
    assert f"'{column} train'" in caught.value.fix
    path.write_text(head + "".join(f"{lead}{name},{column} {name}\n" for name in names))
    assert int(file_split(path, keys, labels).tested.sum()) == 30
    # Folds that are not called after their subjects leave no doubt.
    path.write_text(head + f"{lead}m0,one\n{lead}m1,two\n{lead}train,train\n")
    assert int(file_split(path, keys, labels).tested.sum()) == 20


# --- scaling ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, 1e-170, 1e-310])
def test_scores_that_are_all_equal_show_no_trend_however_small(value: float) -> None:
    judged = fit_scaling(
        [1, 2, 3, 4, 5, 6] * 3, [value] * 18, score="macro F1", size="subjects", falls=False, bounds=(0, 1)
    )
    assert judged.status == "no trend"
    assert "All values are equal." in judged.says
    assert all(math.isfinite(form.aicc) for form in judged.forms)


def test_a_sweep_that_no_probe_could_answer_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    for i, name in enumerate("aaab"):
        made = tiny_population(i, n_units=24, minutes=1.0, subject=f"m{i}")
        units = {**made.units, "cell_type": np.full(24, name)}
        write_population(
            dataclasses.replace(made, units=units),
            tmp_path / f"m{i}.h5",
            source=SourceRecord(path=f"m{i}", reader="test", detected="made"),
        )
    config = ScaleConfig(
        label="cell_type", data=tmp_path, classes=("a", "b"), test_subjects=("m3",), axis="subjects"
    )
    with pytest.raises(InputError, match="no fold can train on two classes") as caught:
        design(config, open_sessions(tmp_path), SETTINGS.tokens)
    assert "--test-subjects" in caught.value.fix
    assert "--split" not in caught.value.fix  # which nuclr scale does not have


def test_a_design_says_which_classes_a_fold_does_not_know(tmp_path: Path) -> None:
    for i, names in enumerate(("ab", "ab", "ab", "ac")):
        made = tiny_population(i, n_units=24, minutes=1.0, subject=f"m{i}")
        units = {**made.units, "cell_type": np.repeat(list(names), 12)}
        write_population(
            dataclasses.replace(made, units=units),
            tmp_path / f"m{i}.h5",
            source=SourceRecord(path=f"m{i}", reader="test", detected="made"),
        )
    config = ScaleConfig(
        label="cell_type", data=tmp_path, classes=("a", "b", "c"), test_subjects=("m3",), axis="subjects"
    )
    chosen = design(config, open_sessions(tmp_path), SETTINGS.tokens)
    assert any("Fold 'held-out subjects' never trains on c: its " in text for text in chosen.choices)


# --- thresholds and cards -----------------------------------------------------------------------------------


def test_the_share_and_accuracy_are_those_of_the_threshold_that_was_given() -> None:
    """Twenty units between 0.80 and 0.81 are half right, the others always: 0.806 keeps less than 0.80."""
    confidence = np.repeat([0.803, 0.808, 0.95, 0.997], [10, 10, 20, 10])
    right = np.ones(50, dtype=bool)
    right[:10] = False
    curve = threshold_curve(confidence, right)
    report = calibrate(
        np.stack([confidence, 1 - confidence], axis=1), (~right).astype(np.int64), np.arange(50) % 5, "parts"
    )
    assert report is not None
    report = dataclasses.replace(report, thresholds=curve)
    for value in (0.0, 0.5, 0.8, 0.81, 0.813, 0.95, 0.99):
        threshold, said = choose_threshold(report, value, None)
        kept = confidence >= value
        assert threshold.validation_kept == kept.mean(), value
        assert threshold.validation_accuracy == right[kept].mean(), value
        assert said == ()
    for value, below, share, accuracy in ((0.806, 0.8, "100%", "80%"), (0.995, 0.99, "20%", "100%")):
        threshold, said = choose_threshold(report, value, None)
        assert threshold.value == value
        assert (threshold.validation_kept, threshold.validation_accuracy) == (None, None)
        assert "hundredths" in threshold.why
        (text,) = said
        assert f"What reaches probability {value:g} is not known" in text
        assert f"{share} reach {below:g}, and {accuracy} of these are right" in text


def test_above_what_any_unit_reaches_nothing_is_kept() -> None:
    curve = threshold_curve(np.full(20, 0.6), np.ones(20, dtype=bool))
    assert curve.exactly_at(0.605) == (0, 0) or curve.exactly_at(0.605) is None
    assert curve.exactly_at(0.625) == curve.exactly_at(1.0) == (0, 0)
    assert curve.exactly_at(0.595) is None or curve.exactly_at(0.595) == (20, 20)
    assert curve.exactly_at(0.585) == (20, 20)


def probe_of(embedding: np.ndarray, tmp_path: Path) -> ProbeRecord:
    """A probe of 120 units of four subjects, a fifth of them without the label."""
    labels = np.tile(["x", "y", "x", "y", ""], 24)
    table = make_table([f"m{i}" for i in range(4)], {"state": labels}, embedding)
    write_embeddings(table, tmp_path / "t.parquet")
    config = ProbeConfig("state", embeddings=tmp_path / "t.parquet", runs=tmp_path, permutations=0, **QUICK)
    return probe(config)


def test_a_probe_of_embeddings_that_are_all_equal_can_be_asked(tmp_path: Path) -> None:
    probed = probe_of(np.full((120, 4), 0.5), tmp_path)
    cloud = read_card(probed.folder).applicability
    assert cloud is not None
    assert cloud.cloud is not None
    assert cloud.cloud.axes == ()
    record = predict(PredictConfig(probed.folder, runs=tmp_path, out=tmp_path / "out.csv"))
    assert record.n_units == 24


@pytest.mark.parametrize(
    "change",
    [
        {"n": 0},
        {"n": -5},
        {"n": 3},
        {"right": [97] * 100},
        {"kept": [-1] * 100, "right": [-1] * 100},
    ],
    ids=str,
)
def test_thresholds_that_count_nothing_are_a_damaged_card(tmp_path: Path, change: dict[str, Any]) -> None:
    probed = probe_of(np.random.default_rng(0).normal(size=(120, 4)), tmp_path)
    card = json.loads((probed.folder / CARD).read_text())
    assert card["calibration"]["thresholds"]["n"] == 96
    card["calibration"]["thresholds"].update(change)
    (probed.folder / CARD).write_text(json.dumps(card))
    with pytest.raises(InputError, match="is damaged: thresholds do not count") as caught:
        predict(PredictConfig(probed.folder, runs=tmp_path, out=tmp_path / "out.csv"))
    assert caught.value.exit_code == 3
    assert not (tmp_path / "out.csv").exists()


# --- the checkpoint that embeds -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "says"),
    [("cell_type", "The class 'b' has 1 unit"), ("brain_region", "no fold can train on two classes")],
)
def test_labels_that_cannot_choose_a_checkpoint_are_refused_in_terms_of_embed(
    nuclr: Callable[..., Any], pretrained: Path, label: str, says: str
) -> None:
    done = nuclr(
        "embed", "--run", "run", "--select", "val-f1", "--select-label", label, "--json", cwd=pretrained
    )
    assert done.code == 3
    error = done.json["error"]
    assert says in error["what"]
    assert f"--select-label {label}: " in error["what"]
    assert "--select retrieval" in error["fix"]
    for option in ("--classes", "--test-subjects", "--split", "--hold-out-subjects"):
        assert option not in error["fix"]


@pytest.fixture(scope="module")
def pretrained(nuclr: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of one step on two subjects, whose labels are too poor to choose by."""
    place = tmp_path_factory.mktemp("poor")
    (place / "nuclr-data").mkdir()
    for i in range(2):
        made = tiny_population(i, n_units=24, minutes=1.0, subject=f"m{i}")
        rare = np.array(["b" if i else "a"] + ["a"] * 23)
        units = {**made.units, "cell_type": rare, "brain_region": np.full(24, "a")}
        write_population(
            dataclasses.replace(made, units=units),
            place / "nuclr-data" / f"m{i}.h5",
            source=SourceRecord(path=f"m{i}", reader="test", detected="made"),
        )
    few = ("--set", "train.steps=1", "--set", "train.batch_windows=2")
    done = nuclr("pretrain", "--preset", "tiny", "--name", "run", "--gpus", 0, *few, cwd=place)
    assert done.code == 0, done.err
    return place
