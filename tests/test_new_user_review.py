"""What nuclr says to somebody new is true and helps: scores, verdicts, typos, percentages, pictures."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import shutil
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from nuclr_cli.cli.app import app
from nuclr_cli.data.embeddings import load_embeddings, write_embeddings
from nuclr_cli.errors import InputError
from nuclr_cli.evaluation.bootstrap import Interval
from nuclr_cli.evaluation.calibration import calibrate
from nuclr_cli.evaluation.diagnostics import Diagnostics, Retrieval
from nuclr_cli.evaluation.records import Score
from nuclr_cli.evaluation.reliability import threshold_curve
from nuclr_cli.evaluation.split_files import file_split
from nuclr_cli.evaluation.splits import Split, UnitKeys
from nuclr_cli.evaluation.verdicts import Rival, plain_verdict
from nuclr_cli.workflows.predict import predict
from nuclr_cli.workflows.predict_record import PredictConfig
from nuclr_cli.workflows.predict_threshold import choose_threshold
from nuclr_cli.workflows.probe import probe
from nuclr_cli.workflows.probe_card import read_card
from nuclr_cli.workflows.probe_pairs import probe_pairs
from nuclr_cli.workflows.probe_pairs_record import PairsConfig
from nuclr_cli.workflows.probe_record import ProbeConfig
from nuclr_cli.workflows.probe_regression import probe_regression
from nuclr_cli.workflows.probe_regression_record import RegressionConfig
from nuclr_cli.workflows.reliability_plot import plot_reliability
from nuclr_cli.workflows.report_training import diagnostics_part


def load(name: str) -> ModuleType:
    """A module of this folder, under a name that pytest does not give it."""
    spec = importlib.util.spec_from_file_location(f"new_user_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


report_run = load("report_run")
workflow = load("test_predict_workflow")
place = workflow.place  # the fixture
CLASSES, Listener, make_table, read_csv = (
    workflow.CLASSES,
    workflow.Listener,
    workflow.make_table,
    workflow.read_csv,
)
Place = Any
QUICK: dict[str, Any] = {"baselines": "none", "bootstrap": 50, "permutations": 0}

# --- predictions --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Numbers:
    """A table, numbers of its units in files, and probes of one that can be read and of one that cannot."""

    root: Path
    file: Path
    hopeless: Path
    good: Path


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Numbers:
    root = tmp_path_factory.mktemp("numbers")
    table, _ = make_table(4, tuple("abcd"), n=30)
    table.embedding[5] = np.nan
    table.n_windows[5] = table.n_events[5] = 0
    write_embeddings(table, root / "t.parquet")
    folders = {}
    noise = np.random.default_rng(8).normal(size=len(table.subject))
    for name, values in (("noise_um", noise), ("depth_um", np.nan_to_num(table.embedding[:, 5]))):
        lines = [f"subject,session,population,unit_id,{name}"]
        for i, value in enumerate(values.tolist()):
            lines.append(f"{table.subject[i]},day1,0,{table.unit_id[i]},{value}")
        (root / f"{name}.csv").write_text("\n".join(lines) + "\n")
        asked = RegressionConfig(
            name,
            target_file=root / f"{name}.csv",
            embeddings=root / "t.parquet",
            runs=root,
            split="unit",
            **QUICK,
        )
        folders[name] = probe_regression(asked).folder
    return Numbers(root, root / "t.parquet", folders["noise_um"], folders["depth_um"])


def test_a_hopeless_number_is_said_to_be_one(numbers: Numbers, tmp_path: Path) -> None:
    listener = Listener()
    config = PredictConfig(numbers.hopeless, runs=numbers.root, out=tmp_path / "out.csv")
    record = predict(config, listener)
    stored = json.loads((numbers.hopeless / "report.json").read_text())["methods"][0]["r2"]
    assert record.score is not None
    assert dataclasses.asdict(record.score) == {"metric": "R2", "split": "unit", **stored}
    assert stored["low"] <= 0
    (said,) = [text for text in listener.warnings if "R2" in text]
    assert "no better than one number for all" in said
    assert f"{stored['value']:.3f}" in said
    assert (record.n_units, record.n_fitted_on) == (120, 119)  # one has no embedding
    assert any("fitted on 119 of 120 units" in text for text in listener.warnings)
    assert not any(note.startswith("It ") for note in listener.notes)
    assert any(note.startswith("The embeddings have no column noise_um") for note in listener.notes)
    shown = CliRunner().invoke(
        app, ["predict", "--probe", str(numbers.hopeless), "-o", str(tmp_path / "b.csv")]
    )
    assert shown.exit_code == 0
    assert f"The probe's R2 is {stored['value']:.3f} (95% interval" in shown.stdout


def test_a_number_that_can_be_read_is_not_warned_about(numbers: Numbers, tmp_path: Path) -> None:
    table, _ = make_table(40, ("new",), n=30)
    write_embeddings(table, tmp_path / "new.parquet")
    listener = Listener()
    config = PredictConfig(
        numbers.good, embeddings=tmp_path / "new.parquet", runs=numbers.root, out=tmp_path / "out.csv"
    )
    record = predict(config, listener)
    assert record.score is not None
    assert record.score.low > 0.5
    assert (record.n_units, record.n_fitted_on) == (30, 0)
    assert listener.warnings == []
    assert any("fitted on none of these" in note for note in listener.notes)
    # Without its list of units the folder cannot tell, and says nothing that it does not know.
    copy = numbers.good.with_name("unit-copy")
    shutil.copytree(numbers.good, copy)
    (copy / "predictions.parquet").write_bytes(b"damaged")
    unknown = predict(dataclasses.replace(config, probe=copy, out=tmp_path / "again.csv"))
    shutil.rmtree(copy)
    assert unknown.n_fitted_on is None
    assert not any("proves nothing" in text for text in (*unknown.notes, *unknown.warnings))


def test_which_units_were_fitted_on_is_exact(place: Place, tmp_path: Path) -> None:
    usable = int((place.table.seen & ~place.unlabelled).sum())
    everyone = place.predict(out=tmp_path / "all.csv", all_units=True)
    assert (everyone.n_fitted_on, everyone.n_units) == (usable, len(place.truth))
    assert any(f"fitted on {usable} of {len(place.truth)} units" in note for note in everyone.notes)
    assert place.predict(out=tmp_path / "rest.csv").n_fitted_on == 0
    bare = dataclasses.replace(place.table, labels={})
    write_embeddings(bare, tmp_path / "bare.parquet")
    listener = Listener()
    record = place.predict(listener, embeddings=tmp_path / "bare.parquet", out=tmp_path / "bare.csv")
    assert (record.n_fitted_on, len(read_csv(tmp_path / "bare.csv"))) == (usable, len(place.truth))
    assert any("proves nothing" in text for text in listener.warnings)


def test_a_label_whose_probe_lost_is_said_to_have(place: Place, tmp_path: Path) -> None:
    assert place.predict(out=tmp_path / "good.csv").warnings == ()
    copy = place.probe.with_name("lost")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(place.probe, copy)
    report = json.loads((copy / "report.json").read_text())
    own = report["methods"][0]["macro_f1"]["value"]
    better = {"value": own + 0.05, "low": own, "high": own + 0.1}
    features = {
        "name": "features",
        "title": "rate + ISI",
        "macro_f1": better,
        "balanced_accuracy": better,
        "accuracy": better,
        "nuclr_minus": {"value": -0.05, "low": -0.08, "high": -0.02},
    }
    report["methods"].insert(1, features)
    (copy / "report.json").write_text(json.dumps(report))
    (said,) = place.predict(probe=copy, out=tmp_path / "lost.csv").warnings
    assert "lost to rate + ISI" in said
    assert f"macro F1 {own:.3f} and {own + 0.05:.3f}" in said
    assert "luck" not in said
    # A record of other embeddings says nothing of this probe, nor does none.
    (copy / "report.json").write_text(json.dumps({**report, "embeddings_sha256": "0" * 64}))
    assert place.predict(probe=copy, out=tmp_path / "other.csv").warnings == ()
    (copy / "report.json").unlink()
    assert place.predict(probe=copy, out=tmp_path / "none.csv").warnings == ()
    shutil.rmtree(copy)


def test_a_label_that_cannot_be_told_from_guesses_is_said_to_be(tmp_path: Path) -> None:
    table, codes = make_table(5, tuple("abcd"), n=30, gap=0.0)
    labels = np.where(np.arange(len(codes)) % 4 == 0, "", np.array(CLASSES)[codes])
    write_embeddings(dataclasses.replace(table, labels={"cell_type": labels}), tmp_path / "t.parquet")
    made = probe(ProbeConfig("cell_type", embeddings=tmp_path / "t.parquet", runs=tmp_path, **QUICK))
    record = predict(PredictConfig(made.folder, runs=tmp_path, out=tmp_path / "out.csv"))
    assert any("guessing: " in text for text in record.warnings)
    assert made.verdict.startswith("NuCLR cannot be told from ")
    assert "compared with guesses only" in made.verdict
    assert record.score is not None
    assert record.score.metric == "macro F1"


# --- verdicts -----------------------------------------------------------------------------------------------


def rival(title: str, value: float, gap: tuple[float, float, float], looks: bool) -> Rival:
    return Rival(title, Score(value, value - 0.02, value + 0.02), Score(*gap), looks)


def test_a_verdict_does_not_contradict_itself() -> None:
    own = Score(0.241, 0.2, 0.28)
    told = plain_verdict("macro F1", own, [rival("chance", 0.233, (0.008, -0.03, 0.05), False)])
    assert told.startswith("NuCLR cannot be told from chance: macro F1 0.241 and 0.233. It was compared with")
    assert "is above" not in told
    below = plain_verdict("macro F1", own, [rival("chance", 0.26, (-0.019, -0.05, 0.01), False)])
    assert below.startswith("NuCLR cannot be told from chance: ")
    above = plain_verdict("macro F1", own, [rival("chance", 0.2, (0.041, 0.01, 0.07), False)])
    assert above.startswith(
        "NuCLR is above chance, macro F1 0.241 and 0.200. It was compared with guesses only"
    )
    assert "guessing" not in above


def test_a_verdict_among_rivals_says_when_nuclr_is_not_above_chance() -> None:
    own, features = Score(0.241, 0.2, 0.28), rival("features", 0.52, (-0.279, -0.3, -0.2), True)
    for gap, said in (
        ((-0.02, -0.05, -0.01), "NuCLR is no better than guessing: chance has 0.250."),
        (
            (0.01, -0.02, 0.04),
            "NuCLR cannot be told from guessing: chance has 0.250, and the interval of the",
        ),
    ):
        text = plain_verdict("macro F1", own, [features, rival("chance", 0.25, gap, False)], ["PCA"])
        assert text.startswith("NuCLR does not win: features has the highest macro F1, 0.520")
        assert said in text
        assert text.endswith("Not compared with: PCA.")
    clear = plain_verdict("macro F1", own, [features, rival("chance", 0.1, (0.141, 0.1, 0.2), False)])
    assert "guessing" not in clear


# --- split files --------------------------------------------------------------------------------------------


def split_of(path: Path, text: str, *subjects: str, sessions: int = 1) -> Split:
    path.write_text(text)
    n = 4 * sessions * len(subjects)
    keys = UnitKeys(
        np.repeat(subjects, 4 * sessions),
        np.array([f"day{i // 4 % sessions}" for i in range(n)]),
        np.full(n, "0"),
        np.array([f"u{i % 4}" for i in range(n)]),
    )
    return file_split(path, keys, np.tile(["x", "y"], n // 2))


def test_a_subject_lost_to_a_typo_is_a_warning_with_the_right_name(tmp_path: Path) -> None:
    subjects = [f"sim{i:02d}" for i in range(10)]
    for columns, tail, sessions in (("subject", "", 1), ("subject,session", ",day0", 2)):
        rows = [
            f"{'sim0O' if name == 'sim00' else name}{tail},{'ab'[i % 2]}" for i, name in enumerate(subjects)
        ]
        text = f"{columns},fold\n" + "\n".join(rows) + "\n"
        split = split_of(tmp_path / "s.csv", text, *subjects, sessions=sessions)
        unknown, unlisted = split.warnings
        assert "no subject 'sim0O' (did you mean 'sim00'?)" in unknown
        assert "take no part, among them all of sim00." in unlisted
        assert split.remarks == ()
        assert set(split.warnings) == set(split.notes)


def test_names_that_the_file_lacks_are_suggested_first(tmp_path: Path) -> None:
    text = "subject,session,fold\nmouseA,day0,a\nmouseBB,day0,b\nmouseC,day0,b\n"
    split = split_of(tmp_path / "s.csv", text, "mouseA", "mouseB", "mouseC", sessions=2)
    assert "no subject 'mouseBB' (did you mean 'mouseB'?)" in split.warnings[0]
    text = "subject,session,fold\nm1,day0,a\nm2,day0,b\nm12,day1,b\n"
    split = split_of(tmp_path / "s.csv", text, "m1", "m2", "m9", sessions=2)
    assert "'m12' (did you mean 'm2'?)" in split.warnings[0]  # its day1, where nothing absent is alike


def test_what_was_left_out_on_purpose_is_no_warning(tmp_path: Path) -> None:
    split = split_of(tmp_path / "s.csv", "subject,fold\nm1,a\nm2,b\n", "m1", "m2", "m3")
    assert split.warnings == ()
    assert split.remarks == ("4 labelled units are not in s.csv and take no part, among them all of m3.",)


def test_every_kind_of_probe_warns_of_a_lost_subject(tmp_path: Path) -> None:
    run = report_run.make_run(tmp_path / "nuclr-runs", subjects=5, units=32)
    names = sorted(set(load_embeddings(run.embeddings).subject.tolist()))[1:]  # the first needs quotes
    rows = [*(f"{name},{'ab'[i % 2]}" for i, name in enumerate(names[:3])), f"{names[3]}X,b"]
    file = tmp_path / "folds.csv"
    file.write_text("subject,fold\n" + "\n".join(rows) + "\n")
    shared = {"run": run.folder, "split": str(file), "baselines": "none", "bootstrap": 20}
    pairs = report_run._connections(run)
    for ask in (
        lambda heard: probe(ProbeConfig("brain_region", permutations=0, **shared), heard),
        lambda heard: probe_regression(RegressionConfig("depth_um", permutations=0, **shared), heard),
        lambda heard: probe_pairs(PairsConfig(pairs, features="directed", **shared), heard),
    ):
        heard = Listener()
        record = ask(heard)
        for texts in (heard.warnings, record.warnings):
            assert (
                sum(f"no subject '{names[3]}X' (did you mean '{names[3]}'?)" in text for text in texts) == 1
            )
        assert not any("match no embedded unit" in text for text in (*heard.notes, *record.notes))


# --- thresholds ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("confident", "said"),
    [
        (10, "no threshold from 0.5 on keeps a quarter of the validation units; at 0.5 it kept 10%"),
        (0, "no threshold from 0.5 on keeps a quarter of the validation units; at 0.5 it kept none"),
        (60, "of the thresholds that keep a quarter of the validation units 0.31 is the most accurate"),
    ],
)
def test_why_a_threshold_was_chosen_is_true(confident: int, said: str) -> None:
    confidence = np.full(100, 0.3)
    confidence[:confident] = 0.6
    confidence[confident:60] = 0.4
    right = np.zeros(100, dtype=bool)
    right[:60] = np.arange(60) % 2 == 0
    report = calibrate(np.tile([0.6, 0.4], (100, 1)), np.arange(100) % 2, np.arange(100) % 5, "folds")
    report = dataclasses.replace(report, thresholds=threshold_curve(confidence, right))
    threshold, warnings = choose_threshold(report, None, None)
    assert threshold.value == 0.5
    assert said in threshold.why
    reached = (
        f"{confident}% of the validation units reach it" if confident else "no validation unit reaches it"
    )
    assert reached in warnings[0]


# --- words --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("populations", "said"), [(6, "among the on average 30 neurons"), (1, "among the 180 neurons")]
)
def test_a_neuron_is_looked_for_among_those_of_its_population(populations: int, said: str) -> None:
    again = Retrieval(0.4, Interval(0.3, 0.5), 0.2, populations / 180, 180, populations)
    assert said in str(diagnostics_part(Diagnostics(6.0, 0.1, -2.0, again), True, None))


def test_percent_are_told_from_fractions(place: Place) -> None:
    asked = ["probe", "--label", "cell_type", "--embeddings", str(place.file), "--json", "--label-fractions"]
    done = CliRunner().invoke(app, [*asked, "10,100"])
    assert done.exit_code == 3
    fix = json.loads(done.stdout)["error"]["fix"]
    assert fix.startswith(
        "Did you mean --label-fractions 0.1,1? They are fractions, not percent: 0.1 is 10 %"
    )
    done = CliRunner().invoke(app, [*asked, "10%"], env={"COLUMNS": "400"})
    assert done.exit_code == 2
    assert "Did you mean --label-fractions 0.1? They are fractions, not percent: 0.1 is 10 %" in done.output
    done = CliRunner().invoke(app, [*asked, "-3"])
    assert done.exit_code == 3
    assert "Did you mean" not in json.loads(done.stdout)["error"]["fix"]


def test_a_misspelt_probe_is_recognised(tmp_path: Path) -> None:
    probes = tmp_path / "run" / "probes"
    for label in ("cell_type", "depth_um"):
        for name in ("file-a-default", "session-default", "subject-default", "unit-default"):
            (probes / label / name).mkdir(parents=True)
            (probes / label / name / "card.json").write_text("{}")
    meant = probes / "cell_type" / "subject-default"
    for typed, n in (("cell_type/subject-defualt", 4), ("cel_type/subject-default", 8)):
        with pytest.raises(InputError, match="does not exist") as caught:
            read_card(probes / typed)
        assert caught.value.fix.startswith(f"Did you mean --probe {meant}? Others: --probe ")
        assert caught.value.fix.count("--probe") == n
        assert caught.value.fix.count(str(meant)) == 1
    with pytest.raises(InputError, match="does not exist") as caught:
        read_card(probes / "cell_type" / "zzz")
    assert caught.value.fix.startswith("Give one of: --probe ")


# --- the reliability diagram --------------------------------------------------------------------------------


def test_a_bin_of_one_unit_does_not_look_like_one_of_many(tmp_path: Path) -> None:
    probabilities = np.array([[0.95, 0.05]] * 300 + [[0.55, 0.45]])
    truth = np.where(np.arange(301) % 20 == 0, 1, 0)
    report = calibrate(probabilities, truth, np.arange(301) % 5, "folds")
    plot_reliability(report, "one and many", tmp_path / "r.svg")
    svg = "{http://www.w3.org/2000/svg}"
    parts = {part.get("id"): part for part in ET.parse(tmp_path / "r.svg").iter(f"{svg}g")}
    marks = parts["PathCollection_1"]
    drawn = list(marks.iter(f"{svg}path"))
    heights = [
        np.ptp([float(y) for _, y in re.findall(r"([\d.]+) ([\d.]+)", one.attrib["d"])]) for one in drawn
    ]
    fills = [re.findall(r"fill: (#\w+)", one.attrib["style"])[0] for one in drawn]
    assert len(drawn) == 2
    assert heights[0] < 0.5 * heights[1]
    assert fills[0] == "#ffffff" != fills[1]
    # The legend is of the figure, outside of the plot that it would cover.
    inside = {part.get("id") for name in ("axes_1", "axes_2") for part in parts[name].iter(f"{svg}g")}
    assert "legend_1" in parts
    assert "legend_1" not in inside
