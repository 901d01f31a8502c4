"""NWB files that are cut off, inconsistent or hostile: always a sentence, never a traceback."""

from __future__ import annotations

import contextlib
import json
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from nuclr_cli.api import Population, ReaderError, ReadOptions
from nuclr_nwb import NwbReader


@pytest.fixture(scope="session")
def samples(shared: Path) -> Path:
    return shared / "samples" / "nwb"


def read(path: Path, **options: Any) -> list[Population]:
    return list(NwbReader().read(path, ReadOptions(**options)))


@pytest.fixture
def ephys(samples: Path, tmp_path: Path) -> Path:
    path = tmp_path / "ephys.nwb"
    shutil.copyfile(samples / "ephys.nwb", path)
    return path


def replace(path: Path, name: str, values: Any) -> None:
    """Put other values where a dataset was, keeping its attributes."""
    with h5py.File(path, "a") as file:
        attributes = dict(file[name].attrs)
        del file[name]
        file[name] = values
        for key, value in attributes.items():
            file[name].attrs[key] = value


def changed(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        with h5py.File(path) as file:
            values = file[name][:]
        replace(path, name, change(values))

    return edit


def removed(name: str) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        with h5py.File(path, "a") as file:
            del file[name]

    return edit


def linked(name: str, target: str) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        with h5py.File(path, "a") as file:
            del file[name]
            file[name] = h5py.ExternalLink(target, "/" + name)

    return edit


def put(at: int, value: float) -> Callable[[Any], Any]:
    def change(values: Any) -> Any:
        values = values.copy()
        values[at] = value
        return values

    return change


def unwritten(path: Path) -> None:
    """Spike times whose chunks were reserved and never written."""
    with h5py.File(path, "a") as file:
        del file["units/spike_times"]
        file["units"].create_dataset("spike_times", shape=(9688,), dtype="f8", chunks=(1000,))


def promises_much(path: Path) -> None:
    """8 TB of spike times, nothing stored: reading them would fill the memory with zeros."""
    with h5py.File(path, "a") as file:
        del file["units/spike_times"]
        file["units"].create_dataset("spike_times", shape=(10**12,), dtype="f8")


def cut_off(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


BREAKS: dict[str, tuple[Callable[[Path], Any], str]] = {
    # what was done: (how, what the message must hold)
    "cut off": (cut_off, r"ephys\.nwb is cut off: it has \d+ bytes, its header promises \d+"),
    "empty": (lambda p: p.write_bytes(b""), r"ephys\.nwb (is not HDF5|cannot be opened)"),
    "text": (lambda p: p.write_text("hello " * 1000), r"is not HDF5 \(6000 bytes"),
    "no version": (
        lambda p: h5py.File(p, "w").close(),
        "no attribute nwb_version: it is no NWB file",
    ),
    "index decreases": (
        changed("units/spike_times_index", put(3, 10)),
        r"spike_times_index decreases 1 times, first in row 3 \(to 10\)",
    ),
    "index ends past the spikes": (
        changed("units/spike_times_index", put(-1, 20_000)),
        r"spike_times_index ends at 20000, but /units/spike_times holds 9688",
    ),
    "index ends before the spikes": (
        changed("units/spike_times", lambda t: np.r_[t, 1.0]),
        r"ends at 9688, but /units/spike_times holds 9689",
    ),
    "index is short": (changed("units/spike_times_index", lambda i: i[:-1]), "11 entries for 12 rows"),
    "index is negative": (
        changed("units/spike_times_index", lambda i: np.r_[-5, i[1:].astype(np.int64)]),
        "decreases 1 times, first in row 0",
    ),
    "index is missing": (removed("units/spike_times_index"), "spike_times_index is missing"),
    "index is float": (
        changed("units/spike_times_index", lambda i: i.astype(float)),
        "row ends have type float64.*expected integers",
    ),
    "NaN": (
        changed("units/spike_times", put(5, np.nan)),
        r"1 of 9688 spike times are NaN.*1 unit \('100' 1 time\)",
    ),
    "infinite": (changed("units/spike_times", put(-1, np.inf)), r"1 of 9688 .* infinite.*'133' 1 time"),
    "unsorted within a unit": (
        changed("units/spike_times", lambda t: np.r_[t[:10][::-1], t[10:]]),
        r"9 spike times are earlier than the spike before of the same unit, in 1 unit \('100' 9 times\)",
    ),
    "negative": (
        changed("units/spike_times", put(0, -0.5)),
        r"1 of 9688 spike times are negative.*'100' 1 time",
    ),
    "samples instead of seconds": (
        changed("units/spike_times", lambda t: (t * 30_000).astype(np.int64)),
        "has type int64 .* expected floats",
    ),
    "two-dimensional": (changed("units/spike_times", lambda t: t.reshape(-1, 2)), "one-dimensional"),
    "duplicate ids": (changed("units/id", put(4, 100)), "1 ids occur more than once: '100' x2"),
    "short ids": (changed("units/id", lambda i: i[:-1]), r"12 values for 11 rows"),
    "missing ids": (removed("units/id"), "units/id is missing"),
    "short column": (changed("units/snr", lambda s: s[:5]), "units/snr has 5 values for 12 rows"),
    "no spike times": (removed("units/spike_times"), "its units table has no spike_times"),
    "linked spike times": (
        linked("units/spike_times", "gone.nwb"),
        r"spike_times is a link to gone\.nwb:/units/spike_times, which is not there",
    ),
    "never written": (unwritten, "lacks 10 of 10 chunks"),
    "promises terabytes": (promises_much, "promises 8000000000000 bytes, but 0 are stored"),
    "obs_intervals reversed": (
        changed("units/obs_intervals", lambda o: o[:, ::-1]),
        "24 of 24 intervals are reversed or not finite",
    ),
    "obs_intervals of one column": (changed("units/obs_intervals", lambda o: o[:, 0]), r"expected \(M, 2\)"),
    "obs_intervals index": (
        changed("units/obs_intervals_index", put(-1, 25)),
        "obs_intervals_index ends at 25",
    ),
    "spikes long after the recording": (
        changed("units/spike_times", lambda t: t + 1e6),
        "all 9688 spikes lie outside the recording, 0 to 120 s",
    ),
    "everything invalid": (
        lambda p: (
            replace(p, "intervals/invalid_times/start_time", np.array([-1.0])),
            replace(p, "intervals/invalid_times/stop_time", np.array([200.0])),
        ),
        "invalid_times cover the whole recording",
    ),
}


@pytest.mark.parametrize("what", BREAKS)
def test_broken_units_are_refused_with_a_sentence(ephys: Path, what: str) -> None:
    edit, message = BREAKS[what]
    edit(ephys)
    assert NwbReader().detect(ephys) is not None
    NwbReader().sources(ephys)
    with pytest.raises(ReaderError, match=message) as caught:
        read(ephys)
    assert caught.value.fix


def test_a_missing_column_is_said_and_the_rest_is_read(ephys: Path) -> None:
    removed("units/snr")(ephys)
    (population,) = read(ephys)
    assert "snr" not in population.units
    assert any("names a column 'snr' that it does not hold" in warning for warning in population.warnings)


def test_the_index_may_be_of_any_integer_type(ephys: Path) -> None:
    """A small unsigned type wraps around when subtracted."""
    (first,) = read(ephys)
    changed("units/spike_times_index", lambda i: i.astype(np.uint64))(ephys)
    (second,) = read(ephys)
    assert first.spikes is not None
    assert second.spikes is not None
    np.testing.assert_array_equal(first.spikes.unit_index, second.spikes.unit_index)


def test_a_file_without_units_or_series_says_what_is_missing(samples: Path) -> None:
    with pytest.raises(ReaderError, match="neither a units table nor fluorescence series"):
        read(samples / "no_units.nwb")


def test_old_files_are_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "old.nwb", "w") as file:
        file["nwb_version"] = "NWB-1.0.6"
    with pytest.raises(ReaderError, match=r"written in NWB-1\.0\.6; nuclr reads NWB 2"):
        read(tmp_path / "old.nwb")


def test_links_in_circles_end(ephys: Path) -> None:
    with h5py.File(ephys, "a") as file:
        file["processing/loop"] = file["processing"]
        file["processing/soft"] = h5py.SoftLink("/processing/soft")
        file["units/circle"] = h5py.SoftLink("/units")
    assert NwbReader().sources(ephys) == [ephys]
    (population,) = read(ephys)
    assert population.n_units == 12


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bytes_never_end_in_a_traceback(samples: Path, tmp_path: Path, seed: int) -> None:
    """Errors are sentences; what can still be read is read."""
    chance = random.Random(seed)
    for name in ("ephys.nwb", "ophys.nwb"):
        original = (samples / name).read_bytes()
        for trial in range(12):
            data = bytearray(original)
            for _ in range(chance.choice([1, 20, 400])):
                data[chance.randrange(len(data))] = chance.randrange(256)
            path = tmp_path / f"{trial}-{name}"
            path.write_bytes(data)
            NwbReader().detect(path)
            NwbReader().sources(path)
            with contextlib.suppress(ReaderError):
                read(path, drop_nan_units=True)


@pytest.fixture
def store(samples: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "ephys.nwb.zarr"
    shutil.copytree(samples / "ephys.nwb.zarr", folder, copy_function=shutil.copyfile)
    return folder


class _Payload:
    def __reduce__(self) -> Any:
        return open, ("payload-ran", "w")


def test_pickles_in_a_store_are_not_run(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numcodecs

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NUMCODECS_ALLOW_UNSAFE_PICKLE_DECODE", "1")
    monkeypatch.setattr(numcodecs.pickles, "ALLOW_UNSAFE_PICKLE_DECODE", True, raising=False)
    for name in ("electrode_group", "cell_type"):
        header = json.loads((store / "units" / name / ".zarray").read_text())
        header |= {"compressor": None, "filters": [{"id": "pickle", "protocol": 5}]}
        (store / "units" / name / ".zarray").write_text(json.dumps(header))
        (store / "units" / name / "0").write_bytes(pickle.dumps(_Payload()))
    (population,) = read(store)
    assert population.n_units == 12
    assert "cell_type" not in population.units
    assert any(
        "cell_type of /units are object references stored as pickles" in w for w in population.warnings
    )
    header_path = store / "units" / "spike_times" / ".zarray"
    header = json.loads(header_path.read_text()) | {"filters": [{"id": "pickle"}]}
    header_path.write_text(json.dumps(header))
    with pytest.raises(ReaderError, match="encoded with pickle, which could run code"):
        read(store)
    assert not (tmp_path / "payload-ran").exists()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda f: (f / "units/spike_times/0").unlink(), "lacks 1 of 1 chunks"),
        (lambda f: (f / "units/spike_times/0").write_bytes(b"junk"), "cannot be decoded"),
        (lambda f: shutil.rmtree(f / "units/id"), "units/id is missing"),
        (lambda f: (f / "units/spike_times/.zarray").write_text("{"), "cannot be read as JSON"),
        (lambda f: (f / "units/spike_times/.zarray").write_text("{}"), "damaged"),
        (lambda f: (f / ".zgroup").unlink(), "cannot be opened as a Zarr group"),
        (lambda f: shutil.rmtree(f / "units"), "neither a units table"),
    ],
)
def test_broken_stores_are_refused_with_a_sentence(
    store: Path, edit: Callable[[Path], Any], message: str
) -> None:
    edit(store)
    assert NwbReader().detect(store) is not None
    NwbReader().sources(store)
    with pytest.raises(ReaderError, match=message):
        read(store)


def test_a_path_in_a_store_never_leads_out_of_it(store: Path) -> None:
    attributes = json.loads((store / "units" / "electrodes" / ".zattrs").read_text())
    attributes["table"]["value"]["path"] = "/../../../etc"
    (store / "units" / "electrodes" / ".zattrs").write_text(json.dumps(attributes))
    links = json.loads((store / "units" / ".zattrs").read_text())
    links["zarr_link"] = [{"name": "more", "path": "../../..", "source": "."}]
    (store / "units" / ".zattrs").write_text(json.dumps(links))
    (population,) = read(store)
    assert population.n_units == 12


def test_raw_recordings_in_a_store_are_no_sources(store: Path) -> None:
    (store / "acquisition" / "raw").mkdir()
    (store / "acquisition" / "raw" / "0").write_bytes(b"x")
    sources = NwbReader().sources(store)
    assert store / "units" / "spike_times" / "0" in sources
    assert not any("acquisition" in source.relative_to(store).parts for source in sources)
