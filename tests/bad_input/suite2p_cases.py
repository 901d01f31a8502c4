"""Suite2p folders that break a rule: one list of mutations, crossed with four layouts.

Each is a real sample without the pictures that Suite2p keeps in its dicts, which nothing reads: as 1.1.0
writes one plane, as it writes two planes with two channels, as 0.14.5 writes the latter, and a bare plane
without any settings, as people pass it on.
"""

from __future__ import annotations

import functools
import io
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bad_input.frame import (
    DAMAGE,
    PAYLOADS,
    SAMPLES,
    BadInput,
    Maker,
    absurd_header,
    at,
    cannot,
    edited,
    label_cases,
    marker,
    remove,
)
from bad_input.rules import Rule


@dataclass(frozen=True)
class Layout:
    """One way in which Suite2p's output comes.

    Attributes:
        sample: Folder of the sample.
        planes: Its planes.
        rate_file: File of a plane that holds the frame rate; empty when none does.
        dicts: Files that hold pickled dicts.
        arrays: Files that hold numbers.
        n_rois, n_frames: Of the first plane.
        options: Without which it cannot be read.
    """

    sample: str
    planes: tuple[str, ...]
    rate_file: str
    dicts: tuple[str, ...]
    arrays: tuple[str, ...]
    n_rois: int
    n_frames: int
    options: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        return (*self.arrays, *self.dicts, "stat.npy")

    @property
    def has_red(self) -> bool:
        return "redcell.npy" in self.arrays


_ARRAYS = ("F.npy", "Fneu.npy", "iscell.npy")
_NEW = ("settings.npy", "db.npy", "reg_outputs.npy")
LAYOUTS = {
    "suite2p_1.1.0": Layout("v110_1plane", ("plane0",), "settings.npy", _NEW, _ARRAYS, 30, 1500),
    "suite2p_1.1.0_planes": Layout(
        "v110_2plane_2chan",
        ("plane0", "plane1"),
        "settings.npy",
        (*_NEW, "detect_outputs.npy"),
        (*_ARRAYS, "redcell.npy"),
        11,
        500,
    ),
    "suite2p_0.14.5": Layout(
        "v0145_2plane_2chan",
        ("plane0", "plane1"),
        "ops.npy",
        ("ops.npy",),
        (*_ARRAYS, "redcell.npy"),
        11,
        500,
    ),
    "suite2p_plane": Layout("v110_1plane", ("plane0",), "", (), _ARRAYS, 30, 1500, ("--fs", "10")),
}
FORMATS = tuple(LAYOUTS)
WITH_SETTINGS = tuple(name for name, layout in LAYOUTS.items() if layout.rate_file)
SEVERAL = tuple(name for name, layout in LAYOUTS.items() if len(layout.planes) > 1)
_PICTURE = 5000  # values: longer arrays inside dicts are pictures


@functools.cache
def slim(path: Path) -> bytes:
    """A file of a sample, without pictures in its dict."""
    array = np.load(path, allow_pickle=True)
    if array.dtype != object or array.shape != ():
        return path.read_bytes()
    content = {
        key: value
        for key, value in array.item().items()
        if not (isinstance(value, np.ndarray) and value.size > _PICTURE)
    }
    stream = io.BytesIO()
    np.save(stream, np.array(content, dtype=object))
    return stream.getvalue()


def copier(layout: Layout) -> Maker:
    def copy(folder: Path) -> Path:
        source = folder / "suite2p"
        for plane in layout.planes:
            (source / plane).mkdir(parents=True)
            for name in (*layout.files, "spks.npy"):
                origin = SAMPLES / "suite2p" / layout.sample / "suite2p" / plane / name
                (source / plane / name).write_bytes(slim(origin))
        return source if layout.rate_file else source / "plane0"

    return copy


COPY = {name: copier(layout) for name, layout in LAYOUTS.items()}

Edit = Callable[[Path], Any]


def first(source: Path) -> Path:
    """Folder of the first plane."""
    return source / "plane0" if (source / "plane0").is_dir() else source


def in_first(*edits: Edit) -> Edit:
    return lambda source: [edit(first(source)) for edit in edits]


def in_all(*edits: Edit) -> Edit:
    def change(source: Path) -> None:
        for plane in sorted(source.glob("plane*")) or [source]:
            for edit in edits:
                edit(plane)

    return change


def edit_npy(name: str, change: Callable[[Any], Any]) -> Edit:
    return lambda plane: np.save(plane / name, change(np.load(plane / name)))


