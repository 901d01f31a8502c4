"""`nuclr probe` from real files to a folder: what it writes, what it claims, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import skops.io

from nuclr_cli.data.embeddings import EmbeddingTable, load_embeddings, write_embeddings
from nuclr_cli.data.store import SourceRecord, write_population
from nuclr_cli.errors import InputError
from nuclr_cli.testing.tiny import tiny_calcium, tiny_population
from nuclr_cli.workflows.embed import embed_untrained
from nuclr_cli.workflows.presets import for_modalities, preset_settings
from nuclr_cli.workflows.probe import probe
from nuclr_cli.workflows.probe_record import ProbeConfig, ProbeRecord
from nuclr_cli.workflows.probe_report import replacing_folder
from nuclr_cli.workflows.reporting import Progress, SilentReporter
from nuclr_cli.workflows.runs import Run, RunSession, create_run

SUBJECTS = ("s0", "s1", "s2", "s3")
MADE = ("features", "activity_pca", "acg_3d", "window_average", "untrained")
BASELINES = (*MADE, "majority", "chance")


class Listener(SilentReporter):
    """Keeps what the workflow says."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.tasks: dict[str, float | None] = {}

    def progress(self, title: str, total: float | None, unit: str) -> AbstractContextManager[Progress]:
        self.tasks[title] = total
        return super().progress(title, total, unit)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def make_data(folder: Path, make: Callable[..., object] = tiny_population, **options: object) -> Path:
    folder.mkdir(parents=True)
    for i, subject in enumerate(SUBJECTS):
        population = make(i, n_units=20, minutes=1.0, subject=subject, session=f"day{i}", **options)
        write_population(
            population,
            folder / f"{subject}.h5",
            source=SourceRecord(path=subject, reader="test", detected=""),
        )
    return folder


def make_run(
    root: Path, data: Path, held_out: tuple[str, ...] = (), name: str = "run", assumed: bool = False,
    modality: str = "spikes", init_from: Run | None = None,
) -> Run:  # fmt: skip
    sessions = [
        RunSession(s, f"day{i}", "0", 20, "held-out" if s in held_out else "train", subject_assumed=assumed)
        for i, s in enumerate(SUBJECTS)
    ]
    settings = for_modalities(preset_settings("tiny"), frozenset({modality}))
    return create_run(root / "nuclr-runs", name, settings, data, sessions, init_from)


def embed_fake(run: Run, seed: int = 0, path: Path | None = None, **labels: np.ndarray) -> EmbeddingTable:
    """Embeddings that know a unit's cell type and little else; the silent unit of each session has none."""
    from nuclr_cli.data.sessions import open_sessions

    table = embed_untrained(run, open_sessions(run.data))
    shutil.rmtree(run.folder / "baselines")
    rng = np.random.default_rng(seed)
    codes = np.unique(table.labels["cell_type"], return_inverse=True)[1]
    values = rng.normal(size=(table.n_units, 8)).astype(np.float32)
    values[:, 0] += 3.0 * codes
    values[~table.seen] = np.nan
    fake = dataclasses.replace(
        table,
        embedding=values,
        labels={**table.labels, **labels},
        metadata={"run": run.id, "checkpoint_step": "5"},
    )
    write_embeddings(fake, path or run.embeddings)
    return fake


@dataclass(frozen=True)
class Place:
    root: Path
    run: Run
    table: EmbeddingTable

    def probe(
        self, label: str = "cell_type", listener: Listener | None = None, **options: object
    ) -> ProbeRecord:
        options = {"runs": self.root / "nuclr-runs", "bootstrap": 100, **options}
        return probe(ProbeConfig(label, **options), listener)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("probe")
    run = make_run(root, make_data(root / "nuclr-data", silent_units=1))
    return Place(root, run, embed_fake(run))


@pytest.fixture(scope="module")
def record(place: Place) -> ProbeRecord:
    return place.probe()


def test_the_result_stands_beside_every_baseline(record):
    assert [method.name for method in record.methods] == ["nuclr", *BASELINES]
    assert record.missing_baselines == ()
    for method in record.methods:
        assert 0 <= method.macro_f1.low <= method.macro_f1.high <= 1
    nuclr = record.methods[0].macro_f1.value
    for method in record.methods[1:]:
        assert method.nuclr_minus.value == pytest.approx(nuclr - method.macro_f1.value)
    assert nuclr > 0.9
    assert record.verdict
    assert sum(map(sum, record.confusion)) == record.n_tested
    assert sum(one.support for one in record.per_class) == record.n_tested


