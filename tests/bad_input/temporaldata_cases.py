"""temporaldata files that break a rule: what temporaldata itself reads without a word among it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from bad_input.frame import DAMAGE, SAMPLES, BadInput, Maker, cannot, copy_tree, edited, label_cases
from bad_input.rules import Rule

SPIKES, CALCIUM = "temporaldata_spikes", "temporaldata_calcium"
FORMATS = (SPIKES, CALCIUM)

Edit = Callable[[Path], Any]

TIMES, INDEX, SECONDS = "spikes/timestamps", "spikes/unit_index", "spikes/timestamp_indices_1s"
TRACES, FRAMES = "calcium_traces", "calcium_traces/df_over_f"
SAMPLE = {SPIKES: "spikes_temporaldata.h5", CALCIUM: "calcium_temporaldata.h5"}
FILE = {name: sample.replace(".", r"\.") for name, sample in SAMPLE.items()}


def copy_of(name: str) -> Maker:
    return lambda folder: copy_tree(SAMPLES / "td", folder, (SAMPLE[name],)) / SAMPLE[name]


def h5(change: Callable[[h5py.File], Any]) -> Edit:
    """An edit of the open file."""

    def edit(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            change(file)

    return edit


def put(name: str, change: Callable[[NDArray[Any]], Any]) -> Edit:
    """Replace a dataset by what a function makes of it."""

    def edit(file: h5py.File) -> None:
        values = change(file[name][()])
        del file[name]
        file.create_dataset(name, data=values)

    return h5(edit)


def drop(name: str) -> Edit:
    return h5(lambda file: file.__delitem__(name))


def add(name: str, values: Any) -> Edit:
    return h5(lambda file: file.__setitem__(name, values))


def mark(place: str, name: str, value: Any) -> Edit:
    """Change an attribute; None = take it away."""
    if value is None:
        return h5(lambda file: file[place].attrs.__delitem__(name))
    return h5(lambda file: file[place].attrs.__setitem__(name, value))


def one(place: Any, value: Any) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Change some values of an array."""

    def change(values: NDArray[Any]) -> NDArray[Any]:
        values = values.copy()
        values[place] = value
        return values

    return change


def domains(edges: Any, series: str) -> tuple[Edit, ...]:
    """The same intervals for the root and the series."""
    starts, ends = np.array(edges, dtype=float).reshape(-1, 2).T
    places = ("domain", f"{series}/domain")
    values = {"start": starts, "end": ends}
    return tuple(
        put(f"{place}/{name}", lambda _, found=found: found)
        for place in places
        for name, found in values.items()
    )


def promise(name: str, shape: tuple[int, ...], dtype: str = "f8", **how: Any) -> Edit:
    """A dataset into which nothing was ever written."""

    def edit(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, shape, dtype, **how)

    return h5(edit)


def bomb(file: h5py.File) -> None:
    """8 GB of zeros, 128 bytes of which are there: each chunk is stored once as an empty stream."""
    for name, dtype in ((TIMES, "f8"), (INDEX, "u1")):
        del file[name]
        data = file.create_dataset(name, (1 << 30,), dtype, chunks=(1 << 26,), compression="gzip")
        for chunk in range(16):
            data.id.write_direct_chunk((chunk << 26,), b"x\x9c\x03\x00\x00\x00\x00\x01")


def endless_texts(path: Path) -> None:
    """The length of a text is such that HDF5 would never find the next one."""
    data = bytearray(path.read_bytes())
    heap = data.index(b"GCOL")
    data[heap + 24 : heap + 32] = bytes([255] * 8)
    path.write_bytes(data)


def link(file: h5py.File) -> None:
    """Spike times of another file."""
    del file[TIMES]
    file[TIMES] = h5py.ExternalLink("other.h5", TIMES)


# (rule, what was done, edits, what the message must name)
Mutation = tuple[Rule, str, tuple[Edit, ...], tuple[str, ...]]

_ALL_TIMES = (TIMES, "domain/start", "domain/end", "spikes/domain/start", "spikes/domain/end")

