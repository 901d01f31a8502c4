"""The reader on files of Suite2p 1.1.0 and 0.14.5."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nuclr_cli.api import CalciumTraces, MissingPackageError, Population, ReaderError, ReadOptions
from nuclr_cli.data.check import check_population
from nuclr_suite2p import Suite2pReader

TWO_PLANES = ("v110_2plane_2chan", "v0145_2plane_2chan")


@pytest.fixture(scope="session")
def samples(shared: Path) -> Path:
    return shared / "samples" / "suite2p"


@pytest.fixture
def copy_of(samples: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Writable copy of one sample, its ``suite2p`` folder; ``ops.npy`` only where nothing newer is there."""

    def copy(name: str) -> Path:
        target = tmp_path / name / "suite2p"
        for file in (samples / name / "suite2p").rglob("*.npy"):
            if file.name != "ops.npy" or not (file.parent / "settings.npy").exists():
                place = target / file.relative_to(samples / name / "suite2p")
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, place)
        return target

    return copy


def read(path: Path, **options: Any) -> Population:
    (population,) = Suite2pReader().read(path, ReadOptions(**options))
    assert check_population(population) == []
    return population


def calcium_of(population: Population) -> CalciumTraces:
    assert population.calcium is not None
    return population.calcium


def load(path: Path) -> Any:
    return np.load(path, allow_pickle=True)


def edit(path: Path, **changes: Any) -> None:
    """Change top-level entries of a pickled dict."""
    content = load(path).item()
    content.update(changes)
    np.save(path, np.array(content, dtype=object))


def test_releases_agree_on_the_same_movie(samples: Path) -> None:
    new, old = (read(samples / name) for name in TWO_PLANES)
    assert new.units["id"].tolist() == old.units["id"].tolist()
    for ours, theirs in zip(calcium_of(new).values.T, calcium_of(old).values.T, strict=True):
        assert np.corrcoef(ours, theirs)[0, 1] > 0.98
    assert new.provenance["versions"]["suite2p_files"] == "1.1.0"
    assert old.provenance["versions"]["suite2p_files"] == "0.14.5"


@pytest.mark.parametrize("name", TWO_PLANES)
def test_the_three_ways_to_point_at_a_recording(samples: Path, name: str) -> None:
    parent, folder, plane = samples / name, samples / name / "suite2p", samples / name / "suite2p" / "plane1"
    whole, same, alone = read(parent), read(folder), read(plane)
    np.testing.assert_array_equal(calcium_of(whole).values, calcium_of(same).values)
    second = whole.units["plane"] == 1
    np.testing.assert_array_equal(calcium_of(whole).values[:, second], calcium_of(alone).values)
    np.testing.assert_allclose(calcium_of(alone).time_offset, 0.1)
    assert {population.session for population in (whole, same, alone)} == {name}
    reader = Suite2pReader()
    assert set(reader.sources(plane)) < set(reader.sources(parent)) == set(reader.sources(folder))


@pytest.mark.parametrize("name", TWO_PLANES)
def test_the_combined_folder_is_refused(samples: Path, name: str) -> None:
    combined = samples / name / "suite2p" / "combined"
    assert "combined" in (Suite2pReader().detect(combined) or "")
    with pytest.raises(ReaderError, match="combined folder") as error:
        read(combined)
    assert "folder above" in error.value.fix


def test_units_columns(samples: Path) -> None:
    folder = samples / "v110_2plane_2chan" / "suite2p"
    population = read(folder)
    stat = np.concatenate([load(folder / f"plane{k}" / "stat.npy") for k in (0, 1)])
    for axis, name in enumerate(("y", "x")):
        assert population.units[name].tolist() == [entry["med"][axis] for entry in stat]
    for name in ("npix", "radius", "skew", "compact"):
        np.testing.assert_allclose(population.units[name], [float(entry[name]) for entry in stat])
    for file, name in (("iscell.npy", "iscell_probability"), ("redcell.npy", "red_probability")):
        stored = np.concatenate([np.load(folder / f"plane{k}" / file)[:, 1] for k in (0, 1)])
        np.testing.assert_allclose(population.units[name], stored)
    assert "cell_type" not in population.units
    assert any("--red-label" in note for note in population.notes)


def test_sources_are_exactly_what_decides(copy_of: Callable[[str], Path], tmp_path: Path) -> None:
    """A folder with nothing but the sources reads the same."""
    folder = copy_of("v0145_2plane_2chan")
    sources = Suite2pReader().sources(folder)
    assert {file.name for file in sources} == {
        *("F.npy", "Fneu.npy", "spks.npy", "iscell.npy", "redcell.npy", "stat.npy", "ops.npy")
    }
    for file in sources:
        (tmp_path / "alone" / file.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, tmp_path / "alone" / file.parent.name / file.name)
    again, whole = read(tmp_path / "alone", red_label="PV"), read(folder, red_label="PV")
    np.testing.assert_array_equal(calcium_of(again).values, calcium_of(whole).values)
    assert again.units["cell_type"].tolist() == whole.units["cell_type"].tolist()


