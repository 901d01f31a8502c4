"""temporaldata and torch_brain open our files unchanged, and we open theirs."""

from collections.abc import Sequence
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

from nuclr_cli.api import CalciumTraces, Population, Spikes, hdf5_damage
from nuclr_cli.data.resample import resample_traces
from nuclr_cli.data.sessions import open_sessions
from nuclr_cli.data.store import Session, SourceRecord, SpikeTrain, verify, write_population
from nuclr_cli.data.tokens import CalciumTokens
from nuclr_cli.errors import InputError
from nuclr_cli.workflows.preprocess import PreprocessConfig, preprocess

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
    with h5py.File(tmp_path / "a.h5") as file:
        kept = np.delete(file["calcium_traces/df_over_f"][()], slice(100, 120), axis=0)
    assert np.array_equal(session.calcium.values, kept)
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


def copied(name: str, path: Path) -> Path:
    path.write_bytes((SAMPLES / name).read_bytes())
    return path


def put(file: h5py.File, name: str, values: list[float]) -> None:
    """Other values where a dataset was."""
    del file[name]
    file[name] = np.array(values)


def set_domains(path: Path, root: list[list[float]], own: list[list[float]], series: str = "spikes") -> None:
    """Intervals of the root, and of the series."""
    with h5py.File(path, "r+") as file:
        for place, edges in (("domain", root), (f"{series}/domain", own)):
            for column, name in enumerate(("start", "end")):
                put(file, f"{place}/{name}", [pair[column] for pair in edges])


def preprocessed(path: Path, out: Path) -> list[Session]:
    preprocess(PreprocessConfig(sources=(path,), out=out))
    return open_sessions(out)


@pytest.mark.parametrize(
    "place", ["units", "units/id", "spikes/unit_index", "domain", "domain/start", "session"]
)
@pytest.mark.parametrize("is_external", [True, False])
def test_links_are_not_followed_in_place(tmp_path: Path, place: str, is_external: bool) -> None:
    """Another file, or another part of the file, could change without anyone's notice."""
    other = copied("spikes_temporaldata.h5", tmp_path / "other.hdf5")
    path = copied("spikes_temporaldata.h5", tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        file.move(place, "moved")
        file[place] = h5py.ExternalLink(other.name, f"/{place}") if is_external else h5py.SoftLink("/moved")
    target = f"other.hdf5:/{place}" if is_external else "/moved"
    with pytest.raises(InputError, match=f"a.h5: '{place}' is a link to {target}, which is not followed"):
        open_sessions(path)


def test_a_domain_longer_than_that_of_the_spikes_is_no_silence(tmp_path: Path) -> None:
    path = copied("spikes_temporaldata.h5", tmp_path / "a.h5")
    set_domains(path, root=[[-10.0, 31.0], [31.0, 90.0]], own=[[0.0, 30.0], [35.0, 35.0], [35.0, 60.0]])
    (session,) = open_sessions(path)
    assert session.intervals.tolist() == [[0.0, 30.0], [35.0, 60.0]]
    (made,) = preprocessed(path, tmp_path / "out")
    assert np.array_equal(session.intervals, made.intervals)
    assert np.array_equal(session.spikes.times, made.spikes.times)


def test_intervals_out_of_order_touching_or_without_length_are_levelled(tmp_path: Path) -> None:
    path = copied("spikes_temporaldata.h5", tmp_path / "a.h5")
    edges = [[35.0, 60.0], [0.0, 20.0], [20.0, 30.0], [32.0, 32.0]]
    set_domains(path, root=edges, own=edges)
    (session,) = open_sessions(path)
    assert session.intervals.tolist() == [[0.0, 30.0], [35.0, 60.0]]
    (made,) = preprocessed(path, tmp_path / "out")
    assert np.array_equal(session.intervals, made.intervals)


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ([[70.0, 90.0]], "'domain' and 'spikes/domain' are never valid together"),
        ([[0.0, np.nan]], "1 of 1 intervals of 'domain' are NaN or infinite"),
        ([[30.0, 0.0]], "1 of 1 intervals of 'domain' end before they start"),
        ([[0.0, 30.0], [20.0, 60.0]], "1 of 2 intervals of 'domain' overlap"),
    ],
)
def test_broken_domains_are_refused_in_place(tmp_path: Path, root: list[list[float]], message: str) -> None:
    path = copied("spikes_temporaldata.h5", tmp_path / "a.h5")
    set_domains(path, root, [[0.0, 60.0]])
    with pytest.raises(InputError, match=message):
        open_sessions(path)


def test_a_file_whose_domain_ends_before_its_spikes_is_sent_to_preprocess(tmp_path: Path) -> None:
    """As the pipeline of the IBL cuts the end of a session off."""
    path = copied("spikes_temporaldata.h5", tmp_path / "a.h5")
    set_domains(path, root=[[0.0, 30.0]], own=[[0.0, 60.0]])
    with pytest.raises(InputError, match="spikes lie outside the recording, 0 to 30 s") as caught:
        open_sessions(path)
    assert f"nuclr preprocess {path}" in caught.value.fix
    (made,) = preprocessed(path, tmp_path / "out")
    assert made.intervals.tolist() == [[0.0, 30.0]]
    assert made.spikes.times[-1] <= 30.0


