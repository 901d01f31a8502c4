"""The reader on files of SpikeInterface, phy and Kilosort, with SpikeInterface itself as the oracle."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nuclr_cli.api import MissingPackageError, Population, ReaderError, ReadOptions, Spikes
from nuclr_spikeinterface import SpikeInterfaceReader

ALL = ReadOptions(keep=("all",))
SAME_SORTING = ("numpy_folder", "npz_folder", "zarr.zarr", "sorting.npz")


@pytest.fixture(scope="session")
def samples(shared: Path) -> Path:
    return shared / "samples" / "si"


def read(path: Path, options: ReadOptions = ALL) -> Population:
    (population,) = SpikeInterfaceReader().read(path, options)
    return population


def spikes_of(population: Population) -> Spikes:
    assert population.spikes is not None
    return population.spikes


def trains(population: Population) -> dict[str, NDArray[np.float64]]:
    """Unit id -> spike times."""
    spikes = spikes_of(population)
    return {
        str(unit): spikes.times[spikes.unit_index == row] for row, unit in enumerate(population.units["id"])
    }


def assert_like_oracle(population: Population, sorting: Any) -> None:
    """Every spike train equals the one SpikeInterface returns, segment by segment.

    SpikeInterface also makes units of clusters that only a label table names; they have no spikes.
    """
    ours = trains(population)
    counts = sorting.count_num_spikes_per_unit()
    theirs = [unit for unit in sorting.unit_ids if counts[unit] > 0]
    assert sorted(ours) == sorted(map(str, theirs))
    fs_hz = sorting.get_sampling_frequency()
    for unit in theirs:
        parts = [
            sorting.get_unit_spike_train(unit, segment_index=segment) / fs_hz
            + population.intervals[segment, 0]
            for segment in range(sorting.get_num_segments())
        ]
        np.testing.assert_allclose(ours[str(unit)], np.concatenate(parts), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["numpy_folder", "npz_folder", "zarr.zarr"])
def test_spike_trains_equal_those_of_spikeinterface(samples: Path, name: str) -> None:
    si = pytest.importorskip("spikeinterface")
    assert_like_oracle(read(samples / name), si.load(samples / name))


@pytest.mark.parametrize("name", ["phy", "kilosort4_like"])
def test_phy_spike_trains_equal_those_of_spikeinterface(samples: Path, name: str) -> None:
    extractors = pytest.importorskip("spikeinterface.extractors")
    assert_like_oracle(read(samples / name), extractors.read_phy(samples / name))


def test_every_property_becomes_a_column(samples: Path) -> None:
    units = read(samples / "numpy_folder").units
    assert units["cell_type_obj"].tolist() == ["exc", "PV", "exc", "SST", "exc", "", "exc", "exc"]
    assert units["cell_type"].tolist() == units["cell_type_obj"].tolist()
    assert units["brain_region"].tolist() == ["VISp", "VISp", "CA1", "CA1", "DG", "DG", "VISl", ""]
    assert units["brain_area"].tolist() == units["brain_region"].tolist()
    assert units["main_channel_id"].tolist() == ["9", "8", "15", "12", "2", "0", "10", "3"]
    assert units["gt_unit_locations"].shape == (8, 3)
    assert units["depth"].tolist() == [100.0 * row for row in range(8)]
    assert units["group"].dtype.kind == "i"
    assert all(column.dtype.kind != "O" for column in units.values())


def test_noise_is_dropped_by_default_and_said(samples: Path) -> None:
    population = read(samples / "numpy_folder", ReadOptions())
    everything = read(samples / "numpy_folder")
    assert population.units["id"].tolist() == list("0123456")
    assert any("1 of 8 units" in note and "noise 1" in note for note in population.notes)
    kept = trains(population)
    for unit, times in trains(everything).items():
        if unit != "7":
            np.testing.assert_array_equal(kept[unit], times)
    # Leaving a unit out does not move the segments.
    np.testing.assert_array_equal(population.intervals, everything.intervals)


def test_keep_chooses_by_label(samples: Path) -> None:
    population = read(samples / "numpy_folder", ReadOptions(keep=("mua",)))
    assert population.units["id"].tolist() == ["6"]
    assert population.units["cell_type"].tolist() == ["exc"]
    both = read(samples / "numpy_folder", ReadOptions(keep=("good", "MUA")))
    assert both.n_units == 7
    assert not any("--keep" in warning for warning in both.warnings)
    misspelt = read(samples / "numpy_folder", ReadOptions(keep=("good", "mau")))
    assert misspelt.n_units == 6
    (warning,) = misspelt.warnings
    assert "no unit is labelled mau (labels here: good, mua, noise)" in warning
    with pytest.raises(ReaderError, match=r"no unit is left.*good: 6"):
        read(samples / "numpy_folder", ReadOptions(keep=("excellent",)))
    with pytest.raises(ReaderError, match="no curation labels"):
        read(samples / "sorting.npz", ReadOptions(keep=("good",)))


def test_curated_phy_folder_without_noise(samples: Path) -> None:
    population = read(samples / "kilosort4_phy_curated", ReadOptions())
    assert population.units["id"].tolist() == ["0", "1", "5", "6", "7", "10"]
    assert any("1 of 7 units" in note and "(noise 1): 2." in note for note in population.notes)
    assert population.provenance["dropped_unit_ids"] == ["2", "3", "4", "8", "9"]


def test_uncurated_kilosort_folder_takes_its_own_labels(samples: Path) -> None:
    population = read(samples / "kilosort4_like", ReadOptions())
    assert population.n_units == 8
    assert population.units["quality"].tolist() == ["good"] * 6 + ["mua"] * 2
    assert any("8, 9" in note for note in population.notes)


def test_segments_are_laid_end_to_end_and_said(samples: Path) -> None:
    population = read(samples / "numpy_folder")
    first_length, second_length = 599_946 / 30_000, 449_934 / 30_000
    np.testing.assert_allclose(
        population.intervals,
        [[0, first_length], [first_length + 60, first_length + 60 + second_length]],
        atol=1e-4,
    )
    times = spikes_of(population).times
    assert (np.diff(times) >= 0).all()
    inside = (times[:, None] >= population.intervals[:, 0]) & (times[:, None] < population.intervals[:, 1])
    assert inside.any(axis=1).all()
    assert any("end to end" in note and "60 s" in note for note in population.notes)
    assert any("one sample after the last spike" in note for note in population.notes)


def test_starts_and_lengths_are_taken_from_the_user(samples: Path) -> None:
    said = ReadOptions(keep=("all",), segment_starts_s=(100.0, 500.0), duration_s=(20.0, 15.0))
    population = read(samples / "zarr.zarr", said)
    np.testing.assert_array_equal(population.intervals, [[100, 120], [500, 515]])
    assert not any("end to end" in note or "last spike" in note for note in population.notes)
    assumed = spikes_of(read(samples / "zarr.zarr")).times
    shifted = spikes_of(population).times
    n_first = int((shifted < 200).sum())
    np.testing.assert_allclose(shifted[:n_first] - assumed[:n_first], 100.0, atol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ReadOptions(segment_starts_s=(0.0,)), "1 values for 2 segments"),
        (ReadOptions(segment_starts_s=(0.0, 10.0)), "segment 0 lasts until 19.99.*starts at 10"),
        (ReadOptions(segment_starts_s=(0.0, float("inf"))), "finite"),
        (ReadOptions(duration_s=(20.0,)), "1 values for 2 segments"),
        (ReadOptions(duration_s=(20.0, 3.0)), "spikes of segment 1 come after"),
        (ReadOptions(duration_s=(20.0, -3.0)), "no length"),
        (ReadOptions(fs_hz=25_000.0), "30000 Hz, but --fs says 25000"),
        (ReadOptions(fs_hz=3.0), "not a sampling rate"),
    ],
)
def test_options_that_do_not_fit_are_refused(samples: Path, options: ReadOptions, message: str) -> None:
    with pytest.raises(ReaderError, match=message):
        read(samples / "numpy_folder", options)


def test_subject_and_session_come_from_the_file_else_the_name(samples: Path, tmp_path: Path) -> None:
    annotated = read(samples / "npz_folder")
    assert (annotated.subject, annotated.session, annotated.subject_assumed) == (
        "mouse1",
        "2024-01-01",
        False,
    )
    assert annotated.attributes["name"] == "GroundTruthSorting"
    plain = read(samples / "sorting.npz")
    assert (plain.subject, plain.session, plain.subject_assumed) == ("sorting", "sorting", True)
    assert any("Nobody said who the subject is" in note for note in plain.notes)
    said = read(samples / "sorting.npz", ReadOptions(subject="m2", session="d3"))
    assert (said.subject, said.session, said.subject_assumed) == ("m2", "d3", False)


def test_other_formats_are_not_claimed(shared: Path, tmp_path: Path) -> None:
    reader = SpikeInterfaceReader()
    others = [*(shared / "samples" / "nwb").iterdir(), *(shared / "samples" / "td").iterdir()]
    others += [*(shared / "samples" / "suite2p").iterdir(), tmp_path]
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    others.append(tmp_path / "other.npz")
    assert [path for path in others if reader.detect(path) is not None] == []


def test_real_recordings_equal_those_of_spikeinterface(shared: Path) -> None:
    si = pytest.importorskip("spikeinterface")
    for name in ("2009-07-20/CTX_TC41_G2CEPHYS1_DIV17_A", "2007-04-23/TC107-NB-C57-DIV24_A.zarr"):
        population = read(shared / "data" / "mea" / name)
        assert_like_oracle(population, si.load(shared / "data" / "mea" / name))
        assert set(population.units["brain_region"].tolist()) <= {"ctx", "hpc"}


def test_phy_tables_as_found_in_the_wild(samples: Path, tmp_path: Path) -> None:
    folder = tmp_path / "phy"
    shutil.copytree(samples / "phy", folder, copy_function=shutil.copyfile)
    (folder / "cluster_group.csv").write_text("cluster_id\tgroup\n0\tnoise\n")  # older twin of the .tsv
    (folder / "cluster_group.tsv").write_text("\ufeffcluster_id\tgroup\r\n\r\n0\tgood\r\n\t\r\n3\tmua\r\n")
    (folder / "cluster_cell_type.csv").write_text("id,cell_type\n1,PV\n7,007\n99,SST\n2\n")
    (folder / "cluster_batch.tsv").write_text("cluster_id\tbatch\n0\t007\n1\t8\n")
    (folder / "cluster_stray.csv").write_text("a,b\n1,2\n")
    (folder / "cluster_info.tsv").write_text(
        "cluster_id\tgroup\tdepth\tch\n0\tmua\t12.5\t3\n1\t\t\t4\nx\t\t\t\n"
    )
    (folder / "cluster_empty.tsv").touch()
    population = read(folder)
    assert population.n_units == 8
    units = population.units
    assert units["group"].tolist() == ["good", "", "", "mua", "", "", "", ""]
    assert units["cell_type"].tolist() == ["", "PV", "", "", "", "", "", "007"]
    assert units["batch"].tolist()[:2] == ["007", "8"]
    assert units["depth"][0] == 12.5
    assert np.isnan(units["depth"][1])
    said = " ".join([*population.notes, *population.warnings])
    assert "cluster_group.csv was skipped" in said
    assert "cluster_stray.csv was skipped" in said
    assert "cluster_empty.tsv was skipped" in said
    assert "disagree about group of 1 clusters (0); cluster_group.tsv was taken" in said
    assert "99" in said
    assert "1 rows have no cluster number" in said


def test_phy_folder_without_any_table_or_clusters(samples: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    folder.mkdir()
    for name in ("params.py", "spike_times.npy", "spike_templates.npy"):
        shutil.copyfile(samples / "kilosort4_phy_curated" / name, folder / name)
    population = read(folder)
    assert population.units["id"].tolist() == list("01234567")
    assert any("spike_templates.npy" in note for note in population.notes)


def test_spikes_out_of_order_between_units_are_sorted_and_said(samples: Path, tmp_path: Path) -> None:
    folder = copied(samples / "numpy_folder", tmp_path)
    spikes = np.load(folder / "spikes.npy")
    order = np.lexsort((spikes["sample_index"], spikes["unit_index"], spikes["segment_index"]))
    np.save(folder / "spikes.npy", spikes[order])
    population, expected = read(folder), read(samples / "numpy_folder")
    for unit, times in trains(expected).items():
        np.testing.assert_array_equal(trains(population)[unit], times)
    assert sum("stored out of order" in note for note in population.notes) == 2


def test_blocks_do_not_change_what_is_read(samples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {name: read(samples / name) for name in (*SAME_SORTING, "kilosort4_phy_curated")}
    monkeypatch.setattr("nuclr_cli.safe_files.BLOCK", 100)
    for name, expected in whole.items():
        population = read(samples / name)
        np.testing.assert_array_equal(spikes_of(population).times, spikes_of(expected).times)
        np.testing.assert_array_equal(spikes_of(population).unit_index, spikes_of(expected).unit_index)


def test_sampling_rate_is_asked_for_where_there_is_none(samples: Path, tmp_path: Path) -> None:
    folder = tmp_path / "phy"
    shutil.copytree(samples / "phy", folder, copy_function=shutil.copyfile)
    (folder / "params.py").write_text("import os\nsample_rate = float(os.environ['RATE'])\n")
    with pytest.raises(ReaderError, match=r"params\.py holds no sampling rate") as caught:
        read(folder)
    assert "--fs" in caught.value.fix
    assert len(spikes_of(read(folder, ReadOptions(fs_hz=30_000.0))).times) == 2435


@pytest.mark.parametrize("last", ["sample_rate = sample_rate * 2", "sample_rate *= 2", "sample_rate = RATE"])
def test_a_sampling_rate_that_is_worked_out_in_code_is_not_guessed(
    samples: Path, tmp_path: Path, last: str
) -> None:
    folder = copied(samples / "phy", tmp_path)
    (folder / "params.py").write_text(f"sample_rate = 15000.\n{last}\n")
    with pytest.raises(ReaderError, match="holds no sampling rate"):
        read(folder)
    (folder / "params.py").write_text("sample_rate: float = 30000.\n")
    assert read(folder).provenance["sampling_rate_hz"] == 30_000.0


def test_files_that_macos_leaves_beside_properties_are_no_properties(samples: Path, tmp_path: Path) -> None:
    folder = copied(samples / "numpy_folder", tmp_path)
    twin = folder / "properties" / "._cell_type.npy"
    twin.write_bytes(b"\0\5\x16\7 resource fork")
    assert sorted(read(folder).units) == sorted(read(samples / "numpy_folder").units)
    assert twin not in SpikeInterfaceReader().sources(folder)


def test_a_property_called_id_hides_no_other_property(samples: Path, tmp_path: Path) -> None:
    folder = copied(samples / "numpy_folder", tmp_path)
    np.save(folder / "properties" / "id.npy", np.array(list("abcdefgh")))
    np.save(folder / "properties" / "source_id.npy", np.array(list("ijklmnop")))
    units = read(folder).units
    assert units["source_id"].tolist() == list("ijklmnop")
    assert units["source_source_id"].tolist() == list("abcdefgh")


def test_options_that_the_reader_does_not_have_are_refused(samples: Path) -> None:
    with pytest.raises(ReaderError, match="has no option 'serie'"):
        read(samples / "numpy_folder", ReadOptions(extra={"serie": "1"}))


def test_zarr_missing_is_an_honest_message(samples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(MissingPackageError, match="zarr") as caught:
        read(samples / "zarr.zarr")
    assert "pip install" in caught.value.fix
    assert caught.value.exit_code == 4


def test_sources_name_every_file_that_matters(samples: Path, tmp_path: Path) -> None:
    reader = SpikeInterfaceReader()
    for name in (*SAME_SORTING, "phy"):
        source = samples / name
        copy = tmp_path / name
        files = [path.relative_to(source) for path in reader.sources(source)] if source.is_dir() else []
        for file in files:
            (copy / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / file, copy / file)
        if files:
            alone, whole = read(copy), read(source)
            np.testing.assert_array_equal(spikes_of(alone).times, spikes_of(whole).times)
            assert set(alone.units) == set(whole.units)


def copied(source: Path, tmp_path: Path) -> Path:
    target = tmp_path / source.name
    shutil.copytree(source, target, copy_function=shutil.copyfile)
    return target


def test_unit_ids_that_are_numbers_become_text(
    tmp_path: Path, write_numpy_folder: Callable[..., Path]
) -> None:
    folder = write_numpy_folder(tmp_path / "s", unit_ids=[7, 100])
    assert read(folder).units["id"].tolist() == ["7", "100"]
    info = json.loads((folder / "numpysorting_info.json").read_text())
    info["unit_ids"] = [7, "7"]
    (folder / "numpysorting_info.json").write_text(json.dumps(info))
    with pytest.raises(ReaderError, match="occur more than once: 7"):
        read(folder)


@pytest.fixture
def write_numpy_folder() -> Callable[..., Path]:
    def write(folder: Path, unit_ids: list[Any], n_spikes: int = 200) -> Path:
        rng = np.random.default_rng(1)
        spikes = np.zeros(
            n_spikes, dtype=[("sample_index", "i8"), ("unit_index", "i8"), ("segment_index", "i8")]
        )
        spikes["sample_index"] = np.sort(rng.integers(0, 300_000, n_spikes))
        spikes["unit_index"] = rng.integers(0, len(unit_ids), n_spikes)
        folder.mkdir(parents=True)
        np.save(folder / "spikes.npy", spikes)
        info = {"sampling_frequency": 30_000.0, "unit_ids": unit_ids, "num_segments": 1}
        (folder / "numpysorting_info.json").write_text(json.dumps(info))
        return folder

    return write
