"""Analyzers and sorter folders: metrics, probes, lengths, extractors; SpikeInterface is the oracle."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nuclr_cli.api import MissingPackageError, Population, ReaderError, ReadOptions, Spikes
from nuclr_cli.workflows.preprocess import PreprocessConfig, preprocess
from nuclr_spikeinterface import SpikeInterfaceReader

ALL = ReadOptions(keep=("all",))
ANALYZERS = ("analyzer_folder", "analyzer.zarr")


@pytest.fixture(scope="session")
def samples(shared: Path) -> Path:
    return shared / "samples" / "si"


@pytest.fixture(scope="session")
def two_probes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Analyzers of a recording with two probes of two shanks each, groups by shank; units 0, 1 | 2, 3."""
    core = pytest.importorskip("spikeinterface.core")
    probeinterface = pytest.importorskip("probeinterface")
    rng = np.random.default_rng(0)
    fs_hz, n_samples, on_channel = 30_000.0, 90_000, (2, 6, 9, 13)
    probes = probeinterface.ProbeGroup()
    for number in range(2):
        probe = probeinterface.generate_multi_shank(num_shank=2, num_columns=1, num_contact_per_column=4)
        probe.annotate(probe_name=f"imec{number}")
        probe.move([2000.0 * number, 0.0])
        probes.add_probe(probe)
    probes.set_global_device_channel_indices(np.arange(16))
    voltage = rng.normal(0, 1, (n_samples, 16)).astype(np.float32)
    samples = np.sort(rng.integers(200, n_samples - 200, 200))
    labels = rng.integers(0, 4, 200)
    for sample, label in zip(samples, labels, strict=True):
        voltage[sample - 5 : sample + 5, on_channel[label]] -= 60
    recording = core.NumpyRecording([voltage], fs_hz)
    recording.set_probegroup(probes, group_mode="by_shank")
    recording.set_property("brain_area", ["CA1"] * 8 + ["VISp"] * 8)
    sorting = core.NumpySorting.from_samples_and_labels([samples], [labels], fs_hz)
    folder = tmp_path_factory.mktemp("two_probes")
    for name, kind in (("a", "binary_folder"), ("a.zarr", "zarr")):
        analyzer = core.create_sorting_analyzer(
            sorting, recording, format=kind, folder=folder / name, sparse=False
        )
        analyzer.compute(["random_spikes", "templates"])
    return folder


def read(path: Path, options: ReadOptions = ALL) -> Population:
    (population,) = SpikeInterfaceReader().read(path, options)
    return population


def spikes_of(population: Population) -> Spikes:
    assert population.spikes is not None
    return population.spikes


def copied(source: Path, tmp_path: Path, name: str = "") -> Path:
    target = tmp_path / (name or source.name)
    shutil.copytree(source, target, copy_function=shutil.copyfile)
    return target


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def metrics_rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def write_rows(path: Path, rows: list[list[str]]) -> None:
    path.write_text("".join(",".join(row) + "\n" for row in rows))


@pytest.mark.parametrize("name", ANALYZERS)
def test_an_analyzer_holds_the_spikes_of_its_sorting(samples: Path, name: str) -> None:
    si = pytest.importorskip("spikeinterface")
    population, plain = read(samples / name), read(samples / "numpy_folder")
    oracle = si.load(samples / "zarr.zarr")
    spikes = spikes_of(population)
    for row, unit in enumerate(population.units["id"].tolist()):
        mine = spikes.times[spikes.unit_index == row]
        parts = [
            oracle.get_unit_spike_train(unit, segment_index=number) / 30_000 + population.intervals[number, 0]
            for number in range(2)
        ]
        np.testing.assert_allclose(mine, np.concatenate(parts), rtol=0, atol=1e-9)
    assert population.units["id"].tolist() == plain.units["id"].tolist()
    for column in ("brain_region", "cell_type", "quality", "contamination"):
        np.testing.assert_array_equal(population.units[column], plain.units[column])


