"""Corrections that do not help are left out; what was named but is not there is named, with what is."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import json
import shlex
import shutil
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow.parquet as pq
import pytest
import skops.io
from typer.testing import CliRunner

from nuclr_cli.api import ReaderError, UnitPredictions, common_source
from nuclr_cli.cli.app import app
from nuclr_cli.data.embeddings import EmbeddingTable, load_embeddings, write_embeddings
from nuclr_cli.data.session import SessionKey
from nuclr_cli.data.store import SourceRecord
from nuclr_cli.errors import InputError
from nuclr_cli.evaluation.calibration import CalibrationReport, calibrate, helps
from nuclr_cli.evaluation.reliability import Reliability
from nuclr_cli.evaluation.split_files import file_split, split_document
from nuclr_cli.evaluation.splits import Split, UnitKeys, subject_split
from nuclr_cli.workflows.predict import predict
from nuclr_cli.workflows.predict_record import PredictConfig
from nuclr_cli.workflows.predict_sources import changed_since, read_from
from nuclr_cli.workflows.probe import probe
from nuclr_cli.workflows.probe_card import CARD, read_card
from nuclr_cli.workflows.probe_label_efficiency import LabelEfficiencyConfig, label_efficiency
from nuclr_cli.workflows.probe_record import ProbeConfig, ProbeRecord
from nuclr_cli.workflows.reliability_plot import plot_reliability
from nuclr_cli.workflows.report import ReportConfig, report
from nuclr_cli.workflows.reporting import SilentReporter
from nuclr_cli.workflows.source_files import fingerprint

QUICK = {"baselines": "none", "bootstrap": 10, "permutations": 0}


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


report_run = load("report_run")


class Listener(SilentReporter):
    """Keeps what the workflow says."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


# --- corrections --------------------------------------------------------------------------------------------


