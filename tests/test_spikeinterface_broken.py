"""Broken and hostile sources: one clear error that names the file, nothing run, nothing left behind."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuclr_cli.api import ReaderError, ReadOptions
from nuclr_cli.safe_files import load_column
from nuclr_spikeinterface import SpikeInterfaceReader

LAYOUTS = {
    "numpy": "numpy_folder",
    "npz": "npz_folder",
    "zarr": "zarr.zarr",
    "phy": "kilosort4_phy_curated",
    "file": "sorting.npz",
    "analyzer": "analyzer_folder",
    "azarr": "analyzer.zarr",
    "sorter": "sorter_lupin",
}


def edit_json(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text())
    content.update(changes)
    path.write_text(json.dumps(content))


def edit_npz(path: Path, drop: str = "", **changes: Any) -> None:
    with np.load(path) as held:
        arrays = {name: held[name] for name in held.files if name != drop}
    np.savez(path, **(arrays | changes))


def edit_npy(path: Path, change: Callable[[Any], Any]) -> None:
    np.save(path, change(np.load(path)))


def truncate(path: Path, keep: float = 0.5) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


def huge_header(path: Path) -> None:
    """A header that promises 200 TB."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<i8", "fortran_order": False, "shape": (25_000_000_000_000,)}
        )


class Payload:
    """Pickles as a call of `os.system`."""

    def __init__(self, target: Path) -> None:
        self.command = f"touch {target}"

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


@pytest.mark.parametrize("name", ["analyzer_folder", "sorter_lupin"])
@pytest.mark.parametrize("trust", [False, True])
def test_nothing_around_a_sorting_is_unpickled_or_imported(
    shared: Path, tmp_path: Path, name: str, trust: bool
) -> None:
    source = tmp_path / name
    shutil.copytree(shared / "samples" / "si" / name, source, copy_function=shutil.copyfile)
    (expected,) = SpikeInterfaceReader().read(shared / "samples" / "si" / name, ReadOptions())
    target = tmp_path / "ran"
    evil = {
        "class": "subprocess.Popen",
        "module": "subprocess",
        "version": "1",
        "kwargs": {"args": ["touch", str(target)]},
    }
    for analyzer in (source, source / "sorter_output" / "analyzer"):
        if not analyzer.is_dir():
            continue
        for pickled in ("recording.pickle", "extensions/quality_metrics/metrics.pkl", "cached.pkl"):
            (analyzer / pickled).parent.mkdir(parents=True, exist_ok=True)
            (analyzer / pickled).write_bytes(pickle.dumps(Payload(target)))
        (analyzer / "recording.json").write_text(json.dumps(evil))
        for path in analyzer.glob("extensions/*/info.json"):
            path.write_text(json.dumps(evil))
    for path in source.rglob("spikeinterface_recording.json"):
        path.write_text(json.dumps(evil))
    if not trust:  # trusted, SpikeInterface loads a sorter folder itself, and imports what this file names
        for path in source.rglob("si_folder.json"):
            path.write_text(json.dumps(evil))
    (population,) = SpikeInterfaceReader().read(source, ReadOptions(trust=trust))
    assert population.n_units == expected.n_units
    assert not target.exists()


@pytest.mark.parametrize("where", ["unit_locations/unit_locations.npy", "templates/average.npy"])
def test_pickled_extensions_run_nothing_even_when_trusted(shared: Path, tmp_path: Path, where: str) -> None:
    source = tmp_path / "source"
    shutil.copytree(shared / "samples" / "si" / "analyzer_folder", source, copy_function=shutil.copyfile)
    target = tmp_path / "ran"
    np.save(source / "extensions" / where, np.array([Payload(target)] * 8, dtype=object), allow_pickle=True)
    for trust in (False, True):
        with pytest.raises(ReaderError, match=r"\.npy stores pickled Python objects"):
            list(SpikeInterfaceReader().read(source, ReadOptions(trust=trust)))
    assert not target.exists()