@pytest.mark.parametrize("name", ANALYZERS)
def test_an_analyzer_knows_how_long_the_segments_are(samples: Path, name: str) -> None:
    population = read(samples / name)
    np.testing.assert_array_equal(population.intervals, [[0, 20], [80, 95]])
    assert not any("last spike" in note for note in population.notes)
    assert any("--segment-starts" in note for note in population.notes)  # starts are lost all the same
    said = ReadOptions(keep=("all",), segment_starts_s=(100.0, 500.0), duration_s=(20.0, 15.0))
    np.testing.assert_array_equal(read(samples / name, said).intervals, [[100, 120], [500, 515]])
    with pytest.raises(ReaderError, match=r"segments last 20, 15 s, but --duration says 20, 16 s"):
        read(samples / name, ReadOptions(duration_s=(20.0, 16.0)))


@pytest.mark.parametrize("name", ANALYZERS)
def test_metrics_and_locations_equal_those_of_spikeinterface(samples: Path, name: str) -> None:
    si = pytest.importorskip("spikeinterface")
    analyzer = si.load(samples / name)
    units = read(samples / name).units
    for extension in ("quality_metrics", "template_metrics"):
        table = analyzer.get_extension(extension).get_data()
        assert len(table.columns) > 4
        for column in table.columns:
            expected = table[column].to_numpy(dtype=np.float64, na_value=np.nan)
            np.testing.assert_allclose(units[column], expected, err_msg=column)
    locations = analyzer.get_extension("unit_locations").get_data()
    np.testing.assert_array_equal(units["unit_locations"], locations)
    np.testing.assert_array_equal(units["depth_um"], locations[:, 1])
    main = analyzer.get_main_channels(outputs="id")
    assert units["peak_channel"].tolist() == [str(channel) for channel in main]
    where = analyzer.get_channel_locations()[analyzer.get_main_channels(outputs="index")]
    np.testing.assert_array_equal(units["peak_channel_x_um"], where[:, 0])
    np.testing.assert_array_equal(units["peak_channel_y_um"], where[:, 1])


@pytest.mark.parametrize(
    ("sign", "mode"),
    [("neg", "extremum"), ("pos", "extremum"), ("both", "extremum"), ("both", "peak_to_peak")],
)
def test_peak_channels_follow_from_templates(samples: Path, tmp_path: Path, sign: str, mode: str) -> None:
    source = copied(samples / "analyzer_folder", tmp_path)
    edit_json(source / "settings.json", peak_sign=sign, peak_mode=mode)
    templates = np.load(source / "extensions" / "templates" / "average.npy")
    size = {
        "neg": -templates.min(axis=1),
        "pos": templates.max(axis=1),
        "both": np.ptp(templates, axis=1) if mode == "peak_to_peak" else np.abs(templates).max(axis=1),
    }[sign]
    population = read(source)
    assert population.units["peak_channel"].tolist() == [str(n) for n in size.argmax(axis=1)]
    assert any("average template" in note for note in population.notes)
    shutil.rmtree(source / "extensions" / "templates")
    population = read(source)
    assert population.units["peak_channel"].tolist() == population.units["main_channel_id"].tolist()
    assert any("main_channel_id of the sorting" in note for note in population.notes)


def test_the_region_of_a_channel_serves_units_that_have_none(samples: Path, tmp_path: Path) -> None:
    source = copied(samples / "analyzer_folder", tmp_path)
    path = source / "recording_info" / "recording_attributes.json"
    properties = json.loads(path.read_text())["properties"]
    edit_json(path, properties={**properties, "brain_area": [f"area{n}" for n in range(16)]})
    assert read(source).units["brain_region"].tolist()[:3] == ["VISp", "VISp", "CA1"]  # the units' own
    (source / "sorting" / "properties" / "brain_area.npy").unlink()
    population = read(source)
    expected = [f"area{channel}" for channel in population.units["peak_channel"]]
    assert population.units["brain_region"].tolist() == expected
    assert any("region of the peak channel" in note for note in population.notes)


def test_a_metric_named_like_a_property_gets_a_prefix(samples: Path, tmp_path: Path) -> None:
    source = copied(samples / "analyzer_folder", tmp_path)
    np.save(source / "sorting" / "properties" / "snr.npy", np.arange(8.0))
    population = read(source)
    assert population.units["snr"].tolist() == list(range(8))
    assert population.units["quality_metrics_snr"][1] == pytest.approx(46.046114)
    assert "quality_metrics_firing_rate" not in population.units
    assert any("'snr' as 'quality_metrics_snr'" in note for note in population.notes)