def edit_dict(name: str, **changes: Any) -> Edit:
    def change(plane: Path) -> None:
        content = np.load(plane / name, allow_pickle=True).item()
        np.save(plane / name, np.array(content | changes, dtype=object))

    return change


def poke(name: str, where: Any, value: float) -> Edit:
    def change(array: Any) -> Any:
        array[where] = value
        return array

    return edit_npy(name, change)


def case(
    rule: Rule, name: str, what: str, edit: Edit, *names: str, more: Sequence[str] = (), **how: Any
) -> BadInput:
    """A case of the layout `name`."""
    return BadInput(rule, name, what, edited(COPY[name], edit), names, (*LAYOUTS[name].options, *more), **how)


def array_cases(name: str, layout: Layout) -> Iterator[BadInput]:
    n, t = layout.n_rois, layout.n_frames
    make = partial(case, Rule.PLANE_ARRAYS, name)
    f = r"plane0/F\.npy"
    yield make("F in one dimension", in_first(edit_npy("F.npy", lambda a: a[0])), f, rf"shape \({t},\)")
    yield make("F of text", in_first(edit_npy("F.npy", lambda a: a.astype("U4"))), f, "<U4")
    yield make("F of complex numbers", in_first(edit_npy("F.npy", lambda a: a.astype("c8"))), f, "complex64")
    yield make("F of truth values", in_first(edit_npy("F.npy", lambda a: a > 0)), f, "bool")
    for frames in (0, 1):
        cut = in_all(
            *(edit_npy(file, lambda a, k=frames: a[:, :k]) for file in ("F.npy", "Fneu.npy", "spks.npy"))
        )
        yield make(f"{frames} frames", cut, rf"{frames} frames, at least 2")
    for what, change, shape in (
        ("fewer frames", lambda a: a[:, :-1], (n, t - 1)),
        ("more frames", lambda a: np.c_[a, a[:, :1]], (n, t + 1)),
        ("fewer ROIs", lambda a: a[:-1], (n - 1, t)),
        ("transposed", lambda a: a.T, (t, n)),
    ):
        sizes = (r"Fneu\.npy has shape " + rf"\({shape[0]}, {shape[1]}\)", rf"\({n}, {t}\)")
        yield make(f"Fneu with {what}", in_first(edit_npy("Fneu.npy", change)), *sizes)
        sizes = (r"spks\.npy has shape " + rf"\({shape[0]}, {shape[1]}\)", rf"\({n}, {t}\)")
        yield make(
            f"spks with {what}", in_first(edit_npy("spks.npy", change)), *sizes, more=("--signal", "spks")
        )
    yield make(
        "F with fewer ROIs", in_first(edit_npy("F.npy", lambda a: a[:-1])), r"stat\.npy", f"{n}", f"{n - 1}"
    )
    yield make("F transposed", in_first(edit_npy("F.npy", lambda a: a.T)), r"stat\.npy", f"{n}", f"{t}")
    yield make(
        "stat of numbers", in_first(lambda p: np.save(p / "stat.npy", np.arange(n))), rf"{n} of {n} entries"
    )
    yield make(
        "iscell in one column",
        in_first(edit_npy("iscell.npy", lambda a: a[:, 0])),
        r"plane0/iscell\.npy",
        rf"shape \({n},\)",
    )
    yield make(
        "iscell with NaN",
        in_first(poke("iscell.npy", (4, 1), np.nan)),
        rf"plane0/iscell\.npy: 1 of {n} rows .* ROI 4",
    )
    for file in ("iscell.npy", *(("redcell.npy",) if layout.has_red else ())):
        for what, change in (("short", lambda a: a[:-3]), ("long", lambda a: np.r_[a, a[:2]])):
            yield case(
                Rule.COLUMN_LENGTH,
                name,
                f"{file} {what}",
                in_first(edit_npy(file, change)),
                f"plane0/{file}".replace(".", r"\."),
                rf"\({n - 3 if what == 'short' else n + 2}, 2\)",
                f"{n} ROIs",
            )
    yield case(
        Rule.COLUMN_LENGTH,
        name,
        "stat short",
        in_first(lambda p: np.save(p / "stat.npy", np.load(p / "stat.npy", allow_pickle=True)[:5])),
        r"plane0/stat\.npy describes \(5,\) ROIs",
        f"{n}",
    )


