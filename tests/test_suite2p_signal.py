"""The recipe from fluorescence to dF/F, against a slow and plain version of it, and what it costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nuclr_cli.api import ReadOptions
from nuclr_suite2p import Suite2pReader
from nuclr_suite2p.signal import Recipe, baseline, delta_f_over_f

Floats = NDArray[np.float64]


def plain_baseline(trace: Floats, sigma: float, window: int) -> Floats:
    """One trace, float64, no filter functions: edges repeated, kernel cut at three sigmas."""
    half, radius = window // 2, round(3 * sigma)
    kernel = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
    smooth = np.convolve(np.pad(trace, radius, mode="edge"), kernel / kernel.sum(), "valid")
    for extreme in (np.min, np.max):
        padded = np.pad(smooth, half, mode="edge")
        smooth = np.array([extreme(padded[i : i + window]) for i in range(len(trace))])
    return smooth


@settings(max_examples=40, deadline=None)
@given(
    n_frames=st.integers(2, 300),
    sigma=st.sampled_from([0.5, 2.5, 10.0]),
    win_s=st.floats(0.0, 100.0),
    seed=st.integers(0, 2**32 - 1),
)
def test_baseline_equals_the_plain_one(n_frames: int, sigma: float, win_s: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    traces = (100 + 10 * rng.standard_normal((3, n_frames))).astype(np.float32)
    recipe = Recipe.of(0.7, sigma, win_s, 5.0)
    assert recipe.window_frames % 2 == 1
    found = baseline(traces, recipe)
    assert found.dtype == np.float32
    for trace, result in zip(traces, found, strict=True):
        expected = plain_baseline(trace.astype(np.float64), sigma, recipe.window_frames)
        np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_dff_divides_by_the_baseline_or_by_five_percent_of_the_mean() -> None:
    recipe = Recipe(0.5, 2.0, 11)
    rng = np.random.default_rng(0)
    raw = (100 + rng.random((2, 200))).astype(np.float32)
    neuropil = np.full((2, 200), 20, np.float32)
    neuropil[1] = 199  # what is left after correction is about 1, less than 5% of 100
    found = delta_f_over_f(raw, neuropil, recipe)
    corrected = raw - 0.5 * neuropil
    base = baseline(corrected, recipe)
    np.testing.assert_allclose(found[0], (corrected[0] - base[0]) / base[0], rtol=1e-5, atol=1e-7)
    floor = 0.05 * raw[1].mean()
    assert base[1].max() < floor
    np.testing.assert_allclose(found[1], (corrected[1] - base[1]) / floor, rtol=1e-5, atol=1e-7)


def test_a_dark_unit_has_no_dff() -> None:
    recipe = Recipe(0.7, 2.0, 11)
    raw = np.stack([np.zeros(50), np.full(50, -3.0), np.full(50, 7.0)]).astype(np.float32)
    finite = np.isfinite(delta_f_over_f(raw, None, recipe)).all(axis=1)
    assert finite.tolist() == [False, False, True]


def write_plane(folder: Path, n_rois: int, n_frames: int) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("F", "Fneu"):
        array = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.dtype("f4"), (n_rois, n_frames))
        for row in range(n_rois):
            array[row] = 100 + 10 * rng.standard_normal(n_frames, dtype=np.float32)
    np.save(folder / "iscell.npy", np.ones((n_rois, 2)))


def test_order_in_the_file_does_not_matter(tmp_path: Path) -> None:
    """Arrays saved by column, in float64, or big-endian hold the same numbers."""
    write_plane(tmp_path / "a" / "plane0", 5, 400)
    options = ReadOptions(fs_hz=30.0)
    (expected,) = Suite2pReader().read(tmp_path / "a", options)
    changes: tuple[Any, ...] = (np.asfortranarray, lambda a: a.astype("f8"), lambda a: a.astype(">f4"))
    for number, change in enumerate(changes):
        folder = tmp_path / f"b{number}" / "plane0"
        folder.mkdir(parents=True)
        for name in ("F", "Fneu", "iscell"):
            np.save(folder / f"{name}.npy", change(np.load(tmp_path / "a" / "plane0" / f"{name}.npy")))
        (population,) = Suite2pReader().read(folder, options)
        assert population.calcium is not None
        assert expected.calcium is not None
        np.testing.assert_array_equal(population.calcium.values, expected.calcium.values)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak of a process from /proc")
def test_memory_stays_near_the_size_of_the_result(tmp_path: Path) -> None:
    """At most 2.5 times one array; reading both inputs whole would take 3 times, filters not counted."""
    write_plane(tmp_path / "plane0", 1000, 27_000)
    script = """
import sys
from pathlib import Path
import scipy.ndimage
from nuclr_cli.api import ReadOptions
from nuclr_suite2p import Suite2pReader
def peak_kb():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
before = peak_kb()
(population,) = Suite2pReader().read(Path(sys.argv[1]), ReadOptions(fs_hz=30.0))
print((peak_kb() - before) * 1024 / population.calcium.values.nbytes)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    arrays = float(done.stdout)
    assert 0.9 < arrays < 2.5
