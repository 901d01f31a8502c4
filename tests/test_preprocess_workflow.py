"""What `preprocess` writes, when it refuses, and that it never leaves half of something."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from nuclr_cli.data.sessions import open_sessions
from nuclr_cli.errors import InputError
from nuclr_cli.workflows.info import InfoConfig, info
from nuclr_cli.workflows.preprocess import PreprocessConfig, PreprocessRecord, SourcesFailed, preprocess
from nuclr_cli.workflows.reporting import SilentReporter


class Listener(SilentReporter):
    """Keeps what the workflow says."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def make_sorting(
    folder: Path,
    unit_ids: Sequence[Any] = ("a", "b", "007"),
    seed: int = 0,
    properties: Mapping[str, Sequence[Any]] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Path:
    """A numpy_folder of 20 s with 600 spikes."""
    rng = np.random.default_rng(seed)
    spikes = np.zeros(600, dtype=[("sample_index", "i8"), ("unit_index", "i8"), ("segment_index", "i8")])
    spikes["sample_index"] = np.sort(rng.integers(0, 600_000, 600))
    spikes["unit_index"] = rng.integers(0, len(unit_ids), 600)
    (folder / "properties").mkdir(parents=True)
    np.save(folder / "spikes.npy", spikes)
    for name, values in (properties or {}).items():
        np.save(folder / "properties" / f"{name}.npy", np.array(values))
    settings = {"sampling_frequency": 30_000.0, "unit_ids": list(unit_ids), "num_segments": 1}
    (folder / "numpysorting_info.json").write_text(json.dumps(settings))
    (folder / "annotations.json").write_text(json.dumps(dict(annotations or {})))
    return folder


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def run(tmp_path: Path, *sources: Path, **settings: Any) -> PreprocessRecord:
    return preprocess(PreprocessConfig(sources=sources, out=tmp_path / "data", **settings), Listener())


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder, hidden ones too: name -> (size, mtime)."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(p.relative_to(folder)): (p.stat().st_size, p.stat().st_mtime_ns) for p in files}


def test_one_sorting_becomes_one_file_named_after_its_key(tmp_path: Path) -> None:
    record = run(tmp_path, make_sorting(tmp_path / "sorting", properties={"cell_type": ["PV", "", "SST"]}))
    (source,) = record.sources
    assert (source.status, source.reader) == ("written", "spikeinterface")
    assert "numpy_folder" in source.detected
    (summary,) = record.sessions
    assert summary.file == tmp_path / "data" / "sorting_sorting_0.h5"
    assert summary.subject_assumed
    assert summary.labels["cell_type"] == {"": 1, "PV": 1, "SST": 1}
    (session,) = open_sessions(tmp_path / "data")
    assert session.unit_ids.tolist() == ["a", "b", "007"]
    assert session.label("cell_type").tolist() == ["PV", "", "SST"]
    assert session.columns["n_spikes"].sum() == 600
    assert session.meta.source is not None
    assert {file.name for file in session.meta.source.files} >= {"spikes.npy", "properties/cell_type.npy"}
    assert list(contents(tmp_path / "data")) == ["sorting_sorting_0.h5"]


def test_everything_found_and_assumed_is_said(tmp_path: Path) -> None:
    listener = Listener()
    source = make_sorting(tmp_path / "sorting", properties={"location": ["CA1", "", ""]})
    preprocess(PreprocessConfig(sources=(source,), out=tmp_path / "data"), listener)
    said = "\n".join(listener.notes)
    for part in (
        "Read as SpikeInterface numpy_folder",
        "location",
        "brain_region",
        "last spike",
        "who the subject",
    ):
        assert part in said


def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    source = make_sorting(tmp_path / "sorting")
    run(tmp_path, source)
    before = contents(tmp_path / "data")
    record = run(tmp_path, source)
    assert [outcome.status for outcome in record.sources] == ["skipped"]
    assert record.sessions[0].n_units == 3
    assert contents(tmp_path / "data") == before
    os.utime(source / "spikes.npy")  # touched, not changed
    assert run(tmp_path, source).count("skipped") == 1
    assert contents(tmp_path / "data") == before


