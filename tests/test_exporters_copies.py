"""Predictions in copies of SpikeInterface sortings and NWB files; the originals stay byte for byte."""

from __future__ import annotations

import hashlib
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from nuclr_cli.api import Modality, ReaderError, ReadOptions, UnitPredictions
from nuclr_nwb import NwbExporter, NwbReader
from nuclr_spikeinterface import SortingExporter, SpikeInterfaceReader

CLASSES = ("PV", "SST", "Übergang")


def predictions(
    source: Path | None,
    ids: Sequence[str],
    labels: Sequence[str],
    *,
    abstain: str = "",
    modality: Modality = "spikes",
    label_name: str = "cell_type",
) -> UnitPredictions:
    """Of each unit its label with 0.9; the probability tells the units apart in the third digit."""
    shares = np.full((len(ids), len(CLASSES)), 0.05)
    for row, label in enumerate(labels):
        shares[row, CLASSES.index(label)] = 0.9 + row / 1000
    return UnitPredictions(
        subject="m1",
        session="day1",
        population="0",
        label_name=label_name,
        classes=CLASSES,
        unit_ids=np.array(ids),
        labels=np.array(labels),
        probabilities=shares,
        abstain=np.array([unit == abstain for unit in ids]),
        source=source,
        modality=modality,
    )


def depths(source: Path, ids: Sequence[str], values: Sequence[str]) -> UnitPredictions:
    nothing = np.array([value == "" for value in values])
    shares = np.empty((len(ids), 0))
    return UnitPredictions(
        "m1", "day1", "0", "depth", (), np.array(ids), np.array(values), shares, nothing, source
    )


