"""What can be asked of `nuclr probe` about labels (several, hierarchies, balance, C, folds), and what not."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import skops.io
from typer.testing import CliRunner

from nuclr_cli.cli.app import app
from nuclr_cli.data.embeddings import EmbeddingTable, load_embeddings, write_embeddings
from nuclr_cli.data.store import SourceRecord, write_population
from nuclr_cli.errors import InputError
from nuclr_cli.evaluation.split_files import file_split
from nuclr_cli.evaluation.splits import UnitKeys
from nuclr_cli.testing.tiny import tiny_population
from nuclr_cli.workflows.probe import probe, probe_labels
from nuclr_cli.workflows.probe_record import ProbeConfig
from nuclr_cli.workflows.reporting import Progress, SilentReporter

SUBJECTS = ("m0", "m1", "m2", "m3")
N_UNITS = 30


class Listener(SilentReporter):
    """Keeps what the workflow says and which tasks it opens."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.tasks: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.said.append(text)

    def progress(self, title: str, total: float | None, unit: str) -> AbstractContextManager[Progress]:
        self.tasks.append(title)
        return super().progress(title, total, unit)


def make_table(**metadata: str) -> EmbeddingTable:
    """Four subjects, two sessions each; subclasses in classes, one of them rare; embeddings know them."""
    rng = np.random.default_rng(0)
    n = len(SUBJECTS) * N_UNITS
    code = rng.choice(5, n, p=[0.3, 0.2, 0.2, 0.2, 0.1])
    values = rng.normal(size=(n, 8)) + 2.0 * np.eye(5, 8)[code]
    subject = np.repeat(SUBJECTS, N_UNITS)
    genotype = np.where(np.isin(subject, ["m0", "m1"]), "wt", "ko")
    lonely = np.where(subject == "m3", "only here", np.array(["a", "b"])[code % 2])
    return EmbeddingTable(
        subject=subject,
        session=np.tile(np.repeat(["day1", "day2"], N_UNITS // 2), len(SUBJECTS)),
        population=np.full(n, "0"),
        unit_id=np.tile([f"u{i}" for i in range(N_UNITS)], len(SUBJECTS)),
        modality=np.full(n, "spikes"),
        n_windows=np.full(n, 3),
        n_events=np.full(n, 90),
        embedding=values.astype(np.float32),
        labels={
            "class": np.array(["E", "E", "I", "I", "I"])[code],
            "subclass": np.array(["L2", "L5", "PV", "SST", "VIP"])[code],
            "genotype": genotype,
            "lonely": lonely,
            "torn": np.where(
                np.arange(n) == np.argmin(code), "PV", np.array(["L2", "L5", "PV", "SST", "VIP"])[code]
            ),
            "nothing": np.full(n, ""),
            "partly": np.array(["E", "E", "I", "I", ""])[code],
            "one": np.full(n, "same"),
        },
        metadata={"run": "r@1", **metadata},
    )


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("questions") / "units.parquet"
    write_embeddings(make_table(), path)
    return path


def ask(file: Path, label: str = "subclass", listener: Listener | None = None, **options: object):
    asked = {
        "embeddings": file,
        "runs": file.parent / "none",
        "baselines": "none",
        "bootstrap": 50,
        **options,
    }
    return probe(ProbeConfig(label, **asked), listener)  # type: ignore[arg-type]


def typed(file: Path, *arguments: object):
    """The command line, in this process."""
    common = ("--embeddings", file, "--runs", file.parent / "none", "--baselines", "none", "--bootstrap", 20)
    return CliRunner().invoke(app, ["probe", *map(str, (*arguments, *common))])


def test_other_readouts_stand_beside_the_result_and_are_no_baselines(file):
    record = ask(file)
    assert [one.name for one in record.readouts] == ["neighbours", "centroid"]
    assert [one.name for one in record.methods] == ["nuclr", "majority", "chance"]
    assert record.readouts[0].title == "NuCLR, 9 nearest neighbours"  # the square root of 90
    assert "square root" in record.readouts[0].note
    for one in record.readouts:
        assert one.macro_f1.value > 0.5
        assert one.nuclr_minus.value == pytest.approx(record.methods[0].macro_f1.value - one.macro_f1.value)
    rows = pq.read_table(record.folder / "predictions.parquet").to_pylist()
    for name in ("neighbours", "centroid"):
        right = np.mean([row[f"prediction_{name}"] == row["label"] for row in rows])
        scored = next(one for one in record.readouts if one.name == name)
        assert right == pytest.approx(scored.accuracy.value)


def test_balance_and_c_change_the_probe_and_are_written_down(file):
    default = ask(file)
    assert (default.balance, default.c, default.c_saved) == ("weights", 1.0, 1.0)
    assert [fold.c for fold in default.folds] == [1.0] * 4
    flat = ask(file, balance="none", c=0.001)
    assert flat.folder.name == "subject-default-balance-none-C-0.001-baselines-none"
    assert skops.io.load(flat.folder / "probe.skops", trusted=[])[-1].get_params()["class_weight"] is None
    rare = [next(one for one in record.per_class if one.name == "VIP") for record in (default, flat)]
    assert rare[0].recall > rare[1].recall  # without balance, a strong penalty gives up the rare class
    again = ask(file, balance="weights")
    assert again.folder == default.folder  # it is what the variant does anyway
    assert ask(file, variant="paper", balance="oversample").folder.name == "subject-paper-baselines-none"


def test_a_nested_c_is_recorded_for_each_fold_and_for_the_probe_that_is_kept(file):
    record = ask(file, c="nested")
    assert record.folder.name == "subject-default-C-nested-baselines-none"
    assert len(record.c_grid) == 7
    assert record.c_inner == "at most 5 folds of the training subjects"
    assert all(fold.c in record.c_grid for fold in record.folds)
    fitted = skops.io.load(record.folder / "probe.skops", trusted=[])
    assert fitted[-1].get_params()["C"] == record.c_saved
    report = json.loads((record.folder / "report.json").read_text())
    assert report["c"] == "nested"
    assert [fold["c"] for fold in report["folds"]] == [fold.c for fold in record.folds]
    assert report["kind"] == "classification"


def test_nested_is_refused_where_no_fold_can_choose(file, tmp_path):
    path = tmp_path / "two.parquet"
    table = make_table()
    keep = np.isin(table.subject, ["m0", "m1"])
    labels = {name: np.where(keep, values, "") for name, values in table.labels.items()}
    write_embeddings(dataclasses.replace(table, labels=labels), path)
    with pytest.raises(InputError, match="no fold of this split has enough") as caught:
        ask(path, split="subject", c="nested")
    assert "--C 1" in caught.value.fix
    assert not (tmp_path / "two-probes").exists()


def test_folds_of_subjects_are_saved_and_read_back(file):
    record = ask(file, folds=2)
    assert record.folder.name == "subject-default-folds-2-baselines-none"
    assert "2 folds of whole subjects" in record.split_how
    assert len(record.folds) == 2
    table = load_embeddings(file)
    keys = UnitKeys(table.subject, table.session, table.population, table.unit_id)
    split = file_split(record.folder / "split.json", keys, table.labels["subclass"])
    assert [(fold.name, len(fold.test)) for fold in split.folds] == [
        (fold.name, fold.n_test) for fold in record.folds
    ]
    assert split.subjects_disjoint


def test_the_parent_first_stands_beside_the_flat_probe(file):
    record = ask(file, parent="class")
    found = record.hierarchy
    assert record.folder.name == "subject-default-baselines-none-parent-class"
    assert found.flat == record.methods[0].macro_f1
    assert found.hierarchical_minus_flat.value == pytest.approx(found.hierarchical.value - found.flat.value)
    assert [(one.name, one.children) for one in found.parents] == [
        ("E", ("L2", "L5")),
        ("I", ("PV", "SST", "VIP")),
    ]
    assert sum(one.support for one in found.parents) == record.n_tested
    rows = pq.read_table(record.folder / "predictions.parquet").to_pylist()
    parent = dict(zip(("L2", "L5", "PV", "SST", "VIP"), "EEIII", strict=True))
    for column, score in (
        ("prediction", found.flat_parent_accuracy),
        ("prediction_hierarchical", found.hierarchical_parent_accuracy),
    ):
        right = np.mean([parent[row[column]] == parent[row["label"]] for row in rows])
        assert right == pytest.approx(score.value)
    assert json.loads((record.folder / "report.json").read_text())["hierarchy"]["parent"] == "class"


@pytest.mark.parametrize(
    ("options", "message", "fix"),
    [
        ({"label": "torn"}, r"PV \(E and I\)", "--labels"),
        ({"parent": "clas"}, "No label 'clas'", "--parent class"),
        ({"parent": "subclass"}, "--parent subclass is the label itself", "coarser"),
        ({"parent": "nothing"}, "has a nothing", "another --parent"),
        ({"parent": "partly"}, "No unit of subclass = VIP has a partly", "--classes L2,L5,PV,SST"),
        ({"parent": "one"}, "belong to one = same", "Leave --parent away"),
    ],
)
def test_hierarchies_that_are_none_are_refused(file, options, message, fix):
    options = {"label": "subclass", "parent": "class", **options}
    with pytest.raises(InputError, match=message) as caught:
        ask(file, options.pop("label"), **options)
    assert fix in caught.value.fix


def test_several_labels_have_folders_and_records_of_their_own(file):
    done = typed(file, "--label", "class,subclass", "--label", "class", "--json", "--quiet")
    assert done.exit_code == 0, done.output
    records = json.loads(done.stdout)["probes"]
    assert [one["label"] for one in records] == ["class", "subclass"]
    assert [Path(one["folder"]).parent.name for one in records] == ["class", "subclass"]
    alone = json.loads(typed(file, "--label", "class", "--json", "--quiet").stdout)
    assert "probes" not in alone
    assert alone["methods"] == records[0]["methods"]


def test_a_column_whose_name_has_a_comma_is_one_label(file, tmp_path):
    path = tmp_path / "comma.parquet"
    table = make_table()
    write_embeddings(dataclasses.replace(table, labels={"class,old": table.labels["class"]}), path)
    assert [
        one.label for one in probe_labels(ProbeConfig("", embeddings=path, baselines="none"), ["class,old"])
    ] == ["class,old"]


def test_sessions_are_described_once_for_all_labels(tmp_path):
    data = tmp_path / "nuclr-data"
    data.mkdir()
    for i in range(2):
        population = tiny_population(i, n_units=16, minutes=1.0, subject=f"s{i}", session="day")
        write_population(population, data / f"s{i}.h5", source=SourceRecord("tiny", "test", ""))
    n = 32
    code = np.arange(n) % 2
    table = EmbeddingTable(
        subject=np.repeat(["s0", "s1"], 16),
        session=np.full(n, "day"),
        population=np.full(n, "0"),
        unit_id=np.tile([f"u{i}" for i in range(16)], 2),
        modality=np.full(n, "spikes"),
        n_windows=np.ones(n, dtype=int),
        n_events=np.ones(n, dtype=int),
        embedding=np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32),
        labels={
            "one": np.array(["a", "b"])[code],
            "two": np.where(np.arange(n) < 24, np.array(["c", "d"])[code], ""),
        },
    )
    path = tmp_path / "units.parquet"
    write_embeddings(table, path)
    listener = Listener()
    config = ProbeConfig("", embeddings=path, data=data, split="unit", bootstrap=20, baselines="fast")
    both = probe_labels(config, ["one", "two"], listener)
    assert listener.tasks.count("features") == 1
    alone = probe(dataclasses.replace(config, label="two"))
    assert alone.methods == both[1].methods
    # A unit that one label has and the data have not: the other label keeps its baselines.
    shutil.copy(path, tmp_path / "more.parquet")
    ids = table.unit_id.copy().astype("<U8")
    ids[30] = "gone"
    write_embeddings(dataclasses.replace(table, unit_id=ids), tmp_path / "more.parquet")
    one, two = probe_labels(dataclasses.replace(config, embeddings=tmp_path / "more.parquet"), ["one", "two"])
    assert "features" in {missing.name for missing in one.missing_baselines}
    assert "features" in {method.name for method in two.methods}
    assert two.methods[1].macro_f1 == both[1].methods[1].macro_f1


def test_nothing_is_written_when_one_of_several_labels_is_refused(tmp_path):
    path = tmp_path / "units.parquet"
    write_embeddings(make_table(), path)
    done = typed(path, "--label", "class", "--label", "clas")
    assert done.exit_code == 3
    assert "--label clas: No label 'clas'" in done.stderr
    assert list(tmp_path.iterdir()) == [path]
    for option in (("--classes", "E,I"), ("--parent", "class")):
        done = typed(path, "--label", "class,subclass", *option)
        assert done.exit_code == 3
        assert f"{option[0]} speaks of one label" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--label", "subclass", "--balance", "both"), "--balance both is not known"),
        (("--label", "subclass", "--C", "0"), "--C 0.0 is not a penalty"),
        (("--label", "subclass", "--C", "nan"), "--C nan is not a penalty"),
        (("--label", "subclass", "--C", "nest"), "--C nest is not a penalty"),
        (("--label", "one"), "needs at least 2 classes"),
        (("--label", "nothing"), "the column is empty"),
        (("--label", "subclass", "--folds", "9"), "--folds 9 does not fit: 4 subjects"),
        (("--label", "subclass", "--split", "session", "--folds", "9"), "--folds 9 does not fit: 8 sessions"),
        (("--label", "subclass", "--split", "unit", "--folds", "99"), "--folds 99 does not fit"),
        (("--label", "genotype", "--test-subjects", "m0"), "one side only"),
    ],
)
def test_questions_without_an_answer_end_with_exit_3_and_no_folder(tmp_path, arguments, message):
    path = tmp_path / "units.parquet"
    write_embeddings(make_table(), path)
    done = typed(path, *arguments)
    assert done.exit_code == 3, done.output
    assert message in done.stderr
    assert "->" in done.stderr
    assert list(tmp_path.iterdir()) == [path]