def test_the_default_split_is_by_subject_and_transductive_when_pretraining_saw_everybody(record):
    assert record.split == "subject"
    assert len(record.folds) == len(SUBJECTS)
    assert record.knowledge == "transductive"
    assert record.test_subjects == SUBJECTS


def test_the_folder_holds_everything_and_no_pickle(place, record):
    assert record.folder == place.run.folder / "probes" / "cell_type" / "subject-default"
    assert {path.name for path in record.folder.iterdir()} == {
        "report.json", "predictions.parquet", "confusion.png", "scores.png", "split.json", "probe.skops",
        "card.json", "reliability.png",
    }  # fmt: skip
    assert not list(record.folder.parent.glob(".*"))
    report = json.loads((record.folder / "report.json").read_text())
    assert report["verdict"] == record.verdict
    assert report["methods"][0]["macro_f1"]["value"] == record.methods[0].macro_f1.value
    assert report["run"] == place.run.id
    for plot in ("confusion.png", "scores.png", "reliability.png"):
        assert (record.folder / plot).read_bytes().startswith(b"\x89PNG")


def test_predictions_hold_every_unit_with_a_reason_where_there_is_none(place, record):
    rows = pq.read_table(record.folder / "predictions.parquet").to_pylist()
    assert [row["unit_id"] for row in rows] == place.table.unit_id.tolist()
    assert [row["subject"] for row in rows] == place.table.subject.tolist()
    hits = 0
    for row, label, seen in zip(rows, place.table.labels["cell_type"], place.table.seen, strict=True):
        assert row["label"] == label
        if label == "":
            assert (row["prediction"], row["reason"]) == (None, "unlabelled")
        elif not seen:
            assert row["prediction"] is None
            assert row["probability_excitatory"] is None
            assert "no embedding" in row["reason"]
        else:
            assert row["fold"] == row["subject"]
            assert row["reason"] == ""
            probability = {name: row[f"probability_{name}"] for name in record.classes}
            assert sum(probability.values()) == pytest.approx(1)
            assert row["prediction"] == max(probability, key=probability.get)
            hits += row["prediction"] == label
    assert hits / record.n_tested == pytest.approx(record.methods[0].accuracy.value)


def test_the_saved_probe_loads_without_trusting_anything(place, record):
    fitted = skops.io.load(record.folder / "probe.skops", trusted=[])
    card = json.loads((record.folder / "card.json").read_text())
    usable = place.table.seen & (place.table.labels["cell_type"] != "")
    assert card["n_train_units"] == usable.sum()
    assert fitted.classes_.tolist() == card["classes"] == ["excitatory", "inhibitory"]
    np.testing.assert_allclose(fitted[0].mean_, place.table.embedding[usable].astype(float).mean(axis=0))
    predicted = fitted.predict(place.table.embedding[usable].astype(float))
    assert (predicted == place.table.labels["cell_type"][usable]).mean() > 0.9
    assert card["embeddings_sha256"] == record.embeddings_sha256


def test_a_second_run_replaces_the_folder_and_gives_the_same_numbers(place, record):
    stray = record.folder / "stray.txt"
    stray.write_text("from an earlier result")
    before = (record.folder / "predictions.parquet").read_bytes()
    again = place.probe()
    assert not stray.exists()
    assert (again.folder / "predictions.parquet").read_bytes() == before
    assert again.methods == record.methods


