"""Broken and hostile temporaldata files: one clear error that names the file, nothing left behind."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from nuclr_cli.api import Population, ReaderError, ReadOptions
from nuclr_cli.errors import InputError
from nuclr_cli.workflows.preprocess import PreprocessConfig, preprocess
from nuclr_temporaldata import TemporaldataReader

Change = Callable[[h5py.File], Any]


@pytest.fixture(scope="session")
def samples(shared: Path) -> Path:
    return shared / "samples" / "td"


@pytest.fixture
def spikes_file(samples: Path, tmp_path: Path) -> Path:
    return Path(shutil.copyfile(samples / "spikes_temporaldata.h5", tmp_path / "rec.h5"))


@pytest.fixture
def calcium_file(samples: Path, tmp_path: Path) -> Path:
    return Path(shutil.copyfile(samples / "calcium_temporaldata.h5", tmp_path / "rec.h5"))


def read(path: Path, **options: Any) -> list[Population]:
    return list(TemporaldataReader().read(path, ReadOptions(**options)))


def drop(name: str) -> Change:
    return lambda file: file.__delitem__(name)


def put(name: str, values: Any, **how: Any) -> Change:
    """Replace a dataset."""

    def change(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, data=values, **how)

    return change


def edit(name: str, function: Callable[[Any], Any]) -> Change:
    """Replace a dataset by a function of its values."""
    return lambda file: put(name, function(file[name][()]))(file)


def at(name: str, place: Any, value: Any) -> Change:
    return lambda file: file[name].__setitem__(place, value)


def add(name: str, values: Any) -> Change:
    return lambda file: file.__setitem__(name, values)


def mark(name: str, value: Any) -> Change:
    """Change an attribute of the traces."""
    return lambda file: file["calcium_traces"].attrs.__setitem__(name, value)


def promise(name: str, shape: tuple[int, ...], dtype: str = "f8", **how: Any) -> Change:
    """A dataset of that shape into which nothing was ever written."""

    def change(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, shape, dtype, **how)

    return change


def bomb(file: h5py.File) -> None:
    """8 GB of zeros, 20 kB of which are there: each chunk is stored once as an empty stream."""
    del file["spikes/timestamps"]
    data = file.create_dataset("spikes/timestamps", (1 << 30,), "f8", chunks=(1 << 26,), compression="gzip")
    for chunk in range(16):
        data.id.write_direct_chunk((chunk << 26,), b"x\x9c\x03\x00\x00\x00\x00\x01")


def both(*changes: Change) -> Change:
    return lambda file: [change(file) for change in changes]


TIMES, INDEX, FRAMES = "spikes/timestamps", "spikes/unit_index", "calcium_traces/df_over_f"

SPIKES: dict[str, tuple[Change, str]] = {
    "no times": (drop(TIMES), "'spikes' has no dataset 'timestamps'"),
    "no index": (drop(INDEX), "'spikes' has no dataset 'unit_index'"),
    "no units": (drop("units"), "has no group 'units'"),
    "no ids": (drop("units/id"), "'units' has no dataset 'id'"),
    "no starts": (drop("domain/start"), "'domain' has no dataset 'start'"),
    "no domain": (
        both(drop("domain"), drop("spikes/domain")),
        "neither a group 'domain' nor 'spikes/domain'",
    ),
    "short index": (edit(INDEX, lambda v: v[:-3]), "has 5484 timestamps and 5481 unit indices"),
    "short times": (edit(TIMES, lambda v: v[:10]), "has 10 timestamps and 5484 unit indices"),
    "no spikes": (both(put(TIMES, np.empty(0)), put(INDEX, np.empty(0, int))), "no spikes"),
    "2-d times": (edit(TIMES, lambda v: v[:, None]), r"shape \(5484, 1\)"),
    "scalar times": (put(TIMES, 3.0), r"shape \(\)"),
    "null times": (put(TIMES, h5py.Empty("f8")), "'spikes/timestamps' has type float64"),
    "times in samples": (edit(TIMES, lambda v: (v * 30000).astype(int)), "type int64.*in seconds"),
    "times as text": (edit(TIMES, lambda v: v.astype("S")), "in seconds"),
    "times are a group": (both(drop(TIMES), lambda f: f.create_group(TIMES)), "no dataset"),
    "NaN": (at(TIMES, slice(5, 8), np.nan), "3 of 5484 spike times that are NaN"),
    "infinite": (at(TIMES, -1, np.inf), "1 of 5484 spike times that are NaN or infinite"),
    "unsorted": (at(TIMES, 9, 29.0), "is not sorted: 1 of 5484 spikes"),
    "reversed": (edit(TIMES, lambda v: v[::-1]), "5483 of 5484 spikes.*within 20 units"),
    "index too large": (at(INDEX, slice(0, 4), 20), r"outside 0..19 for 4 of 5484 .* 20 units\)"),
    "index negative": (at(INDEX, 3, -1), r"outside 0..19 for 1 of 5484 spikes"),
    "index real": (edit(INDEX, lambda v: v.astype(float)), "expected one integer per spike"),
    "fewer units": (edit("units/id", lambda v: v[:5]), "'units/brain_region' has 20 values for 5 units"),
    "short column": (edit("units/depth", lambda v: v[:7]), "'units/depth' has 7 values for 20 units"),
    "no unit at all": (put("units/id", np.empty(0, "S1")), "expected one id per unit"),
    "ids repeat": (edit("units/id", lambda v: np.r_[v[:1], v[:-1]]), "unit ids repeat in 'units': .* x2"),
    "ids real": (edit("units/id", lambda v: np.arange(20.0)), "expected text"),
    "ids 2-d": (edit("units/id", lambda v: v.reshape(4, 5)), r"shape \(4, 5\)"),
    "domain NaN": (at("domain/end", 0, np.nan), "'domain' has 1 of 2 intervals that are NaN"),
    "domain reversed": (at("domain/end", 0, -4.0), "end before they start .* 0 to -4 s"),
    "domain overlaps": (at("domain/end", 0, 40.0), "'domain' has 1 intervals that start before"),
    "domain lengths": (edit("domain/end", lambda v: v[:1]), "'domain' has 2 starts and 1 ends"),
    "domain empty": (
        both(put("domain/start", np.empty(0)), put("domain/end", np.empty(0))),
        "no interval of any length",
    ),
    "domain text": (edit("domain/end", lambda v: v.astype("S")), "expected seconds"),
    "domain elsewhere": (edit("domain/start", lambda v: v + 900), "end before they start"),
    "domains apart": (
        both(edit("domain/start", lambda v: v + 900), edit("domain/end", lambda v: v + 900)),
        "from 900 to 960 s .'domain'., its spikes from 0 to 60 s: never both",
    ),
    "times in milliseconds": (edit(TIMES, lambda v: v * 1e6 + 1e6), "none of them inside the domain"),
    "promised": (promise(TIMES, (1 << 50,)), "has 1125899906842624 timestamps and 5484 unit"),
    "both promised": (
        both(promise(TIMES, (1 << 45,)), promise(INDEX, (1 << 45,), "i8")),
        "promises 281474976710656 bytes but 0 are in the file",
    ),
    "chunks missing": (promise(INDEX, (5484,), "i8", chunks=(100,)), "lacks 55 of 55 chunks"),
}

CALCIUM: dict[str, tuple[Change, str]] = {
    "no frames": (drop(FRAMES), "no dataset 'df_over_f' .frames by units: none"),
    "no rois": (drop("rois"), "has no group 'rois' or 'units'"),
    "no rate": (lambda f: f["calcium_traces"].attrs.__delitem__("sampling_rate"), "has no timestamps"),
    "no rate at all": (mark("sampling_rate", np.nan), "rate of nan Hz"),
    "rate 0": (mark("sampling_rate", 0), "frame rate of 0 Hz"),
    "rate in mHz": (mark("sampling_rate", 1e4), "rate of 10000 Hz"),
    "rate text": (mark("sampling_rate", "fast"), "rate of nan Hz"),
    "irregular without times": (mark("object", "IrregularTimeSeries"), "has no timestamps"),
    "transposed": (edit(FRAMES, lambda v: v[:12].T[:, :].repeat(2, 1)), "has 24 columns"),
    "frames by units": (edit(FRAMES, lambda v: v[:12, :5].copy()), "it may be transposed"),
    "one dimension": (edit(FRAMES, lambda v: v[:, 0]), r"shape \(300,\)"),
    "integers": (edit(FRAMES, lambda v: v.astype("i2")), "expected floating-point frames"),
    "NaN": (at(FRAMES, (slice(3, 5), 7), np.nan), "in 1 unit .*, in 2 of 300 frames"),
    "infinite as float32": (edit(FRAMES, lambda v: v.astype("f8") * 1e300), "NaN or infinite"),
    "too few": (edit(FRAMES, lambda v: v[:1]), "has 1 frames"),
    "none": (edit(FRAMES, lambda v: v[:0]), "has 0 frames"),
    "short times": (add("calcium_traces/timestamps", np.arange(7.0)), "each of 300 frames"),
    "times go back": (
        add("calcium_traces/timestamps", np.r_[np.arange(299) / 10.0, 1.0]),
        "does not increase: 1",
    ),
    "times NaN": (add("calcium_traces/timestamps", np.full(300, np.nan)), "300 of 300 times"),
    "times in ms": (add("calcium_traces/timestamps", np.arange(300) * 1e5), "Hz, expected 0.1"),
    "offsets": (add("rois/time_offset", np.full(12, np.nan)), "not one number per unit"),
    "promised": (promise(FRAMES, (1 << 40, 12), "f4"), "bytes but 0 are in the file"),
}


def assert_refused(path: Path, change: Change, message: str, tmp_path: Path) -> None:
    with h5py.File(path, "a") as file:
        change(file)
    with pytest.raises(ReaderError, match=message) as caught:
        read(path)
    assert str(path) in caught.value.what
    assert caught.value.fix
    with pytest.raises(InputError):
        preprocess(PreprocessConfig(sources=(path,), out=tmp_path / "data"))
    assert not list((tmp_path / "data").glob("*.h5"))


@pytest.mark.parametrize("name", SPIKES)
def test_broken_spikes(spikes_file: Path, tmp_path: Path, name: str) -> None:
    assert_refused(spikes_file, *SPIKES[name], tmp_path)


@pytest.mark.parametrize("name", CALCIUM)
def test_broken_traces(calcium_file: Path, tmp_path: Path, name: str) -> None:
    assert_refused(calcium_file, *CALCIUM[name], tmp_path)


def test_a_compression_bomb_is_not_inflated(spikes_file: Path, tmp_path: Path) -> None:
    def change(file: h5py.File) -> None:
        bomb(file)
        del file["spikes/unit_index"]
        index = file.create_dataset(
            "spikes/unit_index", (1 << 30,), "u1", chunks=(1 << 26,), compression="gzip"
        )
        for chunk in range(16):
            index.id.write_direct_chunk((chunk << 26,), b"x\x9c\x03\x00\x00\x00\x00\x01")

    assert_refused(spikes_file, change, "promises 1073741824 bytes but only 128 are in the file", tmp_path)


def test_nothing_outside_the_file_is_opened(spikes_file: Path, tmp_path: Path) -> None:
    other, secret = tmp_path / "other.h5", tmp_path / "secret"
    shutil.copyfile(spikes_file, other)
    secret.write_bytes(np.linspace(0, 59, 5484).tobytes())
    virtual = h5py.VirtualLayout((5484,), "f8")
    virtual[:] = h5py.VirtualSource(str(other), "spikes/timestamps", (5484,))
    ways: tuple[tuple[Change, str], ...] = (
        (
            lambda f: f.__setitem__("spikes/timestamps", h5py.ExternalLink(str(other), "spikes/timestamps")),
            "link",
        ),
        (
            lambda f: f.__setitem__("spikes/timestamps", h5py.SoftLink("/units/depth")),
            "link to another place",
        ),
        (lambda f: f["spikes"].create_virtual_dataset("timestamps", virtual), "from other files"),
        (
            lambda f: f["spikes"].create_dataset(
                "timestamps", (5484,), "f8", external=[(str(secret), 0, 5484 * 8)]
            ),
            "from other files",
        ),
    )
    for number, (way, message) in enumerate(ways):
        path = tmp_path / f"way{number}.h5"
        shutil.copyfile(spikes_file, path)
        with h5py.File(path, "a") as file:
            del file["spikes/timestamps"]
            way(file)
        with pytest.raises(ReaderError, match=message):
            read(path)


def test_a_linked_group_is_no_reason_to_leave_the_file(spikes_file: Path, tmp_path: Path) -> None:
    shutil.copyfile(spikes_file, tmp_path / "other.h5")
    with h5py.File(spikes_file, "a") as file:
        del file["subject"]
        file["subject"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "subject")
    with pytest.raises(ReaderError, match="'subject' as a link to another place"):
        read(spikes_file)


@pytest.mark.parametrize("name", ["spikes_temporaldata.h5", "spikes_h5py.h5", "calcium_temporaldata.h5"])
def test_cut_off_anywhere(samples: Path, tmp_path: Path, name: str) -> None:
    whole = (samples / name).read_bytes()
    reader = TemporaldataReader()
    for keep in [*range(0, len(whole), len(whole) // 40 + 1), len(whole) - 1]:
        path = tmp_path / f"{keep}.h5"
        path.write_bytes(whole[:keep])
        reader.detect(path)
        with pytest.raises(ReaderError, match=str(path)):
            read(path)


def test_a_cut_off_file_is_recognised_and_said_to_be_damaged(samples: Path, tmp_path: Path) -> None:
    whole = (samples / "spikes_temporaldata.h5").read_bytes()
    (tmp_path / "rec.h5").write_bytes(whole[: len(whole) // 2])
    assert TemporaldataReader().detect(tmp_path / "rec.h5") == "damaged temporaldata file"
    with pytest.raises(InputError, match=r"truncated file.*damaged, cut off") as caught:
        preprocess(PreprocessConfig(sources=(tmp_path / "rec.h5",), out=tmp_path / "data"))
    assert "Copy it again" in caught.value.fix


def test_names_and_texts_that_are_no_unicode(spikes_file: Path, tmp_path: Path) -> None:
    with h5py.File(spikes_file, "a") as file:
        h5py.h5d.create(
            file["units"].id, b"bad\xff", h5py.h5t.NATIVE_DOUBLE, h5py.h5s.create_simple((20,))
        ).write(h5py.h5s.ALL, h5py.h5s.ALL, np.zeros(20))
        file["subject"].attrs["note"] = np.bytes_(b"caf\xe9")
        file["subject"].attrs["long"] = "x" * 20_000
    (population,) = read(spikes_file)
    assert r"bad\xff (no column)" in population.warnings[0]
    assert population.attributes["note"] == r"caf\xe9"
    assert "long" not in population.attributes
    preprocess(PreprocessConfig(sources=(spikes_file,), out=tmp_path / "data"))
    assert len(list((tmp_path / "data").glob("*.h5"))) == 1


def test_texts_too_long_for_labels_are_left_out(spikes_file: Path) -> None:
    with h5py.File(spikes_file, "a") as file:
        file["units/fixed"] = np.array([b"x" * 20_000] * 20)
        file["units"].create_dataset("free", data=["x" * 20_000] * 20, dtype=h5py.string_dtype())
    (population,) = read(spikes_file)
    assert {"fixed", "free"}.isdisjoint(population.units)
    assert "fixed (texts of 20000 bytes)" in population.warnings[0]
    assert "free (texts too long for a label)" in population.warnings[0]


def test_an_absent_file_and_one_that_is_no_hdf5(tmp_path: Path) -> None:
    with pytest.raises(ReaderError, match="does not exist"):
        read(tmp_path / "absent.h5")
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(ReaderError, match=r"text\.h5 cannot be read .*signature"):
        read(tmp_path / "text.h5")


@pytest.mark.parametrize("length", [0, 1 << 63, (1 << 64) - 16])
def test_a_damaged_text_heap_does_not_hang(
    spikes_file: Path, nuclr: Callable[..., Any], tmp_path: Path, length: int
) -> None:
    """HDF5 never returns from such a file, so this runs in a process that can be ended."""
    data = bytearray(spikes_file.read_bytes())
    heap = data.index(b"GCOL")
    position = heap + 16
    while int.from_bytes(data[position : position + 2], "little"):  # to object 0, the free space
        position += 16 + -(-int.from_bytes(data[position + 8 : position + 16], "little") // 8) * 8
    data[position + 8 : position + 16] = length.to_bytes(8, "little")
    spikes_file.write_bytes(data)
    done = nuclr("preprocess", spikes_file, "-o", tmp_path / "data", timeout=60)
    assert done.code == 3
    assert f"is damaged: the texts at byte {heap} do not follow one another" in done.err
