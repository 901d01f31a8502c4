"""What a Zarr store is called, or what else lies in it, never decides how its arrays are decoded."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from pathlib import Path
from typing import Any

import numcodecs
import pytest

from nuclr_cli.api import Reader, ReaderError, ReadOptions
from nuclr_nwb.reader import NwbReader
from nuclr_spikeinterface import SpikeInterfaceReader

STORES = {
    "nwb": (NwbReader, "nwb/ephys.nwb.zarr", "units/id"),
    "spikeinterface": (SpikeInterfaceReader, "si/zarr.zarr", "unit_ids"),
    "analyzer": (SpikeInterfaceReader, "si/analyzer.zarr", "sorting/unit_ids"),
}


class Touch:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.open, (str(self.path), os.O_CREAT | os.O_WRONLY)


def ids(reader: Reader, folder: Path) -> list[str]:
    return [str(unit) for population in reader.read(folder, ReadOptions()) for unit in population.units["id"]]


@pytest.mark.parametrize("name", STORES)
@pytest.mark.parametrize("suffix", [".n5", ".zip", ".lmdb"])
def test_a_folder_called_like_another_store_is_read_as_what_it_is(
    name: str, suffix: str, shared: Path, tmp_path: Path
) -> None:
    make, sample, _ = STORES[name]
    plain = ids(make(), shared / "samples" / sample)
    copy = tmp_path / f"copy{suffix}"
    shutil.copytree(shared / "samples" / sample, copy, copy_function=shutil.copyfile)
    assert ids(make(), copy) == plain


@pytest.mark.parametrize("name", STORES)
def test_codecs_of_another_format_in_the_same_folder_are_not_used(
    name: str, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numcodecs.pickles, "ALLOW_UNSAFE_PICKLE_DECODE", True, raising=False)
    monkeypatch.setenv("NUMCODECS_ALLOW_UNSAFE_PICKLE_DECODE", "1")
    make, sample, array = STORES[name]
    evil, marker = tmp_path / "evil.n5", tmp_path / "code-has-run"
    shutil.copytree(shared / "samples" / sample, evil, copy_function=shutil.copyfile)
    for group in (evil, *(evil / parent for parent in Path(array).parents)):
        (group / "attributes.json").write_text(json.dumps({"n5": "2.0.0"}))
    header = json.loads((evil / array / ".zarray").read_text())
    n = header["shape"][0]
    described = {
        "dataType": "int64",
        "dimensions": [n],
        "blockSize": [n],
        "compression": {"type": "pickle"},
    }
    (evil / array / "attributes.json").write_text(json.dumps(described))
    (evil / array / ".zarray").write_text(json.dumps({**header, "compressor": None, "filters": None}))
    (evil / array / "0").write_bytes(struct.pack(">HHI", 0, 1, n) + pickle.dumps(Touch(marker)))
    with pytest.raises(ReaderError, match=r"evil\.n5"):
        ids(make(), evil)
    assert not marker.exists()


def test_the_marker_would_be_there_had_the_code_run(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Touch(tmp_path / "marker")))
    assert (tmp_path / "marker").exists()
