"""One population file, opened lazily and mapped into memory."""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import CalciumTraces, Modality, Population, Spikes
from nuclr_cli.data.check import check_population
from nuclr_cli.data.foreign import frames_inside
from nuclr_cli.data.mapping import SpikeTrain, map_calcium, map_spikes
from nuclr_cli.data.meta import StoredMeta
from nuclr_cli.data.open_files import RecentlyUsed
from nuclr_cli.data.reading import Contents, read_contents
from nuclr_cli.data.writing import trace_scale
from nuclr_cli.errors import InputError

_recently_mapped = RecentlyUsed()


@dataclass(frozen=True, order=True)
class SessionKey:
    """Names one population among all: with a unit's id it is the key of a unit."""

    subject: str
    session: str
    population: str

    def __str__(self) -> str:
        return f"{self.subject}/{self.session}/{self.population}"


class Session:
    """One population, read only. Making one is free: the file is first read when something is asked for.

    Spikes and traces are views of the mapped file, so that sessions larger than memory work and the workers
    of one machine share them. Pickles as its path.

    Args:
        path: A population file in the temporaldata layout, by nuclr or by any other writer.

    Raises:
        InputError: On first use: no such file, damaged, cut off, or another layout.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._check_warnings: tuple[str, ...] = ()
        self._spikes: SpikeTrain | None = None
        self._calcium: CalciumTraces | None = None

    def __reduce__(self) -> tuple[type[Session], tuple[Path]]:
        return Session, (self.path,)

    def __repr__(self) -> str:
        return f"Session({str(self.path)!r})"

    @cached_property
    def _contents(self) -> Contents:
        return read_contents(self.path)

    @cached_property
    def key(self) -> SessionKey:
        return SessionKey(self._contents.subject, self._contents.session, self._contents.population)

    @property
    def modality(self) -> Modality:
        return self._contents.modality

    @property
    def subject_assumed(self) -> bool:
        """Nobody said who the subject is: its id is the name of a folder or a file."""
        return self._contents.subject_assumed

    @property
    def meta(self) -> StoredMeta:
        return self._contents.meta

    @property
    def stamp(self) -> tuple[int, int]:
        """Size and mtime of the file when its columns were read."""
        return self._contents.stamp

    @property
    def notes(self) -> tuple[str, ...]:
        return self.meta.notes

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings stored in the file, and those of `check` once it ran."""
        return tuple(dict.fromkeys((*self.meta.warnings, *self._check_warnings)))

    @property
    def attributes(self) -> dict[str, str]:
        return dict(self._contents.attributes)

    @property
    def columns(self) -> dict[str, NDArray[Any]]:
        """All columns of the units table, (N,) or (N, k)."""
        return dict(self._contents.columns)

    @property
    def unit_ids(self) -> NDArray[np.str_]:
        """(N,) str."""
        return self._contents.columns["id"]

    @property
    def n_units(self) -> int:
        return len(self.unit_ids)

    @property
    def label_names(self) -> tuple[str, ...]:
        """Text columns of the units table, without the ids."""
        columns = self._contents.columns.items()
        return tuple(
            name for name, values in columns if name != "id" and values.dtype.kind == "U" and values.ndim == 1
        )

    def label(self, name: str) -> NDArray[np.str_]:
        """(N,) str label of each unit, '' = unlabelled (also where the session has no such column).

        Numbers become text: integers and true/false as they print, whole floats without the point, NaN ''.

        Raises:
            InputError: The column has several values per unit.
        """
        if name not in self._contents.columns:
            return np.full(self.n_units, "", dtype=np.str_)
        values = self._contents.columns[name]
        if values.ndim != 1:
            raise InputError(
                f"{self.path}: units column {name!r} has shape {values.shape}, so it is no label.",
                "Choose a column with one value per unit; `nuclr info` lists them.",
            )
        return (
            values
            if values.dtype.kind == "U"
            else np.array([_number_text(value) for value in values], dtype=np.str_)
        )

    @property
    def activity_digest(self) -> str:
        """sha256 over the stored checksums of all but the units table, '' for files nuclr did not write.

        Two files with the same digest train alike, whatever their labels.
        """
        sums = self.meta.checksums
        activity = sorted(f"{n}={sums[n]}" for n in sums if not n.startswith(("units/", "rois/")))
        return hashlib.sha256("\n".join(activity).encode()).hexdigest() if activity else ""

    @property
    def recording_digest(self) -> str:
        """sha256 over the checksums of what was recorded, spikes or traces; '' for files nuclr did not write.

        Other than `activity_digest` it is the same whatever was said about the recording's length.
        """
        about = ("units/", "rois/", "domain/", "spikes/timestamp_indices")
        sums = {name: value for name, value in self.meta.checksums.items() if "/domain/" not in name}
        recorded = sorted(f"{name}={sums[name]}" for name in sums if not name.startswith(about))
        return hashlib.sha256("\n".join(recorded).encode()).hexdigest() if recorded else ""

    @property
    def intervals(self) -> NDArray[np.float64]:
        """(M, 2) seconds in which the recording is valid."""
        return self._contents.intervals

    @cached_property
    def duration_s(self) -> float:
        """Sum of the intervals' lengths."""
        return float((self.intervals[:, 1] - self.intervals[:, 0]).sum())

    @property
    def frame_rate_hz(self) -> float:
        """Nominal frame rate of a calcium session; from the frame times where the file does not say it.

        Raises:
            InputError: A spikes session, or the file is cut off.
        """
        self._need("calcium")
        stored = self._contents.sampling_rate_hz
        return stored if stored == stored else self.calcium.sampling_rate_hz

    @property
    def spikes(self) -> SpikeTrain:
        """All spikes, as views of the mapped file.

        Raises:
            InputError: A calcium session, or the file is cut off.
        """
        spikes = self._spikes
        if spikes is None:
            self._need("spikes")
            spikes = self._spikes = map_spikes(self.path, self._contents)
        _recently_mapped.used(self)
        return spikes

    def spikes_between(self, start_s: float, end_s: float) -> SpikeTrain:
        """Views of the spikes with start_s <= t < end_s."""
        times, unit_index = self.spikes
        first, last = np.searchsorted(times, (start_s, end_s))
        return SpikeTrain(times[first:last], unit_index[first:last])

    @property
    def calcium(self) -> CalciumTraces:
        """Traces as a (T, N) float32 view of the mapped file, with frame times and per-unit offsets.

        Other writers pad the gaps of a regular series with NaN: without these frames it is a copy in memory.

        Raises:
            InputError: A spikes session, or the file is cut off.
        """
        calcium = self._calcium
        if calcium is None:
            self._need("calcium")
            calcium = self._calcium = self._without_fillers(map_calcium(self.path, self._contents))
        _recently_mapped.used(self)
        return calcium

    @cached_property
    def calcium_scale(self) -> float:
        """99th percentile of dF/F over the session, by which traces are divided (protocol)."""
        stored = self.meta.calcium_scale
        return trace_scale(self.calcium.values) if stored is None else stored

    def check(self) -> list[str]:
        """Run `check_population` on the file's data. Files of other writers may break any rule.

        Returns:
            Warnings; `warnings` has them from now on, too.

        Raises:
            InputError: A rule is broken; names the file.
        """
        try:
            found = check_population(self._population())
        except InputError as error:
            fix = error.fix
            if self.meta.schema is None:
                fix = (
                    "Let nuclr read it, which leaves out what the file calls invalid and says in detail what "
                    f"is wrong: nuclr preprocess {shlex.quote(str(self.path))}"
                )
            raise InputError(f"{self.path}: {error.what}", fix) from error
        self._check_warnings = tuple(found)
        return found

    def unmap(self) -> None:
        """Let go of the mapping; arrays already handed out keep it alive, and the next use maps again."""
        self._spikes = self._calcium = None

    def close(self) -> None:
        """Let go of the mapping and of the cached metadata."""
        _recently_mapped.forget(self)
        self.unmap()
        for name in ("_contents", "key", "duration_s", "calcium_scale"):
            self.__dict__.pop(name, None)

    def _need(self, modality: Modality) -> None:
        if self.modality != modality:
            raise InputError(f"{self.path} holds {self.modality} data, {modality} was asked for.")

    def _without_fillers(self, traces: CalciumTraces) -> CalciumTraces:
        """The frames while the recording is valid; in files that nuclr wrote there are no others."""
        fits = len(traces.timestamps) == len(traces.values) and traces.sampling_rate_hz > 0
        if self.meta.schema is not None or not fits:
            return traces  # `check` says what is wrong
        regular = "times" not in self._contents.arrays
        inside = frames_inside(traces, self.intervals, regular=regular)
        if inside.all():
            return traces
        return replace(traces, values=traces.values[inside], timestamps=traces.timestamps[inside])

    def _population(self) -> Population:
        spikes = Spikes(*self.spikes) if self.modality == "spikes" else None
        return Population(
            subject=self.key.subject,
            session=self.key.session,
            population=self.key.population,
            units=self._contents.columns,
            intervals=self.intervals,
            spikes=spikes,
            calcium=self.calcium if spikes is None else None,
        )


def _number_text(value: Any) -> str:
    if isinstance(value, np.floating):
        if np.isnan(value):
            return ""
        return str(int(value)) if float(value).is_integer() else str(value)
    return str(value)