OF_SPIKES: tuple[Mutation, ...] = (
    (Rule.NO_UNITS, "empty", (put("units/id", lambda v: v[:0]),), (r"'units/id' has shape \(0,\)",)),
    (
        Rule.DUPLICATE_IDS,
        "twice",
        (put("units/id", lambda v: np.r_[v[:1], v[:-1]]),),
        ("unit ids repeat in 'units': .* x2",),
    ),
    (Rule.DUPLICATE_IDS, "numbers", (put("units/id", lambda v: np.arange(20) % 19),), ("'0' x2",)),
    (
        Rule.COLUMN_LENGTH,
        "short",
        (put("units/depth", lambda v: v[:7]),),
        ("'units/depth' has 7 values for 20 units",),
    ),
    (
        Rule.COLUMN_LENGTH,
        "text",
        (put("units/cell_type", lambda v: v[:7]),),
        ("cell_type' has 7 values for 20 units",),
    ),
    (Rule.COLUMN_LENGTH, "ids", (put("units/id", lambda v: v[:5]),), ("has 20 values for 5 units",)),
    (
        Rule.LENGTHS_DIFFER,
        "index",
        (put(INDEX, lambda v: v[:-3]),),
        ("5484 timestamps and 5481 unit indices",),
    ),
    (Rule.LENGTHS_DIFFER, "times", (put(TIMES, lambda v: v[:10]),), ("10 timestamps and 5484 unit indices",)),
    (
        Rule.UNIT_INDEX,
        "too large",
        (put(INDEX, one(slice(0, 4), 20)),),
        (r"outside 0\.\.19 for 4 of 5484 spikes",),
    ),
    (Rule.UNIT_INDEX, "negative", (put(INDEX, one(3, -1)),), (r"outside 0\.\.19 for 1 of 5484 spikes",)),
    (Rule.UNIT_INDEX, "real", (put(INDEX, lambda v: v.astype(float)),), ("expected one integer per spike",)),
    (
        Rule.NO_SPIKES,
        "none",
        (put(TIMES, lambda v: v[:0]), put(INDEX, lambda v: v[:0])),
        ("'spikes' has no spikes",),
    ),
    (
        Rule.TIMES_NOT_FINITE,
        "NaN",
        (put(TIMES, one(slice(5, 8), np.nan)),),
        ("3 of 5484 .*NaN", r"units? \("),
    ),
    (
        Rule.TIMES_NOT_FINITE,
        "inf",
        (put(TIMES, one(-1, np.inf)),),
        ("1 of 5484 .*NaN or infinite", r"1 unit \("),
    ),
    (Rule.TIMES_NOT_FINITE, "all NaN", (put(TIMES, lambda v: v * np.nan),), ("5484 of 5484 spike times",)),
    (Rule.UNSORTED, "one", (put(TIMES, one(9, 29.0)),), ("not sorted: 1 of 5484 spikes",)),
    (Rule.UNSORTED, "reversed", (put(TIMES, lambda v: v[::-1]),), ("5483 of 5484 spikes.*within 20 units",)),
    (
        Rule.OUTSIDE_INTERVALS,
        "all",
        (put(TIMES, lambda v: v + 1e6),),
        ("5484 spikes, from 1e\\+06 to .* none of them inside the domain, 0 to 60 s",),
    ),
    (
        Rule.NEGATIVE_TIMES,
        "all",
        (put(TIMES, lambda v: v - 100.0),),
        (r"5484 spikes, from -\d+.* none of them inside the domain, 0 to 60 s",),
    ),
    (
        Rule.INTERVALS,
        "NaN",
        (put("domain/end", one(0, np.nan)),),
        ("'domain' has 1 of 2 intervals that are NaN",),
    ),
    (Rule.INTERVALS, "inf", (put("spikes/domain/end", one(1, np.inf)),), ("1 of 2 intervals that are NaN",)),
    (
        Rule.INTERVALS,
        "reversed",
        (put("domain/end", one(0, -4.0)),),
        ("1 of 2 intervals that end before they start",),
    ),
    (
        Rule.INTERVALS,
        "overlap",
        (put("domain/end", one(0, 40.0)),),
        ("'domain' has 1 intervals that start before",),
    ),
    (Rule.INTERVALS, "lengths", (put("domain/end", lambda v: v[:1]),), ("'domain' has 2 starts and 1 ends",)),
    (Rule.INTERVALS, "none", domains([], "spikes"), ("no interval of any length",)),
    (Rule.INTERVALS, "without length", domains([[3.0, 3.0]], "spikes"), ("no interval of any length",)),
    (
        Rule.INTERVALS,
        "apart",
        (put("domain/start", lambda v: v + 900), put("domain/end", lambda v: v + 900)),
        ("from 900 to 960 s .'domain'., its spikes from 0 to 60 s: never both",),
    ),
    (
        Rule.MEDIAN_RATE,
        "slow",
        tuple(put(name, lambda v: v * 1e5) for name in _ALL_TIMES),
        (r"median unit fires at \S+ Hz \(5484 spikes",),
    ),
    (
        Rule.MEDIAN_RATE,
        "fast",
        tuple(put(name, lambda v: v / 3600) for name in _ALL_TIMES),
        (r"median unit fires at \S+ Hz \(5484 spikes",),
    ),
    (
        Rule.MEDIAN_RATE,
        "samples",
        (put(TIMES, lambda v: (v * 30_000).astype(int)),),
        ("type int64.*in seconds",),
    ),
    (Rule.MISSING, "times", (drop(TIMES),), ("'spikes' has no dataset 'timestamps'",)),
    (Rule.MISSING, "index", (drop(INDEX),), ("'spikes' has no dataset 'unit_index'",)),
    (Rule.MISSING, "units", (drop("units"),), ("has no group 'units'",)),
    (Rule.MISSING, "ids", (drop("units/id"),), ("'units' has no dataset 'id'",)),
    (Rule.MISSING, "starts", (drop("domain/start"),), ("'domain' has no dataset 'start'",)),
    (
        Rule.MISSING,
        "domains",
        (drop("domain"), drop("spikes/domain")),
        ("neither a group 'domain' nor 'spikes/domain'",),
    ),
    (
        Rule.MISSING,
        "linked file",
        (h5(link),),
        ("'timestamps' as a link to another place, which is not followed",),
    ),
    (
        Rule.MISSING_CHUNK,
        "index",
        (promise(INDEX, (5484,), "i8", chunks=(100,)),),
        ("lacks 55 of 55 chunks",),
    ),
    (Rule.MISSING_CHUNK, "times", (promise(TIMES, (5484,), chunks=(100,)),), ("lacks 55 of 55 chunks",)),
    (
        Rule.DAMAGED,
        "absurd shape",
        (promise(TIMES, (1 << 45,)), promise(INDEX, (1 << 45,), "i8")),
        (r"promises \d+ bytes but 0 are in the file",),
    ),
    (Rule.DAMAGED, "bomb", (h5(bomb),), (r"promises \d+ bytes but only 128 are in the file",)),
    (Rule.DAMAGED, "times in two dimensions", (put(TIMES, lambda v: v[:, None]),), (r"shape \(5484, 1\)",)),
)