def test_a_file_with_spikes_and_calcium_says_which_is_used(tmp_path: Path) -> None:
    path = copied("spikes_temporaldata.h5", tmp_path / "a.h5")
    with h5py.File(path, "r+") as file, h5py.File(SAMPLES / "calcium_temporaldata.h5") as other:
        for name in ("calcium_traces", "rois"):
            other.copy(name, file)
    (session,) = open_sessions(path)
    assert session.modality == "spikes"
    (warning,) = (text for text in session.warnings if "calcium" in text)
    assert warning.startswith("The file holds spikes and calcium traces; only its spikes are used.")
    made = preprocessed(path, tmp_path / "out")
    assert [(one.modality, one.key.population) for one in made] == [
        ("calcium", "calcium_traces"),
        ("spikes", "spikes"),
    ]


def test_filler_frames_in_place_are_what_preprocess_leaves_out(tmp_path: Path) -> None:
    """Intervals end with their last frame (24.9 s), or where the filler begins (12.5 s)."""
    path = copied("calcium_temporaldata.h5", tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        file["calcium_traces/df_over_f"][100:120] = np.nan
        file["calcium_traces/df_over_f"][225:240] = np.nan
    edges = [[2.5, 12.5], [14.5, 24.9], [26.5, 32.5]]
    set_domains(path, edges, edges, "calcium_traces")
    (session,) = open_sessions(path)
    (made,) = preprocessed(path, tmp_path / "out")
    assert np.array_equal(session.intervals, made.intervals)
    assert session.calcium_scale == made.calcium_scale
    assert len(made.calcium.timestamps) == 300 - 35
    assert np.array_equal(session.calcium.values, made.calcium.values)
    assert np.allclose(session.calcium.timestamps, made.calcium.timestamps, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rate_hz", [3.0, 4.0, 10.0])
def test_no_window_of_a_file_used_in_place_reaches_into_filler_frames(tmp_path: Path, rate_hz: float) -> None:
    """Below the model's sampling rate the end of a window is interpolated towards the next frame."""
    path, tokens = tmp_path / "a.h5", CalciumTokens()
    n, gap = int(80 * rate_hz), slice(int(35 * rate_hz), int(40 * rate_hz))
    frames = np.random.default_rng(0).random((n, 3), dtype=np.float32)
    frames[gap] = np.nan
    with h5py.File(path, "w") as file:
        file.attrs["object"] = "Data"
        file["rois/id"] = np.array([b"a", b"b", b"c"])
        file["calcium_traces/df_over_f"] = frames
        file["calcium_traces"].attrs.update(object="RegularTimeSeries", sampling_rate=rate_hz)
        for domain in ("domain", "calcium_traces/domain"):
            file[f"{domain}/start"] = [0.0, gap.stop / rate_hz]
            file[f"{domain}/end"] = [gap.start / rate_hz, n / rate_hz]
    (session,) = open_sessions(path)
    for begin, end in session.intervals.tolist():
        last = end - tokens.window_s
        for start in (begin, last, *np.random.default_rng(1).uniform(last - 1.0, last, 50)):
            assert np.isfinite(resample_traces(session.calcium, start, tokens)).all()


def test_our_own_traces_stay_mapped(tmp_path: Path) -> None:
    (made,) = preprocessed(copied("calcium_temporaldata.h5", tmp_path / "a.h5"), tmp_path / "out")
    assert not made.calcium.values.flags.owndata
    assert not made.calcium.values.flags.writeable


def test_filler_frames_inside_the_domain_are_refused_in_place_and_by_preprocess(tmp_path: Path) -> None:
    path = copied("calcium_temporaldata.h5", tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        file["calcium_traces/df_over_f"][100:120] = np.nan
    with pytest.raises(InputError, match="NaN or infinite samples"):
        open_sessions(path)
    with pytest.raises(InputError, match="NaN or infinite samples"):
        preprocessed(path, tmp_path / "out")


def test_frames_without_filler_in_the_gaps_are_refused_in_place(tmp_path: Path) -> None:
    path = copied("calcium_temporaldata.h5", tmp_path / "a.h5")
    edges = [[2.5, 12.5], [52.5, 72.5]]
    set_domains(path, edges, edges, "calcium_traces")
    with pytest.raises(
        InputError, match="300 frames for a domain with gaps that spans 700: when each was taken"
    ):
        open_sessions(path)


@pytest.mark.parametrize(
    ("rate_hz", "times", "message"),
    [
        (0.0, None, "a sampling rate of 0 Hz"),
        (-5.0, None, "a sampling rate of -5 Hz"),
        (None, np.zeros(300), "frame"),
        (None, np.arange(20.0), "300 frames but timestamps of shape"),
    ],
)
def test_impossible_frame_times_are_refused_in_place(tmp_path: Path, rate_hz, times, message: str) -> None:
    path = copied("calcium_temporaldata.h5", tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        group = file["calcium_traces"]
        del group.attrs["sampling_rate"]
        if rate_hz is not None:
            group.attrs["sampling_rate"] = rate_hz
        if times is not None:
            group["timestamps"] = times
    with pytest.raises(InputError, match=message):
        open_sessions(path)


def test_a_column_that_no_table_can_hold_is_left_out(tmp_path: Path) -> None:
    path = copied("spikes_temporaldata.h5", tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        file["units"].create_dataset("ragged", (20,), h5py.vlen_dtype(np.float64))
    (session,) = open_sessions(path)
    assert "ragged" not in session.columns
    assert any("left out: ragged" in warning for warning in session.warnings)


def test_a_promise_of_terabytes_is_not_believed_in_place(tmp_path: Path) -> None:
    path = copied("spikes_temporaldata.h5", tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        file["units"].create_dataset("depths", (1 << 40,), "f8")
    with pytest.raises(
        InputError, match="'/units/depths' promises 8796093022208 bytes but 0 are in the file"
    ):
        open_sessions(path)


@pytest.mark.parametrize("length", [0, 1 << 63, (1 << 64) - 16])
def test_damaged_texts_end_in_a_sentence_in_place(tmp_path: Path, nuclr, length: int) -> None:
    """HDF5 never returns from such a file, so this runs in a process that can be ended."""
    data = bytearray((SAMPLES / "spikes_temporaldata.h5").read_bytes())
    heap = data.index(b"GCOL")
    data[heap + 24 : heap + 32] = length.to_bytes(8, "little")  # of its first text
    path = tmp_path / "a.h5"
    path.write_bytes(data)
    done = nuclr("info", path, timeout=60)
    assert done.code == 3
    assert f"is damaged: the texts at byte {heap} do not follow one another" in done.err


def _promised(data: bytes, length: int, n: int) -> bytes:
    """The bytes of a file with the `n`-th text in it, counted from 1, said to be longer."""
    place = data.index(data.index(b"GCOL").to_bytes(8, "little") + n.to_bytes(4, "little"))
    return data[: place - 4] + length.to_bytes(4, "little") + data[place:]


@pytest.mark.parametrize("length", [7, 1 << 30, 0xFF000004])
def test_a_text_said_to_be_longer_than_it_is_is_not_read(tmp_path: Path, length: int) -> None:
    """HDF5 would ask for as much memory, whatever is stored."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for n, name in enumerate(("one", "two")):
            file.attrs[name] = "text"[: 4 - n]
        file["texts"] = np.array(["a", "bc"], dtype=h5py.string_dtype())
    data = path.read_bytes()
    with h5py.File(path) as file:
        assert hdf5_damage.is_plain(file.attrs.get_id("one"))
        assert hdf5_damage.is_plain(file["texts"].id)
    path.write_bytes(_promised(data, length, 1))
    with h5py.File(path) as file:
        assert not hdf5_damage.is_plain(file.attrs.get_id("one"))
        assert hdf5_damage.is_plain(file.attrs.get_id("two"))
    path.write_bytes(_promised(data, length, 3))
    with h5py.File(path) as file:
        assert not hdf5_damage.is_plain(file["texts"].id)


@pytest.mark.parametrize("version", ["earliest", "latest"])
@pytest.mark.parametrize("userblock", [0, 1024])
def test_arrays_of_numbers_are_not_searched_for_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, userblock: int
) -> None:
    path, numbers = tmp_path / "a.h5", np.arange(100_000.0)
    heap = b"GCOL\x01".ljust(40, b"\0")  # damaged, were it one
    with h5py.File(path, "w", libver=version, userblock_size=userblock) as file:
        file["whole"] = numbers
        file.create_dataset("chunked", data=numbers, chunks=(20_000,), compression="gzip")
        file["like a heap"] = np.frombuffer(heap + bytes(1 << 17), np.uint8)
        file["text"] = "a"
    begins = []
    search = hdf5_damage.damaged_heap

    def spy(path: Path, within: int | None = None, skip: Sequence[tuple[int, int]] = ()) -> int | None:
        begins.append(sum(end - begin for begin, end in skip))
        return search(path, within, skip)

    monkeypatch.setattr(hdf5_damage, "damaged_heap", spy)
    for _ in range(2):
        with h5py.File(path) as file:
            assert hdf5_damage.damaged_texts(path, file) is None
            stored = sum(file[name].id.get_storage_size() for name in ("whole", "chunked", "like a heap"))
    assert begins == [stored]


def test_an_attribute_of_a_damaged_type_does_not_crash(tmp_path: Path, nuclr) -> None:
    """HDF5 crashes when it reads this one: text that is said to be a sequence of variable length."""
    text, sequence = bytes.fromhex("1901010010000000"), bytes.fromhex("1900010010000000")
    path = tmp_path / "a.h5"
    path.write_bytes((SAMPLES / "spikes_temporaldata.h5").read_bytes().replace(text, sequence))
    done = nuclr("info", path, timeout=60)
    assert done.code == 3
    assert "its root has no attribute object = 'Data'" in done.err