def test_nested_ops_serve_where_newer_files_are_gone(samples: Path, tmp_path: Path) -> None:
    source = samples / "v110_2plane_2chan" / "suite2p"
    for k in (0, 1):
        (tmp_path / f"plane{k}").mkdir()
        for name in ("F", "Fneu", "iscell", "redcell", "stat", "ops"):
            shutil.copyfile(source / f"plane{k}" / f"{name}.npy", tmp_path / f"plane{k}" / f"{name}.npy")
    alone, whole = read(tmp_path, red_label="PV"), read(source, red_label="PV")
    np.testing.assert_array_equal(calcium_of(alone).values, calcium_of(whole).values)
    assert alone.units["cell_type"].tolist() == whole.units["cell_type"].tolist()
    np.testing.assert_allclose(calcium_of(alone).time_offset, calcium_of(whole).time_offset)


def test_settings_change_the_traces(copy_of: Callable[[str], Path]) -> None:
    folder = copy_of("v110_1plane")
    plane = folder / "plane0"
    before = calcium_of(read(folder)).values
    edit(plane / "settings.npy", extraction={"neuropil_coefficient": 0.0})
    (plane / "Fneu.npy").unlink()  # not needed then
    uncorrected = calcium_of(read(folder)).values
    raw = np.load(plane / "F.npy")
    assert not np.allclose(before, uncorrected)
    assert np.corrcoef(uncorrected[:, 0], raw[0])[0, 1] > 0.99
    edit(plane / "settings.npy", dcnv_preprocess={"win_baseline": 5.0, "baseline": "constant"})
    population = read(folder)
    assert not np.allclose(uncorrected, calcium_of(population).values)
    assert population.provenance["baseline"][0]["window_frames"] == 51
    assert any("'constant'" in note for note in population.notes)


def test_deconvolved_activity_is_the_stored_one(samples: Path) -> None:
    folder = samples / "v110_2plane_2chan" / "suite2p"
    population = read(folder, signal="spks")
    stored = np.concatenate([np.load(folder / f"plane{k}" / "spks.npy") for k in (0, 1)])
    np.testing.assert_array_equal(calcium_of(population).values, stored.T)
    assert population.provenance["signal"] == "spks"
    assert "baseline" not in population.provenance


def test_deconvolving_needs_suite2p(copy_of: Callable[[str], Path]) -> None:
    folder = copy_of("v110_1plane")
    (folder / "plane0" / "spks.npy").unlink()
    if shutil.which("suite2p", path=str(Path(sys.executable).parent)):
        pytest.skip("suite2p is installed here")
    with pytest.raises(MissingPackageError, match="'suite2p'"):
        read(folder, signal="spks")
    edit(folder / "plane0" / "settings.npy", tau=None)
    with pytest.raises(ReaderError, match="tau"):
        read(folder, signal="spks")


def test_curation(copy_of: Callable[[str], Path]) -> None:
    folder = copy_of("v110_1plane")
    path = folder / "plane0" / "iscell.npy"
    iscell = np.load(path)
    iscell[[3, 7], 0] = 0
    np.save(path, iscell)
    population = read(folder)
    assert population.n_units == 28
    assert {"plane0_3", "plane0_7"}.isdisjoint(population.units["id"].tolist())
    assert any("2 of 30 ROIs" in note and "plane0_3, plane0_7" in note for note in population.notes)
    assert population.provenance["dropped_unit_ids"] == ["plane0_3", "plane0_7"]

    likely = np.flatnonzero(iscell[:, 1] >= 0.9)
    assert 0 < len(likely) < 30
    assert read(folder, min_iscell=0.9).units["roi"].tolist() == likely.tolist()
    with pytest.raises(ReaderError, match="no units: none of 30 ROIs"):
        read(folder, min_iscell=1.0)

    path.unlink()
    population = read(folder)
    assert population.n_units == 30
    assert "iscell_probability" not in population.units
    assert any("no iscell.npy: all of its 30 ROIs" in note for note in population.notes)
    with pytest.raises(ReaderError, match=r"no iscell\.npy"):
        read(folder, min_iscell=0.5)