OF_CALCIUM: tuple[Mutation, ...] = (
    (Rule.NO_UNITS, "empty", (put("rois/id", lambda v: v[:0]),), (r"'rois/id' has shape \(0,\)",)),
    (
        Rule.DUPLICATE_IDS,
        "twice",
        (put("rois/id", lambda v: np.r_[v[:1], v[:-1]]),),
        ("repeat in 'rois': .* x2",),
    ),
    (
        Rule.COLUMN_LENGTH,
        "short",
        (add("rois/depth", np.zeros(5)),),
        ("'rois/depth' has 5 values for 12 units",),
    ),
    (Rule.LENGTHS_DIFFER, "times", (add(f"{TRACES}/timestamps", np.arange(7.0)),), ("each of 300 frames",)),
    (
        Rule.SERIES_SHAPE,
        "transposed",
        (put(FRAMES, lambda v: v.T.copy()),),
        ("has 300 columns, 'rois' has 12 units",),
    ),
    (
        Rule.SERIES_SHAPE,
        "fewer units",
        (put(FRAMES, lambda v: v[:, :11]),),
        ("has 11 columns, 'rois' has 12 units",),
    ),
    (Rule.SERIES_SHAPE, "one dimension", (put(FRAMES, lambda v: v[:, 0]),), (r"shape \(300,\)",)),
    (Rule.SERIES_SHAPE, "one frame", (put(FRAMES, lambda v: v[:1]),), ("has 1 frames",)),
    (
        Rule.TRACE_NOT_FINITE,
        "NaN",
        (put(FRAMES, one((slice(3, 5), 7), np.nan)),),
        (r"1 unit \(.*, in 2 of 300",),
    ),
    (
        Rule.TRACE_NOT_FINITE,
        "inf",
        (put(FRAMES, one((3, 7), -np.inf)),),
        (r"1 unit \(.*, in 1 of 300 frames",),
    ),
    (Rule.TRACE_NOT_FINITE, "too large", (put(FRAMES, lambda v: v.astype("f8") * 1e300),), ("in 12 units",)),
    (
        Rule.TRACE_NOT_FINITE,
        "filler",
        (put(FRAMES, one(slice(100, 120), np.nan)),),
        ("12 units.*in 20 of 300",),
    ),
    (Rule.FRAME_RATE, "NaN", (mark(TRACES, "sampling_rate", np.nan),), ("rate of nan Hz",)),
    (Rule.FRAME_RATE, "zero", (mark(TRACES, "sampling_rate", 0.0),), ("frame rate of 0 Hz",)),
    (Rule.FRAME_RATE, "negative", (mark(TRACES, "sampling_rate", -10.0),), ("frame rate of -10 Hz",)),
    (Rule.FRAME_RATE, "too high", (mark(TRACES, "sampling_rate", 1e4),), ("rate of 10000 Hz",)),
    (Rule.FRAME_RATE, "text", (mark(TRACES, "sampling_rate", "fast"),), ("rate of nan Hz",)),
    (Rule.FRAME_RATE, "in ms", (add(f"{TRACES}/timestamps", np.arange(300) * 1e5),), ("Hz, expected 0.1",)),
    (
        Rule.TIMES_NOT_FINITE,
        "frames",
        (add(f"{TRACES}/timestamps", np.full(300, np.nan)),),
        ("300 of 300 times",),
    ),
    (
        Rule.UNSORTED,
        "frames",
        (add(f"{TRACES}/timestamps", np.r_[np.arange(299) / 10.0, 1.0]),),
        ("does not increase: 1 of 300",),
    ),
    (
        Rule.OUTSIDE_INTERVALS,
        "frames",
        (add(f"{TRACES}/timestamps", 1000 + np.arange(300) / 10.0),),
        ("300 frames, from 1000 to",),
    ),
    (
        Rule.NEGATIVE_TIMES,
        "frames",
        (add(f"{TRACES}/timestamps", np.arange(300) / 10.0 - 100),),
        ("300 frames, from -100 to",),
    ),
    (Rule.INTERVALS, "NaN", (put("domain/end", one(0, np.nan)),), ("1 of 1 intervals that are NaN",)),
    (Rule.INTERVALS, "reversed", (put("domain/end", one(0, -4.0)),), ("1 of 1 intervals that end before",)),
    (
        Rule.INTERVALS,
        "overlap",
        domains([[2.5, 20.0], [15.0, 32.5]], TRACES),
        ("1 intervals that start before",),
    ),
    (Rule.INTERVALS, "without length", domains([[3.0, 3.0]], TRACES), ("no interval of any length",)),
    (
        Rule.GAP_IN_REGULAR,
        "no filler",
        domains([[2.5, 12.5], [52.5, 72.5]], TRACES),
        ("300 frames for a domain with gaps that spans 700",),
    ),
    (Rule.MISSING, "frames", (drop(FRAMES),), ("no dataset 'df_over_f'",)),
    (Rule.MISSING, "rois", (drop("rois"),), ("has no group 'rois' or 'units'",)),
    (Rule.MISSING, "rate", (mark(TRACES, "sampling_rate", None),), ("has no timestamps",)),
    (
        Rule.OBJECT_ATTRIBUTE,
        "irregular without times",
        (mark(TRACES, "object", "IrregularTimeSeries"),),
        ("'calcium_traces' has no timestamps",),
    ),
    (
        Rule.MISSING_CHUNK,
        "frames",
        (promise(FRAMES, (300, 12), "f4", chunks=(30, 12)),),
        ("lacks 10 of 10 chunks",),
    ),
    (
        Rule.DAMAGED,
        "absurd shape",
        (promise(FRAMES, (1 << 40, 12), "f4"),),
        (r"promises \d+ bytes but 0 are",),
    ),
    (
        Rule.COLUMN_LENGTH,
        "offsets",
        (add("rois/time_offset", np.full(12, np.nan)),),
        ("not one number per unit",),
    ),
)


