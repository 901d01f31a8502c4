"""Parts of analyzers, sorter folders and phy folders that do not fit the sorting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bad_input.frame import (
    BadInput,
    at,
    edited,
    remove,
)
from bad_input.rules import Rule
from bad_input.sortings import HOW, NUMPY, PHY, ZARR, change_zarr, copier, edit_json, edit_npy


def append(row: str) -> Callable[[Path], int]:
    return lambda path: path.write_text(path.read_text() + row)


METRICS = "extensions/quality_metrics/metrics.csv"
ANALYZER_EDITS: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "templates of other units": (
        at("extensions/templates/average.npy", partial(edit_npy, change=lambda a: a[:-1])),
        (r"templates have shape \(7, 90, 16\), expected 8 units",),
    ),
    "templates of other channels": (
        at("extensions/templates/average.npy", partial(edit_npy, change=lambda a: a[:, :, :5])),
        (r"templates have shape \(8, 90, 5\), expected 8 units, samples, 16 channels",),
    ),
    "locations of one axis": (
        at("extensions/unit_locations/unit_locations.npy", partial(edit_npy, change=lambda a: a[:, :1])),
        (r"unit_locations has shape \(8, 1\)",),
    ),
    "locations of other units": (
        at("extensions/unit_locations/unit_locations.npy", partial(edit_npy, change=lambda a: a[:3])),
        (r"unit_locations has shape \(3, \d\)",),
    ),
    "metrics cut off within a row": (
        at(METRICS, lambda p: p.write_text("".join(p.read_text().splitlines(True)[:4]) + "3,35.9")),
        (r"metrics\.csv: the row of unit '3' has 2 cells, its header 6",),
    ),
    "metrics cut off within a cell": (
        at(METRICS, lambda p: p.write_text("\n".join(p.read_text().splitlines()[:4]))),
        (r"metrics\.csv is cut off: 5 of 8 units are missing",),
    ),
    "metrics name a unit twice": (
        at(METRICS, append("3,1,1,1,1,\n")),
        (r"metrics\.csv has two rows for unit '3'",),
    ),
    "metrics of other units": (
        at(METRICS, lambda p: p.write_text(",snr\na,1\nb,2\n")),
        (r"metrics\.csv has 2 rows, and none of them is about one of the 8 units",),
    ),
    "channels twice": (
        at("recording_info/recording_attributes.json", partial(edit_json, channel_ids=["a"] * 16)),
        (r"recording_attributes\.json", "15 channel ids occur more than once"),
    ),
    "another rate": (
        at("recording_info/recording_attributes.json", partial(edit_json, sampling_frequency=25e3)),
        (r"recording_attributes\.json says 25000 Hz, but .*numpysorting_info\.json says 30000 Hz",),
    ),
    "no sorting": (at("sorting", remove), (r"analyzer without a sorting",)),
}
AZARR_EDITS: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "metric of other units": (
        change_zarr("extensions/quality_metrics/metrics/snr", lambda a: a[:-1]),
        (r"snr has shape \(7,\), its index \(8,\)",),
    ),
    "templates of other units": (
        change_zarr("extensions/templates/average", lambda a: a[:-1]),
        (r"templates have shape \(7, 90, 16\), expected 8 units",),
    ),
    "no sorting": (at("sorting", remove), (r"sorting cannot be opened",)),
}


def part_cases() -> Iterator[BadInput]:
    for name, edits in (("analyzer", ANALYZER_EDITS), ("analyzer_zarr", AZARR_EDITS)):
        for what, (edit, names) in edits.items():
            yield BadInput(Rule.ANALYZER_PARTS, name, what, edited(HOW[name].copy, edit), names)
    yield BadInput(
        Rule.ANALYZER_PARTS,
        "sorter_folder",
        "another rate",
        edited(
            HOW["sorter_folder"].copy,
            at("recording_attributes.json", partial(edit_json, sampling_frequency=25e3)),
        ),
        (r"recording_attributes\.json says 25000 Hz",),
    )
    yield BadInput(
        Rule.SORTER_FAILED,
        "sorter_folder",
        "failed",
        copier("sorter_failed"),
        ("sorter_failed", "the sorter '.*' failed: "),
    )
    yield BadInput(
        Rule.SORTER_FAILED,
        "sorter_folder",
        "failed without a trace",
        edited(
            HOW["sorter_folder"].copy,
            at("spikeinterface_log.json", partial(edit_json, error=True, error_trace=None)),
        ),
        ("the sorter 'lupin' failed: see the log",),
    )
    yield BadInput(
        Rule.ONLY_TRUSTED,
        "sorter_folder",
        "nothing saved inside",
        edited(HOW["sorter_folder"].copy, at("sorter_output/sorting", remove)),
        ("sorter_lupin is the output of the sorter 'lupin'",),
        trust=True,
    )
    for name in PHY:
        yield BadInput(
            Rule.LABELS_REPEAT,
            name,
            "in cluster_group",
            edited(
                HOW[name].copy,
                at("cluster_group.tsv", lambda p: p.write_text("cluster_id\tgroup\n0\tgood\n0\tmua\n")),
            ),
            (r"cluster_group\.tsv gives cluster 0 two values of group: 'good' and 'mua'",),
        )
        yield BadInput(
            Rule.DAMAGED,
            name,
            "cluster_group in another encoding",
            edited(
                HOW[name].copy,
                at("cluster_group.tsv", lambda p: p.write_bytes(b"cluster_id\tgroup\n0\t\xff\xfe\n")),
            ),
            (r"cluster_group\.tsv cannot be read",),
        )
        noise = "".join(f"{cluster}\tnoise\n" for cluster in range(8))
        yield BadInput(
            Rule.NO_UNITS,
            name,
            "only noise",
            edited(
                HOW[name].copy,
                at("cluster_group.tsv", lambda p, n=noise: p.write_text("cluster_id\tgroup\n" + n)),
            ),
            ("none of its 8 units is labelled anything but noise", "noise: 8"),
        )
    for name in NUMPY:
        kept = HOW[name]
        info, spikes = (Path(kept.sorting, file) for file in ("numpysorting_info.json", "spikes.npy"))
        for what, change, text in (
            ("a list", lambda p: p.write_text("[]"), "holds a JSON list"),
            ("no ids", partial(edit_json, unit_ids=None), "unit_ids is not a flat list"),
            ("nested ids", partial(edit_json, unit_ids=[[1], [2]]), "unit_ids is not a flat list"),
        ):
            yield BadInput(
                Rule.DAMAGED,
                name,
                f"description is {what}",
                edited(kept.copy, at(str(info), change)),
                (r"numpysorting_info\.json", text),
            )
        yield BadInput(
            Rule.DAMAGED,
            name,
            "spikes of one number",
            edited(kept.copy, at(str(spikes), lambda p: np.save(p, np.arange(9)))),
            (kept.spikes, r"type int64 and shape \(9,\)"),
        )
    for name in ZARR:
        prefix = f"{HOW[name].sorting}/" if HOW[name].sorting else ""
        for array in ("unit_ids", "spikes/sample_index", "spikes/segment_slices"):
            yield BadInput(
                Rule.MISSING,
                name,
                f"no array {array.replace('/', '.')}",
                edited(HOW[name].copy, at(f"{prefix}{array}", remove)),
                (f"has no array '{array}'",),
            )
    yield BadInput(
        Rule.MISSING,
        "npz_folder",
        "path leads outside",
        edited(
            HOW["npz_folder"].copy,
            at("npz.json", partial(edit_json, kwargs={"file_path": "../secret.npz"})),
        ),
        (r"npz\.json does not name a file in its own folder",),
    )