def digests(place: Path) -> dict[str, str]:
    files = [place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(place.parent)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def inside(place: Path) -> dict[str, str]:
    return {name.partition("/")[2]: digest for name, digest in digests(place).items()}


def loaded(folder: Path) -> Any:
    import spikeinterface

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return spikeinterface.load(folder)


def read_zarr_sorting(folder: Path) -> Any:
    from spikeinterface.core import read_zarr

    return read_zarr(folder)


@pytest.fixture
def samples(shared: Path) -> Path:
    return shared / "samples"


SAVED = ("numpy_folder", "npz_folder", "zarr.zarr", "analyzer_folder", "analyzer.zarr")


@pytest.mark.parametrize("name", SAVED)
def test_a_copy_of_a_sorting_has_the_labels_on_its_units(samples: Path, tmp_path: Path, name: str) -> None:
    source = samples / "si" / name
    before = digests(source)
    ids = ["5", "0", "7", "2"]
    given = predictions(source, ids, ["PV", "SST", "PV", "Übergang"], abstain="7")
    target = tmp_path / ("copy.zarr" if name.endswith(".zarr") else "copy")
    assert SortingExporter().export([given], target) == [target]
    assert digests(source) == before

    copy = loaded(target)
    saved = source / "sorting" if name.startswith("analyzer") else source
    original = read_zarr_sorting(saved) if name.endswith(".zarr") else loaded(saved)
    labels = dict(zip(copy.unit_ids.tolist(), copy.get_property("nuclr_cell_type").tolist(), strict=True))
    assert labels == {"0": "SST", "2": "Übergang", "5": "PV"} | dict.fromkeys("13467", "")
    shares = dict(zip(labels, copy.get_property("nuclr_cell_type_probability").tolist(), strict=True))
    assert [shares[unit] for unit in ids] == pytest.approx([0.9, 0.901, 0.902, 0.903])
    assert np.isnan(shares["1"])
    for key in original.get_property_keys():
        assert np.array_equal(copy.get_property(key), original.get_property(key)), key
    assert np.array_equal(copy.to_spike_vector(), original.to_spike_vector())

    (population,) = SpikeInterfaceReader().read(target, ReadOptions(subject="m1", keep=("all",)))
    own_ids = population.units["id"].tolist()
    assert dict(zip(own_ids, population.units["nuclr_cell_type"].tolist(), strict=True)) == labels
    own = inside(saved)
    assert {file: digest for file, digest in inside(target).items() if file in own} == own


def test_an_original_with_other_unit_order_and_text_ids_keeps_both(tmp_path: Path) -> None:
    import spikeinterface

    spikes = [{"zeta": np.array([5, 90]), "a/b": np.array([7]), "Ü": np.array([1, 2, 3])}]
    source = tmp_path / "saved"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spikeinterface.NumpySorting.from_unit_dict(spikes, 30000.0).save(folder=source)
    given = predictions(source, ["Ü", "zeta"], ["PV", "SST"])
    SortingExporter().export([given], tmp_path / "copy")
    copy = loaded(tmp_path / "copy")
    assert copy.unit_ids.tolist() == ["zeta", "a/b", "Ü"]
    assert copy.get_property("nuclr_cell_type").tolist() == ["SST", "", "PV"]


def test_numbers_become_one_property(samples: Path, tmp_path: Path) -> None:
    source = samples / "si" / "numpy_folder"
    SortingExporter().export([depths(source, ["3", "1"], ["12.5", ""])], tmp_path / "copy")
    copy = loaded(tmp_path / "copy")
    values = copy.get_property("nuclr_depth")
    assert values[copy.unit_ids.tolist().index("3")] == 12.5
    assert np.isnan(values).sum() == len(values) - 1
    assert "nuclr_depth_probability" not in copy.get_property_keys()


def test_only_a_copy_of_nuclr_is_replaced(samples: Path, tmp_path: Path) -> None:
    source, target = samples / "si" / "numpy_folder", tmp_path / "copy"
    export = SortingExporter().export
    export([predictions(source, ["0"], ["PV"])], target)
    export([predictions(source, ["0"], ["SST"])], target)
    assert loaded(target).get_property("nuclr_cell_type").tolist()[0] == "SST"
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    saved = tmp_path / "saved"
    shutil.copytree(source, saved, copy_function=shutil.copy)
    for place in (mine, saved):
        before = digests(place)
        with pytest.raises(ReaderError, match="no copy that nuclr made"):
            export([predictions(source, ["0"], ["PV"])], place)
        assert digests(place) == before


@pytest.mark.parametrize("where", ["", "inside", ".."])
def test_the_original_is_never_the_target(samples: Path, tmp_path: Path, where: str) -> None:
    source = tmp_path / "here" / "saved"
    shutil.copytree(samples / "si" / "numpy_folder", source, copy_function=shutil.copy)
    before = digests(tmp_path)
    with pytest.raises(ReaderError, match="lie in one another"):
        SortingExporter().export([predictions(source, ["0"], ["PV"])], source / where)
    assert digests(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("phy", "--export phy --to"),
        ("sorting.npz", "--source FOLDER"),
        ("sorter_failed", "--source FOLDER"),
        ("gone", "--source PATH"),
    ],
)
def test_what_has_no_place_for_properties_is_refused(
    samples: Path, tmp_path: Path, name: str, fix: str
) -> None:
    with pytest.raises(ReaderError) as caught:
        SortingExporter().export([predictions(samples / "si" / name, ["0"], ["PV"])], tmp_path / "copy")
    assert fix in caught.value.fix
    assert list(tmp_path.iterdir()) == []


def test_the_name_of_the_copy_must_suit_its_format(samples: Path, tmp_path: Path) -> None:
    for name, target, fix in (("zarr.zarr", "copy", "copy.zarr"), ("numpy_folder", "copy.zarr", "copy")):
        given = predictions(samples / "si" / name, ["0"], ["PV"])
        with pytest.raises(ReaderError) as caught:
            SortingExporter().export([given], tmp_path / target)
        assert caught.value.fix == f"--to {tmp_path / fix}"


@pytest.mark.parametrize("export", [SortingExporter().export, NwbExporter().export])
def test_the_recording_must_be_known_and_one(
    samples: Path, tmp_path: Path, export: Callable[..., object]
) -> None:
    one, other = samples / "si" / "numpy_folder", samples / "si" / "npz_folder"
    for given, what, fix in (
        ([predictions(None, ["0"], ["PV"])], "nothing says", "--source PATH"),
        ([predictions(one, ["0"], ["PV"]), predictions(other, ["1"], ["PV"])], "come from", "--session"),
    ):
        with pytest.raises(ReaderError, match=what) as caught:
            export(given, tmp_path / "copy.nwb")
        assert fix in caught.value.fix