def unit_cases(name: str, layout: Layout) -> Iterator[BadInput]:
    total = layout.n_rois * len(layout.planes)
    yield case(
        Rule.NO_UNITS,
        name,
        "no cells",
        in_all(edit_npy("iscell.npy", lambda a: a * 0)),
        f"none of {total} ROIs",
    )
    yield case(
        Rule.NO_UNITS,
        name,
        "improbable",
        in_all(edit_npy("iscell.npy", lambda a: a / 2)),
        f"none of {total} ROIs has a probability of 1",
        more=("--min-iscell", "1"),
    )
    none = in_all(
        *(edit_npy(file, lambda a: a[:0]) for file in (*layout.arrays, "spks.npy")),
        lambda p: np.save(p / "stat.npy", np.empty(0, dtype=object)),
    )
    yield case(Rule.NO_UNITS, name, "no ROIs", none, "none of 0 ROIs")
    for what, file, where, value in (
        ("NaN in F", "F.npy", (5, 9), np.nan),
        ("infinite F", "F.npy", (5, 0), np.inf),
        ("NaN in Fneu", "Fneu.npy", (5, -1), np.nan),
        ("infinite Fneu", "Fneu.npy", (5, 3), -np.inf),
        ("a whole unit", "F.npy", 5, np.nan),
    ):
        yield case(
            Rule.TRACE_NOT_FINITE, name, what, in_first(poke(file, where, value)), r"1 unit \(plane0_5\)"
        )
    yield case(
        Rule.TRACE_NOT_FINITE,
        name,
        "too large for float32",
        in_first(
            edit_npy("F.npy", lambda a: np.where(np.arange(len(a))[:, None] == 2, 1e300, a.astype("f8")))
        ),
        r"1 unit \(plane0_2\)",
    )
    yield case(
        Rule.TRACE_NOT_FINITE,
        name,
        "NaN in spks",
        in_first(poke("spks.npy", ([1, 4], 7), np.nan)),
        r"2 units \(plane0_1, plane0_4\)",
        more=("--signal", "spks"),
    )
    yield case(
        Rule.TRACE_NOT_FINITE,
        name,
        "every unit dropped",
        in_all(edit_npy("F.npy", lambda a: a * np.nan)),
        "no unit is left",
        f"{total} units",
        more=("--drop-nan-units",),
    )
    for what, change in (("dark", lambda a: a * 0), ("below zero", lambda a: -a)):

        def darken(array: Any, change: Callable[[Any], Any] = change) -> Any:
            array[4] = change(array[4])
            return array

        yield case(
            Rule.NO_FLUORESCENCE, name, what, in_first(edit_npy("F.npy", darken)), r"1 unit \(plane0_4\)"
        )


def rate_cases(name: str, layout: Layout) -> Iterator[BadInput]:
    values: dict[str, tuple[Any, str]] = {
        "NaN": (np.nan, "nan"),
        "infinite": (np.inf, "inf"),
        "zero": (0.0, r"\b0\b"),
        "negative": (-10.0, "-10"),
        "absurd": (3e7, r"3e\+07"),
        "in kilohertz": (0.01, r"0\.01"),
    }
    for what, (value, shown) in values.items():
        if layout.rate_file:
            edit = in_all(edit_dict(layout.rate_file, fs=value))
            yield case(Rule.FRAME_RATE, name, what, edit, "frame rate", shown)
        yield BadInput(
            Rule.FRAME_RATE, name, f"said to be {what}", COPY[name], ("--fs", shown), ("--fs", str(value))
        )
    if not layout.rate_file:
        yield BadInput(Rule.FRAME_RATE, name, "not said", COPY[name], ("no frame rate",))
        return
    for what, value, shown in (("missing", None, "no frame rate"), ("text", "fast", "nan")):
        yield case(Rule.FRAME_RATE, name, what, in_all(edit_dict(layout.rate_file, fs=value)), shown)
    if len(layout.planes) > 1:
        edit = in_first(edit_dict(layout.rate_file, fs=30.0))
        yield case(Rule.FRAME_RATE, name, "of two planes", edit, "plane0 30 Hz, plane1 5 Hz")


