"""Small files and folders that are not what a reader looks for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# A damaged file may be taken as its own by the reader of that suffix, which then says what is wrong.
_OWNED_DAMAGE = {"no-zip.npz": "spikeinterface"}

_TEXT = "Slept badly, fed at nine. Unit 7 looks like noise.\n"


@dataclass(frozen=True)
class Decoy:
    """Something on disk that only its owner may recognise.

    Attributes:
        path: File or folder.
        owner: Name of the shipped reader whose format it resembles, empty = nobody's.
    """

    path: Path
    owner: str = ""


def make_decoys(folder: Path) -> list[Decoy]:
    """Write the decoys into an existing empty folder."""
    return [
        *(Decoy(path, _OWNED_DAMAGE.get(path.name, "")) for path in _nobodys(folder)),
        Decoy(_numpy_folder(folder / "numpy_folder"), "spikeinterface"),
        Decoy(_phy(folder / "phy"), "spikeinterface"),
        Decoy(_suite2p(folder / "imaged"), "suite2p"),
        Decoy(_hdf5(folder / "recording.nwb", {"nwb_version": "2.7.0"}, ("units", "general")), "nwb"),
        Decoy(_hdf5(folder / "session.h5", {"object": "Data"}, ("spikes", "units")), "temporaldata"),
    ]


def _nobodys(folder: Path) -> list[Path]:
    empty = folder / "empty"
    empty.mkdir()
    notes = folder / "notes"
    notes.mkdir()
    (notes / "notes.txt").write_text(_TEXT, encoding="utf-8")
    for suffix in (".csv", ".h5", ".npz", ".npy", ".nwb", ".zarr"):
        (folder / f"folder{suffix}").mkdir()
    (folder / "read me [1] ü.txt").write_text(_TEXT, encoding="utf-8")
    (folder / "nothing").touch()
    (folder / "bytes.bin").write_bytes(bytes(range(256)) * 16)
    (folder / "table.csv").write_text("animal,weight_g\nm1,24.1\n", encoding="utf-8")
    (folder / "empty.csv").touch()
    (folder / "settings.json").write_text("{}", encoding="utf-8")
    (folder / "list.json").write_text("[1, 2", encoding="utf-8")
    np.save(folder / "array.npy", np.arange(10.0))
    np.savez(folder / "arrays.npz", weights=np.arange(10.0))
    (folder / "no-zip.npz").write_bytes(b"PK\x03\x04 and then something else")
    (folder / "dangling").symlink_to(folder / "gone")
    _hdf5(folder / "weights.h5", {}, ("layers",))
    (folder / "no-hdf5.h5").write_bytes(b"\x89HDF\r\n\x1a\n and then something else")
    return sorted(folder.iterdir())


def _numpy_folder(folder: Path) -> Path:
    folder.mkdir()
    info = {"sampling_frequency": 30000.0, "unit_ids": [0], "num_segments": 1}
    (folder / "numpysorting_info.json").write_text(json.dumps(info), encoding="utf-8")
    kinds = [("sample_index", "i8"), ("unit_index", "i8"), ("segment_index", "i8")]
    np.save(folder / "spikes.npy", np.zeros(1, dtype=kinds))
    return folder


def _phy(folder: Path) -> Path:
    folder.mkdir()
    (folder / "params.py").write_text("sample_rate = 30000.0\n", encoding="utf-8")
    np.save(folder / "spike_times.npy", np.arange(10))
    np.save(folder / "spike_clusters.npy", np.zeros(10, dtype=np.int32))
    return folder


def _suite2p(folder: Path) -> Path:
    plane = folder / "suite2p" / "plane0"
    plane.mkdir(parents=True)
    for name in ("F", "Fneu", "spks"):
        np.save(plane / f"{name}.npy", np.zeros((2, 10), dtype=np.float32))
    np.save(plane / "iscell.npy", np.ones((2, 2)))
    for name in ("stat", "ops"):
        np.save(plane / f"{name}.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    return folder / "suite2p"


def _hdf5(path: Path, attributes: dict[str, str], groups: tuple[str, ...]) -> Path:
    import h5py

    with h5py.File(path, "w") as file:
        file.attrs.update(attributes)
        for name in groups:
            file.create_group(name)
    return path