def test_pickled_metrics_of_a_zarr_analyzer_run_nothing(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zarr, numcodecs = pytest.importorskip("zarr"), pytest.importorskip("numcodecs")
    monkeypatch.setenv("NUMCODECS_ALLOW_UNSAFE_PICKLE_DECODE", "1")
    source = tmp_path / "a.zarr"
    shutil.copytree(shared / "samples" / "si" / "analyzer.zarr", source, copy_function=shutil.copyfile)
    target = tmp_path / "ran"
    group = zarr.open_group(str(source), mode="a")
    recording = group.create_dataset("recording", shape=1, dtype=object, object_codec=numcodecs.Pickle())
    recording[:] = np.array([Payload(target)], dtype=object)
    list(SpikeInterfaceReader().read(source, ReadOptions()))
    name = "extensions/quality_metrics/metrics/evil"
    column = group.create_dataset(name, shape=8, dtype=object, object_codec=numcodecs.Pickle())
    column[:] = np.array([Payload(target)] * 8, dtype=object)
    with pytest.raises(ReaderError, match="encoded with pickle"):
        list(SpikeInterfaceReader().read(source, ReadOptions()))
    assert not target.exists()


@pytest.mark.parametrize(
    "content",
    [
        {"probes": [{"contact_positions": [[0.0, 1.0]]}]},
        {"probes": [{"contact_positions": "x", "device_channel_indices": []}]},
        {"probes": "x"},
        {"probes": [7]},
        {"probes": []},
        {"probes": [{"contact_positions": [[0, 0]] * 16, "device_channel_indices": [1e400] * 16}]},
        {"probes": [{"contact_positions": [[0, 0]] * 16, "device_channel_indices": [0] * 16}]},
        {"probes": [{"contact_positions": [[0, 0]] * 16, "si_units": ["mile"]}]},
    ],
)
def test_probes_that_make_no_sense_cost_only_the_positions(
    shared: Path, tmp_path: Path, content: Any
) -> None:
    source = tmp_path / "source"
    shutil.copytree(shared / "samples" / "si" / "analyzer_folder", source, copy_function=shutil.copyfile)
    (source / "recording_info" / "probegroup.json").write_text(json.dumps(content))
    (population,) = SpikeInterfaceReader().read(source, ReadOptions())
    assert "peak_channel" in population.units
    assert "peak_channel_x_um" not in population.units
    assert any("positions are not known" in warning for warning in population.warnings)


PHY_ARRAYS: dict[str, Callable[[Path], Any]] = {
    "templates truncated": lambda p: truncate(p / "templates.npy"),
    "templates promise 200 TB": lambda p: huge_header(p / "templates.npy"),
    "templates of other channels": lambda p: edit_npy(p / "templates.npy", lambda a: a[:, :, :5]),
    "fewer templates": lambda p: edit_npy(p / "templates.npy", lambda a: a[:3]),
    "spike_templates of another length": lambda p: edit_npy(p / "spike_templates.npy", lambda a: a[:-1]),
    "spike_templates below 0": lambda p: edit_npy(p / "spike_templates.npy", lambda a: a - 9),
    "no spike_templates after merging": lambda p: (p / "spike_templates.npy").unlink(),
    "channel_map twice": lambda p: np.save(p / "channel_map.npy", np.zeros(16, int)),
    "positions of other channels": lambda p: edit_npy(p / "channel_positions.npy", lambda a: a[:4]),
    "positions are objects": lambda p: np.save(p / "channel_positions.npy", np.array([None] * 16)),
}


@pytest.mark.parametrize("name", PHY_ARRAYS)
def test_templates_that_do_not_fit_cost_only_the_peak_channels(
    shared: Path, tmp_path: Path, name: str
) -> None:
    source = tmp_path / "source"
    origin = shared / "samples" / "si" / "kilosort4_phy_curated"
    shutil.copytree(origin, source, copy_function=shutil.copyfile)
    PHY_ARRAYS[name](source)
    (population,) = SpikeInterfaceReader().read(source, ReadOptions(keep=("all",)))
    assert population.n_units == 7
    assert population.spikes is not None
    assert len(population.spikes.times) == 2435
    assert "peak_channel" not in population.units
    assert any("Peak channels are not known" in warning for warning in population.warnings)


def test_plain_objects_survive_every_pickle_protocol(tmp_path: Path) -> None:
    column = np.array(["PV", None, 1.5, np.float32(2), np.str_("x"), True, float("nan"), 7], dtype=object)
    for protocol in range(3, pickle.HIGHEST_PROTOCOL + 1):  # 2 is what Python 2 wrote
        path = tmp_path / f"p{protocol}.npy"
        with path.open("wb") as file:
            header = {"descr": "|O", "fortran_order": False, "shape": (8,)}
            np.lib.format.write_array_header_1_0(file, header)
            pickle.dump(column, file, protocol=protocol)
        loaded = load_column(path, trust=False)
        assert loaded[:6].tolist() == ["PV", None, 1.5, 2.0, "x", True]
        assert np.isnan(loaded[6])
        assert loaded[7] == 7


def test_arrays_inside_a_pickle_keep_their_values(tmp_path: Path) -> None:
    """From protocol 5 on NumPy pickles arrays as calls of ``numpy._core.numeric._frombuffer``."""
    held = [np.arange(3.0), np.arange(6, dtype=">i2").reshape(2, 3), np.asfortranarray(np.eye(3)[:, :2])]
    column = np.empty(3, dtype=object)
    column[:] = held
    path = tmp_path / "column.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": (3,)})
        pickle.dump(column, file, protocol=5)
    assert b"_frombuffer" in path.read_bytes()
    loaded = load_column(path, trust=False)
    for one, other in zip(held, loaded, strict=True):
        np.testing.assert_array_equal(one, other)


