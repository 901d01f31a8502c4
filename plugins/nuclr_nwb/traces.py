"""Values and frame times of one fluorescence series."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import ReaderError, ReadOptions, safe_files
from nuclr_nwb.tree import COPY_AGAIN, Array, Tree, join

FRAME_RATE_RANGE_HZ = (0.1, 1000.0)
GAP_FRAMES = 1.5  # a pause longer than that many frames ends an interval


@dataclass(frozen=True)
class Matrix:
    """Where the values of a series lie, none of them read yet.

    Attributes:
        array: The array on disk.
        n_frames: Number of frames.
        on_its_side: Stored as ROIs by frames.
        conversion, offset: A value is ``stored * conversion + offset``.
    """

    array: Array
    n_frames: int
    on_its_side: bool
    conversion: float
    offset: float

    def read_into(self, out: NDArray[np.float32], kept: NDArray[np.bool_]) -> None:
        """Read in blocks.

        Args:
            out: (T, n) float32, overwritten.
            kept: (n_rois,) with n of them True.
        """
        columns = np.cumsum(kept) - 1
        for begin, block in self.array.blocks():
            rows = slice(begin, begin + len(block))
            if self.on_its_side:
                mine = kept[rows]
                out[:, columns[rows][mine]] = self._scaled(block[mine]).T
            else:
                wide = block.reshape(len(block), len(kept))
                out[rows] = self._scaled(wide if kept.all() else wide[:, kept])

    def _scaled(self, block: NDArray[Any]) -> NDArray[Any]:
        if (self.conversion, self.offset) == (1.0, 0.0):
            return block
        return np.asarray(block.astype(np.float64) * self.conversion + self.offset)


def open_matrix(tree: Tree, path: str, n_rois: int, notes: list[str]) -> Matrix:
    """The values of a series with `n_rois` ROIs.

    Raises:
        ReaderError: Neither axis has one entry per ROI.
    """
    at = join(path, "data")
    array = tree.array(at)
    shape = (*array.shape, 1) if len(array.shape) == 1 and n_rois == 1 else array.shape
    if array.dtype is None or array.dtype.kind not in "iuf" or len(shape) != 2 or n_rois not in shape:
        raise ReaderError(
            f"{array.place} has type {array.dtype or 'text or objects'} and shape {array.shape}, expected "
            f"numbers, frames by {n_rois} ROIs.",
            "The series and its ROIs do not belong together; export the file again.",
        )
    on_its_side = shape[1] != n_rois
    if on_its_side:
        notes.append(f"{path} is stored as ROIs by frames, {shape[0]} by {shape[1]}; it was turned.")
    elif shape[0] == shape[1]:
        notes.append(f"{path} has as many frames as ROIs ({n_rois}); it is taken as frames by ROIs.")
    conversion, offset = _scale(tree.attributes(at), array.place, notes, path)
    return Matrix(array, shape[1] if on_its_side else shape[0], on_its_side, conversion, offset)


def _scale(attributes: Any, place: str, notes: list[str], path: str) -> tuple[float, float]:
    """Conversion and offset; the standard says 1 and 0 where they are missing."""
    values = []
    for name, default in (("conversion", 1.0), ("offset", 0.0)):
        value = attributes.get(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ReaderError(f"{place}: its {name} is {value!r}, expected a number.", "Repair the file.")
        values.append(float(value))
    conversion, offset = values
    if conversion == 0:
        raise ReaderError(f"{place}: its conversion is 0, so every value would be the same.", "Repair it.")
    if (conversion, offset) != (1.0, 0.0):
        notes.append(f"Values of {path} were scaled as the file says: times {conversion:g}, plus {offset:g}.")
    return conversion, offset


@dataclass(frozen=True)
class Frames:
    """Times of the frames of one series.

    Attributes:
        times: (T,) float64 seconds, increasing.
        fs_hz: One over the median step.
    """

    times: NDArray[np.float64]
    fs_hz: float


def read_frames(tree: Tree, path: str, n_frames: int, options: ReadOptions, notes: list[str]) -> Frames:
    """From --timestamps, the file's timestamps, or its starting time and rate (else --fs).

    Raises:
        ReaderError: No usable times, another number of them, or times that do not increase.
    """
    stamps, start = join(path, "timestamps"), join(path, "starting_time")
    if options.timestamps is not None:
        times = np.asarray(safe_files.load_column(options.timestamps, trust=False))
        place = str(options.timestamps)
        if times.dtype.kind not in "iuf" or times.ndim != 1:
            raise ReaderError(
                f"{place} has type {times.dtype} and shape {times.shape}, expected one time per frame.",
                "Save the time of each frame in seconds, as a one-dimensional array.",
            )
        notes.append(f"Frame times are those of {options.timestamps.name}.")
    elif tree.has_array(stamps) or tree.broken_link(stamps) is not None:
        array = tree.array(stamps)
        times, place = array.numbers("frame times"), array.place
    else:
        return _regular(tree, path, start, n_frames, options, notes)
    frames = Frames(_increasing(times.astype(np.float64), n_frames, place), 0.0)
    fs_hz = 1.0 / float(np.median(np.diff(frames.times)))
    if options.fs_hz is not None and not math.isclose(fs_hz, options.fs_hz, rel_tol=0.1):
        raise ReaderError(
            f"{place}: frames come at {fs_hz:g} Hz, but --fs says {options.fs_hz:g} Hz.",
            "Leave --fs out, or correct it.",
        )
    return Frames(frames.times, _checked_rate(fs_hz, place))


def _regular(
    tree: Tree, path: str, start: str, n_frames: int, options: ReadOptions, notes: list[str]
) -> Frames:
    place = f"{tree.place}:{path}"
    begin, rate = 0.0, None
    if tree.has_array(start):
        value = tree.array(start).scalar()
        begin = float(value) if isinstance(value, (int, float)) else math.nan
        rate = tree.attributes(start).get("rate")
    if not math.isfinite(begin):
        raise ReaderError(f"{place}: its starting_time is not a finite number.", "Repair the file.")
    stored = float(rate) if isinstance(rate, (int, float)) and math.isfinite(rate) and rate > 0 else None
    if stored is not None and options.fs_hz is not None:
        if not math.isclose(stored, options.fs_hz, rel_tol=1e-3):
            raise ReaderError(
                f"{place} says {stored:g} Hz, but --fs says {options.fs_hz:g} Hz.",
                "Leave --fs out, or correct it.",
            )
    elif stored is None and options.fs_hz is not None:
        notes.append(f"{path} has no frame rate; it is {options.fs_hz:g} Hz, as --fs says.")
        stored = options.fs_hz
    elif stored is None:
        found = "" if rate is None else f" (its rate is {rate})"
        raise ReaderError(
            f"{place} has neither timestamps nor a frame rate{found}.",
            "Pass the rate (--fs 30), or the time of each frame (--timestamps times.npy).",
        )
    assert stored is not None
    fs_hz = _checked_rate(stored, place)
    if n_frames < 2:
        raise ReaderError(f"{place} has {n_frames} frames, at least 2 are needed.", COPY_AGAIN)
    return Frames(begin + np.arange(n_frames) / fs_hz, fs_hz)


def _increasing(times: NDArray[np.float64], n_frames: int, place: str) -> NDArray[np.float64]:
    if len(times) != n_frames:
        raise ReaderError(
            f"{place} has {len(times)} times for {n_frames} frames.",
            "One time per frame is expected; export the file again, or pass --timestamps.",
        )
    if n_frames < 2:
        raise ReaderError(f"{place}: {n_frames} frames, at least 2 are needed.", COPY_AGAIN)
    broken = int((~np.isfinite(times)).sum())
    if broken:
        raise ReaderError(
            f"{place}: {broken} of {len(times)} frame times are NaN or infinite.",
            "Pass the times with --timestamps.",
        )
    back = int((np.diff(times) <= 0).sum())
    if back:
        raise ReaderError(
            f"{place}: {back} of {len(times)} frame times are not later than the frame before.",
            "Pass the times with --timestamps.",
        )
    return times


def _checked_rate(fs_hz: float, place: str) -> float:
    low, high = FRAME_RATE_RANGE_HZ
    if not low <= fs_hz <= high:
        raise ReaderError(
            f"{place}: the frame rate is {fs_hz:g} Hz, expected {low:g} to {high:g} Hz.",
            "Are the times seconds? Pass them with --timestamps.",
        )
    return fs_hz


def intervals_of(times: NDArray[np.float64], fs_hz: float) -> NDArray[np.float64]:
    """(M, 2) float64 seconds: stretches without a gap, each up to one frame after its last one."""
    steps = np.diff(times)
    last = np.flatnonzero(steps > GAP_FRAMES * float(np.median(steps)))
    begins = times[np.r_[0, last + 1]]
    ends = times[np.r_[last, len(times) - 1]] + 1.0 / fs_hz
    return np.stack([begins, ends], axis=1)
