"""Saved animals are ordinary SpikeInterface sortings with their properties, and a manifest beside them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from nuclr_cli.errors import InputError
from nuclr_cli.testing.simulate import SimulationConfig, save_animals, simulate_animal

si = pytest.importorskip("spikeinterface.core")

CONFIG = SimulationConfig(n_animals=3, units_per_animal=12, minutes=0.5, seed=9)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_animals(CONFIG, tmp_path_factory.mktemp("animals") / "new" / "folder")


def test_the_manifest_names_every_folder_and_nothing_else_is_left(manifest: Path) -> None:
    with manifest.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == ["sim00", "sim01.zarr", "sim02"]
    assert [row["subject"] for row in rows] == ["sim00", "sim01", "sim02"]
    assert all(float(row["duration_s"]) == pytest.approx(30.0) for row in rows)
    assert len({row["session"] for row in rows}) == 3
    found = {path.name for path in manifest.parent.iterdir()}
    assert found == {"sim00", "sim01.zarr", "sim02", "sessions.csv"}


@pytest.mark.parametrize(("index", "name"), [(0, "sim00"), (1, "sim01.zarr")])
def test_spikeinterface_loads_the_same_spikes_and_properties(manifest: Path, index: int, name: str) -> None:
    animal = simulate_animal(CONFIG, index)
    sorting = si.load(manifest.parent / name)
    vector = sorting.to_spike_vector()
    spikes = animal.population.spikes
    assert spikes is not None
    np.testing.assert_array_equal(vector["sample_index"], animal.samples)
    np.testing.assert_array_equal(vector["unit_index"], spikes.unit_index)
    assert [str(unit) for unit in sorting.unit_ids] == animal.population.units["id"].tolist()
    assert sorting.sampling_frequency == animal.fs_hz
    for column in ("cell_type", "brain_region", "quality", "depth_um"):
        np.testing.assert_array_equal(sorting.get_property(column), animal.population.units[column])


def test_nothing_is_written_over(manifest: Path) -> None:
    before = (manifest.parent / "sim00" / "spikes.npy").read_bytes()
    with pytest.raises(InputError, match="already holds sim00"):
        save_animals(CONFIG, manifest.parent)
    assert (manifest.parent / "sim00" / "spikes.npy").read_bytes() == before


def test_unknown_formats_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="numpy_folder"):
        save_animals(CONFIG, tmp_path / "x", formats=("phy",))  # type: ignore[arg-type]
    assert not (tmp_path / "x").exists()


def test_progress_counts_animals(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    config = SimulationConfig(n_animals=2, units_per_animal=6, minutes=0.1)
    save_animals(
        config, tmp_path, formats=("numpy_folder",), progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(1, 2), (2, 2)]
