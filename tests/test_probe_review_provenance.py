"""What probes of every kind say of where embeddings come from, and where they keep what they answer."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nuclr_cli.data.embeddings import EmbeddingTable, load_embeddings, write_embeddings
from nuclr_cli.data.sessions import open_sessions
from nuclr_cli.data.store import SourceRecord, write_population
from nuclr_cli.errors import InputError
from nuclr_cli.evaluation.baselines import Representation
from nuclr_cli.evaluation.bootstrap import resampling_plan
from nuclr_cli.evaluation.label_efficiency import efficiency_curves
from nuclr_cli.evaluation.probes import encode, variant_named
from nuclr_cli.evaluation.splits import UnitKeys, subject_split
from nuclr_cli.testing.tiny import tiny_population
from nuclr_cli.workflows.embed import EmbedConfig, embed
from nuclr_cli.workflows.presets import for_modalities, preset_settings
from nuclr_cli.workflows.pretrain import PretrainConfig, pretrain
from nuclr_cli.workflows.probe import probe
from nuclr_cli.workflows.probe_label_efficiency import (
    LabelEfficiencyConfig,
    LabelEfficiencyRecord,
    label_efficiency,
)
from nuclr_cli.workflows.probe_pairs import probe_pairs
from nuclr_cli.workflows.probe_pairs_record import PairsConfig, PairsRecord
from nuclr_cli.workflows.probe_record import ProbeConfig
from nuclr_cli.workflows.probe_regression import probe_regression
from nuclr_cli.workflows.probe_regression_record import RegressionConfig, RegressionRecord
from nuclr_cli.workflows.reporting import SilentReporter
from nuclr_cli.workflows.runs import Run, RunSession, create_run, open_run

SUBJECTS = ("m0", "m1", "m2", "m3")
DAYS = ("day1", "day2")
N_UNITS = 30


class Listener(SilentReporter):
    """Keeps what the workflow says."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.said.append(text)


