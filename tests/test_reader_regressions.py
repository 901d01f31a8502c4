"""Files on which a reader once gave wrong values, or took very long, without a word."""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from nuclr_cli.api import CalciumTraces, Population, Reader, ReaderError, ReadOptions
from nuclr_cli.safe_files import load_column
from nuclr_nwb import NwbReader
from nuclr_spikeinterface import SpikeInterfaceReader
from nuclr_temporaldata import TemporaldataReader


def read(path: Path, reader: Reader | None = None, **options: Any) -> Population:
    (population,) = (reader or NwbReader()).read(path, ReadOptions(**options))
    return population


def copied(source: Path, target: Path) -> Path:
    """A writable copy of a sample."""
    if source.is_dir():
        shutil.copytree(source, target, copy_function=shutil.copyfile)
        for folder in (target, *(path for path in target.rglob("*") if path.is_dir())):
            folder.chmod(0o755)
    else:
        shutil.copyfile(source, target)
    return target


def replace(file: h5py.File, name: str, values: NDArray[Any]) -> None:
    """Put other values where a dataset was, keeping its attributes."""
    attributes = dict(file[name].attrs)
    del file[name]
    file[name] = values
    for key, value in attributes.items():
        file[name].attrs[key] = value


def traces_of(population: Population) -> CalciumTraces:
    assert population.calcium is not None
    return population.calcium


@pytest.fixture(scope="session")
def samples(shared: Path) -> Path:
    return shared / "samples"


@pytest.fixture
def ephys(samples: Path, tmp_path: Path) -> Path:
    return copied(samples / "nwb" / "ephys.nwb", tmp_path / "ephys.nwb")


@pytest.fixture
def ophys(samples: Path, tmp_path: Path) -> Path:
    return copied(samples / "nwb" / "ophys.nwb", tmp_path / "ophys.nwb")


def test_contiguous_spike_times_never_written_are_no_zeros(ephys: Path) -> None:
    with h5py.File(ephys, "a") as file:
        (n_spikes,) = file["units/spike_times"].shape
        del file["units/spike_times"]
        file["units"].create_dataset("spike_times", shape=(n_spikes,), dtype="f8")
    with pytest.raises(ReaderError, match=rf"spike_times promises {8 * n_spikes} bytes, but 0 are stored"):
        read(ephys)


def test_electrode_groups_of_units_in_another_file_are_not_looked_up_here(
    ephys: Path, tmp_path: Path
) -> None:
    expected = read(copied(ephys, tmp_path / "other.nwb"))
    main = copied(ephys, tmp_path / "main.nwb")
    with h5py.File(main, "a") as file:
        del file["units"]
        file["units"] = h5py.ExternalLink("other.nwb", "/units")
        groups = file["general/extracellular_ephys"]
        groups.move("probe0", "aside")
        groups.move("probe1", "probe0")
        groups.move("aside", "probe1")
    population = read(main)
    np.testing.assert_array_equal(population.units["id"], expected.units["id"])
    assert "electrode_group" in expected.units
    if "electrode_group" in population.units:
        found = population.units["electrode_group"]
        told = found != ""
        np.testing.assert_array_equal(found[told], expected.units["electrode_group"][told])
    assert any("in another file" in line and "not followed" in line for line in population.warnings)


def test_a_cut_zarr_chunk_never_gives_values(samples: Path, tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    path = copied(samples / "nwb" / "ephys.nwb.zarr", tmp_path / "ephys.nwb.zarr")
    assert "snr" in read(path).units
    chunk = path / "units" / "snr" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-4])
    try:
        population = read(path)
    except ReaderError as error:
        assert "1 of its chunks is cut off (0)" in str(error)  # noqa: PT017 - either way is right
    else:
        assert "snr" not in population.units
        assert any(
            "units/snr" in line and "1 of its chunks is cut off (0)" in line for line in population.warnings
        )


def test_spikes_in_invalid_times_are_left_out_of_touching_intervals(ephys: Path) -> None:
    with h5py.File(ephys, "a") as file:
        ends = file["units/spike_times_index"][:].astype(np.int64)
        units = np.split(file["units/spike_times"][:], ends[:-1])
        units = [unit[((unit < 20) | (unit > 25)) & (unit != 60)] for unit in units]
        units[0] = np.sort(np.r_[units[0], 22.5, 60.0])
        replace(file, "units/spike_times", np.concatenate(units))
        # The index refers to the spike times by an object reference, which must follow them.
        index = np.cumsum([len(unit) for unit in units]).astype("u8")
        replace(file, "units/spike_times_index", index)
        file["units/spike_times_index"].attrs["target"] = file["units/spike_times"].ref
    population = read(ephys, segment_starts_s=(0.0, 60.0), duration_s=(60.0, 60.0))
    np.testing.assert_allclose(population.intervals, [[0, 20], [25, 60], [60, 120]])
    assert population.spikes is not None
    times = population.spikes.times
    assert len(times) == sum(map(len, units)) - 1
    assert not np.any((times > 20) & (times < 25))
    assert np.count_nonzero(times == 60.0) == 1