def test_a_changed_source_is_never_overwritten_silently(tmp_path: Path) -> None:
    source = make_sorting(tmp_path / "sorting")
    run(tmp_path, source)
    before = contents(tmp_path / "data")
    spikes = np.load(source / "spikes.npy")
    np.save(source / "spikes.npy", spikes[:-1])
    with pytest.raises(InputError, match=r"has changed since .*spikes\.npy has another size") as caught:
        run(tmp_path, source)
    assert "--overwrite" in caught.value.fix
    spikes["unit_index"][0] = (spikes["unit_index"][0] + 1) % 3
    np.save(source / "spikes.npy", spikes)
    with pytest.raises(InputError, match=r"spikes\.npy has another content"):
        run(tmp_path, source)
    np.save(source / "properties" / "depth.npy", np.arange(3))
    with pytest.raises(InputError, match=r"properties/depth\.npy is new"):
        run(tmp_path, source)
    assert contents(tmp_path / "data") == before
    run(tmp_path, source, overwrite=True)
    (session,) = open_sessions(tmp_path / "data")
    assert "depth" in session.columns


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"subject": "m1"}, "subject: was not given, is now 'm1'"),
        ({"keep": ("all",)}, r"keep: was not given, is now \['all'\]"),
        ({"duration_s": (30.0,)}, r"duration_s: was not given, is now \[30.0\]"),
        ({"segment_starts_s": (5.0,)}, "segment_starts_s: was not given"),
        ({"fs_hz": 30_000.0}, "fs_hz: was not given, is now 30000.0"),
    ],
)
def test_other_options_are_named_and_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    source = make_sorting(tmp_path / "sorting")
    run(tmp_path, source)
    before = contents(tmp_path / "data")
    with pytest.raises(InputError, match=message):
        run(tmp_path, source, **settings)
    assert contents(tmp_path / "data") == before
    run(tmp_path, source, overwrite=True, **settings)
    assert len(open_sessions(tmp_path / "data")) == 1


def test_overwriting_under_another_subject_leaves_no_twin(tmp_path: Path) -> None:
    source = make_sorting(tmp_path / "sorting")
    run(tmp_path, source)
    listener = Listener()
    config = PreprocessConfig(sources=(source,), out=tmp_path / "data", subject="m9", overwrite=True)
    preprocess(config, listener)
    assert [session.key.subject for session in open_sessions(tmp_path / "data")] == ["m9"]
    assert any("was removed" in note for note in listener.notes)


def test_a_damaged_file_is_noticed(tmp_path: Path) -> None:
    source = make_sorting(tmp_path / "sorting")
    file = run(tmp_path, source).sessions[0].file
    with h5py.File(file, "r+") as stored:
        stored["spikes/timestamps"][3] += 1e-9
    with pytest.raises(InputError, match="damaged: spikes/timestamps") as caught:
        run(tmp_path, source)
    assert "--overwrite" in caught.value.fix
    record = info(InfoConfig(tmp_path / "data", verify=True))
    assert record.damaged[0].damaged == ("spikes/timestamps",)
    run(tmp_path, source, overwrite=True)
    assert info(InfoConfig(tmp_path / "data", verify=True)).damaged == ()


def test_a_cut_off_file_is_in_the_way_until_overwrite(tmp_path: Path) -> None:
    source = make_sorting(tmp_path / "sorting")
    file = run(tmp_path, source).sessions[0].file
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(InputError, match="in the way, and it is damaged"):
        run(tmp_path, source)
    run(tmp_path, source, overwrite=True)
    assert list(contents(tmp_path / "data")) == ["sorting_sorting_0.h5"]


def test_two_sources_of_one_key_are_refused_and_neither_written(tmp_path: Path) -> None:
    first = make_sorting(tmp_path / "A" / "sorting")
    second = make_sorting(tmp_path / "B" / "sorting", seed=1)
    third = make_sorting(tmp_path / "other", seed=2)
    with pytest.raises(SourcesFailed, match="are both subject 'sorting'") as caught:
        run(tmp_path, first, second, third, jobs=1)
    assert "--subject" in caught.value.fix
    assert caught.value.exit_code == 3
    assert [source.status for source in caught.value.record.sources] == ["failed", "failed", "written"]
    assert list(contents(tmp_path / "data")) == ["other_other_0.h5"]


def test_a_key_that_is_there_from_another_source_is_refused(tmp_path: Path) -> None:
    run(tmp_path, make_sorting(tmp_path / "A" / "sorting"))
    before = contents(tmp_path / "data")
    other = make_sorting(tmp_path / "B" / "sorting", seed=1)
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"is already in .*made from .*A/sorting"):
            run(tmp_path, other, overwrite=overwrite)
    assert contents(tmp_path / "data") == before
    run(tmp_path, other, subject="B")
    assert len(open_sessions(tmp_path / "data")) == 2


