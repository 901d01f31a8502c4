"""NWB files whose values lie in other files: every one of them is known, checked and hashed."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from nuclr_cli.api import Population, ReaderError, ReadOptions, hdf5_damage
from nuclr_cli.data.session import Session
from nuclr_cli.errors import InputError
from nuclr_cli.workflows.preprocess import PreprocessConfig, preprocess
from nuclr_nwb import NwbReader

TIMES = "units/spike_times"


@pytest.fixture
def ephys(shared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copyfile(shared / "samples" / "nwb" / "ephys.nwb", tmp_path / "a.nwb"))


@pytest.fixture
def ophys(shared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copyfile(shared / "samples" / "nwb" / "ophys.nwb", tmp_path / "a.nwb"))


def read(path: Path, **options: Any) -> Population:
    (population,) = NwbReader().read(path, ReadOptions(**options))
    return population


def spikes(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    found = read(path).spikes
    assert found is not None
    return found.times, found.unit_index


def sources(path: Path) -> list[str]:
    return [
        file.relative_to(path.parent.resolve()).as_posix() for file in NwbReader().sources(path.resolve())
    ]


def link(path: Path, name: str, target: str, inside: str) -> None:
    """Put an external link where something was."""
    with h5py.File(path, "a") as file:
        if name in file:
            del file[name]
        file[name] = h5py.ExternalLink(target, inside)


def hdf5(path: Path, **values: NDArray[Any]) -> Path:
    path.parent.mkdir(exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, array in values.items():
            file[name] = array
    return path


def times_of(path: Path) -> NDArray[np.float64]:
    with h5py.File(path) as file:
        times: NDArray[np.float64] = file[TIMES][()]
    return times


def test_a_link_of_a_link_is_followed_from_the_file_that_holds_it(ephys: Path, tmp_path: Path) -> None:
    """a.nwb -> deep/b.nwb -> deep/er/c.nwb; beside a.nwb lies another c.nwb, which is not meant."""
    expected = spikes(ephys)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    shutil.copyfile(ephys, tmp_path / "deep" / "er" / "c.nwb")
    hdf5(tmp_path / "c.nwb")
    link(ephys, "units", "deep/b.nwb", "/sorted/units")
    link(tmp_path / "deep" / "b.nwb", "sorted", "er/c.nwb", "/")
    assert sources(ephys) == ["a.nwb", "deep/b.nwb", "deep/er/c.nwb"]
    np.testing.assert_array_equal(spikes(ephys), expected)
    (tmp_path / "deep" / "er" / "c.nwb").unlink()
    with pytest.raises(
        ReaderError, match=r"link to er/c\.nwb:/ \(named by .*b\.nwb\), which is not there"
    ) as caught:
        read(ephys)
    assert str(ephys) in caught.value.what
    assert sources(ephys) == ["a.nwb", "deep/b.nwb"]


def test_a_soft_link_may_lead_through_a_linked_file(ephys: Path, tmp_path: Path) -> None:
    expected = spikes(ephys)
    shutil.copyfile(ephys, tmp_path / "b.nwb")
    link(ephys, "elsewhere", "b.nwb", "/")
    with h5py.File(ephys, "a") as file:
        del file[TIMES]
        file[TIMES] = h5py.SoftLink("/elsewhere/units/spike_times")
    assert sources(ephys) == ["a.nwb", "b.nwb"]
    np.testing.assert_array_equal(spikes(ephys), expected)


def test_traces_under_acquisition_are_sources_and_raw_recordings_are_not(ophys: Path, tmp_path: Path) -> None:
    expected = read(ophys, series=("F0",)).calcium
    assert expected is not None
    with h5py.File(ophys, "a") as file:
        file.move("processing/ophys/Fluorescence", "acquisition/Fluorescence")
        hdf5(tmp_path / "frames" / "f.h5", x=file["acquisition/Fluorescence/F0/data"][()])
        attributes = dict(file["acquisition/Fluorescence/F0/data"].attrs)
        raw = file["acquisition"].create_group("raw")
        raw["data"] = h5py.ExternalLink("raw.h5", "/x")
        file["acquisition/more"] = h5py.ExternalLink("raw.h5", "/group")
    with h5py.File(tmp_path / "frames" / "f.h5", "a") as file:
        file["x"].attrs.update(attributes)
    link(ophys, "acquisition/Fluorescence/F0/data", "frames/f.h5", "/x")
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        file["x"] = np.zeros(9)
        file.create_group("group")["data"] = np.zeros(9)
    assert sources(ophys) == ["a.nwb", "frames/f.h5"]
    found = read(ophys, series=("F0",)).calcium
    assert found is not None
    np.testing.assert_array_equal(found.values, expected.values)
    (tmp_path / "frames" / "f.h5").unlink()
    with pytest.raises(ReaderError, match=r"F0/data is a link to frames/f\.h5:/x, which is not there"):
        read(ophys, series=("F0",))


def test_raw_recordings_are_not_searched_for_damage(
    ephys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may be a hundred times as large as the rest; the file itself is searched once, without them."""
    hdf5(tmp_path / "raw.h5", data=np.zeros(100_000, np.int16))
    hdf5(tmp_path / "rois.h5", data=np.zeros((5, 3)), rois=np.arange(3))
    link(ephys, "acquisition/ElectricalSeries", "raw.h5", "/")
    link(ephys, "acquisition/samples", "raw.h5", "/data")
    with h5py.File(ephys, "a") as file:
        file["acquisition/here"] = np.zeros(1_000_000, np.int16)
        file.create_dataset("acquisition/chunked", data=np.zeros(1_000_000, np.int16), chunks=(1000,))
    searched: list[tuple[str, int]] = []
    search = hdf5_damage.damaged_heap

    def spy(path: Path, within: int | None = None, skip: Sequence[tuple[int, int]] = ()) -> int | None:
        searched.append((path.name, path.stat().st_size - sum(end - begin for begin, end in skip)))
        return search(path, within, skip)

    monkeypatch.setattr(hdf5_damage, "damaged_heap", spy)
    assert sources(ephys) == ["a.nwb"]
    read(ephys)
    ((name, n_bytes),) = searched
    assert name == "a.nwb"
    assert n_bytes < 1_000_000
    link(ephys, "acquisition/series", "rois.h5", "/")
    assert sources(ephys) == ["a.nwb", "rois.h5"]
    link(tmp_path / "raw.h5", "deep", "rois.h5", "/")
    assert sources(ephys) == ["a.nwb", "raw.h5", "rois.h5"]