def settings_cases(name: str, layout: Layout) -> Iterator[BadInput]:
    old = layout.rate_file == "ops.npy"

    def said(what: str, value: Any) -> Edit:
        """Put a value where this version keeps it."""
        group, key = {
            "coefficient": ("extraction", "neucoeff" if old else "neuropil_coefficient"),
            "window": ("dcnv_preprocess", "win_baseline"),
            "smoothing": ("dcnv_preprocess", "sig_baseline"),
        }[what]
        return edit_dict(layout.rate_file, **({key: value} if old else {group: {key: value}}))

    file = layout.rate_file.replace(".", r"\.")
    for what, value, shown in (
        ("coefficient", "much", "much"),
        ("coefficient", np.nan, "nan"),
        ("coefficient", -0.7, "-0.7"),
        ("coefficient", 1e9, "1000000000"),
        ("coefficient", [0.7], r"\[0\.7\]"),
        ("window", 1e12, "1000000000000"),
        ("window", -1, "-1"),
        ("smoothing", 1e9, "1000000000"),
        ("smoothing", 0, r"\b0\b"),
    ):
        edit = in_first(said(what, value))
        yield case(Rule.PLANE_SETTINGS, name, f"{what} {value}", edit, f"plane0/{file}", shown)
    yield case(
        Rule.PLANE_SETTINGS,
        name,
        "no dict",
        in_first(lambda p: np.save(p / layout.rate_file, np.arange(3))),
        f"plane0/{file}",
        r"shape \(3,\), expected a dict",
    )
    marks = "ops.npy" if old else "reg_outputs.npy"
    t = layout.n_frames
    for what, marked, shown in (
        ("short", np.zeros(7, bool), f"badframes has 7 entries for {t} frames"),
        ("long", np.zeros(t + 1, bool), rf"badframes.* {t + 1}|{t + 1} entries"),
        ("text", "none", "badframes is not a list"),
        ("floats", np.zeros(t), "badframes is not a list"),
        ("all", np.ones(t, bool), f"{t} of {t} frames are marked as bad"),
        ("all but one", np.arange(t) != 3, f"{t - 1} of {t} frames are marked as bad"),
    ):
        edit = in_all(edit_dict(marks, badframes=marked, badframes0=None))
        yield case(Rule.BAD_FRAMES, name, what, edit, shown)


def times_cases(name: str, layout: Layout) -> Iterator[BadInput]:
    t = layout.n_frames
    good = np.arange(t) / 5.0
    broken = good.copy()
    broken[3] = np.nan
    endless = good.copy()
    endless[-1] = np.inf
    swapped = good.copy()
    swapped[[10, 11]] = swapped[[11, 10]]
    times: dict[str, tuple[Rule, Any, tuple[str, ...]]] = {
        "too few": (Rule.FRAME_TIMES, good[:-1], (f"{t - 1} times", f"{t} frames")),
        "too many": (Rule.FRAME_TIMES, np.r_[good, good[-1] + 1], (f"{t + 1} times", f"{t} frames")),
        "none": (Rule.FRAME_TIMES, good[:0], ("0 times", f"{t} frames")),
        "two columns": (Rule.FRAME_TIMES, np.c_[good, good], (rf"\({t}, 2\)",)),
        "text": (Rule.FRAME_TIMES, good.astype("U8"), ("<U8",)),
        "milliseconds": (Rule.FRAME_TIMES, good * 1000, ("200 s apart",)),
        "microseconds as seconds": (Rule.FRAME_TIMES, good / 1e6, (r"5e\+06 Hz",)),
        "in the far future": (Rule.FRAME_TIMES, good + 1e12, (r"1e\+12 s",)),
        "NaN": (Rule.TIMES_NOT_FINITE, broken, (f"1 of {t} times",)),
        "infinite": (Rule.TIMES_NOT_FINITE, endless, (f"1 of {t} times",)),
        "all NaN": (Rule.TIMES_NOT_FINITE, good * np.nan, (f"{t} of {t} times",)),
        "backwards": (Rule.UNSORTED, good[::-1], (f"{t - 1} of {t} times", "number 1")),
        "two swapped": (Rule.UNSORTED, swapped, (f"1 of {t} times", "number 11")),
        "standing still": (Rule.UNSORTED, good * 0, (f"{t - 1} of {t} times",)),
    }
    file = "{folder}/times.npy"
    # The bare plane is told its rate only where no times are said.
    for what, (rule, values, shown) in times.items():

        def make(folder: Path, values: Any = values) -> Path:
            np.save(folder / "times.npy", values)
            return COPY[name](folder)

        path = () if what == "in the far future" else (r"times\.npy",)
        yield BadInput(rule, name, f"times {what}", make, (*path, *shown), ("--timestamps", file))
    for what, damage in DAMAGE.items():

        def damaged(folder: Path, damage: Edit = damage) -> Path:
            np.save(folder / "times.npy", good)
            damage(folder / "times.npy")
            return COPY[name](folder)

        yield BadInput(
            Rule.FRAME_TIMES, name, f"times {what}", damaged, (r"times\.npy",), ("--timestamps", file)
        )

    def pickled(folder: Path) -> Path:
        values = np.array([PAYLOADS["os.open"][1](marker(folder))] * t, dtype=object)
        np.save(folder / "times.npy", values)
        return COPY[name](folder)

    yield BadInput(
        Rule.OBJECT_ARRAY, name, "times", pickled, (r"times\.npy", "could run code"), ("--timestamps", file)
    )
    yield BadInput(Rule.MISSING, name, "no times", COPY[name], (r"times\.npy",), ("--timestamps", file))


