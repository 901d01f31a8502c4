"""Samples of temporaldata itself, files of unusual writers, and files that are left to other readers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import temporaldata
from temporaldata import ArrayDict, Data, Interval, IrregularTimeSeries

from nuclr_cli.api import Population, ReaderError, ReadOptions
from nuclr_cli.data.sessions import open_sessions
from nuclr_cli.registry import Registry
from nuclr_cli.workflows.preprocess import PreprocessConfig, preprocess
from nuclr_temporaldata import TemporaldataReader

NAMES = ("spikes_temporaldata.h5", "spikes_h5py.h5", "calcium_temporaldata.h5")


@pytest.fixture(scope="session")
def samples(shared: Path) -> Path:
    return shared / "samples" / "td"


@pytest.fixture
def spikes_file(samples: Path, tmp_path: Path) -> Path:
    return Path(shutil.copyfile(samples / "spikes_temporaldata.h5", tmp_path / "rec.h5"))


@pytest.fixture
def calcium_file(samples: Path, tmp_path: Path) -> Path:
    return Path(shutil.copyfile(samples / "calcium_temporaldata.h5", tmp_path / "rec.h5"))


def read(path: Path, **options: Any) -> Population:
    (population,) = TemporaldataReader().read(path, ReadOptions(**options))
    return population


def replace(group: h5py.Group, name: str, values: Any, **how: Any) -> None:
    del group[name]
    group.create_dataset(name, data=values, **how)


@pytest.mark.parametrize("name", NAMES)
def test_samples_come_back_as_temporaldata_reads_them(samples: Path, tmp_path: Path, name: str) -> None:
    preprocess(PreprocessConfig(sources=(samples / name,), out=tmp_path))
    (session,) = open_sessions(tmp_path)
    data = temporaldata.Data.load(samples / name, lazy=False)
    assert (session.key.subject, session.key.session) == (data.subject.id, data.session.id)
    assert np.array_equal(session.intervals, np.c_[data.domain.start, data.domain.end])
    if session.modality == "spikes":
        assert session.unit_ids.tolist() == data.units.id.tolist()
        assert session.label("cell_type").tolist() == data.units.cell_type.tolist()
        assert np.array_equal(session.spikes.times, data.spikes.timestamps)
        assert np.array_equal(session.spikes.unit_index, data.spikes.unit_index)
    else:
        assert session.unit_ids.tolist() == data.rois.id.tolist()
        assert np.array_equal(session.calcium.values, data.calcium_traces.df_over_f)
        assert np.allclose(session.calcium.timestamps, data.calcium_traces.timestamps, rtol=0, atol=1e-9)
        assert session.calcium.sampling_rate_hz == 10.0


def test_one_reader_claims_a_file_and_says_what_it_saw(samples: Path) -> None:
    registry = Registry.load()
    reader, seen = registry.find(samples / "spikes_temporaldata.h5")
    assert (reader.name, seen) == ("temporaldata", "temporaldata file: spikes")
    assert registry.find(samples / "calcium_temporaldata.h5")[1] == "temporaldata file: calcium_traces"


def test_nwb_files_are_left_to_others(shared: Path) -> None:
    for path in sorted((shared / "samples" / "nwb").glob("*.nwb")):
        assert TemporaldataReader().detect(path) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.attrs.__setitem__("nwb_version", "2.7.0"),
        lambda file: file.attrs.__setitem__("object", "ArrayDict"),
        lambda file: file.attrs.__delitem__("object"),
        lambda file: file.move("spikes", "spike_trains"),
    ],
)
def test_other_hdf5_is_not_claimed(spikes_file: Path, change: Callable[[h5py.File], None]) -> None:
    with h5py.File(spikes_file, "a") as file:
        change(file)
    assert TemporaldataReader().detect(spikes_file) is None
    with pytest.raises(ReaderError, match="no temporaldata file"):
        read(spikes_file)


def test_detect_survives_anything(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("no HDF5")
    (tmp_path / "empty.h5").touch()
    (tmp_path / "loop.h5").symlink_to(tmp_path / "loop.h5")
    (tmp_path / "folder.h5").mkdir()
    (tmp_path / "signature.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"\xff" * 4000)
    for path in [*tmp_path.iterdir(), tmp_path / "absent.h5"]:
        assert TemporaldataReader().detect(path) is None


def test_a_session_file_is_used_in_place(samples: Path, tmp_path: Path) -> None:
    preprocess(PreprocessConfig(sources=(samples / NAMES[0],), out=tmp_path / "data"))
    (made,) = (tmp_path / "data").glob("*.h5")
    with pytest.raises(ReaderError, match="is a session file of nuclr already") as caught:
        read(made)
    assert caught.value.fix == f"Use it in place: nuclr info {made}"


def test_user_says_who_it_is(spikes_file: Path) -> None:
    assert read(spikes_file).subject == "mouse1"
    said = read(spikes_file, subject="m9", session="d2")
    assert (said.subject, said.session, said.subject_assumed) == ("m9", "d2", False)
    with h5py.File(spikes_file, "a") as file:
        del file["subject"], file["session"]
    bare = read(spikes_file)
    assert (bare.subject, bare.session, bare.subject_assumed) == ("rec", "rec", True)
    assert any("Nobody said who the subject is; the name 'rec' is taken." in note for note in bare.notes)
    with h5py.File(spikes_file, "a") as file:
        file.attrs["subject_id"], file.attrs["session_id"] = "m4", np.bytes_("s4")
    rooted = read(spikes_file)
    assert (rooted.subject, rooted.session, rooted.subject_assumed) == ("m4", "s4", False)
    assert "subject_id" not in rooted.attributes


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ([b"caf\\xe9", b"\\u03b1\\u03b2", b"plain", b"a\\\\b"], ["café", "αβ", "plain", "a\\b"]),
        ([b"C:\\new", b"C:\\xylo", b"d", b"e"], ["C:\\new", "C:\\xylo", "d", "e"]),
        ([b"C:\\q", b"caf\\xe9", b"d", b"e"], ["C:\\q", "caf\\xe9", "d", "e"]),
        ([b"\\ud800", b"b", b"c", b"d"], ["\\ud800", "b", "c", "d"]),
        (["é".encode(), b"b", b"\xff", b"d"], ["é", "b", "\\xff", "d"]),
    ],
)
def test_texts_in_bytes(spikes_file: Path, stored: list[bytes], expected: list[str]) -> None:
    with h5py.File(spikes_file, "a") as file:
        for name in ("id", "cell_type"):
            replace(file["units"], name, np.array(stored * 5))
        replace(file["units"], "id", np.array([f"{i}_".encode() + text for i, text in enumerate(stored * 5)]))
    population = read(spikes_file)
    assert population.units["cell_type"].tolist() == expected * 5
    assert population.units["id"].tolist() == [f"{i}_{text}" for i, text in enumerate(expected * 5)]


def test_numeric_and_variable_length_ids(spikes_file: Path) -> None:
    with h5py.File(spikes_file, "a") as file:
        replace(file["units"], "id", np.arange(100, 120, dtype=">u4"))
    assert read(spikes_file).units["id"][:2].tolist() == ["100", "101"]
    with h5py.File(spikes_file, "a") as file:
        replace(file["units"], "id", [f"ü{i}" for i in range(20)], dtype=h5py.string_dtype())
    assert read(spikes_file).units["id"][:2].tolist() == ["ü0", "ü1"]


def test_every_column_travels_or_is_named(spikes_file: Path) -> None:
    with h5py.File(spikes_file, "a") as file:
        units = file["units"]
        units["position"] = np.arange(60.0).reshape(20, 3).astype(">f4")
        units["is_good"] = np.arange(20) % 2 == 0
        units["templates"] = np.zeros((20, 5, 4))
        units["total"] = 3
        units["complex"] = np.zeros(20, dtype=complex)
        ragged = units.create_dataset("peaks", (20,), dtype=h5py.vlen_dtype(np.int32))
        ragged[3] = np.arange(4)
        units.create_group("nested").attrs["object"] = "ArrayDict"
    population = read(spikes_file)
    assert population.units["position"].dtype == np.float32
    assert population.units["position"][1].tolist() == [3.0, 4.0, 5.0]
    assert population.units["is_good"].dtype == np.bool_
    (warning,) = population.warnings
    for said in (
        "templates (shape (20, 5, 4))",
        "total (",
        "complex (",
        "peaks (ragged)",
        "nested (no column)",
    ):
        assert said in warning


def test_chunked_compressed_narrow_data(spikes_file: Path) -> None:
    before = read(spikes_file).spikes
    with h5py.File(spikes_file, "a") as file:
        spikes = file["spikes"]
        times, index = spikes["timestamps"][()], spikes["unit_index"][()]
        replace(spikes, "timestamps", times.astype(">f8"), chunks=(64,), compression="gzip", shuffle=True)
        replace(spikes, "unit_index", index.astype(np.uint8), chunks=(100,), compression="lzf")
    after = read(spikes_file).spikes
    assert before is not None
    assert after is not None
    assert np.array_equal(before.times, after.times)
    assert np.array_equal(before.unit_index, after.unit_index)


def test_single_precision_is_said(spikes_file: Path) -> None:
    with h5py.File(spikes_file, "a") as file:
        replace(file["spikes"], "timestamps", file["spikes/timestamps"][()].astype(np.float32))
    assert any("float32: they are exact to 3.8e-06 s" in note for note in read(spikes_file).notes)


def intervals_file(path: Path, root: Interval, own: Interval) -> Path:
    times = np.arange(0.5, 100.0, 0.1)
    spikes = IrregularTimeSeries(timestamps=times, unit_index=np.arange(len(times)) % 3, domain=own)
    Data(spikes=spikes, units=ArrayDict(id=np.array(["a", "b", "c"])), domain=root).save(path)
    return path


@pytest.mark.parametrize(
    ("root", "own", "expected"),
    [
        # Behaviour went on for longer than the spikes: that is no silence.
        ([(0.0, 500.0)], [(0.0, 60.0)], [(0.0, 60.0)]),
        ([(10.0, 50.0)], [(0.0, 100.0)], [(10.0, 50.0)]),
        (
            [(0.0, 30.0), (40.0, 90.0)],
            [(20.0, 45.0), (50.0, 100.0)],
            [(20.0, 30.0), (40.0, 45.0), (50.0, 90.0)],
        ),
        # Trials that touch are one recording; a moment is none.
        ([(0.0, 10.0), (10.0, 30.0), (40.0, 40.0)], [(0.0, 100.0)], [(0.0, 30.0)]),
    ],
)
def test_valid_is_what_both_domains_say(tmp_path: Path, root: Any, own: Any, expected: Any) -> None:
    path = intervals_file(tmp_path / "a.h5", Interval.from_list(root), Interval.from_list(own))
    population = read(path)
    assert population.intervals.tolist() == [list(interval) for interval in expected]
    assert population.spikes is not None
    times = population.spikes.times
    assert all(any(a <= t <= b for a, b in expected) for t in times)
    everything = np.arange(0.5, 100.0, 0.1)
    wanted = sum(int(((everything >= a) & (everything <= b)).sum()) for a, b in expected)
    assert len(times) == wanted
    assert any("is valid where both" in note for note in population.notes)


@pytest.mark.parametrize("absent", ["domain", "spikes/domain"])
def test_one_domain_is_enough(spikes_file: Path, absent: str) -> None:
    before = read(spikes_file)
    with h5py.File(spikes_file, "a") as file:
        del file[absent]
    after = read(spikes_file)
    assert np.array_equal(before.intervals, after.intervals)
    assert any(note.startswith(f"There is no {absent!r}") for note in after.notes)


def test_filler_of_a_gappy_regular_series_is_left_out(calcium_file: Path) -> None:
    with h5py.File(calcium_file, "a") as file:
        file["calcium_traces/df_over_f"][100:120] = np.nan
        for group in (file["domain"], file["calcium_traces/domain"]):
            replace(group, "start", np.array([2.5, 14.5]))
            replace(group, "end", np.array([12.4, 32.5]))
    population = read(calcium_file)
    assert population.calcium is not None
    assert population.intervals.tolist() == [[2.5, 12.4], [14.5, 32.5]]
    assert len(population.calcium.timestamps) == 280
    assert np.isfinite(population.calcium.values).all()
    assert "20 of 300 frames lie outside the file's own domain and were left out." in population.notes


def test_frames_that_are_missing_inside_the_domain_are_a_gap(tmp_path: Path) -> None:
    times = np.r_[np.arange(100), np.arange(150, 250), np.arange(260, 261)] / 10.0 + 3.0
    traces = IrregularTimeSeries(
        timestamps=times, df_over_f=np.random.default_rng(0).normal(size=(201, 4)), domain="auto"
    )
    rois = ArrayDict(id=np.array(list("abcd")), time_offset=np.array([0.0, 0.0, 0.05, 0.05]))
    Data(calcium_traces=traces, rois=rois, domain=traces.domain).save(tmp_path / "a.h5")
    population = read(tmp_path / "a.h5")
    assert population.calcium is not None
    assert np.allclose(population.intervals, [[3.0, 13.0], [18.0, 28.0]])
    assert population.calcium.time_offset.tolist() == [0.0, 0.0, 0.05, 0.05]
    assert population.calcium.sampling_rate_hz == pytest.approx(10.0)
    assert len(population.calcium.timestamps) == 200
    said = "\n".join(population.notes)
    assert "Frames are missing in 2 places" in said
    assert "1 of 201 frames lie outside" in said
    preprocess(PreprocessConfig(sources=(tmp_path / "a.h5",), out=tmp_path / "data"))
    assert len(open_sessions(tmp_path / "data")) == 1


def test_units_with_nan_are_named_and_left_out_when_asked(calcium_file: Path) -> None:
    with h5py.File(calcium_file, "a") as file:
        file["calcium_traces/df_over_f"][7, [2, 5]] = np.nan
    before = temporaldata.Data.load(calcium_file, lazy=False)
    with pytest.raises(ReaderError, match="in 2 units") as caught:
        read(calcium_file)
    assert "--drop-nan-units" in caught.value.fix
    population = read(calcium_file, drop_nan_units=True)
    kept = np.delete(np.arange(12), [2, 5])
    assert population.units["id"].tolist() == before.rois.id[kept].tolist()
    assert population.calcium is not None
    assert np.array_equal(population.calcium.values, before.calcium_traces.df_over_f[:, kept])
    assert population.provenance["dropped_unit_ids"] == before.rois.id[[2, 5]].tolist()


def test_a_file_with_both_modalities_is_two_populations(spikes_file: Path, samples: Path) -> None:
    with h5py.File(samples / "calcium_temporaldata.h5") as other, h5py.File(spikes_file, "a") as file:
        for name in ("calcium_traces", "rois"):
            other.copy(name, file)
    populations = list(TemporaldataReader().read(spikes_file, ReadOptions()))
    assert [(p.population, p.modality, p.n_units) for p in populations] == [
        ("spikes", "spikes", 20),
        ("calcium_traces", "calcium", 12),
    ]


def test_a_slice_of_a_recording_says_so(spikes_file: Path) -> None:
    with h5py.File(spikes_file, "a") as file:
        file.attrs["absolute_start"] = 1200.5
    population = read(spikes_file)
    assert population.attributes["absolute_start"] == "1200.5"
    assert any("cut out of a longer recording at 1200.5 s" in note for note in population.notes)


def test_options_of_other_readers_are_refused(spikes_file: Path) -> None:
    with pytest.raises(ReaderError, match="has no option 'speed'"):
        read(spikes_file, extra={"speed": "1"})
    with pytest.raises(ReaderError, match="no column 'shank'") as caught:
        read(spikes_file, extra={"split_by": "shank"})
    assert "brain_region" in caught.value.fix
    with pytest.raises(ReaderError, match="are for traces"):
        read(spikes_file, series=("df_over_f",))