def make_virtual(path: Path, parts: Sequence[tuple[str, NDArray[Any]]], length: int | None = None) -> None:
    """Spike times put together of one dataset in each of several files."""
    total = sum(len(part) for _, part in parts)
    layout = h5py.VirtualLayout((total if length is None else length,), "f8")
    begin = 0
    for name, part in parts:
        hdf5(path.parent / name, x=part)
        layout[begin : begin + len(part)] = h5py.VirtualSource(name, "x", (len(part),))
        begin += len(part)
    with h5py.File(path, "a") as file:
        attributes = dict(file[TIMES].attrs)
        del file[TIMES]
        file.create_virtual_dataset(TIMES, layout, fillvalue=-1)
        file[TIMES].attrs.update(attributes)


def test_files_of_a_virtual_dataset_are_read_and_watched(ephys: Path) -> None:
    expected, times = spikes(ephys), times_of(ephys)
    make_virtual(ephys, [("parts/0.h5", times[:5000]), ("parts/1.h5", times[5000:])])
    assert sources(ephys) == ["a.nwb", "parts/0.h5", "parts/1.h5"]
    np.testing.assert_array_equal(spikes(ephys), expected)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2000])


def _emptied(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (4688,), "f8")


def _linked_on(path: Path) -> None:
    path.rename(path.with_name("moved.h5"))
    link(path, "x", "moved.h5", "/x")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, r"takes its values from parts/1\.h5:x, which is not there"),
        (_cut, r"1\.h5, which HDF5 cannot open"),
        (lambda p: hdf5(p, y=np.zeros(3)), r"parts/1\.h5:x, which is not there"),
        (lambda p: hdf5(p, x=np.zeros(3)), r"takes 4688 values from parts/1\.h5:x, which has shape \(3,\)"),
        (_emptied, r"1\.h5:x promises 37504 bytes, but 0 are stored"),
        (_linked_on, r"takes them from other files in turn"),
    ],
)
def test_what_a_virtual_dataset_lacks_is_never_read_as_its_fill_value(
    ephys: Path, damage: Callable[[Path], Any], message: str
) -> None:
    times = times_of(ephys)
    make_virtual(ephys, [("parts/0.h5", times[:5000]), ("parts/1.h5", times[5000:])])
    damage(ephys.parent / "parts" / "1.h5")
    NwbReader().sources(ephys)
    with pytest.raises(ReaderError, match=message) as caught:
        read(ephys)
    assert f"{ephys}:/units/spike_times" in caught.value.what or "1.h5:x promises" in caught.value.what