def test_a_source_that_moved_is_recognised_by_its_bytes(tmp_path: Path) -> None:
    source = make_sorting(tmp_path / "sorting", annotations={"subject_id": "m", "session": "d"})
    run(tmp_path, source)
    before = contents(tmp_path / "data")
    moved = shutil.copytree(source, tmp_path / "elsewhere" / "sorting")
    record = run(tmp_path, moved)
    assert record.count("skipped") == 1
    assert len(record.sessions) == 1
    assert contents(tmp_path / "data") == before


def test_a_damaged_file_is_not_kept_for_a_copy_of_its_source(tmp_path: Path) -> None:
    source = make_sorting(tmp_path / "sorting", annotations={"subject_id": "m", "session": "d"})
    file = run(tmp_path, source).sessions[0].file
    moved = shutil.copytree(source, tmp_path / "elsewhere" / "sorting")
    with h5py.File(file, "r+") as stored:
        stored["spikes/unit_index"][0] += 1
    with pytest.raises(InputError, match="damaged: spikes/unit_index") as caught:
        run(tmp_path, moved)
    assert "--overwrite" in caught.value.fix
    record = run(tmp_path, moved, overwrite=True)
    assert record.count("written") == 1
    assert list(contents(tmp_path / "data")) == [file.name]
    assert info(InfoConfig(tmp_path / "data", verify=True)).damaged == ()
    assert run(tmp_path, moved).count("skipped") == 1


def test_files_without_permission_are_named(tmp_path: Path) -> None:
    source = make_sorting(tmp_path / "sorting")
    file = run(tmp_path, source).sessions[0].file
    (source / "spikes.npy").chmod(0)
    file.chmod(0)
    if os.access(file, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(InputError, match=r"No permission to read .*spikes\.npy"):
        run(tmp_path, source, overwrite=True)
    with pytest.raises(InputError, match=rf"No permission to read .*{file.name}"):
        info(InfoConfig(tmp_path / "data"))


def test_stated_keys_that_clash_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    sources = [make_sorting(tmp_path / name) for name in "AB"]
    with pytest.raises(InputError, match="are both subject 'm', session 'd'"):
        run(tmp_path, *sources, subject="m", session="d")
    with pytest.raises(InputError, match="given twice"):
        run(tmp_path, sources[0], tmp_path / "B" / ".." / "A")
    assert not (tmp_path / "data").exists()


def test_one_failing_source_does_not_stop_the_others(tmp_path: Path) -> None:
    sources = [make_sorting(tmp_path / name, seed=i) for i, name in enumerate("ABC")]
    (sources[1] / "spikes.npy").write_bytes(b"broken")
    with pytest.raises(SourcesFailed, match="1 of 3 sources failed") as caught:
        run(tmp_path, *sources, jobs=2)
    assert str(sources[1] / "spikes.npy") in caught.value.what
    assert sorted(contents(tmp_path / "data")) == ["A_A_0.h5", "C_C_0.h5"]
    with pytest.raises(SourcesFailed) as caught:
        run(tmp_path, *sources)
    assert [outcome.status for outcome in caught.value.record.sources] == ["skipped", "failed", "skipped"]


def test_an_unknown_source_stops_everything_before_it_begins(tmp_path: Path) -> None:
    good = make_sorting(tmp_path / "good")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="2 of 3 sources cannot be used") as caught:
        run(tmp_path, good, tmp_path / "empty", tmp_path / "nowhere")
    assert "nowhere does not exist" in caught.value.what
    assert "No reader recognises" in caught.value.what
    assert not (tmp_path / "data").exists()


def test_processes_and_their_number_do_not_change_the_bytes(tmp_path: Path) -> None:
    sources = tuple(make_sorting(tmp_path / name, seed=i) for i, name in enumerate("ABCD"))
    for jobs in (1, 2):
        preprocess(PreprocessConfig(sources=sources, out=tmp_path / f"out{jobs}", jobs=jobs))
    for file in (tmp_path / "out1").iterdir():
        assert file.read_bytes() == (tmp_path / "out2" / file.name).read_bytes()


