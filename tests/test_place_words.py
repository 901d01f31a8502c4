"""What is said of DATA that holds no population file leads to the right command, never into the raw data."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from nuclr_cli.data.sessions import open_sessions
from nuclr_cli.errors import InputError
from nuclr_cli.testing.simulate import SimulationConfig, save_animals


@pytest.fixture(scope="module")
def sortings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two simulated animals as SpikeInterface saves them, and their manifest."""
    simulation = SimulationConfig(n_animals=2, units_per_animal=12, minutes=1.0, seed=0)
    return save_animals(simulation, tmp_path_factory.mktemp("sources") / "my sortings").parent


def refused(data: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        open_sessions(data)
    return caught.value


@pytest.mark.parametrize("name", ["sim00", "sim01.zarr"])
def test_a_raw_sorting_is_what_preprocess_wants(sortings: Path, name: str) -> None:
    error = refused(sortings / name)
    assert "holds no population file (*.h5); it is a recording (SpikeInterface" in error.what
    assert error.fix.startswith(f"`nuclr preprocess '{sortings / name}'` makes")
    assert "-o" not in error.fix.split()


def test_a_folder_of_recordings_leads_to_its_manifest_or_to_them(sortings: Path, tmp_path: Path) -> None:
    manifest = sortings / "sessions.csv"
    assert refused(sortings).fix.startswith(f"`nuclr preprocess --manifest '{manifest}'` makes")
    shutil.copytree(sortings, tmp_path / "two")
    (tmp_path / "two" / "sessions.csv").unlink()
    both = f"{tmp_path / 'two' / 'sim00'} {tmp_path / 'two' / 'sim01.zarr'}"
    assert refused(tmp_path / "two").fix.startswith(f"`nuclr preprocess {both}` makes")


def test_a_manifest_behind_many_recordings_is_found(sortings: Path, tmp_path: Path) -> None:
    for number in range(60):
        (tmp_path / f"r{number:02}").mkdir()
    (tmp_path / "notes.csv").write_text("day,weather\n1,fair\n")
    shutil.copyfile(sortings / "sessions.csv", tmp_path / "sessions.csv")
    assert refused(tmp_path).fix.startswith(
        f"`nuclr preprocess --manifest {tmp_path / 'sessions.csv'}` makes"
    )


@pytest.mark.parametrize("name", ["s0.h5", "s0.hdf5", "S0.H5"])
def test_a_missing_file_is_not_made_as_a_folder(tmp_path: Path, name: str) -> None:
    error = refused(tmp_path / name)
    assert error.what == f"{tmp_path / name} does not exist."
    assert "-o" not in error.fix.split()
    assert error.fix.startswith("Name a folder of population files, or one of them.")


def test_of_many_recordings_some_are_named(sortings: Path, tmp_path: Path) -> None:
    for number in range(6):
        shutil.copytree(sortings / "sim00", tmp_path / f"r{number}")
    fix = refused(tmp_path).fix
    assert f"{tmp_path / 'r4'} ...`" in fix
    assert "r5" not in fix


def test_a_manifest_in_place_of_data_or_of_a_source(forked: Any, sortings: Path, tmp_path: Path) -> None:
    manifest = sortings / "sessions.csv"
    error = refused(manifest)
    assert "is no population file (*.h5); it is a manifest" in error.what
    assert error.fix.startswith(f"`nuclr preprocess --manifest '{manifest}'` makes")
    done = forked("preprocess", manifest, "-o", tmp_path / "data")
    assert done.code == 3
    assert f"Did you mean `nuclr preprocess --manifest '{manifest}'`?" in done.err
    assert "nwb looks for" not in done.err
    other = tmp_path / "labels.tsv"
    other.write_text("unit_id\tcell_type\n1\tPV\n")
    done = forked("preprocess", other, "-o", tmp_path / "data")
    assert done.code == 3
    assert "labels.tsv is a table" in done.err
    assert "--labels" in done.err


def test_what_is_no_data_at_all(tmp_path: Path) -> None:
    said = refused(tmp_path / "README.md")
    assert "does not exist" in said.what
    assert "-o" not in said.fix
    (tmp_path / "README.md").write_text("# Read me")
    said = refused(tmp_path / "README.md")
    assert "is no population file" in said.what
    assert "damaged" not in str(said)
    assert "-o" not in refused(tmp_path).fix  # it holds other things
    assert refused(tmp_path / "nuclr-data").fix.endswith(f"-o {tmp_path / 'nuclr-data'}`.")
    (tmp_path / "empty").mkdir()
    assert refused(tmp_path / "empty").fix.endswith(f"-o {tmp_path / 'empty'}`.")


def test_damaged_files_and_files_under_other_names_are_what_they_were(
    tiny_data: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.h5").write_text("not HDF5")
    assert "damaged" in refused(tmp_path / "a.h5").what
    shutil.copyfile(tiny_data / "s0.h5", tmp_path / "s0.hdf5")
    assert len(open_sessions(tmp_path / "s0.hdf5")) == 1


def test_embed_says_that_there_is_no_session(forked: Any, sortings: Path, tiny_data: Path) -> None:
    runs = sortings.parent / "runs"
    words = ("--preset", "tiny", "--gpus", 0, "--steps", 2, "--set", "model.dim=16", "--set", "model.heads=2")
    more = ("--set", "model.head_dim=8", "--set", "train.max_tokens=1200")
    done = forked("pretrain", tiny_data, "--runs", runs, "--name", "short", *words, *more)
    assert done.code == 0, done.err
    done = forked("embed", sortings / "sim00", "--run", runs / "short", "--gpus", 0)
    assert done.code == 3
    assert "sim00 holds no population file (*.h5); it is a recording" in done.err
    assert "does not hold the data of run" not in done.err