def test_timestamps_for_two_planes_are_refused(ophys: Path, tmp_path: Path) -> None:
    traces = traces_of(read(ophys))
    assert len(np.unique(traces.time_offset)) == 2
    np.save(tmp_path / "times.npy", traces.timestamps)
    with pytest.raises(ReaderError, match="--series"):
        read(ophys, timestamps=tmp_path / "times.npy")


def test_a_nested_object_that_doubles_at_each_level_is_read_fast(tmp_path: Path) -> None:
    nested: list[Any] = []
    for _ in range(40):
        nested = [nested, nested]
    column = np.empty((), dtype=object)
    column[()] = nested
    np.save(tmp_path / "column.npy", column, allow_pickle=True)
    begin = time.perf_counter()
    with contextlib.suppress(ReaderError):
        load_column(tmp_path / "column.npy", trust=False)
    assert time.perf_counter() - begin < 1


def test_an_unknown_brain_area_gives_way_to_electrode_groups(ephys: Path) -> None:
    with h5py.File(ephys, "a") as file:
        file["units/brain_area"][...] = "unknown"
        groups = file["general/extracellular_ephys"]
        locations = {name: groups[name].attrs["location"] for name in ("probe0", "probe1")}
    regions = read(ephys).units["brain_region"]
    assert set(regions) == set(locations.values())


def test_an_unknown_location_of_a_group_gives_way_to_its_electrodes(ephys: Path) -> None:
    with h5py.File(ephys, "a") as file:
        units = file["units"]
        del units["brain_area"]
        units.attrs["colnames"] = [name for name in units.attrs["colnames"] if name != "brain_area"]
        probe1 = file["general/extracellular_ephys/probe1"]
        location = probe1.attrs["location"]
        probe1.attrs["location"] = "unknown"
    population = read(ephys)
    regions = population.units["brain_region"]
    assert list(regions) == ["VISp"] * 8 + [location] * 4
    assert any("unit's electrodes" in note for note in population.notes)


def test_compact_frames_of_a_domain_with_a_gap_are_refused(samples: Path, tmp_path: Path) -> None:
    path = copied(samples / "td" / "calcium_temporaldata.h5", tmp_path / "gap.h5")
    with h5py.File(path, "a") as file:
        calcium = file["calcium_traces"]
        n_units = calcium["df_over_f"].shape[1]
        frames = np.repeat(np.arange(1000, dtype="f4")[:, None], n_units, axis=1)
        replace(file, "calcium_traces/df_over_f", frames)
        calcium.attrs["sampling_rate"] = 10.0
        for domain in ("domain", "calcium_traces/domain"):
            replace(file, f"{domain}/start", np.array([0.0, 60.0]))
            replace(file, f"{domain}/end", np.array([50.0, 110.0]))
    with pytest.raises(ReaderError, match=r"1000 frames for a domain with gaps that spans 1100"):
        read(path, TemporaldataReader(), subject="s")


def test_one_blank_channel_leaves_the_others_their_peak_channel(samples: Path, tmp_path: Path) -> None:
    path = copied(samples / "si" / "kilosort4_like", tmp_path / "sorted")
    (path / "templates.npy").unlink()
    channels = ["9", "8", "15", "12", "2", "0", "10", ""]
    rows = [f"{cluster}\t{channel}\n" for cluster, channel in enumerate(channels)]
    (path / "cluster_info.tsv").write_text("cluster_id\tch\n" + "".join(rows))
    population = read(path, SpikeInterfaceReader(), subject="s")
    assert list(map(str, population.units["id"])) == list(map(str, range(8)))
    assert list(population.units["peak_channel"]) == channels
    assert any("1 of 8 units have none" in note for note in population.notes)


def test_invalid_times_hold_for_the_plane_that_is_imaged_later(ophys: Path) -> None:
    before = traces_of(read(ophys))
    with h5py.File(ophys, "a") as file:
        invalid = file.require_group("intervals/invalid_times")
        invalid["start_time"] = np.array([10.05])
        invalid["stop_time"] = np.array([10.15])
    after = traces_of(read(ophys))
    # The first plane is imaged at 10.0 s, the second one 0.1 s later, within the invalid times.
    (lost,) = np.setdiff1d(before.timestamps, after.timestamps)
    assert lost == pytest.approx(10.0)
    for offset in np.unique(before.time_offset):
        times = after.timestamps + offset
        assert not np.any((times >= 10.05) & (times < 10.15))
