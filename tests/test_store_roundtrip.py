"""What is written is what a Session gives back, and the same bytes every time."""

import json
import pickle
import tempfile
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nuclr_cli.api import CalciumTraces, Population, Spikes
from nuclr_cli.data.store import (
    SCHEMA_VERSION,
    Session,
    SourceFile,
    SourceRecord,
    read_meta,
    verify,
    write_population,
)

SOURCE = SourceRecord(
    "sorting", "phy", "phy folder", (SourceFile("spike_times.npy", 3, 4, "ab"),), {"keep": ("good",)}
)


def spikes_population(n_units: int = 8, seed: int = 0, **changes) -> Population:
    rng = np.random.default_rng(seed)
    times = np.sort(np.r_[rng.uniform(0, 30, 900), rng.uniform(35, 60, 700)])
    pop = Population(
        subject="mouse",
        session="day1",
        units={
            "id": np.array([f"u{i}" for i in range(n_units)]),
            "cell_type": np.array(["PV", ""] * (n_units // 2)),
        },
        intervals=np.array([[0.0, 30.0], [35.0, 60.0]]),
        spikes=Spikes(times, rng.integers(0, n_units, len(times))),
    )
    return replace(pop, **changes)


def calcium_population(times: np.ndarray, rate: float, n_units: int = 5, **changes) -> Population:
    values = np.random.default_rng(1).gamma(1.0, 1.0, (len(times), n_units)).astype(np.float32)
    pop = Population(
        subject="mouse",
        session="day1",
        units={"id": np.array([f"plane0_{i}" for i in range(n_units)])},
        intervals=np.array([[times[0], times[-1] + 1 / rate]]),
        calcium=CalciumTraces(values, times, rate, np.linspace(0, 0.1, n_units)),
    )
    return replace(pop, **changes)


def stored(pop: Population, folder: Path, source: SourceRecord = SOURCE) -> Session:
    write_population(pop, folder / "population.h5", source=source)
    return Session(folder / "population.h5")


def assert_same_columns(session: Session, pop: Population, derived: str) -> None:
    assert list(session.columns) == [*pop.units, derived]
    for name, expected in pop.units.items():
        found = session.columns[name]
        assert found.shape == expected.shape
        assert found.dtype.kind == expected.dtype.kind
        assert np.array_equal(found, expected, equal_nan=expected.dtype.kind == "f")


# Text that numpy itself keeps: it drops trailing NULs, and lone surrogates are no text.
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).map(lambda value: value.rstrip("\0"))
anything = st.text(st.characters(), max_size=9)
names = text.filter(lambda value: value.strip())


@st.composite
def populations(draw: st.DrawFn) -> Population:
    n_units = draw(st.integers(1, 6))
    ids = np.array(draw(st.lists(names, min_size=n_units, max_size=n_units, unique=True)), dtype=np.str_)
    units = {"id": ids}
    dtypes = st.sampled_from([np.bool_, np.int8, np.uint16, np.int64, np.uint64, np.float32, np.float64])
    shapes = st.sampled_from([(n_units,), (n_units, 3)])
    for name in draw(st.lists(text.filter(bool), max_size=4, unique=True)):
        if name in ("id", "n_spikes"):
            continue
        if draw(st.booleans()):
            units[name] = np.array(draw(st.lists(text, min_size=n_units, max_size=n_units)), dtype=np.str_)
        else:
            units[name] = draw(hnp.arrays(draw(dtypes), draw(shapes)))
    start = draw(st.floats(-1e4, 1e6))
    lengths = draw(st.lists(st.floats(0.5, 60), min_size=1, max_size=3))
    edges, at = [], start
    for length in lengths:
        edges.append((at, at + length))
        at += length + draw(st.floats(0, 40))
    intervals = np.array(edges)
    total = float((intervals[:, 1] - intervals[:, 0]).sum())
    # Every unit of this many spikes fires below 200 Hz.
    n_spikes = draw(st.integers(1, max(int(total * 100), 1)).map(lambda n: min(n, 200)))
    seed = draw(st.integers(0, 2**32))
    rng = np.random.default_rng(seed)
    times = np.sort(rng.uniform(intervals[0, 0], intervals[-1, 1], n_spikes))
    return Population(
        subject=draw(names),
        session=draw(names),
        population=draw(names),
        units=units,
        intervals=intervals,
        spikes=Spikes(times, rng.integers(0, n_units, n_spikes)),
        subject_assumed=draw(st.booleans()),
        attributes=draw(st.dictionaries(anything | st.just("age"), anything, max_size=4)),
        notes=draw(st.lists(text, max_size=2)),
        provenance={"versions": {"x": draw(text)}},
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pop=populations())
def test_any_valid_population_survives_the_file(pop):
    with tempfile.TemporaryDirectory() as folder:
        session = stored(pop, Path(folder))
        assert (session.key.subject, session.key.session, session.key.population) == (
            pop.subject,
            pop.session,
            pop.population,
        )
        assert session.subject_assumed == pop.subject_assumed
        assert session.unit_ids.tolist() == pop.units["id"].tolist()
        assert_same_columns(session, pop, "n_spikes")
        assert np.array_equal(session.intervals, pop.intervals)
        assert session.spikes.times.tobytes() == pop.spikes.times.tobytes()
        assert np.array_equal(session.spikes.unit_index, pop.spikes.unit_index)
        assert session.attributes == pop.attributes
        assert session.notes[: len(pop.notes)] == tuple(pop.notes)
        assert session.meta.provenance == pop.provenance
        assert verify(session.path) == []


def test_the_same_population_gives_the_same_bytes(tmp_path):
    first, second = tmp_path / "a.h5", tmp_path / "b.h5"
    write_population(spikes_population(), first, source=SOURCE)
    write_population(spikes_population(), second, source=SOURCE)
    assert first.read_bytes() == second.read_bytes()


def test_units_without_spikes_stay_and_are_counted(tmp_path):
    pop = spikes_population()
    spikes = Spikes(pop.spikes.times, np.where(pop.spikes.unit_index == 3, 2, pop.spikes.unit_index))
    session = stored(replace(pop, spikes=spikes), tmp_path)
    assert session.n_units == 8
    assert session.columns["n_spikes"].tolist() == np.bincount(spikes.unit_index, minlength=8).tolist()
    assert session.columns["n_spikes"][3] == 0
    assert any("'u3'" in warning for warning in session.warnings)


def test_a_source_column_that_contradicts_the_data_is_kept_under_another_name(tmp_path):
    pop = spikes_population()
    claimed = np.arange(8)
    session = stored(replace(pop, units={**pop.units, "n_spikes": claimed}), tmp_path)
    assert session.columns["source_n_spikes"].tolist() == claimed.tolist()
    assert session.columns["n_spikes"].sum() == len(pop.spikes.times)
    assert any("source_n_spikes" in note for note in session.notes)


def test_large_datasets_are_contiguous_aligned_and_narrow(tmp_path):
    session = stored(spikes_population(), tmp_path)
    with h5py.File(session.path) as file:
        for name in ("spikes/timestamps", "spikes/unit_index"):
            dataset = file[name]
            assert dataset.chunks is None
            assert dataset.compression is None
            assert dataset.id.get_offset() % 4096 == 0
        assert file["spikes/unit_index"].dtype == np.uint16
        assert file["spikes/timestamps"].dtype == np.float64
    assert isinstance(session.spikes.times, np.ndarray)
    assert not session.spikes.times.flags.writeable
    assert not session.spikes.times.flags.owndata


def test_more_units_than_uint16_holds(tmp_path):
    n_units = 65_537
    pop = Population(
        subject="m",
        session="s",
        units={"id": np.arange(n_units).astype(np.str_)},
        intervals=np.array([[0.0, 10.0]]),
        spikes=Spikes(np.linspace(0, 9, n_units), np.arange(n_units)),
    )
    session = stored(pop, tmp_path)
    assert session.spikes.unit_index.dtype == np.uint32
    assert session.spikes.unit_index[-1] == 65_536


def test_metadata_larger_than_an_hdf5_attribute(tmp_path):
    files = tuple(SourceFile(f"file{i}", i, i, "0" * 64) for i in range(2000))
    source = replace(SOURCE, files=files)
    pop = spikes_population(
        notes=[f"note {i} " + "x" * 100 for i in range(1000)], attributes={"protocol": "p" * 100_000}
    )
    meta = stored(pop, tmp_path, source).meta
    assert meta.source is not None
    assert meta.source.files == files
    assert len(meta.notes) == 1000
    assert meta.attributes["protocol"] == "p" * 100_000


def test_source_record_compares_after_storage(tmp_path):
    source = replace(
        SOURCE, options={"keep": ("good", "mua"), "duration_s": (np.float64(3.5),), "path": Path("x")}
    )
    meta = stored(spikes_population(), tmp_path, source).meta
    assert meta.source is not None
    assert meta.source.plain() == source.plain()
    assert meta.source.plain() != replace(source, options={"keep": ("good",)}).plain()
    assert meta.schema == SCHEMA_VERSION
    assert read_meta(tmp_path / "population.h5") == meta


def test_session_pickles_as_its_path(tmp_path):
    session = stored(spikes_population(), tmp_path)
    assert session.spikes.times.size
    again = pickle.loads(pickle.dumps(session))
    assert len(pickle.dumps(session)) < 1000
    assert again.key == session.key
    assert np.array_equal(again.spikes.times, session.spikes.times)


def test_spikes_between_is_half_open(tmp_path):
    times = np.array([0.0, 1.0, 1.0, 2.0, 3.0])
    pop = spikes_population(intervals=np.array([[0.0, 3.0]]), spikes=Spikes(times, np.arange(5)))
    session = stored(pop, tmp_path)
    found = session.spikes_between(1.0, 2.0)
    assert found.times.tolist() == [1.0, 1.0]
    assert found.unit_index.tolist() == [1, 2]
    assert session.spikes_between(3.5, 9.0).times.size == 0


def test_labels(tmp_path):
    pop = spikes_population(n_units=4)
    units = {
        "id": pop.units["id"],
        "type": np.array(["é", "", "PV", "x\\y"]),
        "layer": np.array([4, 5, 6, 2]),
        "score": np.array([1.0, 2.5, np.nan, -3.0]),
        "ok": np.array([True, False, True, True]),
        "position": np.zeros((4, 3)),
    }
    session = stored(replace(pop, units=units), tmp_path)
    assert session.label_names == ("type",)
    assert session.label("type").tolist() == ["é", "", "PV", "x\\y"]
    assert session.label("layer").tolist() == ["4", "5", "6", "2"]
    assert session.label("score").tolist() == ["1", "2.5", "", "-3"]
    assert session.label("ok").tolist() == ["True", "False", "True", "True"]
    assert session.label("missing").tolist() == [""] * 4
    with pytest.raises(Exception, match="position") as caught:
        session.label("position")
    assert caught.type.__name__ == "InputError"


@pytest.mark.parametrize("kind", ["grid", "rounded", "gap", "jitter"])
def test_calcium_survives_the_file(tmp_path, kind):
    rate = 10.0
    times = 2.5 + np.arange(400) / rate
    if kind == "rounded":
        times = times + np.where(np.arange(400) % 2, 1e-6, 0.0)
    elif kind == "gap":
        times = np.r_[times[:200], times[200:] + 30.0]
    elif kind == "jitter":
        times = times + np.random.default_rng(0).uniform(0, 0.03, 400)
    pop = calcium_population(times, rate)
    if kind == "gap":
        pop = replace(pop, intervals=np.array([[2.5, 22.5], [52.5, 72.5]]))
    session = stored(pop, tmp_path)
    traces = session.calcium
    assert session.modality == "calcium"
    assert traces.values.tobytes() == pop.calcium.values.tobytes()
    assert traces.timestamps.tobytes() == times.tobytes()
    assert traces.sampling_rate_hz == rate
    assert traces.time_offset.tolist() == pop.calcium.time_offset.tolist()
    assert session.calcium_scale == pytest.approx(np.percentile(pop.calcium.values, 99.0))
    assert not traces.values.flags.owndata
    with h5py.File(session.path) as file:
        regular = file["calcium_traces"].attrs["object"] == "RegularTimeSeries"
        assert regular == (kind in ("grid", "rounded"))
        assert "rois" in file
    assert verify(session.path) == []


def test_scale_of_traces_that_are_never_positive_is_one(tmp_path):
    times = np.arange(100) / 10.0
    pop = calcium_population(times, 10.0)
    pop = replace(pop, calcium=replace(pop.calcium, values=-np.abs(pop.calcium.values)))
    assert stored(pop, tmp_path).calcium_scale == 1.0


def test_asking_for_the_other_modality_is_an_error(tmp_path):
    session = stored(spikes_population(), tmp_path)
    with pytest.raises(Exception, match="holds spikes data, calcium was asked for"):
        _ = session.calcium


def test_metadata_is_json_in_the_file(tmp_path):
    session = stored(spikes_population(), tmp_path)
    with h5py.File(session.path) as file:
        plain = json.loads(file["nuclr_meta"][0])
    assert plain["schema"] == SCHEMA_VERSION
    assert plain["source"]["reader"] == "phy"
    assert set(plain["versions"]) >= {"nuclr", "numpy", "h5py"}
