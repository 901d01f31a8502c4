"""`nuclr label` changes labels and nothing else, in all files or in none, and keeps a history."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import temporaldata

from nuclr_cli.api import CalciumTraces, Population
from nuclr_cli.data.sessions import open_sessions
from nuclr_cli.data.store import SourceRecord, verify, write_population
from nuclr_cli.errors import InputError
from nuclr_cli.workflows.label import LabelConfig, label

CULTURES = ("2006-10-02/TC92-NB-C57-DIV18_A", "2009-07-27/CTX_TC51_G2CEPHYS1_DIV17_A")
Run = Callable[..., Any]


@pytest.fixture(scope="module")
def made(nuclr: Run, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two real sortings and the session files made from them."""
    place = tmp_path_factory.mktemp("made")
    for name in CULTURES:
        shutil.copytree(shared / "data" / "mea" / name, place / name.rpartition("/")[2])
    done = nuclr("preprocess", *(name.rpartition("/")[2] for name in CULTURES), cwd=place)
    assert done.code == 0, done.err
    return place


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "place")


@pytest.fixture
def with_source(nuclr: Run, shared: Path, tmp_path: Path) -> Path:
    """A folder with the first sorting and its session file, which names that very source."""
    name = CULTURES[0].rpartition("/")[2]
    shutil.copytree(shared / "data" / "mea" / CULTURES[0], tmp_path / name)
    assert nuclr("preprocess", name, cwd=tmp_path).code == 0
    return tmp_path


def files(place: Path) -> dict[str, bytes]:
    """Every file of the DATA folder, hidden ones too."""
    return {path.name: path.read_bytes() for path in (place / "nuclr-data").iterdir()}


