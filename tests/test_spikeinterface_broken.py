"""Broken and hostile sources: one clear error that names the file, nothing run, nothing left behind."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuclr_cli.api import ReaderError, ReadOptions
from nuclr_cli.errors import InputError
from nuclr_cli.safe_files import load_column
from nuclr_cli.workflows.preprocess import PreprocessConfig, preprocess
from nuclr_spikeinterface import SpikeInterfaceReader

LAYOUTS = {
    "numpy": "numpy_folder",
    "npz": "npz_folder",
    "zarr": "zarr.zarr",
    "phy": "kilosort4_phy_curated",
    "file": "sorting.npz",
    "analyzer": "analyzer_folder",
    "azarr": "analyzer.zarr",
    "sorter": "sorter_lupin",
}
METRICS = Path("extensions") / "quality_metrics" / "metrics.csv"
ATTRIBUTES = Path("recording_info") / "recording_attributes.json"


def edit_json(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text())
    content.update(changes)
    path.write_text(json.dumps(content))


def edit_spikes(folder: Path, change: Callable[[Any], Any]) -> None:
    spikes = np.load(folder / "spikes.npy")
    changed = change(spikes)
    np.save(folder / "spikes.npy", spikes if changed is None else changed)


def set_field(name: str, row: int, value: int) -> Callable[[Any], None]:
    def change(spikes: Any) -> None:
        spikes[name][row] = value

    return change


def as_float(spikes: Any) -> Any:
    kinds = [("sample_index", "f8"), ("unit_index", "i8"), ("segment_index", "i8")]
    return spikes.astype(kinds)


def edit_npz(path: Path, drop: str = "", **changes: Any) -> None:
    with np.load(path) as held:
        arrays = {name: held[name] for name in held.files if name != drop}
    np.savez(path, **(arrays | changes))


def edit_npy(path: Path, change: Callable[[Any], Any]) -> None:
    np.save(path, change(np.load(path)))


def truncate(path: Path, keep: float = 0.5) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


def huge_header(path: Path) -> None:
    """A header that promises 200 TB."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<i8", "fortran_order": False, "shape": (25_000_000_000_000,)}
        )


def huge_npz_header(path: Path) -> None:
    member = path.parent / "spike_indexes_seg0.npy"
    huge_header(member)
    with zipfile.ZipFile(path) as held:
        kept = {name: held.read(name) for name in held.namelist() if name != member.name}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(member, member.name)
        for name, data in kept.items():
            archive.writestr(name, data)


def edit_recording_of_zarr(folder: Path, **changes: Any) -> None:
    path = folder / "recording_info" / ".zattrs"
    content = json.loads(path.read_text())
    content["recording_attributes"].update(changes)
    path.write_text(json.dumps(content))


def append_row(path: Path, row: str) -> None:
    path.write_text(path.read_text() + row)


def swap_zarr(folder: Path, name: str, change: Callable[[Any], Any]) -> None:
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(str(folder), mode="a")
    values = change(group[name][:])
    del group[name]
    group.create_dataset(name, data=values)


