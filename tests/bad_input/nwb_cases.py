"""NWB files that break a rule: mutations of arrays, crossed with HDF5 and Zarr, and damage to their files."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import zarr
from numpy.typing import NDArray

from bad_input.frame import (
    DAMAGE,
    PAYLOADS,
    SAMPLES,
    BadInput,
    Maker,
    at,
    cannot,
    copy_tree,
    edited,
    label_cases,
    marker,
    remove,
)
from bad_input.rules import Rule

UNITS = ("nwb", "nwb_zarr")
OPHYS = ("nwb_ophys",)
HDF5 = ("nwb", "nwb_ophys")
FORMATS = (*UNITS, *OPHYS)

Edit = Callable[[Path], Any]

TIMES, INDEX, OBSERVED = "units/spike_times", "units/spike_times_index", "units/obs_intervals"
SERIES, TABLE = "processing/ophys/DfOverF", "processing/ophys/ImageSegmentation/PlaneSegmentation0"
FRAMES, ROIS = f"{SERIES}/dff0/data", f"{SERIES}/dff0/rois"


# One way to change an array in both containers.


def opened(path: Path) -> Any:
    """The file or store, writable."""
    return zarr.open_group(str(path), mode="r+") if path.is_dir() else h5py.File(path, "r+")


def put(name: str, change: Callable[[NDArray[Any]], Any], **how: Any) -> Edit:
    """Replace an array by what a function makes of it, keeping its attributes."""

    def edit(path: Path) -> None:
        tree = opened(path)
        found = tree[name]
        values, attributes = change(found[...]), dict(found.attrs)
        del tree[name]
        # Nothing that was changed may look like a chunk that was never written.
        more = {} if isinstance(tree, h5py.File) else {"write_empty_chunks": True}
        tree.create_dataset(name, data=values, **how, **more)
        tree[name].attrs.update(attributes)
        if isinstance(tree, h5py.File):
            tree.close()

    return edit


def drop(name: str) -> Edit:
    def edit(path: Path) -> None:
        tree = opened(path)
        del tree[name]
        if isinstance(tree, h5py.File):
            tree.close()

    return edit


def one(place: Any, value: Any) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Change some values of an array."""

    def change(values: NDArray[Any]) -> NDArray[Any]:
        values = values.copy()
        values[place] = value
        return values

    return change


def scaled(factor: float) -> tuple[Edit, ...]:
    """Every time of the units in another unit."""
    return (
        put(TIMES, lambda t: t * factor),
        put(OBSERVED, lambda o: o * factor),
        put("intervals/invalid_times/start_time", lambda t: t * factor),
        put("intervals/invalid_times/stop_time", lambda t: t * factor),
    )


def same(values: NDArray[Any]) -> NDArray[Any]:
    return values


def invalid(start: float, stop: float) -> tuple[Edit, ...]:
    return (
        put("intervals/invalid_times/start_time", lambda t: np.full_like(t, start)),
        put("intervals/invalid_times/stop_time", lambda t: np.full_like(t, stop)),
    )


