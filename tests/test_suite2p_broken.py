"""Broken and hostile Suite2p folders: one clear error that names the file, and nothing run."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nuclr_cli.api import Population, ReaderError, ReadOptions
from nuclr_cli.data.check import check_population
from nuclr_cli.errors import NuclrError
from nuclr_suite2p import Suite2pReader

LAYOUTS = {"new": "v110_1plane", "old": "v0145_2plane_2chan"}


@pytest.fixture
def broken(shared: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Writable ``suite2p`` folder of one layout, without the pictures that are not read."""

    def copy(layout: str) -> Path:
        source = shared / "samples" / "suite2p" / LAYOUTS[layout] / "suite2p"
        target = tmp_path / layout / "suite2p"
        for plane in sorted(source.glob("plane*")):
            (target / plane.name).mkdir(parents=True)
            for file in plane.glob("*.npy"):
                if file.name != "ops.npy" or layout == "old":
                    shutil.copyfile(file, target / plane.name / file.name)
        return target

    return copy


def read(path: Path, **options: Any) -> Population:
    (population,) = Suite2pReader().read(path, ReadOptions(**options))
    check_population(population)
    return population


def edit_npy(path: Path, change: Callable[[Any], Any]) -> None:
    np.save(path, change(np.load(path)))


def edit_dict(path: Path, **changes: Any) -> None:
    content = np.load(path, allow_pickle=True).item()
    content.update(changes)
    np.save(path, np.array(content, dtype=object))


def poke(row: int, column: int, value: float) -> Callable[[Any], Any]:
    def change(array: Any) -> Any:
        array[row, column] = value
        return array

    return change


def test_the_error_without_a_rate_says_what_to_type(broken: Callable[[str], Path]) -> None:
    folder = broken("new")
    edit_dict(folder / "plane0" / "settings.npy", fs=None)
    with pytest.raises(ReaderError) as error:
        read(folder)
    assert "--fs HZ" in error.value.fix
    calcium = read(folder, fs_hz=10.0).calcium
    assert calcium is not None
    assert calcium.sampling_rate_hz == 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fs_hz": 1e6}, r"--fs 1e\+06 is not a frame rate"),
        ({"fs_hz": float("nan")}, "--fs nan is not a frame rate"),
        ({"min_iscell": 7.0}, "--min-iscell 7 is no probability"),
        ({"min_iscell": float("nan")}, "--min-iscell nan is no probability"),
        ({"red_label": " "}, "--red-label is empty"),
        ({"extra": {"colour": "blue"}}, "no option 'colour'"),
    ],
)
def test_absurd_options(broken: Callable[[str], Path], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ReaderError, match=message):
        read(broken("new"), **options)


def test_units_that_cannot_be_used_are_left_out_when_asked(broken: Callable[[str], Path]) -> None:
    folder = broken("new")
    whole = read(folder)
    edit_npy(folder / "plane0" / "F.npy", poke(5, 9, np.nan))
    edit_npy(folder / "plane0" / "F.npy", lambda a: a * (np.arange(30) != 4)[:, None])
    population = read(folder, drop_nan_units=True)
    assert population.units["roi"].tolist() == [roi for roi in range(30) if roi not in (4, 5)]
    (note,) = (note for note in population.notes if "were left out" in note)
    assert "2 of 30 units" in note
    assert "plane0_5" in note
    assert "plane0_4" in note
    assert whole.calcium is not None
    assert population.calcium is not None
    others = np.delete(whole.calcium.values, [4, 5], axis=1)
    np.testing.assert_array_equal(population.calcium.values, others)
    assert population.provenance["dropped_unit_ids"] == ["plane0_4", "plane0_5"]


