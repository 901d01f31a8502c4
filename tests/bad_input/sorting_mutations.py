"""Sortings that break a rule in memory, written into every format in which that can be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bad_input.frame import (
    BadInput,
    Maker,
)
from bad_input.rules import Rule
from bad_input.sortings import (
    FOLDERS,
    FORMATS,
    HOW,
    NPZ,
    NUMPY,
    ONE_SEGMENT,
    PHY,
    WITH_LENGTH,
    ZARR,
    Kept,
    Twin,
)


@dataclass(frozen=True)
class Mutation:
    """A change of the twin, and what the message must hold; ``{spikes}`` and ``{rate}`` stand for files."""

    rule: Rule
    name: str
    change: Callable[[Twin], Any]
    names: tuple[str, ...]
    formats: Sequence[str] = FORMATS
    options: tuple[str, ...] = ()


def put(field: str, row: int, value: Any) -> Callable[[Twin], None]:
    def change(twin: Twin) -> None:
        getattr(twin, field)[row] = value

    return change


def say(**fields: Any) -> Callable[[Twin], None]:
    def change(twin: Twin) -> None:
        for name, value in fields.items():
            setattr(twin, name, value)

    return change


def map_samples(function: Callable[[Any], Any]) -> Callable[[Twin], None]:
    """Change every sample number, and the lengths with them."""

    def change(twin: Twin) -> None:
        twin.samples = function(twin.samples)
        twin.n_samples = [int(function(np.int64(n))) + 1 for n in twin.n_samples]

    return change


def swap_within_a_unit(twin: Twin) -> None:
    first, *_, last = np.flatnonzero((twin.segments == 0) & (twin.units == twin.units[0]))
    twin.samples[[first, last]] = twin.samples[[last, first]]


def halves_swapped(twin: Twin) -> None:
    n = int((twin.segments == 0).sum())
    twin.take(np.r_[n // 2 : n, 0 : n // 2, n : len(twin.samples)])


def backwards(twin: Twin) -> None:
    here = twin.segments == 0
    twin.samples[here] = twin.samples[here][::-1]


def not_finite(value: float) -> Callable[[Twin], None]:
    def change(twin: Twin) -> None:
        twin.samples = twin.samples / 30000.0
        twin.samples[3] = value

    return change


def floats(field: str) -> Callable[[Twin], None]:
    return lambda twin: setattr(twin, field, getattr(twin, field).astype(np.float64))


def seconds(twin: Twin) -> None:
    twin.samples = twin.samples / 30000.0


def wrapped(twin: Twin) -> None:
    twin.samples = twin.samples.astype(np.uint64)
    twin.samples[2] = 2**64 - 7


def no_spikes(twin: Twin) -> None:
    twin.take(slice(0, 0))


def no_units(twin: Twin) -> None:
    twin.take(slice(0, 0))
    twin.ids = []


def repeat_id(twin: Twin) -> None:
    twin.ids[1] = twin.ids[0]


def repeat_as_text(twin: Twin) -> None:
    twin.ids[:2] = [7, "7"]
    twin.ids[2:] = [f"u{n}" for n in range(len(twin.ids) - 2)]


def last_segment(value: int) -> Callable[[Twin], None]:
    return put("segments", -1, value)


_SEGMENTED = tuple(name for name in FORMATS if name not in PHY)
_BAD_RATES: dict[str, tuple[Any, str]] = {
    "NaN": (float("nan"), "nan"),
    "infinite": (float("inf"), "inf"),
    "negative": (-30000.0, "-30000"),
    "zero": (0, "rate 0 Hz"),
    "kilohertz": (30, "rate 30 Hz"),
    "beyond a megahertz": (3e7, r"3e\+07"),
    "text": ("fast", "nan"),
    "missing": (None, "holds no sampling rate|no array 'sampling_frequency'|'sampling_frequency'"),
}

MUTATIONS: list[Mutation] = [
    Mutation(Rule.NEGATIVE_TIMES, "one", put("samples", 5, -5), ("{spikes}", "1 spikes of segment 0", "-5")),
    Mutation(
        Rule.NEGATIVE_TIMES,
        "lowest integer",
        put("samples", 9, -(2**63)),
        ("{spikes}", "1 spikes of segment 0", "-9223372036854775808"),
    ),
    Mutation(
        Rule.NEGATIVE_TIMES,
        "all",
        lambda twin: setattr(twin, "samples", twin.samples - 10**9),
        ("{spikes}", r"(2435|2679) spikes of segment 0"),
    ),
    Mutation(Rule.NEGATIVE_TIMES, "wrapped unsigned", wrapped, ("{spikes}", "1 spikes of segment 0", "-7")),
    Mutation(
        Rule.UNSORTED, "a unit goes back", swap_within_a_unit, ("{spikes}", r"\d+ units go back \d+ times")
    ),
    Mutation(Rule.UNSORTED, "halves swapped", halves_swapped, ("{spikes}", r"\d+ units go back \d+ times")),
    Mutation(Rule.UNSORTED, "backwards", backwards, ("{spikes}", r"\d+ units go back \d+ times")),
    *(
        Mutation(Rule.UNIT_INDEX, name, put("units", 3, value), ("{spikes}", pattern), formats)
        for name, value in {"too large": 8, "far too large": 2**40, "negative": -1}.items()
        for formats, pattern in (
            ((*NUMPY, *ZARR), r"1 spikes .*outside 0\.\.[67]"),
            (NPZ, "labelled with 1 ids .*: 99"),
        )
    ),
    *(
        Mutation(
            Rule.SEGMENT_INDEX,
            name,
            last_segment(value),
            ("{spikes}", "1 spikes have a segment_index"),
            NUMPY,
        )
        for name, value in {"too large": 2, "negative": -1}.items()
    ),
    *(
        Mutation(
            Rule.SEGMENT_INDEX,
            f"{value!r} segments".replace("'", ""),
            say(n_segments=value),
            (r"{rate}", str(value)),
            _SEGMENTED,
        )
        for value in (0, -1, 10**9, "two")
    ),
    Mutation(
        Rule.SEGMENT_INDEX,
        "fewer segments than stored",
        say(n_segments=1),
        (r"{spikes}|recording_(attributes|info)", r"says 1|1 segments|outside 0\.\.0|expected \(1, 2\)"),
        tuple(name for name in _SEGMENTED if name not in ONE_SEGMENT),
    ),
    Mutation(
        Rule.SEGMENT_INDEX,
        "more segments than stored",
        say(n_segments=3),
        ("{spikes}", r"seg2|\b[23]\b"),
        (*NPZ, *ZARR),
    ),
    Mutation(Rule.FLOAT_SAMPLES, "seconds", seconds, ("{spikes}|spikes", "float64")),
    Mutation(Rule.FLOAT_SAMPLES, "whole floats", floats("samples"), ("{spikes}|spikes", "float64")),
    Mutation(
        Rule.FLOAT_SAMPLES,
        "units",
        floats("units"),
        (r"{spikes}|spikes|spike_clusters\.npy", "float64"),
        (*NUMPY, *ZARR, *PHY),
    ),
    *(
        Mutation(Rule.TIMES_NOT_FINITE, name, not_finite(value), ("{spikes}|spikes", "float64"))
        for name, value in {"NaN": np.nan, "infinite": np.inf, "minus infinite": -np.inf}.items()
    ),
    *(
        Mutation(Rule.EPHYS_FS, name, say(fs=value), ("{rate}", shown), FORMATS)
        for name, (value, shown) in _BAD_RATES.items()
        if name != "NaN"
    ),
    Mutation(Rule.EPHYS_FS, "NaN", say(fs=float("nan")), ("{rate}", "nan"), FOLDERS),
    Mutation(
        Rule.DUPLICATE_IDS, "twice", repeat_id, ("unit_ids|{spikes}|{rate}", "1 unit ids occur more"), FOLDERS
    ),
    Mutation(
        Rule.DUPLICATE_IDS, "7 and '7'", repeat_as_text, ("{rate}", "1 unit ids occur more", "7"), NUMPY
    ),
    Mutation(
        Rule.MEDIAN_RATE,
        "milliseconds",
        map_samples(lambda t: t // 30),
        (r"\d Hz", r"\d+ spikes of \d+ units"),
    ),
    Mutation(
        Rule.MEDIAN_RATE,
        "nanoseconds",
        map_samples(lambda t: t * 100_000),
        (r"\d Hz", r"\d+ spikes of \d+ units"),
    ),
    Mutation(Rule.MEDIAN_RATE, "rate 33 times too high", say(fs=1e6), (r"\d Hz", r"\d+ spikes of \d+ units")),
    Mutation(Rule.NO_UNITS, "none", no_units, ("{rate}|unit_ids|{spikes}", "no units, 0 ids"), FOLDERS),
    Mutation(Rule.NO_UNITS, "none", no_units, ("{spikes}", "no units"), PHY),
    Mutation(Rule.NO_SPIKES, "none", no_spikes, ("{spikes}", "no spikes|no units")),
    Mutation(
        Rule.NO_SPIKES,
        "none of unsigned type",
        lambda twin: (no_spikes(twin), setattr(twin, "samples", twin.samples.astype(np.uint32))),
        ("{spikes}", "no spikes|no units"),
    ),
    Mutation(
        Rule.OUTSIDE_INTERVALS,
        "length too short",
        say(n_samples=[590_000, 440_000]),
        (r"\d+ of 2435 spikes", "590000", "{spikes}"),
        ("analyzer", "analyzer_zarr"),
    ),
    Mutation(
        Rule.OUTSIDE_INTERVALS,
        "length too short",
        say(n_samples=[600_000]),
        (r"\d+ of 2679 spikes", "600000", "{spikes}"),
        ("sorter_folder",),
    ),
    *(
        Mutation(
            Rule.STORED_LENGTH,
            name,
            say(n_samples=value),
            ("recording_(attributes|info)", shown),
            WITH_LENGTH,
        )
        for name, (value, shown) in {
            "other number of segments": ([1, 2, 3], r"\[1, 2, 3\].* [12] segments"),
            "text": (["long"], "long"),
            "negative": ([-5], "-5"),
            "no list": (7, "is 7"),
        }.items()
    ),
]


def mutated(kept: Kept, change: Callable[[Twin], Any]) -> Maker:
    def make(folder: Path) -> Path:
        source = kept.copy(folder)
        twin = kept.read(source)
        change(twin)
        kept.write(source, twin)
        return source

    return make


def mutation_cases() -> Iterator[BadInput]:
    for mutation in MUTATIONS:
        for name in mutation.formats:
            kept = HOW[name]
            names = tuple(
                text.replace("{spikes}", kept.spikes).replace("{rate}", kept.rate) for text in mutation.names
            )
            yield BadInput(
                mutation.rule, name, mutation.name, mutated(kept, mutation.change), names, mutation.options
            )
