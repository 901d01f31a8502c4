"""How nine formats keep a sorting: copies of samples, and a codec that writes a changed sorting into them."""

from __future__ import annotations

import json
import shutil
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from bad_input.frame import (
    SAMPLES,
    Maker,
    copy_tree,
)

SI = SAMPLES / "si"

FOLDERS = ("numpy_folder", "npz_folder", "npz", "zarr", "analyzer", "analyzer_zarr", "sorter_folder")
PHY = ("phy", "kilosort")
FORMATS = (*FOLDERS, *PHY)
NUMPY = ("numpy_folder", "analyzer", "sorter_folder")  # spikes.npy holds the spikes
ZARR = ("zarr", "analyzer_zarr")
NPZ = ("npz_folder", "npz")
WITH_PROPERTIES = ("numpy_folder", "npz_folder", "analyzer", "sorter_folder")  # properties/*.npy
WITH_LENGTH = ("analyzer", "analyzer_zarr", "sorter_folder")
ONE_SEGMENT = ("sorter_folder", *PHY)


@dataclass
class Twin:
    """A sorting in memory.

    Attributes:
        samples, units, segments: (S,) of each spike; `units` are rows of `ids`.
        ids: Unit ids; () for phy, where `units` are the ids.
        fs: Sampling rate, or whatever a mutation puts in its place.
        n_segments: Number of segments, as stored.
        n_samples: Length of each segment, for formats that store it.
    """

    samples: Any
    units: Any
    segments: Any
    ids: list[Any]
    fs: Any
    n_segments: Any
    n_samples: list[Any]

    def take(self, rows: Any) -> None:
        """Keep some spikes, in that order."""
        self.samples, self.units, self.segments = self.samples[rows], self.units[rows], self.segments[rows]


# How each format keeps a sorting: `read_*` makes the twin of a copy, `write_*` puts a changed one back.


def read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(read_json(path) | changes))


def read_numpy(folder: Path) -> Twin:
    info, spikes = read_json(folder / "numpysorting_info.json"), np.load(folder / "spikes.npy")
    return Twin(
        spikes["sample_index"].copy(),
        spikes["unit_index"].copy(),
        spikes["segment_index"].copy(),
        info["unit_ids"],
        info["sampling_frequency"],
        info["num_segments"],
        [],
    )


def write_numpy(folder: Path, twin: Twin) -> None:
    parts = {"sample_index": twin.samples, "unit_index": twin.units, "segment_index": twin.segments}
    spikes = np.empty(len(twin.samples), [(name, part.dtype) for name, part in parts.items()])
    for name, part in parts.items():
        spikes[name] = part
    np.save(folder / "spikes.npy", spikes)
    edit_json(
        folder / "numpysorting_info.json",
        unit_ids=twin.ids,
        sampling_frequency=twin.fs,
        num_segments=twin.n_segments,
    )
    if not twin.ids and (folder / "properties").is_dir():
        shutil.rmtree(folder / "properties")


def read_npz(path: Path) -> Twin:
    with np.load(path) as held:
        ids = held["unit_ids"].tolist()
        n_segments = int(held["num_segment"][0])
        samples = [held[f"spike_indexes_seg{i}"] for i in range(n_segments)]
        labels = [held[f"spike_labels_seg{i}"] for i in range(n_segments)]
        fs = float(held["sampling_frequency"][0])
    units = np.array([ids.index(label) for label in np.concatenate(labels).tolist()])
    segments = np.repeat(np.arange(n_segments), [len(part) for part in samples])
    return Twin(np.concatenate(samples), units, segments, ids, fs, n_segments, [])


def write_npz(path: Path, twin: Twin) -> None:
    known = dict(enumerate(map(str, twin.ids)))
    labels = np.array([known.get(int(unit), "99") for unit in twin.units], dtype="<U8")
    arrays: dict[str, Any] = {"unit_ids": np.array(twin.ids), "num_segment": np.array([twin.n_segments])}
    if twin.fs is not None:
        arrays["sampling_frequency"] = np.array([twin.fs])
    for segment in range(2):
        here = twin.segments == segment
        arrays[f"spike_indexes_seg{segment}"] = twin.samples[here]
        arrays[f"spike_labels_seg{segment}"] = labels[here]
    np.savez(path, **arrays)
    properties = path.parent / "properties"
    if not twin.ids and properties.is_dir():
        shutil.rmtree(properties)


def read_zarr(folder: Path) -> Twin:
    group = zarr.open_group(str(folder), mode="r")
    slices = group["spikes/segment_slices"][:]
    segments = np.repeat(np.arange(len(slices)), slices[:, 1] - slices[:, 0])
    return Twin(
        group["spikes/sample_index"][:],
        group["spikes/unit_index"][:],
        segments,
        group["unit_ids"][:].tolist(),
        group.attrs["sampling_frequency"],
        group.attrs["num_segments"],
        [],
    )


