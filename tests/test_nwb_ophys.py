"""Fluorescence series of NWB files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import hdmf_zarr
import numpy as np
import pynwb
import pytest
from numpy.typing import NDArray
from pynwb import ophys
from scipy.ndimage import gaussian_filter1d, maximum_filter1d, minimum_filter1d

from nuclr_cli.api import CalciumTraces, MissingPackageError, Population, ReaderError, ReadOptions
from nuclr_nwb import NwbReader

N_FRAMES, N_ROIS, FS_HZ = 400, 4, 10.0


@pytest.fixture(scope="session")
def samples(shared: Path) -> Path:
    return shared / "samples" / "nwb"


def read(path: Path, **options: Any) -> Population:
    (population,) = NwbReader().read(path, ReadOptions(**options))
    return population


def traces_of(population: Population) -> CalciumTraces:
    assert population.calcium is not None
    assert population.calcium.values.dtype == np.float32
    return population.calcium


def fluorescence(n_frames: int = N_FRAMES, n_rois: int = N_ROIS) -> NDArray[np.float32]:
    """Positive traces with transients and a slow drift."""
    rng = np.random.default_rng(5)
    events = rng.poisson(0.02, (n_frames, n_rois)).astype(np.float64)
    kernel = np.exp(-np.arange(50) / 10.0)
    calcium = np.apply_along_axis(lambda e: np.convolve(e, kernel)[:n_frames], 0, events)
    drift = np.linspace(0, 20, n_frames)[:, None]
    return (100 + drift + 50 * calcium + rng.normal(0, 1, calcium.shape)).astype(np.float32)


class Builder:
    """A file with imaging planes and series on them."""

    def __init__(self) -> None:
        self.nwb = pynwb.NWBFile("made by a test", "id", datetime(2024, 1, 1, tzinfo=UTC))
        self.device = self.nwb.create_device("microscope")
        self.module = self.nwb.create_processing_module("ophys", "d")
        self.segmentation = ophys.ImageSegmentation()
        self.module.add(self.segmentation)
        self.tables: dict[str, Any] = {}
        self.containers: dict[str, Any] = {}

    def plane(
        self, name: str, n_rois: int = N_ROIS, location: str = "VISp", **columns: Sequence[Any]
    ) -> Builder:
        plane = self.nwb.create_imaging_plane(
            name=name,
            optical_channel=ophys.OpticalChannel("channel", "d", 500.0),
            description="d",
            device=self.device,
            excitation_lambda=900.0,
            indicator="GCaMP6s",
            location=location,
        )
        table = self.segmentation.create_plane_segmentation(
            description="d", imaging_plane=plane, name=f"rois_{name}"
        )
        for roi in range(n_rois):
            table.add_roi(pixel_mask=[(roi, 0, 1.0)], id=10 + roi)
        for column, values in columns.items():
            table.add_column(column, "d", data=list(values))
        self.tables[name] = table
        return self

    def series(
        self,
        name: str,
        plane: str,
        data: NDArray[Any],
        *,
        container: str = "Fluorescence",
        rows: Sequence[int] | None = None,
        **more: Any,
    ) -> Builder:
        if container not in self.containers:
            kind = ophys.DfOverF if container == "DfOverF" else ophys.Fluorescence
            self.containers[container] = kind(name=container)
            self.module.add(self.containers[container])
        chosen = list(range(len(self.tables[plane].id))) if rows is None else list(rows)
        if "timestamps" not in more:
            more.setdefault("rate", FS_HZ)
            more.setdefault("starting_time", 0.0)
        self.containers[container].create_roi_response_series(
            name=name,
            data=data,
            rois=self.tables[plane].create_roi_table_region(region=chosen, description="d"),
            unit=more.pop("unit", "a.u."),
            **more,
        )
        return self

    def save(self, path: Path) -> Path:
        with pynwb.NWBHDF5IO(str(path), "w") as io:
            io.write(self.nwb)
        return path


def expected_dff(raw: NDArray[np.float32], fs_hz: float) -> NDArray[Any]:
    """The recipe, written out once more, unit by unit in float64."""
    window = int(60 * fs_hz) | 1
    columns = []
    for trace in raw.T.astype(np.float64):
        smooth = gaussian_filter1d(trace, 10, mode="nearest", truncate=3)
        low = maximum_filter1d(minimum_filter1d(smooth, window, mode="nearest"), window, mode="nearest")
        columns.append((trace - low) / np.maximum(low, 0.05 * trace.mean()))
    return np.stack(columns, axis=1)


def test_rois_that_are_no_cells_are_left_out_and_named(samples: Path) -> None:
    population = read(samples / "ophys.nwb")
    assert population.units["id"].tolist() == ["plane0_2", "plane0_6", "plane1_2", "plane1_6"]
    assert any("3 of 5 ROIs" in note and "0, 4, 8" in note for note in population.notes)
    with pytest.raises(ReaderError, match="none of 5 ROIs is a cell"):
        read(samples / "ophys.nwb", min_iscell=0.99)
    with pytest.raises(ReaderError, match="no cell probabilities"):
        read(samples / "ophys_gap.nwb", min_iscell=0.5)


def test_square_data_is_said(tmp_path: Path) -> None:
    raw = fluorescence(6, 6)
    path = Builder().plane("p", 6).series("F", "p", raw).save(tmp_path / "a.nwb")
    population = read(path, extra={"dff": "as-is"})
    np.testing.assert_array_equal(traces_of(population).values, raw)
    assert any("as many frames as ROIs (6)" in note for note in population.notes)


def test_raw_fluorescence_becomes_dff(tmp_path: Path) -> None:
    raw = fluorescence(2400, 40)
    path = Builder().plane("p", 40).series("F", "p", raw).save(tmp_path / "a.nwb")
    population = read(path)
    assert population.units["id"].tolist() == [str(10 + roi) for roi in range(40)]
    np.testing.assert_allclose(traces_of(population).values, expected_dff(raw, FS_HZ), atol=2e-4)
    assert any("running minimum and maximum over 60 s" in note for note in population.notes)


def test_dff_is_preferred_and_series_chooses(tmp_path: Path) -> None:
    raw = fluorescence()
    builder = Builder().plane("p").series("dff", "p", raw / 100 - 1, container="DfOverF")
    path = (
        builder.series("F", "p", raw)
        .series("spks", "p", raw / 7, container="Deconvolved")
        .save(tmp_path / "a.nwb")
    )
    preferred = read(path)
    np.testing.assert_array_equal(traces_of(preferred).values, raw / 100 - 1)
    assert any("not read" in note and "Fluorescence/F" in note for note in preferred.notes)
    for name in ("F", "Fluorescence/F", "/processing/ophys/Fluorescence/F"):
        np.testing.assert_allclose(
            traces_of(read(path, series=(name,))).values, expected_dff(raw, FS_HZ), atol=2e-4
        )
    deconvolved = read(path, signal="spks")
    np.testing.assert_array_equal(traces_of(deconvolved).values, raw / 7)
    assert deconvolved.provenance["signal"] == "spks"
    with pytest.raises(ReaderError, match=r"no series 'G'; it has: .*DfOverF/dff \(dF/F\)"):
        read(path, series=("G",))


def test_two_series_on_the_same_rois_are_ambiguous(tmp_path: Path) -> None:
    raw = fluorescence()
    path = (
        Builder().plane("p").series("first", "p", raw).series("second", "p", raw + 1).save(tmp_path / "a.nwb")
    )
    with pytest.raises(ReaderError, match=r"2 series hold raw fluorescence.*first.*second") as caught:
        read(path)
    assert "--series processing/ophys/Fluorescence/first" in caught.value.fix
    chosen = caught.value.fix.rpartition("--series ")[2]
    np.testing.assert_allclose(
        traces_of(read(path, series=(chosen,))).values, expected_dff(raw, FS_HZ), atol=2e-4
    )


def test_deconvolution_needs_suite2p(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "suite2p", None)
    path = Builder().plane("p").series("F", "p", fluorescence()).save(tmp_path / "a.nwb")
    with pytest.raises(MissingPackageError, match="suite2p"):
        read(path, signal="spks")
    with pytest.raises(ReaderError, match="tau=soon is no decay time"):
        read(path, signal="spks", extra={"tau": "soon"})
    only_dff = (
        Builder().plane("p").series("d", "p", fluorescence(), container="DfOverF").save(tmp_path / "b.nwb")
    )
    with pytest.raises(ReaderError, match="neither deconvolved nor raw fluorescence"):
        read(only_dff, signal="spks")


def test_neuropil_is_not_taken_for_signal(tmp_path: Path) -> None:
    raw = fluorescence()
    builder = Builder().plane("p").series("F", "p", raw).series("Neuropil", "p", raw / 2)
    population = read(builder.save(tmp_path / "a.nwb"))
    np.testing.assert_allclose(traces_of(population).values, expected_dff(raw, FS_HZ), atol=2e-4)
    assert any("neuropil traces too; they were not subtracted" in note for note in population.notes)


def test_rois_are_rows_of_the_table_in_any_order(tmp_path: Path) -> None:
    raw = fluorescence(N_FRAMES, 3)
    builder = Builder().plane("p", 6, cell_type=["a", "b", "c", "d", "e", "f"])
    path = builder.series("F", "p", raw, rows=[4, 0, 2]).save(tmp_path / "a.nwb")
    population = read(path, extra={"dff": "as-is"})
    assert population.units["id"].tolist() == ["14", "10", "12"]
    assert population.units["cell_type"].tolist() == ["e", "a", "c"]
    np.testing.assert_array_equal(traces_of(population).values, raw)
    assert any("holds 3 of the 6 ROIs" in note for note in population.notes)


def test_conversion_and_offset_are_applied(tmp_path: Path) -> None:
    counts = (fluorescence() * 10).astype(np.int16)
    builder = Builder().plane("p").series("F", "p", counts, conversion=0.5, offset=3.0)
    population = read(builder.save(tmp_path / "a.nwb"), extra={"dff": "as-is"})
    np.testing.assert_allclose(traces_of(population).values, counts * 0.5 + 3.0)
    assert any("times 0.5, plus 3" in note for note in population.notes)


@pytest.mark.parametrize(
    ("second", "n_frames"),
    [({"rate": 7.0}, N_FRAMES), ({}, N_FRAMES - 1), ({"starting_time": 5.0}, N_FRAMES)],
    ids=["rate", "length", "start"],
)
def test_planes_with_other_frames_are_populations_of_their_own(
    tmp_path: Path, second: dict[str, Any], n_frames: int
) -> None:
    builder = Builder().plane("shallow").plane("deep", location="unknown")
    builder.series("F0", "shallow", fluorescence()).series("F1", "deep", fluorescence(n_frames), **second)
    populations = list(NwbReader().read(builder.save(tmp_path / "a.nwb"), ReadOptions()))
    assert [p.population for p in populations] == ["shallow", "deep"]
    assert [len(traces_of(p).values) for p in populations] == [N_FRAMES, n_frames]
    assert all(p.units["id"].tolist() == ["10", "11", "12", "13"] for p in populations)
    assert "brain_region" not in populations[1].units
    assert any("population of its own" in note for note in populations[0].notes)


def test_times_come_from_the_user_where_the_file_has_none(tmp_path: Path) -> None:
    raw, path = fluorescence(), tmp_path / "a.nwb"
    Builder().plane("p").series("F", "p", raw).save(path)
    with pytest.raises(ReaderError, match="10 Hz, but --fs says 30 Hz"):
        read(path, fs_hz=30.0)
    times = np.arange(N_FRAMES) / 30.0 + 2.0
    np.save(tmp_path / "times.npy", times)
    stamped = read(path, timestamps=tmp_path / "times.npy")
    np.testing.assert_array_equal(traces_of(stamped).timestamps, times)
    assert traces_of(stamped).sampling_rate_hz == pytest.approx(30.0)
    np.save(tmp_path / "short.npy", times[:-3])
    with pytest.raises(ReaderError, match="397 times for 400 frames"):
        read(path, timestamps=tmp_path / "short.npy")
    with h5py.File(path, "a") as file:
        del file["processing/ophys/Fluorescence/F/starting_time"]
    with pytest.raises(ReaderError, match="neither timestamps nor a frame rate"):
        read(path)
    assert traces_of(read(path, fs_hz=25.0)).sampling_rate_hz == 25.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: np.where(np.arange(len(t)) == 5, np.nan, t), "1 of 400 frame times are NaN"),
        (lambda t: np.where(np.arange(len(t)) == 5, t[3], t), "1 of 400 frame times are not later"),
        (lambda t: t[:-1], "399 times for 400 frames"),
        (lambda t: t * 1e6, r"the frame rate is 1e-05 Hz"),
    ],
)
def test_impossible_frame_times_are_refused(
    tmp_path: Path, change: Callable[[NDArray[Any]], NDArray[Any]], message: str
) -> None:
    times = np.arange(N_FRAMES) / FS_HZ
    path = tmp_path / "a.nwb"
    Builder().plane("p").series("F", "p", fluorescence(), timestamps=times).save(path)
    with h5py.File(path, "a") as file:
        series = file["processing/ophys/Fluorescence/F"]
        del series["timestamps"]
        series["timestamps"] = change(times)
    with pytest.raises(ReaderError, match=message):
        read(path)


def test_values_that_do_not_fit_their_rois_are_refused(tmp_path: Path) -> None:
    builder = Builder().plane("p").series("F", "p", fluorescence(N_FRAMES, 3))
    with pytest.raises(ReaderError, match=r"shape \(400, 3\), expected numbers, frames by 4 ROIs"):
        read(builder.save(tmp_path / "a.nwb"))


def test_values_around_zero_are_not_divided_by(tmp_path: Path) -> None:
    values = fluorescence() - fluorescence().mean(axis=0) - 1
    path = Builder().plane("p").series("F", "p", values).save(tmp_path / "a.nwb")
    with pytest.raises(ReaderError, match="mean fluorescence of 4 of 4 units is not above 0") as caught:
        read(path)
    assert "--option dff=as-is" in caught.value.fix
    np.testing.assert_array_equal(traces_of(read(path, extra={"dff": "as-is"})).values, values)


def test_invalid_times_are_left_out(tmp_path: Path) -> None:
    builder = Builder().plane("p").series("d", "p", fluorescence(), container="DfOverF")
    builder.nwb.add_invalid_time_interval(start_time=10.0, stop_time=12.0)
    population = read(builder.save(tmp_path / "a.nwb"))
    np.testing.assert_array_equal(population.intervals, [[0, 10], [12, 40]])
    assert len(traces_of(population).timestamps) == N_FRAMES - 20
    assert any("20 of 400 frames lie in invalid_times" in note for note in population.notes)


def test_units_and_traces_of_one_file_are_two_populations(tmp_path: Path) -> None:
    builder = Builder().plane("p").series("d", "p", fluorescence(), container="DfOverF")
    builder.nwb.add_unit(spike_times=[1.0, 2.0, 3.0])
    path = builder.save(tmp_path / "a.nwb")
    spikes, calcium = NwbReader().read(path, ReadOptions())
    assert (spikes.population, spikes.modality) == ("ephys", "spikes")
    assert (calcium.population, calcium.modality) == ("ophys", "calcium")
    assert (spikes.subject, spikes.session) == (calcium.subject, calcium.session)
    with h5py.File(path, "a") as file:
        del file["units"]
        file["units"] = h5py.ExternalLink("sorted.nwb", "/units")
    alone = read(path)
    assert alone.modality == "calcium"
    assert any("link to sorted.nwb:/units" in warning for warning in alone.warnings)


def test_traces_in_zarr_equal_those_in_hdf5(tmp_path: Path) -> None:
    path = Builder().plane("p").series("F", "p", fluorescence()).save(tmp_path / "a.nwb")
    with (
        pynwb.NWBHDF5IO(str(path), "r") as source,
        hdmf_zarr.NWBZarrIO(str(tmp_path / "a.nwb.zarr"), mode="w") as target,
    ):
        target.export(src_io=source, write_args={"link_data": False})
    first, second = read(path), read(tmp_path / "a.nwb.zarr")
    np.testing.assert_array_equal(traces_of(first).values, traces_of(second).values)
    assert {k: v.tolist() for k, v in first.units.items()} == {k: v.tolist() for k, v in second.units.items()}