def test_file_names_are_safe_and_never_shared(tmp_path: Path) -> None:
    keys = [("a_b", "c"), ("a", "b_c"), ("m/1", "../x"), ("m-1", "x"), ("Ünit", "日"), (".hidden", "x" * 300)]
    for number, (subject, session) in enumerate(keys):
        source = make_sorting(tmp_path / str(number), seed=number)
        run(tmp_path, source, subject=subject, session=session)
    sessions = open_sessions(tmp_path / "data")
    assert sorted((s.key.subject, s.key.session) for s in sessions) == sorted(keys)
    assert all(session.path.parent == tmp_path / "data" for session in sessions)
    assert all(len(session.path.name) < 200 and session.path.name.isascii() for session in sessions)


# --- manifest


def manifest_rows(tmp_path: Path, names: str = "AB") -> list[dict[str, Any]]:
    rows = []
    for number, name in enumerate(names):
        make_sorting(tmp_path / "raw" / name, seed=number, properties={"brain_region": ["ctx", "ctx", ""]})
        rows.append(
            {"path": name, "subject": f"s{number}", "session": "d1", "age": "21.0", "brain_region": "ctx"}
        )
    return rows


def run_manifest(tmp_path: Path, rows: Sequence[Mapping[str, Any]], **settings: Any) -> PreprocessRecord:
    manifest = write_csv(tmp_path / "raw" / "sessions.csv", rows)
    return preprocess(PreprocessConfig(manifest=manifest, out=tmp_path / "data", jobs=1, **settings))


def test_manifest_columns_are_options_attributes_and_labels(tmp_path: Path) -> None:
    rows = manifest_rows(tmp_path)
    rows[0] |= {"duration_s": "25.5", "fs_hz": "30000", "segment_starts": "100"}
    rows[1] |= {"duration_s": "", "fs_hz": "", "segment_starts": ""}
    run_manifest(tmp_path, rows, broadcast=("brain_region",))
    first, second = open_sessions(tmp_path / "data")
    assert (first.key.subject, second.key.subject) == ("s0", "s1")
    np.testing.assert_array_equal(first.intervals, [[100.0, 125.5]])
    assert second.intervals[0, 0] == 0.0
    assert first.attributes["age"] == "21.0"
    assert first.label("brain_region").tolist() == ["ctx"] * 3
    assert not first.subject_assumed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[1].update(path="nowhere"), r"1 of 2 paths do not exist: row 3: .*nowhere"),
        (lambda rows: rows[1].update(path="./A"), "rows 2 and 3 name the same source"),
        (lambda rows: rows[1].update(subject="s0"), "rows 2 and 3 name the same subject and session"),
        (lambda rows: rows[1].update(session=""), "row 3: the column 'session' is empty"),
        (lambda rows: [row.pop("subject") for row in rows], "no column 'subject'"),
        (lambda rows: [row.update(duration_s="long") for row in rows], "row 2, column duration_s: 'long'"),
        (lambda rows: [row.update(fs_hz="1 2") for row in rows], "row 2: fs_hz holds 2 numbers"),
        (lambda rows: [row.update(reader="nwbb") for row in rows], "There is no reader 'nwbb'"),
        (lambda rows: rows[0].update(brain_region="hpc"), "says 'hpc' for unit 'a' of s0/d1.*says 'ctx'"),
    ],
)
def test_wrong_manifests_are_refused(
    tmp_path: Path, change: Callable[[list[dict[str, Any]]], Any], message: str
) -> None:
    rows = manifest_rows(tmp_path)
    change(rows)
    with pytest.raises(InputError, match=message) as caught:
        run_manifest(tmp_path, rows, broadcast=("brain_region",))
    assert caught.value.exit_code == 3


def test_columns_named_almost_like_an_option_are_pointed_out(tmp_path: Path) -> None:
    rows = [{**row, "duration": 30.0, "weight": 1} for row in manifest_rows(tmp_path, "A")]
    listener = Listener()
    table = write_csv(tmp_path / "raw" / "sessions.csv", rows)
    preprocess(PreprocessConfig(manifest=table, out=tmp_path / "data"), listener)
    (warning,) = [told for told in listener.warnings if "sessions.csv" in told]
    assert "'duration'" in warning
    assert "'duration_s'" in warning


