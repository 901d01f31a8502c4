"""Units tables of NWB files, with pynwb itself as the oracle."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pynwb
import pytest
from numpy.typing import NDArray

from nuclr_cli.api import MissingPackageError, Population, ReaderError, ReadOptions
from nuclr_nwb import NwbReader


@pytest.fixture(scope="session")
def samples(shared: Path) -> Path:
    return shared / "samples" / "nwb"


def read(path: Path, **options: Any) -> Population:
    (population,) = NwbReader().read(path, ReadOptions(**options))
    return population


def trains(population: Population) -> dict[str, NDArray[np.float64]]:
    """Unit id -> spike times."""
    assert population.spikes is not None
    times, index = population.spikes.times, population.spikes.unit_index
    assert (np.diff(times) >= 0).all()
    return {str(unit): times[index == row] for row, unit in enumerate(population.units["id"])}


def new_file(**general: Any) -> Any:
    return pynwb.NWBFile(
        session_description="made by a test",
        identifier="made-by-a-test",
        session_start_time=datetime(2024, 1, 1, tzinfo=UTC),
        **general,
    )


def save(nwb: Any, path: Path) -> Path:
    with pynwb.NWBHDF5IO(str(path), "w") as io:
        io.write(nwb)
    return path


def spike_trains(n_units: int = 6, seconds: float = 60.0) -> list[NDArray[np.float64]]:
    rng = np.random.default_rng(3)
    return [np.sort(rng.uniform(0, seconds, 40 + 5 * unit)) for unit in range(n_units)]


def probes(nwb: Any, devices: dict[str, list[str]]) -> dict[str, Any]:
    """Electrode groups by device name -> names of its groups, located in a region of that name."""
    groups = {}
    for device_name, group_names in devices.items():
        device = nwb.create_device(device_name)
        for name in group_names:
            groups[name] = nwb.create_electrode_group(name, description="d", location=name, device=device)
    return groups


@pytest.fixture
def simple(tmp_path: Path) -> Callable[..., Path]:
    """A file of six units, 60 s, ids 100, 90, ..., 50."""

    def make(**general: Any) -> Path:
        nwb = new_file(**general)
        nwb.add_unit_column("cell_type", "type")
        for unit, train in enumerate(spike_trains()):
            nwb.add_unit(spike_times=train, id=100 - 10 * unit, cell_type=("PV", "")[unit % 2])
        return save(nwb, tmp_path / "simple.nwb")

    return make


@pytest.mark.parametrize("name", ["ephys.nwb", "ephys.nwb.zarr"])
def test_spike_trains_equal_those_of_pynwb(samples: Path, name: str) -> None:
    population = read(samples / name)
    ours = trains(population)
    nwb = pynwb.read_nwb(str(samples / name))
    kept = 0
    for row, unit in enumerate(nwb.units.id[:]):
        train = np.asarray(nwb.units["spike_times"][row])
        inside = (
            (train >= 0) & (train <= 120) & ~((train > 20) & (train < 25)) & ~((train > 50) & (train < 60))
        )
        np.testing.assert_array_equal(ours[str(unit)], train[inside])
        kept += int(inside.sum())
    nwb.get_read_io().close()
    assert sorted(ours) == sorted(str(100 + 3 * k) for k in range(12))
    assert kept == 9688 - 436
    assert any("436 of 9688 spikes lie outside" in note for note in population.notes)
    np.testing.assert_array_equal(population.intervals, [[0, 20], [25, 50], [60, 120]])


def test_hdf5_and_zarr_give_the_same_population(samples: Path) -> None:
    first, second = read(samples / "ephys.nwb"), read(samples / "ephys.nwb.zarr")
    assert set(first.units) == set(second.units)
    for name, column in first.units.items():
        np.testing.assert_array_equal(column, second.units[name], err_msg=name)
    assert first.attributes == second.attributes
    # The object references of the store are pickles: said, not run, and the group is found in another way.
    (warning,) = second.warnings
    assert "electrode_group" in warning
    assert "pickle" in warning
    assert first.warnings == ()


def test_columns_identity_and_attributes_come_from_the_file(samples: Path) -> None:
    population = read(samples / "ephys.nwb")
    assert (population.subject, population.session, population.subject_assumed) == (
        "mouse7",
        "sess-ephys",
        False,
    )
    assert population.attributes["genotype"] == "PV-Cre"
    assert population.attributes["species"] == "Mus musculus"
    assert population.attributes["session_start_time"].startswith("2024-03-01T12:00")
    units = population.units
    assert units["brain_region"].tolist() == ["VISp", "CA1"] * 6
    assert units["cell_type"].tolist() == ["exc", "PV", "SST", ""] * 3
    assert units["peak_channel_id"].dtype.kind == "i"
    assert units["snr"].dtype.kind == "f"
    assert {"waveform_mean", "spike_amplitudes"}.isdisjoint(units)
    assert any("spike_amplitudes, waveform_mean" in note for note in population.notes)
    said = read(samples / "ephys.nwb", subject="m1", session="d2")
    assert (said.subject, said.session) == ("m1", "d2")


def test_ids_need_not_be_numbered_and_columns_stay_on_their_rows(simple: Callable[..., Path]) -> None:
    population = read(simple())
    assert population.units["id"].tolist() == ["100", "90", "80", "70", "60", "50"]
    assert population.units["cell_type"].tolist() == ["PV", ""] * 3
    for (unit, ours), theirs in zip(trains(population).items(), spike_trains(), strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=unit)


def test_a_file_without_subject_or_session_is_called_after_itself(simple: Callable[..., Path]) -> None:
    population = read(simple())
    assert (population.subject, population.subject_assumed) == ("simple", True)
    assert population.session == "made-by-a-test"
    assert any("no subject_id" in note for note in population.notes)


def test_without_obs_intervals_the_recording_ends_with_the_last_spike(simple: Callable[..., Path]) -> None:
    path, last = simple(), max(train[-1] for train in spike_trains())
    population = read(path)
    np.testing.assert_array_equal(population.intervals, [[0.0, last]])
    assert any("no obs_intervals" in note for note in population.notes)
    np.testing.assert_array_equal(read(path, duration_s=(75.0,)).intervals, [[0.0, 75.0]])
    with pytest.raises(ReaderError, match=r"\d+ of 315 spikes lie outside 0 to 10 s"):
        read(path, duration_s=(10.0,))
    stretches = read(path, segment_starts_s=(0.0, 40.0), duration_s=(30.0, 20.0))
    np.testing.assert_array_equal(stretches.intervals, [[0, 30], [40, 60]])
    assert not ((trains(stretches)["100"] > 30) & (trains(stretches)["100"] < 40)).any()
    with pytest.raises(ReaderError, match="2 values, --duration 1"):
        read(path, segment_starts_s=(0.0, 40.0), duration_s=(30.0,))


def test_negative_times_need_a_recording_that_begins_below_zero(tmp_path: Path) -> None:
    def make(name: str, **columns: Any) -> Path:
        nwb = new_file()
        nwb.add_unit(spike_times=[-5.0, -1.0, 3.0, 4.0], id=7, **columns)
        nwb.add_unit(spike_times=[1.0, 2.0], id=8, **columns)
        return save(nwb, tmp_path / name)

    bare = make("bare.nwb")
    with pytest.raises(ReaderError, match=r"2 of 6 spike times are negative.*1 unit \('7' 2 times\)"):
        read(bare)
    said = read(bare, segment_starts_s=(-10.0,), duration_s=(20.0,))
    np.testing.assert_array_equal(said.intervals, [[-10, 10]])
    assert trains(said)["7"].tolist() == [-5.0, -1.0, 3.0, 4.0]
    observed = read(make("observed.nwb", obs_intervals=[[-6.0, 10.0]]))
    np.testing.assert_array_equal(observed.intervals, [[-6, 10]])
    assert len(trains(observed)["7"]) == 4
    with pytest.raises(ReaderError, match="negative"):
        read(make("late.nwb", obs_intervals=[[0.0, 10.0]]))


def test_units_observed_at_different_times_are_united_and_said(tmp_path: Path) -> None:
    nwb = new_file()
    nwb.add_unit(spike_times=[1.0, 2.0], obs_intervals=[[0.0, 10.0]])
    nwb.add_unit(spike_times=[11.0, 21.5], obs_intervals=[[5.0, 20.0]])
    population = read(save(nwb, tmp_path / "a.nwb"))
    np.testing.assert_array_equal(population.intervals, [[0, 20]])
    assert any("2 of 2 units were observed for less than" in warning for warning in population.warnings)
    assert any("1 of 4 spikes lie outside" in note for note in population.notes)


def test_observations_that_touch_or_have_no_length_do_not_overlap(tmp_path: Path) -> None:
    nwb = new_file()
    stretches = [[5.0, 5.0], [0.0, 10.0 + 1e-9], [10.0, 20.0], [20.0, 20.0]]
    nwb.add_unit(spike_times=[1.0, 12.0], obs_intervals=stretches)
    population = read(save(nwb, tmp_path / "a.nwb"))
    np.testing.assert_array_equal(population.intervals, [[0, 20]])
    assert not population.warnings
    nwb = new_file()
    nwb.add_unit(spike_times=[1.0, 12.0], obs_intervals=[[0.0, 1000.00001], [1000.0, 2000.0]])
    with pytest.raises(ReaderError, match=r"first 0 to 1000\.00001 s and 1000 to 2000 s"):
        read(save(nwb, tmp_path / "b.nwb"))


def test_ids_may_be_listed_among_the_columns(samples: Path, tmp_path: Path) -> None:
    path = Path(shutil.copyfile(samples / "ephys.nwb", tmp_path / "a.nwb"))
    expected = read(path)
    with h5py.File(path, "a") as file:
        listed = [*file["units"].attrs["colnames"], "id"]
        file["units"].attrs["colnames"] = np.array(listed, dtype=h5py.string_dtype())
    found = read(path)
    assert list(found.units) == list(expected.units)
    for name, column in expected.units.items():
        np.testing.assert_array_equal(found.units[name], column)


def test_noise_is_left_out_and_keep_chooses(tmp_path: Path) -> None:
    nwb = new_file()
    nwb.add_unit_column("quality", "q")
    for label, train in zip(["good", "noise", "mua", "good"], spike_trains(4), strict=True):
        nwb.add_unit(spike_times=train, quality=label)
    path = save(nwb, tmp_path / "a.nwb")
    population = read(path)
    assert population.units["id"].tolist() == ["0", "2", "3"]
    assert any("1 of 4 units were left out by their quality: 1." in note for note in population.notes)
    for unit, train in trains(population).items():
        np.testing.assert_array_equal(train, spike_trains(4)[int(unit)])
    assert read(path, keep=("all",)).n_units == 4
    assert read(path, keep=("mua",)).units["id"].tolist() == ["2"]
    with pytest.raises(ReaderError, match=r"no unit is left.*good: 2"):
        read(path, keep=("excellent",))


def test_regions_come_from_the_first_place_that_has_them(tmp_path: Path) -> None:
    """A column, else the electrode group, else most of the electrodes."""

    def make(name: str, column: str = "", with_group: bool = False, with_electrodes: bool = False) -> Path:
        nwb = new_file()
        group = probes(nwb, {"probe": ["CA3"]})["CA3"]
        if with_electrodes:
            group = nwb.create_electrode_group(
                "g", description="d", location="unknown", device=nwb.devices["probe"]
            )
            for location in ("VISp", "VISp", "CA1", "unknown"):
                nwb.add_electrode(location=location, group=group)
        if column:
            nwb.add_unit_column(column, "where")
        for unit, train in enumerate(spike_trains(3)):
            more: dict[str, Any] = {column: "DG"} if column else {}
            if with_group:
                more["electrode_group"] = group
            if with_electrodes:
                more["electrodes"] = [[0, 1, 2], [2], [3]][unit]
            nwb.add_unit(spike_times=train, **more)
        return save(nwb, tmp_path / name)

    for column in ("brain_area", "brain_region", "location", "structure"):
        by_column = read(make(f"{column}.nwb", column, with_group=True))
        assert by_column.units["brain_region"].tolist() == ["DG"] * 3, column
    by_group = read(make("group.nwb", with_group=True))
    assert by_group.units["brain_region"].tolist() == ["CA3"] * 3
    assert by_group.units["electrode_group"].tolist() == ["CA3"] * 3
    mixed = read(make("electrodes.nwb", with_electrodes=True))
    assert mixed.units["brain_region"].tolist() == ["VISp", "CA1", ""]
    (warning,) = mixed.warnings
    assert "1 units have electrodes in several regions ('0')" in warning
    assert "brain_region" not in read(make("nowhere.nwb")).units


def test_each_probe_is_a_population(tmp_path: Path) -> None:
    nwb = new_file()
    groups = probes(nwb, {"imec1": ["b"], "imec0": ["a", "a2"]})
    for unit, train in enumerate(spike_trains()):
        nwb.add_unit(spike_times=train, electrode_group=groups[("a", "b", "a2")[unit % 3]])
    path = save(nwb, tmp_path / "a.nwb")
    first, second = NwbReader().read(path, ReadOptions())
    assert (first.population, second.population) == ("imec0", "imec1")
    assert first.units["id"].tolist() == ["0", "2", "3", "5"]
    assert first.units["electrode_group"].tolist() == ["a", "a2", "a", "a2"]
    assert second.units["id"].tolist() == ["1", "4"]
    for unit, train in {**trains(first), **trains(second)}.items():
        np.testing.assert_array_equal(train, spike_trains()[int(unit)])
    assert any("several probes" in note and "imec0 (4 units)" in note for note in first.notes)


def test_electrode_groups_of_one_probe_stay_together(samples: Path) -> None:
    population = read(samples / "ephys.nwb")
    assert population.population == "0"
    assert set(population.units["electrode_group"].tolist()) == {"probe0", "probe1"}


def test_what_a_broken_link_does_not_concern_is_still_read(samples: Path, tmp_path: Path) -> None:
    """pynwb refuses this file: a column, and raw data kept in another file, are not there."""
    path = tmp_path / "a.nwb"
    shutil.copyfile(samples / "ephys.nwb", path)
    with h5py.File(path, "a") as file:
        del file["units/snr"]
        file["units/snr"] = h5py.ExternalLink("labels.nwb", "/snr")
        raw = file["acquisition"].create_group("raw")
        raw.attrs.update({"neurodata_type": "ElectricalSeries", "namespace": "core", "object_id": "a"})
        raw["data"] = h5py.ExternalLink("raw.nwb", "/acquisition/raw/data")
    with pytest.raises(Exception, match=r"raw|units"):
        pynwb.read_nwb(str(path))
    population = read(path)
    (warning,) = population.warnings
    assert "'snr' is a link to labels.nwb:/snr" in warning
    whole = read(samples / "ephys.nwb")
    for unit, train in trains(whole).items():
        np.testing.assert_array_equal(trains(population)[unit], train)


def test_units_in_a_linked_file_are_read_and_watched(samples: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.nwb"
    shutil.copyfile(samples / "ephys.nwb", path)
    shutil.copyfile(samples / "ephys.nwb", tmp_path / "sorted.nwb")
    with h5py.File(path, "a") as file:
        del file["units"]
        file["units"] = h5py.ExternalLink("sorted.nwb", "/units")
    assert NwbReader().sources(path) == [path, tmp_path / "sorted.nwb"]
    np.testing.assert_array_equal(trains(read(path))["103"], trains(read(samples / "ephys.nwb"))["103"])
    (tmp_path / "sorted.nwb").unlink()
    with pytest.raises(ReaderError, match=r"link to sorted\.nwb:/units, which is not there"):
        read(path)


def test_unknown_extensions_and_missing_fields_do_not_matter(samples: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.nwb"
    shutil.copyfile(samples / "ephys.nwb", path)
    with h5py.File(path, "a") as file:
        thing = file["acquisition"].create_group("thing")
        thing.attrs.update({"neurodata_type": "LabThing", "namespace": "ndx-lab", "object_id": "a"})
        del file["session_start_time"]
    population = read(path)
    assert population.n_units == 12
    assert "session_start_time" not in population.attributes


def test_options_without_effect_are_said(samples: Path) -> None:
    population = read(samples / "ephys.nwb", fs_hz=30_000.0, series=("x",))
    assert any("--fs, --series changed nothing" in warning for warning in population.warnings)
    with pytest.raises(ReaderError, match="does not understand --option colour=red"):
        read(samples / "ephys.nwb", extra={"colour": "red"})


def test_detection_is_cheap_and_needs_no_pynwb(
    samples: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] in ("pynwb", "hdmf", "hdmf_zarr")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pynwb", None)
    reader = NwbReader()
    reader.detect(samples / "ephys.nwb")
    began = time.perf_counter()
    seen = {path.name: reader.detect(path) for path in sorted(samples.iterdir())}
    assert (time.perf_counter() - began) / len(seen) < 0.05
    assert all(text is not None and text.startswith("NWB ") for text in seen.values())
    assert "Zarr" in str(seen["ephys.nwb.zarr"])
    (tmp_path / "notes.txt").write_text("x")
    h5py.File(tmp_path / "other.h5", "w").close()
    assert [reader.detect(path) for path in (tmp_path, *tmp_path.iterdir(), tmp_path / "gone.nwb")] == [
        None
    ] * 4
    # Reading needs no pynwb either.
    assert read(samples / "ephys.nwb").n_units == 12


def test_other_formats_are_not_claimed(shared: Path) -> None:
    others = [p for kind in ("si", "suite2p", "td") for p in (shared / "samples" / kind).iterdir()]
    assert [path for path in others if NwbReader().detect(path) is not None] == []


def test_zarr_needs_a_package_and_says_so(samples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(MissingPackageError, match="hdmf-zarr"):
        read(samples / "ephys.nwb.zarr")


def test_enumerated_and_boolean_columns_keep_their_meaning(tmp_path: Path) -> None:
    from hdmf.common.table import EnumData

    nwb = new_file()
    nwb.add_unit_column("layer", "l", col_cls=EnumData, enum=True)
    nwb.add_unit_column("tagged", "opto")
    for unit, train in enumerate(spike_trains(3)):
        nwb.add_unit(spike_times=train, layer=("L5", "L2/3", "L5")[unit], tagged=unit == 1)
    units = read(save(nwb, tmp_path / "a.nwb")).units
    assert units["layer"].tolist() == ["L5", "L2/3", "L5"]
    assert units["tagged"].tolist() == [False, True, False]
    assert units["tagged"].dtype == np.bool_