BREAKS: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    # what was done: (layout, how, what the message must hold)
    "numpy: spikes.npy missing": ("numpy", lambda p: (p / "spikes.npy").unlink(), r"spikes\.npy is missing"),
    "numpy: spikes.npy truncated": ("numpy", lambda p: truncate(p / "spikes.npy"), r"spikes\.npy is damaged"),
    "numpy: spikes.npy is text": (
        "numpy",
        lambda p: (p / "spikes.npy").write_text("no"),
        r"spikes\.npy is damaged",
    ),
    "numpy: header promises 200 TB": (
        "numpy",
        lambda p: huge_header(p / "spikes.npy"),
        r"spikes\.npy is damaged",
    ),
    "numpy: plain integers": (
        "numpy",
        lambda p: np.save(p / "spikes.npy", np.arange(9)),
        r"spikes\.npy has type",
    ),
    "numpy: no spikes": ("numpy", lambda p: edit_spikes(p, lambda s: s[:0]), r"spikes\.npy holds no spikes"),
    "numpy: float samples": ("numpy", lambda p: edit_spikes(p, as_float), r"sample_index has type float64"),
    "numpy: negative sample": (
        "numpy",
        lambda p: edit_spikes(p, set_field("sample_index", 0, -5)),
        r"1 spikes of segment 0 have negative .* lowest is -5",
    ),
    "numpy: unit out of range": (
        "numpy",
        lambda p: edit_spikes(p, set_field("unit_index", 3, 8)),
        r"1 spikes after spike 0 have a unit index outside 0\.\.7",
    ),
    "numpy: unit below 0": (
        "numpy",
        lambda p: edit_spikes(p, set_field("unit_index", 3, -1)),
        r"from -1 to 7",
    ),
    "numpy: segment out of range": (
        "numpy",
        lambda p: edit_spikes(p, set_field("segment_index", -1, 2)),
        r"1 spikes have a segment_index outside 0\.\.1",
    ),
    "numpy: a unit goes back in time": (
        "numpy",
        lambda p: edit_spikes(p, lambda s: s[np.r_[100:200, 0:100, 200 : len(s)]]),
        r"units go back \d+ times in segment 0, most often those of unit",
    ),
    "numpy: fs NaN": (
        "numpy",
        lambda p: edit_json(p / "numpysorting_info.json", sampling_frequency=float("nan")),
        r"numpysorting_info\.json has the sampling rate nan Hz",
    ),
    "numpy: fs negative": (
        "numpy",
        lambda p: edit_json(p / "numpysorting_info.json", sampling_frequency=-30000.0),
        r"sampling rate -30000 Hz",
    ),
    "numpy: fs in kHz": (
        "numpy",
        lambda p: edit_json(p / "numpysorting_info.json", sampling_frequency=30),
        r"sampling rate 30 Hz, expected 1000",
    ),
    "numpy: fs is text": (
        "numpy",
        lambda p: edit_json(p / "numpysorting_info.json", sampling_frequency="30000"),
        r"sampling rate nan Hz",
    ),
    "numpy: duplicate ids": (
        "numpy",
        lambda p: edit_json(p / "numpysorting_info.json", unit_ids=[1, 1, "1", 3, 4, 5, 6, 7]),
        r"1 unit ids occur more than once: 1",
    ),
    "numpy: no ids": (
        "numpy",
        lambda p: edit_json(p / "numpysorting_info.json", unit_ids=None),
        r"unit_ids is not a flat list",
    ),
    "numpy: no units": (
        "numpy",
        lambda p: (shutil.rmtree(p / "properties"), edit_json(p / "numpysorting_info.json", unit_ids=[])),
        r"no units|one value for each of the 0 units",
    ),
    "numpy: segments not a number": (
        "numpy",
        lambda p: edit_json(p / "numpysorting_info.json", num_segments=0),
        r"number of segments is 0",
    ),
    "numpy: info is no JSON": (
        "numpy",
        lambda p: (p / "numpysorting_info.json").write_text("{"),
        r"numpysorting_info\.json cannot be read as JSON",
    ),
    "numpy: info is a list": (
        "numpy",
        lambda p: (p / "numpysorting_info.json").write_text("[]"),
        r"holds a JSON list",
    ),
    "numpy: short property": (
        "numpy",
        lambda p: np.save(p / "properties" / "cell_type.npy", np.array(["a"] * 7)),
        r"cell_type\.npy has shape \(7,\), expected one value for each of the 8 units",
    ),
    "numpy: truncated property": (
        "numpy",
        lambda p: truncate(p / "properties" / "depth.npy"),
        r"depth\.npy is damaged",
    ),
    "numpy: truncated pickle": (
        "numpy",
        lambda p: truncate(p / "properties" / "cell_type_obj.npy", 0.8),
        r"cell_type_obj\.npy is a damaged pickle",
    ),
    "npz folder: npz missing": (
        "npz",
        lambda p: (p / "sorting_cached.npz").unlink(),
        r"sorting_cached\.npz is missing",
    ),
    "npz folder: path leads outside": (
        "npz",
        lambda p: edit_json(p / "npz.json", kwargs={"file_path": "../secret.npz"}),
        r"npz\.json does not name a file in its own folder",
    ),
    "npz: truncated": ("file", truncate, r"sorting\.npz is damaged"),
    "npz: no ids": ("file", lambda p: edit_npz(p, drop="unit_ids"), r"has no array 'unit_ids'"),
    "npz: no labels": (
        "file",
        lambda p: edit_npz(p, drop="spike_labels_seg1"),
        r"no array 'spike_labels_seg1'",
    ),
    "npz: header promises 200 TB": ("file", huge_npz_header, r"spike_indexes_seg0 promises"),
    "npz: fewer labels than spikes": (
        "file",
        lambda p: edit_npz(p, spike_labels_seg0=np.array(["0"])),
        r"segment 0 has 2435 spikes but 1 unit labels",
    ),
    "npz: unknown label": (
        "file",
        lambda p: edit_npz(p, spike_labels_seg1=np.array(["99"] * 1854)),
        r"1 ids that unit_ids does not list: 99",
    ),
    "npz: object ids": (
        "file",
        lambda p: edit_npz(p, unit_ids=np.array(list("01234567"), dtype=object)),
        r"stores unit_ids as pickled Python objects",
    ),
    "npz: seconds": (
        "file",
        lambda p: edit_npz(p, spike_indexes_seg0=np.linspace(0, 20, 2435)),
        r"spike_indexes_seg0 has type float64",
    ),
    "zarr: missing chunk": (
        "zarr",
        lambda p: (p / "spikes" / "sample_index" / "0").unlink(),
        r"sample_index lacks 1 of 1 chunks",
    ),
    "zarr: damaged chunk": (
        "zarr",
        lambda p: truncate(p / "spikes" / "unit_index" / "0"),
        r"unit_index cannot be decoded",
    ),
    "zarr: missing array": ("zarr", lambda p: shutil.rmtree(p / "unit_ids"), r"has no array 'unit_ids'"),
    "zarr: damaged header": (
        "zarr",
        lambda p: (p / "spikes" / "sample_index" / ".zarray").write_text("{"),
        r"\.zarray cannot be read as JSON",
    ),
    "zarr: fewer units than spikes": (
        "zarr",
        lambda p: swap_zarr(p, "spikes/unit_index", lambda a: a[:-1]),
        r"sample_index has shape \(4289,\), unit_index \(4288,\)",
    ),
    "zarr: slices do not cover": (
        "zarr",
        lambda p: swap_zarr(p, "spikes/segment_slices", lambda a: a - [[0, 0], [0, 7]]),
        r"does not cover the 4289 spikes",
    ),
    "zarr: float samples": (
        "zarr",
        lambda p: swap_zarr(p, "spikes/sample_index", lambda a: a / 30000.0),
        r"sample_index has type float64",
    ),
    "zarr: no rate": (
        "zarr",
        lambda p: edit_json(p / ".zattrs", sampling_frequency=None),
        r"no sampling rate",
    ),
    "phy: seconds": (
        "phy",
        lambda p: edit_npy(p / "spike_times.npy", lambda a: a / 30000.0),
        r"spike_times\.npy: spike times has type float64",
    ),
    "phy: other lengths": (
        "phy",
        lambda p: edit_npy(p / "spike_clusters.npy", lambda a: a[:-3]),
        r"2435 spikes but spike_clusters\.npy has 2432",
    ),
    "phy: two columns": (
        "phy",
        lambda p: edit_npy(p / "spike_times.npy", lambda a: np.c_[a, a]),
        r"spike_times\.npy has shape \(2435, 2\)",
    ),
    "phy: no clusters": (
        "phy",
        lambda p: [(p / name).unlink() for name in ("spike_clusters.npy", "spike_templates.npy")],
        r"spike_clusters\.npy is missing",
    ),
    "phy: params.py is no Python": (
        "phy",
        lambda p: (p / "params.py").write_text("sample_rate ="),
        r"params\.py cannot be read",
    ),
    "phy: a cluster with two labels": (
        "phy",
        lambda p: (p / "cluster_group.tsv").write_text("cluster_id\tgroup\n0\tgood\n0\tmua\n"),
        r"cluster_group\.tsv gives cluster 0 two values of group: 'good' and 'mua'",
    ),
    "phy: label table in another encoding": (
        "phy",
        lambda p: (p / "cluster_group.tsv").write_bytes(b"cluster_id\tgroup\n0\t\xff\xfe\n"),
        r"cluster_group\.tsv cannot be read",
    ),
    "analyzer: num_samples end before the last spike": (
        "analyzer",
        lambda p: edit_json(p / ATTRIBUTES, num_samples=[600_000, 449_000]),
        r"segment 1 has 449000 samples, but 5 of 1854 spikes in .*spikes\.npy come later, .* sample 449934",
    ),
    "analyzer: num_samples of other segments": (
        "analyzer",
        lambda p: edit_json(p / ATTRIBUTES, num_samples=[1_050_000]),
        r"recording_attributes\.json: num_samples is \[1050000\], expected one for each of 2 segments",
    ),
    "analyzer: num_samples are no numbers": (
        "analyzer",
        lambda p: edit_json(p / ATTRIBUTES, num_samples=[600_000, "450000"]),
        r"num_samples is \[600000, '450000'\], expected whole numbers",
    ),
    "analyzer: another sampling rate": (
        "analyzer",
        lambda p: edit_json(p / ATTRIBUTES, sampling_frequency=25_000.0),
        r"recording_attributes\.json says 25000 Hz, but .*numpysorting_info\.json says 30000 Hz",
    ),
    "analyzer: repeated channels": (
        "analyzer",
        lambda p: edit_json(p / ATTRIBUTES, channel_ids=["a"] * 16),
        r"15 channel ids occur more than once",
    ),
    "analyzer: no attributes": (
        "analyzer",
        lambda p: (p / ATTRIBUTES).unlink(),
        r"recording_attributes\.json cannot be read as JSON",
    ),
    "analyzer: no sorting": (
        "analyzer",
        lambda p: shutil.rmtree(p / "sorting"),
        r"is an analyzer without a sorting",
    ),
    "analyzer: marker is no JSON": (
        "analyzer",
        lambda p: (p / "spikeinterface_info.json").write_text("{"),
        r"spikeinterface_info\.json cannot be read as JSON",
    ),
    "analyzer: metrics cut off within a row": (
        "analyzer",
        lambda p: (p / METRICS).write_text(
            "".join((p / METRICS).read_text().splitlines(True)[:4]) + "3,35.9"
        ),
        r"metrics\.csv: the row of unit '3' has 2 cells, its header 6",
    ),
    "analyzer: metrics cut off within the last cell of a row": (
        "analyzer",
        lambda p: (p / METRICS).write_text("\n".join((p / METRICS).read_text().splitlines()[:4])),
        r"metrics\.csv is cut off: 5 of 8 units are missing",
    ),
    "analyzer: metrics name a unit twice": (
        "analyzer",
        lambda p: append_row(p / METRICS, "3,1,1,1,1,\n"),
        r"metrics\.csv has two rows for unit '3'",
    ),
    "analyzer: metrics of other units": (
        "analyzer",
        lambda p: (p / METRICS).write_text(",snr\na,1\nb,2\n"),
        r"metrics\.csv has 2 rows, and none of them is about one of the 8 units",
    ),
    "analyzer: metrics are bytes": (
        "analyzer",
        lambda p: (p / METRICS).write_bytes(b"\xff\xfe\0"),
        r"metrics\.csv cannot be read|metrics\.csv holds no table",
    ),
    "analyzer: metrics are empty": (
        "analyzer",
        lambda p: (p / METRICS).write_text(""),
        r"metrics\.csv holds no table",
    ),
    "analyzer: templates of other units": (
        "analyzer",
        lambda p: edit_npy(p / "extensions" / "templates" / "average.npy", lambda a: a[:-1]),
        r"templates have shape \(7, 90, 16\), expected 8 units",
    ),
    "analyzer: truncated templates": (
        "analyzer",
        lambda p: truncate(p / "extensions" / "templates" / "average.npy"),
        r"average\.npy is damaged",
    ),
    "analyzer: header promises 200 TB of templates": (
        "analyzer",
        lambda p: huge_header(p / "extensions" / "templates" / "average.npy"),
        r"average\.npy is damaged",
    ),
    "analyzer: locations of other units": (
        "analyzer",
        lambda p: edit_npy(p / "extensions" / "unit_locations" / "unit_locations.npy", lambda a: a[:, :1]),
        r"unit_locations has shape \(8, 1\)",
    ),
    "azarr: num_samples end before the last spike": (
        "azarr",
        lambda p: edit_recording_of_zarr(p, num_samples=[590_000, 450_000]),
        r"segment 0 has 590000 samples, but \d+ of 2435 spikes .* come later",
    ),
    "azarr: no attributes": (
        "azarr",
        lambda p: (p / "recording_info" / ".zattrs").unlink(),
        r"recording_info/\.zattrs cannot be read",
    ),
    "azarr: no sorting": ("azarr", lambda p: shutil.rmtree(p / "sorting"), r"sorting cannot be opened"),
    "azarr: damaged metric": (
        "azarr",
        lambda p: truncate(p / "extensions" / "quality_metrics" / "metrics" / "snr" / "0"),
        r"snr cannot be decoded",
    ),
    "azarr: missing chunk of spikes": (
        "azarr",
        lambda p: (p / "sorting" / "spikes" / "unit_index" / "0").unlink(),
        r"unit_index lacks 1 of 1 chunks",
    ),
    "azarr: metric of other units": (
        "azarr",
        lambda p: swap_zarr(p, "extensions/quality_metrics/metrics/snr", lambda a: a[:-1]),
        r"snr has shape \(7,\), its index \(8,\)",
    ),
    "sorter: truncated spikes": (
        "sorter",
        lambda p: truncate(p / "sorter_output" / "sorting" / "spikes.npy"),
        r"spikes\.npy is damaged",
    ),
    "sorter: log is no JSON": (
        "sorter",
        lambda p: (p / "spikeinterface_log.json").write_text("no"),
        r"spikeinterface_log\.json cannot be read",
    ),
    "sorter: recording shorter than the sorting": (
        "sorter",
        lambda p: edit_json(p / "recording_attributes.json", num_samples=[600_000]),
        r"recording_attributes\.json says that segment 0 has 600000 samples, but \d+ of 2679 spikes",
    ),
    "phy: everything is noise": (
        "phy",
        lambda p: (p / "cluster_group.tsv").write_text(
            "cluster_id\tgroup\n" + "".join(f"{n}\tnoise\n" for n in (0, 1, 2, 5, 6, 7, 10))
        ),
        r"no unit is left",
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_source_gives_one_clear_error_and_no_file(shared: Path, tmp_path: Path, name: str) -> None:
    layout, how, message = BREAKS[name]
    origin = shared / "samples" / "si" / LAYOUTS[layout]
    source = tmp_path / "source" / origin.name
    source.parent.mkdir()
    if origin.is_dir():
        shutil.copytree(origin, source, copy_function=shutil.copyfile)
    else:
        shutil.copyfile(origin, source)
    how(source)
    with pytest.raises(InputError, match=message) as caught:
        preprocess(PreprocessConfig(sources=(source,), out=tmp_path / "out", subject="m", session="d"))
    assert caught.value.exit_code == 3
    assert str(source) in caught.value.what
    assert not (tmp_path / "out").exists()


class Payload:
    """Pickles as a call of `os.system`."""

    def __init__(self, target: Path) -> None:
        self.command = f"touch {target}"

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


class Wildcard:
    """Pickles as a call of a function that NumPy ships and that runs text."""

    def __init__(self, target: Path) -> None:
        self.text = f"open({str(target)!r}, 'w').close()"

    def __reduce__(self) -> Any:
        from numpy.testing._private.utils import runstring

        return runstring, (self.text, {})


class Evaluated:
    """Pickles as a call of `eval`."""

    def __init__(self, target: Path) -> None:
        self.text = f"open({str(target)!r}, 'w').close()"

    def __reduce__(self) -> Any:
        return eval, (self.text,)


@pytest.mark.parametrize("payload", [Payload, Wildcard, Evaluated])
@pytest.mark.parametrize("layout", ["numpy", "npz"])
def test_pickled_properties_run_nothing(shared: Path, tmp_path: Path, layout: str, payload: Any) -> None:
    source = tmp_path / "source"
    shutil.copytree(shared / "samples" / "si" / LAYOUTS[layout], source, copy_function=shutil.copyfile)
    target = tmp_path / "ran"
    column = np.array([payload(target)] + [None] * 7, dtype=object)
    np.save(source / "properties" / "evil.npy", column, allow_pickle=True)
    with pytest.raises(ReaderError, match=r"evil\.npy is a pickle that asks for") as caught:
        list(SpikeInterfaceReader().read(source, ReadOptions()))
    assert not target.exists()
    assert "--trust" in caught.value.fix
    list(SpikeInterfaceReader().read(source, ReadOptions(trust=True)))
    assert target.exists()


def test_params_py_is_never_run(shared: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(shared / "samples" / "si" / "phy", source, copy_function=shutil.copyfile)
    target = tmp_path / "ran"
    (source / "params.py").write_text(
        f"open({str(target)!r}, 'w').close()\nimport os\nsample_rate = 30000.\n"
        f"x = os.system('touch {target}')\n"
        f"if True:\n    sample_rate = 1.\nclass A:\n    open({str(target)!r}, 'w')\n"
    )
    (population,) = SpikeInterfaceReader().read(source, ReadOptions(trust=True))
    assert population.provenance["sampling_rate_hz"] == 30_000.0
    assert not target.exists()


def test_class_names_in_json_are_never_imported(shared: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(shared / "samples" / "si" / "npz_folder", source, copy_function=shutil.copyfile)
    target = tmp_path / "ran"
    evil = {"class": "subprocess.Popen", "module": "subprocess", "version": "1", "annotations": {}}
    for name in ("si_folder.json", "npz.json"):
        edit_json(source / name, **evil)
    edit_json(source / "si_folder.json", kwargs={"args": ["touch", str(target)]})
    (population,) = SpikeInterfaceReader().read(source, ReadOptions())
    assert population.n_units == 7
    assert not target.exists()


@pytest.mark.parametrize("name", ["analyzer_folder", "sorter_lupin"])
@pytest.mark.parametrize("trust", [False, True])
def test_nothing_around_a_sorting_is_unpickled_or_imported(
    shared: Path, tmp_path: Path, name: str, trust: bool
) -> None:
    source = tmp_path / name
    shutil.copytree(shared / "samples" / "si" / name, source, copy_function=shutil.copyfile)
    (expected,) = SpikeInterfaceReader().read(shared / "samples" / "si" / name, ReadOptions())
    target = tmp_path / "ran"
    evil = {
        "class": "subprocess.Popen",
        "module": "subprocess",
        "version": "1",
        "kwargs": {"args": ["touch", str(target)]},
    }
    for analyzer in (source, source / "sorter_output" / "analyzer"):
        if not analyzer.is_dir():
            continue
        for pickled in ("recording.pickle", "extensions/quality_metrics/metrics.pkl", "cached.pkl"):
            (analyzer / pickled).parent.mkdir(parents=True, exist_ok=True)
            (analyzer / pickled).write_bytes(pickle.dumps(Payload(target)))
        (analyzer / "recording.json").write_text(json.dumps(evil))
        for path in analyzer.glob("extensions/*/info.json"):
            path.write_text(json.dumps(evil))
    for path in source.rglob("spikeinterface_recording.json"):
        path.write_text(json.dumps(evil))
    if not trust:  # trusted, SpikeInterface loads a sorter folder itself, and imports what this file names
        for path in source.rglob("si_folder.json"):
            path.write_text(json.dumps(evil))
    (population,) = SpikeInterfaceReader().read(source, ReadOptions(trust=trust))
    assert population.n_units == expected.n_units
    assert not target.exists()


@pytest.mark.parametrize("where", ["unit_locations/unit_locations.npy", "templates/average.npy"])
def test_pickled_extensions_run_nothing_even_when_trusted(shared: Path, tmp_path: Path, where: str) -> None:
    source = tmp_path / "source"
    shutil.copytree(shared / "samples" / "si" / "analyzer_folder", source, copy_function=shutil.copyfile)
    target = tmp_path / "ran"
    np.save(source / "extensions" / where, np.array([Payload(target)] * 8, dtype=object), allow_pickle=True)
    for trust in (False, True):
        with pytest.raises(ReaderError, match=r"\.npy is damaged|expected numbers"):
            list(SpikeInterfaceReader().read(source, ReadOptions(trust=trust)))
    assert not target.exists()


def test_pickled_metrics_of_a_zarr_analyzer_run_nothing(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zarr, numcodecs = pytest.importorskip("zarr"), pytest.importorskip("numcodecs")
    monkeypatch.setenv("NUMCODECS_ALLOW_UNSAFE_PICKLE_DECODE", "1")
    source = tmp_path / "a.zarr"
    shutil.copytree(shared / "samples" / "si" / "analyzer.zarr", source, copy_function=shutil.copyfile)
    target = tmp_path / "ran"
    group = zarr.open_group(str(source), mode="a")
    recording = group.create_dataset("recording", shape=1, dtype=object, object_codec=numcodecs.Pickle())
    recording[:] = np.array([Payload(target)], dtype=object)
    list(SpikeInterfaceReader().read(source, ReadOptions()))
    name = "extensions/quality_metrics/metrics/evil"
    column = group.create_dataset(name, shape=8, dtype=object, object_codec=numcodecs.Pickle())
    column[:] = np.array([Payload(target)] * 8, dtype=object)
    with pytest.raises(ReaderError, match="encoded with pickle"):
        list(SpikeInterfaceReader().read(source, ReadOptions()))
    assert not target.exists()


@pytest.mark.parametrize(
    "content",
    [
        {"probes": [{"contact_positions": [[0.0, 1.0]]}]},
        {"probes": [{"contact_positions": "x", "device_channel_indices": []}]},
        {"probes": "x"},
        {"probes": [7]},
        {"probes": []},
        {"probes": [{"contact_positions": [[0, 0]] * 16, "device_channel_indices": [1e400] * 16}]},
        {"probes": [{"contact_positions": [[0, 0]] * 16, "device_channel_indices": [0] * 16}]},
        {"probes": [{"contact_positions": [[0, 0]] * 16, "si_units": ["mile"]}]},
    ],
)
def test_probes_that_make_no_sense_cost_only_the_positions(
    shared: Path, tmp_path: Path, content: Any
) -> None:
    source = tmp_path / "source"
    shutil.copytree(shared / "samples" / "si" / "analyzer_folder", source, copy_function=shutil.copyfile)
    (source / "recording_info" / "probegroup.json").write_text(json.dumps(content))
    (population,) = SpikeInterfaceReader().read(source, ReadOptions())
    assert "peak_channel" in population.units
    assert "peak_channel_x_um" not in population.units
    assert any("positions are not known" in warning for warning in population.warnings)


PHY_ARRAYS: dict[str, Callable[[Path], Any]] = {
    "templates truncated": lambda p: truncate(p / "templates.npy"),
    "templates promise 200 TB": lambda p: huge_header(p / "templates.npy"),
    "templates of other channels": lambda p: edit_npy(p / "templates.npy", lambda a: a[:, :, :5]),
    "fewer templates": lambda p: edit_npy(p / "templates.npy", lambda a: a[:3]),
    "spike_templates of another length": lambda p: edit_npy(p / "spike_templates.npy", lambda a: a[:-1]),
    "spike_templates below 0": lambda p: edit_npy(p / "spike_templates.npy", lambda a: a - 9),
    "no spike_templates after merging": lambda p: (p / "spike_templates.npy").unlink(),
    "channel_map twice": lambda p: np.save(p / "channel_map.npy", np.zeros(16, int)),
    "positions of other channels": lambda p: edit_npy(p / "channel_positions.npy", lambda a: a[:4]),
    "positions are objects": lambda p: np.save(p / "channel_positions.npy", np.array([None] * 16)),
}


@pytest.mark.parametrize("name", PHY_ARRAYS)
def test_templates_that_do_not_fit_cost_only_the_peak_channels(
    shared: Path, tmp_path: Path, name: str
) -> None:
    source = tmp_path / "source"
    origin = shared / "samples" / "si" / "kilosort4_phy_curated"
    shutil.copytree(origin, source, copy_function=shutil.copyfile)
    PHY_ARRAYS[name](source)
    (population,) = SpikeInterfaceReader().read(source, ReadOptions(keep=("all",)))
    assert population.n_units == 7
    assert population.spikes is not None
    assert len(population.spikes.times) == 2435
    assert "peak_channel" not in population.units
    assert any("Peak channels are not known" in warning for warning in population.warnings)


def test_npz_objects_run_nothing(shared: Path, tmp_path: Path) -> None:
    source = tmp_path / "sorting.npz"
    shutil.copyfile(shared / "samples" / "si" / "sorting.npz", source)
    target = tmp_path / "ran"
    edit_npz(source, spike_indexes_seg0=np.array([Payload(target)], dtype=object))
    with pytest.raises(ReaderError, match="pickled Python objects"):
        list(SpikeInterfaceReader().read(source, ReadOptions()))
    assert not target.exists()


def test_zarr_pickle_codec_runs_nothing(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zarr, numcodecs = pytest.importorskip("zarr"), pytest.importorskip("numcodecs")
    monkeypatch.setenv("NUMCODECS_ALLOW_UNSAFE_PICKLE_DECODE", "1")
    source = tmp_path / "s.zarr"
    shutil.copytree(shared / "samples" / "si" / "zarr.zarr", source, copy_function=shutil.copyfile)
    target = tmp_path / "ran"
    group = zarr.open_group(str(source), mode="a")
    column = group.create_dataset("properties/evil", shape=8, dtype=object, object_codec=numcodecs.Pickle())
    column[:] = np.array([Payload(target)] * 8, dtype=object)
    (population,) = SpikeInterfaceReader().read(source, ReadOptions())
    assert any("'evil'" in warning and "pickle" in warning for warning in population.warnings)
    del group["unit_ids"]
    ids = group.create_dataset("unit_ids", shape=8, dtype=object, object_codec=numcodecs.Pickle())
    ids[:] = np.array([Payload(target)] * 8, dtype=object)
    with pytest.raises(ReaderError, match="encoded with pickle"):
        list(SpikeInterfaceReader().read(source, ReadOptions()))
    assert not target.exists()


def test_plain_objects_survive_every_pickle_protocol(tmp_path: Path) -> None:
    column = np.array(["PV", None, 1.5, np.float32(2), np.str_("x"), True, float("nan"), 7], dtype=object)
    for protocol in range(3, pickle.HIGHEST_PROTOCOL + 1):  # 2 is what Python 2 wrote
        path = tmp_path / f"p{protocol}.npy"
        with path.open("wb") as file:
            header = {"descr": "|O", "fortran_order": False, "shape": (8,)}
            np.lib.format.write_array_header_1_0(file, header)
            pickle.dump(column, file, protocol=protocol)
        loaded = load_column(path, trust=False)
        assert loaded[:6].tolist() == ["PV", None, 1.5, 2.0, "x", True]
        assert np.isnan(loaded[6])
        assert loaded[7] == 7


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_as_a_pickle_give_values_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": (8,)})
        file.write(data)
    with pytest.raises(ReaderError, match=r"any\.npy"):
        load_column(path, trust=False)


@settings(max_examples=60, deadline=None)
@given(position=st.integers(0, 1200), value=st.integers(0, 255))
def test_a_flipped_byte_in_a_property_never_crashes(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "flipped.npy"
    np.save(path, np.array(["exc", "PV", None, 1.5, np.float64(2.5), np.str_("é")], dtype=object))
    data = bytearray(path.read_bytes())
    data[position % len(data)] = value
    path.write_bytes(bytes(data))
    with contextlib.suppress(ReaderError):
        load_column(path, trust=False)