def test_classes_on_one_side_only_are_refused_unless_they_are_named(file):
    with pytest.raises(InputError, match="only here: tested but never trained") as caught:
        ask(file, "lonely", test_subjects=("m3", "m2"))
    assert "--classes a,b;" in caught.value.fix
    assert "--classes a,b,only here" in caught.value.fix
    with pytest.raises(InputError, match="only here: trained but never tested"):
        ask(file, "lonely", test_subjects=("m0",))
    kept = ask(file, "lonely", test_subjects=("m0",), classes=("a", "b", "only here"))
    assert any("trained but never tested" in text for text in kept.warnings)
    assert kept.classes == ("a", "b", "only here")
    left_out = ask(file, "lonely", test_subjects=("m0",), classes=("a", "b"))
    assert not any("one side" in text for text in left_out.warnings)


def test_a_class_of_one_subject_is_an_error_in_its_own_fold_and_that_is_said(file):
    record = ask(file, "lonely")
    assert any("Fold 'm3' never trains on only here" in text for text in record.notes)


@pytest.mark.slow
def test_the_benchmark_agrees_with_a_plain_script_of_scikit_learn():
    """It stops when classes differ, or a probability by more than 1e-6."""
    script = Path(__file__).parents[1] / "benchmarks" / "probe.py"
    done = subprocess.run([sys.executable, script, "--small"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "The same class for every unit" in done.stdout