def add_invalid(start: Any, stop: Any) -> Edit:
    """Invalid times in a file that has none."""

    def edit(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            group = file.create_group("intervals/invalid_times")
            group["start_time"], group["stop_time"] = np.atleast_1d(start), np.atleast_1d(stop)

    return edit


def no_rows() -> tuple[Edit, ...]:
    """A table without units, as pynwb writes it."""
    names = ("id", "spike_times", "spike_times_index", "obs_intervals", "obs_intervals_index")
    others = (
        "brain_area",
        "cell_type",
        "electrode_group",
        "electrodes",
        "electrodes_index",
        "peak_channel_id",
        "quality",
        "snr",
        "spike_amplitudes",
        "spike_amplitudes_index",
        "waveform_mean",
    )
    return (
        *(drop(f"units/{name}") for name in others),
        *(put(f"units/{name}", lambda v: v[:0]) for name in names),
    )


# (rule, what was done, edits, what the message must name)
Mutation = tuple[Rule, str, tuple[Edit, ...], tuple[str, ...]]

SPIKES: tuple[Mutation, ...] = (
    (Rule.NO_UNITS, "empty table", no_rows(), ("/units", "no units")),
    (
        Rule.DUPLICATE_IDS,
        "twice",
        (put("units/id", one(4, 100)),),
        ("units/id", "1 ids occur more than once: '100' x2"),
    ),
    (Rule.DUPLICATE_IDS, "all the same", (put("units/id", lambda i: i * 0),), ("units/id", "'0' x12")),
    (
        Rule.COLUMN_LENGTH,
        "short",
        (put("units/snr", lambda s: s[:5]),),
        (r"units/snr has 5 values for 12 rows",),
    ),
    (
        Rule.COLUMN_LENGTH,
        "long",
        (put("units/snr", lambda s: np.r_[s, s]),),
        ("units/snr has 24 values for 12 rows",),
    ),
    (
        Rule.LENGTHS_DIFFER,
        "one spike more",
        (put(TIMES, lambda t: np.r_[t, 1.0]),),
        ("ends at 9688, but /units/spike_times holds 9689",),
    ),
    (
        Rule.LENGTHS_DIFFER,
        "half the spikes",
        (put(TIMES, lambda t: t[:4844]),),
        ("ends at 9688, but /units/spike_times holds 4844",),
    ),
    (
        Rule.NO_SPIKES,
        "none",
        (put(TIMES, lambda t: t[:0]), put(INDEX, lambda i: i * 0)),
        ("/units: its 12 units have no spikes",),
    ),
    (
        Rule.TIMES_NOT_FINITE,
        "NaN",
        (put(TIMES, one(5, np.nan)),),
        (r"1 of 9688 spike times are NaN", r"1 unit \('100' 1 time\)"),
    ),
    (Rule.TIMES_NOT_FINITE, "inf", (put(TIMES, one(-1, np.inf)),), ("1 of 9688 .* infinite", "'133' 1 time")),
    (
        Rule.TIMES_NOT_FINITE,
        "-inf",
        (put(TIMES, one(0, -np.inf)),),
        ("1 of 9688 .* infinite", "'100' 1 time"),
    ),
    (
        Rule.TIMES_NOT_FINITE,
        "all NaN",
        (put(TIMES, lambda t: t * np.nan),),
        ("9688 of 9688 spike times are NaN",),
    ),
    (
        Rule.UNSORTED,
        "some of a unit",
        (put(TIMES, lambda t: np.r_[t[:10][::-1], t[10:]]),),
        (r"9 spike times are earlier than .* in 1 unit \('100' 9 times\)",),
    ),
    (
        Rule.UNSORTED,
        "all",
        (put(TIMES, lambda t: t[::-1]),),
        (r"\d+ spike times are earlier", r"in 1\d units"),
    ),
    (
        Rule.OUTSIDE_INTERVALS,
        "all",
        (put(TIMES, lambda t: t + 1e6),),
        ("all 9688 spikes lie outside the recording, 0 to 120 s",),
    ),
    (
        Rule.INTERVALS,
        "reversed",
        (put(OBSERVED, lambda o: o[:, ::-1]),),
        ("obs_intervals: 24 of 24 intervals are reversed or not finite",),
    ),
    (Rule.INTERVALS, "NaN", (put(OBSERVED, one((2, 1), np.nan)),), ("obs_intervals: 1 of 24 .* number 2",)),
    (Rule.INTERVALS, "inf", (put(OBSERVED, one((0, 0), -np.inf)),), ("obs_intervals: 1 of 24 .* number 0",)),
    (
        Rule.INTERVALS,
        "overlap",
        (put(OBSERVED, one((0, 1), 61.0)),),
        (r"obs_intervals: 1 of 24 intervals overlap one of the same unit, first 0 to 61 s",),
    ),
    (
        Rule.INTERVALS,
        "without length",
        (put(OBSERVED, lambda o: o * 0),),
        ("none of its intervals has any length",),
    ),
    (
        Rule.INTERVALS,
        "one column",
        (put(OBSERVED, lambda o: o[:, 0]),),
        (r"obs_intervals .*expected \(M, 2\)",),
    ),
    (
        Rule.INTERVALS,
        "index past the end",
        (put(f"{OBSERVED}_index", one(-1, 25)),),
        ("obs_intervals_index ends at 25",),
    ),
    (Rule.INTERVALS, "all invalid", invalid(-1.0, 200.0), ("invalid_times cover the whole recording",)),
    (
        Rule.INTERVALS,
        "invalid reversed",
        invalid(30.0, 20.0),
        ("invalid_times: 1 of 1 intervals are reversed", "or delete intervals/invalid_times"),
    ),
    (
        Rule.INTERVALS,
        "invalid NaN",
        invalid(np.nan, 20.0),
        ("invalid_times: 1 of 1 intervals are .*not finite",),
    ),
    (
        Rule.NEGATIVE_TIMES,
        "one",
        (put(TIMES, one(0, -0.5)),),
        (r"1 of 9688 spike times are negative \(the first is -0.5 s\)", "'100' 1 time"),
    ),
    (
        Rule.MEDIAN_RATE,
        "milliseconds of minutes",
        scaled(2e4),
        (r"median unit fires at \d\S* Hz \(\d+ spikes of",),
    ),
    (Rule.MEDIAN_RATE, "hours", scaled(1 / 3600), (r"median unit fires at \S+ Hz", "0.001 to 200 Hz")),
    (
        Rule.MEDIAN_RATE,
        "samples",
        (put(TIMES, lambda t: (t * 30_000).astype(np.int64)),),
        ("spike_times has type int64 .* expected floats",),
    ),
    (
        Rule.RAGGED_INDEX,
        "decreases",
        (put(INDEX, one(3, 10)),),
        (r"spike_times_index decreases 1 times, first in row 3 \(to 10\)",),
    ),
    (
        Rule.RAGGED_INDEX,
        "past the end",
        (put(INDEX, one(-1, 20_000)),),
        ("ends at 20000, but .* holds 9688",),
    ),
    (
        Rule.RAGGED_INDEX,
        "short",
        (put(INDEX, lambda i: i[:-1]),),
        ("spike_times_index has 11 entries for 12 rows",),
    ),
    (
        Rule.RAGGED_INDEX,
        "negative",
        (put(INDEX, lambda i: np.r_[-5, i[1:].astype(np.int64)]),),
        ("decreases 1 times, first in row 0",),
    ),
    (Rule.RAGGED_INDEX, "float", (put(INDEX, lambda i: i.astype(float)),), ("row ends have type float64",)),
    (Rule.SHORT_COLUMN, "ids", (put("units/id", lambda i: i[:-1]),), (r"\d+ .* for 11 rows",)),
    (Rule.SHORT_COLUMN, "no index", (drop(INDEX),), ("spike_times_index is missing",)),
    (Rule.MISSING, "no spike times", (drop(TIMES),), ("its units table has no spike_times",)),
    (Rule.MISSING, "no ids", (drop("units/id"),), ("units/id is missing",)),
    (Rule.MISSING, "no units", (drop("units"),), ("neither a units table nor",)),
    (
        Rule.DAMAGED,
        "times in two dimensions",
        (put(TIMES, lambda t: t.reshape(-1, 2)),),
        (r"shape \(4844, 2\)",),
    ),
)


def add_series(path: Path) -> None:
    """A second dF/F of the same ROIs."""
    with h5py.File(path, "r+") as file:
        file.copy(f"{SERIES}/dff0", file[SERIES], "again")
        file[f"{SERIES}/again/rois"].attrs["table"] = file[TABLE].ref


def with_times(change: Callable[[NDArray[Any]], NDArray[Any]]) -> Edit:
    """Frame times instead of a rate."""

    def edit(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            del file[f"{SERIES}/dff0/starting_time"]
            file[f"{SERIES}/dff0/timestamps"] = change(np.arange(600) / 5.0)

    return edit


def rate(value: Any) -> Edit:
    def edit(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            file[f"{SERIES}/dff0/starting_time"].attrs["rate"] = value

    return edit


TRACES: tuple[Mutation, ...] = (
    (
        Rule.NO_UNITS,
        "no rows",
        (put(ROIS, lambda r: r[:0]), put(FRAMES, lambda f: f[:, :0])),
        ("dff0 has no ROIs",),
    ),
    (
        Rule.NO_UNITS,
        "no cells",
        (put(f"{TABLE}/iscell", lambda c: c * 0),),
        (r"PlaneSegmentation0: none of 5 ROIs is a cell",),
    ),
    (
        Rule.DUPLICATE_IDS,
        "table",
        (put(f"{TABLE}/id", lambda i: i * 0),),
        ("PlaneSegmentation0/id", "'0' x10"),
    ),
    (Rule.DUPLICATE_IDS, "rows", (put(ROIS, one(1, 0)),), ("dff0/rois: 1 rows occur more than once",)),
    (
        Rule.UNIT_INDEX,
        "row past the table",
        (put(ROIS, one(0, 10)),),
        ("dff0/rois: 1 of 5 rows lie outside the table, which has 10",),
    ),
    (Rule.UNIT_INDEX, "negative row", (put(ROIS, one(0, -1)),), ("dff0/rois: 1 of 5 rows lie outside",)),
    (
        Rule.COLUMN_LENGTH,
        "short",
        (put(f"{TABLE}/cell_type", lambda c: c[:4], dtype=h5py.string_dtype()),),
        ("cell_type has 4 values for 10 rows",),
    ),
    (Rule.SHORT_COLUMN, "ids", (put(f"{TABLE}/id", lambda i: i[:-1]),), (r"10 values for 9 rows",)),
    (Rule.SERIES_SHAPE, "one ROI less", (put(FRAMES, lambda f: f[:, :4]),), (r"\(600, 4\)", "by 5 ROIs")),
    (
        Rule.SERIES_SHAPE,
        "neither axis",
        (put(FRAMES, lambda f: f[:, :4].T.copy()),),
        (r"\(4, 600\)", "by 5 ROIs"),
    ),
    (Rule.SERIES_SHAPE, "flat", (put(FRAMES, lambda f: f[:, 0]),), (r"\(600,\)", "by 5 ROIs")),
    (
        Rule.SERIES_SHAPE,
        "three axes",
        (put(FRAMES, lambda f: f[..., None]),),
        (r"\(600, 5, 1\)", "by 5 ROIs"),
    ),
    (
        Rule.TWO_SERIES,
        "again",
        (add_series,),
        ("2 series hold dF/F of the ROIs of", "--series processing/ophys/DfOverF/again"),
    ),
    (
        Rule.TRACE_NOT_FINITE,
        "NaN",
        (put(FRAMES, one((7, 1), np.nan)),),
        (r"1 of \d+ units of .*dff0.* have NaN", "plane0_2"),
    ),
    (Rule.TRACE_NOT_FINITE, "inf", (put(FRAMES, one((7, 1), np.inf)),), (r"1 of \d+ units of", "plane0_2")),
    (
        Rule.TRACE_NOT_FINITE,
        "all NaN",
        (put(FRAMES, lambda f: f * np.nan),),
        (r"2 of \d+ units of", "plane0_2"),
    ),
    (Rule.FRAME_RATE, "slow", (rate(0.01),), ("dff0: the frame rate is 0.01 Hz, expected 0.1 to 1000 Hz",)),
    (Rule.FRAME_RATE, "fast", (rate(30_000.0),), ("dff0: the frame rate is 30000 Hz",)),
    (Rule.FRAME_RATE, "NaN", (rate(np.nan),), ("dff0 has neither timestamps nor a frame rate .*nan",)),
    (Rule.FRAME_RATE, "negative", (rate(-5.0),), ("dff0 has neither timestamps nor a frame rate .*-5",)),
    (Rule.FRAME_RATE, "times in ms", (with_times(lambda t: t * 1e5),), ("frame rate is 5e-05 Hz",)),
    (Rule.TIMES_NOT_FINITE, "frame", (with_times(one(3, np.nan)),), ("1 of 600 frame times are NaN",)),
    (Rule.UNSORTED, "frame", (with_times(one(3, 0.1)),), ("1 of 600 frame times are not later",)),
    (Rule.LENGTHS_DIFFER, "frame times", (with_times(lambda t: t[:-1]),), ("599 times for 600 frames",)),
    (
        Rule.INTERVALS,
        "all invalid",
        (add_invalid(-1.0, 200.0),),
        ("invalid_times cover the whole recording",),
    ),
    (
        Rule.INTERVALS,
        "invalid reversed",
        (add_invalid(30.0, 20.0),),
        ("invalid_times: 1 of 1 intervals are reversed", "or delete intervals/invalid_times"),
    ),
    (
        Rule.INTERVALS,
        "invalid NaN",
        (add_invalid(np.nan, 20.0),),
        ("invalid_times: 1 of 1 intervals are .*not finite", "or delete intervals/invalid_times"),
    ),
    (
        Rule.INTERVALS,
        "invalid without an end",
        (add_invalid([1.0, 2.0], 20.0),),
        ("invalid_times has 2 starts and 1 ends", "or delete intervals/invalid_times"),
    ),
    (Rule.MISSING, "no data", (drop(FRAMES),), ("dff0/data is missing",)),
    (Rule.MISSING, "no table", (drop(TABLE),), ("dff0/rois does not lead to a table of ROIs",)),
    (
        Rule.MISSING,
        "no series",
        (drop("processing/ophys"),),
        ("neither a units table nor fluorescence series",),
    ),
    (
        Rule.NO_FLUORESCENCE,
        "dark",
        (put("processing/ophys/Fluorescence/F0/data", lambda f: f * 0),),
        (r"mean fluorescence of \d+ of \d+ units is not above 0",),
    ),
)


def copy_units(folder: Path) -> Path:
    return copy_tree(SAMPLES / "nwb", folder, ("ephys.nwb",)) / "ephys.nwb"


def copy_store(folder: Path) -> Path:
    return copy_tree(SAMPLES / "nwb" / "ephys.nwb.zarr", folder / "ephys.nwb.zarr")


def copy_ophys(folder: Path) -> Path:
    """The sample without the one NaN that it has in each plane."""
    path = copy_tree(SAMPLES / "nwb", folder, ("ophys.nwb",)) / "ophys.nwb"
    for name in ("dff0", "dff1"):
        put(f"{SERIES}/{name}/data", np.nan_to_num)(path)
    return path


COPIES: dict[str, Maker] = {"nwb": copy_units, "nwb_zarr": copy_store, "nwb_ophys": copy_ophys}
FILE = {"nwb": r"ephys\.nwb", "nwb_zarr": r"ephys\.nwb\.zarr", "nwb_ophys": r"ophys\.nwb"}


def mutated() -> Iterator[BadInput]:
    for formats, mutations in ((UNITS, SPIKES), (OPHYS, TRACES)):
        for name in formats:
            for rule, what, edits, names in mutations:
                options = ("--series", "F0") if rule is Rule.NO_FLUORESCENCE else ()
                yield BadInput(rule, name, what, edited(COPIES[name], *edits), (FILE[name], *names), options)


# What the options say.


def time_files() -> Iterator[BadInput]:
    for what, times, names in (
        ("too few", np.arange(599) / 5.0, ("599 times for 600 frames",)),
        ("NaN", one(4, np.nan)(np.arange(600) / 5.0), ("1 of 600 frame times are NaN",)),
        ("not later", np.zeros(600), ("599 of 600 frame times are not later",)),
        ("text", np.array(["a"] * 600), ("<U1",)),
        ("two columns", np.zeros((600, 2)), (r"\(600, 2\)",)),
    ):

        def make(folder: Path, times: Any = times) -> Path:
            np.save(folder / "times.npy", times)
            return copy_ophys(folder)

        options = ("--timestamps", "{folder}/times.npy", "--series", "dff0")
        yield BadInput(Rule.FRAME_TIMES, "nwb_ophys", what, make, (r"times\.npy", *names), options)
    yield BadInput(
        Rule.FRAME_RATE,
        "nwb_ophys",
        "contradicted",
        copy_ophys,
        ("5 Hz", "30 Hz"),
        ("--fs", "30", "--series", "dff0"),
    )
    for name in UNITS:
        yield BadInput(
            Rule.OUTSIDE_INTERVALS,
            name,
            "as said",
            COPIES[name],
            (FILE[name], r"\d+ of 9688 spikes lie outside 0 to 50 s"),
            ("--duration", "50"),
        )
        yield BadInput(
            Rule.INTERVALS,
            name,
            "said to overlap",
            COPIES[name],
            (FILE[name], "overlap"),
            ("--segment-starts", "0,50", "--duration", "60,60"),
        )


# Damage to files.


def bomb(path: Path) -> None:
    """8 GB of spike times, 200 bytes of which are there."""
    with h5py.File(path, "r+") as file:
        del file[TIMES]
        data = file.create_dataset(TIMES, (1 << 30,), "f8", chunks=(1 << 26,), compression="gzip")
        for chunk in range(16):
            data.id.write_direct_chunk((chunk << 26,), b"x\x9c\x03\x00\x00\x00\x00\x01")


def promise(name: str, shape: tuple[int, ...], **how: Any) -> Edit:
    """An array into which nothing was ever written."""

    def edit(path: Path) -> None:
        tree = opened(path)
        attributes = dict(tree[name].attrs)
        del tree[name]
        tree.create_dataset(name, shape=shape, dtype="f8", **how)
        tree[name].attrs.update(attributes)

    return edit


def endless_texts(path: Path) -> None:
    """The length of a text is such that HDF5 would never find the next one."""
    data = bytearray(path.read_bytes())
    heap = data.index(b"GCOL")
    data[heap + 24 : heap + 32] = bytes([255] * 8)
    path.write_bytes(data)


def no_signature(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(bytes(8) + data[8:])


def to_elsewhere(name: str) -> Edit:
    def edit(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            del file[name]
            file[name] = h5py.ExternalLink("gone.nwb", f"/{name}")

    return edit


def damaged_hdf5() -> Iterator[BadInput]:
    for name in HDF5:
        values = TIMES if name == "nwb" else FRAMES
        for what, damage in DAMAGE.items():
            yield BadInput(
                Rule.NOT_HDF5, name, what, edited(COPIES[name], damage), (FILE[name], r"\d+ bytes|cannot")
            )
        yield BadInput(
            Rule.NOT_HDF5,
            name,
            "no signature",
            edited(COPIES[name], no_signature),
            (FILE[name], "without its signature"),
        )
        yield BadInput(
            Rule.NO_CODE,
            name,
            "endless texts",
            edited(COPIES[name], endless_texts),
            (FILE[name], r"texts at byte \d+"),
        )
        yield BadInput(
            Rule.MISSING,
            name,
            "linked file",
            edited(COPIES[name], to_elsewhere(values)),
            (FILE[name], f"{values} is a link to gone.nwb:/{values}, which is not there"),
        )
        shape = (10**12,) if name == "nwb" else (10**12, 5)
        yield BadInput(
            Rule.DAMAGED,
            name,
            "absurd shape",
            edited(COPIES[name], promise(values, shape)),
            (FILE[name], values, r"promises \d+ bytes, but 0 are stored"),
        )
        shape = (9688,) if name == "nwb" else (600, 5)
        chunks = (1000,) if name == "nwb" else (60, 5)
        yield BadInput(
            Rule.MISSING_CHUNK,
            name,
            "never written",
            edited(COPIES[name], promise(values, shape, chunks=chunks)),
            (FILE[name], values, "lacks 10 of 10 chunks"),
        )
    yield BadInput(
        Rule.DAMAGED, "nwb", "bomb", edited(copy_units, bomb), (FILE["nwb"], r"promises \d+ bytes")
    )


def header(name: str, **changes: Any) -> Edit:
    """Change the header of an array in a Zarr store."""

    def edit(store: Path) -> None:
        path = store / name / ".zarray"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def pickled(name: str, payload: Callable[[Path], Any], *, compressor: bool = False) -> Edit:
    """The chunks of an array in a Zarr store become a pickle that leaves the marker."""

    def edit(store: Path) -> None:
        codec = {"id": "pickle", "protocol": 5}
        how = (
            {"compressor": codec, "filters": None} if compressor else {"compressor": None, "filters": [codec]}
        )
        header(name, **how)(store)
        for chunk in (store / name).glob("[0-9]*"):
            chunk.write_bytes(pickle.dumps(payload(marker(store.parent))))

    return edit


def damaged_stores() -> Iterator[BadInput]:
    case = partial(BadInput, format="nwb_zarr")
    for what, damage in DAMAGE.items():
        for file in (
            "units/spike_times/0",
            "units/spike_times_index/0",
            "units/id/0",
            "units/obs_intervals/0.0",
        ):
            # How many bytes there should be is in the header of a chunk, which may be among what is lost.
            yield case(
                rule=Rule.DAMAGED,
                name=f"{file} {what}",
                make=edited(copy_store, at(file, damage)),
                names=(FILE["nwb_zarr"], file.rpartition("/")[0], "cannot be decoded"),
            )
    for file in ("units/spike_times/.zarray", "units/id/.zarray"):
        for what, text in (("half", '{"chunks": [1'), ("empty object", "{}"), ("list", "[]")):
            yield case(
                rule=Rule.DAMAGED,
                name=f"{file} {what}",
                make=edited(copy_store, at(file, lambda path, text=text: path.write_text(text))),
                names=(file.rpartition("/")[0],),
            )
    yield case(
        rule=Rule.DAMAGED,
        name="absurd shape",
        make=edited(copy_store, header("units/spike_times", shape=[10**13])),
        names=("units/spike_times", r"lacks \d+ of \d+ chunks"),
    )
    for file in ("units/spike_times/0", "units/spike_times_index/0", "units/id/0", "units/obs_intervals/0.0"):
        yield case(
            rule=Rule.MISSING_CHUNK,
            name=file,
            make=edited(copy_store, at(file, remove)),
            names=(file.rpartition("/")[0], "lacks 1 of 1 chunks"),
        )
    yield case(
        rule=Rule.MISSING,
        name="no group",
        make=edited(copy_store, at(".zgroup", remove)),
        names=("cannot be opened as a Zarr group",),
    )
    for name, (rule, payload) in PAYLOADS.items():
        for column in ("spike_times", "id"):
            yield case(
                rule=rule,
                name=f"{column} {name}",
                make=edited(copy_store, pickled(f"units/{column}", payload)),
                names=(f"units/{column} is encoded with pickle, which could run code",),
            )
        yield case(
            rule=Rule.PICKLED_REFERENCES,
            name=name,
            make=edited(copy_store, pickled("units/electrode_group", payload)),
            harmless=copy_store,
        )
        yield case(
            rule=Rule.OBJECT_ARRAY,
            name=f"label {name}",
            make=edited(copy_store, pickled("units/cell_type", payload)),
            harmless=edited(copy_store, drop("units/cell_type")),
        )
    yield case(
        rule=Rule.NO_CODE,
        name="compressor",
        make=edited(copy_store, pickled(TIMES, PAYLOADS["os.open"][1], compressor=True)),
        names=("units/spike_times is encoded with pickle, which could run code",),
    )


def harmless() -> Iterator[BadInput]:
    for name in UNITS:
        yield BadInput(
            Rule.INTERVALS,
            name,
            "invalid without length",
            edited(COPIES[name], *invalid(40.0, 40.0)),
            harmless=edited(COPIES[name], drop("intervals/invalid_times")),
        )
    yield BadInput(
        Rule.INTERVALS,
        "nwb_ophys",
        "invalid without length",
        edited(copy_ophys, add_invalid(40.0, 40.0)),
        harmless=copy_ophys,
        options=("--series", "dff0"),
    )


CASES: list[BadInput] = [
    *mutated(),
    *time_files(),
    *damaged_hdf5(),
    *damaged_stores(),
    *harmless(),
    *(case for name in UNITS for case in label_cases(name, COPIES[name], "103")),
    *label_cases("nwb_ophys", copy_ophys, "plane0_6"),
]

CANNOT_OCCUR = {
    **cannot((Rule.EPHYS_FS,), FORMATS, "Times are seconds; no sampling rate of a recording is read."),
    **cannot(
        (Rule.PICKLE, Rule.PICKLE_OF_NUMPY, Rule.OBJECT_ARRAY, Rule.PICKLED_REFERENCES),
        HDF5,
        "HDF5 keeps text and references in the open; nothing in it is a pickle.",
    ),
    **cannot((Rule.PICKLE_BESIDE,), FORMATS, "No pickle lies beside its arrays, and none is looked for."),
    **cannot(
        (Rule.PARAMS_PY, Rule.CLASS_NAME), FORMATS, "It holds neither Python nor names of classes to load."
    ),
    **cannot((Rule.ONLY_TRUSTED,), FORMATS, "Nothing in it is ever run, trusted or not."),
    **cannot(
        (
            Rule.SEGMENT_INDEX,
            Rule.FLOAT_SAMPLES,
            Rule.STORED_LENGTH,
            Rule.ANALYZER_PARTS,
            Rule.SORTER_FAILED,
        ),
        FORMATS,
        "It is no folder of SpikeInterface or phy: no segments, samples, analyzer or sorter log.",
    ),
    **cannot(
        (Rule.COMBINED, Rule.PLANE_FRAMES, Rule.BAD_FRAMES, Rule.PLANE_ARRAYS, Rule.PLANE_SETTINGS),
        FORMATS,
        "It is no folder of Suite2p; planes with other frames become populations of their own.",
    ),
    **cannot(
        (Rule.OBJECT_ATTRIBUTE, Rule.SECOND_INDEX, Rule.GAP_IN_REGULAR),
        FORMATS,
        "It is no temporaldata file, and has none of its attributes and indices.",
    ),
    **cannot((Rule.UNIT_INDEX,), UNITS, "Spikes are stored unit by unit, so none names its unit."),
    **cannot(
        (
            Rule.FRAME_RATE,
            Rule.TRACE_NOT_FINITE,
            Rule.FRAME_TIMES,
            Rule.NO_FLUORESCENCE,
            Rule.TWO_SERIES,
            Rule.SERIES_SHAPE,
        ),
        UNITS,
        "A units table has no frames, traces or series.",
    ),
    **cannot(
        (Rule.NO_SPIKES, Rule.OUTSIDE_INTERVALS, Rule.NEGATIVE_TIMES, Rule.MEDIAN_RATE),
        OPHYS,
        "It has no spikes, and what is valid of it is made from the times of its frames.",
    ),
    **cannot((Rule.RAGGED_INDEX,), OPHYS, "Traces are a matrix and have no index."),
    **cannot((Rule.NOT_HDF5,), ("nwb_zarr",), "A Zarr store is a folder, so no signature can be wrong."),
}
