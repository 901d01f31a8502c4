"""Every sample and every real recording preprocesses with the numbers that its README states.

One row of `ROWS` is one path, the options it is read with, and what the written file must hold. A path in the
folders that no row covers fails the last test.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from nuclr_cli.data.sessions import open_sessions
from nuclr_cli.data.store import Session, verify

ALL = ("--keep", "all")
SI_LABELS = {
    "brain_region": ["VISp", "VISp", "CA1", "CA1", "DG", "DG", "VISl", ""],
    "cell_type": ["exc", "PV", "exc", "SST", "exc", "", "exc", "exc"],
    "quality": ["good"] * 6 + ["mua", "noise"],
    "KSLabel": ["good"] * 7 + ["mua"],
}
SI_COUNTS = [537, 537, 528, 536, 512, 568, 537, 534]
SI_FIRST_SEGMENT = [301, 292, 279, 317, 296, 339, 308, 303]
# Segments of 20 s and 15 s. Only an analyzer knows their lengths; no format knows when they began.
TO_LAST_SPIKE = [[0, 599_946 / 30_000], [599_946 / 30_000 + 60, (599_946 + 449_935) / 30_000 + 60]]
LENGTHS_KNOWN = [[0, 20], [80, 95]]
PHY_END = [[0, 599_946 / 30_000]]
NWB_STRETCHES = [[0, 20], [25, 50], [60, 120]]
TD_STRETCHES = [[0, 30], [35, 60]]
EVERY_ROI = ("--min-iscell", "0")
AS_STORED = (*EVERY_ROI, "--series", "F0", "--series", "F1", "--option", "dff=as-is")


@dataclass(frozen=True)
class Row:
    """One recording.

    Attributes:
        path: Below the folder of samples and real recordings.
        options: Of the command.
        refused: Words of the error, where it must be refused.
        key: Subject and session.
        ids: Unit ids; a number where only that many are stated.
        intervals: (M, 2) seconds.
        counts: Spikes of each unit; their sum where only that is stated.
        n_frames, frame_rate_hz, offsets_s: Of two-photon data; the offsets unit by unit.
        labels: Column -> label of each unit.
        said: Words that some note or warning of the file has.
    """

    path: str
    options: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    key: tuple[str, str] = ("", "")
    ids: int | list[str] = 0
    intervals: list[list[float]] = field(default_factory=list)
    counts: int | list[int] = 0
    n_frames: int = 0
    frame_rate_hz: float = 0.0
    offsets_s: tuple[float, ...] = ()
    labels: Mapping[str, list[str]] = field(default_factory=dict)
    said: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return " ".join((self.path, *self.options))


def si(name: str, options: tuple[str, ...] = ALL, **more: Any) -> Row:
    """One of the layouts of the same sorting of 8 units."""
    expected = {
        "key": ("mouse1", "2024-01-01"),
        "ids": list("01234567"),
        "counts": SI_COUNTS,
        "intervals": TO_LAST_SPIKE,
        "labels": SI_LABELS,
    }
    return Row(f"samples/si/{name}", options, **{**expected, **more})


def clusters(name: str, **expected: Any) -> Row:
    """A phy or Kilosort folder of the first segment."""
    return Row(f"samples/si/{name}", ALL, key=(name, name), intervals=PHY_END, **expected)


def rois(planes: int, numbers: tuple[int, ...]) -> list[str]:
    return [f"plane{plane}_{roi}" for plane in range(planes) for roi in numbers]


def two_channels(name: str) -> Row:
    """Two planes of a movie with 12 planted cells in each, 4 of them red; Suite2p found 11."""
    return Row(
        f"samples/suite2p/{name}",
        ("--red-label", "PV"),
        key=(name, name),
        ids=rois(2, tuple(range(11))),
        intervals=[[0, 100]],
        n_frames=500,
        frame_rate_hz=5.0,
        offsets_s=(0.0,) * 11 + (0.1,) * 11,
        said=("8 of 22 units are red", "scanned in turn"),
    )


def ophys(name: str, options: tuple[str, ...], numbers: tuple[int, ...], types: list[str], *said: str) -> Row:
    """Two planes of 10 ROIs each; the second is scanned 0.1 s later."""
    n = len(numbers)
    return Row(
        f"samples/nwb/{name}",
        options,
        key=("mouse7", "sess-ophys"),
        ids=rois(2, numbers),
        intervals=[[0, 120]],
        n_frames=600,
        frame_rate_hz=5.0,
        offsets_s=(0.0,) * n + (0.1,) * n,
        labels={"cell_type": types * 2, "brain_region": ["VISp"] * n + ["VISl"] * n},
        said=said,
    )


def ephys(name: str) -> Row:
    """12 units, row 5 without spikes, observed 0-50 s and 60-120 s, of which 20-25 s are invalid."""
    return Row(
        f"samples/nwb/{name}",
        key=("mouse7", "sess-ephys"),
        ids=[str(100 + 3 * row) for row in range(12)],
        intervals=NWB_STRETCHES,
        counts=[827, 845, 832, 849, 849, 0, 856, 845, 843, 829, 833, 844],
        labels={"cell_type": ["exc", "PV", "SST", ""] * 3, "brain_region": ["VISp", "CA1"] * 6},
        said=("1 unit ('115') without spikes", "436 of 9688 spikes lie outside"),
    )


def temporal(name: str) -> Row:
    return Row(
        f"samples/td/{name}",
        key=("mouse1", "s1"),
        ids=[f"s1/unit{row}" for row in range(20)],
        intervals=TD_STRETCHES,
        counts=5484,
        labels={"cell_type": ["exc", "PV"] * 10},
    )


LUPIN: dict[str, Any] = {
    "key": ("sorter_lupin", "sorter_lupin"),
    "ids": ["3", "8", "9", "17", "18", "19", "20"],
    "counts": [461, 463, 2, 462, 428, 455, 408],
}
CELLS, WITHOUT_NAN = (2, 6), (2, 4, 6, 8)

ROWS = (
    si("numpy_folder"),
    si("npz_folder"),
    si("zarr.zarr"),
    si("sorting.npz", key=("sorting", "sorting"), labels={}),
    si("analyzer_folder", intervals=LENGTHS_KNOWN),
    si("analyzer.zarr", intervals=LENGTHS_KNOWN),
    si(
        "numpy_folder",
        (*ALL, "--segment-starts", "100,500", "--duration", "20,15"),
        intervals=[[100, 120], [500, 515]],
    ),
    clusters("phy", ids=list("01234567"), counts=SI_FIRST_SEGMENT),
    clusters(
        "kilosort4_like",
        ids=list("01234567"),
        counts=SI_FIRST_SEGMENT,
        labels={"quality": ["good"] * 6 + ["mua"] * 2},
        said=("2 clusters of the label tables have no spikes and are no units: 8, 9.",),
    ),
    clusters(
        "kilosort4_phy_curated",
        ids=["0", "1", "2", "5", "6", "7", "10"],
        counts=[301, 292, 279, 339, 308, 303, 317 + 296],
        labels={
            "group": ["good", "", "noise", "", "", "", "good"],
            "KSLabel": ["good", "good", "good", "good", "mua", "mua", ""],
            "quality": ["good", "good", "noise", "good", "mua", "mua", "good"],
        },
        said=("4 clusters of the label tables have no spikes and are no units: 3, 4, 8, 9.",),
    ),
    Row("samples/si/sorter_lupin", intervals=[[0, 30]], **LUPIN),
    Row("samples/si/sorter_lupin", ("--trust",), intervals=[[0, 30]], **LUPIN),
    Row("samples/si/sorter_lupin", ("--segment-starts", "250"), intervals=[[250, 280]], **LUPIN),
    Row("samples/si/sorter_failed", refused=("the sorter 'simple' failed: ModuleNotFoundError", "hdbscan")),
    Row("samples/si/sorter_failed", ("--trust",), refused=("the sorter 'simple' failed",)),
    Row(
        "samples/suite2p/v110_1plane",
        key=("v110_1plane", "v110_1plane"),
        ids=rois(1, tuple(range(30))),
        intervals=[[0, 150]],
        n_frames=1500,
        frame_rate_hz=10.0,
        offsets_s=(0.0,) * 30,
    ),
    two_channels("v110_2plane_2chan"),
    two_channels("v0145_2plane_2chan"),
    ephys("ephys.nwb"),
    ephys("ephys.nwb.zarr"),
    ophys("ophys.nwb", (), CELLS, ["other", "PV"], "3 of 5 ROIs", "no cells according to iscell"),
    ophys(
        "ophys.nwb",
        (*EVERY_ROI, "--drop-nan-units"),
        WITHOUT_NAN,
        ["other", "other", "PV", "other"],
        "holds 5 of the 10 ROIs",
        "2 of 10 units",
        "plane0_0, plane1_0",
        "their frames are offset by: plane0 0 s, plane1 0.1 s",
    ),
    Row("samples/nwb/ophys.nwb", EVERY_ROI, refused=("NaN", "plane0_0, plane1_0", "--drop-nan-units")),
    ophys("ophys_transposed.nwb", (), CELLS, ["other", "PV"]),
    ophys(
        "ophys_transposed.nwb",
        AS_STORED,
        tuple(range(10)),
        ["PV", "other", "other"] * 3 + ["PV"],
        "ROIs by frames, 10 by 600; it was turned",
    ),
    Row(
        "samples/nwb/ophys_gap.nwb",
        key=("mouse7", "sess-gap"),
        ids=list("012345"),
        intervals=[[0, 20], [50, 70]],
        n_frames=400,
        frame_rate_hz=10.0,
        offsets_s=(0.0,) * 6,
        labels={"brain_region": ["VISp"] * 6},
    ),
    Row("samples/nwb/no_units.nwb", refused=("neither a units table nor fluorescence",)),
    temporal("spikes_temporaldata.h5"),
    temporal("spikes_h5py.h5"),
    Row(
        "samples/td/calcium_temporaldata.h5",
        key=("m2", "s2"),
        ids=[str(row) for row in range(12)],
        intervals=[[2.5, 32.5]],
        n_frames=300,
        frame_rate_hz=10.0,
        offsets_s=(0.0,) * 12,
    ),
    Row("data/suite2p_real", refused=("--fs HZ",)),
    Row(
        "data/suite2p_real",
        ("--fs", "30"),
        key=("suite2p_real", "suite2p_real"),
        ids=20,
        intervals=[[0, 2000 / 30]],
        n_frames=2000,
        frame_rate_hz=30.0,
        offsets_s=(0.0,) * 20,
        said=("199 of 219 ROIs are no cells",),
    ),
)

#: What lies beside the recordings, and the cultures, which their own table describes.
NO_RECORDINGS = {
    "samples/README.md",
    "data/README.md",
    "samples/suite2p/truth1.npz",
    "samples/suite2p/truth2.npz",
    "data/mea/sessions.csv",
}
CULTURES = "data/mea"

Made = Callable[[Row], Session]
Run = Callable[..., Any]


@pytest.fixture(scope="module")
def made(nuclr: Run, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Session file of a row, written by the command line on the first call."""
    files: dict[str, Path] = {}

    def make(row: Row) -> Session:
        if row.name not in files:
            folder = tmp_path_factory.mktemp("made")
            done = nuclr("preprocess", shared / row.path, *row.options, "-o", folder, "--json")
            assert done.code == 0, done.err
            (source,) = done.json["sources"]
            assert source["status"] == "written"
            (told,) = source["sessions"]
            files[row.name] = Path(told["file"])
        (session,) = open_sessions(files[row.name])
        return session

    return make


