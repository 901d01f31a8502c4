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


def promise(name: str, shape: tuple[int, ...], dtype: str = "f8", **how: Any) -> Change:
    """A dataset of that shape into which nothing was ever written."""

    def change(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, shape, dtype, **how)

    return change


def both(*changes: Change) -> Change:
    return lambda file: [change(file) for change in changes]


TIMES, FRAMES = "spikes/timestamps", "calcium_traces/df_over_f"

SPIKES: dict[str, tuple[Change, str]] = {
    "scalar times": (put(TIMES, 3.0), r"shape \(\)"),
    "null times": (put(TIMES, h5py.Empty("f8")), "'spikes/timestamps' has type float64"),
    "times as text": (edit(TIMES, lambda v: v.astype("S")), "in seconds"),
    "times are a group": (both(drop(TIMES), lambda f: f.create_group(TIMES)), "no dataset"),
    "ids real": (edit("units/id", lambda v: np.arange(20.0)), "expected text"),
    "ids 2-d": (edit("units/id", lambda v: v.reshape(4, 5)), r"shape \(4, 5\)"),
    "domain text": (edit("domain/end", lambda v: v.astype("S")), "expected seconds"),
    "promised": (promise(TIMES, (1 << 50,)), "has 1125899906842624 timestamps and 5484 unit"),
}

CALCIUM: dict[str, tuple[Change, str]] = {
    "frames by units": (edit(FRAMES, lambda v: v[:12, :5].copy()), "it may be transposed"),
    "integers": (edit(FRAMES, lambda v: v.astype("i2")), "expected floating-point frames"),
    "none": (edit(FRAMES, lambda v: v[:0]), "has 0 frames"),
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


def test_looking_at_a_file_with_a_damaged_text_heap_far_inside_does_not_hang(
    nuclr: Callable[..., Any], tmp_path: Path
) -> None:
    """Where large arrays come first, the attribute that tells the format lies behind them."""
    path = tmp_path / "late.h5"
    with h5py.File(path, "w") as file:
        file["spikes/timestamps"] = np.arange(200_000) / 1000.0
        file["spikes/unit_index"] = np.zeros(200_000, np.int32)
        for domain in ("domain", "spikes/domain"):
            file[f"{domain}/start"], file[f"{domain}/end"] = [0.0], [200.0]
        file["units/id"] = np.array(["a"], dtype=h5py.string_dtype())
        file.attrs["object"] = "Data"
    assert len(read(path)) == 1
    data = bytearray(path.read_bytes())
    heap = data.index(b"GCOL")
    assert heap > 1 << 20
    data[heap + 24 : heap + 32] = b"\xff" * 8
    path.write_bytes(data)
    done = nuclr("preprocess", path, "-o", tmp_path / "data", timeout=60)
    assert done.code == 3
    assert f"is damaged: the texts at byte {heap} do not follow one another" in done.err


def test_texts_that_lie_inside_a_virtual_array_are_checked_before_it_is_opened(
    nuclr: Callable[..., Any], tmp_path: Path, spikes_file: Path
) -> None:
    """HDF5 reads what a virtual array is made of as soon as it is opened."""
    with h5py.File(spikes_file, "r+") as file:
        times = file["spikes/timestamps"][()]
        del file["spikes/timestamps"]
        file["all"] = times
        shown = h5py.VirtualLayout(times.shape, times.dtype)
        shown[:] = h5py.VirtualSource(".", "all", times.shape)
        file.create_virtual_dataset("spikes/timestamps", shown)
    data = bytearray(spikes_file.read_bytes())
    heap = data.rindex(b"GCOL")
    data[heap + 24 : heap + 32] = b"\xff" * 8
    spikes_file.write_bytes(data)
    for command in (("preprocess", spikes_file, "-o", tmp_path / "data"), ("info", spikes_file)):
        done = nuclr(*command, timeout=60)
        assert done.code == 3
        assert f"is damaged: the texts at byte {heap} do not follow one another" in done.err