def test_metrics_go_to_their_units_whatever_the_order_of_rows(samples: Path, tmp_path: Path) -> None:
    source = copied(samples / "analyzer_folder", tmp_path)
    path = source / "extensions" / "quality_metrics" / "metrics.csv"
    header, *rows = metrics_rows(path)
    write_rows(path, [header, *rows[::-1]])
    np.testing.assert_array_equal(read(source).units["snr"], read(samples / "analyzer_folder").units["snr"])
    write_rows(path, [header, *rows[5:], ["99", *rows[0][1:]], *rows[:2]])
    population = read(source)
    assert np.isnan(population.units["snr"]).tolist() == [False, False, True, True, True, False, False, False]
    assert population.units["snr"][1] == pytest.approx(46.046114)
    said = " ".join(population.warnings)
    assert "no row for 3 of 8 units (2, 3, 4)" in said
    assert "1 rows about no unit of the sorting (99)" in said


def test_a_last_value_that_may_be_cut_off_is_a_warning(samples: Path, tmp_path: Path) -> None:
    source = copied(samples / "analyzer_folder", tmp_path)
    path = source / "extensions" / "quality_metrics" / "metrics.csv"
    path.write_text(path.read_text().rstrip("\n"))
    assert any("may be cut off" in warning for warning in read(source).warnings)
    assert not read(samples / "analyzer_folder").warnings


def test_an_extension_that_was_not_finished_is_left_out_and_said(samples: Path, tmp_path: Path) -> None:
    source = copied(samples / "analyzer_folder", tmp_path)
    edit_json(source / "extensions" / "quality_metrics" / "run_info.json", run_completed=False)
    population = read(source)
    assert "snr" not in population.units
    assert any("'quality_metrics' was left out" in note for note in population.notes)


def test_an_analyzer_without_extensions_and_probes_is_still_read(samples: Path, tmp_path: Path) -> None:
    source = copied(samples / "analyzer_folder", tmp_path)
    shutil.rmtree(source / "extensions")
    (source / "recording_info" / "probegroup.json").unlink()
    population = read(source)
    assert len(spikes_of(population).times) == 4289
    assert "peak_channel_x_um" not in population.units
    assert population.intervals[-1, -1] == 95


def test_sources_name_every_file_that_matters(samples: Path, tmp_path: Path) -> None:
    reader = SpikeInterfaceReader()
    for name in (*ANALYZERS, "sorter_lupin"):
        source = samples / name
        for path in reader.sources(source):
            target = tmp_path / name / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        alone, whole = read(tmp_path / name), read(source)
        np.testing.assert_array_equal(spikes_of(alone).times, spikes_of(whole).times)
        assert set(alone.units) == set(whole.units)
        np.testing.assert_array_equal(alone.intervals, whole.intervals)
    assert not any("waveforms" in str(path) for path in reader.sources(samples / "analyzer_folder"))


@pytest.mark.parametrize("name", ["a", "a.zarr"])
def test_each_probe_is_a_population_and_its_shanks_stay_together(two_probes: Path, name: str) -> None:
    populations = list(SpikeInterfaceReader().read(two_probes / name, ALL))
    assert [p.population for p in populations] == ["imec0", "imec1"]
    assert [p.units["id"].tolist() for p in populations] == [["0", "1"], ["2", "3"]]
    assert [p.units["peak_channel"].tolist() for p in populations] == [["2", "6"], ["9", "13"]]
    assert [p.units["brain_region"].tolist() for p in populations] == [["CA1"] * 2, ["VISp"] * 2]
    assert sum(len(spikes_of(p).times) for p in populations) == 200
    sorting = pytest.importorskip("spikeinterface").load(two_probes / name).sorting
    for population in populations:
        spikes = spikes_of(population)
        np.testing.assert_array_equal(population.intervals, [[0, 3]])
        for row, unit in enumerate(population.units["id"].tolist()):
            expected = sorting.get_unit_spike_train(int(unit), segment_index=0) / 30_000
            np.testing.assert_array_equal(spikes.times[spikes.unit_index == row], expected)
        assert any("2 probes" in note and "'imec0' 2, 'imec1' 2" in note for note in population.notes)


