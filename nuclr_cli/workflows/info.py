"""What a data folder holds: subjects, sessions, units, minutes, rates, gaps, labels, warnings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import Spikes
from nuclr_cli.data.check import spike_counts
from nuclr_cli.data.file_cache import Cache
from nuclr_cli.data.remote import text_of
from nuclr_cli.data.store import Session, verify
from nuclr_cli.errors import InputError
from nuclr_cli.workflows.data_place import open_data
from nuclr_cli.workflows.reporting import Reporter, SilentReporter

_ALWAYS_LABELS = ("cell_type", "brain_region", "quality")


@dataclass(frozen=True)
class SessionSummary:
    """One population file in a few numbers.

    Attributes:
        file: Where it is.
        subject, session, population: Its key.
        subject_assumed: Nobody said who the subject is.
        modality: ``spikes`` or ``calcium``.
        n_units: Rows of the units table.
        minutes: Valid recording time.
        columns: All columns of the units table.
        labels: Text column -> value -> number of units ('' = unlabelled). Columns in which no two units share
            a value name units rather than kinds of units and are left out.
        notes, warnings: Kept in the file since it was made.
        damaged: Datasets that no longer match their checksum; None = not verified.
        median_rate_hz: Spikes per second of valid recording, median of the units that fire; None for calcium.
        frame_rate_hz: Nominal frame rate; None for spikes.
        n_silent: Units without a spike.
        n_gaps: Stretches between two valid intervals.
        gap_s: Their length together.
        label_history: What `nuclr label` did, oldest first: when, version, and each action with its file.
    """

    file: Path
    subject: str
    session: str
    population: str
    subject_assumed: bool
    modality: str
    n_units: int
    minutes: float
    columns: tuple[str, ...]
    labels: Mapping[str, Mapping[str, int]]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    damaged: tuple[str, ...] | None = None
    median_rate_hz: float | None = None
    frame_rate_hz: float | None = None
    n_silent: int = 0
    n_gaps: int = 0
    gap_s: float = 0.0
    label_history: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class UnusableFile:
    """A population file of which nothing can be told: what is wrong with it, and what to do."""

    file: Path
    what: str
    fix: str


@dataclass(frozen=True)
class InfoConfig:
    """Settings of `info`.

    Attributes:
        data: Folder of population files, or one file.
        verify: Compare every dataset with its checksum.
        plot: PNG file (one session) or folder (one PNG per session) to draw into; None = no plots.
        cache: Where copies of sessions lie that are not on this machine; see `open_data`.
    """

    data: Path = Path("nuclr-data")
    verify: bool = False
    plot: Path | None = None
    cache: Cache | None = None


@dataclass(frozen=True)
class InfoRecord:
    """What a folder holds.

    Attributes:
        data: The folder.
        sessions: Every session that can be read, sorted by key.
        plots: That were drawn, in the same order.
        unusable: Files that cannot be read.
    """

    data: Path
    sessions: tuple[SessionSummary, ...]
    plots: tuple[Path, ...] = ()
    unusable: tuple[UnusableFile, ...] = ()

    @property
    def n_subjects(self) -> int:
        return len({session.subject for session in self.sessions})

    @property
    def n_units(self) -> int:
        return sum(session.n_units for session in self.sessions)

    @property
    def minutes(self) -> float:
        return sum(session.minutes for session in self.sessions)

    @property
    def damaged(self) -> tuple[SessionSummary, ...]:
        """Sessions that failed verification."""
        return tuple(session for session in self.sessions if session.damaged)


def summarise(session: Session, *, damaged: tuple[str, ...] | None = None) -> SessionSummary:
    """Summary of one open session."""
    counts = {name: Counter(session.label(name).tolist()) for name in session.label_names}
    labels = {
        name: dict(sorted(counter.items()))
        for name, counter in counts.items()
        if name in _ALWAYS_LABELS or any(n > 1 for value, n in counter.items() if value)
    }
    gaps = session.intervals[1:, 0] - session.intervals[:-1, 1]
    rates = unit_rates(session)
    firing = rates[rates > 0]
    return SessionSummary(
        file=session.path,
        subject=session.key.subject,
        session=session.key.session,
        population=session.key.population,
        subject_assumed=session.subject_assumed,
        modality=session.modality,
        n_units=session.n_units,
        minutes=session.duration_s / 60.0,
        columns=tuple(session.columns),
        labels=labels,
        notes=session.notes,
        warnings=session.warnings,
        damaged=damaged,
        median_rate_hz=float(np.median(firing)) if len(firing) else None,
        frame_rate_hz=session.frame_rate_hz if session.modality == "calcium" else None,
        n_silent=int((rates == 0).sum()),
        n_gaps=int((gaps > 0).sum()),
        gap_s=float(gaps.clip(0).sum()),
        label_history=session.meta.label_history,
    )


def unit_rates(session: Session) -> NDArray[np.float64]:
    """(N,) spikes per second of valid recording; () for calcium."""
    if session.modality != "spikes":
        return np.empty(0)
    if session.meta.schema is not None and "n_spikes" in session.columns:
        counts = session.columns["n_spikes"]
    else:
        counts = spike_counts(Spikes(*session.spikes), session.n_units)
    return np.asarray(counts, dtype=np.float64) / session.duration_s


def info(config: InfoConfig, reporter: Reporter | None = None) -> InfoRecord:
    """Summarise every session of a folder. A file that cannot be read is listed beside the others.

    Raises:
        InputError: There is no session that can be read, two have the same key, or a plot cannot be written.
    """
    reporter = reporter or SilentReporter()
    broken: dict[Path, InputError] = {}
    sessions = open_data(config.data, config.cache, reporter, unusable=broken)
    if not sessions:
        raise _nothing(config.data, broken)
    targets = _plot_files(config, sessions)
    if config.verify:
        summaries = []
        with reporter.progress("verify", len(sessions), "files") as progress:
            for done, session in enumerate(sessions, start=1):
                summaries.append(summarise(session, damaged=damage(session)))
                progress.update(done)
    else:
        summaries = [summarise(session) for session in sessions]
    if targets:
        from nuclr_cli.workflows.session_plots import plot_session

        with reporter.progress("plot", len(targets), "sessions") as progress:
            for done, (session, summary, path) in enumerate(
                zip(sessions, summaries, targets, strict=True), 1
            ):
                plot_session(session, summary, path)
                session.close()
                progress.update(done, path.name)
    unusable = tuple(UnusableFile(file, error.what, error.fix) for file, error in broken.items())
    return InfoRecord(config.data, tuple(summaries), tuple(targets), unusable)


def _nothing(data: Path, broken: Mapping[Path, InputError]) -> InputError:
    """The error for a folder in which no file can be read."""
    first = next(iter(broken.values()))
    if len(broken) == 1:
        return first
    listed = "".join(f"\n  {error.what}" for error in broken.values())
    return InputError(f"None of the {len(broken)} files of {text_of(data)} can be read:{listed}", first.fix)


def _plot_files(config: InfoConfig, sessions: Sequence[Session]) -> list[Path]:
    """Where each session is drawn, in their order.

    Raises:
        InputError: One file for several sessions.
    """
    if config.plot is None:
        return []
    suffix = config.plot.suffix.lower()
    if suffix == ".png" and not config.plot.is_dir():
        if len(sessions) > 1:
            raise InputError(
                f"{config.plot} is one file, and {text_of(config.data)} holds {len(sessions)} sessions.",
                f"Name a folder: --plot {config.plot.with_suffix('')}; or one of the session files as DATA.",
            )
        return [config.plot]
    if suffix in (".pdf", ".svg", ".jpg", ".jpeg", ".tif", ".tiff"):
        raise InputError(
            f"{config.plot}: plots are written as PNG.", f"--plot {config.plot.with_suffix('.png')}"
        )
    if config.plot.is_file():
        raise InputError(f"{config.plot} is a file, expected a folder or a .png.", "Name another one.")
    names = [session.path.stem for session in sessions]
    if len(set(names)) < len(names):  # files of the same name in several folders
        names = [
            "-".join(session.path.relative_to(config.data).with_suffix("").parts)
            if session.path.is_relative_to(config.data)
            else str(session.key).replace("/", "-")  # a copy
            for session in sessions
        ]
    return [config.plot / f"{name}.png" for name in names]


def damage(session: Session) -> tuple[str, ...]:
    """Names of datasets that no longer match their checksum."""
    try:
        return tuple(verify(session.path))
    except InputError as error:
        return (error.what,)
