"""What `nuclr info` says about sessions, and what it draws."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nuclr_cli.api import CalciumTraces, Population, Spikes
from nuclr_cli.data.store import SourceRecord, write_population
from nuclr_cli.errors import InputError
from nuclr_cli.workflows.info import InfoConfig, info

Run = Callable[..., Any]
SOURCE = SourceRecord("x", "r", "d")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spikes session (rates 1, 2, 3 Hz and a silent unit) and a calcium one, each with a gap of 20 s."""
    folder = tmp_path_factory.mktemp("data")
    intervals = np.array([[0.0, 40.0], [60.0, 120.0]])
    trains = [np.linspace(0.01, 99.9, 100 * rate) for rate in (1, 2, 3)]
    times = np.concatenate(trains)
    times = np.where(times > 40, times + 20, times)
    unit = np.repeat([0, 1, 2], [100, 200, 300])
    order = np.argsort(times, kind="stable")
    units = {"id": np.array(["a", "b", "c", "d"]), "brain_region": np.array(["$CA_1$", "DG", "DG", ""])}
    spikes = Spikes(times[order], unit[order])
    write_population(
        Population("m", "ephys", units, intervals, spikes=spikes), folder / "e.h5", source=SOURCE
    )
    frames = np.r_[np.arange(400) / 10, 60 + np.arange(600) / 10]
    values = np.random.default_rng(0).normal(size=(1000, 2)).astype(np.float32)
    traces = CalciumTraces(values, frames, 10.0, np.zeros(2))
    units = {"id": np.array(["x", "y"])}
    write_population(
        Population("m", "imaging", units, intervals, calcium=traces), folder / "i.h5", source=SOURCE
    )
    return folder


def pixels(path: Path) -> NDArray[Any]:
    from matplotlib.image import imread

    return np.asarray(imread(path))


def test_rates_and_gaps_are_numbers(nuclr: Run, data: Path) -> None:
    done = nuclr("info", data, "--json")
    ephys, imaging = done.json["sessions"]
    assert ephys["median_rate_hz"] == pytest.approx(2.0)
    assert ephys["n_silent"] == 1
    assert ephys["minutes"] == pytest.approx(100 / 60)
    assert (ephys["n_gaps"], ephys["gap_s"]) == (1, 20.0)
    assert ephys["frame_rate_hz"] is None
    assert (imaging["frame_rate_hz"], imaging["median_rate_hz"]) == (10.0, None)
    assert (imaging["n_gaps"], imaging["gap_s"]) == (1, 20.0)
    assert ephys["label_history"] == []
    assert done.json["plots"] == []
    shown = nuclr("info", data)
    assert "2 Hz (1 silent)" in shown.out
    assert "10 frames/s" in shown.out
    assert "1: 20 s" in shown.out
    assert "without spikes" in shown.out


