"""The fluorescence of a temporaldata file: a RegularTimeSeries or an IrregularTimeSeries of frames."""

from __future__ import annotations

import h5py
import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import CalciumTraces, ReadOptions
from nuclr_temporaldata.domain import inside, valid_intervals
from nuclr_temporaldata.hdf5 import attribute, damaged, dataset, is_text, member, require_stored, values
from nuclr_temporaldata.units import Table

DEFAULT_SERIES = "df_over_f"
FRAME_RATE_RANGE_HZ = (0.1, 1000.0)

_REPAIR = "Repair the file, or run the pipeline that made it again."
_ROUNDING = 1e-3  # of a frame
_GAP_FRAMES = 1.5  # frames further apart than this many periods have a gap between them


def read_traces(
    file: h5py.File, group: h5py.Group, units: Table, options: ReadOptions, notes: list[str]
) -> tuple[CalciumTraces, NDArray[np.float64], NDArray[np.bool_]]:
    """Frames inside the file's domain.

    Returns:
        The traces (of all units), (M, 2) intervals in seconds, and (N,) which units have no NaN.

    Raises:
        ReaderError: Something is missing, of the wrong type or shape, NaN, or not in order.
    """
    stored = _series(group, options)
    if stored.dtype.kind != "f" or stored.ndim != 2:
        damaged(
            stored,
            f"has type {stored.dtype} and shape {stored.shape}, expected floating-point frames by units",
            "Point at another one with --series NAME.",
        )
    require_stored(stored)  # before an array of as many frame times is made
    n_frames, n_units = stored.shape
    if n_units != len(units.ids):
        hint = "; it may be transposed" if n_frames == len(units.ids) else ""
        damaged(stored, f"has {n_units} columns, {units.place!r} has {len(units.ids)} units{hint}", _REPAIR)
    intervals, own = valid_intervals(file, group, notes)
    times, rate = _frame_times(group, n_frames, own, notes)
    intervals = _without_gaps(intervals, times, rate, notes)
    # The domain of an irregular series ends with its last frame, give or take rounding.
    kept = inside(times, intervals + np.array([-_ROUNDING, _ROUNDING]) / rate)
    if int(kept.sum()) < 2:
        span = f", from {times[0]:g} to {times[-1]:g} s" if n_frames else ""
        damaged(
            group,
            f"has {n_frames} frames{span}, {int(kept.sum())} of them while the recording is valid",
            "Correct 'domain' in the file.",
        )
    frames = values(stored)
    if member(group, "timestamps") is None:
        # Some pipelines end an interval with its last frame, others where the first filler frame begins.
        for end in intervals[:-1, 1]:
            first, last = np.searchsorted(times, (end - _ROUNDING / rate, end + _ROUNDING / rate))
            kept[first:last] &= ~np.isnan(frames[first:last]).all(axis=1)
    if not kept.all():
        notes.append(
            f"{int((~kept).sum())} of {n_frames} frames lie outside the file's own domain and were left out."
        )
        frames, times = frames[kept], times[kept]
    with np.errstate(over="ignore"):  # what overflows is infinite, and reported as such
        traces = CalciumTraces(
            values=np.ascontiguousarray(frames, dtype=np.float32),
            timestamps=times,
            sampling_rate_hz=rate,
            time_offset=_offsets(file, units, notes),
        )
    sound = _sound_units(stored, traces.values, units, options, notes)
    return traces, intervals, sound


def _series(group: h5py.Group, options: ReadOptions) -> h5py.Dataset:
    """The dataset of frames: as said with ``--series``, else ``df_over_f``."""
    if len(options.series) > 1:
        damaged(group, "is one recording: --series can name one of its series", "Give --series once.")
    name = options.series[0] if options.series else DEFAULT_SERIES
    item = member(group, name)
    if not isinstance(item, h5py.Dataset):
        names = [n for n in group if is_text(n) and isinstance(group.get(n, getlink=True), h5py.HardLink)]
        held = {n: group[n] for n in names}
        tables = [n for n, data in held.items() if isinstance(data, h5py.Dataset) and data.ndim == 2]
        fix = f"--series {tables[0]}" if tables else _REPAIR
        damaged(group, f"has no dataset {name!r} (frames by units: {', '.join(tables) or 'none'})", fix)
    return item


