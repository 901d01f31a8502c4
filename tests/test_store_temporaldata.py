"""temporaldata and torch_brain open our files unchanged, and we open theirs."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import temporaldata
import torch
import torch_brain.data
from torch_brain.datasets import Dataset, SpikingDatasetMixin
from torch_brain.samplers import RandomFixedWindowSampler
from torch_brain.transforms import BinSpikes

from nuclr_cli.api import CalciumTraces, Population, Spikes
from nuclr_cli.data.sessions import open_sessions
from nuclr_cli.data.store import Session, SourceRecord, SpikeTrain, verify, write_population
from nuclr_cli.errors import InputError

SAMPLES = Path(__file__).parents[2] / "shared" / "samples" / "td"
SOURCE = SourceRecord("sorting", "phy", "phy folder")
INTERVALS = np.array([[0.0, 30.0], [35.0, 60.0]])
LOADERS = [temporaldata.Data.load, torch_brain.data.Data.load]


def write_spikes(path: Path, n_units: int = 20) -> Population:
    rng = np.random.default_rng(3)
    times = np.sort(np.r_[rng.uniform(0, 30, 3000), rng.uniform(35, 60, 2500)])
    pop = Population(
        subject="mouse",
        session="day/1",
        population="probe A",
        units={
            "id": np.array([f"ü{i}" for i in range(n_units)]),
            "cell_type": np.array(["PV", "", "SST", "exc"] * (n_units // 4)),
            "position": rng.normal(size=(n_units, 3)),
            "a/b.c": np.arange(n_units),
            "_hidden": np.arange(n_units),
            "keys": np.arange(n_units) % 2 == 0,
            "Tiefe µm": rng.normal(size=n_units).astype(np.float32),
        },
        intervals=INTERVALS,
        spikes=Spikes(times, rng.integers(0, n_units, len(times))),
        attributes={"age": "P60", "slice": "x", "a b": "y", "_z": "w", "nul": "a\0b", "group": "ü"},
        notes=["n" * 70_000],
    )
    write_population(pop, path, source=SOURCE)
    return pop


def write_calcium(path: Path, times: np.ndarray, intervals: np.ndarray) -> Population:
    values = np.random.default_rng(1).normal(size=(len(times), 6)).astype(np.float32)
    ids = np.array([f"roi{i}" for i in range(6)])
    traces = CalciumTraces(values, times, 10.0, np.full(6, 0.05))
    pop = Population("mouse", "day1", {"id": ids}, intervals, calcium=traces)
    write_population(pop, path, source=SOURCE)
    return pop


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("lazy", [True, False])
def test_they_read_our_spikes(tmp_path, load, lazy):
    pop = write_spikes(tmp_path / "a.h5")
    data = load(tmp_path / "a.h5", lazy=lazy)
    assert data.subject.id == "mouse"
    assert data.session.id == "day/1"
    assert data.session.population == "probe A"
    assert data.session.age == "P60"
    assert len(data.units) == 20
    assert data.units.cell_type.tolist() == pop.units["cell_type"].tolist()
    assert data.units.id[3] == "\\xfc3"  # escaped: their strings are ASCII
    assert data.units.position.shape == (20, 3)
    assert np.array_equal(getattr(data.units, "a%2Fb%2Ec"), np.arange(20))
    assert np.array_equal(data.spikes.timestamps, pop.spikes.times)
    assert np.array_equal(data.spikes.unit_index, pop.spikes.unit_index)
    assert np.array_equal(np.c_[data.domain.start, data.domain.end], INTERVALS)
    session = Session(tmp_path / "a.h5")
    assert session.columns["a/b.c"].tolist() == list(range(20))
    assert session.unit_ids.tolist() == pop.units["id"].tolist()
    assert session.attributes == pop.attributes


@pytest.mark.parametrize("package", [temporaldata, torch_brain.data])
@pytest.mark.parametrize("lazy", [True, False])
def test_no_column_or_attribute_hides_a_method_of_theirs(tmp_path, package, lazy):
    names = {name for kind in (package.Data, package.ArrayDict) for name in dir(kind)} | {"id_", "_lazy_ops"}
    ids = np.array(["a", "b"])
    pop = Population(
        subject="m",
        session="s",
        units={"id": ids, **{name: np.arange(2) for name in sorted(names)}},
        intervals=np.array([[0.0, 10.0]]),
        spikes=Spikes(np.arange(10.0), np.arange(10) % 2),
        attributes=dict.fromkeys([*names, "object", "id", "population"], "x"),
    )
    write_population(pop, tmp_path / "a.h5", source=SOURCE)
    data = package.Data.load(tmp_path / "a.h5", lazy=lazy)
    assert data.session.id == "s"
    assert data.session.to_dict()["population"] == "0"
    assert len(data.units) == 2
    assert data.units.select_by_mask(np.array([True, False])).id.tolist() == ["a"]
    assert data.slice(2.0, 5.0).spikes.timestamps.tolist() == [0.0, 1.0, 2.0]
    session = Session(tmp_path / "a.h5")
    assert list(session.columns) == [*pop.units, "n_spikes"]
    assert session.attributes == pop.attributes


@pytest.mark.parametrize("load", LOADERS)
def test_lazy_slices_equal_ours(tmp_path, load):
    write_spikes(tmp_path / "a.h5")
    session = Session(tmp_path / "a.h5")
    for start in np.random.default_rng(0).uniform(0, 50, 20):
        theirs = load(tmp_path / "a.h5").slice(start, start + 10.0, reset_origin=False)
        ours = session.spikes_between(start, start + 10.0)
        assert np.array_equal(theirs.spikes.timestamps, ours.times)
        assert np.array_equal(theirs.spikes.unit_index, ours.unit_index)


class _Recordings(SpikingDatasetMixin, Dataset):
    pass


def test_torch_brain_samples_and_bins_our_file(tmp_path):
    write_spikes(tmp_path / "a.h5")
    session = Session(tmp_path / "a.h5")
    dataset = _Recordings(tmp_path, transform=BinSpikes(0.02))
    assert len(dataset.get_unit_ids()) == 20
    sampler = RandomFixedWindowSampler(
        sampling_intervals=dataset.get_sampling_intervals(),
        window_length=2.0,
        generator=torch.Generator().manual_seed(0),
    )
    windows = list(sampler)
    assert len(windows) >= 20
    assert all(any(a <= w.start and w.end <= b + 1e-9 for a, b in INTERVALS) for w in windows)
    for window in windows:
        binned = dataset[window].spikes_binned.binned_counts.T  # to (units, bins)
        times, units = session.spikes_between(window.start, window.start + 2.0)
        bins = np.minimum(((times - window.start) * (1 / 0.02)).astype(int), 99)
        ours = np.bincount(units.astype(int) * 100 + bins, minlength=2000).reshape(20, 100)
        assert np.array_equal(binned, ours)


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("lazy", [True, False])
def test_they_read_our_regular_calcium(tmp_path, load, lazy):
    times = 2.5 + np.arange(300) / 10.0 + np.where(np.arange(300) % 2, 1e-5, 0.0)
    pop = write_calcium(tmp_path / "a.h5", times, np.array([[2.5, 32.5]]))
    data = load(tmp_path / "a.h5", lazy=lazy)
    part = data.slice(12.5, 22.5, reset_origin=False)
    assert np.array_equal(part.calcium_traces.df_over_f, pop.calcium.values[100:200])
    assert np.allclose(part.calcium_traces.timestamps, times[100:200], atol=1e-4)
    assert data.rois.time_offset.tolist() == [0.05] * 6


@pytest.mark.parametrize("load", LOADERS)
def test_they_slice_our_calcium_right_after_a_gap(tmp_path, load):
    times = np.r_[np.arange(200) / 10.0, 50.0 + np.arange(200) / 10.0]
    pop = write_calcium(tmp_path / "a.h5", times, np.array([[0.0, 20.0], [50.0, 70.0]]))
    part = load(tmp_path / "a.h5").slice(55.0, 65.0, reset_origin=False)
    assert np.array_equal(part.calcium_traces.df_over_f, pop.calcium.values[250:350])
    assert np.array_equal(part.calcium_traces.timestamps, times[250:350])


@pytest.mark.parametrize("name", ["spikes_temporaldata.h5", "spikes_h5py.h5"])
def test_we_read_their_spikes(name):
    (session,) = open_sessions(SAMPLES / name)
    data = temporaldata.Data.load(SAMPLES / name, lazy=False)
    assert (session.key.subject, session.key.session, session.key.population) == ("mouse1", "s1", "0")
    assert session.meta.schema is None
    assert session.unit_ids.tolist() == data.units.id.tolist()
    assert session.label("cell_type").tolist() == data.units.cell_type.tolist()
    assert np.array_equal(session.spikes.times, data.spikes.timestamps)
    assert np.array_equal(session.spikes.unit_index, data.spikes.unit_index)
    assert np.array_equal(session.intervals, INTERVALS)
    assert not session.subject_assumed
    assert verify(session.path) == []


def test_attributes_of_their_files():
    assert Session(SAMPLES / "spikes_temporaldata.h5").attributes == {"subject.species": "MUS_MUSCULUS"}


def test_we_read_their_regular_calcium():
    (session,) = open_sessions(SAMPLES / "calcium_temporaldata.h5")
    data = temporaldata.Data.load(SAMPLES / "calcium_temporaldata.h5", lazy=False)
    traces = session.calcium
    assert np.array_equal(traces.values, data.calcium_traces.df_over_f)
    assert np.array_equal(traces.timestamps, data.calcium_traces.timestamps)
    assert traces.sampling_rate_hz == 10.0
    assert traces.time_offset.tolist() == [0.0] * 12
    assert session.calcium_scale == pytest.approx(np.percentile(traces.values, 99.0))


def foreign(path: Path, **options) -> Path:
    """A file as other pipelines make them: written by temporaldata, then changed by h5py."""
    domain = temporaldata.Interval(INTERVALS[:, 0].copy(), INTERVALS[:, 1].copy())
    rng = np.random.default_rng(3)
    times = np.sort(np.r_[rng.uniform(0, 30, 300), rng.uniform(35, 60, 250)])
    data = temporaldata.Data(
        spikes=temporaldata.IrregularTimeSeries(
            timestamps=options.get("times", times), unit_index=rng.integers(0, 4, len(times)), domain=domain
        ),
        units=temporaldata.ArrayDict(id=options.get("ids", np.arange(4))),
        domain=domain,
    )
    data.save(path)
    return path


def test_a_file_without_ids_is_named_after_itself(tmp_path):
    (session,) = open_sessions(foreign(tmp_path / "rec7.h5"))
    assert session.key.subject == "rec7"
    assert session.key.session == "rec7"
    assert session.subject_assumed
    assert session.unit_ids.tolist() == ["0", "1", "2", "3"]
    assert session.notes == (
        "The file names no subject: its own name 'rec7' is taken.",
        "The file names no session: its own name 'rec7' is taken.",
    )


def test_compressed_and_narrow_foreign_data_is_read_whole(tmp_path):
    path = foreign(tmp_path / "a.h5")
    mapped = Session(path).spikes
    expected = SpikeTrain(mapped.times.copy(), mapped.unit_index.copy())
    with h5py.File(path, "a") as file:
        for name in ("timestamps", "unit_index"):
            values = file["spikes"].pop(name)[()]
            file["spikes"].create_dataset(name, data=values, chunks=(64,), compression="gzip")
    session = Session(path)
    assert np.array_equal(session.spikes.times, expected.times)
    assert np.array_equal(session.spikes.unit_index, expected.unit_index)
    assert session.spikes.times is session.spikes.times  # read once
    with h5py.File(path, "a") as file:
        values = file["spikes"].pop("timestamps")[()]
        file["spikes"]["timestamps"] = values.astype(">f4")
    assert Session(path).spikes.times.dtype == np.float64
    assert np.allclose(Session(path).spikes.times, expected.times, atol=1e-5)


def test_times_that_are_no_numbers(tmp_path):
    path = foreign(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        del file["spikes/timestamps"]
        file["spikes"].create_dataset("timestamps", data=["a", "b"], dtype=h5py.string_dtype())
    with pytest.raises(InputError, match="'/spikes/timestamps' is no array of numbers"):
        open_sessions(tmp_path)


def test_a_regular_series_whose_domain_ends_with_its_last_frame(tmp_path):
    (tmp_path / "a.h5").write_bytes((SAMPLES / "calcium_temporaldata.h5").read_bytes())
    with h5py.File(tmp_path / "a.h5", "a") as file:
        for group in (file["domain"], file["calcium_traces/domain"]):
            group["end"][0] = np.nextafter(2.5 + 299 / 10.0, 0)
    (session,) = open_sessions(tmp_path)
    assert len(session.calcium.timestamps) == 300


def test_byte_and_variable_length_ids(tmp_path):
    path = foreign(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        del file["units/id"]
        file["units"].create_dataset("id", data=["a", "é", "c", "d"], dtype=h5py.string_dtype())
    assert Session(path).unit_ids.tolist() == ["a", "é", "c", "d"]


def test_filler_frames_of_a_gappy_regular_series_do_not_count(tmp_path):
    (tmp_path / "a.h5").write_bytes((SAMPLES / "calcium_temporaldata.h5").read_bytes())
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["calcium_traces/df_over_f"][100:120] = np.nan
        for group in (file["domain"], file["calcium_traces/domain"]):
            for name, values in (("start", [2.5, 14.5]), ("end", [12.5, 32.5])):
                del group[name]
                group[name] = np.array(values)
    (session,) = open_sessions(tmp_path)
    kept = np.delete(session.calcium.values, slice(100, 120), axis=0)
    assert session.calcium_scale == pytest.approx(np.percentile(kept, 99.0))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: f["spikes/timestamps"].__setitem__(5, np.nan), "NaN or infinite"),
        (lambda f: f["spikes/timestamps"].__setitem__(5, 29.0), "not sorted"),
        (
            lambda f: f["spikes/unit_index"].__setitem__(5, 99),
            "1 of 550 spikes have a unit index outside 0..3",
        ),
        (lambda f: f["units/id"].__setitem__(1, 0), "unit ids repeat"),
    ],
)
def test_what_temporaldata_lets_pass_is_refused_when_opened(tmp_path, damage, message):
    path = foreign(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        damage(file)
    with pytest.raises(InputError, match=message) as caught:
        open_sessions(tmp_path)
    assert "a.h5" in caught.value.what
    assert len(open_sessions(tmp_path, check_foreign=False)) == 1


@pytest.mark.parametrize("name", ["timestamps", "unit_index"])
def test_missing_chunks_are_no_zeros(tmp_path: Path, name: str) -> None:
    """HDF5 reads a chunk that was never written as zeros: spikes of unit 0, at the start."""
    path = tmp_path / "spikes.h5"
    path.write_bytes((SAMPLES / "spikes_h5py.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        values = file["spikes"][name][:]
        attributes = dict(file["spikes"][name].attrs)
        del file["spikes"][name]
        chunked = file["spikes"].create_dataset(name, shape=values.shape, dtype=values.dtype, chunks=(64,))
        chunked[:64] = values[:64]
        chunked.attrs.update(attributes)
    with pytest.raises(InputError, match=f"spikes/{name}.*lacks chunks"):
        open_sessions(path)


def test_values_of_other_files_are_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "spikes.h5"
    path.write_bytes((SAMPLES / "spikes_h5py.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        times = file["spikes/timestamps"][:]
        del file["spikes/timestamps"]
        (tmp_path / "elsewhere.bin").write_bytes(times.tobytes())
        file["spikes"].create_dataset(
            "timestamps", times.shape, times.dtype, external=[("elsewhere.bin", 0, times.nbytes)]
        )
    with pytest.raises(InputError, match="takes its values from other files"):
        open_sessions(path)