def answers(right: list[float], said: float, n: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A probe that says `said` of all; of part i a share of `right[i]` of the n units is right."""
    truth = np.tile([0, 1], n * len(right) // 2)
    parts = np.repeat(np.arange(len(right)), n)
    hit = np.concatenate([np.arange(n) < round(share * n) for share in right])
    guess = np.where(hit, truth, 1 - truth)
    probabilities = np.full((len(truth), 2), 1 - said)
    probabilities[np.arange(len(truth)), guess] = said
    return probabilities, truth, parts


def test_a_correction_that_hurts_other_units_is_not_made() -> None:
    """Each part errs another way: what mends some of them makes the one that is left out worse."""
    report = calibrate(*answers([1.0, 0.95, 0.6, 0.55], 0.78), "subjects")
    assert (report.calibration.method, report.calibration.temperature) == ("none", 1.0)
    assert report.cross_fitted == ""
    assert report.after == report.before
    trial = report.rejected
    assert trial is not None
    assert (trial.method, trial.cross_fitted) == ("temperature", "4 subjects")
    assert trial.after.ece > report.before.ece
    ece = f"would have raised ECE from {report.before.ece:.3f} to {trial.after.ece:.3f}"
    assert report.calibration.why.startswith(f"Left uncorrected: calibration {ece}")
    probabilities, _, _ = answers([1.0, 0.95, 0.6, 0.55], 0.78)
    assert np.array_equal(report.calibration.apply(probabilities), probabilities)
    # What abstention rests on is counted for these probabilities, too.
    assert report.thresholds.at(0.78)[0] == len(probabilities)
    assert report.thresholds.at(0.79)[0] == 0


def test_a_correction_that_helps_other_units_is_made() -> None:
    report = calibrate(*answers([0.65, 0.7, 0.7, 0.75], 0.97), "subjects")
    assert report.calibration.method == "temperature"
    assert report.rejected is None
    assert report.after.ece < report.before.ece
    assert report.after.brier < report.before.brier


def test_whatever_was_validated_nothing_that_is_kept_raised_the_error() -> None:
    """Few units, honest to begin with: about half of the corrections would do harm."""
    kept = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        honest = rng.uniform(0.5, 1.0, 60)
        truth = (rng.random(60) > honest).astype(np.int64)
        report = calibrate(np.stack([honest, 1 - honest], axis=1), truth, np.arange(60) % 5, "folds")
        kept += report.calibration.method != "none"
        assert report.after.ece <= report.before.ece
        assert report.after.brier <= report.before.brier
        assert (report.rejected is None) == (report.calibration.method != "none")
    assert 0 < kept < 30


@pytest.mark.parametrize(
    ("ece", "class_ece", "brier", "temperature", "isotonic"),
    [
        (0.02, 0.10, 0.30, True, True),
        (0.02, 0.10, 0.41, False, False),  # a lower ECE alone is no gain
        (0.02, 0.10, 0.40, False, False),
        (0.05, 0.19, 0.39, False, False),
        (0.05, 0.10, 0.39, False, True),  # curves mend classes that cancel in the likeliest one
    ],
)
def test_what_counts_as_help(
    ece: float, class_ece: float, brier: float, temperature: bool, isotonic: bool
) -> None:
    before = Reliability(ece=0.03, class_ece=0.2, brier=0.40, accuracy=0.7, confidence=0.7, bins=())
    after = dataclasses.replace(before, ece=ece, class_ece=class_ece, brier=brier)
    assert helps("temperature", before, after) == temperature
    assert helps("isotonic", before, after) == isotonic


@pytest.fixture(scope="module")
def uncorrected(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ProbeRecord]:
    """A probe whose subjects err in opposite ways: no temperature suits the one that is left out."""
    root = tmp_path_factory.mktemp("uncorrected")
    rng = np.random.default_rng(2)
    subjects, n = ["m0", "m1", "m2", "m3"], 40
    truth = np.tile([0, 1], n * len(subjects) // 2)
    noise = np.repeat([0.25, 0.25, 2.0, 2.0], n)
    embedding = rng.normal(size=(len(truth), 3))
    embedding[:, 0] = np.where(truth == 1, 1.0, -1.0) + noise * rng.normal(size=len(truth))
    labels = np.where(np.arange(len(truth)) % 10 == 9, "", np.array(["x", "y"])[truth])
    table = EmbeddingTable(
        subject=np.repeat(subjects, n),
        session=np.full(len(truth), "day1"),
        population=np.full(len(truth), "0"),
        unit_id=np.array([f"u{i % n:02d}" for i in range(len(truth))]),
        modality=np.full(len(truth), "spikes"),
        n_windows=np.full(len(truth), 12),
        n_events=np.full(len(truth), 400),
        embedding=embedding.astype(np.float32),
        labels={"state": labels},
        metadata={"checkpoint_step": "5", "checkpoint_sha256": "ab" * 32},
    )
    write_embeddings(table, root / "t.parquet")
    made = probe(ProbeConfig("state", embeddings=root / "t.parquet", runs=root, split="subject", **QUICK))
    return root, made


def rejected(folder: Path) -> tuple[CalibrationReport, Reliability]:
    """The calibration of a probe that left its probabilities as they are, and what it would have done."""
    found = read_card(folder).calibration
    assert found is not None
    assert found.rejected is not None
    return found, found.rejected.after


def test_predict_uses_the_probes_own_probabilities_and_says_why(
    uncorrected: tuple[Path, ProbeRecord], tmp_path: Path
) -> None:
    root, made = uncorrected
    report, after = rejected(made.folder)
    out = tmp_path / "out.csv"
    listener = Listener()
    record = predict(PredictConfig(made.folder, runs=root, out=out), listener)
    assert record.calibration == "none"
    assert record.expected_calibration_error == report.before.ece
    (said,) = [text for text in listener.notes if "left uncorrected" in text]
    assert f"left uncorrected: calibration would have raised ECE from {report.before.ece:.3f} to" in said
    assert f"to {after.ece:.3f}" in said
    assert not any("are calibrated" in text for text in listener.notes)
    with out.open(encoding="utf-8") as file:
        found = [float(line["probability_x"]) for line in csv.DictReader(file)]
    table = pq.read_table(root / "t.parquet").to_pylist()
    rows = [np.array(row["embedding"], dtype=np.float64) for row in table if not row["state"]]
    raw = skops.io.load(made.folder / "probe.skops").predict_proba(np.stack(rows))
    np.testing.assert_allclose(found, raw[:, 0], atol=1e-6)


def test_the_diagram_says_that_the_correction_is_not_used(
    uncorrected: tuple[Path, ProbeRecord], tmp_path: Path
) -> None:
    report, after = rejected(uncorrected[1].folder)
    plot_reliability(report, "state", tmp_path / "diagram.svg")  # whose text is in comments
    text = " ".join((tmp_path / "diagram.svg").read_text().split())
    assert f"as the probe says, kept: error {report.before.ece:.3f}" in text
    assert f"cross-fitted over 4 folds, not used: error {after.ece:.3f}" in text
    assert "Left uncorrected: calibration would have raised ECE" in text


def test_a_report_says_that_a_correction_is_not_used(
    uncorrected: tuple[Path, ProbeRecord], tmp_path: Path
) -> None:
    made, after = rejected(uncorrected[1].folder)
    run = report_run.make_run(tmp_path / "nuclr-runs", subjects=3)
    folder = probe(ProbeConfig("cell_type", run=run.folder, split="unit", **QUICK)).folder
    card = json.loads((folder / CARD).read_text())
    card["calibration"] = json.loads((uncorrected[1].folder / CARD).read_text())["calibration"]
    (folder / CARD).write_text(json.dumps(card))
    page = report(ReportConfig(run.folder, umap=False)).out.read_text()
    ece = f"{made.before.ece:.3f} to {after.ece:.3f}"
    assert f"Left uncorrected: calibration would have raised ECE from {ece}" in page
    assert f"as the probe says, kept: {made.before.ece:.3f} of the predicted class" in page
    assert f"temperature, not used: {after.ece:.3f}" in page
    assert "calibrated (" not in page


# --- split files --------------------------------------------------------------------------------------------


def keys_of(*subjects: str, n: int = 10) -> UnitKeys:
    n_all = n * len(subjects)
    units = np.array([f"u{i % n}" for i in range(n_all)])
    return UnitKeys(np.repeat(subjects, n), np.full(n_all, "day1"), np.full(n_all, "0"), units)


def split_of(path: Path, text: str, *subjects: str) -> Split:
    path.write_text(text)
    keys = keys_of(*subjects)
    return file_split(path, keys, np.tile(["x", "y"], len(keys) // 2))


def test_a_row_that_fits_nothing_is_named_with_what_was_meant(tmp_path: Path) -> None:
    text = "subject,fold\nmouse1,a\nmouse2,b\nmuose3,b\n"
    split = split_of(tmp_path / "s.csv", text, "mouse1", "mouse2", "mouse3")
    (said,) = [note for note in split.notes if "match no embedded unit" in note]
    assert said == (
        "1 of 3 rows of s.csv match no embedded unit: line 4: no subject 'muose3' (did you mean 'mouse3'?)."
    )


def test_what_does_not_fit_is_named_down_to_the_unit(tmp_path: Path) -> None:
    text = (
        "subject,session,population,unit_id,fold\nm1,day1,0,u0,a\nm2,day1,0,u0,b\n"
        "m1,dya1,0,u1,a\nm1,dya1,0,u2,a\nm1,day1,0,u77,b\nm2,day1,7,u1,b\n"
    )
    split = split_of(tmp_path / "s.csv", text, "m1", "m2")
    (said,) = [note for note in split.notes if "match no embedded unit" in note]
    assert "4 of 6 rows" in said
    assert "line 4 and 1 more: no session 'dya1' of m1 (did you mean 'day1'?)" in said
    assert "line 6: no unit_id 'u77' of m1/day1/0 (did you mean 'u7'?)" in said
    assert "line 7: no population '7' of m2/day1" in said


def test_zeros_that_a_spreadsheet_took_away_and_capitals_are_recognised(tmp_path: Path) -> None:
    text = "subject,fold\n1,a\n010,b\n011,a\nABC,a\n"
    split = split_of(tmp_path / "s.csv", text, "001", "010", "011", "abc")
    (said,) = [note for note in split.notes if "match no embedded unit" in note]
    assert "no subject '1' (did you mean '001'?)" in said
    assert "no subject 'ABC' (did you mean 'abc'?)" in said


def test_a_name_that_has_its_own_row_is_not_suggested(tmp_path: Path) -> None:
    split = split_of(tmp_path / "s.csv", "subject,fold\nm1,a\nm2,b\nm12,b\n", "m1", "m2")
    (said,) = [note for note in split.notes if "match no embedded unit" in note]
    assert said.endswith("line 4: no subject 'm12'.")


def test_many_unknown_names_are_counted(tmp_path: Path) -> None:
    rows = "".join(f"stranger {i},b\n" for i in range(9))
    split = split_of(tmp_path / "s.csv", f"subject,fold\nm1,a\nm2,b\n{rows}", "m1", "m2")
    (said,) = [note for note in split.notes if "match no embedded unit" in note]
    assert "9 of 11 rows" in said
    assert said.endswith("and 4 more names.")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("subject,fold\nmouse1,a\nmuose2,b\n", "No labelled unit is tested by fold 'b'"),
        ("subject,role\nmouse1,test\nmuose2,train\n", "has no training unit"),
        ("subject,fold\nmuose2,b\n", "No row of the split file"),
    ],
    ids=["test", "train", "all"],
)
def test_a_typo_that_empties_a_side_is_named(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(InputError, match=what) as caught:
        split_of(tmp_path / "s.csv", text, "mouse1", "mouse2")
    assert "no subject 'muose2' (did you mean 'mouse2'?)" in caught.value.what


def test_a_split_of_an_earlier_probe_names_the_unit_that_is_gone(tmp_path: Path) -> None:
    labels = np.tile(["x", "y"], 15)
    document = split_document(subject_split(keys_of("m1", "m2", "m3"), labels))
    (tmp_path / "split.json").write_text(json.dumps(document))
    keys = keys_of("m1", "m2", "m3")
    fewer = UnitKeys(*(column[:-1] for column in keys.columns()))
    split = file_split(tmp_path / "split.json", fewer, labels[:-1])
    (said,) = [note for note in split.notes if "match no embedded unit" in note]
    assert "entry 30 of units: no unit_id 'u9' of m3/day1/0." in said


def test_a_misspelt_column_is_recognised(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has the columns subjct, flod") as caught:
        split_of(tmp_path / "s.csv", "subjct,flod\nm1,a\nm2,b\n", "m1", "m2")
    assert "'subjct' (did you mean 'subject'?), 'flod' (did you mean 'fold'?)" in caught.value.fix
    with pytest.raises(InputError, match=r"names m1 twice \(line 2 and line 3\)") as caught:
        split_of(tmp_path / "s.csv", "subject,Session,fold\nm1,day1,a\nm1,day2,b\n", "m1", "m2")
    assert "'Session' (did you mean 'session'?)" in caught.value.fix


def test_a_misspelt_column_that_does_no_harm_is_noted(tmp_path: Path) -> None:
    text = "subject,sesion,fold,remark,why\nm1,day1,a,,\nm2,day1,b,,\n"
    split = split_of(tmp_path / "s.csv", text, "m1", "m2")
    assert split.notes == ("Columns of s.csv that are not read: 'sesion' (did you mean 'session'?).",)


@pytest.mark.parametrize(
    ("word", "meant"),
    [("animal", None), ("subjects", "subject"), ("sesion", "session"), ("my-splt.csv", "my-split.csv")],
)
def test_a_word_that_is_no_split_is_refused(
    uncorrected: tuple[Path, ProbeRecord],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    word: str,
    meant: str | None,
) -> None:
    (tmp_path / "my-split.csv").write_text("subject,fold\n")
    monkeypatch.chdir(tmp_path)
    file = str(uncorrected[0] / "t.parquet")
    done = CliRunner().invoke(
        app, ["probe", "--label", "state", "--embeddings", file, "--split", word, "--json"]
    )
    assert done.exit_code == 3
    error = json.loads(done.stdout)["error"]
    assert "neither subject, session, unit nor a file" in error["what"]
    assert word in error["what"]
    if meant is None:
        assert error["fix"].startswith("--split takes subject, unit, session")
    else:
        assert error["fix"].startswith(f"Did you mean --split {meant}? --split takes subject")


# --- exports ------------------------------------------------------------------------------------------------


def read_once(folder: Path) -> tuple[tuple[UnitPredictions, ...], dict[SessionKey, SourceRecord]]:
    """A recording of one file, and predictions of its two units."""
    folder.mkdir()
    (folder / "spikes.npy").write_bytes(b"spikes")
    files = fingerprint(folder, [folder / "spikes.npy"])
    key = SessionKey("m1", "day1", "0")
    record = SourceRecord(path=str(folder), reader="phy", detected="made", files=files)
    one = UnitPredictions(
        subject="m1",
        session="day1",
        population="0",
        label_name="cell_type",
        classes=("a", "b"),
        unit_ids=np.array(["0", "1"]),
        labels=np.array(["a", "b"]),
        probabilities=np.full((2, 2), 0.5),
        abstain=np.zeros(2, dtype=bool),
        source=folder,
        modality="spikes",
    )
    return (one,), {key: record}


def test_a_source_whose_file_is_gone_is_not_said_to_have_changed(tmp_path: Path) -> None:
    predictions, records = read_once(tmp_path / "sorted")
    assert read_from(predictions, records, tmp_path / "sorted", None) == predictions
    (tmp_path / "sorted" / "spikes.npy").unlink()
    with pytest.raises(
        InputError, match=r"sorted/spikes\.npy, which m1/day1 was read from, is gone"
    ) as caught:
        read_from(predictions, records, tmp_path / "sorted", None)
    assert "has changed" not in caught.value.what
    assert caught.value.fix.index("--data FOLDER") < caught.value.fix.index(f"--source {tmp_path / 'sorted'}")


def test_a_source_that_is_gone_is_not_offered_as_the_target(tmp_path: Path) -> None:
    predictions, records = read_once(tmp_path / "sorted")
    shutil.rmtree(tmp_path / "sorted")
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match=r"sorted, which is gone, and .*other holds other files") as caught:
        read_from(predictions, records, tmp_path / "other", None)
    assert "--to" not in caught.value.fix
    assert caught.value.fix.startswith("--data FOLDER")
    (said,) = changed_since(predictions, records)
    assert "sorted, which m1/day1 was read from, is gone" in said
    assert "has changed" not in said
    with pytest.raises(ReaderError, match="sorted, which the units were read from; it is gone") as lost:
        common_source(predictions, "A copy")
    assert "--source PATH" in lost.value.fix


def test_without_session_files_their_folder_is_asked_for_first(tmp_path: Path) -> None:
    predictions, _ = read_once(tmp_path / "sorted")
    unknown = dataclasses.replace(predictions[0], source=None)
    with pytest.raises(ReaderError, match="nothing says where it is") as caught:
        common_source([unknown], "A copy")
    assert caught.value.fix.startswith("--data FOLDER")
    assert "--source PATH" in caught.value.fix
    two = (unknown, dataclasses.replace(unknown, session="day2"))
    for given in (two, two[:1]):
        with pytest.raises(InputError, match=r"Nothing says what .* read from") as refused:
            read_from(given, {}, tmp_path / "sorted", None)
        assert refused.value.fix.startswith("--data FOLDER")


# --- folders that hold no probe -----------------------------------------------------------------------------


def test_a_folder_above_probes_lists_them(uncorrected: tuple[Path, ProbeRecord], tmp_path: Path) -> None:
    run = tmp_path / "run"
    for name in ("state/subject-default", "state/unit-default", "depth/unit-ridge"):
        shutil.copytree(uncorrected[1].folder, run / "probes" / name)
    shutil.copytree(uncorrected[1].folder, run / "probes" / "state" / ".half-written")
    for folder, n in ((run / "probes" / "state", 2), (run / "probes", 3), (run, 3)):
        with pytest.raises(InputError, match=rf"not a fitted probe itself, but there are {n}") as caught:
            read_card(folder)
        assert f"--probe {run}/probes/state/subject-default" in caught.value.fix
        assert f"--probe {run}/probes/state/unit-default" in caught.value.fix
        assert "half-written" not in caught.value.fix
        assert caught.value.fix.count("--probe") == n
    with pytest.raises(InputError, match="does not exist") as caught:
        read_card(run / "probes" / "state" / "subjct-default")
    assert caught.value.fix.count("--probe") == 2


def test_a_curve_of_scores_is_no_probe(uncorrected: tuple[Path, ProbeRecord], tmp_path: Path) -> None:
    shutil.copy(uncorrected[0] / "t.parquet", tmp_path / "t.parquet")
    asked = ProbeConfig("state", embeddings=tmp_path / "t.parquet", runs=tmp_path, split="subject", **QUICK)
    made = label_efficiency(LabelEfficiencyConfig(asked, fractions=(0.5,), repeats=1))
    config = PredictConfig(made.folder, runs=tmp_path, out=tmp_path / "out.csv")
    with pytest.raises(InputError, match="holds a curve of scores by number of labels") as caught:
        predict(config)
    assert caught.value.fix == "Fit one with all labels: nuclr probe --label state"
    other = made.folder.with_name("unit-default")
    shutil.copytree(uncorrected[1].folder, other)
    with pytest.raises(InputError, match="curve of scores") as caught:
        predict(config)
    assert caught.value.fix == f"Did you mean --probe {other}?"
    own = made.folder.with_name(made.folder.name.partition("-label-efficiency")[0])
    shutil.copytree(uncorrected[1].folder, own)
    with pytest.raises(InputError, match="curve of scores") as caught:
        predict(config)
    assert caught.value.fix == f"Did you mean --probe {own}?"
    assert (own / CARD).is_file()


# --- a sweep that is not there ------------------------------------------------------------------------------


def test_a_sweep_that_is_not_there_has_to_be_made_first(tmp_path: Path) -> None:
    run = report_run.make_run(tmp_path / "nuclr-runs", subjects=2, units=8)
    absent = tmp_path / "sweeps" / "my sweep"
    with pytest.raises(InputError, match="does not exist") as caught:
        report(ReportConfig(run.folder, scale=absent, umap=False))
    fix = caught.value.fix
    assert fix.startswith("Run nuclr scale first: nuclr scale ")
    command, _, then = fix.removeprefix("Run nuclr scale first: ").partition("; then: ")
    words = shlex.split(command)
    assert words[:2] == ["nuclr", "scale"]
    assert words[words.index("--label") + 1] in run_labels(run.embeddings)
    assert words[words.index("-o") + 1] == str(absent)
    assert shlex.split(then) == ["nuclr", "report", str(run.folder), "--scale", str(absent)]
    # The command is one that nuclr understands: it gets as far as the data.
    done = CliRunner().invoke(app, [*words[1:], "--dry-run", "--json"])
    assert done.exit_code == 3
    assert str(run.data) in json.loads(done.stdout)["error"]["what"]


def test_sweeps_that_are_there_are_named_and_an_unfinished_one_is_continued(
    tmp_path: Path,
) -> None:
    run = report_run.make_run(tmp_path / "nuclr-runs", subjects=2, units=8)
    sweeps = tmp_path / "sweeps"
    (sweeps / "done").mkdir(parents=True)
    (sweeps / "done" / "scale.json").write_text("{}")
    (sweeps / "half").mkdir()
    (sweeps / "half" / "sweep.json").write_text("{}")
    for wrong in (sweeps, sweeps / "dnoe"):
        with pytest.raises(InputError) as caught:
            report(ReportConfig(run.folder, scale=wrong, umap=False))
        assert caught.value.fix.startswith(f"Finished sweeps: {sweeps / 'done'}. Or run nuclr scale first")
    with pytest.raises(InputError, match="not finished") as caught:
        report(ReportConfig(run.folder, scale=sweeps / "half", umap=False))
    assert "same nuclr scale command" in caught.value.fix


def run_labels(embeddings: Path) -> set[str]:
    return set(load_embeddings(embeddings).labels)
