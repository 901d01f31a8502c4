"""When each frame was taken, and which frames count."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import ReaderError, ReadOptions, safe_files
from nuclr_suite2p.layout import PlaneFolder
from nuclr_suite2p.settings import PlaneSettings

FRAME_RATE_RANGE_HZ = (0.1, 1000.0)

_GAP_FRAMES = 1.5  # frames further apart than this have a gap between them
_SAME_RATE = 0.01
_SHORT_S = 60.0


@dataclass(frozen=True)
class PlaneTiming:
    """What the timing of one plane rests on.

    Attributes:
        folder: The plane.
        settings: Its settings.
        n_frames: Frames in its arrays.
    """

    folder: PlaneFolder
    settings: PlaneSettings
    n_frames: int


@dataclass(frozen=True)
class Timeline:
    """Times common to all planes.

    Attributes:
        timestamps: (T,) float64 s, frames that count, for the plane scanned first.
        kept: (T + bad frames,) which frames count.
        intervals: (M, 2) float64 s.
        fs_hz: Frames per second of each plane.
        time_offsets: (planes,) s after the timestamps.
        notes: What was assumed.
        warnings: What to look at.
    """

    timestamps: NDArray[np.float64]
    kept: NDArray[np.bool_]
    intervals: NDArray[np.float64]
    fs_hz: float
    time_offsets: tuple[float, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def timeline(planes: Sequence[PlaneTiming], options: ReadOptions) -> Timeline:
    """Times of frames and offsets of planes.

    Frame i of plane k of K lies at ``(i + k / K) / fs``: Suite2p keeps no times of its own.

    Raises:
        ReaderError: No usable frame rate, planes that do not fit together, or times that do not fit.
    """
    notes: list[str] = []
    warnings: list[str] = []
    n_frames = _common_length(planes, notes, warnings)
    if options.timestamps is None:
        fs_hz = _frame_rate(planes, options, warnings)
        times = np.arange(n_frames) / fs_hz
        notes.append(f"Suite2p keeps no times: frame i is taken to lie at i / {fs_hz:g} s.")
    else:
        times = _said_times(options.timestamps, planes, n_frames)
        fs_hz = _rate_of(times, planes, options, warnings)
        notes.append(
            f"Times of frames come from {options.timestamps.name}; their median rate is {fs_hz:.5g} Hz."
        )
    bad = _bad_frames(planes, n_frames)
    kept = ~bad
    if kept.sum() < 2:
        raise ReaderError(
            f"{planes[0].folder.path}: {int(bad.sum())} of {n_frames} frames are marked as bad.",
            "Check the registration, or unmark frames in badframes.",
        )
    timestamps = times[kept]
    intervals = _intervals(np.flatnonzero(kept), timestamps, fs_hz)
    _tell_gaps(bad, intervals, notes, warnings)
    return Timeline(
        timestamps=timestamps,
        kept=kept,
        intervals=intervals,
        fs_hz=fs_hz,
        time_offsets=_plane_offsets(planes, fs_hz, notes, warnings),
        notes=tuple(notes),
        warnings=tuple(warnings),
    )


def _place(planes: Sequence[PlaneTiming]) -> Path:
    """Folder that an error about all planes is about."""
    return planes[0].folder.path.parent if len(planes) > 1 else planes[0].folder.path


def _common_length(planes: Sequence[PlaneTiming], notes: list[str], warnings: list[str]) -> int:
    lengths = [plane.n_frames for plane in planes]
    shortest, longest = min(lengths), max(lengths)
    told = ", ".join(f"{plane.folder.path.name} {plane.n_frames}" for plane in planes)
    where = _place(planes)
    if longest - shortest > 1:
        raise ReaderError(
            f"{where}: the planes have different numbers of frames ({told}), at most 1 apart expected.",
            "Read one plane alone, or let Suite2p extract all planes of the same recording again.",
        )
    if longest > shortest:
        notes.append(f"The planes have {told} frames; the last frame of the longer ones is left out.")
    if shortest < 2:
        raise ReaderError(
            f"{where}: {shortest} frames, at least 2 expected.", "Check that F.npy is complete."
        )
    for plane in planes:
        said = plane.settings.n_frames
        if said is not None and said != plane.n_frames:
            warnings.append(
                f"{plane.folder.path.name}: Suite2p counted {said} frames, its F.npy has {plane.n_frames}."
            )
    return shortest


def _frame_rate(planes: Sequence[PlaneTiming], options: ReadOptions, warnings: list[str]) -> float:
    low, high = FRAME_RATE_RANGE_HZ
    said = options.fs_hz
    stored = {plane.folder.path: plane.settings.fs_hz for plane in planes if plane.settings.fs_hz is not None}
    if said is not None:
        if not low <= said <= high:
            raise ReaderError(
                f"{_place(planes)}: --fs {said:g} is not a frame rate, {low:g} to {high:g} Hz.",
                "Pass frames per second of one plane.",
            )
        others = sorted({f"{fs:g}" for fs in stored.values() if not math.isclose(fs, said, rel_tol=1e-6)})
        if others:
            warnings.append(
                f"The settings say {' or '.join(others)} Hz; --fs {said:g} Hz is used. "
                "What Suite2p computed with its rate (spks.npy) is not computed again."
            )
        return said
    first = planes[0].folder.path
    if len(stored) < len(planes):
        silent = next(plane.folder.path for plane in planes if plane.settings.fs_hz is None)
        raise ReaderError(
            f"{silent} holds no frame rate: neither settings.npy nor ops.npy has fs.",
            "Pass the frame rate of one plane: --fs HZ, for example --fs 30",
        )
    for path, fs_hz in stored.items():
        if not low <= fs_hz <= high:  # NaN, too
            raise ReaderError(
                f"{path} has the frame rate {fs_hz:g} Hz, expected {low:g} to {high:g} Hz.",
                "Pass the frame rate of one plane: --fs HZ, for example --fs 30",
            )
        if not math.isclose(fs_hz, stored[first], rel_tol=1e-6):
            raise ReaderError(
                f"{_place(planes)}: the planes have different frame rates: {first.name} {stored[first]:g} "
                f"Hz, {path.name} {fs_hz:g} Hz.",
                "Pass the true one: --fs HZ",
            )
    return stored[first]


def _said_times(path: Path, planes: Sequence[PlaneTiming], n_frames: int) -> NDArray[np.float64]:
    array = safe_files.open_npy(path)
    if array.ndim != 1 or array.dtype.kind not in "fiu":
        raise ReaderError(
            f"{path} holds {array.dtype} values of shape {array.shape}, expected one time per frame.",
            "Save the times in seconds: np.save('times.npy', times)",
        )
    if len(array) not in {n_frames, *(plane.n_frames for plane in planes)}:
        raise ReaderError(
            f"{path} holds {len(array)} times, the recording has {n_frames} frames.",
            "One time per frame of a plane is expected (of the whole scan, when there are several planes).",
        )
    times = np.array(array[:n_frames], dtype=np.float64)
    if not np.isfinite(times).all():
        raise ReaderError(
            f"{path}: {int((~np.isfinite(times)).sum())} of {n_frames} times are NaN or infinite.",
            "Repair the times.",
        )
    steps = np.diff(times)
    if (steps <= 0).any():
        raise ReaderError(
            f"{path}: {int((steps <= 0).sum())} of {n_frames} times are not later than the one before; "
            f"the first is number {int(np.argmax(steps <= 0)) + 1}.",
            "Times must increase from frame to frame. Sort or repair them.",
        )
    return times


def _rate_of(
    times: NDArray[np.float64], planes: Sequence[PlaneTiming], options: ReadOptions, warnings: list[str]
) -> float:
    low, high = FRAME_RATE_RANGE_HZ
    rate = 1.0 / float(np.median(np.diff(times)))
    if not low <= rate <= high:
        raise ReaderError(
            f"{options.timestamps}: frames are {1 / rate:g} s apart ({rate:g} Hz), "
            f"expected {low:g} to {high:g} Hz.",
            "Times are in seconds; is this another unit?",
        )
    if options.fs_hz is not None:
        if not math.isclose(options.fs_hz, rate, rel_tol=_SAME_RATE):
            raise ReaderError(
                f"{options.timestamps}: the times are of {rate:.5g} Hz, but --fs says {options.fs_hz:g} Hz.",
                "Leave --fs out, or correct it.",
            )
        return options.fs_hz
    stored = {plane.settings.fs_hz for plane in planes if plane.settings.fs_hz is not None}
    if any(not math.isclose(fs_hz, rate, rel_tol=_SAME_RATE) for fs_hz in stored):
        told = " or ".join(sorted(f"{fs:g}" for fs in stored))
        warnings.append(f"The settings say {told} Hz, the times {rate:.5g} Hz; the times are used.")
    return rate


def _bad_frames(planes: Sequence[PlaneTiming], n_frames: int) -> NDArray[np.bool_]:
    bad = np.zeros(n_frames, dtype=bool)
    for plane in planes:
        marked = plane.settings.bad_frames
        if marked is None:
            continue
        if len(marked) != plane.n_frames:
            raise ReaderError(
                f"{plane.folder.path}: badframes has {len(marked)} entries for {plane.n_frames} frames.",
                "Its files are of different runs; let Suite2p extract the plane again.",
            )
        bad |= marked[:n_frames]
    return bad


def _intervals(index: NDArray[np.int64], times: NDArray[np.float64], fs_hz: float) -> NDArray[np.float64]:
    """Runs of consecutive frames, each until one frame after its last."""
    breaks = np.flatnonzero((np.diff(index) > 1) | (np.diff(times) > _GAP_FRAMES / fs_hz)) + 1
    begins = times[np.r_[0, breaks]]
    ends = times[np.r_[breaks, len(times)] - 1] + 1.0 / fs_hz
    ends[:-1] = np.minimum(ends[:-1], begins[1:])  # jittered times: a run must not reach into the next
    return np.stack([begins, ends], axis=1)


def _tell_gaps(
    bad: NDArray[np.bool_], intervals: NDArray[np.float64], notes: list[str], warnings: list[str]
) -> None:
    n_bad, n_intervals = int(bad.sum()), len(intervals)
    if n_bad:
        notes.append(
            f"{n_bad} of {len(bad)} frames are marked as bad in some plane; they are left out, as gaps."
        )
    longest = float((intervals[:, 1] - intervals[:, 0]).max())
    if n_intervals > 1 and longest < _SHORT_S:
        warnings.append(f"Gaps cut the recording into {n_intervals} parts, the longest {longest:.1f} s.")


def _plane_offsets(
    planes: Sequence[PlaneTiming], fs_hz: float, notes: list[str], warnings: list[str]
) -> tuple[float, ...]:
    """Seconds that each plane comes after the first of its scan."""
    numbers = [_number(plane, notes) for plane in planes]
    told = {plane.settings.n_planes for plane in planes} - {None, 0}
    n_planes = max((count for count in told if count is not None), default=0)
    if not told:
        n_planes = max(numbers) + 1
        notes.append(f"No file says how many planes were scanned; {n_planes} is taken.")
    elif max(numbers) >= n_planes or len(told) > 1:
        warnings.append(
            f"The settings speak of {' or '.join(map(str, sorted(told, key=str)))} planes, the folders go up "
            f"to plane {max(numbers)}."
        )
        n_planes = max(n_planes, max(numbers) + 1)
    offsets = tuple(number / n_planes / fs_hz for number in numbers)
    if any(offsets):
        notes.append(
            f"{n_planes} planes are taken to be scanned in turn: plane k is k / {n_planes} of a frame later."
        )
    return offsets


def _number(plane: PlaneTiming, notes: list[str]) -> int:
    """Place in the scan: as stored (several fields of view may share one), else the folder's number."""
    stored, folder = plane.settings.plane, plane.folder.number
    if stored is None:
        return folder or 0
    if folder is not None and stored != folder:
        notes.append(f"{plane.folder.path.name} is plane {stored} of the scan, as its settings say.")
    return stored
