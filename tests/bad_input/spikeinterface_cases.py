"""Sortings that break a rule: mutations and damage, crossed with nine ways in which a sorting is kept."""

from __future__ import annotations

from bad_input.frame import (
    BadInput,
    cannot,
)
from bad_input.rules import Rule
from bad_input.sorting_damage import (
    chunk_cases,
    damage_cases,
    length_cases,
    no_code_cases,
    npz_cases,
    option_cases,
    text_cases,
)
from bad_input.sorting_mutations import mutation_cases
from bad_input.sorting_parts import part_cases
from bad_input.sorting_payloads import hidden_cases, object_array_cases, params_cases, pickle_cases
from bad_input.sortings import FORMATS, NPZ, NUMPY, PHY, ZARR

CASES: list[BadInput] = [
    *mutation_cases(),
    *damage_cases(),
    *npz_cases(),
    *length_cases(),
    *chunk_cases(),
    *option_cases(),
    *pickle_cases(),
    *object_array_cases(),
    *hidden_cases(),
    *params_cases(),
    *part_cases(),
    *text_cases(),
    *no_code_cases(),
]

_SUITE2P = (
    Rule.COMBINED,
    Rule.PLANE_FRAMES,
    Rule.FRAME_TIMES,
    Rule.BAD_FRAMES,
    Rule.PLANE_ARRAYS,
    Rule.PLANE_SETTINGS,
    Rule.NO_FLUORESCENCE,
    Rule.FRAME_RATE,
    Rule.TRACE_NOT_FINITE,
)
_OTHERS = (
    Rule.NOT_HDF5,
    Rule.RAGGED_INDEX,
    Rule.SHORT_COLUMN,
    Rule.TWO_SERIES,
    Rule.SERIES_SHAPE,
    Rule.PICKLED_REFERENCES,
    Rule.OBJECT_ATTRIBUTE,
    Rule.SECOND_INDEX,
    Rule.GAP_IN_REGULAR,
)

CANNOT_OCCUR = {
    **cannot(_SUITE2P, FORMATS, "A sorting has neither planes, frames nor traces."),
    **cannot(
        _OTHERS, FORMATS, "It is no HDF5 or NWB file, and has none of their indices, attributes or series."
    ),
    **cannot(
        (Rule.UNIT_INDEX,), PHY, "Every number in spike_clusters.npy is a unit, so none is out of range."
    ),
    **cannot(
        (Rule.SEGMENT_INDEX,), PHY, "A phy or Kilosort folder has one segment and no index of segments."
    ),
    **cannot((Rule.DUPLICATE_IDS,), PHY, "Units are the distinct numbers in spike_clusters.npy."),
    **cannot(
        (Rule.COLUMN_LENGTH,), PHY, "Label tables are joined by cluster_id, so they may have any length."
    ),
    **cannot((Rule.COLUMN_LENGTH,), ("npz",), "A bare .npz file holds no properties."),
    **cannot(
        (Rule.LENGTHS_DIFFER,), NUMPY, "One row of spikes.npy holds both the time and the unit of a spike."
    ),
    **cannot(
        (Rule.MISSING_CHUNK,),
        (*NUMPY, *NPZ, *PHY),
        "Its arrays are whole files, not chunks: what is missing of them counts as damage.",
    ),
    **cannot(
        (Rule.STORED_LENGTH,),
        ("numpy_folder", *NPZ, "zarr", *PHY),
        "It does not store the length of the recording.",
    ),
    **cannot(
        (Rule.ANALYZER_PARTS,),
        ("numpy_folder", *NPZ, "zarr", *PHY),
        "Nothing that an analyzer computes is kept in it.",
    ),
    **cannot(
        (Rule.SORTER_FAILED,),
        tuple(name for name in FORMATS if name != "sorter_folder"),
        "Only sorter folders have a log.",
    ),
    **cannot(
        (Rule.PARAMS_PY,),
        ("numpy_folder", *NPZ, *ZARR, "analyzer"),
        "It has no params.py, and none is looked for.",
    ),
    **cannot((Rule.CLASS_NAME,), ("npz",), "A bare .npz file holds arrays, no JSON."),
}
