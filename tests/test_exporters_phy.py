"""Predictions in phy folders: on the right clusters for phy, SpikeInterface and nuclr."""

from __future__ import annotations

import csv
import hashlib
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from nuclr_cli.api import ReaderError, ReadOptions, UnitPredictions
from nuclr_cli.errors import InputError
from nuclr_cli.registry import Registry
from nuclr_spikeinterface import PhyExporter, SpikeInterfaceReader

LABEL, SHARE = "cluster_nuclr_cell_type.tsv", "cluster_nuclr_cell_type_probability.tsv"


def predictions(
    ids: Sequence[str],
    labels: Sequence[str],
    *,
    abstain: Sequence[bool] | None = None,
    label_name: str = "cell_type",
    population: str = "0",
) -> UnitPredictions:
    """Of each unit its label with 0.9; the probability tells the units apart in the third digit."""
    classes = tuple(sorted(set(labels) | {"PV", "SST"}))
    shares = np.full((len(ids), len(classes)), 0.1 / (len(classes) - 1))
    for row, label in enumerate(labels):
        shares[row, classes.index(label)] = 0.9 + row / 1000
    return UnitPredictions(
        subject="m1",
        session="day1",
        population=population,
        label_name=label_name,
        classes=classes,
        unit_ids=np.array(ids),
        labels=np.array(labels),
        probabilities=shares,
        abstain=np.array(abstain or [False] * len(ids)),
    )


