"""Classes that a label map made follow the raw names, or it is said that they do not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nuclr_cli.data.sessions import open_sessions
from nuclr_cli.data.store import SourceRecord, StoredMeta, verify, write_population
from nuclr_cli.testing.simulate import tiny_population
from nuclr_cli.workflows.label import LabelConfig
from nuclr_cli.workflows.label import label as apply
from nuclr_cli.workflows.label_maps import read_label_map
from nuclr_cli.workflows.made_classes import made_columns, provenance_with_maps

Run = Callable[..., Any]

EI = '[map]\ncolumn = "kind"\ntarget = "ei"\n[classes]\nI = ["PV", "SST"]\nE = ["exc"]\n'
SIGN = '[map]\ncolumn = "ei"\ntarget = "sign"\n[classes]\nminus = ["I"]\nplus = ["E"]\n'


@pytest.fixture
def place(shared: Path, tmp_path: Path) -> Path:
    """A phy folder of the clusters 0 to 7, two maps (the second reads what the first makes), two tables."""
    shutil.copytree(shared / "samples" / "si" / "phy", tmp_path / "phy", copy_function=shutil.copyfile)
    kinds(tmp_path, {0: "PV", 1: "exc", 2: "SST", 3: "other"})
    (tmp_path / "ei.toml").write_text(EI)
    (tmp_path / "sign.toml").write_text(SIGN)
    return tmp_path


def kinds(place: Path, kind_of: dict[int, str]) -> None:
    """What the source says."""
    rows = "".join(f"{unit}\t{kind}\n" for unit, kind in kind_of.items())
    (place / "phy" / "cluster_kind.tsv").write_text(f"cluster_id\tkind\n{rows}")


def told(nuclr: Run, place: Path, *command: object, code: int = 0) -> str:
    """What a command says on stderr."""
    done = nuclr(*command, cwd=place)
    assert done.code == code, done.err
    return str(done.err)


def label(nuclr: Run, place: Path, rows: str, *options: str, column: str = "kind") -> str:
    """Overwrite labels of some units."""
    (place / "labels.csv").write_text(f"unit_id,{column}\n{rows}")
    return told(nuclr, place, "label", "--labels", "labels.csv", "--overwrite-labels", *options)


def columns(place: Path, *names: str) -> list[list[str]]:
    """The first four labels of each column; the file is whole."""
    (session,) = open_sessions(place / "nuclr-data")
    assert verify(session.path) == []
    return [session.label(name)[:4].tolist() for name in names]


def with_maps(nuclr: Run, place: Path, how: str) -> None:
    """Session files with both columns of classes, by one command or by the other."""
    maps = ("--label-map", "ei.toml", "--label-map", "sign.toml")
    told(nuclr, place, "preprocess", "phy", *(maps if how == "preprocess" else ()))
    if how == "label":
        told(nuclr, place, "label", *maps)
    assert columns(place, "ei", "sign") == [["I", "E", "I", ""], ["minus", "plus", "minus", ""]]


@pytest.mark.parametrize("how", ["preprocess", "label"])
def test_classes_follow_a_name_that_is_changed(nuclr: Run, place: Path, how: str) -> None:
    with_maps(nuclr, place, how)
    (place / "ei.toml").unlink()  # the file holds the map
    said = label(nuclr, place, "0,exc\n3,PV\n")
    assert "'kind' changed, so the map ei.toml was applied again to make 'ei'" in said
    assert columns(place, "kind", "ei", "sign") == [
        ["exc", "exc", "SST", "PV"],
        ["E", "E", "I", "I"],
        ["plus", "plus", "minus", "minus"],
    ]
    (shown,) = nuclr("info", "--json", cwd=place).json["sessions"]
    actions = shown["label_history"][-1]["actions"]
    assert [(a["what"], a["file"], a["reads"], a["columns"]) for a in actions] == [
        ("labels", "labels.csv", [], ["kind"]),
        ("remap", "ei.toml", ["kind"], ["ei"]),
        ("remap", "sign.toml", ["ei"], ["sign"]),
    ]
    assert [a["units"] for a in actions] == [["0", "3"]] * 3


def test_a_class_that_was_given_by_hand_stays_and_is_named(nuclr: Run, place: Path) -> None:
    with_maps(nuclr, place, "label")
    label(nuclr, place, "0,unsure\n", column="ei")
    assert columns(place, "sign") == [["", "plus", "minus", ""]]
    said = label(nuclr, place, "0,exc\n2,exc\n")
    assert "'kind' changed for 1 unit whose 'ei' the map ei.toml had not made" in said
    assert "(0). nuclr label nuclr-data --label-map ei.toml --overwrite-labels replaces it" in said
    assert columns(place, "ei") == [["unsure", "E", "E", ""]]
    told(nuclr, place, "label", "nuclr-data", "--label-map", "ei.toml", "--overwrite-labels")
    assert columns(place, "ei", "sign") == [["E", "E", "E", ""], ["plus", "plus", "plus", ""]]


def test_a_column_that_was_taken_away_is_not_made_again(nuclr: Run, place: Path) -> None:
    with_maps(nuclr, place, "label")
    told(nuclr, place, "label", "--remove", "ei")
    said = label(nuclr, place, "0,exc\n")
    assert "again" not in said.replace("Embeddings made before", "")
    (session,) = open_sessions(place / "nuclr-data")
    assert "ei" not in session.columns
    assert session.label("sign")[0] == "minus"


def test_classes_that_lose_their_raw_names_are_named(nuclr: Run, place: Path) -> None:
    with_maps(nuclr, place, "label")
    said = told(nuclr, place, "label", "--remove", "kind")
    assert "'kind' was removed; the classes 'ei', which the map ei.toml made from it, stay" in said
    assert "'sign'" not in said
    said = label(nuclr, place, "0,PV\n1,PV\n", "--overwrite-labels")
    assert "had not made" not in said
    assert "1 unit had no 'kind' before, and a 'ei' other than the map ei.toml makes of the new one" in said
    assert "(1). nuclr label nuclr-data --label-map ei.toml --overwrite-labels replaces it" in said
    assert columns(place, "ei") == [["I", "E", "I", ""]]


def test_classes_that_go_with_their_raw_names_are_not_named(nuclr: Run, place: Path) -> None:
    with_maps(nuclr, place, "label")
    said = told(nuclr, place, "label", "--remove", "kind", "--remove", "ei", "--remove", "sign")
    assert "made from it" not in said


@pytest.mark.parametrize(
    "foreign",
    [["ccf"], "ccf", {"ccf": 1}, [{"target": ["ei"]}], 3, None],
    ids=["list", "text", "mapping", "half", "number", "none"],
)
def test_what_a_reader_keeps_under_the_same_name_is_left_alone(place: Path, foreign: Any) -> None:
    population = tiny_population(0, n_units=2, minutes=0.1)
    units = {**population.units, "kind": np.array(["PV", "exc"])}
    population = replace(population, units=units, provenance={"label_maps": foreign})
    (place / "nuclr-data").mkdir()
    path = place / "nuclr-data" / "a.h5"
    write_population(population, path, source=SourceRecord("x", "r", "d"))
    apply(LabelConfig(data=path, label_maps=(str(place / "ei.toml"),)))
    assert columns(place, "ei") == [["I", "E"]]
    kept = foreign if isinstance(foreign, list) else [foreign]
    (session,) = open_sessions(path)
    assert session.meta.provenance["label_maps"][: len(kept)] == kept
    apply(LabelConfig(data=path, remove=("ei",)))
    (session,) = open_sessions(path)
    assert session.meta.provenance["label_maps"] == kept


def test_the_same_map_again_changes_nothing(nuclr: Run, place: Path) -> None:
    with_maps(nuclr, place, "label")
    before = {path: path.read_bytes() for path in (place / "nuclr-data").iterdir()}
    said = told(nuclr, place, "label", "--label-map", "ei.toml")
    assert "no file was written" in said
    assert {path: path.read_bytes() for path in (place / "nuclr-data").iterdir()} == before


def test_classes_that_a_map_agrees_with_are_known_as_its_own_from_then_on(nuclr: Run, place: Path) -> None:
    told(nuclr, place, "preprocess", "phy")
    label(nuclr, place, "0,I\n1,E\n2,I\n", column="ei")
    told(nuclr, place, "label", "--label-map", "ei.toml")
    label(nuclr, place, "0,exc\n")
    assert columns(place, "ei") == [["E", "E", "I", ""]]


def test_another_map_for_the_same_column_takes_over(nuclr: Run, place: Path) -> None:
    with_maps(nuclr, place, "label")
    (place / "other.toml").write_text(EI.replace('["exc"]', '["exc", "oth*"]'))
    label(nuclr, place, "0,exc\n", "--label-map", "other.toml")
    assert columns(place, "ei", "sign") == [["E", "E", "I", "E"], ["plus", "plus", "minus", "plus"]]
    label(nuclr, place, "1,otherwise\n2,otherwise\n")
    assert columns(place, "ei") == [["E", "E", "E", "E"]]


def test_a_name_that_a_map_is_not_clear_about_changes_nothing(nuclr: Run, place: Path) -> None:
    (place / "ei.toml").write_text(EI.replace('["exc"]', '["exc", "P*"]').replace('"SST"]', '"SST", "*x"]'))
    with_maps(nuclr, place, "label")
    (place / "labels.csv").write_text("unit_id,kind\n0,Px\n")
    command = ("label", "--labels", "labels.csv", "--overwrite-labels")
    said = told(nuclr, place, *command, code=3)
    assert "not clear about 'Px'" in said
    assert "--remove ei" in said
    assert columns(place, "kind") == [["PV", "exc", "SST", "other"]]
    told(nuclr, place, *command, "--remove", "ei")
    assert columns(place, "kind") == [["Px", "exc", "SST", "other"]]


@pytest.mark.parametrize("how", ["preprocess", "label"])
def test_overwrite_makes_classes_of_what_is_there_then(nuclr: Run, place: Path, how: str) -> None:
    """The source and `nuclr label` both changed names since; a class that was given by hand stays."""
    with_maps(nuclr, place, how)
    label(nuclr, place, "0,exc\n")
    if how == "label":
        label(nuclr, place, "3,unsure\n", column="ei")
    kinds(place, {0: "PV", 1: "SST", 2: "exc", 3: "other"})
    maps = ("--label-map", "ei.toml", "--label-map", "sign.toml") if how == "preprocess" else ()
    told(nuclr, place, "preprocess", "phy", "--overwrite", *maps)
    assert columns(place, "kind", "ei", "sign") == [
        ["exc", "SST", "exc", "other"],
        ["E", "I", "E", "unsure" if how == "label" else ""],
        ["plus", "minus", "plus", ""],
    ]
    label(nuclr, place, "1,exc\n")
    assert columns(place, "ei", "sign")[0][1] == "E"


def test_classes_follow_names_that_a_table_brings_at_overwrite(nuclr: Run, place: Path) -> None:
    (place / "ei.toml").write_text(EI.replace('column = "kind"', 'column = "type"'))
    (place / "types.csv").write_text("unit_id,type\n0,PV\n1,exc\n2,SST\n3,PV\n")
    told(nuclr, place, "preprocess", "phy", "--labels", "types.csv")
    told(nuclr, place, "label", "--label-map", "ei.toml")
    assert columns(place, "ei") == [["I", "E", "I", "I"]]
    (place / "types.csv").write_text("unit_id,type\n0,exc\n1,PV\n2,SST\n3,PV\n")
    told(nuclr, place, "preprocess", "phy", "--labels", "types.csv", "--overwrite")
    assert columns(place, "ei") == [["E", "I", "I", "I"]]


def test_overwrite_without_the_map_leaves_no_classes_behind(nuclr: Run, place: Path) -> None:
    with_maps(nuclr, place, "preprocess")
    label(nuclr, place, "0,exc\n")
    told(nuclr, place, "preprocess", "phy", "--overwrite")
    (session,) = open_sessions(place / "nuclr-data")
    assert {"ei", "sign"}.isdisjoint(session.columns)
    assert session.label("kind")[0] == "exc"


def older(history: tuple[dict[str, Any], ...] = (), options: tuple[str, ...] = ()) -> StoredMeta:
    """Metadata as they were before files held their maps."""
    source = SourceRecord("x", "r", "d", options={"label_maps": list(options)} if options else {})
    return StoredMeta(schema=1, source=source, label_history=history)


def test_maps_of_older_files_are_found_by_their_digest_or_stay_unknown() -> None:
    shipped = read_label_map("steinmetz-groups")
    units = dict(tiny_population(0, n_units=4, minutes=0.1).units)
    units["brain_region"] = units["region_group"] = units["id"]
    made = made_columns(provenance_with_maps(older(options=(shipped.fingerprint,)), units))
    assert [(item.name, item.reads, item.target) for item in made] == [
        ("steinmetz-groups", "brain_region", "region_group")
    ]
    assert made[0].label_map == shipped
    (item,) = made_columns(provenance_with_maps(older(options=("own.toml sha256:00",)), units))
    assert (item.name, item.reads, item.target, item.label_map) == ("own.toml", "", "", None)
    entry = {"what": "map", "file": "own.toml", "sha256": "00", "columns": ["region_group"]}
    (item,) = made_columns(provenance_with_maps(older(({"actions": [entry]},)), units))
    assert (item.target, item.label_map) == ("region_group", None)


def test_a_map_that_is_not_known_is_warned_about(
    nuclr: Run, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nuclr_cli.workflows import label_maps
    from nuclr_cli.workflows.preprocess import PreprocessConfig, preprocess

    # As an older nuclr wrote it: the file has the fingerprint of the map and nothing more.
    monkeypatch.setattr(label_maps, "with_map", lambda provenance, *_: provenance)
    out = place / "nuclr-data"
    maps = (str(place / "ei.toml"),)
    preprocess(PreprocessConfig(sources=(place / "phy",), out=out, label_maps=maps, jobs=1))
    said = label(nuclr, place, "0,exc\n")
    assert "'kind' changed. If the map ei.toml, which made a column" in said
    assert "nuclr label nuclr-data --label-map ei.toml --overwrite-labels makes them again" in said
    assert columns(place, "ei") == [["I", "E", "I", ""]]
    told(nuclr, place, "label", "nuclr-data", "--label-map", "ei.toml", "--overwrite-labels")
    assert columns(place, "ei") == [["E", "E", "I", ""]]
    assert "changed. If the map" not in label(nuclr, place, "1,PV\n")
    assert columns(place, "ei") == [["E", "I", "I", ""]]
