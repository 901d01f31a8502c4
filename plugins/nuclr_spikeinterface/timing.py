"""Checks the order of spikes, turns samples into seconds and segments into intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import ReaderError, ReadOptions, Spikes
from nuclr_spikeinterface.sorting import RawSorting

SEGMENT_GAP_S = 60.0
FS_RANGE_HZ = (1e3, 1e6)


@dataclass
class _Segment:
    """Spikes of one segment as they come in, block by block."""

    samples: list[NDArray[np.int64]] = field(default_factory=list)
    units: list[NDArray[np.unsignedinteger[Any]]] = field(default_factory=list)
    n_spikes: int = 0
    latest_sample: int = -1  # in file order
    last_sample: int = -1  # in time
    inversions: int = 0


@dataclass(frozen=True)
class Timed:
    """Spikes in seconds.

    Attributes:
        spikes: Of all units, sorted.
        intervals: (M, 2) float64 seconds, one row per segment that has a length.
        notes: Assumptions.
    """

    spikes: Spikes
    intervals: NDArray[np.float64]
    notes: tuple[str, ...]


def sampling_rate_hz(raw: RawSorting, options: ReadOptions) -> float:
    """The sampling rate of the files, or ``--fs`` when they have no usable one.

    Raises:
        ReaderError: None at all, outside 1 kHz to 1 MHz, or the files and ``--fs`` disagree.
    """
    low, high = FS_RANGE_HZ
    stored, said = raw.fs_hz, options.fs_hz
    stored_is_usable = stored is not None and low <= stored <= high  # False for NaN
    if said is not None:
        if not low <= said <= high:
            raise ReaderError(
                f"{raw.place}: --fs {said:g} is not a sampling rate, {low:g} to {high:g} Hz.",
                "Pass the true one, e.g. --fs 30000, or leave --fs out.",
            )
        if stored_is_usable and not math.isclose(said, stored or 0.0, rel_tol=1e-6):
            raise ReaderError(
                f"{raw.fs_place} says {stored:g} Hz, but --fs says {said:g} Hz.",
                "Leave --fs out, or correct it.",
            )
        return said
    if not stored_is_usable:
        found = "holds no sampling rate" if stored is None else f"has the sampling rate {stored:g} Hz"
        raise ReaderError(
            f"{raw.fs_place} {found}, expected {low:g} to {high:g} Hz.", "Pass the true one: --fs 30000"
        )
    assert stored is not None
    return stored


def read_spikes(raw: RawSorting, fs_hz: float, options: ReadOptions, kept: NDArray[np.bool_]) -> Timed:
    """Read every spike once, in blocks; validate; keep the spikes of some units.

    Args:
        raw: The sorting.
        fs_hz: Samples per second.
        options: Starts and lengths of the segments.
        kept: (N,) which units are kept; their rows are renumbered.

    Raises:
        ReaderError: Negative samples, unit rows out of range, times that go back within a unit, spikes after
            the end, no spikes, or starts and lengths that do not fit.
    """
    segments = _collect(raw)
    n_spikes = sum(segment.n_spikes for segment in segments)
    if n_spikes == 0:
        raise ReaderError(
            f"{raw.place} holds no spikes.", "Check that the sorter finished, and copy it again."
        )
    notes: list[str] = []
    lengths = _lengths_s(raw, segments, fs_hz, options, notes)
    starts = _starts_s(raw, lengths, options, notes)
    row_of = np.cumsum(kept) - 1
    row_of[~kept] = -1
    n_kept = int(kept.sum())
    unit_dtype = np.uint16 if n_kept <= np.iinfo(np.uint16).max + 1 else np.uint32
    times: NDArray[np.float64] = np.empty(n_spikes, dtype=np.float64)
    index: NDArray[Any] = np.empty(n_spikes, dtype=unit_dtype)
    done = 0
    for number, segment in enumerate(segments):
        if segment.inversions:
            _sort_segment(raw, number, segment, notes)
        while segment.samples:
            # Popped, so that each block is freed once it is copied.
            samples, units = segment.samples.pop(0), segment.units.pop(0)
            if n_kept < len(kept):
                wanted = kept[units]
                samples, units = samples[wanted], units[wanted]
                units = row_of[units]
            part = slice(done, done + len(samples))
            times[part] = samples / fs_hz + starts[number]
            index[part] = units
            done += len(samples)
    if done == 0:
        raise ReaderError(f"{raw.place}: the kept units have no spikes.", "Choose other units: --keep all")
    intervals = np.array(
        [[start, start + length] for start, length in zip(starts, lengths, strict=True) if length > 0]
    )
    return Timed(Spikes(times[:done], index[:done]), intervals, tuple(notes))


def _collect(raw: RawSorting) -> list[_Segment]:
    n_units = len(raw.unit_ids)
    unit_dtype = np.uint16 if n_units <= np.iinfo(np.uint16).max + 1 else np.uint32
    segments = [_Segment() for _ in range(raw.n_segments)]
    seen = 0
    for number, samples, units in raw.blocks():
        if len(samples) == 0:
            continue
        low, high = int(units.min()), int(units.max())
        if low < 0 or high >= n_units:
            outside = int(((units < 0) | (units >= n_units)).sum())
            raise ReaderError(
                f"{raw.place}: {outside} spikes after spike {seen} have a unit index outside "
                f"0..{n_units - 1} (from {low} to {high}).",
                "The folder mixes files of different sortings; save it again.",
            )
        segment = segments[number]
        wide = samples.astype(np.int64)
        if wide.min() < 0:
            raise ReaderError(
                f"{raw.place}: {int((wide < 0).sum())} spikes of segment {number} have negative (or "
                f"impossibly large) sample numbers, the lowest is {int(wide.min())}.",
                "Sample numbers count from the start of the segment; repair the source.",
            )
        segment.inversions += int((wide[1:] < wide[:-1]).sum()) + int(wide[0] < segment.latest_sample)
        segment.latest_sample = int(wide[-1])
        segment.last_sample = max(segment.last_sample, int(wide.max()))
        segment.n_spikes += len(wide)
        segment.samples.append(wide)
        segment.units.append(units.astype(unit_dtype))
        seen += len(wide)
    return segments


def _sort_segment(raw: RawSorting, number: int, segment: _Segment, notes: list[str]) -> None:
    """Sort a segment whose units are interleaved out of order; refuse it when a unit goes back in time."""
    samples, units = np.concatenate(segment.samples), np.concatenate(segment.units)
    by_unit = np.argsort(units, kind="stable")
    same_unit = units[by_unit][1:] == units[by_unit][:-1]
    back = same_unit & (np.diff(samples[by_unit]) < 0)
    if back.any():
        broken = np.bincount(units[by_unit][1:][back], minlength=len(raw.unit_ids))
        worst = int(broken.argmax())
        raise ReaderError(
            f"{raw.place}: the spike times of {int((broken > 0).sum())} units go back {int(broken.sum())} "
            f"times in segment {number}, most often those of unit {str(raw.unit_ids[worst])!r} "
            f"({int(broken[worst])} times).",
            "That usually means a broken index, not a mere wrong order; save the sorting again.",
        )
    notes.append(
        f"Spikes of segment {number} were stored out of order ({segment.inversions} times earlier than the "
        "spike before, never within a unit); they were sorted."
    )
    order = np.argsort(samples, kind="stable")
    segment.samples, segment.units = [samples[order]], [units[order]]


def _lengths_s(
    raw: RawSorting, segments: list[_Segment], fs_hz: float, options: ReadOptions, notes: list[str]
) -> list[float]:
    """Length of each segment in seconds: as said, else up to one sample after the last spike."""
    if raw.n_samples:
        return _stored_lengths_s(raw, segments, fs_hz, options)
    ends = [(segment.last_sample + 1) / fs_hz for segment in segments]
    if not options.duration_s:
        known = ", ".join(f"{end:.6g} s" for end in ends[:5]) + (", ..." if len(ends) > 5 else "")
        notes.append(
            "The files do not hold the length of the recording; it is taken to end one sample after the last "
            f"spike ({known}). --duration says otherwise."
        )
        empty = [number for number, segment in enumerate(segments) if segment.n_spikes == 0]
        if empty:
            notes.append(f"Segments without spikes are left out: {', '.join(map(str, empty))}.")
        return ends
    if len(options.duration_s) != len(segments):
        raise ReaderError(
            f"{raw.place}: --duration has {len(options.duration_s)} values for {len(segments)} segments.",
            "Give one length in seconds for each segment, separated by commas.",
        )
    for number, (length, segment) in enumerate(zip(options.duration_s, segments, strict=True)):
        if not (math.isfinite(length) and length > 0):
            raise ReaderError(
                f"{raw.place}: the duration {length:g} s is no length.", "Give seconds, above 0."
            )
        if segment.last_sample / fs_hz > length:
            late = sum(int((block / fs_hz > length).sum()) for block in segment.samples)
            raise ReaderError(
                f"{raw.place}: {late} of {segment.n_spikes} spikes of segment {number} come after its end, "
                f"{length:g} s; the last one at {segment.last_sample / fs_hz:.6g} s.",
                "Correct --duration, or the sampling rate.",
            )
    return list(options.duration_s)


def _stored_lengths_s(
    raw: RawSorting, segments: list[_Segment], fs_hz: float, options: ReadOptions
) -> list[float]:
    """Lengths that the files hold; neither a spike nor ``--duration`` may contradict them."""
    place = raw.length_place or raw.place
    for number, (n_samples, segment) in enumerate(zip(raw.n_samples, segments, strict=True)):
        if segment.last_sample >= n_samples:
            late = sum(int((block >= n_samples).sum()) for block in segment.samples)
            raise ReaderError(
                f"{place} says that segment {number} has {n_samples} samples, but {late} of "
                f"{segment.n_spikes} spikes in {raw.place} come later, the last one at sample "
                f"{segment.last_sample}.",
                "They belong to different recordings, or the recording was cut after sorting; save again.",
            )
    lengths = [n_samples / fs_hz for n_samples in raw.n_samples]
    if options.duration_s and (
        len(options.duration_s) != len(lengths)
        or not np.allclose(options.duration_s, lengths, rtol=0, atol=1.5 / fs_hz)
    ):
        said, held = (", ".join(f"{s:g}" for s in part) for part in (options.duration_s, lengths))
        raise ReaderError(
            f"{place} says that the segments last {held} s, but --duration says {said} s.",
            "Leave --duration out, or correct it.",
        )
    return lengths


def _starts_s(raw: RawSorting, lengths: list[float], options: ReadOptions, notes: list[str]) -> list[float]:
    """Start of each segment in seconds: as said, else one after the other with a gap."""
    starts = list(options.segment_starts_s)
    if not starts and _follow_one_another(raw.starts_s, lengths):
        return list(raw.starts_s)
    if not starts:
        at = 0.0
        for length in lengths:
            starts.append(at)
            at += length + SEGMENT_GAP_S
        if len(lengths) > 1:
            laid = ", ".join(f"{start:.6g} s" for start in starts[:5]) + (", ..." if len(starts) > 5 else "")
            notes.append(
                f"The files do not hold when the {len(lengths)} segments began; they are laid end to end "
                f"with {SEGMENT_GAP_S:g} s between them (starts: {laid}). --segment-starts says otherwise."
            )
        return starts
    if len(starts) != len(lengths):
        raise ReaderError(
            f"{raw.place}: --segment-starts has {len(starts)} values for {len(lengths)} segments.",
            "Give one start in seconds for each segment, separated by commas.",
        )
    if not all(math.isfinite(start) for start in starts):
        raise ReaderError(f"{raw.place}: --segment-starts are not all finite numbers: {starts}.")
    for number in range(len(starts) - 1):
        if starts[number] + lengths[number] > starts[number + 1]:
            raise ReaderError(
                f"{raw.place}: segment {number} lasts until {starts[number] + lengths[number]:.6g} s, but "
                f"segment {number + 1} starts at {starts[number + 1]:.6g} s.",
                "Correct --segment-starts: segments follow one another.",
            )
    return starts


def _follow_one_another(starts: tuple[float, ...], lengths: list[float]) -> bool:
    """Usable starts: one finite number a segment, no segment beginning before the one before it ended."""
    if len(starts) != len(lengths) or not all(math.isfinite(start) for start in starts):
        return False
    ends = [start + length for start, length in zip(starts, lengths, strict=True)]
    return all(end <= start for end, start in zip(ends, starts[1:], strict=False))