def row_of(name: str) -> Row:
    (row,) = (row for row in ROWS if row.name == name)
    return row


@pytest.mark.parametrize("row", [row for row in ROWS if not row.refused], ids=lambda row: row.name)
def test_a_recording_is_written_as_its_readme_says(made: Made, row: Row) -> None:
    session = made(row)
    assert verify(session.path) == []
    assert (session.key.subject, session.key.session) == row.key
    assert row.ids == (session.n_units if isinstance(row.ids, int) else session.unit_ids.tolist())
    regular = 0.01 if "gap" in row.path else 1e-9  # that one has jitter
    np.testing.assert_allclose(session.intervals, row.intervals, rtol=0, atol=regular)
    for column, expected in row.labels.items():
        assert session.label(column).tolist() == expected, column
    sentences = (*session.notes, *session.warnings)
    for words in row.said:
        assert any(words in sentence for sentence in sentences), words
    if row.n_frames:
        calcium = session.calcium
        assert calcium.values.shape == (row.n_frames, session.n_units)
        assert np.isfinite(calcium.values).all()
        assert session.frame_rate_hz == pytest.approx(row.frame_rate_hz, rel=1e-3)
        np.testing.assert_allclose(calcium.time_offset, row.offsets_s, atol=1e-12)
        times = calcium.timestamps
    else:
        times = session.spikes.times
        counts = np.bincount(session.spikes.unit_index, minlength=session.n_units)
        np.testing.assert_array_equal(session.columns["n_spikes"], counts)
        assert row.counts == (len(times) if isinstance(row.counts, int) else counts.tolist())
    assert (np.diff(times) >= 0).all()
    inside = (times[:, None] >= session.intervals[:, 0]) & (times[:, None] <= session.intervals[:, 1])
    assert inside.any(axis=1).all()