def test_units_that_the_sorting_does_not_have_are_named(samples: Path, tmp_path: Path) -> None:
    given = predictions(samples / "si" / "zarr.zarr", ["0", "99"], ["PV", "SST"])
    with pytest.raises(ReaderError, match="no unit 99"):
        SortingExporter().export([given], tmp_path / "copy.zarr")
    assert list(tmp_path.iterdir()) == []


def nwb_units(path: Path) -> Any:
    from pynwb import NWBHDF5IO

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with NWBHDF5IO(path, "r") as io:
            return io.read().units.to_dataframe()


def test_a_copy_of_an_nwb_file_has_the_columns_on_its_units(samples: Path, tmp_path: Path) -> None:
    source, target = samples / "nwb" / "ephys.nwb", tmp_path / "labelled.nwb"
    before, first = digests(source), nwb_units(source)
    ids = [str(unit) for unit in first.index[[7, 0, 11, 3]]]
    given = predictions(source, ids, ["PV", "SST", "PV", "Übergang"], abstain=ids[2])
    assert NwbExporter().export([given], target) == [target]
    assert digests(source) == before

    units = nwb_units(target)
    assert units.index.tolist() == first.index.tolist()
    assert list(units.columns) == [*first.columns, "nuclr_cell_type", "nuclr_cell_type_probability"]
    expected = dict(zip(map(int, ids), ["PV", "SST", "", "Übergang"], strict=True))
    assert units["nuclr_cell_type"].to_dict() == {unit: expected.get(unit, "") for unit in first.index}
    shares = units["nuclr_cell_type_probability"]
    assert [shares[int(unit)] for unit in ids] == pytest.approx([0.9, 0.901, 0.902, 0.903])
    assert shares.isna().sum() == len(units) - len(ids)
    for column in first.columns.drop(["electrodes", "electrode_group"]):
        for mine, theirs in zip(units[column], first[column], strict=True):
            assert np.array_equal(mine, theirs, equal_nan=np.asarray(mine).dtype.kind == "f"), column

    (population,) = NwbReader().read(target, ReadOptions())
    own = dict(zip(population.units["id"].tolist(), population.units["nuclr_cell_type"], strict=True))
    assert {unit: label for unit, label in own.items() if label} == {
        unit: label for unit, label in zip(ids, ["PV", "SST", "", "Übergang"], strict=True) if label
    }


def test_the_copy_is_valid_nwb(samples: Path, tmp_path: Path) -> None:
    from pynwb import validate

    source, target = samples / "nwb" / "ephys.nwb", tmp_path / "labelled.nwb"
    ids = [str(unit) for unit in nwb_units(source).index]
    NwbExporter().export([predictions(source, ids[:2], ["PV", "SST"])], target)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert [str(error) for error in validate(path=target)] == [
            str(error) for error in validate(path=source)
        ]


def test_a_second_label_joins_the_first_and_the_same_is_replaced(samples: Path, tmp_path: Path) -> None:
    source = samples / "nwb" / "ephys.nwb"
    first, second, third = (tmp_path / f"{name}.nwb" for name in "abc")
    ids = [str(unit) for unit in nwb_units(source).index]
    NwbExporter().export([predictions(source, ids[:1], ["PV"])], first)
    NwbExporter().export([predictions(first, ids[1:2], ["SST"], label_name="area")], second)
    NwbExporter().export([predictions(second, ids[2:3], ["SST"])], third)
    units = nwb_units(third)
    assert [name for name in units.columns if name.startswith("nuclr_")] == [
        "nuclr_area",
        "nuclr_area_probability",
        "nuclr_cell_type",
        "nuclr_cell_type_probability",
    ]
    assert units["nuclr_area"].tolist() == ["", "SST", *[""] * (len(ids) - 2)]
    assert units["nuclr_cell_type"].tolist() == ["", "", "SST", *[""] * (len(ids) - 3)]


def test_numbers_become_one_column(samples: Path, tmp_path: Path) -> None:
    source, target = samples / "nwb" / "ephys.nwb", tmp_path / "labelled.nwb"
    ids = [str(unit) for unit in nwb_units(source).index]
    NwbExporter().export([depths(source, ids[3:5], ["12.5", ""])], target)
    values = nwb_units(target)["nuclr_depth"]
    assert values[int(ids[3])] == 12.5
    assert values.isna().sum() == len(ids) - 1


