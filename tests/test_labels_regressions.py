"""Labels go to the units they name: of the right population, of the same sorting, from an undamaged file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from pynwb import NWBHDF5IO, NWBFile
from pynwb.file import Subject
from pynwb.ophys import DfOverF, ImageSegmentation, OpticalChannel, RoiResponseSeries

from nuclr_cli.api import Population
from nuclr_cli.data.atomic import beside, replace_all
from nuclr_cli.data.sessions import open_sessions
from nuclr_cli.data.store import Session, SourceRecord, write_population
from nuclr_cli.errors import InputError
from nuclr_cli.testing.tiny import tiny_population
from nuclr_cli.workflows.kept_labels import kept_labels
from nuclr_cli.workflows.regions import add_regions, read_region_table

Run = Callable[..., Any]


def empty(session: str) -> NWBFile:
    file = NWBFile("made here", session, datetime(2024, 1, 1, tzinfo=UTC), session_id=session)
    file.subject = Subject(subject_id="m1", species="Mus musculus", age="P30D", sex="M")
    return file


def written(file: NWBFile, path: Path) -> Path:
    with NWBHDF5IO(path, "w") as io:
        io.write(file)
    return path


def add_units(file: NWBFile, n: int) -> None:
    rng = np.random.default_rng(0)
    for unit in range(n):
        file.add_unit(id=unit, spike_times=np.sort(rng.uniform(0, 60, 300)))


def add_planes(file: NWBFile, rates: tuple[float, ...]) -> None:
    """One imaging plane of three cells for each frame rate."""
    rng = np.random.default_rng(0)
    device = file.create_device("scope")
    module = file.create_processing_module("ophys", "made here")
    segmentation, traces = ImageSegmentation(), DfOverF()
    module.add(segmentation)
    module.add(traces)
    for i, rate in enumerate(rates):
        plane = file.create_imaging_plane(
            name=f"plane{i}",
            optical_channel=OpticalChannel(name="green", description="made here", emission_lambda=500.0),
            description="made here",
            device=device,
            excitation_lambda=900.0,
            indicator="g",
            location="VISp",
            imaging_rate=rate,
        )
        cells = segmentation.create_plane_segmentation(
            name=f"cells{i}", description="made here", imaging_plane=plane
        )
        for k in range(3):
            cells.add_roi(pixel_mask=[(k, k, 1.0)])
        region = cells.create_roi_table_region(description="all", region=[0, 1, 2])
        data = rng.random((int(60 * rate), 3))
        traces.add_roi_response_series(
            RoiResponseSeries(
                name=f"dff{i}", data=data, rois=region, unit="a.u.", rate=rate, starting_time=0.0
            )
        )


def two_planes(path: Path) -> Path:
    file = empty("s2")
    add_planes(file, (10.0, 7.0))
    return written(file, path)


def units_and_cells(path: Path) -> Path:
    file = empty("s3")
    add_planes(file, (10.0,))
    add_units(file, 3)
    return written(file, path)


def two_probes(path: Path) -> Path:
    """Units 0, 1, 2 on one probe and 3, 4, 5 on the other."""
    file = empty("s1")
    rng = np.random.default_rng(0)
    for name in "AB":
        probe = file.create_device(f"probe{name}")
        group = file.create_electrode_group(f"group{name}", "made here", "VISp", probe)
        for _ in range(3):
            file.add_electrode(group=group, location="VISp" if name == "A" else "CA1")
    for unit in range(6):
        times = np.sort(rng.uniform(0, 60, 300))
        group = file.electrodes["group"][unit]
        file.add_unit(id=unit, spike_times=times, electrodes=[unit], electrode_group=group)
    return written(file, path)


@pytest.fixture
def phy(shared: Path, tmp_path: Path) -> Path:
    """A copy of a Phy folder with the clusters 0 to 7, which can be changed."""
    shutil.copytree(shared / "samples" / "si" / "phy", tmp_path / "phy", copy_function=shutil.copyfile)
    return tmp_path / "phy"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def labels(folder: Path, column: str) -> dict[str, str]:
    """What each unit of all populations is labelled with; nothing where there is no such column."""
    return {
        str(unit): str(value)
        for session in open_sessions(folder)
        if column in session.columns
        for unit, value in zip(session.unit_ids, session.label(column), strict=True)
        if value
    }


def scoped(place: Path, session: str, kinds: dict[int, str]) -> Path:
    """A table that names its session, which `nuclr label` wants for two files, and no population."""
    rows = "".join(f"m1,{session},{unit},{kind}\n" for unit, kind in kinds.items())
    (place / "scoped.csv").write_text(f"subject,session,unit_id,kind\n{rows}")
    return place / "scoped.csv"


@pytest.mark.parametrize(("make", "session"), [(two_planes, "s2"), (units_and_cells, "s3")])
def test_an_id_of_two_populations_is_refused(
    nuclr: Run, tmp_path: Path, make: Callable[..., Path], session: str
) -> None:
    source = make(tmp_path / "source.nwb")
    (tmp_path / "labels.csv").write_text("unit_id,kind\n0,PV\n1,SST\n")
    done = nuclr("preprocess", source, "--labels", "labels.csv", "--json", cwd=tmp_path)
    assert done.code != 0
    assert "population" in done.out + done.err
    assert not list(tmp_path.glob("nuclr-data/*.h5"))
    assert nuclr("preprocess", source, cwd=tmp_path).code == 0
    before = contents(tmp_path / "nuclr-data")
    assert len([name for name in before if name.endswith(".h5")]) == 2
    table = scoped(tmp_path, session, {0: "PV", 1: "SST"})
    done = nuclr("label", "--labels", table, "--json", cwd=tmp_path)
    assert done.code == 3
    assert "population" in done.json["error"]["what"]
    assert contents(tmp_path / "nuclr-data") == before


def test_a_table_of_the_whole_file_labels_both_populations(nuclr: Run, tmp_path: Path) -> None:
    source = two_probes(tmp_path / "two.nwb")
    (tmp_path / "labels.csv").write_text("unit_id,kind\n0,PV\n4,SST\n")
    done = nuclr("preprocess", source, "--labels", "labels.csv", "-o", "a", cwd=tmp_path)
    assert done.code == 0, done.err
    assert nuclr("preprocess", source, "-o", "b", cwd=tmp_path).code == 0
    done = nuclr("label", "b", "--labels", scoped(tmp_path, "s1", {0: "PV", 4: "SST"}), cwd=tmp_path)
    assert done.code == 0, done.err
    for folder in ("a", "b"):
        assert len(list((tmp_path / folder).glob("*.h5"))) == 2
        assert labels(tmp_path / folder, "kind") == {"0": "PV", "4": "SST"}


@pytest.fixture
def sorted_anew(nuclr: Run, phy: Path) -> Path:
    """A folder with a labelled session file whose source has been sorted again: ids mean other units."""
    place = phy.parent
    assert nuclr("preprocess", phy, cwd=place).code == 0
    (place / "labels.csv").write_text("unit_id,kind\n0,PV\n1,SST\n")
    assert nuclr("label", "--labels", "labels.csv", cwd=place).code == 0
    clusters = np.load(phy / "spike_clusters.npy")
    np.save(phy / "spike_clusters.npy", ((clusters + 1) % 8).astype(clusters.dtype))
    return place


def test_labels_are_not_kept_for_the_units_of_another_sorting(nuclr: Run, sorted_anew: Path) -> None:
    done = nuclr("preprocess", "phy", "--overwrite", "--json", cwd=sorted_anew)
    assert done.code == 3
    assert "2 units that nuclr label had labelled" in done.out
    assert "are other units now (0, 1)" in done.out


def test_a_refused_overwrite_leaves_the_labelled_file(nuclr: Run, sorted_anew: Path) -> None:
    before = contents(sorted_anew / "nuclr-data")
    nuclr("preprocess", "phy", "--overwrite", cwd=sorted_anew)
    assert contents(sorted_anew / "nuclr-data") == before


def swapped(path: Path, column: str) -> None:
    """Exchange the first two values of a column, as a damaged or edited file would have it."""
    with h5py.File(path, "r+") as file:
        values = file[f"units/{column}"][()]
        values[[0, 1]] = values[[1, 0]]
        file[f"units/{column}"][...] = values


def test_a_file_with_changed_ids_is_not_labelled(nuclr: Run, phy: Path) -> None:
    place = phy.parent
    assert nuclr("preprocess", phy, cwd=place).code == 0
    (path,) = (place / "nuclr-data").glob("*.h5")
    swapped(path, "id")
    before = contents(place / "nuclr-data")
    (place / "labels.csv").write_text("unit_id,kind\n0,PV\n")
    done = nuclr("label", "--labels", "labels.csv", "--json", cwd=place)
    assert done.code == 3
    assert "units/id" in done.json["error"]["what"]
    assert contents(place / "nuclr-data") == before


def test_a_changed_label_is_not_kept_by_overwrite(nuclr: Run, phy: Path) -> None:
    place = phy.parent
    assert nuclr("preprocess", phy, cwd=place).code == 0
    (place / "labels.csv").write_text("unit_id,kind\n0,PV\n1,SST\n")
    assert nuclr("label", "--labels", "labels.csv", cwd=place).code == 0
    (path,) = (place / "nuclr-data").glob("*.h5")
    swapped(path, "kind")
    done = nuclr("preprocess", phy, "--overwrite", "--keep", "all", "--json", cwd=place)
    if done.code == 0:
        assert labels(path, "kind") == {}
    else:
        assert "units/kind" in done.out


def test_a_missing_population_is_not_unchanged(nuclr: Run, tmp_path: Path) -> None:
    source = two_probes(tmp_path / "two.nwb")
    assert nuclr("preprocess", source, cwd=tmp_path).code == 0
    kept, gone = sorted((tmp_path / "nuclr-data").glob("*.h5"))
    gone.unlink()
    done = nuclr("preprocess", source, "--json", cwd=tmp_path)
    assert done.code == 3
    said = done.out + done.err
    assert "probeB" in said
    assert "--overwrite" in said
    assert not gone.exists()
    done = nuclr("preprocess", source, "--overwrite", cwd=tmp_path)
    assert done.code == 0, done.err
    assert sorted((tmp_path / "nuclr-data").glob("*.h5")) == [kept, gone]


def test_regions_join_by_the_column_that_the_table_names(nuclr: Run, shared: Path, tmp_path: Path) -> None:
    source = shared / "samples" / "si" / "analyzer_folder"
    assert nuclr("preprocess", source, cwd=tmp_path).code == 0
    (session,) = open_sessions(tmp_path / "nuclr-data")
    assert (session.columns["main_channel_id"][5], session.columns["peak_channel"][5]) == ("0", "1")
    (tmp_path / "channels.csv").write_text("main_channel_id,brain_region\n0,AAA\n1,BBB\n")
    done = nuclr("label", "--regions", "channels.csv", "--overwrite-labels", cwd=tmp_path)
    assert done.code == 0, done.err
    found = labels(tmp_path / "nuclr-data", "brain_region")
    assert found["5"] == "AAA"
    assert "BBB" not in found.values()


def units_on(*channels: int) -> Population:
    units = {"id": np.array([f"u{channel}" for channel in channels]), "peak_channel": np.array(channels)}
    return Population("m", "d", units, np.array([[0.0, 1.0]]))


def test_spellings_of_one_channel_number_are_one_channel(tmp_path: Path) -> None:
    table = tmp_path / "channels.csv"
    table.write_text("channel,region\n7,CA1\n07,VISp\n7.0,DG\n")
    with pytest.raises(InputError, match="rows 2 and 3 say"):
        add_regions(units_on(7, 10), read_region_table(table))


def test_an_underscore_is_no_digit_of_a_channel(tmp_path: Path) -> None:
    table = tmp_path / "channels.csv"
    table.write_text("channel,region\n1_0,SHANK1\n7,CA1\n")
    after = add_regions(units_on(7, 10), read_region_table(table))
    assert after.units["brain_region"].tolist() == ["CA1", ""]


def test_only_the_labelled_unit_keeps_its_label(nuclr: Run, phy: Path) -> None:
    place = phy.parent
    (phy / "cluster_kind.tsv").write_text("cluster_id\tkind\n0\tPV\n3\tPV\n")
    assert nuclr("preprocess", phy, cwd=place).code == 0
    (place / "labels.csv").write_text("unit_id,kind\n3,SST\n")
    done = nuclr("label", "--labels", "labels.csv", "--overwrite-labels", cwd=place)
    assert done.code == 0, done.err
    (phy / "cluster_kind.tsv").write_text("cluster_id\tkind\n0\tVip\n3\tPV\n")
    done = nuclr("preprocess", phy, "--overwrite", cwd=place)
    assert done.code == 0, done.err
    assert labels(place / "nuclr-data", "kind") == {"0": "Vip", "3": "SST"}


def test_labels_that_were_taken_away_stay_away(nuclr: Run, phy: Path) -> None:
    place = phy.parent
    (phy / "cluster_kind.tsv").write_text("cluster_id\tkind\n0\tPV\n3\tPV\n")
    assert nuclr("preprocess", phy, cwd=place).code == 0
    assert nuclr("label", "--remove", "kind", cwd=place).code == 0
    (place / "labels.csv").write_text("unit_id,kind\n3,SST\n")
    assert nuclr("label", "--labels", "labels.csv", cwd=place).code == 0
    # A label that the source has only now is of the column that was taken away, too.
    (phy / "cluster_kind.tsv").write_text("cluster_id\tkind\n0\tPV\n3\tPV\n5\tVip\n")
    done = nuclr("preprocess", phy, "--overwrite", cwd=place)
    assert done.code == 0, done.err
    assert labels(place / "nuclr-data", "kind") == {"3": "SST"}


def test_a_class_that_a_map_took_from_a_unit_stays_away(nuclr: Run, phy: Path) -> None:
    """The raw names are gone by then, so the map cannot be applied again."""
    place = phy.parent
    (phy / "cluster_kind.tsv").write_text("cluster_id\tkind\n0\tPV\n3\tPV\n")
    assert nuclr("preprocess", phy, cwd=place).code == 0
    (place / "raw.csv").write_text("unit_id,raw\n0,good\n3,bad\n")
    (place / "own.toml").write_text(
        '[map]\ncolumn = "raw"\ntarget = "kind"\ndrop = ["bad"]\n[classes]\nPV = ["good"]\n'
    )
    given = ("--labels", "raw.csv", "--label-map", "own.toml", "--overwrite-labels")
    assert nuclr("label", *given, cwd=place).code == 0
    assert labels(place / "nuclr-data", "kind") == {"0": "PV"}
    assert nuclr("label", "--remove", "raw", cwd=place).code == 0
    assert nuclr("preprocess", phy, "--overwrite", cwd=place).code == 0
    assert labels(place / "nuclr-data", "kind") == {"0": "PV"}


def test_a_history_that_names_no_units_keeps_only_what_is_labelled(tmp_path: Path) -> None:
    population = tiny_population(0, n_units=3, minutes=0.1)
    source = SourceRecord("x", "r", "d")
    labelled = replace(population, units={**population.units, "kind": np.array(["PV", "", ""])})
    history = ({"actions": [{"what": "labels", "columns": ["kind"]}]},)
    write_population(labelled, tmp_path / "old.h5", source=source, label_history=history)
    (kept,) = kept_labels(Session(tmp_path / "old.h5"))
    anew = replace(population, units={**population.units, "kind": np.array(["Vip", "SST", ""])})
    assert kept.added_to(anew).units["kind"].tolist() == ["PV", "SST", ""]


def two_staged(place: Path) -> list[tuple[Path, Path]]:
    staged = []
    for name in ("a.h5", "b.h5"):
        path = place / name
        path.write_text(f"old {name}")
        new = beside(path, "new")
        new.write_text(f"new {name}")
        staged.append((path, new))
    return staged


def no_links(*_: object) -> None:
    raise PermissionError(1, "Operation not permitted")


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize(
    ("error", "said"),
    [(KeyboardInterrupt(), KeyboardInterrupt), (OSError(5, "Input/output error"), InputError)],
    ids=["interrupt", "disk"],
)
def test_what_stops_the_second_rename_brings_both_back(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    links: bool,
    error: BaseException,
    said: type[BaseException],
) -> None:
    staged = two_staged(tmp_path)
    rename = Path.replace

    def stopped(self: Path, target: Path) -> Path:
        if self == staged[1][1]:
            raise error
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", stopped)
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(said):
        replace_all(staged)
    assert [path.read_text() for path, _ in staged] == ["old a.h5", "old b.h5"]
    assert not list(tmp_path.glob(".*.old-*"))


def test_a_file_that_cannot_be_put_back_is_named_with_its_old_self(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged = two_staged(tmp_path)
    rename = Path.replace

    def once(self: Path, target: Path) -> Path:
        if self != staged[0][1]:
            raise OSError(30, "Read-only file system")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", once)
    with pytest.raises(InputError) as caught:
        replace_all(staged)
    (old,) = tmp_path.glob(".a.h5.old-*")
    assert old.read_text() == "old a.h5"
    assert f"could not be put back: {staged[0][0]}." in caught.value.what
    assert f"{old} is the old a.h5" in caught.value.fix
    assert "Nothing was changed" not in caught.value.fix
    assert staged[1][0].read_text() == "old b.h5"
    assert not list(tmp_path.glob(".b.h5.old-*"))
