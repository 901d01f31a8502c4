"""The spikes of a temporaldata file: an IrregularTimeSeries with one unit index per timestamp."""

from __future__ import annotations

import h5py
import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import Spikes
from nuclr_temporaldata.domain import inside, valid_intervals
from nuclr_temporaldata.hdf5 import damaged, dataset, values
from nuclr_temporaldata.units import Table

_REPAIR = "Repair the file, or run the pipeline that made it again."


def read_spikes(
    file: h5py.File, group: h5py.Group, units: Table, notes: list[str]
) -> tuple[Spikes, NDArray[np.float64]]:
    """Spikes inside the file's domain, and that domain.

    Returns:
        The spikes, times (S,) float64 seconds and rows (S,) uint16 or uint32; (M, 2) intervals in seconds.

    Raises:
        ReaderError: Something is missing, of the wrong type or length, NaN, not sorted, or names no unit.
    """
    stored = dataset(group, "timestamps")
    if stored.dtype.kind != "f" or stored.ndim != 1:
        damaged(
            stored,
            f"has type {stored.dtype} and shape {stored.shape}, expected one floating-point time per spike, "
            "in seconds",
            _REPAIR,
        )
    rows = dataset(group, "unit_index")
    if rows.dtype.kind not in "iu" or rows.ndim != 1:
        damaged(
            rows, f"has type {rows.dtype} and shape {rows.shape}, expected one integer per spike", _REPAIR
        )
    if stored.shape != rows.shape:
        damaged(group, f"has {stored.shape[0]} timestamps and {rows.shape[0]} unit indices", _REPAIR)
    if stored.shape[0] == 0:
        damaged(group, "has no spikes", "Check the source.")
    index = _rows(rows, units)
    times = values(stored)
    if times.dtype.itemsize < 8:
        step = float(np.spacing(np.abs(times[np.isfinite(times)]).max(initial=times.dtype.type(0))))
        notes.append(f"Spike times are stored as {times.dtype}: they are exact to {step:.2g} s at the end.")
    times = times.astype(np.float64, copy=False)
    _require_sorted(group, times, index, units)
    intervals, _ = valid_intervals(file, group, notes)
    kept = inside(times, intervals)
    if not kept.any():
        damaged(
            group,
            f"has {len(times)} spikes, from {times[0]:g} to {times[-1]:g} s, none of them inside the domain, "
            f"{intervals[0, 0]:g} to {intervals[-1, 1]:g} s",
            "Correct 'domain' in the file, or the time unit.",
        )
    if not kept.all():
        dropped = int((~kept).sum())
        notes.append(f"{dropped} of {len(times)} spikes lie outside the file's own domain and were left out.")
        times, index = times[kept], index[kept]
    return Spikes(times, index), intervals


def _rows(stored: h5py.Dataset, units: Table) -> NDArray[np.unsignedinteger]:
    """Rows of the units table, in the smallest type that holds them."""
    n_units = len(units.ids)
    index = values(stored)
    outside = (index < 0) | (index >= n_units)
    if outside.any():
        damaged(
            stored,
            f"names a unit outside 0..{n_units - 1} for {int(outside.sum())} of {len(index)} spikes (it goes "
            f"from {index.min()} to {index.max()}; {units.place!r} has {n_units} units)",
            _REPAIR,
        )
    return index.astype(np.uint16 if n_units <= 1 << 16 else np.uint32, copy=False)


def _require_sorted(
    group: h5py.Group, times: NDArray[np.float64], index: NDArray[np.unsignedinteger], units: Table
) -> None:
    finite = np.isfinite(times)
    if not finite.all():
        damaged(
            group,
            f"has {int((~finite).sum())} of {len(times)} spike times that are NaN or infinite, of "
            f"{units.names(np.unique(index[~finite]))}",
            _REPAIR,
        )
    inversions = int((times[1:] < times[:-1]).sum())
    if inversions:
        by_unit = np.argsort(index, kind="stable")
        unit, time = index[by_unit], times[by_unit]
        back = unit[1:][(time[1:] < time[:-1]) & (unit[1:] == unit[:-1])]
        within = (
            f"{len(back)} of them within {units.names(np.unique(back))}" if len(back) else "none in a unit"
        )
        damaged(
            group,
            f"is not sorted: {inversions} of {len(times)} spikes are earlier than the one before, {within}",
            "temporaldata finds nothing in unsorted files: sort them where they are made "
            "(IrregularTimeSeries.sort), once it is clear why times go back.",
        )