def make_table(subjects: tuple[str, ...] = SUBJECTS, **metadata: str) -> EmbeddingTable:
    """Subjects of two sessions, two classes that the embeddings know, and a number that they know in part."""
    rng = np.random.default_rng(0)
    n = len(subjects) * N_UNITS
    code = rng.integers(0, 2, n)
    values = rng.normal(size=(n, 6)) + 2.0 * np.eye(2, 6)[code]
    depth = [f"{value:.3f}" for value in values[:, 3] + rng.normal(size=n)]
    return EmbeddingTable(
        subject=np.repeat(subjects, N_UNITS),
        session=np.tile(np.repeat(DAYS, N_UNITS // 2), len(subjects)),
        population=np.full(n, "0"),
        unit_id=np.tile([f"u{i}" for i in range(N_UNITS)], len(subjects)),
        modality=np.full(n, "spikes"),
        n_windows=np.full(n, 3),
        n_events=np.full(n, 90),
        embedding=values.astype(np.float32),
        labels={"class": np.array(["E", "I"])[code], "depth": np.array(depth)},
        metadata={"run": "r@1", **metadata},
    )


def make_run(
    root: Path,
    roles: dict[str, str],
    digests: dict[str, str],
    name: str = "run",
    init_from: Run | None = None,
    assumed: bool = False,
) -> Run:
    sessions = [
        RunSession(
            subject,
            day,
            "0",
            N_UNITS // 2,
            role,  # type: ignore[arg-type]
            subject_assumed=assumed,
            activity_digest=f"{digests[subject]}-{day}" if digests.get(subject) else "",
        )
        for subject, role in roles.items()
        for day in DAYS
    ]
    settings = for_modalities(preset_settings("tiny"), frozenset({"spikes"}))
    return create_run(root / "runs", name, settings, root, sessions, init_from)


def write_pairs(path: Path, seed: int) -> Path:
    """Pairs of units of one session, of every session."""
    rng = np.random.default_rng(seed)
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["subject", "session", "pre", "post", "label"])
        for subject in SUBJECTS:
            for d, day in enumerate(DAYS):
                first = d * N_UNITS // 2
                for i in range(first, first + 8):
                    rows.writerow([subject, day, f"u{i}", f"u{i + 1}", int(rng.random() < 0.5 or i == first)])
    return path


QUICK: dict[str, Any] = {"baselines": "none", "bootstrap": 20}


def ask_label(file: Path, **options: Any) -> Any:
    return probe(ProbeConfig("class", embeddings=file, **{**QUICK, **options}))


def ask_fractions(file: Path, label: str = "class", **options: Any) -> LabelEfficiencyRecord:
    config = ProbeConfig(label, embeddings=file, **{**QUICK, **options})
    return label_efficiency(LabelEfficiencyConfig(config, fractions=(0.2,), repeats=2))


def ask_target(file: Path, **options: Any) -> RegressionRecord:
    return probe_regression(RegressionConfig("depth", embeddings=file, **{**QUICK, **options}))


def ask_pairs(file: Path, pairs: Path, **options: Any) -> PairsRecord:
    options = {"features": "directed", "c": 1.0, **QUICK, **options}
    return probe_pairs(PairsConfig(pairs, embeddings=file, **options))


# What pretraining saw


@pytest.fixture(scope="module")
def embedded_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A run trained on s0 and s1; embeddings of another folder: s0 under the name x0, new y0, and s1 as z1,
    whose length was said otherwise.
    """
    root = tmp_path_factory.mktemp("elsewhere")
    for folder, subjects in (("data", {"s0": 0, "s1": 1}), ("new-data", {"x0": 0, "y0": 2, "z1": 1})):
        (root / folder).mkdir()
        for subject, seed in subjects.items():
            population = tiny_population(seed, n_units=24, minutes=1.0, subject=subject, session="day")
            if subject == "z1":
                longer = np.add(population.intervals, [[0.0, 0.4]])
                population = dataclasses.replace(population, intervals=longer)
            write_population(
                population, root / folder / f"{subject}.h5", source=SourceRecord(subject, "test", "")
            )
    small = {"model.dim": 16, "model.heads": 2, "model.head_dim": 8, "train.steps": 1}
    run = pretrain(
        PretrainConfig(
            data=root / "data",
            runs=root / "nuclr-runs",
            name="run",
            preset="tiny",
            gpus=0,
            changes={**small, "train.batch_windows": 2},
        )
    ).run
    out = root / "new.parquet"
    return out, embed(EmbedConfig(data=root / "new-data", run=run, out=out, gpus=0))


def elsewhere(file: Path, tested: str) -> tuple[str, str]:
    config = ProbeConfig(
        "cell_type", embeddings=file, runs=file.parent / "nuclr-runs", test_subjects=(tested,), **QUICK
    )
    record = probe(config)
    return record.knowledge, record.knowledge_why


def test_a_trained_recording_embedded_from_another_folder_is_found(embedded_elsewhere):
    file, embedded = embedded_elsewhere
    status, why = elsewhere(file, "x0")
    assert status == "transductive"
    assert "x0 is s0" in why
    assert elsewhere(file, "y0")[0] == "inductive"
    status, why = elsewhere(file, "z1")
    assert status == "transductive"
    assert "z1 is s1" in why
    assert [one.seen_in_training for one in embedded.sessions] == [True, False, True]


def test_embeddings_from_elsewhere_that_cannot_be_compared_are_not_called_new(embedded_elsewhere, tmp_path):
    file, _ = embedded_elsewhere
    table = load_embeddings(file)
    copy = file.with_name("copy.parquet")

    def told(**changes: str) -> tuple[str, str]:
        kept = {key: text for key, text in table.metadata.items() if key != "activity"}
        write_embeddings(dataclasses.replace(table, metadata={**kept, **changes}), copy)
        return elsewhere(copy, "y0")

    status, why = told()  # as files were before digests were written down
    assert status == "unknown"
    assert "y0/day/0" in why
    assert "run nuclr embed again" in why
    activity = json.loads(table.metadata["activity"])
    status, why = told(activity=json.dumps([[*key, ""] for *key, _ in activity]))
    assert status == "unknown"
    assert "nuclr did not write its file" in why
    with pytest.raises(InputError, match=r"metadata of .* is damaged"):
        told(activity="[[1]]")


def in_folder(root: Path, run: Run, tested: tuple[str, ...], **metadata: str) -> tuple[str, str]:
    table = make_table(**metadata)
    write_embeddings(dataclasses.replace(table, metadata={**table.metadata, "run": run.id}), run.embeddings)
    config = ProbeConfig(
        "class", run=run.folder, runs=root / "runs", test_subjects=tested, split="subject", **QUICK
    )
    record = probe(config)
    return record.knowledge, record.knowledge_why


ZERO_SHOT = {"m0": "train", "m1": "train", "m2": "held-out", "m3": "held-out"}


def test_a_recording_that_the_first_weights_saw_under_another_name_is_found(tmp_path):
    first = make_run(tmp_path, {"a": "train", "b": "held-out"}, {"a": "aaa", "b": "bbb"}, "first")
    second = make_run(tmp_path, {"c": "train"}, {"c": "ccc"}, "second", first)
    digests = {"m0": "000", "m1": "111", "m2": "aaa", "m3": "bbb"}
    tuned = make_run(tmp_path, ZERO_SHOT, digests, "tuned", second)
    assert open_run(tuned.folder).record == tuned.record
    status, why = in_folder(tmp_path, tuned, ("m2",))
    assert status == "transductive"
    assert "m2 is a" in why
    assert in_folder(tmp_path, tuned, ("m3",))[0] == "inductive"  # b was held out there, too


def test_runs_and_tables_of_older_versions_keep_their_word_about_their_own_folder_only(tmp_path):
    first = make_run(tmp_path, {"a": "train"}, {"a": "aaa"}, "first")
    digests = {"m0": "000", "m1": "111", "m2": "222", "m3": "333"}
    tuned = make_run(tmp_path, ZERO_SHOT, digests, "tuned", first)
    path = tuned.folder / "run.json"
    older = json.loads(path.read_text())
    del older["inherited_digests"]
    path.write_text(json.dumps(older))
    tuned = open_run(tuned.folder)
    assert tuned.record.seen_digests is None
    assert in_folder(tmp_path, tuned, ("m2",))[0] == "inductive"
    # What starts from that run does not know more than it.
    third = make_run(tmp_path, {"m0": "train"}, digests, "third", tuned)
    assert open_run(third.folder).record.seen_digests is None
    activity = json.dumps([[s, day, "0", f"{digests[s]}-{day}"] for s in SUBJECTS for day in DAYS])
    status, why = in_folder(tmp_path, third, ("m3",), activity=activity)
    assert status == "unknown"
    assert "were not written down" in why
    # A recording that has changed since pretraining is another one, and has to be compared anew.
    changed = json.dumps([[s, day, "0", f"000-{day}"] for s in SUBJECTS for day in DAYS])
    status, why = in_folder(tmp_path, make_run(tmp_path, ZERO_SHOT, digests), ("m3",), activity=changed)
    assert status == "transductive"
    assert "m3 is m0" in why


def test_a_run_does_not_start_from_other_recordings_under_the_same_names(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    population = tiny_population(0, n_units=24, minutes=1.0, subject="s0", session="day")
    write_population(population, data / "s0.h5", source=SourceRecord("s0", "test", ""))
    (session,) = open_sessions(data)
    settings = for_modalities(preset_settings("tiny"), frozenset({"spikes"}))

    def run(name: str, digest: str, init_from: Run | None = None) -> Run:
        here = RunSession("s0", "day", "0", 24, "train", activity_digest=digest)
        return create_run(tmp_path / "runs", name, settings, data, [here], init_from)

    first = run("first", "aaa")
    run("tuned", session.activity_digest, first)  # stopped before its first checkpoint
    shutil.rmtree(first.folder)
    run("first", "bbb")
    with pytest.raises(InputError, match=r"first is not the run any more .* also seen s0"):
        pretrain(PretrainConfig(data=data, runs=tmp_path / "runs", name="tuned", resume=True, gpus=0))


# What a probe may recognise


@pytest.mark.parametrize("kind", ["label", "fractions", "target", "pairs"])
def test_every_kind_of_question_says_what_could_make_it_too_good(kind, tmp_path):
    selection = {"rule": "val-f1", "label": "class", "subjects": ["m1"]}
    table = make_table(selection=json.dumps(selection))
    values = table.embedding.copy()
    values[table.subject == "m3"] = values[table.subject == "m0"]
    subject = np.where(table.subject == "m2", "M1", table.subject)
    leaky, clean = tmp_path / "leaky.parquet", tmp_path / "clean.parquet"
    write_embeddings(dataclasses.replace(table, subject=subject, embedding=values), leaky)
    single = np.char.add("of ", table.subject)
    write_embeddings(dataclasses.replace(make_table(), session=single), clean)
    pairs = write_pairs(tmp_path / "pairs.csv", 0)
    pairs.write_text(pairs.read_text().replace("m2", "M1"))
    plain = tmp_path / "plain.csv"
    rows = [row.split(",") for row in write_pairs(plain, 0).read_text().splitlines()]
    plain.write_text("\n".join(",".join((row[0], *row[2:])) for row in rows) + "\n")

    def warnings(file: Path, pairs: Path, **options: Any) -> tuple[str, ...]:
        asked = {
            "label": ask_label,
            "fractions": ask_fractions,
            "target": ask_target,
            "pairs": lambda file, **options: ask_pairs(file, pairs, **options),
        }
        return asked[kind](file, runs=tmp_path / "none", split="session", **options).warnings

    said = (
        "The checkpoint was chosen by labels (class) of m1",
        "exactly the embedding of a training unit",
        "differ in spelling only: M1 and m1",
        "Subject(s) M1, m0, m1, m3 have several sessions",
    )
    found = warnings(leaky, pairs)
    for text in said:
        assert sum(text in warning for warning in found) == 1, text
    quiet = warnings(clean, plain)
    assert not [
        one for one in quiet if any(text in one for text in ("chosen by", "exactly", "differ", "sev"))
    ]


def test_label_efficiency_warns_as_the_probe_with_all_labels_does(tmp_path):
    run = make_run(tmp_path, ZERO_SHOT, {}, assumed=True)
    table = make_table(limit_s="600")
    rng = np.random.default_rng(1)
    favourite = np.searchsorted(SUBJECTS, table.subject) % 2
    uneven = np.array(["x", "y"])[np.where(rng.random(len(favourite)) < 0.9, favourite, 1 - favourite)]
    n_windows, values = table.n_windows.copy(), table.embedding.copy()
    n_windows[4], values[4] = 0, np.nan
    table = dataclasses.replace(
        table,
        labels={"class": uneven},
        n_windows=n_windows,
        embedding=values,
        metadata={**table.metadata, "run": run.id},
    )
    write_embeddings(table, run.embeddings)
    options = {"runs": tmp_path / "runs", "split": "session", "folds": 4}
    few, all_of_them = ask_fractions(run.embeddings, **options), ask_label(run.embeddings, **options)
    for text in (
        "Knowing of a unit only its subject",
        "Subject(s) m0, m1, m2, m3 are folder names that nobody confirmed",
        "have several sessions",
        "The embeddings saw only the first 600 s",
    ):
        (own,) = [warning for warning in few.warnings if text in warning]
        assert own in all_of_them.warnings
    assert (
        "1 unit with a class has no embedding (never active in a window) and no prediction." in few.warnings
    )


# Where the answer is kept


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("places") / "units.parquet"
    write_embeddings(make_table(), path)
    return path


def kept(record: RegressionRecord | PairsRecord) -> bytes:
    return (record.folder / "report.json").read_bytes()


def test_other_folds_of_a_number_do_not_replace_the_answer(file):
    runs = file.parent / "none"
    asked = (
        {},
        {"folds": 2},
        {"split": "unit"},
        {"split": "unit", "folds": 4},
        {"split": "unit", "folds": 2},
    )
    records = [ask_target(file, runs=runs, **options) for options in asked]
    assert [record.folder.name for record in records] == [
        "subject-ridge-baselines-none",
        "subject-ridge-folds-2-baselines-none",
        "unit-ridge-baselines-none",
        "unit-ridge-folds-4-baselines-none",
        "unit-ridge-folds-2-baselines-none",
    ]
    for record, n_folds in zip(records, (4, 2, 5, 4, 2), strict=True):
        assert len(json.loads(kept(record))["folds"]) == n_folds


def test_other_folds_and_another_table_of_pairs_do_not_replace_the_answer(file, tmp_path):
    (tmp_path / "d2").mkdir()
    one, other = write_pairs(tmp_path / "c.csv", 0), write_pairs(tmp_path / "d2" / "c.csv", 1)
    asked = {"runs": file.parent / "none"}
    first = ask_pairs(file, one, **asked)
    before = kept(first)
    folds, second = ask_pairs(file, one, folds=2, **asked), ask_pairs(file, other, **asked)
    assert first.folder.name == "subject-directed-baselines-none"
    assert folds.folder.name == "subject-directed-folds-2-baselines-none"
    assert second.folder.name == f"subject-directed-baselines-none-{second.pairs_sha256[:8]}"
    assert first.folder.parent == folds.folder.parent == second.folder.parent
    assert kept(first) == before
    # The same question finds its own place again, in whatever order they are asked.
    assert ask_pairs(file, other, **asked).folder == second.folder
    assert ask_pairs(file, one, **asked).folder == first.folder


# Label efficiency with a C of its own


def test_a_c_that_cannot_be_chosen_is_refused_as_the_probe_refuses_it(tmp_path):
    path = tmp_path / "units.parquet"
    write_embeddings(make_table(SUBJECTS[:2]), path)
    for ask in (ask_label, ask_fractions):
        with pytest.raises(InputError, match="no fold of this split has enough of them") as caught:
            ask(path, runs=tmp_path / "none", split="subject", c="nested")
        assert "keep --C 1" in caught.value.fix
    assert [one.name for one in tmp_path.iterdir()] == ["units.parquet"]


def test_fits_that_could_not_choose_c_are_counted_and_said(file):
    config = ProbeConfig("class", embeddings=file, runs=file.parent / "none", c="nested", **QUICK)
    listener = Listener()
    record = label_efficiency(LabelEfficiencyConfig(config, fractions=(0.01, 0.5), repeats=3), listener)
    least, half, whole = record.curves[0].points
    # One unit of each class: to hold out the one's subject leaves nothing to learn the other class from.
    assert (least.n_fits, least.n_default_c) == (12, 12)
    assert (half.n_fits, half.n_default_c) == (12, 0)
    assert (whole.n_fits, whole.n_default_c) == (4, 0)
    said = (
        "NuCLR: the labelled subjects did not allow a choice of C, so that C = 1, in 12 of 12 fits with 0.01 "
        "of the labels."
    )
    assert said in record.notes
    assert said in listener.said
    written = json.loads((record.folder / "report.json").read_text())
    assert (record.c, written["c"], written["balance"]) == ("nested", "nested", "weights")
    assert written["curves"][0]["points"][0]["n_default_c"] == 12
    plain = ask_fractions(file, runs=file.parent / "none")
    assert plain.c == 1.0
    assert not any("choice of C" in note for note in plain.notes)


def test_fits_that_do_not_converge_are_counted():
    table = make_table()
    keys = UnitKeys(table.subject, table.session, table.population, table.unit_id)
    classes, codes = encode(table.labels["class"])
    plan = resampling_plan(keys.subject[keys.order], codes[keys.order])

    def points(max_iter: int) -> Any:
        (curve,) = efficiency_curves(
            [Representation("n", "n", table.embedding)],
            codes,
            len(classes),
            subject_split(keys, table.labels["class"]),
            np.ones(len(codes), dtype=bool),
            dataclasses.replace(variant_named("default"), max_iter=max_iter),
            plan,
            fractions=(0.5, 1.0),
            repeats=2,
            n_resamples=10,
            seed=0,
        )
        return curve.points

    assert [(point.n_fits, point.n_unconverged) for point in points(1)] == [(8, 8), (4, 4)]
    assert [(point.n_fits, point.n_unconverged) for point in points(1000)] == [(8, 0), (4, 0)]
