"""The rules every population obeys before it is written or trained on, whoever read it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import CalciumTraces, Population, Spikes
from nuclr_cli.data.layout import require_text, storable
from nuclr_cli.errors import InputError

RATE_RANGE_HZ = (0.001, 200.0)
FRAME_RATE_RANGE_HZ = (0.1, 1000.0)
LONGEST_SESSION_S = 366 * 86400.0
LATEST_S = 1e10  # seconds since 1970 lie far below; float64 resolves 2 us there, milliseconds soon above

_BLOCK = 1 << 20
_NAMED = 5


def check_population(pop: Population) -> list[str]:
    """Refuse what would train wrongly or silently; warn about what looks odd.

    Reads spikes and traces in blocks, so the cost in memory is a few megabytes.

    Returns:
        Warnings, one sentence each.

    Raises:
        InputError: A rule is broken; the message names the population, the units and the count.
    """
    check = _Check(pop)
    check.units()
    check.intervals()
    if (pop.spikes is None) == (pop.calcium is None):
        raise check.error(
            "it holds "
            + ("neither spikes nor calcium traces" if pop.spikes is None else "spikes and calcium traces"),
            "A population has exactly one of them; a reader yields two populations for a session with both.",
        )
    if pop.spikes is not None:
        check.spikes(pop.spikes)
    if pop.calcium is not None:
        check.calcium(pop.calcium)
    return check.warnings


def spike_counts(spikes: Spikes, n_units: int) -> NDArray[np.int64]:
    """(N,) spikes of each unit. `unit_index` must lie in 0..N-1."""
    counts = np.zeros(n_units, dtype=np.int64)
    for block in _blocks(np.asarray(spikes.unit_index)):
        counts += np.bincount(block, minlength=n_units)
    return counts


def _blocks(values: NDArray[Any], overlap: int = 0) -> Iterator[NDArray[Any]]:
    """Views of consecutive blocks; each begins `overlap` samples early, so that differences miss no seam."""
    for start in range(0, len(values), _BLOCK):
        yield values[max(start - overlap, 0) : start + _BLOCK]


class _Check:
    """The rules, one method a part of the population, in the order in which they can rely on each other."""

    def __init__(self, pop: Population) -> None:
        self.pop = pop
        self.warnings: list[str] = []
        self.ids: NDArray[np.str_] = np.empty(0, dtype=np.str_)
        self.edges: NDArray[np.float64] = np.empty((0, 2))

    def error(self, what: str, fix: str) -> InputError:
        pop = self.pop
        # Readers say what they read. Populations out of a nuclr file do not: `Session.check` names that file.
        source = pop.provenance.get("path")
        begin = f"{source}: subject" if isinstance(source, str) else "Subject"
        return InputError(
            f"{begin} {pop.subject!r}, session {pop.session!r}, population {pop.population!r}: {what}.", fix
        )

    def names(self, rows: Sequence[int] | NDArray[Any]) -> str:
        """``3 units ('a', 'b', ...)``."""
        rows = np.asarray(rows)
        shown = ", ".join(repr(str(unit)) for unit in self.ids[rows[:_NAMED]])
        more = ", ..." if len(rows) > _NAMED else ""
        return f"{len(rows)} unit{'s' * (len(rows) != 1)} ({shown}{more})"

    def units(self) -> None:
        pop = self.pop
        for role in ("subject", "session", "population"):
            name = getattr(pop, role)
            if not isinstance(name, str) or not name.strip():
                raise self.error(f"the {role} id is empty", f"Name it, for example with --{role} NAME.")
            require_text(name, f"the {role} id")
        if "id" not in pop.units:
            raise self.error(
                "the units table has no column 'id'", "The reader must yield one text id per unit."
            )
        columns = {name: storable(name, values) for name, values in pop.units.items()}
        self.ids = ids = columns["id"]
        if ids.ndim != 1 or len(ids) == 0:
            raise self.error(
                "it has no units", "Check the curation filter (--keep) and that the sorting found units."
            )
        if ids.dtype.kind != "U":
            raise self.error(
                f"unit ids have dtype {ids.dtype}, expected text", "The reader must yield ids as str."
            )
        values, counts = np.unique(ids, return_counts=True)
        if counts.max() > 1:
            repeated = ", ".join(
                f"{str(unit)!r} x{n}" for unit, n in zip(values, counts, strict=True) if n > 1
            )
            raise self.error(f"unit ids repeat: {repeated}", "Give each unit its own id in the source.")
        if "" in values:
            raise self.error("a unit's id is empty", "Give each unit an id in the source.")
        for name, column in columns.items():
            if not isinstance(name, str) or not name:
                raise self.error(f"a units column is called {name!r}", "Give it a name in the source.")
            if column.ndim == 0 or len(column) != len(ids):
                found = "a single value" if column.ndim == 0 else f"{len(column)} values"
                raise self.error(
                    f"units column {name!r} has {found} for {len(ids)} units",
                    "One value per unit is expected.",
                )

    def intervals(self) -> None:
        edges = np.asarray(self.pop.intervals)
        fix = "Pass the true times, for example with --duration and --segment-starts."
        if edges.ndim != 2 or edges.shape[1:] != (2,) or len(edges) == 0 or edges.dtype.kind not in "iuf":
            raise self.error(f"intervals have shape {edges.shape}, expected (M, 2) with M at least 1", fix)
        self.edges = edges = edges.astype(np.float64, copy=False)
        rules = (
            ("are not finite", ~np.isfinite(edges).all(axis=1)),
            ("end before (or when) they start", ~(edges[:, 1] > edges[:, 0])),
            ("start before the one before them ends", np.r_[False, edges[1:, 0] < edges[:-1, 1]]),
        )
        for rule, broken in rules:
            if broken.any():
                row = int(np.argmax(broken))
                raise self.error(
                    f"{int(broken.sum())} of {len(edges)} intervals {rule} (the first is number {row}: "
                    f"{edges[row, 0]:g} to {edges[row, 1]:g} s)",
                    "Intervals are sorted, disjoint and in seconds. " + fix,
                )
        span = edges[-1, 1] - edges[0, 0]
        if span > LONGEST_SESSION_S:
            raise self.error(
                f"it spans {span / 86400:.0f} days", "Is the time unit wrong? Seconds are expected."
            )
        farthest = float(np.abs(edges).max())
        if farthest > LATEST_S:
            raise self.error(
                f"its times reach {farthest:g} s, where spikes could no longer be told apart",
                "Is the time unit wrong? Seconds are expected, at most 1e10. Correct --segment-starts.",
            )

    def spikes(self, spikes: Spikes) -> None:
        times, index = np.asarray(spikes.times), np.asarray(spikes.unit_index)
        if times.ndim != 1 or index.ndim != 1 or len(times) != len(index):
            raise self.error(
                f"{times.shape} spike times but {index.shape} unit indices",
                "One unit index per spike is expected; the source may be truncated.",
            )
        if len(times) == 0:
            raise self.error("it has no spikes", "Check the curation filter (--keep) and the source.")
        if times.dtype.kind != "f" or index.dtype.kind not in "iu":
            raise self.error(
                f"spike times are {times.dtype} and unit indices {index.dtype}",
                "Times in seconds (float64) and integer rows of the units table are expected.",
            )
        n_units = len(self.ids)
        outside = sum(int(((block < 0) | (block >= n_units)).sum()) for block in _blocks(index))
        if outside:
            raise self.error(
                f"{outside} of {len(index)} spikes have a unit index outside 0..{n_units - 1}",
                "The source's unit table is incomplete.",
            )
        self._spike_times(times, index)
        self._rates(spike_counts(spikes, n_units))

    def _spike_times(self, times: NDArray[np.float64], index: NDArray[Any]) -> None:
        # For sorted finite times every other rule is about the two ends; NaN compares false with everything,
        # so one pass sees both disorder and NaN.
        ordered = all(bool((block[1:] >= block[:-1]).all()) for block in _blocks(times, overlap=1))
        if not ordered or not np.isfinite(times[[0, -1]]).all():
            broken = ~np.isfinite(times)
            if broken.any():
                raise self.error(
                    f"{int(broken.sum())} of {len(times)} spike times are NaN or infinite, of "
                    f"{self.names(np.unique(index[broken]))}",
                    "Repair the source.",
                )
            inversions = int((times[1:] < times[:-1]).sum())
            raise self.error(
                f"spike times are not sorted: {inversions} of {len(times)} are earlier than the spike before",
                "Inversions usually mean a broken index or segments in the wrong order; repair the source.",
            )
        first, last = self.edges[0, 0], self.edges[-1, 1]
        early = int(np.searchsorted(times, first))
        late = len(times) - int(np.searchsorted(times, last, side="right"))
        if early and times[0] < 0 <= first:
            raise self.error(
                f"{early} of {len(times)} spikes lie before {first:g} s, the first at {times[0]:g} s",
                "Negative times need an interval that starts below 0; pass --segment-starts.",
            )
        if early or late:
            raise self.error(
                f"{early + late} of {len(times)} spikes lie outside the recording, "
                f"{first:g} to {last:g} s (the spikes span {times[0]:g} to {times[-1]:g} s)",
                "Is the sampling rate right, and the length (--duration)?",
            )
        gaps = np.c_[self.edges[:-1, 1], self.edges[1:, 0]]
        after, before = np.searchsorted(times, gaps[:, 1]), np.searchsorted(times, gaps[:, 0], side="right")
        in_gaps = int((after - before).clip(0).sum())  # negative where touching intervals share a spike
        if in_gaps:
            self.warnings.append(
                f"{in_gaps} of {len(times)} spikes lie between the intervals and are never used."
            )

    def _rates(self, counts: NDArray[np.int64]) -> None:
        low, high = RATE_RANGE_HZ
        seconds = float((self.edges[:, 1] - self.edges[:, 0]).sum())
        rates, active = counts / seconds, counts > 0
        median = float(np.median(rates[active]))
        if not low <= median <= high:
            raise self.error(
                f"the median unit fires at {median:.3g} Hz ({int(counts.sum())} spikes of "
                f"{int(active.sum())} units in {seconds:g} s), expected {low} to {high:g} Hz",
                "Wrong sampling rate or time unit? Pass the true one, for example with --fs.",
            )
        odd = np.flatnonzero(active & ((rates < low) | (rates > high)))
        if len(odd):
            self.warnings.append(f"The rate of {self.names(odd)} lies outside {low} to {high:g} Hz.")
        silent = np.flatnonzero(~active)
        if len(silent):
            self.warnings.append(f"{self.names(silent)} without spikes; kept in the table, not trained on.")

    def calcium(self, calcium: CalciumTraces) -> None:
        values, times = np.asarray(calcium.values), np.asarray(calcium.timestamps)
        n_units = len(self.ids)
        if values.ndim != 2 or values.shape[1] != n_units or values.dtype.kind != "f":
            raise self.error(
                f"traces are {values.dtype} of shape {values.shape}, expected floats, frames by {n_units}",
                "The source may be transposed or incomplete.",
            )
        if times.shape != values.shape[:1] or len(times) < 2:
            raise self.error(
                f"{len(values)} frames but timestamps of shape {times.shape}",
                "One time per frame, at least 2, is expected.",
            )
        self._frame_times(times, float(calcium.sampling_rate_hz))
        offsets = np.asarray(calcium.time_offset)
        if offsets.shape != (n_units,) or offsets.dtype.kind not in "iuf" or not np.isfinite(offsets).all():
            raise self.error(
                f"time offsets have shape {offsets.shape} or are not finite",
                f"One number per unit, {n_units}, is expected.",
            )
        broken, ever_moved = np.zeros(n_units, dtype=bool), np.zeros(n_units, dtype=bool)
        rows = max(_BLOCK // n_units, 1)
        for start in range(0, len(values), rows):
            block = values[start : start + rows]
            broken |= ~np.isfinite(block).all(axis=0)
            ever_moved |= (block != values[0]).any(axis=0)
        if broken.any():
            raise self.error(
                f"traces of {self.names(np.flatnonzero(broken))} hold NaN or infinite samples",
                "Repair the source, or drop these units with --drop-nan-units.",
            )
        if not ever_moved.all():
            self.warnings.append(f"The trace of {self.names(np.flatnonzero(~ever_moved))} is constant.")

    def _frame_times(self, times: NDArray[np.float64], rate: float) -> None:
        low, high = FRAME_RATE_RANGE_HZ
        if not low <= rate <= high:
            raise self.error(
                f"the frame rate is {rate:g} Hz, expected {low} to {high:g} Hz",
                "Pass the true one with --fs.",
            )
        if times.dtype.kind != "f" or not np.isfinite(times).all():
            raise self.error(
                f"{int((~np.isfinite(times)).sum())} of {len(times)} frame times are NaN or infinite",
                "Repair the source.",
            )
        steps = np.diff(times)
        if (steps <= 0).any():
            raise self.error(
                f"frame times do not increase: {int((steps <= 0).sum())} of {len(times)} are not later "
                "than the frame before",
                "Repair the source's timestamps.",
            )
        true_rate = 1.0 / float(np.median(steps))
        if not 0.9 < true_rate / rate < 1.1:
            raise self.error(
                f"frames are {1 / true_rate:g} s apart ({true_rate:g} Hz) but the rate is {rate:g} Hz",
                "Pass the true one with --fs.",
            )
        first, last = self.edges[0, 0], self.edges[-1, 1]
        slack = 0.5 / rate  # recordings are often said to end with their last frame, give or take rounding
        outside = int(((times < first - slack) | (times > last + slack)).sum())
        if outside:
            raise self.error(
                f"{outside} of {len(times)} frames lie outside the recording, "
                f"{first:g} to {last:g} s (frames span {times[0]:g} to {times[-1]:g} s)",
                "Is the frame rate right, and the length (--duration)?",
            )