def test_a_virtual_dataset_with_holes_is_refused(ephys: Path) -> None:
    times = times_of(ephys)
    make_virtual(ephys, [("parts/0.h5", times[:5000])], length=len(times))
    with pytest.raises(ReaderError, match="promises 9688 values, but other datasets give 5000 of them"):
        read(ephys)


def test_parts_of_a_virtual_dataset_that_overlap_fill_no_hole(ephys: Path) -> None:
    """As many values are shown as there are, but the last 100 of them never."""
    times = times_of(ephys)
    n = len(times)
    hdf5(ephys.parent / "all.h5", x=times)

    def show(*parts: tuple[int, int]) -> None:
        layout = h5py.VirtualLayout((n,), "f8")
        with h5py.File(ephys, "a") as file:
            attributes = dict(file[TIMES].attrs)
            del file[TIMES]
            for begin, end in parts:
                layout[begin:end] = h5py.VirtualSource("all.h5", "x", (n,))[begin:end]
            file.create_virtual_dataset(TIMES, layout, fillvalue=-1)
            file[TIMES].attrs.update(attributes)

    expected = spikes(ephys)
    show((0, n - 100), (0, 100))
    with pytest.raises(ReaderError, match="promises 9688 values, but other datasets give 9588 of them"):
        read(ephys)
    show((0, n - 100), (n - 200, n))
    np.testing.assert_array_equal(spikes(ephys), expected)


@pytest.mark.parametrize("name", ["part-%b.h5", "part.h5"])
def test_numbered_and_growing_parts_of_a_virtual_dataset_are_not_guessed(ephys: Path, name: str) -> None:
    times = times_of(ephys)
    n, endless = len(times), h5py.h5s.UNLIMITED
    hdf5(ephys.parent / "part.h5", x=times)
    shown, source = h5py.h5s.create_simple((n,), (endless,)), h5py.h5s.create_simple((n,), (endless,))
    if "%" in name:
        shown.select_hyperslab((0,), (endless,), (n,), (n,))
    else:
        for space in (shown, source):
            space.select_hyperslab((0,), (1,), (1,), (endless,))
    made_of = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made_of.set_virtual(shown, name.encode(), b"x", source)
    with h5py.File(ephys, "a", libver="latest") as file:
        del file[TIMES]
        kind = h5py.h5t.NATIVE_DOUBLE
        h5py.h5d.create(
            file["units"].id, b"spike_times", kind, h5py.h5s.create_simple((n,), (endless,)), made_of
        )
    with pytest.raises(ReaderError, match="numbered or growing parts") as caught:
        read(ephys)
    assert f"({name}:x)" in caught.value.what


def make_raw(path: Path, name: str, length: int) -> None:
    """Spike times in a file without a format."""
    with h5py.File(path, "a") as file:
        attributes = dict(file[TIMES].attrs)
        del file[TIMES]
        file["units"].create_dataset("spike_times", (9688,), "f8", external=[(name, 16, length)])
        file[TIMES].attrs.update(attributes)


