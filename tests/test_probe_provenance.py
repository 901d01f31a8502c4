"""Where embeddings come from and what a probe may recognise in them: refused, said, never called new."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nuclr_cli.data.embeddings import EmbeddingTable, load_embeddings, write_embeddings
from nuclr_cli.data.sessions import open_sessions
from nuclr_cli.data.store import SourceRecord, write_population
from nuclr_cli.errors import InputError
from nuclr_cli.testing.tiny import tiny_population
from nuclr_cli.workflows.presets import for_modalities, preset_settings
from nuclr_cli.workflows.pretrain import PretrainConfig, pretrain
from nuclr_cli.workflows.probe import probe
from nuclr_cli.workflows.probe_record import ProbeConfig
from nuclr_cli.workflows.reporting import SilentReporter
from nuclr_cli.workflows.runs import RunSession, create_run

SUBJECTS = ("m0", "m1", "m2", "m3")
N_UNITS = 30


class Listener(SilentReporter):
    """Keeps what the workflow warns of."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def warn(self, text: str) -> None:
        self.said.append(text)


def make_table(**metadata: str) -> EmbeddingTable:
    """Four subjects, two sessions each, two classes that the embeddings know."""
    rng = np.random.default_rng(0)
    n = len(SUBJECTS) * N_UNITS
    code = rng.integers(0, 2, n)
    values = rng.normal(size=(n, 8)) + 2.0 * np.eye(2, 8)[code]
    return EmbeddingTable(
        subject=np.repeat(SUBJECTS, N_UNITS),
        session=np.tile(np.repeat(["day1", "day2"], N_UNITS // 2), len(SUBJECTS)),
        population=np.full(n, "0"),
        unit_id=np.tile([f"u{i}" for i in range(N_UNITS)], len(SUBJECTS)),
        modality=np.full(n, "spikes"),
        n_windows=np.full(n, 3),
        n_events=np.full(n, 90),
        embedding=values.astype(np.float32),
        labels={"class": np.array(["E", "I"])[code]},
        metadata={"run": "r@1", **metadata},
    )


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("provenance") / "units.parquet"
    write_embeddings(make_table(), path)
    return path


def ask(file: Path, label: str = "class", listener: Listener | None = None, **options: object):
    asked = {
        "embeddings": file,
        "runs": file.parent / "none",
        "baselines": "none",
        "bootstrap": 20,
        **options,
    }
    return probe(ProbeConfig(label, **asked), listener)  # type: ignore[arg-type]


def test_a_unit_that_stands_twice_is_refused(file, tmp_path):
    path = tmp_path / "twice.parquet"
    table = pq.read_table(file)
    pq.write_table(pa.concat_tables([table, table.slice(3, 1)]), path)
    with pytest.raises(InputError, match="m0/day1/0/u3 stands twice") as caught:
        ask(path)
    assert caught.value.fix


def test_tables_of_different_runs_that_were_joined_are_refused(tmp_path):
    one = make_table(sessions=json.dumps([(s, d, "0") for s in SUBJECTS for d in ("day1", "day2")]))
    other = dataclasses.replace(
        make_table(), subject=np.char.replace(one.subject, "m", "x"), metadata={"run": "other@2"}
    )
    paths = [tmp_path / "one.parquet", tmp_path / "other.parquet"]
    for table, path in zip((one, other), paths, strict=True):
        write_embeddings(table, path)
    joined = tmp_path / "joined.parquet"
    pq.write_table(pa.concat_tables([pq.read_table(path) for path in paths]), joined)
    with pytest.raises(InputError, match="units of 8 sessions that were not embedded by the run") as caught:
        ask(joined)
    assert "(first: x0/day1/0)" in caught.value.what
    assert "one call" in caught.value.fix
    some = tmp_path / "some.parquet"
    pq.write_table(pq.read_table(paths[0]).slice(0, 3 * N_UNITS), some)  # dropping rows is no mixing
    assert ask(some).n_tested == 3 * N_UNITS
    write_embeddings(dataclasses.replace(one, metadata={"run": "r@1", "sessions": "[[1]]"}), some)
    with pytest.raises(InputError, match=r"metadata of .* is damaged"):
        ask(some)


def test_a_table_that_names_no_run_is_warned_about(tmp_path):
    path = tmp_path / "units.parquet"
    write_embeddings(dataclasses.replace(make_table(), metadata={}), path)
    listener = Listener()
    ask(path, listener=listener)
    assert any("does not say which run made it" in text for text in listener.said)


def test_an_animal_on_both_sides_of_a_session_split_is_warned_about(file, tmp_path):
    record = ask(file, split="session", folds=4)
    assert any("m0, m1, m2, m3 have several sessions" in text for text in record.warnings)
    assert not any("several sessions" in text for text in ask(file).warnings)
    path = tmp_path / "single.parquet"
    write_embeddings(dataclasses.replace(make_table(), session=np.full(4 * N_UNITS, "day")), path)
    assert not any("several sessions" in text for text in ask(path, split="session").warnings)


def test_a_feature_that_tells_the_subject_is_warned_about_on_a_unit_split(tmp_path):
    rng = np.random.default_rng(0)
    table = make_table()
    favourite = np.array(["x", "y", "x", "y"])[np.searchsorted(SUBJECTS, table.subject)]
    uneven = np.where(rng.random(len(favourite)) < 0.85, favourite, np.where(favourite == "x", "y", "x"))
    told = np.eye(4)[np.searchsorted(SUBJECTS, table.subject)] * 5.0
    path = tmp_path / "units.parquet"
    write_embeddings(
        dataclasses.replace(table, embedding=told.astype(np.float32), labels={"type": uneven}), path
    )
    by_unit, by_subject = ask(path, "type", split="unit"), ask(path, "type", split="subject")
    assert by_unit.methods[0].macro_f1.value > 0.75
    (found,) = [text for text in by_unit.warnings if "Knowing of a unit only its subject" in text]
    assert float(found.split("macro F1 ")[1].split()[0]) == pytest.approx(
        by_unit.methods[0].macro_f1.value, abs=0.001
    )
    assert not any("Knowing of a unit" in text for text in by_subject.warnings)
    chance = by_subject.methods[-1].macro_f1
    assert by_subject.methods[0].macro_f1.value < chance.high


def test_one_recording_under_two_names_is_noticed(tmp_path):
    table = make_table()
    values = table.embedding.copy()
    values[table.subject == "m3"] = values[table.subject == "m0"]
    path = tmp_path / "units.parquet"
    write_embeddings(dataclasses.replace(table, embedding=values), path)
    record = ask(path)
    found = [text for text in record.warnings if "exactly the embedding of a training unit" in text]
    assert found[0].startswith("60 tested units have")
    assert "m0/day1/0/u0 that of m3/day1/0/u0" in found[0]
    assert not any("exactly the embedding" in text for text in ask(path, test_subjects=("m1",)).warnings)


def test_subjects_that_differ_in_spelling_only_are_named(tmp_path):
    path = tmp_path / "units.parquet"
    table = make_table()
    write_embeddings(
        dataclasses.replace(table, subject=np.where(table.subject == "m3", "M0", table.subject)), path
    )
    assert any("spelling only: M0 and m0" in text for text in ask(path).warnings)


def make_run(root: Path, roles: dict[str, str], init_from=None, name="run", digests=None):
    sessions = [
        RunSession(subject, day, "0", 15, role, activity_digest=(digests or {}).get(subject, ""))  # type: ignore[arg-type]
        for subject, role in roles.items()
        for day in ("day1", "day2")
    ]
    settings = for_modalities(preset_settings("tiny"), frozenset({"spikes"}))
    return create_run(root / "runs", name, settings, root, sessions, init_from)


def knowledge(root: Path, run, **changes: object):
    """What a probe of a run's embeddings, tested on m2 and m3, claims to know."""
    table = dataclasses.replace(make_table(), metadata={"run": run.id}, **changes)  # type: ignore[arg-type]
    write_embeddings(table, run.embeddings)
    config = ProbeConfig(
        "class", run=run.folder, runs=root / "runs", baselines="none", bootstrap=20, split="subject"
    )
    record = probe(config)
    return record.knowledge, record.knowledge_why


ZERO_SHOT = {"m0": "train", "m1": "train", "m2": "held-out", "m3": "held-out"}


def test_what_pretraining_saw_cannot_be_hidden(tmp_path):
    run = make_run(tmp_path, ZERO_SHOT)
    assert knowledge(tmp_path, run)[0] == "inductive"

    # A renamed folder is the same run, found by its id.
    file = tmp_path / "elsewhere.parquet"
    shutil.copy(run.embeddings, file)
    run.folder.rename(tmp_path / "runs" / "renamed")
    asked = ProbeConfig(
        "class", embeddings=file, runs=tmp_path / "runs", baselines="none", bootstrap=20,
        test_subjects=("m0", "m2"),
    )  # fmt: skip
    assert probe(asked).knowledge == "transductive"
    assert probe(dataclasses.replace(asked, test_subjects=("m2",))).knowledge == "inductive"

    # What `nuclr embed` wrote into the file counts beside the run's record.
    told = dataclasses.replace(
        load_embeddings(file), metadata={"run": run.id, "trained_subjects": "m0\nm1\nm2"}
    )
    write_embeddings(told, file)
    assert probe(dataclasses.replace(asked, test_subjects=("m2",))).knowledge == "transductive"

    # A file that names no run is not taken for that of the run that the user names.
    write_embeddings(dataclasses.replace(told, metadata={}), file)
    silent = probe(dataclasses.replace(asked, run=tmp_path / "runs" / "renamed", test_subjects=("m2",)))
    assert silent.knowledge == "unknown"
    assert "does not say that run made it" in silent.knowledge_why


def test_weights_of_unknown_history_are_not_called_new_to_anybody(tmp_path):
    first = make_run(tmp_path, dict.fromkeys(SUBJECTS, "train"), name="first")
    tuned = make_run(tmp_path, ZERO_SHOT, first, name="tuned")
    assert knowledge(tmp_path, tuned)[0] == "transductive"
    path = tuned.folder / "run.json"
    older = json.loads(path.read_text())
    del older["inherited_subjects"]  # as records were before that was written down
    path.write_text(json.dumps(older))
    status, why = knowledge(tmp_path, tuned)
    assert status == "unknown"
    assert "was not written down" in why


def test_a_run_does_not_start_from_another_run_that_has_taken_its_ancestors_place(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for i, subject in enumerate(("s0", "s1")):
        population = tiny_population(i, n_units=24, minutes=1.0, subject=subject, session="day")
        write_population(population, data / f"{subject}.h5", source=SourceRecord("tiny", "test", ""))
    keys = [(s.key, s.n_units, s.activity_digest) for s in open_sessions(data)]
    settings = for_modalities(preset_settings("tiny"), frozenset({"spikes"}))

    def run(name, trained, init_from=None):
        sessions = [
            RunSession(key.subject, key.session, key.population, n, role, activity_digest=digest)
            for key, n, digest in keys
            for role in ["train" if key.subject in trained else "held-out"]
        ]
        return create_run(tmp_path / "runs", name, settings, data, sessions, init_from)

    first = run("first", ("s0",))
    run("tuned", ("s0",), first)  # stopped before its first checkpoint
    shutil.rmtree(first.folder)
    run("first", ("s0", "s1"))
    with pytest.raises(InputError, match=r"first is not the run any more .* also seen s1") as caught:
        pretrain(PretrainConfig(data=data, runs=tmp_path / "runs", name="tuned", resume=True, gpus=0))
    assert "--init-from" in caught.value.fix


def test_a_held_out_recording_that_was_trained_under_another_name_is_found(tmp_path):
    digests = {"m0": "aaa", "m1": "bbb", "m2": "aaa", "m3": "ddd"}
    status, why = knowledge(tmp_path, make_run(tmp_path, ZERO_SHOT, digests=digests))
    assert status == "transductive"
    assert "m2 is m0" in why


def test_a_test_subject_that_pretraining_saw_in_another_spelling_is_not_called_new(tmp_path):
    roles = {"M2": "train", "m0": "train", "m2": "held-out", "m3": "held-out"}
    status, why = knowledge(tmp_path, make_run(tmp_path, roles))
    assert status == "unknown"
    assert "spelling only (m2)" in why


def test_folds_test_all_subjects_even_where_some_were_held_out(tmp_path):
    run = make_run(tmp_path, ZERO_SHOT)
    knowledge(tmp_path, run)
    config = ProbeConfig("class", run=run.folder, baselines="none", bootstrap=20, folds=2)
    record = probe(config)
    assert record.test_subjects == SUBJECTS
    assert record.knowledge == "transductive"
    assert any("leave --folds away to test on exactly those" in text for text in record.notes)
