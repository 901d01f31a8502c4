"""Files as the pipelines of four public data sets write them, through `nuclr preprocess` and back.

The layouts repeat what these pipelines hand to the temporaldata library (nerdslab/nuclr @faa93b9, folder
preprocess/): steinmetz_2019/prepare_data.py, allen_vc_2019_vis/prepare_data.py,
ibl_bwm/prepare_data.py and ibl_split_probes.py, bugeon/prepare_data.py; and brainsets' own
allen_visual_coding_ophys_2016/pipeline.py (torch_brain 0.2.1). The activity is random.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import temporaldata
from numpy.typing import NDArray
from temporaldata import ArrayDict, Data, Interval, IrregularTimeSeries, RegularTimeSeries

from nuclr_cli.api import Population, ReadOptions
from nuclr_cli.data.session import Session
from nuclr_cli.data.sessions import open_sessions
from nuclr_cli.data.store import verify
from nuclr_cli.workflows.preprocess import PreprocessConfig, preprocess
from nuclr_temporaldata import TemporaldataReader

N_UNITS = 12


def described(brainset: str, subject: dict[str, Any], session: str) -> dict[str, Data]:
    """The describing groups that every pipeline writes; None and enums are what their serialisers make."""
    return {
        "brainset": Data(
            id=brainset,
            origin_version="0.0.0",
            derived_version="1.0.0",
            source="https://x.org",
            description="d",
        ),
        "subject": Data(age=None, **subject) if "age" not in subject else Data(**subject),
        "session": Data(id=session, recording_date="2020-01-31 00:00:00"),
    }


def save(data: Data, path: Path) -> Path:
    with h5py.File(path, "w") as file:
        data.to_hdf5(file)
    return path


def random_spikes(start: float = 0.2, end: float = 600.2) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rng = np.random.default_rng(5)
    times = np.sort(rng.uniform(start, end, 20 * N_UNITS * 60))
    return times, rng.integers(0, N_UNITS, len(times))


def steinmetz(path: Path) -> Path:
    times, units = random_spikes(start=-2.0)
    spikes = IrregularTimeSeries(timestamps=times, unit_index=units, domain="auto")
    spikes.sort()
    spikes = spikes.slice(0, spikes.timestamps.max())
    table = ArrayDict(
        id=np.array([f"cori_20161214_u{x}" for x in range(N_UNITS)]),
        probe_id=np.arange(N_UNITS) % 2,
        channel=np.arange(N_UNITS),
        depths=np.arange(N_UNITS) * 20,
    )
    table.brain_area = np.array(["VISp", "CA1", "root"] * 4, dtype=object)  # as a pandas column comes
    table.ccf_ap = np.linspace(0, 1, N_UNITS)
    names = described("steinmetz_2019", {"id": "cori", "species": "UNKNOWN"}, "cori_20161214")
    return save(Data(**names, spikes=spikes, units=table, domain=spikes.domain), path)


def allen(path: Path) -> Path:
    times, units = random_spikes()
    spikes = IrregularTimeSeries(timestamps=times, unit_index=units, types=np.ones(len(times)), domain="auto")
    invalid = Interval(0, 0)
    invalid |= Interval(100.0, 120.0)
    spikes = spikes.slice(0, 550.0)  # five minutes before the optogenetic stimulation
    table = ArrayDict(
        id=np.array([str(950_000_000 + x) for x in range(N_UNITS)]),
        count=np.bincount(units, minlength=N_UNITS),
        probe_id=np.repeat([810755797, 810755799], N_UNITS // 2),
        area_name=np.array(["VISp", "VISl"] * 6),
        mean_waveform_on_peak_channel=np.random.default_rng(0).normal(size=(N_UNITS, 82)),
    )
    subject = {"id": "718643564", "species": "MUS_MUSCULUS", "age": 121.0, "sex": "MALE"}
    subject["genotype"] = "Sst-IRES-Cre/wt;Ai32/wt"
    names = described("allen_vc_2019_vis", subject, "715093703")
    domain = spikes.domain.difference(invalid)
    return save(Data(**names, spikes=spikes, units=table, domain=domain, invalid_interval=invalid), path)


def ibl_units() -> ArrayDict:
    return ArrayDict(
        id=np.array([f"0b5a{x:04d}-uuid" for x in range(N_UNITS)]),
        acronym=np.array(["CA1", "PO", "LP"] * 4),
        pid=np.repeat(["pid-a", "pid-b"], N_UNITS // 2),
        label=np.ones(N_UNITS),
        ks2_label=np.array(["good"] * N_UNITS),
    )


def ibl(path: Path) -> Path:
    times, units = random_spikes()
    spikes = IrregularTimeSeries(timestamps=times, unit_index=units, domain="auto")
    names = described(
        "ibl_brainwide_map_qc", {"id": "KS014", "species": "MUS_MUSCULUS", "sex": "MALE"}, "eid7"
    )
    device = Data(id="KS014_20191210", recording_tech="UTAH_ARRAY_SPIKES")
    domain = Interval(spikes.domain.start[0], spikes.domain.end[0] - 300.0)
    return save(Data(**names, device=device, spikes=spikes, units=ibl_units(), domain=domain), path)


def ibl_probe(path: Path) -> Path:
    """One probe of a session, with a dropout; the pipeline's margins of a second put spikes outside."""
    times, units = random_spikes(start=3.4)
    mine = (units < N_UNITS // 2) & ~((times > 200) & (times < 230))
    times, units = times[mine], units[mine]
    invalid = Interval(0.0, 0.0)
    for second, count in enumerate(np.bincount(np.floor(times).astype(int))):
        if count == 0:
            invalid |= Interval(second - 1.0, second + 2.0)
    valid = Interval(times[0], times[-1]).difference(invalid.coalesce(1.0))
    spikes = IrregularTimeSeries(timestamps=times, unit_index=units, domain=valid)
    table = ibl_units().select_by_mask(np.arange(N_UNITS) < N_UNITS // 2)
    names = described("ibl_brainwide_map_qc_probes", {"id": "KS014", "species": "MUS_MUSCULUS"}, "eid7_p0")
    return save(Data(**names, spikes=spikes, units=table, domain=valid), path)


def bugeon(path: Path) -> Path:
    """Three stimulus blocks an hour apart; the units table is called units."""
    rng = np.random.default_rng(2)
    blocks = [
        IrregularTimeSeries(
            timestamps=1.3 + np.cumsum(0.2334 + rng.normal(0, 1e-3, 300)) + i * 3600,
            df_over_f=rng.normal(size=(300, N_UNITS)),
            domain="auto",
        )
        for i in range(3)
    ]
    domain = blocks[0].domain | blocks[1].domain | blocks[2].domain
    frames = np.concatenate([block.df_over_f for block in blocks])
    traces = IrregularTimeSeries(
        timestamps=np.concatenate([block.timestamps for block in blocks]),
        df_over_f=frames,
        df_over_f_norm=frames / np.percentile(frames, 99.0),
        domain=domain,
    )
    table = ArrayDict(
        id=np.array([f"sb025_20190730_u{x}" for x in range(N_UNITS)]),
        ttype=np.array(["Pvalb-Tpbg", "EC", "Sst-Npy"] * 4),
        depth=np.linspace(0, 300, N_UNITS),
        rf_center_xvis=np.full(N_UNITS, np.nan),
        ei_class=np.array(["IN", "EC", "IN"] * 4),
        subclass=np.array(["Pvalb", "unknown", "Sst"] * 4),
    )
    names = described("bugeon_transcriptomic_2022", {"id": "SB025", "species": "UNKNOWN"}, "sb025_20190730")
    return save(Data(**names, units=table, calcium_traces=traces, domain=domain), path)


def allen_ophys(path: Path) -> Path:
    rng = np.random.default_rng(3)
    frames = rng.normal(size=(3000, N_UNITS))
    traces = RegularTimeSeries(df_over_f=frames, sampling_rate=30.08, domain_start=11.7)
    rois = ArrayDict(
        id=(540_000_000 + np.arange(N_UNITS)).astype(str), imaging_plane_xy=rng.normal(size=(N_UNITS, 2))
    )
    subject = {
        "id": "511510667",
        "species": "MUS_MUSCULUS",
        "sex": "male",
        "age": 104.0,
        "cre_line": "Cux2_CreERT2",
    }
    running = IrregularTimeSeries(
        timestamps=np.arange(11.7, 60), running_speed=np.ones((49, 1), dtype=np.float32), domain="auto"
    )
    return save(
        Data(
            **described("allen_visual_coding_ophys_2016", subject, "501474098"),
            device=Data(
                id="501474098", recording_tech="TWO_PHOTON_IMAGING", imaging_depth=175, target_area="VISp"
            ),
            calcium_traces=traces,
            rois=rois,
            running=running,
            domain=traces.domain,
            drifting_gratings_domain=Interval(20.0, 40.0),
            train_domain=Interval(20.0, 30.0),
        ),
        path,
    )


LAYOUTS = {
    "steinmetz": (steinmetz, "cori", "cori_20161214"),
    "allen": (allen, "718643564", "715093703"),
    "ibl": (ibl, "KS014", "eid7"),
    "ibl_probe": (ibl_probe, "KS014", "eid7_p0"),
    "bugeon": (bugeon, "SB025", "sb025_20190730"),
    "allen_ophys": (allen_ophys, "511510667", "501474098"),
}


def preprocessed(source: Path, folder: Path, **settings: Any) -> list[Session]:
    preprocess(PreprocessConfig(sources=(source,), out=folder / "data", **settings))
    return open_sessions(folder / "data")


def read(path: Path, **options: Any) -> list[Population]:
    return list(TemporaldataReader().read(path, ReadOptions(**options)))


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_nuclr_makes_of_it_is_what_temporaldata_finds_in_its_domain(tmp_path: Path, name: str) -> None:
    make, subject, session_id = LAYOUTS[name]
    source = make(tmp_path / "file.h5")
    (session,) = preprocessed(source, tmp_path)
    assert (session.key.subject, session.key.session, session.key.population) == (subject, session_id, "0")
    assert not session.subject_assumed
    assert verify(session.path) == []
    theirs, again = (temporaldata.Data.load(path, lazy=False) for path in (source, session.path))
    assert np.array_equal(session.intervals, np.c_[theirs.domain.start, theirs.domain.end])
    table = theirs.rois if hasattr(theirs, "rois") else theirs.units
    for column in list(table.keys()):
        ours, stored = session.columns[column], getattr(table, column)
        if stored.dtype.kind == "O":  # temporaldata gives object columns back as bytes
            stored = stored.astype(np.bytes_).astype(np.str_)
        assert np.array_equal(ours, stored, equal_nan=ours.dtype.kind == "f"), column
    if session.modality == "spikes":
        domain = zip(theirs.domain.start, theirs.domain.end, strict=True)
        kept = np.zeros(len(theirs.spikes.timestamps), dtype=bool)
        for start, end in domain:
            kept |= (theirs.spikes.timestamps >= start) & (theirs.spikes.timestamps <= end)
        assert np.array_equal(session.spikes.times, theirs.spikes.timestamps[kept])
        assert np.array_equal(session.spikes.unit_index, theirs.spikes.unit_index[kept])
        assert np.array_equal(again.spikes.timestamps, session.spikes.times)
    else:
        traces = session.calcium
        assert np.array_equal(traces.timestamps, theirs.calcium_traces.timestamps)
        assert np.array_equal(traces.values, theirs.calcium_traces.df_over_f.astype(np.float32))
        assert np.array_equal(again.calcium_traces.df_over_f, traces.values)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_window_of_the_result_equals_a_window_of_the_source(tmp_path: Path, name: str) -> None:
    source = LAYOUTS[name][0](tmp_path / "file.h5")
    (session,) = preprocessed(source, tmp_path)
    start = float(session.intervals[-1, 0]) + 11.0
    theirs, ours = (
        temporaldata.Data.load(path).slice(start, start + 10.0, reset_origin=False)
        for path in (source, session.path)
    )
    if session.modality == "spikes":
        assert len(ours.spikes.timestamps) > 10
        assert np.array_equal(ours.spikes.timestamps, theirs.spikes.timestamps)
        assert np.array_equal(ours.spikes.unit_index, theirs.spikes.unit_index)
    else:
        assert len(ours.calcium_traces.df_over_f) > 40
        assert np.array_equal(
            ours.calcium_traces.df_over_f, theirs.calcium_traces.df_over_f.astype(np.float32)
        )


def test_attributes_travel_as_text(tmp_path: Path) -> None:
    (session,) = preprocessed(allen(tmp_path / "a.h5"), tmp_path)
    assert session.attributes == {
        "species": "MUS_MUSCULUS",
        "age": "121",
        "sex": "MALE",
        "genotype": "Sst-IRES-Cre/wt;Ai32/wt",
        "recording_date": "2020-01-31 00:00:00",
        "brainset": "allen_vc_2019_vis",
        "brainset_origin_version": "0.0.0",
        "brainset_derived_version": "1.0.0",
        "brainset_source": "https://x.org",
        "brainset_description": "d",
    }
    (ophys,) = read(allen_ophys(tmp_path / "b.h5"))
    assert ophys.attributes["device_imaging_depth"] == "175"
    assert ophys.attributes["cre_line"] == "Cux2_CreERT2"


def test_labels_can_be_probed_under_known_names(tmp_path: Path) -> None:
    (session,) = preprocessed(ibl(tmp_path / "a.h5"), tmp_path)
    assert session.label("brain_region")[:3].tolist() == ["CA1", "PO", "LP"]
    assert any("'acronym' is also there as 'brain_region'" in note for note in session.notes)


def test_what_is_left_out_is_counted_and_named(tmp_path: Path) -> None:
    source = allen(tmp_path / "a.h5")
    with h5py.File(source) as file:
        times = file["spikes/timestamps"][()]
    in_gap = int(((times > 100) & (times < 120)).sum())
    (population,) = read(source)
    assert population.spikes is not None
    assert in_gap > 100
    assert len(population.spikes.times) == len(times) - in_gap
    said = "\n".join(population.notes)
    assert f"{in_gap} of {len(times)} spikes lie outside the file's own domain and were left out." in said
    assert "Not read, since only neural activity is used: invalid_interval (Interval), spikes/types." in said
    (ophys,) = read(allen_ophys(tmp_path / "b.h5"))
    said = "\n".join(ophys.notes)
    for name in ("running (IrregularTimeSeries)", "drifting_gratings_domain (Interval)", "train_domain"):
        assert name in said


def test_the_end_that_ibl_cuts_off_is_not_silence(tmp_path: Path) -> None:
    (population,) = read(ibl(tmp_path / "a.h5"))
    assert population.spikes is not None
    assert population.intervals[0, 1] == pytest.approx(300.2, abs=0.1)
    assert population.spikes.times[-1] <= population.intervals[0, 1]


def test_insertions_become_populations_when_asked(tmp_path: Path) -> None:
    source = ibl(tmp_path / "a.h5")
    (whole,) = read(source)
    assert any("--option split_by=pid makes one of each" in note for note in whole.notes)
    parts = read(source, extra={"split_by": "pid"})
    assert [part.population for part in parts] == ["pid-a", "pid-b"]
    assert whole.spikes is not None
    assert sum(len(part.spikes.times) for part in parts if part.spikes is not None) == len(whole.spikes.times)
    second = parts[1]
    assert second.spikes is not None
    for row, unit in enumerate(second.units["id"].tolist()):
        mine = whole.spikes.times[whole.spikes.unit_index == whole.units["id"].tolist().index(unit)]
        assert np.array_equal(second.spikes.times[second.spikes.unit_index == row], mine)
    sessions = preprocessed(source, tmp_path, extra={"split_by": "pid"})
    assert [session.key.population for session in sessions] == ["pid-a", "pid-b"]


def test_the_series_that_was_named_is_read(tmp_path: Path) -> None:
    source = bugeon(tmp_path / "a.h5")
    (population,) = read(source, series=("df_over_f_norm",))
    assert population.calcium is not None
    assert np.percentile(population.calcium.values, 99) == pytest.approx(1.0)
    assert any("calcium_traces/df_over_f." in note for note in population.notes)


def test_a_second_run_has_nothing_to_do(tmp_path: Path) -> None:
    source = ibl(tmp_path / "a.h5")
    (session,) = preprocessed(source, tmp_path)
    before = session.path.stat().st_mtime_ns
    (again,) = preprocessed(source, tmp_path)
    assert again.path.stat().st_mtime_ns == before
