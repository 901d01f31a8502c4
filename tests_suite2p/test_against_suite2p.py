"""The reader against Suite2p itself: baseline, deconvolution, and a whole run on a small movie.

make test-suite2p
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from suite2p import default_db, default_settings, run_s2p
from suite2p.extraction import dcnv

from nuclr_cli.api import Population, ReadOptions
from nuclr_cli.data.check import check_population
from nuclr_suite2p import Suite2pReader
from nuclr_suite2p.signal import Recipe, baseline

CPU = torch.device("cpu")
REAL = Path(__file__).parents[2] / "shared" / "data" / "suite2p_real" / "plane0"

Traces = NDArray[np.float32]


def synthetic() -> Traces:
    """40 units with transients on a drifting baseline."""
    rng = np.random.default_rng(0)
    frames = np.arange(3000)
    drift = 300 + 100 * np.sin(frames / 700) + 5 * rng.standard_normal((40, 3000))
    events = rng.random((40, 3000)) < 0.005
    kernel = np.exp(-np.arange(100) / 12)
    transients = np.array([np.convolve(row, kernel)[:3000] for row in events])
    return (drift + 150 * transients).astype(np.float32)


def real() -> Traces:
    if not REAL.is_dir():
        pytest.skip(f"the real recording is not here: {REAL}")
    raw, neuropil = np.load(REAL / "F.npy"), np.load(REAL / "Fneu.npy")
    corrected: Traces = (raw - 0.7 * neuropil).astype(np.float32)
    return corrected


def read(path: Path, **options: Any) -> Population:
    (population,) = Suite2pReader().read(path, ReadOptions(**options))
    assert check_population(population) == []
    assert population.calcium is not None
    return population


def values(population: Population) -> Traces:
    assert population.calcium is not None
    return population.calcium.values


@pytest.mark.parametrize("make", [synthetic, real])
@pytest.mark.parametrize(
    ("fs_hz", "win_s", "sigma"), [(30.0, 60.0, 10.0), (7.5, 20.0, 3.3), (5.0, 0.1, 10.0)]
)
def test_baseline(make: Any, fs_hz: float, win_s: float, sigma: float) -> None:
    traces = make()
    theirs = traces - dcnv.baseline_maximin(traces.copy(), win_s, sigma, fs_hz, device=CPU)
    ours = baseline(traces, Recipe.of(0.7, sigma, win_s, fs_hz))
    # Suite2p returns trace - baseline, so its rounding is that of the larger number.
    relative = np.abs(ours - theirs) / np.abs(traces).max(axis=1, keepdims=True)
    assert relative.max() < 1e-5


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A movie of 12 blinking discs through the whole pipeline of Suite2p; its ``suite2p`` folder."""
    import tifffile

    folder = tmp_path_factory.mktemp("movie")
    rng = np.random.default_rng(1)
    n_frames, side = 600, 128
    movie = 200 + 15 * rng.standard_normal((n_frames, side, side))
    y, x = np.mgrid[:side, :side]
    kernel = np.exp(-np.arange(40) / 8)
    for disc in range(12):
        row, column = 20 + 28 * (disc // 3), 24 + 38 * (disc % 3)
        inside = (y - row) ** 2 + (x - column) ** 2 <= 6**2
        activity = np.convolve(rng.random(n_frames) < 0.02, kernel)[:n_frames]
        movie[:, inside] += 60 + 250 * activity[:, None]
    tifffile.imwrite(folder / "movie.tif", movie.clip(0, 30000).astype(np.int16))
    settings = default_settings()
    settings["fs"], settings["tau"], settings["torch_device"] = 10.0, 0.8, "cpu"
    settings["registration"]["nonrigid"] = False  # 128 x 128 pixels are too few for its blocks
    settings["run"]["do_regmetrics"] = False
    db = {
        **default_db(),
        "data_path": [str(folder)],
        "save_path0": str(folder / "out"),
        "file_list": ["movie.tif"],
    }
    run_s2p(db=db, settings=settings)
    return folder / "out" / "suite2p"


def test_a_real_run_is_read(run: Path) -> None:
    population = read(run)
    plane = run / "plane0"
    iscell = np.load(plane / "iscell.npy")
    assert population.n_units == int(iscell[:, 0].sum()) >= 8
    assert population.calcium is not None
    assert population.calcium.sampling_rate_hz == 10
    assert population.provenance["versions"]["suite2p_files"].startswith("1.")
    assert population.units["id"].tolist() == [f"plane0_{roi}" for roi in np.flatnonzero(iscell[:, 0])]


def test_dff_of_a_run_rests_on_suite2ps_baseline(run: Path) -> None:
    plane = run / "plane0"
    settings = np.load(plane / "settings.npy", allow_pickle=True).item()
    raw, neuropil = np.load(plane / "F.npy"), np.load(plane / "Fneu.npy")
    corrected = raw - settings["extraction"]["neuropil_coefficient"] * neuropil
    how = settings["dcnv_preprocess"]
    flat = dcnv.preprocess(
        corrected.copy(),
        how["baseline"],
        how["win_baseline"],
        how["sig_baseline"],
        settings["fs"],
        device=CPU,
    )
    base = corrected - flat
    expected = flat / np.maximum(base, 0.05 * raw.mean(axis=1, keepdims=True))
    population = read(run, min_iscell=0.0)
    np.testing.assert_allclose(values(population).T, expected, rtol=1e-4, atol=1e-5)


def test_deconvolution_gives_what_suite2p_saved(run: Path, tmp_path: Path) -> None:
    saved = values(read(run, signal="spks"))
    shutil.copytree(run / "plane0", tmp_path / "plane0", ignore=shutil.ignore_patterns("*.bin", "spks.npy"))
    population = read(tmp_path, signal="spks")
    again = values(population)
    assert any("OASIS" in note for note in population.notes)
    assert again.shape == saved.shape
    assert saved.max() > 0
    np.testing.assert_allclose(again, saved, rtol=1e-3, atol=1e-4 * float(saved.max()))