def mutated() -> Iterator[BadInput]:
    for name, mutations in ((SPIKES, OF_SPIKES), (CALCIUM, OF_CALCIUM)):
        for rule, what, edits, names in mutations:
            yield BadInput(rule, name, what, edited(copy_of(name), *edits), (FILE[name], *names))


def damaged() -> Iterator[BadInput]:
    for name in FORMATS:
        table = "units" if name == SPIKES else "rois"
        for what, damage in DAMAGE.items():
            # Named as the reader to use: of some damage nothing is left that it could be recognised by.
            yield BadInput(
                Rule.NOT_HDF5,
                name,
                what,
                edited(copy_of(name), damage),
                (FILE[name],),
                ("--reader", "temporaldata"),
            )
        yield BadInput(
            Rule.NO_CODE,
            name,
            "endless texts",
            edited(copy_of(name), endless_texts),
            (FILE[name], r"texts at byte \d+ do not follow one another"),
        )
        yield BadInput(
            Rule.OBJECT_ATTRIBUTE,
            name,
            "root",
            edited(copy_of(name), mark("/", "object", None)),
            (FILE[name],),
            ("--reader", "temporaldata"),
        )
        yield BadInput(
            Rule.OBJECT_ARRAY,
            name,
            "ragged ids",
            edited(copy_of(name), drop(f"{table}/id"), h5(lambda f, t=table: ragged(f, f"{t}/id"))),
            (FILE[name], f"{table}/id"),
        )
        yield from label_cases(name, copy_of(name), "s1/unit1" if name == SPIKES else "0")