def test_broadcast_needs_a_column_that_is_there(tmp_path: Path) -> None:
    rows = manifest_rows(tmp_path)
    with pytest.raises(InputError, match="no such column") as caught:
        run_manifest(tmp_path, rows, broadcast=("brain_regoin",))
    assert caught.value.fix == "--broadcast brain_region"
    with pytest.raises(InputError, match="names a column of a manifest"):
        run(tmp_path, tmp_path / "raw" / "A", broadcast=("age",))
    with pytest.raises(InputError, match="both say --subject"):
        run_manifest(tmp_path, rows, subject="m")
    with pytest.raises(InputError, match="either sources or a manifest"):
        preprocess(PreprocessConfig(sources=(tmp_path,), manifest=tmp_path / "m.csv"))
    with pytest.raises(InputError, match="nothing to preprocess"):
        preprocess(PreprocessConfig())


def test_ragged_and_unreadable_manifests_name_the_row(tmp_path: Path) -> None:
    make_sorting(tmp_path / "A")
    for text, message in (
        ("path,subject,session\nA,m,d,extra\n", "row 2: 4 values for 3 columns"),
        ("path,subject,subject\nA,m,d\n", "names subject twice"),
        ("path,subject,session\n", "has no rows"),
        ("", "is empty"),
        ("path,subject,\nA,m,d\n", "column without a name"),
    ):
        (tmp_path / "m.csv").write_text(text)
        with pytest.raises(InputError, match=message):
            preprocess(PreprocessConfig(manifest=tmp_path / "m.csv", out=tmp_path / "data"))
    (tmp_path / "m.csv").write_bytes(b"path\xff\xfe")
    with pytest.raises(InputError, match="cannot be read as a table"):
        preprocess(PreprocessConfig(manifest=tmp_path / "m.csv", out=tmp_path / "data"))
    with pytest.raises(InputError, match="does not exist"):
        preprocess(PreprocessConfig(manifest=tmp_path / "none.csv", out=tmp_path / "data"))
    assert not (tmp_path / "data").exists()


def run_labels(tmp_path: Path, text: str, **settings: Any) -> PreprocessRecord:
    source = tmp_path / "sorting"
    if not source.exists():
        make_sorting(source)
    table = tmp_path / "labels.csv"
    table.write_text(text)
    return run(tmp_path, source, labels=table, **settings)


def test_labels_land_on_their_units_as_written(tmp_path: Path) -> None:
    record = run_labels(tmp_path, "unit_id,cell_type,group\n007,NA,01\na,None,\n")
    (session,) = open_sessions(tmp_path / "data")
    assert session.unit_ids.tolist() == ["a", "b", "007"]
    assert session.label("cell_type").tolist() == ["None", "", "NA"]
    assert session.label("group").tolist() == ["", "", "01"]
    assert any("labels 2 of 3 units; 1 is not in the table" in note for note in record.sessions[0].notes)


def test_labels_without_a_known_id_column_use_the_first_and_say_so(tmp_path: Path) -> None:
    record = run_labels(tmp_path, "neuron\tcell_type\nb\tPV, fast\n")
    (session,) = open_sessions(tmp_path / "data")
    assert session.label("cell_type").tolist() == ["", "PV, fast", ""]
    assert any("taken from its column 'neuron'" in note for note in record.sessions[0].notes)


@pytest.mark.parametrize(
    "text",
    [
        "unit_id;cell_type;group\r\n007;PV, fast;NA\r\n\r\n;;\r\n",
        "\ufeffunit_id;cell_type;group\n007;PV, fast;NA",
        'unit_id,cell_type,group\n007,"PV, fast",NA\n',
        "unit_id\tcell_type\tgroup\n007\tPV, fast\tNA\n",
    ],
)
def test_tables_of_every_spreadsheet_are_read(tmp_path: Path, text: str) -> None:
    run_labels(tmp_path, text)
    (session,) = open_sessions(tmp_path / "data")
    assert session.label("cell_type").tolist() == ["", "", "PV, fast"]
    assert session.label("group").tolist() == ["", "", "NA"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("unit_id,cell_type\na,PV\na,SST\n", "rows 2 and 3 both name unit 'a'"),
        ("unit_id,cell_type\n7,PV\n", "1 of its unit ids are not in session .*: '7'"),
        ("unit_id,cell_type\n,PV\n", "row 2: the unit id is empty"),
        ("unit_id\na\n", "no label column"),
        ("unit_id,n_spikes\na,3\n", "n_spikes cannot be a label"),
        ("id,cluster_id,cell_type\na,b,PV\n", "id cannot be a label"),
        ("unit_id,depth_name\na,1,2\n", "row 2: 3 values for 2 columns"),
    ],
)
def test_wrong_label_tables_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        run_labels(tmp_path, text)
    assert "labels.csv" in caught.value.what
    assert not (tmp_path / "data").exists()


