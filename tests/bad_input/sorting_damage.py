"""Damaged files, arrays of other lengths, missing chunks, and options that contradict the source."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bad_input.frame import (
    DAMAGE,
    BadInput,
    Maker,
    absurd_header,
    at,
    edited,
    label_cases,
    remove,
    truncated,
)
from bad_input.rules import Rule
from bad_input.sortings import (
    FOLDERS,
    HOW,
    NPZ,
    ONE_SEGMENT,
    PHY,
    POINTER,
    WITH_LENGTH,
    WITH_PROPERTIES,
    ZARR,
    Kept,
    change_zarr,
    edit_npy,
    edit_npz,
    put_zarr,
    rewrite_npz,
)

_NOT_NEEDED = {"si_folder.json", "annotations.json", "recording_attributes.json", "properties/depth.npy"} | {
    "properties/cell_type_obj.npy",
    "properties/depth/0",
}


# What stays after this damage is as good as before, or cannot be told from it.
_NO_DAMAGE = {
    ("params.py", "cut to 95%"),  # cuts a line that is not needed
    ("properties/depth/0", "random bytes"),  # a chunk without compression: any eight bytes are a number
}


def damage_cases() -> Iterator[BadInput]:
    for name, kept in HOW.items():
        for file, shown in kept.files.items():
            names = (shown or file.replace(".", r"\."),)
            what = file.replace("/", ".") or "file"
            edit = partial(at, file) if file else lambda change: change
            for damage, change in DAMAGE.items():
                if (file, damage) in _NO_DAMAGE:
                    continue
                yield BadInput(Rule.DAMAGED, name, f"{what} {damage}", edited(kept.copy, edit(change)), names)
            if file == "params.py":
                cut = at(file, lambda path: path.write_text("sample_rate = 300"))
                yield BadInput(Rule.DAMAGED, name, "rate cut off", edited(kept.copy, cut), (*names, "300 Hz"))
            if file.endswith(".npy"):
                for shape in ((1 << 60,), (1 << 62, 4), (10**12,), (1 << 60, 0)):
                    yield BadInput(
                        Rule.DAMAGED,
                        name,
                        f"{what} promises {'x'.join(map(str, shape))}",
                        edited(kept.copy, at(file, absurd_header(shape))),
                        (*names, r"\d+ bytes"),
                    )
            if file in _NOT_NEEDED or file.startswith("extensions"):
                continue
            edits = [edit(remove)]
            if file == "spike_clusters.npy":  # units would be the templates instead
                edits.append(at("spike_templates.npy", remove))
            yield BadInput(
                Rule.MISSING,
                name,
                f"no {what}",
                edited(kept.copy, *edits),
                # Without the description SpikeInterface's own loader is the last resort.
                trust=name == "sorter_folder" and file.endswith("numpysorting_info.json"),
            )


def absurd_member(members: dict[str, bytes]) -> None:
    data = members["spike_indexes_seg0.npy"]
    members["spike_indexes_seg0.npy"] = data.replace(b"(2435,)", b"(9" + b"0" * 14 + b",)")[: len(data)]


def half_member(members: dict[str, bytes]) -> None:
    members["spike_indexes_seg0.npy"] = members["spike_indexes_seg0.npy"][:5000]


def npz_cases() -> Iterator[BadInput]:
    """Damage inside the archive."""
    for name in NPZ:
        kept = HOW[name]
        edit = partial(at, POINTER) if name == "npz_folder" else lambda change: change
        for what, change in {"absurd header": absurd_member, "half an array": half_member}.items():
            yield BadInput(
                Rule.DAMAGED,
                name,
                what,
                edited(kept.copy, edit(partial(rewrite_npz, change=change))),
                (kept.spikes, "spike_indexes_seg0", r"\d+ bytes"),
            )
        for lost in ("unit_ids", "num_segment", "spike_labels_seg1", "spike_indexes_seg0"):
            drop = partial(rewrite_npz, change=lambda members, lost=lost: members.pop(f"{lost}.npy"))
            yield BadInput(
                Rule.MISSING, name, f"no {lost}", edited(kept.copy, edit(drop)), (kept.spikes, lost)
            )


# Lengths of arrays that belong together.


OTHER_LENGTHS: dict[str, Callable[[Any], Any]] = {
    "shorter": lambda column: column[:-1],
    "longer": lambda column: np.concatenate([column, column[:1]]),
    "empty": lambda column: column[:0],
}


def length_cases() -> Iterator[BadInput]:
    for name in WITH_PROPERTIES:
        kept = HOW[name]
        n_units = 7 if name == "sorter_folder" else 8
        column = Path(kept.sorting) / "properties" / "depth.npy"

        def write(
            source: Path, change: Callable[[Any], Any], column: Path = column, n: int = n_units
        ) -> None:
            (source / column).parent.mkdir(exist_ok=True)
            np.save(source / column, change(np.arange(float(n))))

        changes = OTHER_LENGTHS | {"single value": lambda column: np.float64(3)}
        for what, change in changes.items():
            yield BadInput(
                Rule.COLUMN_LENGTH,
                name,
                what,
                edited(kept.copy, partial(write, change=change)),
                (r"depth\.npy", rf"shape \(\d*,?\).* {n_units} units"),
            )
    for name in ZARR:
        kept = HOW[name]
        prefix = f"{kept.sorting}/" if kept.sorting else ""
        for what, change in OTHER_LENGTHS.items():
            yield BadInput(
                Rule.COLUMN_LENGTH,
                name,
                what,
                edited(kept.copy, change_zarr(f"{prefix}properties/depth", change)),
                ("properties/depth", r"\(\d,\).*8"),
            )
            yield BadInput(
                Rule.LENGTHS_DIFFER,
                name,
                what,
                edited(kept.copy, change_zarr(f"{prefix}spikes/unit_index", change)),
                (kept.spikes, r"\(4289,\)", r"\((4288|4290|0),\)"),
            )
        yield BadInput(
            Rule.LENGTHS_DIFFER,
            name,
            "segment slices",
            edited(kept.copy, change_zarr(f"{prefix}spikes/segment_slices", lambda a: a - [[0, 0], [0, 7]])),
            ("segment_slices", "does not cover the 4289 spikes"),
        )
    for what, change in OTHER_LENGTHS.items():
        for name in PHY:
            yield BadInput(
                Rule.LENGTHS_DIFFER,
                name,
                what,
                edited(HOW[name].copy, at("spike_clusters.npy", partial(edit_npy, change=change))),
                (r"spike_times\.npy has 2435 spikes but spike_clusters\.npy has (2434|2436|0)",),
            )
        for name in NPZ:
            edit = partial(at, POINTER) if name == "npz_folder" else lambda change: change

            def write_labels(path: Path, change: Callable[[Any], Any] = change) -> None:
                with np.load(path) as held:
                    labels = held["spike_labels_seg0"]
                edit_npz(path, spike_labels_seg0=change(labels))

            yield BadInput(
                Rule.LENGTHS_DIFFER,
                name,
                what,
                edited(HOW[name].copy, edit(write_labels)),
                (HOW[name].spikes, "segment 0 has 2435 spikes but (2434|2436|0) unit labels"),
            )
    for name in PHY:
        yield BadInput(
            Rule.LENGTHS_DIFFER,
            name,
            "two columns",
            edited(HOW[name].copy, at("spike_times.npy", lambda p: edit_npy(p, lambda a: np.c_[a, a]))),
            (r"spike_times\.npy has shape \(2435, 2\)",),
        )


# Chunks of zarr arrays that are not there would read as zeros.


def chunk_cases() -> Iterator[BadInput]:
    for name in ZARR:
        kept = HOW[name]
        prefix = f"{kept.sorting}/" if kept.sorting else ""
        for array, chunk in {
            "spikes/sample_index": "0",
            "spikes/unit_index": "0",
            "spikes/segment_slices": "0.0",
            "unit_ids": "0",
            "properties/depth": "0",
        }.items():
            yield BadInput(
                Rule.MISSING_CHUNK,
                name,
                array.split("/")[-1],
                edited(kept.copy, at(f"{prefix}{array}/{chunk}", remove)),
                (array, "lacks 1 of 1 chunks"),
            )

        def in_many_chunks(source: Path, kept: Kept = kept, prefix: str = prefix) -> None:
            twin = kept.read(source)
            put_zarr(source, f"{prefix}spikes/sample_index", twin.samples, chunks=500)
            for chunk in ("2", "5"):
                remove(source / f"{prefix}spikes/sample_index" / chunk)

        yield BadInput(
            Rule.MISSING_CHUNK,
            name,
            "two of many",
            edited(kept.copy, in_many_chunks),
            ("sample_index", "lacks 2 of 9 chunks"),
        )
        cut = at(f"{prefix}spikes/unit_index/0", truncated(0.5))
        yield BadInput(
            Rule.MISSING_CHUNK, name, "half", edited(kept.copy, cut), ("unit_index", "1 of its chunks")
        )


# What the command line says about a source that it cannot be.


def option_cases() -> Iterator[BadInput]:
    for name, kept in HOW.items():
        one = name in ONE_SEGMENT
        if name not in WITH_LENGTH:
            said = "0.5" if one else "0.5,20"
            yield BadInput(
                Rule.OUTSIDE_INTERVALS,
                name,
                "duration",
                kept.copy,
                (kept.spikes, r"\d+ of 2435 spikes of segment 0", r"0\.5 s"),
                ("--duration", said),
            )
        yield BadInput(
            Rule.INTERVALS,
            name,
            "too many starts",
            kept.copy,
            (kept.spikes, r"has 3 values for [12] segments"),
            ("--segment-starts", "0,100,200"),
        )
        if not one:
            for what, starts in {"overlapping": "0,1", "reversed": "500,100"}.items():
                yield BadInput(
                    Rule.INTERVALS,
                    name,
                    what,
                    kept.copy,
                    (kept.spikes, r"segment 0 lasts until .* segment 1 starts at"),
                    ("--segment-starts", starts),
                )
        for what, length in {"no length": "0", "negative length": "-3"}.items():
            yield BadInput(
                Rule.INTERVALS,
                name,
                what,
                kept.copy,
                (r"recording_(attributes|info)" if name in WITH_LENGTH else kept.spikes, length),
                ("--duration", length if one else f"{length},20"),
            )
        if name in (*FOLDERS, *PHY) and name not in ("npz", "sorter_folder"):
            yield BadInput(
                Rule.NO_UNITS,
                name,
                "nothing kept",
                kept.copy,
                (r"none of its [78] units is labelled superb",),
                ("--keep", "superb"),
            )
        yield BadInput(Rule.EPHYS_FS, name, "contradicted", kept.copy, ("25000",), ("--fs", "25000"))
        yield BadInput(
            Rule.ONLY_TRUSTED,
            name,
            "extractor",
            kept.copy,
            ("--extractor phy",),
            ("--reader", "spikeinterface", "--extractor", "phy"),
            trust=True,
        )
        yield from label_cases(name, kept.copy, kept.unit)


def noise_after_the_header(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:128] + np.random.default_rng(6).bytes(len(data) - 128))


def text_cases() -> Iterator[BadInput]:
    """Bytes that are no characters."""
    for name in ("numpy_folder", "npz_folder", "analyzer"):
        inside = "sorting/" if name == "analyzer" else ""
        yield BadInput(
            Rule.DAMAGED,
            name,
            "text of noise",
            edited(HOW[name].copy, at(f"{inside}properties/quality.npy", noise_after_the_header)),
            (r"quality\.npy is damaged: 8 of 8 texts",),
        )
    for name in ZARR:
        inside = "sorting/" if name == "analyzer_zarr" else ""
        ids = np.array([f"u{n}" for n in range(8)])
        ids.view("u4")[::2] = 0xD801
        yield BadInput(
            Rule.DAMAGED,
            name,
            "half pairs in ids",
            edited(HOW[name].copy, lambda source, i=inside, v=ids: put_zarr(source, f"{i}unit_ids", v)),
            (r"unit_ids is damaged: 8 of 8 texts",),
        )


def no_code_cases() -> Iterator[BadInput]:
    """Folders of the right look with nothing of use inside: an error, never a crash."""
    for name, kept in HOW.items():
        if name == "npz":
            make: Maker = edited(kept.copy, lambda path: rewrite_npz(path, lambda members: members.clear()))
        else:

            def hollow(source: Path, kept: Kept = kept) -> None:
                for path in sorted(source.rglob("*")):
                    if (
                        path.is_file()
                        and path.suffix in ("", ".npy", ".npz", ".csv")
                        and not path.name.startswith(".")
                    ):
                        path.write_bytes(b"")

            make = edited(kept.copy, hollow)
        yield BadInput(Rule.NO_CODE, name, "hollow", make)