def test_one_damaged_file_does_not_hide_the_others(nuclr: Run, data: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(data, tmp_path / "data")
    (folder / "e.h5").write_bytes((folder / "e.h5").read_bytes()[:3000])
    shown = nuclr("info", folder)
    assert shown.code == 3
    assert "imaging" in shown.out
    assert "1 subject, 1 session, 2 units, 1.7 minutes" in shown.out
    assert "warning" in shown.err
    assert f"1 of 2 files cannot be used:\n  {folder / 'e.h5'}" in shown.err
    told = nuclr("info", folder, "--verify", "--plot", tmp_path / "pictures", "--json")
    assert told.code == 3
    assert [session["session"] for session in told.json["sessions"]] == ["imaging"]
    (file,) = told.json["unusable"]
    assert file["file"] == str(folder / "e.h5")
    assert file["what"]
    assert [Path(path).name for path in told.json["plots"]] == ["i.png"]
    (folder / "i.h5").write_bytes(b"")
    nothing = nuclr("info", folder, "--json")
    assert nothing.code == 3
    assert f"None of the 2 files of {folder} can be read" in nothing.json["error"]["what"]


def test_one_of_a_kind_is_said_in_the_singular(nuclr: Run, tmp_path: Path) -> None:
    spikes = Spikes(np.linspace(0.1, 59.9, 100), np.zeros(100, dtype=np.int64))
    units = {"id": np.array(["a"])}
    one = Population("m", "d", units, np.array([[0.0, 60.0]]), spikes=spikes)
    write_population(one, tmp_path / "a.h5", source=SOURCE)
    shown = nuclr("info", tmp_path, "--verify")
    assert "1 subject, 1 session, 1 unit, 1.0 minutes" in shown.out
    assert "1 file matches its checksums" in shown.err


def test_rates_of_other_writers_are_counted(shared: Path) -> None:
    (summary,) = info(InfoConfig(shared / "samples" / "td" / "spikes_temporaldata.h5")).sessions
    assert summary.median_rate_hz is not None
    assert 0.1 < summary.median_rate_hz < 100


def test_every_session_is_drawn_with_its_gap(nuclr: Run, data: Path, tmp_path: Path) -> None:
    done = nuclr("info", data, "--plot", "pictures", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    assert [Path(path).name for path in done.json["plots"]] == ["e.png", "i.png"]
    assert "Warning" not in done.err
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["e.png", "i.png"]
    gap = np.array([0xF2, 0xD9, 0xC4]) / 255
    for name in ("e.png", "i.png"):
        picture = pixels(tmp_path / "pictures" / name)
        assert picture.shape[1] > 1000
        shaded = (np.abs(picture[..., :3] - gap) < 0.01).all(axis=-1)
        columns = np.flatnonzero(shaded.sum(axis=0) > 50)
        assert 0.1 < len(columns) / picture.shape[1] < 0.2  # 20 of 120 s, and the margins


def test_a_real_culture_is_drawn(nuclr: Run, shared: Path, tmp_path: Path) -> None:
    source = shared / "data" / "mea" / "2006-10-02" / "TC92-NB-C57-DIV18_A"
    assert nuclr("preprocess", source, cwd=tmp_path).code == 0
    done = nuclr("info", "--plot", "culture.png", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "1 plot in culture.png" in done.err
    picture = pixels(tmp_path / "culture.png")
    dark = (picture[..., :3] < 0.4).all(axis=-1)
    assert dark.mean() > 0.01


@pytest.mark.parametrize(
    ("plot", "message"),
    [("all.png", "is one file, and .* holds 2 sessions"), ("all.pdf", "plots are written as PNG")],
)
def test_a_file_that_cannot_hold_the_plots_is_refused(
    data: Path, tmp_path: Path, plot: str, message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        info(InfoConfig(data, plot=tmp_path / plot))
    assert "--plot" in caught.value.fix
    assert not list(tmp_path.iterdir())


def test_one_unit_and_one_spike_are_drawn(tmp_path: Path) -> None:
    spikes = Spikes(np.array([0.5]), np.array([0]))
    population = Population("m", "d", {"id": np.array(["a"])}, np.array([[0.0, 1.0]]), spikes=spikes)
    write_population(population, tmp_path / "a.h5", source=SOURCE)
    record = info(InfoConfig(tmp_path / "a.h5", plot=tmp_path / "a.png"))
    assert record.plots == (tmp_path / "a.png",)
    assert pixels(tmp_path / "a.png").size


def test_files_of_the_same_name_get_pictures_of_their_own(tmp_path: Path) -> None:
    spikes = Spikes(np.array([0.5]), np.array([0]))
    for subject in ("m1", "m2"):
        population = Population(subject, "d", {"id": np.array(["a"])}, np.array([[0.0, 1.0]]), spikes=spikes)
        write_population(population, tmp_path / "data" / subject / "day.h5", source=SOURCE)
    record = info(InfoConfig(tmp_path / "data", plot=tmp_path / "pictures"))
    assert [path.name for path in record.plots] == ["m1-day.png", "m2-day.png"]
    assert all(path.is_file() for path in record.plots)