def test_probes_follow_from_groups_when_there_are_no_peak_channels(two_probes: Path, tmp_path: Path) -> None:
    source = copied(two_probes / "a", tmp_path)
    shutil.rmtree(source / "extensions")
    shutil.rmtree(source / "sorting" / "properties")
    edit_json(source / "sorting" / "si_folder.json", properties={})
    untold = read(source)
    assert (untold.population, untold.n_units) == ("0", 4)
    assert any("2 probes, but for 4 of 4 units" in warning for warning in untold.warnings)
    (source / "sorting" / "properties").mkdir()
    np.save(source / "sorting" / "properties" / "group.npy", np.array([3, 0, 1, 2]))
    populations = list(SpikeInterfaceReader().read(source, ALL))
    assert [p.units["id"].tolist() for p in populations] == [["1", "2"], ["0", "3"]]


def test_a_probe_whose_units_never_fire_is_named(two_probes: Path, tmp_path: Path) -> None:
    source = copied(two_probes / "a", tmp_path)
    spikes = np.load(source / "sorting" / "spikes.npy")
    np.save(source / "sorting" / "spikes.npy", spikes[spikes["unit_index"] < 2])
    population = read(source)
    assert population.population == "imec0"
    assert any("'imec1' was left out" in note and "(2, 3)" in note for note in population.notes)


