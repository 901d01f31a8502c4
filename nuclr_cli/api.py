"""All that a plugin may import: hooks, records, errors, and modules that read and write files safely.

Needs only numpy and pluggy. A plugin is a module named by an entry point of the group ``nuclr``::

    from nuclr_cli.api import Reader, hookimpl

    @hookimpl
    def nuclr_readers() -> list[Reader]:
        return [MyReader()]
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pluggy
from numpy.typing import NDArray

from nuclr_cli import hdf5_damage, safe_files, safe_zarr, whole_files
from nuclr_cli.errors import MissingPackageError, ReaderError
from nuclr_cli.unit_predictions import Predicted, UnitPredictions, by_unit, common_source

__all__ = [
    "API_VERSION",
    "CalciumTraces",
    "Exporter",
    "MissingPackageError",
    "Modality",
    "Population",
    "Predicted",
    "ReadOptions",
    "Reader",
    "ReaderError",
    "Spikes",
    "UnitPredictions",
    "by_unit",
    "common_source",
    "hdf5_damage",
    "hookimpl",
    "hookspec",
    "safe_files",
    "safe_zarr",
    "whole_files",
]

# Major: a plugin written for another one may not work. Minor: something was added. See docs/plugins.md.
API_VERSION = "1.1"

Modality = Literal["spikes", "calcium"]

hookspec = pluggy.HookspecMarker("nuclr")
hookimpl = pluggy.HookimplMarker("nuclr")


@dataclass(frozen=True)
class Spikes:
    """Spikes of one population.

    Attributes:
        times: (S,) float64, seconds, sorted ascending.
        unit_index: (S,) integer, row of the units table.
    """

    times: NDArray[np.float64]
    unit_index: NDArray[np.integer[Any]]


@dataclass(frozen=True)
class CalciumTraces:
    """Fluorescence of one population.

    Attributes:
        values: (T, N) float32, dF/F (or deconvolved activity), frames by units.
        timestamps: (T,) float64, seconds, time of each frame for a unit whose `time_offset` is 0.
        sampling_rate_hz: Nominal frame rate.
        time_offset: (N,) float64 seconds added to `timestamps` for each unit (imaging planes differ).
    """

    values: NDArray[np.float32]
    timestamps: NDArray[np.float64]
    sampling_rate_hz: float
    time_offset: NDArray[np.float64]


@dataclass(frozen=True)
class Population:
    """The units recorded together by one insertion or one imaging session, as a reader yields it.

    Attributes:
        subject: Animal (or culture) id. Together with session, population and unit id the key of a unit.
        session: Session id.
        population: Name of the population within the session (an insertion, a probe group); ``"0"`` when
            there is one.
        units: Column name -> (N,) or (N, k) array. ``"id"`` is required: (N,) str, unique. Labels are str
            columns, empty string = unlabelled. Every property of the source travels.
        intervals: (M, 2) float64 seconds: when the recording is valid; sorted and disjoint.
        spikes: Set for modality ``spikes``, else None.
        calcium: Set for modality ``calcium``, else None.
        subject_assumed: True when nobody said who the subject is and a folder name was taken.
        attributes: Session attributes (age, genotype, ...), as text.
        notes: Every assumption the reader made, one sentence each, shown to the user and kept in the file.
        warnings: What the user should look at, one sentence each.
        provenance: What was read and with which library versions and options; JSON-serialisable.
    """

    subject: str
    session: str
    units: Mapping[str, NDArray[Any]]
    intervals: NDArray[np.float64]
    population: str = "0"
    spikes: Spikes | None = None
    calcium: CalciumTraces | None = None
    subject_assumed: bool = False
    attributes: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def modality(self) -> Modality:
        """``spikes`` or ``calcium``."""
        return "spikes" if self.calcium is None else "calcium"

    @property
    def n_units(self) -> int:
        return len(self.units["id"])


@dataclass(frozen=True)
class ReadOptions:
    """What the user said about one source.

    Attributes:
        subject: Subject id, None = take the folder's name (and say so).
        session: Session id, None = take it from the file, else the folder's name.
        segment_starts_s: Start of each segment in seconds, () = unknown.
        duration_s: Length of the recording (of each segment when several), () = unknown.
        fs_hz: Sampling or frame rate where the source has none.
        keep: Curation labels to keep (``good``, ``mua``, ...); () = everything that is not ``noise``.
        signal: ``dff`` or ``spks`` (deconvolved) of a calcium recording; None = ``dff``.
        timestamps: ``.npy`` file with the time of each frame in seconds, None = from the source.
        min_iscell: Classifier probability from which an ROI is a cell; None = as the source was curated.
        red_label: Cell type of cells marked by a second channel; None = they get no label.
        series: Names of the series to read where a file has several; () = the only one.
        drop_nan_units: Leave out units with NaN in their trace, naming them; False = refuse the source.
        extractor: Name of the loader of a wrapped library; needs `trust`.
        trust: Allow code or pickles inside the source to run.
        extra: Further options of a single reader, by name.
    """

    subject: str | None = None
    session: str | None = None
    segment_starts_s: tuple[float, ...] = ()
    duration_s: tuple[float, ...] = ()
    fs_hz: float | None = None
    keep: tuple[str, ...] = ()
    signal: Literal["dff", "spks"] | None = None
    timestamps: Path | None = None
    min_iscell: float | None = None
    red_label: str | None = None
    series: tuple[str, ...] = ()
    drop_nan_units: bool = False
    extractor: str | None = None
    trust: bool = False
    extra: Mapping[str, str] = field(default_factory=dict)


class Reader(ABC):
    """One recording format (or a family of them).

    Attributes:
        name: What ``--reader`` takes; lower case, unique among installed readers.
        formats: Formats it knows, for people.
        looks_for: What `detect` looks for, one sentence; shown when no reader knows a path.
        options: Fields of `ReadOptions` that `read` honours, besides subject, session, trust and extra.
            Another one that a user gives is an error instead of being ignored. None = not said.
    """

    name: str
    formats: tuple[str, ...] = ()
    looks_for: str = ""
    options: frozenset[str] | None = None

    @abstractmethod
    def detect(self, path: Path) -> str | None:
        """What was seen at `path` (``"phy folder: params.py + spike_times.npy"``), or None.

        Must be cheap: look at names and headers, never read a big file. Must not raise.
        """

    @abstractmethod
    def sources(self, path: Path) -> Sequence[Path]:
        """Every file whose bytes `read` depends on; a re-run has work to do when one of them changed."""

    @abstractmethod
    def read(self, path: Path, options: ReadOptions) -> Iterator[Population]:
        """Yield the populations at `path`.

        Raises:
            ReaderError: The source is recognised but broken.
            MissingPackageError: A package that this format needs is not installed.
        """


class Exporter(ABC):
    """Writes predictions for another program (or a family of them).

    Attributes:
        name: What picks it on the command line; lower case, unique among installed exporters.
        formats: Formats it writes, for people.
    """

    name: str
    formats: tuple[str, ...] = ()

    def writes(self, predictions: Sequence[UnitPredictions], target: Path) -> Sequence[Path]:
        """What `export` would write or replace, asked before it is called: `target` unless it says otherwise.

        nuclr refuses to call `export` when one of them exists and the user did not say ``--overwrite``, so
        `export` may replace them.
        """
        return [target]

    @abstractmethod
    def export(self, predictions: Sequence[UnitPredictions], target: Path) -> Sequence[Path]:
        """Write `predictions`, one record per population, to `target`.

        Args:
            predictions: At least one record; all have the same `label_name` and `classes`.
            target: File or folder to write, as the user gave it. Its folder exists.

        Returns:
            The files that were written.

        Raises:
            ReaderError: `target` cannot take these predictions (it is another recording's, say). Nothing was
                written.
        """


class NuclrHooks:
    """The hooks a plugin may implement."""

    @hookspec
    def nuclr_readers(self) -> Sequence[Reader]:  # type: ignore[empty-body]
        """Return the readers this plugin brings."""

    @hookspec
    def nuclr_exporters(self) -> Sequence[Exporter]:  # type: ignore[empty-body]
        """Return the exporters this plugin brings."""