def _frame_times(
    group: h5py.Group, n_frames: int, domain: NDArray[np.float64] | None, notes: list[str]
) -> tuple[NDArray[np.float64], float]:
    """(T,) seconds, increasing, and the frame rate in Hz."""
    said = attribute(group, "sampling_rate")
    rate = _number(said)
    if member(group, "timestamps") is None:
        if attribute(group, "object") == "IrregularTimeSeries" or said is None or domain is None:
            damaged(
                group,
                "has no timestamps (nor a sampling rate and a domain, as a regular series would)",
                _REPAIR,
            )
        _require_rate(group, rate)
        spanned = float(domain[-1, 1] - domain[0, 0]) * rate
        valid = float((domain[:, 1] - domain[:, 0]).sum()) * rate
        if len(domain) > 1 and abs(n_frames - valid) < abs(n_frames - spanned):
            damaged(
                group,
                f"has {n_frames} frames for a domain with gaps that spans {spanned:g}: when each was taken "
                "is not told",
                "Store timestamps (an IrregularTimeSeries).",
            )
        return float(domain[0, 0]) + np.arange(n_frames) / rate, rate
    stored = dataset(group, "timestamps")
    if stored.dtype.kind != "f" or stored.shape != (n_frames,):
        damaged(
            stored,
            f"has type {stored.dtype} and shape {stored.shape}, expected a time in seconds for each of "
            f"{n_frames} frames",
            _REPAIR,
        )
    times = values(stored).astype(np.float64, copy=False)
    if not (finite := np.isfinite(times)).all():
        damaged(stored, f"has {int((~finite).sum())} of {n_frames} times that are NaN or infinite", _REPAIR)
    if n_frames < 2:
        damaged(stored, f"has {n_frames} frames, expected at least 2", _REPAIR)
    steps = np.diff(times)
    if (back := int((steps <= 0).sum())) > 0:
        damaged(
            stored,
            f"does not increase: {back} of {n_frames} frames are not later than the one before",
            _REPAIR,
        )
    measured = 1.0 / float(np.median(steps))
    _require_rate(group, measured)
    if said is None:
        notes.append(f"The frame rate, {measured:.4g} Hz, is the inverse of the median time between frames.")
    elif not rate * 0.99 < measured < rate * 1.01:
        notes.append(f"Frames are {1 / measured:g} s apart, not as the stated {said} Hz; their times count.")
    return times, measured


def _require_rate(group: h5py.Group, rate: float) -> None:
    low, high = FRAME_RATE_RANGE_HZ
    if not low <= rate <= high:
        damaged(
            group,
            f"has a frame rate of {rate:g} Hz, expected {low} to {high:g} Hz",
            "Wrong time unit? Correct it in the file: times in seconds, 'sampling_rate' in Hz.",
        )


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")


def _offsets(file: h5py.File, units: Table, notes: list[str]) -> NDArray[np.float64]:
    """(N,) seconds added to the frame times of each unit: its imaging plane is scanned later."""
    n_units = len(units.ids)
    column = units.columns.get("time_offset")
    if column is None:
        return np.zeros(n_units)
    if column.dtype.kind not in "iuf" or column.ndim != 1 or not np.isfinite(column).all():
        damaged(file, f"has a column '{units.place}/time_offset' that is not one number per unit", _REPAIR)
    if np.any(column):
        notes.append(f"Frame times are shifted by '{units.place}/time_offset', up to {column.max():g} s.")
    return column.astype(np.float64)


def _sound_units(
    stored: h5py.Dataset, frames: NDArray[np.float32], units: Table, options: ReadOptions, notes: list[str]
) -> NDArray[np.bool_]:
    """(N,) which units are finite throughout; raises unless the others may be left out."""
    sound = np.asarray(np.isfinite(frames).all(axis=0))
    if sound.all():
        return sound
    broken = np.flatnonzero(~sound)
    named = units.names(broken)
    if not options.drop_nan_units or not sound.any():
        n_frames = int((~np.isfinite(frames)).any(axis=1).sum())
        damaged(
            stored,
            f"has NaN or infinite samples in {named}, in {n_frames} of {len(frames)} frames",
            "Leave these units out with --drop-nan-units."
            if sound.any()
            else "No unit would be left; " + _REPAIR,
        )
    notes.append(f"{named} with NaN or infinite samples left out.")
    return sound


def _without_gaps(
    intervals: NDArray[np.float64], times: NDArray[np.float64], rate: float, notes: list[str]
) -> NDArray[np.float64]:
    """The intervals, cut where frames are missing; those without frames are left out."""
    period = 1.0 / rate
    cut: list[tuple[float, float]] = []
    n_gaps = n_empty = 0
    for start, end in intervals:
        first, last = np.searchsorted(times, (start - _ROUNDING * period, end + _ROUNDING * period))
        part = times[first:last]
        if len(part) == 0:
            n_empty += 1
            continue
        if part[0] - start > _GAP_FRAMES * period:
            start = part[0]
            n_gaps += 1
        if end - part[-1] > (_GAP_FRAMES + 1) * period:
            end = part[-1] + period
            n_gaps += 1
        breaks = np.flatnonzero(np.diff(part) > _GAP_FRAMES * period)
        n_gaps += len(breaks)
        starts = [float(start), *part[breaks + 1].tolist()]
        ends = [*(part[breaks] + period).tolist(), float(end)]
        cut += [(a, b) for a, b in zip(starts, ends, strict=True) if b > a]
    if n_gaps:
        notes.append(
            f"Frames are missing in {n_gaps} places inside the file's domain (further apart than "
            f"{_GAP_FRAMES:g} frames); the recording is taken to pause there."
        )
    if n_empty:
        notes.append(
            f"{n_empty} of {len(intervals)} intervals of the domain hold no frame and were left out."
        )
    return np.array(cut, dtype=np.float64).reshape(-1, 2)
