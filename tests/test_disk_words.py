"""A disk that cannot be written is told of in one line that names what the user knows."""

from __future__ import annotations

import errno
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nuclr_cli.disk_errors import disk_reason
from nuclr_cli.testing.simulate import SimulationConfig, save_animals


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two simulated animals, as SpikeInterface saves them."""
    simulation = SimulationConfig(n_animals=2, units_per_animal=20, minutes=2.0, seed=0)
    return save_animals(simulation, tmp_path_factory.mktemp("sources") / "sortings")


@pytest.mark.parametrize("largest", [20_000, 0])
def test_sources_that_find_no_room_are_named_with_the_reason(
    forked: Any, manifest: Path, tmp_path: Path, largest: int
) -> None:
    sources = ["sim00", "sim01.zarr"]
    done = forked("preprocess", "--manifest", manifest, "-o", tmp_path / "data", largest_file=largest)
    assert done.code == 3, done.err
    error = done.err[done.err.index("error") :].splitlines()
    said = [
        f"  The sessions of {manifest.parent / name} could not be written: File too large."
        for name in sources
    ]
    assert error[1:3] == said
    assert error[3].startswith("  -> Free some space")
    assert len(error) == 4
    assert ".preprocess-" not in done.err
    assert not (tmp_path / "data").exists()


def test_a_single_source_too(forked: Any, manifest: Path, tmp_path: Path) -> None:
    done = forked("preprocess", manifest.parent / "sim00", "-o", tmp_path / "data", largest_file=20_000)
    assert done.code == 3, done.err
    assert "could not be written: File too large." in done.err
    assert "errno" not in done.err
    assert not (tmp_path / "data").exists()


@pytest.fixture
def read_only(tiny_data: Path, tmp_path: Path) -> Iterator[Path]:
    """Session files on a file system that may only be read."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(folder)], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"a file system can only be mounted by root: {made.stderr.strip()}")
    try:
        for file in tiny_data.glob("*.h5"):
            shutil.copyfile(file, folder / file.name)
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True, capture_output=True)
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.skipif(shutil.which("mount") is None, reason="no mount command")
def test_labels_on_a_read_only_disk(forked: Any, read_only: Path) -> None:
    done = forked("label", read_only, "--remove", "cell_type")
    assert done.code == 3, done.err
    error = done.err[done.err.index("error") :].splitlines()
    assert error[0].startswith(f"error {read_only / 's0.h5'} could not be written anew")
    assert error[0].endswith("Read-only file system.")
    assert "Mend the permissions" in error[1]
    assert "nuclr-tmp" not in done.err


def test_labels_without_room(forked: Any, tiny_data: Path, tmp_path: Path) -> None:
    shutil.copyfile(tiny_data / "s0.h5", tmp_path / "s0.h5")
    before = (tmp_path / "s0.h5").read_bytes()
    done = forked("label", tmp_path, "--remove", "cell_type", largest_file=20_000)
    assert done.code == 3, done.err
    assert f"{tmp_path / 's0.h5'} could not be written anew beside itself: File too large." in done.err
    assert "Free some space" in done.err
    assert "nuclr-tmp" not in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["s0.h5"]
    assert (tmp_path / "s0.h5").read_bytes() == before


def test_the_first_checkpoint_promises_no_earlier_one(forked: Any, tiny_data: Path, tmp_path: Path) -> None:
    run = ("pretrain", tiny_data, "--runs", tmp_path, "--name", "r", "--preset", "tiny", "--gpus", 0,
           "--steps", 2, "--set", "model.dim=16", "--set", "model.heads=2", "--set", "model.head_dim=8",
           "--set", "train.max_tokens=1200")  # fmt: skip
    done = forked(*run, largest_file=20_000)
    assert done.code == 3, done.err
    assert "step-00000002: File too large." in done.err
    assert "Earlier checkpoints" not in done.err
    assert f"-> Free space or mend permissions, then: nuclr pretrain --resume --name r --runs {tmp_path}" in (
        done.err
    )
    assert not list((tmp_path / "r" / "checkpoints").iterdir())
    again = forked("pretrain", "--resume", "--name", "r", "--runs", tmp_path, "--gpus", 0)
    assert again.code == 0, again.err


HDF5 = """Can't decrement id ref count (file write failed: time = Sun Nov 22 09:09:37 2026
, filename = '/a/.0.h5.26957-75cdef93.nuclr-tmp', file descriptor = 13, errno = 28, error message = \
'No space left on device', buf = 0x5575109d2cf0, total write size = 4096, offset = 4096)"""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError(HDF5), "No space left on device"),
        (OSError(errno.ENOSPC, HDF5), "No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "/a/.b.tmp"), "Permission denied"),
        (ValueError("I/O error: Read-only file system (os error 30)"), "Read-only file system"),
        (RuntimeError("two\n  lines."), "two lines"),
        (OSError(), "OSError"),
    ],
)
def test_the_reason_is_what_the_system_said(error: Exception, said: str) -> None:
    assert disk_reason(error) == said