def test_a_label_table_serves_all_probes_of_a_session(two_probes: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("unit_id,cell_type\n0,PV\n3,SST\n")
    preprocess(
        PreprocessConfig(
            sources=(two_probes / "a",), out=tmp_path / "out", subject="m", session="d", labels=labels
        )
    )
    assert len(list((tmp_path / "out").glob("*.h5"))) == 2


def test_groups_without_probes_are_one_population_and_said(samples: Path) -> None:
    population = read(samples / "numpy_folder")
    assert population.population == "0"
    assert any("2 groups (column 'group')" in note for note in population.notes)
    assert not any("2 groups" in note for note in read(samples / "analyzer_folder").notes)


def test_a_sorter_folder_is_read_from_the_sorting_inside(samples: Path) -> None:
    reader = SpikeInterfaceReader()
    assert "sorter folder" in str(reader.detect(samples / "sorter_lupin"))
    population = read(samples / "sorter_lupin")
    inside = read(samples / "sorter_lupin" / "sorter_output" / "sorting")
    np.testing.assert_array_equal(spikes_of(population).times, spikes_of(inside).times)
    assert (population.n_units, len(spikes_of(population).times)) == (7, 2679)
    assert any("'lupin'" in note and "sorter_output/sorting" in note for note in population.notes)
    # The recording is gone, but its length stands beside the log.
    np.testing.assert_array_equal(population.intervals, [[0, 30]])


def test_a_trusted_sorter_folder_gives_what_spikeinterface_gives(samples: Path) -> None:
    pytest.importorskip("spikeinterface")
    population = read(samples / "sorter_lupin", ReadOptions(keep=("all",), trust=True))
    direct = read(samples / "sorter_lupin")
    np.testing.assert_array_equal(spikes_of(population).times, spikes_of(direct).times)
    np.testing.assert_array_equal(population.intervals, direct.intervals)
    assert any("loader of sorter folders" in note for note in population.notes)
    assert "spikeinterface" in population.provenance["versions"]


@pytest.mark.parametrize("trust", [False, True])
def test_kilosort_output_in_a_sorter_folder_loses_no_cluster(
    samples: Path, tmp_path: Path, trust: bool
) -> None:
    source = tmp_path / "run"
    source.mkdir()
    (source / "spikeinterface_log.json").write_text('{"sorter_name": "kilosort4", "error": false}')
    copied(samples / "kilosort4_phy_curated", source, "sorter_output")
    population = read(source, ReadOptions(keep=("all",), trust=trust))
    assert (population.n_units, len(spikes_of(population).times)) == (7, 2435)
    assert "cluster_group.tsv" in {path.name for path in SpikeInterfaceReader().sources(source)}


def test_a_sorter_folder_that_only_spikeinterface_can_read_asks_for_trust(
    samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "run"
    (source / "sorter_output").mkdir(parents=True)
    (source / "sorter_output" / "firings.mda").write_bytes(b"no mda")
    (source / "spikeinterface_log.json").write_text('{"sorter_name": "mountainsort4", "error": false}')
    with pytest.raises(ReaderError, match="'mountainsort4'") as caught:
        read(source)
    assert "--trust" in caught.value.fix
    with pytest.raises(ReaderError, match="SpikeInterface could not load the output"):
        read(source, ReadOptions(trust=True))
    monkeypatch.setitem(sys.modules, "spikeinterface.sorters", None)
    with pytest.raises(MissingPackageError, match="spikeinterface"):
        read(source, ReadOptions(trust=True))


def test_an_extractor_needs_trust_and_a_known_name(samples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("spikeinterface")
    source = samples / "sorting.npz"
    with pytest.raises(ReaderError) as caught:
        read(source, ReadOptions(extractor="npz"))
    assert "--trust" in caught.value.fix
    with pytest.raises(ReaderError, match="no extractor 'kilosrot'") as caught:
        read(source, ReadOptions(extractor="kilosrot", trust=True))
    assert "kilosort" in caught.value.fix
    with pytest.raises(ReaderError, match="no option 'colour'"):
        read(source, ReadOptions(extractor="npz", trust=True, extra={"colour": "red"}))
    with pytest.raises(ReaderError, match="must be told the sampling rate") as caught:
        read(source, ReadOptions(extractor="mda", trust=True))
    assert "--fs" in caught.value.fix
    monkeypatch.setitem(sys.modules, "spikeinterface.extractors.extractor_classes", None)
    with pytest.raises(MissingPackageError, match="spikeinterface"):
        read(source, ReadOptions(extractor="npz", trust=True))


@pytest.mark.parametrize("name", ["npz", "read_npz", "NpzSortingExtractor"])
def test_an_extractor_reads_what_it_knows(samples: Path, name: str) -> None:
    pytest.importorskip("spikeinterface")
    population = read(samples / "sorting.npz", ReadOptions(keep=("all",), extractor=name, trust=True))
    plain = read(samples / "sorting.npz")
    np.testing.assert_array_equal(spikes_of(population).times, spikes_of(plain).times)
    np.testing.assert_array_equal(spikes_of(population).unit_index, spikes_of(plain).unit_index)
    assert any(f"extractor {name!r}" in note for note in population.notes)


def test_an_extractor_reads_a_path_that_nothing_recognises(samples: Path, tmp_path: Path) -> None:
    core = pytest.importorskip("spikeinterface.core")
    extractors = pytest.importorskip("spikeinterface.extractors.extractor_classes")
    source = tmp_path / "firings.mda"
    plain = read(samples / "kilosort4_like")
    spikes = spikes_of(plain)
    sorting = core.NumpySorting.from_samples_and_labels(
        [np.round(spikes.times * 30_000).astype(np.int64)], [spikes.unit_index.astype(np.int64) + 1], 30_000.0
    )
    extractors.MdaSortingExtractor.write_sorting(sorting, source)
    reader = SpikeInterfaceReader()
    assert reader.detect(source) is None
    assert list(reader.sources(source)) == [source]
    population = read(source, ReadOptions(extractor="mda", trust=True, fs_hz=30_000.0))
    np.testing.assert_allclose(spikes_of(population).times, spikes.times, rtol=0, atol=1e-9)
    assert population.units["id"].tolist() == [str(n) for n in range(1, 9)]
    with pytest.raises(ReaderError, match=r"'phy' could not load .*firings\.mda"):
        read(source, ReadOptions(extractor="phy", trust=True))


def kilosort_files(folder: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    for path in sorted(folder.glob("*.npy")):
        yield path.name, np.load(path)


def test_peak_channels_of_kilosort_clusters(samples: Path) -> None:
    folder = samples / "kilosort4_phy_curated"
    arrays = dict(kilosort_files(folder))
    units = read(folder).units
    clusters = arrays["spike_clusters.npy"].reshape(-1)
    found_by = arrays["spike_templates.npy"].reshape(-1)
    expected = []
    for unit in units["id"].tolist():
        used, counts = np.unique(found_by[clusters == int(unit)], return_counts=True)
        mean = np.average(arrays["templates.npy"][used], axis=0, weights=counts)
        expected.append(int(np.ptp(mean, axis=0).argmax()))
    assert len({10} & set(map(int, units["id"]))) == 1  # a merged cluster is among them
    assert units["peak_channel"].tolist() == [str(arrays["channel_map.npy"].reshape(-1)[n]) for n in expected]
    positions = arrays["channel_positions.npy"]
    np.testing.assert_array_equal(units["peak_channel_x_um"], positions[expected, 0])
    np.testing.assert_array_equal(units["depth_um"], positions[expected, 1])


def test_merged_clusters_weigh_templates_by_their_spikes(samples: Path, tmp_path: Path) -> None:
    folder = copied(samples / "kilosort4_like", tmp_path)
    templates = np.zeros_like(np.load(folder / "templates.npy"))
    for number in range(len(templates)):
        templates[number, 3, number] = -10.0
    np.save(folder / "templates.npy", templates)
    found_by = np.load(folder / "spike_templates.npy").reshape(-1)
    np.save(folder / "spike_clusters.npy", np.where(found_by < 4, 20, 21))
    counts = np.bincount(found_by)
    expected = [int(counts[:4].argmax()), 4 + int(counts[4:].argmax())]
    assert read(folder).units["peak_channel"].tolist() == [str(n) for n in expected]


def test_kilosort_2_templates_are_unwhitened(samples: Path, tmp_path: Path) -> None:
    folder = copied(samples / "kilosort4_like", tmp_path)
    plain = read(folder).units["peak_channel"].tolist()
    templates = np.load(folder / "templates.npy")
    mix = np.eye(16) + 3 * np.roll(np.eye(16), 5, axis=1)  # moves every peak by five channels
    np.save(folder / "templates.npy", templates @ mix)
    assert read(folder).units["peak_channel"].tolist() != plain
    np.save(folder / "whitening_mat_inv.npy", np.linalg.inv(mix))
    assert read(folder).units["peak_channel"].tolist() == plain
    np.save(folder / "channel_map.npy", (np.arange(16) + 100.0)[:, None])  # as MATLAB writes it
    assert read(folder).units["peak_channel"].tolist() == [str(int(n) + 100) for n in plain]


def test_templates_that_are_stored_for_some_channels(samples: Path, tmp_path: Path) -> None:
    folder = copied(samples / "kilosort4_like", tmp_path)
    plain = read(folder).units["peak_channel"].tolist()
    templates = np.load(folder / "templates.npy")
    nearest = np.argsort(-np.ptp(templates, axis=1), axis=1)[:, :4]
    sparse = np.take_along_axis(templates, nearest[:, None, :], axis=2)
    sparse[:, :, 3] = 1e6 * np.arange(sparse.shape[1])  # padding, which the index marks
    np.save(folder / "templates.npy", sparse)
    nearest[:, 3] = -1
    np.save(folder / "template_ind.npy", nearest)
    assert read(folder).units["peak_channel"].tolist() == plain


def test_probes_of_a_phy_folder_are_populations(samples: Path, tmp_path: Path) -> None:
    folder = copied(samples / "kilosort4_like", tmp_path)
    np.save(folder / "channel_probes.npy", np.repeat([0, 1], 8))
    populations = list(SpikeInterfaceReader().read(folder, ALL))
    assert [p.population for p in populations] == ["0", "1"]
    for number, population in enumerate(populations):
        assert {int(c) // 8 for c in population.units["peak_channel"]} == {number}
    assert sum(len(spikes_of(p).times) for p in populations) == 2435


def test_cluster_info_alone_gives_peak_channels(samples: Path, tmp_path: Path) -> None:
    folder = copied(samples / "kilosort4_like", tmp_path)
    (folder / "templates.npy").unlink()
    rows = "".join(f"{n};{15 - n};good\n\n" for n in range(8))
    (folder / "cluster_info.csv").write_text("\ncluster_id;ch;group\n" + rows)
    units = read(folder).units
    assert units["peak_channel"].tolist() == [str(15 - n) for n in range(8)]
    assert units["quality"].tolist() == ["good"] * 8
    positions = np.load(folder / "channel_positions.npy")
    np.testing.assert_array_equal(units["depth_um"], positions[15 - np.arange(8), 1])


@pytest.mark.parametrize("kind", [np.uint64, np.int32, np.uint16])
def test_clusters_of_any_integer_type(samples: Path, tmp_path: Path, kind: type) -> None:
    folder = copied(samples / "kilosort4_phy_curated", tmp_path)
    for name in ("spike_clusters.npy", "spike_templates.npy"):
        np.save(folder / name, np.load(folder / name).astype(kind))
    population, plain = read(folder), read(samples / "kilosort4_phy_curated")
    np.testing.assert_array_equal(spikes_of(population).unit_index, spikes_of(plain).unit_index)
    assert population.units["peak_channel"].tolist() == plain.units["peak_channel"].tolist()
