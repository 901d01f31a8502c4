"""NWB files that are cut off, inconsistent or hostile: always a sentence, never a traceback."""

from __future__ import annotations

import contextlib
import json
import pickle
import random
import re
import shutil
import subprocess
import sys
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


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda p: p.write_text("hello " * 1000), r"is not HDF5 \(6000 bytes"),
        (lambda p: h5py.File(p, "w").close(), "no attribute nwb_version: it is no NWB file"),
    ],
)
def test_files_that_are_no_nwb_are_refused_with_a_sentence(
    ephys: Path, edit: Callable[[Path], Any], message: str
) -> None:
    edit(ephys)
    assert NwbReader().detect(ephys) is not None
    assert NwbReader().sources(ephys) == [ephys]
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


_READ = """
import contextlib, sys
from pathlib import Path
from nuclr_cli.api import ReaderError, ReadOptions
from nuclr_nwb import NwbReader

reader = NwbReader()
for path in sorted(Path(sys.argv[1]).iterdir()):
    print(path.name, flush=True)
    reader.detect(path)
    reader.sources(path)
    with contextlib.suppress(ReaderError):
        list(reader.read(path, ReadOptions(drop_nan_units="ophys" in path.name)))
"""


@pytest.mark.parametrize("name", ["ephys.nwb", "ophys.nwb"])
def test_damaged_texts_neither_hang_nor_crash(samples: Path, tmp_path: Path, name: str) -> None:
    """HDF5 never returns from some of these, so they are read in a process that can be ended."""
    original = (samples / name).read_bytes()
    heaps = [match.start() for match in re.finditer(b"GCOL", original)]
    assert len(heaps) == 10
    for heap in heaps:
        for what, begin, junk in (
            ("no length", heap + 24, bytes(8)),
            ("endless length", heap + 24, bytes([255] * 8)),
            ("hole in it", heap + 64, bytes(512)),
            ("hole at its end", heap + 2048, bytes(2048)),
            ("no magic", heap - 512, bytes(1024)),
        ):
            data = bytearray(original)
            data[begin : begin + len(junk)] = junk
            (tmp_path / f"{heap} {what} {name}").write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", _READ, tmp_path], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout[-200:]
    assert done.stdout.count("\n") == 50


def test_names_that_are_no_unicode_are_passed_over(ephys: Path) -> None:
    with h5py.File(ephys, "a") as file:
        for group in (file, file["units"], file["processing"]):
            h5py.h5g.create(group.id, b"bad\xff")
    assert read(ephys)[0].n_units == 12


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