def arrays(path: Path) -> dict[str, tuple[str, bytes]]:
    """dtype and bytes of every dataset but the units table and the metadata."""
    found: dict[str, tuple[str, bytes]] = {}

    def keep(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and not name.startswith(("units/", "rois/", "nuclr_meta")):
            found[name] = (str(item.dtype), item[()].tobytes())

    with h5py.File(path) as file:
        file.visititems(keep)
    return found


def one(place: Path) -> Path:
    (path,) = (place / "nuclr-data").glob("TC92*.h5")
    return path


def test_labels_are_added_as_written_and_the_recording_stays(nuclr: Run, place: Path) -> None:
    path = one(place)
    before, (session,) = arrays(path), open_sessions(path)
    digest, columns = session.activity_digest, list(session.columns)
    (place / "labels.csv").write_text("unit_id;cell_type;note\r\n3;PV, fast;007\r\n56;NA;None\r\n")
    done = nuclr("label", path, "--labels", "labels.csv", "--json", cwd=place)
    assert done.code == 0, done.err
    (outcome,) = done.json["sessions"]
    assert outcome["status"] == "written"
    assert outcome["session"]["labels"]["cell_type"] == {"": 55, "NA": 1, "PV, fast": 1}
    assert arrays(path) == before
    assert len(before) == 7
    assert verify(path) == []
    (session,) = open_sessions(path)
    assert session.activity_digest == digest
    assert list(session.columns) == [*columns, "cell_type", "note"]
    assert session.label("cell_type")[[2, 3, 56]].tolist() == ["", "PV, fast", "NA"]
    assert session.label("note")[[3, 56]].tolist() == ["007", "None"]
    with h5py.File(path) as file:
        assert file["spikes/timestamps"].id.get_offset() % 4096 == 0
        assert file["spikes/timestamps"].chunks is None
    (shown,) = nuclr("info", path, "--verify", "--json").json["sessions"]
    (entry,) = shown["label_history"]
    (action,) = entry["actions"]
    assert action["what"] == "labels"
    assert (action["file"], action["columns"]) == ("labels.csv", ["cell_type", "note"])
    assert (action["labelled"], action["changed"]) == (2, 2)
    assert len(action["sha256"]) == 64
    assert entry["when"].endswith("+00:00")
    assert "labels.csv labels 2 of 57 units" in done.err


def test_temporaldata_still_opens_the_file(nuclr: Run, place: Path) -> None:
    path = one(place)
    (place / "labels.tsv").write_text("cluster_id\tTyp é\n3\tµ-fast\n", encoding="utf-8")
    assert nuclr("label", path, "--labels", "labels.tsv", cwd=place).code == 0
    data = temporaldata.Data.load(path)
    (session,) = open_sessions(path)
    expected = session.spikes_between(20.0, 60.0).times
    assert len(expected) > 0
    np.testing.assert_allclose(data.slice(20.0, 60.0).spikes.timestamps, expected - 20.0)
    assert session.label("Typ é")[3] == "µ-fast"


def test_the_same_again_writes_nothing_and_says_so(nuclr: Run, place: Path) -> None:
    path = one(place)
    (place / "labels.csv").write_text("unit_id,cell_type\n3,PV\n")
    assert nuclr("label", path, "--labels", "labels.csv", cwd=place).code == 0
    before = files(place)
    again = nuclr("label", path, "--labels", "labels.csv", "--json", cwd=place)
    assert again.code == 0
    assert again.json["sessions"][0]["status"] == "unchanged"
    assert "All labels were there already; no file was written" in again.err
    assert files(place) == before


def test_contradictions_name_units_and_need_an_option(nuclr: Run, place: Path) -> None:
    path = one(place)
    before = files(place)
    (place / "labels.csv").write_text("unit_id,brain_region\n3,CA1\n4,hpc\n7,CA3\n")
    done = nuclr("label", path, "--labels", "labels.csv", "--json", cwd=place)
    assert done.code == 3
    assert "but the session file says 'hpc' (2 units differ: '3', '7')" in done.json["error"]["what"]
    assert "--overwrite-labels" in done.json["error"]["fix"]
    assert files(place) == before
    done = nuclr("label", path, "--labels", "labels.csv", "--overwrite-labels", "--json", cwd=place)
    assert done.code == 0, done.err
    assert done.json["sessions"][0]["actions"][0]["changed"] == 2
    (session,) = open_sessions(path)
    assert session.label("brain_region")[[2, 3, 4, 7]].tolist() == ["hpc", "CA1", "hpc", "CA3"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("unit_id,cell_type\n3,PV\nx9,PV\n", "1 of its unit ids are not in session"),
        ("unit_id,cell_type\n3,PV\n3,PV\n", "rows 2 and 3 both name unit '3'"),
        ("unit_id,time_offset\n3,PV\n", "time_offset cannot be a label"),
        (
            "unit_id,subject,cell_type\n3,nobody,PV\n",
            "None of the 1 rows .* is about a session that is there",
        ),
    ],
)
def test_wrong_tables_change_nothing(place: Path, table: str, message: str) -> None:
    before = files(place)
    (place / "labels.csv").write_text(table)
    with pytest.raises(InputError, match=message):
        label(LabelConfig(data=one(place), labels=place / "labels.csv"))
    assert files(place) == before


def scoped(place: Path, rows: Mapping[str, str]) -> Path:
    """A label table with one row (the first unit) for each subject."""
    text = "".join(f"{name},{name},0,{value}\n" for name, value in rows.items())
    path = place / "scoped.csv"
    path.write_text(f"subject,session,unit_id,cell_type\n{text}")
    return path


def test_one_bad_session_leaves_all_files_as_they_were(place: Path) -> None:
    names = [name.rpartition("/")[2] for name in CULTURES]
    table = scoped(place, dict.fromkeys(names, "PV"))
    table.write_text(table.read_text() + f"{names[1]},{names[1]},nosuchunit,PV\n")
    before = files(place)
    with pytest.raises(InputError, match="'nosuchunit'"):
        label(LabelConfig(data=place / "nuclr-data", labels=table))
    assert files(place) == before
    damaged = next((place / "nuclr-data").glob("TC92*.h5"))  # the last in the order of keys
    with h5py.File(damaged, "r+") as file:
        file["spikes/timestamps"][3] += 1e-9
    before = files(place)
    with pytest.raises(InputError, match="is damaged: spikes/timestamps no longer match"):
        label(LabelConfig(data=place / "nuclr-data", labels=scoped(place, dict.fromkeys(names, "PV"))))
    assert files(place) == before