@pytest.mark.parametrize("row", [row for row in ROWS if row.refused], ids=lambda row: row.name)
def test_a_recording_that_holds_nothing_usable_is_refused(
    nuclr: Run, shared: Path, tmp_path: Path, row: Row
) -> None:
    done = nuclr("preprocess", shared / row.path, *row.options, "-o", tmp_path / "data", "--json")
    assert done.code == 3
    said = done.json["error"]["what"] + done.json["error"]["fix"]
    for words in row.refused:
        assert words in said
    assert not (tmp_path / "data").exists()


def trains(session: Session) -> dict[str, NDArray[np.float64]]:
    """Unit id -> spike times in seconds."""
    times, index = session.spikes
    return {str(unit): times[index == row] for row, unit in enumerate(session.unit_ids)}


# What a layout cannot hold: .npz has no properties, zarr no object columns.
@pytest.mark.parametrize(
    ("name", "lacks"),
    [
        ("npz_folder", set()),
        ("zarr.zarr", {"cell_type_obj"}),
        ("sorting.npz", None),
        ("analyzer_folder", set()),
        ("analyzer.zarr", {"cell_type_obj"}),
    ],
)
def test_the_same_sorting_is_the_same_in_every_layout(made: Made, name: str, lacks: set[str] | None) -> None:
    first, other = (made(row_of(f"samples/si/{n} --keep all")) for n in ("numpy_folder", name))
    np.testing.assert_array_equal(other.spikes.unit_index, first.spikes.unit_index)
    # Only the start of the second segment may differ: an analyzer knows how long the first one is.
    shift = np.where(first.spikes.times < 50, 0.0, other.intervals[1, 0] - first.intervals[1, 0])
    np.testing.assert_allclose(other.spikes.times, first.spikes.times + shift, rtol=0, atol=1e-9)
    if lacks is None:
        assert set(other.columns) == {"id", "n_spikes"}
        return
    assert set(first.columns) - set(other.columns) == lacks
    for column in set(first.columns) - lacks:
        np.testing.assert_array_equal(other.columns[column], first.columns[column], err_msg=column)