def test_sources_of_a_trusted_sorter_folder_are_all_that_is_read(shared: Path, tmp_path: Path) -> None:
    """What SpikeInterface opens inside the folder is fingerprinted, too: else a change would go unseen."""
    source = tmp_path / "sorter_lupin"
    shutil.copytree(shared / "samples" / "si" / source.name, source, copy_function=shutil.copyfile)
    script = tmp_path / "opened.py"
    script.write_text(
        "import json, os, sys\n"
        "opened = set()\n"
        "sys.addaudithook(lambda name, args: opened.add(str(args[0])) if name == 'open' else None)\n"
        "from pathlib import Path\n"
        "from nuclr_cli.api import ReadOptions\n"
        "from nuclr_spikeinterface import SpikeInterfaceReader\n"
        "(population,) = SpikeInterfaceReader().read(Path(sys.argv[1]), ReadOptions(trust=True))\n"
        "assert population.n_units == 7\n"
        "print(json.dumps(sorted(opened)))\n"
    )
    done = subprocess.run(
        [sys.executable, str(script), str(source)], capture_output=True, text=True, check=True, timeout=300
    )
    opened = {Path(name) for name in json.loads(done.stdout.splitlines()[-1])}
    read = {path for path in opened if source in path.parents and path.is_file()}
    assert source / "sorter_output" / "sorting" / "spikes.npy" in read
    assert read - set(SpikeInterfaceReader().sources(source)) == set()


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_as_a_pickle_give_values_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": (8,)})
        file.write(data)
    with pytest.raises(ReaderError, match=r"any\.npy"):
        load_column(path, trust=False)


@settings(max_examples=60, deadline=None)
@given(position=st.integers(0, 1200), value=st.integers(0, 255))
def test_a_flipped_byte_in_a_property_never_crashes(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "flipped.npy"
    np.save(path, np.array(["exc", "PV", None, 1.5, np.float64(2.5), np.str_("é")], dtype=object))
    data = bytearray(path.read_bytes())
    data[position % len(data)] = value
    path.write_bytes(bytes(data))
    with contextlib.suppress(ReaderError):
        load_column(path, trust=False)