def test_only_a_copy_of_nuclr_takes_the_place_of_a_file(samples: Path, tmp_path: Path) -> None:
    source, target = samples / "nwb" / "ephys.nwb", tmp_path / "labelled.nwb"
    ids = [str(unit) for unit in nwb_units(source).index]
    for label in ("PV", "SST"):
        NwbExporter().export([predictions(source, ids[:1], [label])], target)
    assert nwb_units(target)["nuclr_cell_type"].tolist()[0] == "SST"
    for content in ((samples / "nwb" / "ophys.nwb").read_bytes(), b"not even HDF5"):
        mine = tmp_path / "mine.nwb"
        mine.write_bytes(content)
        with pytest.raises(ReaderError, match="no copy that nuclr made"):
            NwbExporter().export([predictions(source, ids[:1], ["PV"])], mine)
        assert mine.read_bytes() == content
    assert {path.name for path in tmp_path.iterdir()} == {"labelled.nwb", "mine.nwb"}


def linked(samples: Path, folder: Path) -> Path:
    """A file that finds its raw data, or its units, in the file beside it."""
    for name in ("ephys.nwb", "whole.nwb"):
        shutil.copy(samples / "nwb" / "ephys.nwb", folder / name)
    with h5py.File(folder / "ephys.nwb", "r+") as file:
        del file["general/subject"]
        file["general/subject"] = h5py.ExternalLink("whole.nwb", "/general/subject")
    return folder / "ephys.nwb"


def test_a_file_is_not_torn_from_those_that_it_links_to(samples: Path, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    source = linked(samples, here)
    ids = [str(unit) for unit in nwb_units(source).index]
    given = predictions(source, ids[:1], ["PV"])
    with pytest.raises(ReaderError, match=r"general/subject in whole\.nwb") as caught:
        NwbExporter().export([given], there / "labelled.nwb")
    assert caught.value.fix == f"--to {here / 'labelled.nwb'}"
    assert list(there.iterdir()) == []
    NwbExporter().export([given], here / "labelled.nwb")
    assert nwb_units(here / "labelled.nwb")["nuclr_cell_type"].tolist()[0] == "PV"


def test_units_in_another_file_stay_as_they_are(samples: Path, tmp_path: Path) -> None:
    source = linked(samples, tmp_path)
    with h5py.File(source, "r+") as file:
        del file["units"]
        file["units"] = h5py.ExternalLink("whole.nwb", "/units")
    before = digests(tmp_path)
    ids = [str(unit) for unit in nwb_units(tmp_path / "whole.nwb").index]
    with pytest.raises(ReaderError, match="link into another file"):
        NwbExporter().export([predictions(source, ids[:1], ["PV"])], tmp_path / "labelled.nwb")
    assert digests(tmp_path) == before


def test_rois_and_other_files_are_refused(samples: Path, tmp_path: Path) -> None:
    nwb, ids = samples / "nwb", [str(unit) for unit in nwb_units(samples / "nwb" / "ephys.nwb").index]
    target = tmp_path / "labelled.nwb"
    cases = [
        (predictions(nwb / "ophys.nwb", ["0"], ["PV"], modality="calcium"), target, "holds traces"),
        (predictions(nwb / "ephys.nwb.zarr", ids[:1], ["PV"]), target, "is a folder"),
        (predictions(nwb / "no_units.nwb", ids[:1], ["PV"]), target, "no units table"),
        (predictions(nwb / "ephys.nwb", ["99999"], ["PV"]), target, "no unit 99999"),
        (predictions(nwb / "ephys.nwb", ids[:1], ["PV"]), tmp_path / "labelled.h5", "does not end with .nwb"),
        (predictions(nwb / "ephys.nwb", ids[:1], ["PV"]), nwb / "ephys.nwb", "is the original"),
    ]
    for given, place, what in cases:
        with pytest.raises(ReaderError, match=what):
            NwbExporter().export([given], place)
    assert list(tmp_path.iterdir()) == []