def test_labels_that_contradict_a_property_are_refused(tmp_path: Path) -> None:
    make_sorting(tmp_path / "sorting", properties={"cell_type": ["PV", "", "SST"]})
    with pytest.raises(InputError, match=r"says 'PV' for unit '007'.*says 'SST'"):
        run_labels(tmp_path, "id,cell_type\na,PV\nb,SST\n007,PV\n")
    run_labels(tmp_path, "id,cell_type\na,PV\nb,SST\n")
    (session,) = open_sessions(tmp_path / "data")
    assert session.label("cell_type").tolist() == ["PV", "SST", "SST"]


def test_other_labels_are_other_options(tmp_path: Path) -> None:
    run_labels(tmp_path, "id,cell_type\na,PV\n")
    assert run_labels(tmp_path, "id,cell_type\na,PV\n").count("skipped") == 1
    with pytest.raises(InputError, match="with other options: labels: was"):
        run_labels(tmp_path, "id,cell_type\na,SST\n")


def test_labels_of_units_left_out_as_noise_are_no_error(tmp_path: Path) -> None:
    make_sorting(tmp_path / "sorting", properties={"quality": ["good", "noise", "good"]})
    record = run_labels(tmp_path, "id,cell_type\na,PV\nb,SST\n")
    assert record.sessions[0].n_units == 2
    assert any("1 row of labels.csv is about a unit that was left out" in n for n in record.sessions[0].notes)


def test_labels_of_several_sessions_need_to_say_which(tmp_path: Path) -> None:
    sources = [make_sorting(tmp_path / name, seed=i) for i, name in enumerate("AB")]
    table = tmp_path / "labels.tsv"
    table.write_text("unit_id\tcell_type\na\tPV\n")
    with pytest.raises(InputError, match="does not say which session"):
        run(tmp_path, *sources, labels=table)
    table.write_text("subject\tsession\tunit_id\tcell_type\nA\tA\ta\tPV\nB\tB\tb\tSST\nC\tC\tz\tSST\n")
    listener = Listener()
    preprocess(PreprocessConfig(sources=tuple(sources), out=tmp_path / "data", labels=table), listener)
    assert any("1 row of labels.tsv is about sessions that are not among" in w for w in listener.warnings)
    first, second = open_sessions(tmp_path / "data")
    assert first.label("cell_type").tolist() == ["PV", "", ""]
    assert second.label("cell_type").tolist() == ["", "SST", ""]


# --- command line


@pytest.mark.parametrize(
    ("source", "trainable"), [("si/kilosort4_phy_curated", False), ("nwb/ephys.nwb", True)]
)
def test_the_next_step_is_named_only_where_it_can_work(
    nuclr: Callable[..., Any], shared: Path, tmp_path: Path, source: str, trainable: bool
) -> None:
    done = nuclr("preprocess", shared / "samples" / source, cwd=tmp_path)
    assert done.code == 0, done.err
    assert ("next: nuclr pretrain" in done.out + done.err) == trainable
    assert ("No population has the 11 units that pretraining needs" in done.err) != trainable