def ragged(file: h5py.File, name: str) -> None:
    file.create_dataset(name, (20 if name.startswith("units") else 12,), h5py.vlen_dtype(np.uint8))


def harmless() -> Iterator[BadInput]:
    """What temporaldata would need or use, and nuclr does not."""
    for what, change in (
        ("all zero", lambda v: v * 0),
        ("reversed", lambda v: v[::-1]),
        ("short", lambda v: v[:9]),
    ):
        yield BadInput(
            Rule.SECOND_INDEX,
            SPIKES,
            what,
            edited(copy_of(SPIKES), put(SECONDS, change)),
            harmless=copy_of(SPIKES),
        )
    yield BadInput(
        Rule.SECOND_INDEX,
        SPIKES,
        "absurd shape",
        edited(copy_of(SPIKES), promise(SECONDS, (1 << 45,), "i8")),
        harmless=copy_of(SPIKES),
    )
    # Spikes before 0 are legal where the domain begins before them, and outside it no spike counts.
    for rule, what, place, time in (
        (Rule.NEGATIVE_TIMES, "one", 0, -0.5),
        (Rule.OUTSIDE_INTERVALS, "one", -1, 60.5),
    ):
        yield BadInput(
            rule,
            SPIKES,
            what,
            edited(copy_of(SPIKES), put(TIMES, one(place, time))),
            (r"^1 of 5484 spikes lie outside the file's own domain and were left out\.$",),
            harmless=edited(
                copy_of(SPIKES),
                *(put(name, lambda v, place=place: np.delete(v, place)) for name in (TIMES, INDEX)),
            ),
        )
    for name, groups in ((SPIKES, ("spikes", "units", "domain")), (CALCIUM, ("rois", "domain"))):
        for group in groups:
            yield BadInput(
                Rule.OBJECT_ATTRIBUTE,
                name,
                f"none at {group}",
                edited(copy_of(name), mark(group, "object", None)),
                harmless=copy_of(name),
            )


CASES: list[BadInput] = [*mutated(), *damaged(), *harmless()]

CANNOT_OCCUR = {
    **cannot((Rule.EPHYS_FS,), FORMATS, "Times are seconds; no sampling rate of a recording is read."),
    **cannot(
        (Rule.PICKLE, Rule.PICKLE_OF_NUMPY, Rule.PICKLE_BESIDE, Rule.PICKLED_REFERENCES),
        FORMATS,
        "HDF5 keeps text in the open; nothing in it, or beside it, is a pickle.",
    ),
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
        (
            Rule.COMBINED,
            Rule.PLANE_FRAMES,
            Rule.FRAME_TIMES,
            Rule.BAD_FRAMES,
            Rule.PLANE_ARRAYS,
            Rule.PLANE_SETTINGS,
            Rule.NO_FLUORESCENCE,
        ),
        FORMATS,
        "It is no folder of Suite2p: it has one series of frames, which is dF/F already.",
    ),
    **cannot(
        (Rule.RAGGED_INDEX, Rule.SHORT_COLUMN, Rule.TWO_SERIES),
        FORMATS,
        "It is no NWB file: spikes name their unit, and one series is read.",
    ),
    **cannot(
        (Rule.FRAME_RATE, Rule.TRACE_NOT_FINITE, Rule.SERIES_SHAPE, Rule.GAP_IN_REGULAR),
        (SPIKES,),
        "It has no frames.",
    ),
    **cannot(
        (Rule.UNIT_INDEX, Rule.NO_SPIKES, Rule.MEDIAN_RATE, Rule.SECOND_INDEX),
        (CALCIUM,),
        "It has no spikes, and its traces are a matrix without an index.",
    ),
}