def test_raw_files_are_looked_for_beside_the_file_and_nowhere_else(
    ephys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HDF5 itself takes what it finds in the working folder, and reads 0 where a file ends early."""
    expected, times = spikes(ephys), times_of(ephys)
    make_raw(ephys, "times.bin", times.nbytes)
    (tmp_path / "times.bin").write_bytes(b"x" * 16 + times.tobytes())
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "times.bin").write_bytes(bytes(16 + times.nbytes))
    monkeypatch.chdir(tmp_path / "work")
    assert sources(ephys) == ["a.nwb", "times.bin"]
    np.testing.assert_array_equal(spikes(ephys), expected)
    (tmp_path / "times.bin").write_bytes(b"x" * 16 + times.tobytes()[:-8])
    with pytest.raises(
        ReaderError, match=r"takes 77504 bytes from byte 16 of .*times\.bin on, which holds 77496"
    ):
        read(ephys)
    (tmp_path / "times.bin").unlink()
    with pytest.raises(ReaderError, match=r"takes its values from times\.bin, which is not there"):
        read(ephys)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("units/obs_intervals", "when the units were observed is not known"),
        ("intervals/invalid_times", "which times count is not known"),
        ("units/id", r"units/id is a link to gone\.nwb:/x, which is not there"),
    ],
)
def test_links_on_which_the_result_depends_must_lead_somewhere(ephys: Path, name: str, message: str) -> None:
    link(ephys, name, "gone.nwb", "/x")
    with pytest.raises(ReaderError, match=message) as caught:
        read(ephys)
    assert "gone.nwb:/x, which is not there" in caught.value.what


def test_a_linked_file_that_is_damaged_is_named(ephys: Path, tmp_path: Path) -> None:
    data = bytearray(ephys.read_bytes())
    link(ephys, "units", "b.nwb", "/units")
    (tmp_path / "b.nwb").write_bytes(data[: len(data) // 2])
    with pytest.raises(
        ReaderError, match=r"link to b\.nwb:/units, which cannot be read \(HDF5 cannot open it"
    ):
        read(ephys)
    heap = data.index(b"GCOL")
    data[heap + 24 : heap + 32] = bytes([255] * 8)  # the length of its first text
    (tmp_path / "b.nwb").write_bytes(data)
    with pytest.raises(ReaderError, match=rf"b\.nwb is damaged: the texts at byte {heap} do not follow"):
        read(ephys)
    assert sources(ephys)[0] == "a.nwb"


def test_links_in_a_circle_of_files_end(ephys: Path, tmp_path: Path) -> None:
    link(ephys, "units", "b.nwb", "/units")
    link(tmp_path / "b.nwb", "units", "a.nwb", "/units")
    with pytest.raises(ReaderError, match="which leads in a circle"):
        read(ephys)
    assert sources(ephys) == ["a.nwb", "b.nwb"]


def test_linked_files_are_part_of_what_a_session_was_made_from(ephys: Path, tmp_path: Path) -> None:
    times = times_of(ephys)
    make_virtual(ephys, [("parts/0.h5", times[:5000]), ("parts/1.h5", times[5000:])])
    config = PreprocessConfig(sources=(ephys,), out=tmp_path / "data")
    preprocess(config)
    (made,) = (tmp_path / "data").glob("*.h5")
    source = Session(made).meta.source
    assert source is not None
    part = tmp_path / "parts" / "1.h5"
    digests = {file.name: file.sha256 for file in source.files}
    assert [digest for name, digest in digests.items() if name.endswith("parts/1.h5")] == [
        hashlib.sha256(part.read_bytes()).hexdigest()
    ]
    preprocess(config)
    with h5py.File(part, "a") as file:
        file["x"][3] += 0.001
    with pytest.raises(InputError, match=r"has changed since .*parts/1\.h5"):
        preprocess(config)