def test_a_merged_cluster_has_the_spikes_of_both(made: Made) -> None:
    curated = trains(made(row_of("samples/si/kilosort4_phy_curated --keep all")))
    before = trains(made(row_of("samples/si/kilosort4_like --keep all")))
    np.testing.assert_array_equal(curated.pop("10"), np.sort(np.r_[before["3"], before["4"]]))
    for unit, times in curated.items():
        np.testing.assert_array_equal(times, before[unit])
    session = made(row_of("samples/si/kilosort4_phy_curated --keep all"))
    assert np.isnan(session.columns["Amplitude"][-1])  # no table knows the merged cluster


def planted(session: Session, rows: NDArray[np.bool_], positions: NDArray[np.float64]) -> NDArray[np.int64]:
    """Planted cell (row of `positions`, y and x in pixels) that each of the units in `rows` is.

    Registration may have moved the whole picture by some pixels.
    """
    here = np.stack([session.columns["y"][rows], session.columns["x"][rows]], axis=1)
    match: NDArray[np.int64] = np.linalg.norm(here[:, None] - positions[None], axis=2).argmin(axis=1)
    shifts = here - positions[match]
    assert np.abs(shifts - np.median(shifts, axis=0)).max() < 4
    assert len(set(match.tolist())) == len(match)
    return match


def test_planted_cells_come_back_with_their_traces(made: Made, shared: Path) -> None:
    session = made(row_of("samples/suite2p/v110_1plane"))
    with np.load(shared / "samples/suite2p/truth1.npz") as truth:
        positions, dff = truth["pos"], truth["dff"]
    assert len(positions) == session.n_units == 30
    match = planted(session, np.ones(30, dtype=np.bool_), positions)
    values = session.calcium.values
    assert values.dtype == np.float32
    correlation = [np.corrcoef(values[:, unit], dff[match[unit]])[0, 1] for unit in range(30)]
    assert np.median(correlation) > 0.998
    assert min(correlation) > 0.95


@pytest.mark.parametrize("name", ["v110_2plane_2chan", "v0145_2plane_2chan"])
def test_the_four_red_cells_of_each_plane_get_the_label(made: Made, shared: Path, name: str) -> None:
    """The first four of those planted in each plane; 1.1.0 itself marks every ROI as red."""
    session = made(row_of(f"samples/suite2p/{name} --red-label PV"))
    with np.load(shared / "samples/suite2p/truth2.npz") as truth:
        positions = truth["pos"]
    labels = session.label("cell_type")
    assert set(labels.tolist()) == {"PV", ""}
    for plane in (0, 1):
        rows = session.columns["plane"] == plane
        match = planted(session, rows, positions[plane])
        assert sorted(match[labels[rows] == "PV"].tolist()) == [0, 1, 2, 3]


