"""From a file's headers to its arrays: views of one mapping of the file where its layout allows."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import CalciumTraces
from nuclr_cli.data.reading import Contents, Extent, file_stamp, read_whole
from nuclr_cli.errors import InputError


class SpikeTrain(NamedTuple):
    """Spikes of a population.

    Attributes:
        times: (S,) float64 seconds, ascending.
        unit_index: (S,) integer, row of the units table.
    """

    times: NDArray[np.float64]
    unit_index: NDArray[np.integer[Any]]


def map_spikes(path: Path, contents: Contents) -> SpikeTrain:
    """All spikes of a spikes file.

    Raises:
        InputError: The file is cut off, or not the one whose headers were read.
    """
    arrays = _map(path, contents)
    return SpikeTrain(arrays["times"].astype(np.float64, copy=False), arrays["unit_index"])


def map_calcium(path: Path, contents: Contents) -> CalciumTraces:
    """Traces and frame times of a calcium file.

    Raises:
        InputError: The file is cut off, or not the one whose headers were read.
    """
    arrays = _map(path, contents)
    values = arrays["values"].astype(np.float32, copy=False)
    rate = contents.sampling_rate_hz
    if "times" in arrays:
        times = arrays["times"].astype(np.float64, copy=False)
    else:
        times = contents.regular_start_s + np.arange(len(values)) / rate
    if np.isnan(rate) and len(times) > 1:
        step_s = float(np.median(np.diff(times)))
        rate = 1.0 / step_s if step_s > 0 else rate  # `check` refuses times that do not increase
    offsets = contents.columns.get("time_offset")
    if offsets is None or offsets.dtype.kind not in "iuf" or offsets.ndim != 1:
        offsets = np.zeros(len(contents.columns["id"]))
    return CalciumTraces(values, times, rate, offsets.astype(np.float64))


def _map(path: Path, contents: Contents) -> dict[str, NDArray[Any]]:
    try:
        unchanged = file_stamp(path) == contents.stamp
    except FileNotFoundError:
        unchanged = False
    if not unchanged:
        raise InputError(f"{path} was replaced or removed while in use.", "Run the command again.")
    for extent in contents.arrays.values():
        if extent.offset is not None and _end(extent) > contents.stamp[0]:
            raise InputError(
                f"{path} is cut off: {extent.name!r} ends at byte {_end(extent)}, "
                f"the file at {contents.stamp[0]}.",
                "Copy it again, or make it anew with `nuclr preprocess SOURCE --overwrite`.",
            )
    whole: NDArray[np.uint8] | None = None
    arrays: dict[str, NDArray[Any]] = {}
    for role, extent in contents.arrays.items():
        if extent.offset is None:
            arrays[role] = read_whole(path, extent.name)
        else:
            if whole is None:
                whole = np.memmap(path, np.uint8, "r").view(np.ndarray)
            arrays[role] = whole[extent.offset : _end(extent)].view(extent.dtype).reshape(extent.shape)
    return arrays


def _end(extent: Extent) -> int:
    return (extent.offset or 0) + extent.dtype.itemsize * math.prod(extent.shape)