def test_red_cells_found_by_overlap(copy_of: Callable[[str], Path]) -> None:
    """With masks of the red channel, column 1 is an overlap and the threshold the one it was made for."""
    folder = copy_of("v110_2plane_2chan")
    for k in (0, 1):
        plane = folder / f"plane{k}"
        edit(plane / "detect_outputs.npy", chan2_masks=np.ones((128, 128), np.uint16))
        overlap = np.linspace(0, 1, 11)
        np.save(plane / "redcell.npy", np.stack([overlap > 0.25, overlap], axis=1))
    labels = read(folder, red_label="PV").units["cell_type"]
    assert labels.tolist() == (["" if value <= 0.25 else "PV" for value in np.linspace(0, 1, 11)] * 2)


def test_red_label_without_a_red_channel(samples: Path) -> None:
    with pytest.raises(ReaderError, match=r"no redcell\.npy"):
        read(samples / "v110_1plane", red_label="PV")


def test_bad_frames_become_gaps(copy_of: Callable[[str], Path]) -> None:
    folder = copy_of("v110_2plane_2chan")
    before = calcium_of(read(folder)).values
    bad = np.zeros((2, 500), bool)
    bad[0, 100:110] = True
    bad[1, 105:120] = True
    edit(folder / "plane0" / "reg_outputs.npy", badframes=bad[0])
    edit(folder / "plane1" / "reg_outputs.npy", badframes0=bad[1])
    population = read(folder)
    calcium = calcium_of(population)
    np.testing.assert_allclose(population.intervals, [[0, 20], [24, 100]])
    good = ~bad.any(axis=0)
    np.testing.assert_allclose(calcium.timestamps, np.flatnonzero(good) / 5)
    np.testing.assert_array_equal(calcium.values, before[good])
    assert any("20 of 500 frames are marked as bad" in note for note in population.notes)


def test_planes_may_differ_by_one_frame(copy_of: Callable[[str], Path]) -> None:
    folder = copy_of("v0145_2plane_2chan")
    whole = read(folder)

    def shorten(by: int) -> None:
        for name in ("F", "Fneu", "spks"):
            path = folder / "plane1" / f"{name}.npy"
            np.save(path, np.load(path)[:, :-by])
        ops = load(folder / "plane1" / "ops.npy").item()
        length = ops["nframes"] - by
        edit(folder / "plane1" / "ops.npy", nframes=length, badframes=ops["badframes"][:length])

    shorten(1)
    population = read(folder)
    assert calcium_of(population).values.shape == (499, 22)
    assert any("plane0 500, plane1 499" in note for note in population.notes)
    np.testing.assert_allclose(calcium_of(population).values[:400], calcium_of(whole).values[:400], atol=0.2)
    shorten(1)
    with pytest.raises(ReaderError, match="plane0 500, plane1 498"):
        read(folder)


def test_a_plane_without_rois_is_left_out_aloud(copy_of: Callable[[str], Path]) -> None:
    folder = copy_of("v0145_2plane_2chan")
    for name in ("F", "Fneu", "spks", "iscell", "stat", "redcell"):
        (folder / "plane0" / f"{name}.npy").unlink()
    population = read(folder)
    assert set(population.units["plane"].tolist()) == {1}
    np.testing.assert_allclose(calcium_of(population).time_offset, 0.1)
    assert any("plane0 has no F.npy" in warning for warning in population.warnings)


def test_times_from_a_file(copy_of: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy_of("v0145_2plane_2chan")
    times = 1000 + np.arange(500) / 5.0
    times[250:] += 30  # the microscope paused
    np.save(tmp_path / "times.npy", times)
    population = read(folder, timestamps=tmp_path / "times.npy")
    calcium = calcium_of(population)
    np.testing.assert_array_equal(calcium.timestamps, times)
    np.testing.assert_allclose(population.intervals, [[1000, 1050], [1080, 1130]])
    np.testing.assert_allclose(np.unique(calcium.time_offset), [0, 0.1])

    np.save(tmp_path / "faster.npy", np.arange(500) / 20.0)
    population = read(folder, timestamps=tmp_path / "faster.npy")
    assert calcium_of(population).sampling_rate_hz == pytest.approx(20)
    assert any("5 Hz, the times 20 Hz" in warning for warning in population.warnings)
    with pytest.raises(ReaderError, match="--fs says 5 Hz"):
        read(folder, timestamps=tmp_path / "faster.npy", fs_hz=5.0)


def test_a_rate_that_is_said_overrides_the_settings_aloud(samples: Path) -> None:
    population = read(samples / "v110_1plane", fs_hz=15.0)
    assert calcium_of(population).sampling_rate_hz == 15
    assert any("settings say 10 Hz; --fs 15 Hz" in warning for warning in population.warnings)
    assert read(samples / "v110_1plane", fs_hz=10.0).warnings == ()