def test_a_rename_that_fails_brings_the_others_back(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [name.rpartition("/")[2] for name in CULTURES]
    before = files(place)
    rename = Path.replace

    def failing(self: Path, target: Path) -> Path:
        if self.name.startswith(".TC92") and ".new-" in self.name:
            raise PermissionError(13, "Permission denied", str(target))
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(InputError, match="could not be replaced"):
        label(LabelConfig(data=place / "nuclr-data", labels=scoped(place, dict.fromkeys(names, "PV"))))
    assert files(place) == before


def test_a_linked_file_is_written_through(nuclr: Run, place: Path) -> None:
    path = one(place)
    elsewhere = place / "elsewhere" / "stored.h5"
    elsewhere.parent.mkdir()
    path.replace(elsewhere)
    path.symlink_to(Path("..") / "elsewhere" / "stored.h5")
    (place / "labels.csv").write_text("unit_id,cell_type\n3,PV\n")
    done = nuclr("label", path, "--labels", "labels.csv", cwd=place)
    assert done.code == 0, done.err
    assert path.is_symlink()
    assert path.samefile(elsewhere)
    assert [item.name for item in elsewhere.parent.iterdir()] == ["stored.h5"]
    (session,) = open_sessions(elsewhere)
    assert session.label("cell_type")[3] == "PV"
    assert verify(elsewhere) == []


def test_several_sessions_need_a_table_that_says_which(nuclr: Run, place: Path) -> None:
    (place / "labels.csv").write_text("unit_id,cell_type\n3,PV\n")
    done = nuclr("label", "--labels", "labels.csv", cwd=place)
    assert done.code == 3
    assert "does not say which session" in done.err
    first = CULTURES[0].rpartition("/")[2]
    done = nuclr("label", "--labels", scoped(place, {first: "PV", "else": "SST"}), "--json", cwd=place)
    assert done.code == 0, done.err
    assert [item["status"] for item in done.json["sessions"]] == ["unchanged", "written"]
    assert "1 row of scoped.csv is about sessions that are not there" in done.err


def test_maps_regions_and_removal(nuclr: Run, place: Path) -> None:
    path = one(place)
    (place / "own.toml").write_text(
        '[map]\ncolumn = "brain_region"\ntarget = "area"\n[classes]\nright = ["CA1"]\nleft = ["hpc"]\n'
    )
    (session,) = open_sessions(path)
    first = session.columns["electrode"][0]
    (place / "channels.csv").write_text(f"electrode,region\n{first},CA1\n")
    command = ("--regions", "channels.csv", "--label-map", "own.toml", "--overwrite-labels")
    done = nuclr("label", path, *command, "--json", cwd=place)
    assert done.code == 0, done.err
    assert [action["what"] for action in done.json["sessions"][0]["actions"]] == ["regions", "map"]
    (session,) = open_sessions(path)
    assert session.label("area").tolist() == ["right", *["left"] * 56]
    done = nuclr("label", path, "--remove", "area", "--remove", "electrode", cwd=place)
    assert done.code == 0, done.err
    (session,) = open_sessions(path)
    assert {"area", "electrode"}.isdisjoint(session.columns)
    assert len(session.meta.label_history) == 2
    assert verify(path) == []
    assert "0 session files changed, 1 unchanged" in nuclr("label", path, "--remove", "area", cwd=place).err
    typo = nuclr("label", path, "--remove", "brain_regoin", cwd=place)
    assert typo.code == 3
    assert "--remove brain_region" in typo.err
    assert nuclr("label", path, "--remove", "id", cwd=place).code == 3
    assert nuclr("label", path, cwd=place).code == 3


def test_preprocess_knows_the_source_and_keeps_the_labels(nuclr: Run, with_source: Path) -> None:
    place = with_source
    source = CULTURES[0].rpartition("/")[2]
    (place / "labels.csv").write_text("unit_id,cell_type,brain_region\n3,PV,CA1\n")
    command = ("label", one(place), "--labels", "labels.csv", "--overwrite-labels", "--remove", "electrode")
    assert nuclr(*command, cwd=place).code == 0
    before = files(place)
    again = nuclr("preprocess", source, "--json", cwd=place)
    assert again.code == 0, again.err
    assert again.json["sources"][0]["status"] == "skipped"
    assert files(place) == before
    anew = nuclr("preprocess", source, "--subject", "m9", "--overwrite", cwd=place)
    assert anew.code == 0, anew.err
    assert "The labels that nuclr label added are kept: cell_type, brain_region" in anew.err
    (session,) = open_sessions(next((place / "nuclr-data").glob("m9*.h5")))
    assert session.label("cell_type")[3] == "PV"
    assert session.label("brain_region")[[2, 3]].tolist() == ["hpc", "CA1"]
    assert "electrode" not in session.columns
    assert len(session.meta.label_history) == 1
    assert verify(session.path) == []


def test_labelled_units_that_are_gone_are_named(nuclr: Run, with_source: Path) -> None:
    place = with_source
    source, path = CULTURES[0].rpartition("/")[2], one(place)
    (place / "labels.csv").write_text("unit_id,cell_type\n3,PV\n0,SST\n")
    assert nuclr("label", path, "--labels", "labels.csv", cwd=place).code == 0
    spikes = np.load(place / source / "spikes.npy")
    np.save(place / source / "spikes.npy", spikes[spikes["unit_index"] != 3])
    settings = place / source / "numpysorting_info.json"
    known = json.loads(settings.read_text())
    ids = [unit if unit != known["unit_ids"][3] else 99 for unit in known["unit_ids"]]
    settings.write_text(json.dumps({**known, "unit_ids": ids}))
    done = nuclr("preprocess", source, "--overwrite", cwd=place)
    assert done.code == 0, done.err
    assert "1 unit that nuclr label had labelled is gone: 3" in done.err
    (session,) = open_sessions(path)
    assert session.label("cell_type")[[0, 3]].tolist() == ["SST", ""]


def test_calcium_traces_stay_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    times = np.r_[np.arange(100) / 10, 30 + np.arange(100) / 10]
    traces = CalciumTraces(rng.normal(size=(200, 3)).astype(np.float32), times, 10.0, np.array([0, 0.1, 0.2]))
    units = {"id": np.array(["α", "b", "c"])}
    intervals = np.array([[0.0, 10.0], [30.0, 40.0]])
    path = tmp_path / "data" / "a.h5"
    write_population(
        Population("m", "d", units, intervals, calcium=traces), path, source=SourceRecord("x", "r", "d")
    )
    before = arrays(path)
    (tmp_path / "labels.csv").write_text("roi,cell_type\nα,PV\n", encoding="utf-8")
    record = label(LabelConfig(data=path, labels=tmp_path / "labels.csv"))
    assert record.count("written") == 1
    assert arrays(path) == before
    assert verify(path) == []
    (session,) = open_sessions(path)
    assert session.label("cell_type").tolist() == ["PV", "", ""]
    assert session.columns["time_offset"].tolist() == [0, 0.1, 0.2]


def test_files_of_other_writers_are_refused(shared: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(shared / "samples" / "td" / "spikes_temporaldata.h5", tmp_path / "a.h5"))
    before = path.read_bytes()
    (tmp_path / "labels.csv").write_text("unit_id,cell_type\n0,PV\n")
    with pytest.raises(InputError, match="1 of 1 files were not written by nuclr") as caught:
        label(LabelConfig(data=path, labels=tmp_path / "labels.csv"))
    assert "nuclr preprocess" in caught.value.fix
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_written_is_bad_input(nuclr: Run, place: Path) -> None:
    path = one(place)
    (place / "labels.csv").write_text("unit_id,cell_type\n3,PV\n")
    path.parent.chmod(0o500)
    try:
        if os.access(path.parent, os.W_OK):
            pytest.skip("this user may write everywhere")
        done = nuclr("label", path, "--labels", "labels.csv", cwd=place)
    finally:
        path.parent.chmod(0o700)
    assert done.code == 3
    assert "Traceback" not in done.err