def test_the_commands_talk_and_exit_as_promised(
    nuclr: Callable[..., Any], shared: Path, tmp_path: Path
) -> None:
    curated = shared / "samples" / "si" / "kilosort4_phy_curated"
    assert nuclr("preprocess", cwd=tmp_path).code == 2
    assert nuclr("preprocess", "nowhere", cwd=tmp_path).code == 3
    done = nuclr("preprocess", curated, "--keep", "good,mua", "--duration", "20", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    (source,) = done.json["sources"]
    assert source["status"] == "written"
    assert source["sessions"][0]["n_units"] == 6
    assert "left out by their quality (noise 1): 2" in done.err
    again = nuclr("preprocess", curated, cwd=tmp_path)
    assert again.code == 3
    assert "keep" in again.err
    assert "duration_s" in again.err
    assert "Traceback" not in again.err
    everything = nuclr("preprocess", curated, "--keep", "all", "--overwrite", "--json", cwd=tmp_path)
    assert everything.json["sources"][0]["sessions"][0]["n_units"] == 7
    shown = nuclr("info", "--verify", cwd=tmp_path)
    assert shown.code == 0, shown.err
    assert "kilosort4_phy_curated" in shown.out
    assert "noise 1" in shown.out
    assert nuclr("info", "--json", cwd=tmp_path).json["sessions"][0]["labels"]["group"] == {
        "": 4,
        "good": 2,
        "noise": 1,
    }
    assert nuclr("info", "elsewhere", cwd=tmp_path).code == 3


def test_info_exits_with_3_when_a_file_is_damaged(nuclr: Callable[..., Any], tmp_path: Path) -> None:
    file = run(tmp_path, make_sorting(tmp_path / "sorting")).sessions[0].file
    with h5py.File(file, "r+") as stored:
        stored["spikes/unit_index"][0] += 1
    shown = nuclr("info", tmp_path / "data", "--verify")
    assert shown.code == 3
    assert "spikes/unit_index" in shown.err
    assert nuclr("info", tmp_path / "data").code == 0


def test_json_is_one_document_whatever_the_output_can_encode(
    nuclr: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_sorting(tmp_path / "sörting", unit_ids=("α", "b"))
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = nuclr("preprocess", source, "-o", tmp_path / "däta", "--json")
    assert done.code == 0, done.err
    assert done.json["out"] == str(tmp_path / "däta")
    assert nuclr("info", tmp_path / "däta", "--json").json["sessions"][0]["subject"] == "sörting"
    if sys.platform == "linux":  # other systems take no such name
        monkeypatch.setenv("PYTHONIOENCODING", "utf-8:strict")
        unnamed = (tmp_path / "däta").rename(tmp_path / "d\udcff")
        assert nuclr("info", unnamed, "--json").json["data"] == str(unnamed)


def test_text_of_the_user_is_shown_as_it_is(nuclr: Callable[..., Any], tmp_path: Path) -> None:
    source = make_sorting(tmp_path / "sorting")
    done = nuclr("preprocess", source, "--subject", ":dog:", "--session", "[red]x[/]", cwd=tmp_path)
    assert ":dog:" in done.out
    assert "[red]x[/]" in done.out


def test_paths_that_the_system_refuses_are_bad_input(nuclr: Callable[..., Any], tmp_path: Path) -> None:
    source = make_sorting(tmp_path / "sorting")
    endless = "x" * 300
    for command in (("preprocess", endless), ("preprocess", source, "-o", endless), ("info", endless)):
        done = nuclr(*command, "--json", cwd=tmp_path)
        assert done.code == 3
        assert endless in done.json["error"]["what"]
        assert "too long" in done.json["error"]["what"]
        assert "Traceback" not in done.err


FATAL_READER = """
import os, signal
from nuclr_cli.api import Reader, hookimpl

class Fatal(Reader):
    name = "fatal"

    def detect(self, path):
        return "fatal" if path.suffix == ".fatal" else None

    def sources(self, path):
        return [path]

    def read(self, path, options):
        os.kill(os.getpid(), signal.SIGKILL)

@hookimpl
def nuclr_readers():
    return [Fatal()]
"""


# The sources are handed out so slowly that the first worker is gone before the last source.
SLOW = """
import sys, time
from nuclr_cli.cli.app import main
from nuclr_cli.workflows.population_folder import PopulationFolder

staging = PopulationFolder.staging

def slow(self, number):
    time.sleep(0.0 if number == 0 else 0.5)
    return staging(self, number)

PopulationFolder.staging = slow
sys.argv = ["nuclr", *sys.argv[1:]]
main()
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("slow", [False, True], ids=["read", "handed out"])
def test_a_reader_killed_for_its_memory_is_no_bug_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: bool
) -> None:
    package = tmp_path / "site" / "fatal-1.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: fatal\nVersion: 1\n")
    (package / "entry_points.txt").write_text("[nuclr]\nfatal = fatal\n")
    (tmp_path / "site" / "fatal.py").write_text(FATAL_READER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    names = [f"{name}.fatal" for name in "abcdefgh"]
    for name in names:
        (tmp_path / name).touch()
    start = ["-c", SLOW] if slow else ["-m", "nuclr_cli"]
    done = subprocess.run(
        [sys.executable, *start, "preprocess", *names, "--jobs", "2", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 3, done.stderr
    error = json.loads(done.stdout)["error"]
    assert "memory" in error["what"]
    assert "--jobs 1" in error["fix"]
    assert not (tmp_path / "nuclr-data").exists()
