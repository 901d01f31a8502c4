"""Broken and hostile Suite2p folders: one clear error that names the file, and nothing run."""

from __future__ import annotations

import contextlib
import os
import pickle
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


def truncate(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def huge_header(path: Path) -> None:
    """A header that promises 200 TB."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": (50_000_000, 1_000_000)}
        )


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


Break = tuple[str, Callable[[Path], Any], str]
BREAKS: dict[str, Break] = {
    # what was done: (layout, how, given plane0; what the message must hold)
    "F missing": ("new", lambda p: (p / "F.npy").unlink(), r"no plane has F\.npy"),
    "F truncated": ("new", lambda p: truncate(p / "F.npy"), r"plane0/F\.npy is damaged"),
    "F is text": ("new", lambda p: (p / "F.npy").write_text("hello"), r"F\.npy is damaged"),
    "F promises 200 TB": ("new", lambda p: huge_header(p / "F.npy"), r"F\.npy is damaged"),
    "F is 1-D": ("new", lambda p: edit_npy(p / "F.npy", lambda a: a[0]), r"F\.npy holds float32 .*\(1500,\)"),
    "F is text values": (
        "new",
        lambda p: np.save(p / "F.npy", np.full((30, 1500), "a")),
        r"F\.npy holds <U1",
    ),
    "F has no frames": ("new", lambda p: edit_npy(p / "F.npy", lambda a: a[:, :0]), r"0 frames, at least 2"),
    "F has fewer ROIs": (
        "new",
        lambda p: edit_npy(p / "F.npy", lambda a: a[:29]),
        r"stat\.npy describes \(30,\) ROIs, F\.npy has 29",
    ),
    "F has fewer frames": (
        "new",
        lambda p: edit_npy(p / "F.npy", lambda a: a[:, :1400]),
        r"badframes has 1500 entries for 1400 frames",
    ),
    "Fneu missing": ("new", lambda p: (p / "Fneu.npy").unlink(), r"Fneu\.npy is missing"),
    "Fneu truncated": ("old", lambda p: truncate(p / "Fneu.npy"), r"Fneu\.npy is damaged"),
    "Fneu has fewer frames": (
        "new",
        lambda p: edit_npy(p / "Fneu.npy", lambda a: a[:, :-1]),
        r"Fneu\.npy has shape \(30, 1499\), F\.npy \(30, 1500\)",
    ),
    "iscell short": (
        "new",
        lambda p: edit_npy(p / "iscell.npy", lambda a: a[:-3]),
        r"iscell\.npy holds float64 values of shape \(27, 2\), F\.npy has 30 ROIs",
    ),
    "iscell one column": ("old", lambda p: edit_npy(p / "iscell.npy", lambda a: a[:, 0]), r"shape \(11,\)"),
    "iscell NaN": (
        "new",
        lambda p: edit_npy(p / "iscell.npy", poke(4, 1, np.nan)),
        r"iscell\.npy: 1 of 30 rows are NaN or infinite, the first of ROI 4",
    ),
    "iscell all 0": (
        "new",
        lambda p: edit_npy(p / "iscell.npy", lambda a: a * 0),
        r"no units: none of 30 ROIs has iscell = 1",
    ),
    "redcell short": (
        "old",
        lambda p: edit_npy(p / "redcell.npy", lambda a: a[1:]),
        r"redcell\.npy .* 11 ROIs",
    ),
    "stat short": (
        "new",
        lambda p: np.save(p / "stat.npy", np.load(p / "stat.npy", allow_pickle=True)[:5]),
        r"stat\.npy describes \(5,\) ROIs, F\.npy has 30",
    ),
    "stat of numbers": (
        "new",
        lambda p: np.save(p / "stat.npy", np.arange(30)),
        r"30 of 30 entries are no dicts",
    ),
    "stat truncated": ("new", lambda p: truncate(p / "stat.npy"), r"stat\.npy is a damaged pickle"),
    "settings truncated": (
        "new",
        lambda p: truncate(p / "settings.npy"),
        r"settings\.npy is a damaged pickle",
    ),
    "settings no dict": (
        "new",
        lambda p: np.save(p / "settings.npy", np.arange(3)),
        r"settings\.npy holds an array of shape \(3,\), expected a dict",
    ),
    "db empty": ("new", lambda p: (p / "db.npy").write_bytes(b""), r"db\.npy is damaged"),
    "ops huge": ("old", lambda p: huge_header(p / "ops.npy"), r"ops\.npy is damaged"),
    "fs missing": ("old", lambda p: edit_dict(p / "ops.npy", fs=None), r"plane0 holds no frame rate"),
    "fs absurd": ("new", lambda p: edit_dict(p / "settings.npy", fs=3e7), r"frame rate 3e\+07 Hz"),
    "fs 0": ("new", lambda p: edit_dict(p / "settings.npy", fs=0), r"frame rate 0 Hz, expected 0\.1 to 1000"),
    "fs NaN": ("new", lambda p: edit_dict(p / "settings.npy", fs=np.nan), r"frame rate nan Hz"),
    "fs text": ("new", lambda p: edit_dict(p / "settings.npy", fs="fast"), r"frame rate nan Hz"),
    "fs differs": ("old", lambda p: edit_dict(p / "ops.npy", fs=30.0), r"plane0 30 Hz, plane1 5 Hz"),
    "coefficient text": (
        "old",
        lambda p: edit_dict(p / "ops.npy", neucoeff="much"),
        r"ops\.npy: neucoeff is much, expected a number",
    ),
    "coefficient NaN": (
        "new",
        lambda p: edit_dict(p / "settings.npy", extraction={"neuropil_coefficient": np.nan}),
        r"extraction\.neuropil_coefficient is nan",
    ),
    "window endless": (
        "new",
        lambda p: edit_dict(p / "settings.npy", dcnv_preprocess={"win_baseline": 1e12}),
        r"dcnv_preprocess\.win_baseline is 1000000000000\.0",
    ),
    "smoothing endless": ("old", lambda p: edit_dict(p / "ops.npy", sig_baseline=1e9), r"sig_baseline is"),
    "bad frames of another length": (
        "old",
        lambda p: edit_dict(p / "ops.npy", badframes=np.zeros(7, bool)),
        r"badframes has 7 entries for 500 frames",
    ),
    "bad frames no list": (
        "old",
        lambda p: edit_dict(p / "ops.npy", badframes="none"),
        r"badframes is not a list",
    ),
    "all frames bad": (
        "new",
        lambda p: edit_dict(p / "reg_outputs.npy", badframes=np.ones(1500, bool)),
        r"1500 of 1500 frames are marked as bad",
    ),
    "NaN in F": (
        "new",
        lambda p: edit_npy(p / "F.npy", poke(5, 9, np.nan)),
        r"NaN or infinite samples in the traces of 1 unit \(plane0_5\)",
    ),
    "inf in Fneu": ("old", lambda p: edit_npy(p / "Fneu.npy", poke(2, 3, np.inf)), r"1 unit \(plane0_2\)"),
    "dark unit": (
        "new",
        lambda p: edit_npy(p / "F.npy", lambda a: a * (np.arange(30) != 4)[:, None]),
        r"no dF/F, .* of 1 unit \(plane0_4\)",
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_broken_sources_are_refused(broken: Callable[[str], Path], name: str) -> None:
    layout, change, message = BREAKS[name]
    folder = broken(layout)
    read(folder)
    change(folder / "plane0")
    with pytest.raises(ReaderError, match=message) as error:
        read(folder)
    assert error.value.fix


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


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (np.arange(499) / 5, "holds 499 times, the recording has 500 frames"),
        (np.zeros((500, 2)), r"shape \(500, 2\), expected one time per frame"),
        (
            np.arange(500)[::-1] / 5,
            "499 of 500 times are not later than the one before; the first is number 1",
        ),
        (np.r_[np.nan, np.arange(499) / 5], "1 of 500 times are NaN or infinite"),
        (np.arange(500) * 200.0, "frames are 200 s apart"),
        (np.full(500, "a"), "expected one time per frame"),
    ],
)
def test_times_that_do_not_fit(
    broken: Callable[[str], Path], tmp_path: Path, times: Any, message: str
) -> None:
    np.save(tmp_path / "times.npy", times)
    with pytest.raises(ReaderError, match=message):
        read(broken("old"), timestamps=tmp_path / "times.npy")


def test_times_that_are_not_there(broken: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(ReaderError, match=r"times\.npy is missing"):
        read(broken("old"), timestamps=tmp_path / "times.npy")


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


def test_dropping_every_unit_is_an_error(broken: Callable[[str], Path]) -> None:
    folder = broken("new")
    edit_npy(folder / "plane0" / "F.npy", lambda a: a * np.nan)
    with pytest.raises(ReaderError, match="no unit is left"):
        read(folder, drop_nan_units=True)


class Payload:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        ("old", "ops.npy"),
        ("new", "settings.npy"),
        ("new", "db.npy"),
        ("new", "reg_outputs.npy"),
        ("new", "stat.npy"),
        ("old", "stat.npy"),
    ],
)
def test_pickles_do_not_run(broken: Callable[[str], Path], tmp_path: Path, layout: str, name: str) -> None:
    marker = tmp_path / "ran"
    folder = broken(layout)
    path = folder / "plane0" / name
    held = np.load(path, allow_pickle=True)
    if held.shape == ():
        np.save(path, np.array({**held.item(), "fs": 5.0, "zz": Payload(marker)}, dtype=object))
    else:
        held[0]["zz"] = Payload(marker)
        np.save(path, held)
    reader = Suite2pReader()
    assert reader.detect(folder)
    assert path in reader.sources(folder)
    with pytest.raises(ReaderError, match=name.replace(".", r"\.")) as error:
        read(folder)
    assert "could run code" in error.value.what
    assert "--trust" in error.value.fix
    assert not marker.exists()
    read(folder, trust=True)
    assert marker.exists()


def test_arrays_that_are_pickles_do_not_run(broken: Callable[[str], Path], tmp_path: Path) -> None:
    """Not even with --trust: an array of numbers has no reason to be a pickle."""
    for name in ("F.npy", "Fneu.npy", "iscell.npy"):
        marker = tmp_path / f"ran-{name}"
        folder = broken("new")
        payload = np.empty((30, 1500 if "F" in name else 2), dtype=object)
        payload[0, 0] = Payload(marker)
        np.save(folder / "plane0" / name, payload)
        for trust in (False, True):
            with pytest.raises(ReaderError, match=name.replace(".", r"\.")):
                read(folder, trust=trust)
        assert not marker.exists()
        shutil.rmtree(folder.parent)


def test_a_bare_pickle_named_npy_does_not_run(broken: Callable[[str], Path], tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    folder = broken("old")
    (folder / "plane0" / "ops.npy").write_bytes(pickle.dumps(Payload(marker)))
    with pytest.raises(ReaderError, match=r"ops\.npy"):
        read(folder)
    assert not marker.exists()


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