def test_two_photon_values_are_those_that_are_stored(made: Made, shared: Path) -> None:
    nwb = shared / "samples" / "nwb"
    session = made(row_of("samples/nwb/ophys.nwb --min-iscell 0 --drop-nan-units"))
    assert session.attributes["indicator"] == "GCaMP6s"
    assert not any("turned" in note for note in session.notes)
    stored = session.calcium.values
    turned = made(row_of(" ".join(("samples/nwb/ophys_transposed.nwb", *AS_STORED)))).calcium.values
    with h5py.File(nwb / "ophys.nwb") as file:
        for plane in (0, 1):
            dff = file[f"processing/ophys/DfOverF/dff{plane}/data"][:]
            np.testing.assert_array_equal(stored[:, 4 * plane : 4 * plane + 4], dff[:, 1:])
            raw = file[f"processing/ophys/Fluorescence/F{plane}/data"][:]
            np.testing.assert_array_equal(turned[:, 10 * plane : 10 * plane + 10], raw)
    gap = made(row_of("samples/nwb/ophys_gap.nwb")).calcium
    with h5py.File(nwb / "ophys_gap.nwb") as file:
        series = file["processing/ophys/DfOverF/RoiResponseSeries"]
        np.testing.assert_array_equal(gap.timestamps, series["timestamps"][:])
        np.testing.assert_array_equal(gap.values, series["data"][:])
    (pause,) = np.flatnonzero(np.diff(gap.timestamps) > 1)
    assert gap.timestamps[pause + 1] - gap.timestamps[pause] == pytest.approx(30.1, abs=0.01)


def test_the_cells_of_the_real_recording_are_those_that_were_chosen(made: Made, shared: Path) -> None:
    session = made(row_of("data/suite2p_real --fs 30"))
    chosen = np.load(shared / "data/suite2p_real/plane0/iscell.npy")
    assert len(chosen) == 219
    assert session.columns["roi"].tolist() == np.flatnonzero(chosen[:, 0]).tolist()


def test_the_cultures_are_those_of_their_table(nuclr: Run, shared: Path, tmp_path: Path) -> None:
    manifest = shared / CULTURES / "sessions.csv"
    with manifest.open(newline="") as file:
        rows = list(csv.DictReader(file))
    command = ("--manifest", manifest, "--broadcast", "brain_region", "-o", tmp_path, "--json")
    done = nuclr("preprocess", *command)
    assert done.code == 0, done.err
    sources = {source["path"]: source for source in done.json["sources"]}
    assert len(rows) == len(sources) == 23
    assert sum("zarr" in source["detected"] for source in sources.values()) == 11
    sessions = {(s.key.subject, s.key.session): s for s in open_sessions(tmp_path)}
    assert len({subject for subject, _ in sessions}) == 8
    for row in rows:
        assert sources[str((manifest.parent / row["path"]).resolve())]["status"] == "written"
        session = sessions[row["subject"], row["session"]]
        assert verify(session.path) == []
        assert session.n_units == int(row["n_units"])
        assert 22 <= session.n_units <= 59
        times = session.spikes.times
        assert len(times) == int(row["n_spikes"])
        assert session.duration_s == pytest.approx(float(row["duration_s"]))
        samples = times * 25_000
        np.testing.assert_allclose(samples, np.round(samples), rtol=0, atol=1e-3)
        assert set(session.label("brain_region").tolist()) == {row["brain_region"]}
        assert {"electrode", "x_um", "y_um"} <= set(session.columns)
        assert session.attributes["age_div"] == row["age_div"]


def uncovered(folder: Path, top: Path, covered: set[str]) -> Iterator[str]:
    """Paths below `folder` that are neither covered nor on the way to something that is."""
    for path in sorted(folder.iterdir()):
        name = path.relative_to(top).as_posix()
        if name in covered:
            continue
        if path.is_dir() and any(other.startswith(f"{name}/") for other in covered):
            yield from uncovered(path, top, covered)
        else:
            yield name


def test_every_sample_and_recording_has_a_row(shared: Path) -> None:
    covered = {row.path for row in ROWS} | NO_RECORDINGS
    with (shared / CULTURES / "sessions.csv").open(newline="") as file:
        covered |= {f"{CULTURES}/{row['path']}" for row in csv.DictReader(file)}
    for top in ("samples", "data"):
        assert list(uncovered(shared / top, shared, covered)) == []