def test_a_failing_write_leaves_the_old_folder_whole(tmp_path):
    target = tmp_path / "result"
    target.mkdir()
    (target / "report.json").write_text("old")

    def write_half():
        with replacing_folder(target) as folder:
            (folder / "report.json").write_text("half")
            raise OSError("disk full")

    with pytest.raises(InputError, match="disk full"):
        write_half()
    assert (target / "report.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


def test_the_order_of_the_table_changes_no_score(place, record, tmp_path):
    order = np.random.default_rng(0).permutation(place.table.n_units)
    columns = {
        f.name: getattr(place.table, f.name)[order]
        for f in dataclasses.fields(place.table)
        if f.name not in ("labels", "metadata")
    }
    labels = {name: values[order] for name, values in place.table.labels.items()}
    path = tmp_path / "shuffled.parquet"
    write_embeddings(dataclasses.replace(place.table, labels=labels, **columns), path)
    again = place.probe(embeddings=path)
    assert again.methods == record.methods
    assert again.folder == tmp_path / "shuffled-probes" / "cell_type" / "subject-default"


def test_subjects_held_out_of_pretraining_are_the_test_and_the_report_says_inductive(place, tmp_path):
    run = make_run(tmp_path, place.run.data, held_out=("s1", "s3"))
    embed_fake(run)
    record = Place(tmp_path, run, place.table).probe()
    assert record.knowledge == "inductive"
    assert record.test_subjects == ("s1", "s3")
    assert len(record.folds) == 1
    by_unit = Place(tmp_path, run, place.table).probe(split="unit")
    assert by_unit.knowledge == "transductive"
    some = Place(tmp_path, run, place.table).probe(test_subjects=("s0", "s1"))
    assert some.knowledge == "transductive"
    assert "s0" in some.knowledge_why


def test_what_an_ancestor_run_saw_counts(place, tmp_path):
    run = make_run(tmp_path, place.run.data, name="ancestor")
    for name in ("tuned", "tuned-again"):
        run = make_run(tmp_path, place.run.data, held_out=("s1",), name=name, init_from=run)
    embed_fake(run)
    assert Place(tmp_path, run, place.table).probe().knowledge == "transductive"
    # Not even when they are gone, or another run has taken an ancestor's name.
    shutil.rmtree(tmp_path / "nuclr-runs" / "ancestor")
    shutil.rmtree(tmp_path / "nuclr-runs" / "tuned")
    make_run(tmp_path, place.run.data, held_out=("s1",), name="tuned")
    embed_fake(run)
    record = Place(tmp_path, run, place.table).probe(run=run.folder)
    assert record.knowledge == "transductive"
    assert "s1" in record.test_subjects


def test_the_untrained_baseline_follows_the_data(tmp_path):
    from nuclr_cli.data.sessions import open_sessions

    data = make_data(tmp_path / "nuclr-data")
    run = make_run(tmp_path, data)
    first = embed_untrained(run, open_sessions(data))
    cache = run.folder / "baselines" / "untrained.parquet"
    written = cache.stat().st_mtime_ns
    embed_untrained(run, open_sessions(data))
    assert cache.stat().st_mtime_ns == written
    shutil.rmtree(data)
    make_data(data, median_rate_hz=9.0)  # the same units, other spikes
    again = embed_untrained(run, open_sessions(data))
    assert not np.allclose(first.embedding, again.embedding, equal_nan=True)
    cache.write_bytes(b"damaged")
    mended = embed_untrained(run, open_sessions(data))
    np.testing.assert_array_equal(mended.embedding, again.embedding)


def test_embeddings_without_their_run_are_probed_and_the_gaps_are_named(place, tmp_path):
    path = tmp_path / "copied.parquet"
    shutil.copy(place.run.embeddings, path)
    asked = {"embeddings": path, "runs": tmp_path / "nowhere"}
    with pytest.raises(InputError, match=r"The run that made .* was not found") as caught:
        place.probe(**asked)
    assert caught.value.exit_code == 3
    assert "--data DATA" in caught.value.fix
    assert "--baselines none" in caught.value.fix
    assert not (tmp_path / "copied-probes").exists()
    listener = Listener()
    record = place.probe(**asked, baselines="none", listener=listener)
    assert record.knowledge == "unknown"
    assert {one.name for one in record.missing_baselines} == set(MADE)
    assert [method.name for method in record.methods] == ["nuclr", "majority", "chance"]
    assert "highest" not in record.verdict  # to be above a guess is no victory
    assert "compared with guesses only" in record.verdict
    assert "Not compared with: rate + ISI" in record.verdict
    assert sum("without its baselines" in text for text in listener.warnings) == 1
    assert "baselines" not in listener.tasks  # nothing to wait for
    record = place.probe(**asked, data=place.run.data)
    assert [one.name for one in record.missing_baselines] == ["window_average", "untrained"]
    assert record.verdict.startswith(("Of the methods compared, NuCLR has", "NuCLR does not win"))


def test_baselines_are_made_of_all_sessions_or_not_at_all(place, tmp_path):
    data = tmp_path / "part"
    data.mkdir()
    shutil.copy(place.run.data / "s0.h5", data)
    with pytest.raises(InputError, match="3 of 4 sessions of the embeddings are not in") as caught:
        place.probe(data=data)
    assert "--baselines none" in caught.value.fix
    with pytest.raises(InputError, match=r"--data .*absent does not exist"):
        place.probe(data=tmp_path / "absent")


def test_calcium_has_every_baseline_but_the_one_made_of_spikes(tmp_path):
    run = make_run(tmp_path, make_data(tmp_path / "nuclr-data", tiny_calcium), modality="calcium")
    table = embed_fake(run)
    record = Place(tmp_path, run, table).probe()
    assert [one.name for one in record.missing_baselines] == ["acg_3d"]
    assert "calcium" in record.missing_baselines[0].why
    assert [method.title for method in record.methods[1:5]] == [
        "trace features", "PCA of dF/F", "raw window average", "untrained encoder",
    ]  # fmt: skip


def test_folder_names_as_subjects_are_warned_about(place, tmp_path):
    run = make_run(tmp_path, place.run.data, assumed=True)
    embed_fake(run)
    listener = Listener()
    Place(tmp_path, run, place.table).probe(listener=listener)
    assert any("folder names that nobody confirmed" in text for text in listener.warnings)


def test_a_label_that_is_constant_within_subjects_gets_the_permutation_test(place, tmp_path):
    run = make_run(tmp_path, place.run.data)
    table = embed_fake(run, region=np.where(np.isin(place.table.subject, ["s0", "s1"]), "ctx", "hpc"))
    record = Place(tmp_path, run, table).probe("region")
    assert record.resampled == "subjects within class"
    assert record.permutation.exact
    assert record.permutation.smallest_p == pytest.approx(2 / 6)  # swapping the names changes nothing
    assert record.permutation.p_value >= 2 / 6
    assert Place(tmp_path, run, table).probe("region", permutations=0).permutation is None
    within = Place(tmp_path, run, table).probe(permutations=9).permutation
    assert within.permuted == "units within subjects"
    assert within.p_value == pytest.approx(1 / 10)


def test_a_split_that_recognising_the_subject_would_pass_is_warned_about(place, tmp_path):
    run = make_run(tmp_path, place.run.data)
    table = embed_fake(run, region=np.where(np.isin(place.table.subject, ["s0", "s1"]), "ctx", "hpc"))
    there = Place(tmp_path, run, table)
    for label, split, warned in (
        ("region", "unit", True),
        ("region", "subject", False),
        ("cell_type", "unit", False),
    ):
        record = there.probe(label, split=split, permutations=0)
        assert any("recognising the subject" in text for text in record.warnings) == warned


def test_two_labelled_subjects_fall_back_to_units_and_say_so(place, tmp_path):
    run = make_run(tmp_path, place.run.data)
    two = np.where(np.isin(place.table.subject, ["s0", "s1"]), place.table.labels["cell_type"], "")
    table = embed_fake(run, type2=two)
    listener = Listener()
    record = Place(tmp_path, run, table).probe("type2", listener)
    assert record.split == "unit"
    assert any("only 2 subject(s) carry type2" in text for text in listener.notes)


def test_splits_of_two_probes_repeated_do_not_replace_each_other(place):
    by_unit, by_subject = place.probe(split="unit"), place.probe(split="subject")
    again = [place.probe(split=str(one.folder / "split.json")) for one in (by_unit, by_subject)]
    assert [one.folder.name for one in again] == ["file-unit-default-default", "file-subject-default-default"]
    assert [one.n_tested for one in again] == [by_unit.n_tested, by_subject.n_tested]


def test_the_paper_variant_and_a_split_file_have_folders_of_their_own(place, tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("subject,role\ns0,test\ns1,train\ns2,train\n")
    record = place.probe(variant="paper", split=str(path))
    assert record.folder.name == "file-mine-paper"
    assert record.test_subjects == ("s0",)
    assert record.n_not_in_split == int(
        ((place.table.subject == "s3") & (place.table.labels["cell_type"] != "")).sum()
    )
    rows = pq.read_table(record.folder / "predictions.parquet").to_pylist()
    reasons = {row["subject"]: row["reason"] for row in rows if row["label"] and row["unit_id"] == "u0"}
    assert reasons == {"s0": "", "s1": "training only", "s2": "training only", "s3": "not in the split"}
    repeated = place.probe(split=str(record.folder / "split.json"))
    assert repeated.test_subjects == ("s0",)


def test_classes_may_be_chosen(place, tmp_path):
    run = make_run(tmp_path, place.run.data)
    labels = place.table.labels["cell_type"].copy().astype("<U12")
    first = np.flatnonzero(labels != "")[0]
    labels[first] = "rare"
    table = embed_fake(run, type3=labels)
    there = Place(tmp_path, run, table)
    with pytest.raises(InputError, match="rare") as caught:
        there.probe("type3")
    assert "--classes excitatory,inhibitory" in caught.value.fix
    record = there.probe("type3", classes=("excitatory", "inhibitory"))
    assert record.classes == ("excitatory", "inhibitory")
    assert any("1 unit of rare" in note for note in record.notes)
    with pytest.raises(InputError, match="type3 = bogus"):
        there.probe("type3", classes=("excitatory", "bogus"))


@pytest.mark.parametrize(
    ("options", "message", "fix"),
    [
        ({"label": "cell_typo"}, "No label 'cell_typo'", "--label cell_type"),
        ({"label": "zzz"}, "brain_region", "--labels"),
        ({"variant": "fancy"}, "fancy", "paper"),
        ({"folds": 5}, "--folds 5 does not fit: 4 subjects", "from 2 to 4"),
        ({"split": "session", "folds": 1}, "--folds 1 does not fit: 4 sessions", "from 2 to 4"),
        ({"split": "my.csv", "folds": 3}, "--folds does not go", "in the file"),
        (
            {"test_subjects": ("s0",), "folds": 2},
            "--folds does not go with --test-subjects",
            "one of the two",
        ),
        ({"split": "unit", "test_subjects": ("s0",)}, "--test-subjects does not go", "--split subject"),
        ({"split": "unit", "folds": 1}, "--folds 1", "from 2 to"),
        ({"split": "animal"}, "Cannot read the split file animal", "--split takes"),
        ({"test_subjects": ("s9",)}, "s9", "s0, s1"),
        ({"run": Path("nope")}, "no run 'nope'", "run"),
        ({"embeddings": Path("nope.parquet")}, "nope.parquet", "nuclr embed"),
        ({"permutations": -1}, "--permutations -1", "0 skips"),
        ({"seed": -1}, "--seed -1", "another"),
        ({"classes": ("excitatory",)}, "at least 2 classes", "label"),
    ],
)
def test_wrong_questions_are_answered_with_what_to_type(place, options, message, fix):
    options = dict(options)
    with pytest.raises(InputError, match=message) as caught:
        place.probe(options.pop("label", "cell_type"), **options)
    assert fix in caught.value.fix


def test_a_file_of_another_run_is_refused(place, tmp_path):
    run = make_run(tmp_path, place.run.data, name="other")
    with pytest.raises(InputError, match="not by other@"):
        probe(ProbeConfig("cell_type", run=run.folder, embeddings=place.run.embeddings))
    with pytest.raises(InputError, match="no embeddings yet") as caught:
        probe(ProbeConfig("cell_type", run=run.folder))
    assert "nuclr embed --run" in caught.value.fix


@pytest.mark.slow
def test_the_command_prints_a_table_and_one_json_document(place, nuclr):
    shown = nuclr("probe", "--label", "cell_type", "--bootstrap", 50, cwd=place.root)
    assert shown.code == 0, shown.err
    for text in ("NuCLR", "untrained encoder", "chance", "macro F1", "excitatory", "Transductive", "Split:"):
        assert text in shown.out
    assert "written to" in shown.err
    done = nuclr("probe", "--label", "cell_type", "--bootstrap", 50, "--json", "--quiet", cwd=place.root)
    assert done.code == 0, done.err
    assert done.json["methods"][0]["name"] == "nuclr"
    assert done.json["folder"].endswith("subject-default")
    wrong = nuclr("probe", "--label", "cell_typ", "--json", cwd=place.root)
    assert wrong.code == 3
    assert "cell_type" in wrong.json["error"]["fix"]
    assert "Traceback" not in wrong.err
    assert nuclr("probe", cwd=place.root).code == 2


@pytest.mark.slow
def test_the_table_of_a_real_run_is_probed(tiny_data, tmp_path, nuclr):
    settings = ("--preset", "tiny", "--gpus", 0, "--steps", 3, "--set", "train.warmup_steps=1")
    small = (
        "--set",
        "train.batch_windows=2",
        "--set",
        "model.dim=16",
        "--set",
        "model.heads=2",
        "--set",
        "model.head_dim=8",
    )
    done = nuclr("pretrain", tiny_data, *settings, *small, "--hold-out-subjects", "s3", cwd=tmp_path)
    assert done.code == 0, done.err
    done = nuclr("embed", "--gpus", 0, cwd=tmp_path)
    assert done.code == 0, done.err
    done = nuclr("probe", "--label", "cell_type", "--json", "--quiet", cwd=tmp_path)
    assert done.code == 0, done.err
    assert done.json["knowledge"] == "inductive"
    assert done.json["test_subjects"] == ["s3"]
    assert done.json["missing_baselines"] == []
    table = load_embeddings(tmp_path / done.json["embeddings"])
    assert done.json["n_tested"] == int(
        ((table.subject == "s3") & table.seen & (table.labels["cell_type"] != "")).sum()
    )