def put_zarr(folder: Path, name: str, values: Any, **how: Any) -> None:
    """Replace an array."""
    group = zarr.open_group(str(folder), mode="a")
    if name in group:
        del group[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        group.create_dataset(name, data=values, **how)


def write_zarr(folder: Path, twin: Twin) -> None:
    put_zarr(folder, "spikes/sample_index", twin.samples)
    put_zarr(folder, "spikes/unit_index", twin.units)
    put_zarr(folder, "unit_ids", np.array(twin.ids))
    ends = np.cumsum(np.bincount(twin.segments, minlength=2))
    put_zarr(folder, "spikes/segment_slices", np.stack([np.r_[0, ends[:-1]], ends], axis=1))
    edit_json(folder / ".zattrs", sampling_frequency=twin.fs, num_segments=twin.n_segments)
    if not twin.ids:
        shutil.rmtree(folder / "properties")


def read_phy(folder: Path) -> Twin:
    samples, units = (np.load(folder / f"spike_{name}.npy")[:, 0] for name in ("times", "clusters"))
    return Twin(samples, units, np.zeros(len(units), int), [], 30000.0, 1, [])


def write_phy(folder: Path, twin: Twin) -> None:
    np.save(folder / "spike_times.npy", twin.samples)
    np.save(folder / "spike_clusters.npy", twin.units)
    rate = {float("inf"): "1e999"}.get(twin.fs, repr(twin.fs))
    (folder / "params.py").write_text(
        "n_channels_dat = 16\n" + f"sample_rate = {rate}\n" * (twin.fs is not None)
    )


def with_recording(
    read: Callable[[Path], Twin],
    write: Callable[[Path, Twin], None],
    inside: str,
    attributes: Callable[[Path, dict[str, Any] | None], dict[str, Any]],
) -> tuple[Callable[[Path], Twin], Callable[[Path, Twin], None]]:
    """Codec of a format that keeps the length and the rate of the recording beside the sorting."""

    def read_both(source: Path) -> Twin:
        twin = read(source / inside)
        twin.n_samples = attributes(source, None)["num_samples"]
        return twin

    def write_both(source: Path, twin: Twin) -> None:
        write(source / inside, twin)
        attributes(source, {"num_samples": twin.n_samples, "sampling_frequency": twin.fs})

    return read_both, write_both


def attributes_in_json(inside: str) -> Callable[[Path, dict[str, Any] | None], dict[str, Any]]:
    def change(source: Path, changes: dict[str, Any] | None) -> dict[str, Any]:
        edit_json(source / inside, **(changes or {}))
        return read_json(source / inside)

    return change


def attributes_in_zattrs(source: Path, changes: dict[str, Any] | None) -> dict[str, Any]:
    path = source / "recording_info" / ".zattrs"
    content = read_json(path)
    content["recording_attributes"].update(changes or {})
    path.write_text(json.dumps(content))
    attributes: dict[str, Any] = content["recording_attributes"]
    return attributes


@dataclass(frozen=True)
class Kept:
    """One format.

    Attributes:
        copy: Copies the sample into a folder; returns the source.
        read, write: The codec.
        spikes, rate: Regular expressions of the files that errors about spikes and about the rate must name.
        files: What reading needs, inside the source: each is removed, cut off, and filled with noise. The
            text is what stands there for the error: the file itself unless said otherwise.
        sorting: Where inside the source the sorting proper lies.
        unit: An id.
    """

    copy: Maker
    read: Callable[[Path], Twin]
    write: Callable[[Path, Twin], None]
    spikes: str
    rate: str
    files: dict[str, str]
    sorting: str = ""
    unit: str = "1"


def copier(origin: str, patterns: Sequence[str] = ("**/*",), name: str = "") -> Maker:
    """Copies a sample (or the part of it that is read) under its own name."""

    def copy(folder: Path) -> Path:
        sample = SI / origin
        target = folder / (name or sample.name)
        if sample.is_file():
            target.write_bytes(sample.read_bytes())
            return target
        return copy_tree(sample, target, patterns)

    return copy


ANALYZER_PARTS = (
    "*.json",
    "recording_info/*",
    "sorting/**/*",
    "extensions/quality_metrics/*",
    "extensions/unit_locations/*",
    "extensions/templates/*",
)
ZARR_PARTS = (
    ".z*",
    "spikes/**/*",
    "unit_ids/*",
    "properties/.z*",
    *(f"properties/{name}/*" for name in ("depth", "quality", "main_channel_id")),
)
AZARR_PARTS = (
    ".z*",
    "recording_info/.z*",
    "extensions/**/.zgroup",
    "extensions/**/.zattrs",
    *(f"sorting/{pattern}" for pattern in ZARR_PARTS),
    *(f"extensions/quality_metrics/metrics/{name}/*" for name in ("snr", "index")),
    "extensions/unit_locations/unit_locations/*",
    "extensions/templates/average/*",
)
SORTER_PARTS = ("*.json", "sorter_output/sorting/**/*")
PHY_PARTS = ("params.py", "*.tsv", "spike_*.npy", "templates.npy", "channel_*.npy")

_analyzer = with_recording(
    read_numpy, write_numpy, "sorting", attributes_in_json("recording_info/recording_attributes.json")
)
_azarr = with_recording(read_zarr, write_zarr, "sorting", attributes_in_zattrs)
_sorter = with_recording(
    read_numpy, write_numpy, "sorter_output/sorting", attributes_in_json("recording_attributes.json")
)
POINTER = "sorting_cached.npz"

HOW: dict[str, Kept] = {
    "numpy_folder": Kept(
        copier("numpy_folder"),
        read_numpy,
        write_numpy,
        r"numpy_folder/spikes\.npy",
        r"numpysorting_info\.json",
        {
            "spikes.npy": "",
            "numpysorting_info.json": "",
            "properties/depth.npy": "",
            "properties/cell_type_obj.npy": "",
            "si_folder.json": "",
            "annotations.json": "",
        },
    ),
    "npz_folder": Kept(
        copier("npz_folder"),
        lambda source: read_npz(source / POINTER),
        lambda source, twin: write_npz(source / POINTER, twin),
        r"npz_folder/sorting_cached\.npz",
        r"sorting_cached\.npz",
        {POINTER: "", "npz.json": "", "properties/depth.npy": "", "properties/cell_type_obj.npy": ""},
    ),
    "npz": Kept(
        copier("sorting.npz"), read_npz, write_npz, r"sorting\.npz", r"sorting\.npz", {"": r"sorting\.npz"}
    ),
    "zarr": Kept(
        copier("zarr.zarr", ZARR_PARTS),
        read_zarr,
        write_zarr,
        r"zarr\.zarr",
        r"\.zattrs",
        {
            "spikes/sample_index/0": "sample_index",
            "spikes/sample_index/.zarray": "",
            "spikes/unit_index/0": "unit_index",
            "spikes/segment_slices/0.0": "segment_slices",
            "unit_ids/0": "unit_ids",
            "properties/depth/0": "depth",
            ".zattrs": "",
        },
    ),
    "analyzer": Kept(
        copier("analyzer_folder", ANALYZER_PARTS),
        *_analyzer,
        r"analyzer_folder/sorting/spikes\.npy",
        r"numpysorting_info\.json",
        {
            "spikeinterface_info.json": "",
            "recording_info/recording_attributes.json": "",
            "sorting/spikes.npy": "",
            "sorting/numpysorting_info.json": "",
            "extensions/quality_metrics/metrics.csv": "",
            "extensions/templates/average.npy": "",
            "extensions/unit_locations/unit_locations.npy": "",
        },
        "sorting",
    ),
    "analyzer_zarr": Kept(
        copier("analyzer.zarr", AZARR_PARTS),
        *_azarr,
        r"analyzer\.zarr/sorting",
        r"\.zattrs",
        {
            ".zattrs": "",
            "recording_info/.zattrs": "",
            "sorting/spikes/sample_index/0": "sample_index",
            "sorting/unit_ids/0": "unit_ids",
            "extensions/quality_metrics/metrics/snr/0": "snr",
        },
        "sorting",
    ),
    "sorter_folder": Kept(
        copier("sorter_lupin", SORTER_PARTS),
        *_sorter,
        r"sorter_output/sorting/spikes\.npy",
        r"numpysorting_info\.json",
        {
            "spikeinterface_log.json": "",
            "recording_attributes.json": "",
            "sorter_output/sorting/spikes.npy": "",
            "sorter_output/sorting/numpysorting_info.json": "",
        },
        "sorter_output/sorting",
        unit="3",
    ),
    "phy": Kept(
        copier("phy", PHY_PARTS),
        read_phy,
        write_phy,
        r"phy/spike_times\.npy",
        r"params\.py",
        {"spike_times.npy": "", "spike_clusters.npy": "", "params.py": ""},
    ),
    "kilosort": Kept(
        copier("kilosort4_like", PHY_PARTS),
        read_phy,
        write_phy,
        r"kilosort4_like/spike_times\.npy",
        r"params\.py",
        {"spike_times.npy": "", "spike_clusters.npy": "", "params.py": ""},
    ),
}


def rewrite_npz(path: Path, change: Callable[[dict[str, bytes]], Any]) -> None:
    """Write the members of a zip file anew."""
    with zipfile.ZipFile(path) as held:
        members = {name: held.read(name) for name in held.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def edit_npy(path: Path, change: Callable[[Any], Any]) -> None:
    np.save(path, change(np.load(path)))


def edit_npz(path: Path, **changes: Any) -> None:
    with np.load(path) as held:
        arrays = {name: held[name] for name in held.files}
    np.savez(path, **(arrays | changes))


def change_zarr(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        values = zarr.open_group(str(folder), mode="r")[name][:]
        put_zarr(folder, name, change(values))

    return edit