def plane_cases(name: str, layout: Layout) -> Iterator[BadInput]:
    t = layout.n_frames
    if len(layout.planes) > 1:
        for frames in (t - 2, t // 2):
            cut = [edit_npy(f, lambda a, k=frames: a[:, :k]) for f in ("F.npy", "Fneu.npy", "spks.npy")]
            marks = "ops.npy" if layout.rate_file == "ops.npy" else "reg_outputs.npy"
            cut.append(edit_dict(marks, badframes=np.zeros(frames, bool), badframes0=None))
            yield case(
                Rule.PLANE_FRAMES,
                name,
                f"{t - frames} fewer",
                in_first(*cut),
                f"plane0 {frames}, plane1 {t}",
            )

    def combine(folder: Path) -> Path:
        source = COPY[name](folder)
        return first(source).rename(first(source).with_name("combined"))

    def combine_alone(folder: Path) -> Path:
        return combine(folder).parent

    yield BadInput(Rule.COMBINED, name, "itself", combine, ("combined", "combined folder"), layout.options)
    if len(layout.planes) == 1:
        yield BadInput(
            Rule.COMBINED, name, "nothing else", combine_alone, ("combined folder",), layout.options
        )


def damage_cases(name: str, layout: Layout) -> Iterator[BadInput]:
    for file in layout.files:
        names = (f"plane0/{file}".replace(".", r"\."),)
        for what, damage in DAMAGE.items():
            yield case(Rule.DAMAGED, name, f"{file} {what}", in_first(at(file, damage)), *names)
        for shape in ((1 << 60,), (1 << 60, 0), (0, 1 << 60), (1 << 62, 4), (10**7, 10**6)):
            what = f"{file} promises {'x'.join(map(str, shape))}"
            edit = in_first(at(file, absurd_header(shape, "<f4")))
            yield case(Rule.DAMAGED, name, what, edit, *names, r"\d+ bytes|\d")
    yield case(
        Rule.MISSING, name, "no F", in_all(at("F.npy", remove)), r"no plane has F\.npy|No reader recognises"
    )
    yield case(
        Rule.MISSING, name, "no Fneu", in_first(at("Fneu.npy", remove)), r"plane0/Fneu\.npy is missing"
    )
    if layout.rate_file:
        yield case(Rule.MISSING, name, "no rate", in_all(at(layout.rate_file, remove)), "no frame rate")
    hollow = in_all(*(at(file, lambda path: path.write_bytes(b"")) for file in layout.files))
    yield case(Rule.NO_CODE, name, "hollow", hollow, r"\.npy")


def object_file(path: Path, content: Any) -> None:
    np.save(path, np.array(content, dtype=object), allow_pickle=True)


def payload_cases(name: str, layout: Layout) -> Iterator[BadInput]:
    def planting(plant: Callable[[Path, Path], Any]) -> Maker:
        def make(folder: Path) -> Path:
            source = COPY[name](folder)
            plant(first(source), marker(folder))
            return source

        return make

    for what, (rule, payload) in PAYLOADS.items():
        for file in (*layout.dicts, "stat.npy"):

            def into(plane: Path, mark: Path, file: str = file, payload: Any = payload) -> None:
                held = np.load(plane / file, allow_pickle=True)
                if held.shape == ():
                    object_file(plane / file, held.item() | {"zz": payload(mark)})
                else:
                    held[0]["zz"] = payload(mark)
                    np.save(plane / file, held)

            yield BadInput(
                rule,
                name,
                f"{file} {what}",
                planting(into),
                (f"plane0/{file}".replace(".", r"\."), "asks for .*(open|eval|runstring)", "could run code"),
                layout.options,
                trust=True,
                runs_trusted=True,
            )
        if what != "os.open":
            continue
        for file in (*layout.arrays, "spks.npy"):

            def instead(plane: Path, mark: Path, file: str = file, payload: Any = payload) -> None:
                shape = np.load(plane / file).shape
                values = np.zeros(shape, dtype=object)
                values.flat[0] = payload(mark)
                object_file(plane / file, values)

            more = ("--signal", "spks") if file == "spks.npy" else ()
            yield BadInput(
                Rule.OBJECT_ARRAY,
                name,
                file,
                planting(instead),
                (f"plane0/{file}".replace(".", r"\."), "could run code"),
                (*layout.options, *more),
            )
        for file in (*layout.dicts, "stat.npy"):
            yield BadInput(
                Rule.PICKLE,
                name,
                f"{file} without a header",
                planting(lambda p, m, f=file, a=payload: (p / f).write_bytes(pickle.dumps(a(m)))),
                (f"plane0/{file}".replace(".", r"\."), "damaged"),
                layout.options,
            )

        def beside(plane: Path, mark: Path, payload: Any = payload) -> None:
            for file in ("cached.pkl", "F.pickle", "zcorr.npy", "regPC.npy", "classifier.npy", "F_chan2.npy"):
                if file.endswith(".npy"):
                    object_file(plane / file, [payload(mark)])
                else:
                    (plane / file).write_bytes(pickle.dumps(payload(mark)))

        yield BadInput(
            Rule.PICKLE_BESIDE, name, "files", planting(beside), (), layout.options, harmless=COPY[name]
        )


def all_cases() -> Iterator[BadInput]:
    for name, layout in LAYOUTS.items():
        yield from array_cases(name, layout)
        yield from unit_cases(name, layout)
        yield from rate_cases(name, layout)
        if layout.rate_file:
            yield from settings_cases(name, layout)
        yield from times_cases(name, layout)
        yield from plane_cases(name, layout)
        yield from damage_cases(name, layout)
        yield from payload_cases(name, layout)
        yield from label_cases(name, COPY[name], "plane0_1", layout.options)


CASES: list[BadInput] = list(all_cases())

CANNOT_OCCUR = {
    **cannot(
        (
            Rule.LENGTHS_DIFFER,
            Rule.UNIT_INDEX,
            Rule.NO_SPIKES,
            Rule.MEDIAN_RATE,
            Rule.EPHYS_FS,
            Rule.FLOAT_SAMPLES,
            Rule.SEGMENT_INDEX,
            Rule.STORED_LENGTH,
            Rule.ANALYZER_PARTS,
            Rule.SORTER_FAILED,
        ),
        FORMATS,
        "It holds traces, no spikes.",
    ),
    **cannot(
        (Rule.DUPLICATE_IDS,),
        FORMATS,
        "Unit ids are made of the number of the plane's folder and the ROI's row.",
    ),
    **cannot(
        (Rule.INTERVALS, Rule.OUTSIDE_INTERVALS, Rule.NEGATIVE_TIMES),
        FORMATS,
        "Its intervals are made from the times of its frames, so they hold every frame and are in order.",
    ),
    **cannot(
        (Rule.PARAMS_PY, Rule.CLASS_NAME),
        FORMATS,
        "Suite2p writes neither params.py nor JSON, and none is looked for.",
    ),
    **cannot((Rule.ONLY_TRUSTED,), FORMATS, "Only its pickles need --trust, which is tried as PICKLE."),
    **cannot((Rule.MISSING_CHUNK,), FORMATS, "Its arrays are whole files, not chunks."),
    **cannot(
        (
            Rule.NOT_HDF5,
            Rule.RAGGED_INDEX,
            Rule.SHORT_COLUMN,
            Rule.TWO_SERIES,
            Rule.SERIES_SHAPE,
            Rule.PICKLED_REFERENCES,
            Rule.OBJECT_ATTRIBUTE,
            Rule.SECOND_INDEX,
            Rule.GAP_IN_REGULAR,
        ),
        FORMATS,
        "It is no HDF5 or NWB file, and has none of their indices, attributes or series.",
    ),
    **cannot(
        (Rule.PLANE_FRAMES,),
        tuple(name for name in FORMATS if name not in SEVERAL),
        "There is one plane, so no other one can differ from it.",
    ),
    **cannot(
        (Rule.BAD_FRAMES, Rule.PLANE_SETTINGS),
        ("suite2p_plane",),
        "Without settings nothing marks frames or sets values.",
    ),
}