@pytest.mark.parametrize("layout", ["new", "old"])
def test_nan_in_bad_frames_is_bridged_and_reaches_no_other_frame(
    broken: Callable[[str], Path], layout: str
) -> None:
    """Such frames are left out, so NaN there refuses nobody; the baseline must not see it, either."""
    folder = broken(layout)
    plane = folder / "plane0"
    raw, neuropil = (np.load(plane / f"{name}.npy").astype(np.float64) for name in ("F", "Fneu"))
    n_frames = raw.shape[1]
    bad = np.zeros(n_frames, dtype=bool)
    bad[[0, 1, 100, 101, 102, 103, n_frames - 1]] = True
    for path in sorted(folder.glob("plane*")):
        marks = path / ("ops.npy" if layout == "old" else "reg_outputs.npy")
        edit_dict(marks, badframes=bad, badframes0=None)
    clean = read(folder).calcium
    raw[3, 100:104] = np.nan
    raw[3, 0] = np.inf
    neuropil[3, [103, n_frames - 1]] = np.nan
    neuropil[6, 1] = -np.inf
    np.save(plane / "F.npy", raw.astype(np.float32))
    np.save(plane / "Fneu.npy", neuropil.astype(np.float32))
    population = read(folder)
    found = population.calcium
    assert clean is not None
    assert found is not None
    assert found.values.shape == clean.values.shape
    assert np.isfinite(found.values).all()
    others = np.delete(np.arange(found.values.shape[1]), [3, 6])
    np.testing.assert_array_equal(found.values[:, others], clean.values[:, others])
    (note,) = (note for note in population.notes if "bridged" in note)
    assert note.startswith("7 NaN or infinite samples of 2 units")  # 103 is missing in F and in Fneu

    for row in (3, 6):
        for array in (raw, neuropil):
            lost = ~np.isfinite(array[row])
            array[row, lost] = np.interp(np.flatnonzero(lost), np.flatnonzero(~bad), array[row, ~bad])
    np.save(plane / "F.npy", raw.astype(np.float32))
    np.save(plane / "Fneu.npy", neuropil.astype(np.float32))
    by_hand = read(folder).calcium
    assert by_hand is not None
    np.testing.assert_allclose(found.values, by_hand.values, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["F", "Fneu"])
def test_nan_beside_a_bad_frame_is_refused(broken: Callable[[str], Path], name: str) -> None:
    folder = broken("new")
    bad = np.zeros(1500, dtype=bool)
    bad[100:104] = True
    edit_dict(folder / "plane0" / "reg_outputs.npy", badframes=bad, badframes0=None)
    edit_npy(folder / "plane0" / f"{name}.npy", poke(5, 103, np.nan))
    read(folder)
    edit_npy(folder / "plane0" / f"{name}.npy", poke(5, 104, np.nan))
    with pytest.raises(ReaderError, match=r"1 unit \(plane0_5\)"):
        read(folder)


@pytest.mark.parametrize("what", ["empty folder", "F.npy alone", "a file", "nothing"])
def test_what_is_not_suite2p(tmp_path: Path, what: str) -> None:
    path = tmp_path / "here"
    if what in ("empty folder", "F.npy alone"):
        path.mkdir()
    if what == "F.npy alone":
        np.save(path / "F.npy", np.zeros((3, 9)))
    if what == "a file":
        path.write_text("no")
    reader = Suite2pReader()
    assert reader.detect(path) is None
    assert list(reader.sources(path)) == []
    with pytest.raises(ReaderError, match="no Suite2p folder"):
        read(path)


@pytest.mark.parametrize("name", ["F", "Fneu", "iscell", "redcell", "stat", "ops"])
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flipped_bytes_never_crash(
    broken: Callable[[str], Path], tmp_path: Path, name: str, data: st.DataObject
) -> None:
    """Whatever the bytes: a population that passes the check, or an error with a message."""
    folder = tmp_path / "old" / "suite2p"
    if not folder.exists():
        broken("old")
        shutil.rmtree(folder / "plane1")
        for path in (folder / "plane0").iterdir():
            path.rename(path.with_suffix(".whole"))
    for path in (folder / "plane0").glob("*.whole"):
        shutil.copyfile(path, path.with_suffix(".npy"))
    path = folder / "plane0" / f"{name}.npy"
    content = bytearray(path.read_bytes())
    last = min(len(content), 4000) - 1
    for place, value in data.draw(
        st.lists(st.tuples(st.integers(0, last), st.integers(0, 255)), min_size=1, max_size=6)
    ):
        content[place] = value
    path.write_bytes(content)
    with contextlib.suppress(NuclrError):
        read(folder, red_label="PV", drop_nan_units=True)