@pytest.fixture
def folder(shared: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    copy = tmp_path / "sorting"
    shutil.copytree(
        shared / "samples" / "si" / getattr(request, "param", "phy"), copy, copy_function=shutil.copy
    )
    for path in (copy, *copy.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return copy


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def table(path: Path) -> dict[str, str]:
    """As phylib reads it: tab-separated, and a field that is empty is no value."""
    with path.open(newline="") as file:
        header, *rows = csv.reader(file, delimiter="\t")
    assert header == ["cluster_id", path.stem.removeprefix("cluster_")]
    return {row[0]: row[1] for row in rows if row[1] != ""}


def sorting(folder: Path):
    from spikeinterface.extractors import read_phy

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read_phy(folder)


def test_labels_in_any_order_land_on_their_clusters(folder: Path) -> None:
    before, first = digests(folder), sorting(folder)
    ids = ["5", "0", "7", "2"]
    given = predictions(ids, ["PV", "SST", "PV", "SST"], abstain=[False, False, True, False])
    written = PhyExporter().export([given], folder)
    assert list(written) == [folder / LABEL, folder / SHARE]
    assert table(folder / LABEL) == {"5": "PV", "0": "SST", "2": "SST"}
    assert table(folder / SHARE) == {"5": "0.9000", "0": "0.9010", "7": "0.9020", "2": "0.9030"}
    after = digests(folder)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {LABEL, SHARE}

    read = sorting(folder)
    assert read.unit_ids.tolist() == first.unit_ids.tolist()  # none is dropped
    by_unit = dict(zip(read.unit_ids.tolist(), read.get_property("nuclr_cell_type").tolist(), strict=True))
    assert {unit: by_unit[unit] for unit in (5, 0, 2)} == {5: "PV", 0: "SST", 2: "SST"}
    shares = dict(zip(read.unit_ids.tolist(), read.get_property(f"{given.column}_probability"), strict=True))
    assert shares[7] == pytest.approx(0.902)
    assert np.isnan(shares[1])

    (population,) = SpikeInterfaceReader().read(folder, ReadOptions(subject="m1"))
    own = dict(
        zip(population.units["id"].tolist(), population.units["nuclr_cell_type"].tolist(), strict=True)
    )
    assert own == {"0": "SST", "1": "", "2": "SST", "3": "", "4": "", "5": "PV", "6": "", "7": ""}


@pytest.mark.parametrize("folder", ["kilosort4_like", "kilosort4_phy_curated"], indirect=True)
def test_no_unit_that_spikeinterface_read_before_is_lost(folder: Path) -> None:
    """It keeps the clusters that every table lists: those without spikes, or without a label, as well."""
    before = sorting(folder).unit_ids.tolist()
    PhyExporter().export([predictions(["2"], ["PV"])], folder)
    after = sorting(folder)
    assert after.unit_ids.tolist() == before
    assert dict(zip(before, after.get_property("nuclr_cell_type").tolist(), strict=True))[2] == "PV"


def test_two_populations_of_one_folder_share_its_tables(folder: Path) -> None:
    parts = [
        predictions(["3", "1"], ["SST", "PV"], population="A"),
        predictions(["0"], ["SST"], population="B"),
    ]
    PhyExporter().export(parts, folder)
    assert table(folder / LABEL) == {"3": "SST", "1": "PV", "0": "SST"}
    with pytest.raises(ReaderError, match="'1' is predicted twice"):
        PhyExporter().export([parts[0], predictions(["1"], ["PV"], population="B")], folder)


def test_units_that_the_folder_does_not_have_are_named_and_nothing_is_written(folder: Path) -> None:
    before = digests(folder)
    with pytest.raises(ReaderError) as caught:
        PhyExporter().export([predictions(["0", "99", "007"], ["PV", "SST", "PV"])], folder)
    assert "no unit 99, 007" in caught.value.what
    assert "nuclr embed" in caught.value.fix
    assert digests(folder) == before


def test_a_label_that_is_no_file_name_is_made_one(folder: Path) -> None:
    written = PhyExporter().export([predictions(["0"], ["PV"], label_name="../cell type/é")], folder)
    assert [path.parent for path in written] == [folder, folder]
    (population,) = SpikeInterfaceReader().read(folder, ReadOptions(subject="m1"))
    assert population.units[written[0].stem.removeprefix("cluster_")][0] == "PV"
    other = PhyExporter().writes([predictions(["0"], ["PV"], label_name="../cell_type/é")], folder)
    assert set(other).isdisjoint(written)


def test_numbers_have_one_table(folder: Path) -> None:
    depth = UnitPredictions(
        subject="m1",
        session="day1",
        population="0",
        label_name="depth",
        classes=(),
        unit_ids=np.array(["4", "1"]),
        labels=np.array(["120.5", "80"]),
        probabilities=np.empty((2, 0)),
        abstain=np.array([False, True]),
    )
    assert PhyExporter().export([depth], folder) == [folder / "cluster_nuclr_depth.tsv"]
    read = sorting(folder)
    values = dict(zip(read.unit_ids.tolist(), read.get_property("nuclr_depth"), strict=True))
    assert values[4] == 120.5
    assert np.isnan(values[1])


@pytest.mark.parametrize(
    ("sample", "what", "fix"),
    [
        ("numpy_folder", "is SpikeInterface numpy_folder", "--export spikeinterface"),
        ("sorter_failed", "sorter folder", "params.py"),
        ("nothing-here", "does not exist", "params.py"),
    ],
)
def test_what_is_no_phy_folder_is_refused(shared: Path, sample: str, what: str, fix: str) -> None:
    with pytest.raises(ReaderError, match=what) as caught:
        PhyExporter().export([predictions(["0"], ["PV"])], shared / "samples" / "si" / sample)
    assert fix in caught.value.fix


def test_labels_that_would_break_a_line_are_refused(folder: Path) -> None:
    before = digests(folder)
    with pytest.raises(ReaderError, match="tabs or line breaks"):
        PhyExporter().export([predictions(["0"], ["P\nV"])], folder)
    assert digests(folder) == before


def test_a_folder_that_cannot_be_written_stays_as_it_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both tables or none: when the second cannot take its place, the first goes back."""
    PhyExporter().export([predictions(["0"], ["PV"])], folder)
    before = digests(folder)
    replace = Path.replace

    def fail(self: Path, target: Path) -> Path:
        if Path(target).name == SHARE and ".old-" not in self.name:
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(InputError, match="No space left"):
        PhyExporter().export([predictions(["0"], ["SST"])], folder)
    assert digests(folder) == before


def test_nuclr_brings_the_exporters() -> None:
    registry = Registry.load()
    assert {"nwb", "phy", "spikeinterface"} <= {exporter.name for exporter in registry.exporters}
    with pytest.raises(InputError) as caught:
        registry.exporter("phi")
    assert caught.value.fix == "--export phy"
