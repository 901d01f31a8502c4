"""What a data folder holds: subjects, sessions, units, minutes, labels, warnings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nuclr_cli.data.sessions import open_sessions
from nuclr_cli.data.store import Session, verify
from nuclr_cli.errors import InputError
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


@dataclass(frozen=True)
class InfoConfig:
    """Settings of `info`.

    Attributes:
        data: Folder of population files, or one file.
        verify: Compare every dataset with its checksum.
    """

    data: Path = Path("nuclr-data")
    verify: bool = False


@dataclass(frozen=True)
class InfoRecord:
    """Every session of a folder, sorted by key."""

    data: Path
    sessions: tuple[SessionSummary, ...]

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
    )


def info(config: InfoConfig, reporter: Reporter | None = None) -> InfoRecord:
    """Summarise every session of a folder.

    Raises:
        InputError: No sessions there, or a file cannot be read.
    """
    reporter = reporter or SilentReporter()
    sessions = open_sessions(config.data)
    if not config.verify:
        return InfoRecord(config.data, tuple(summarise(session) for session in sessions))
    summaries = []
    with reporter.progress("verify", len(sessions), "files") as progress:
        for done, session in enumerate(sessions, start=1):
            summaries.append(summarise(session, damaged=damage(session)))
            progress.update(done)
    return InfoRecord(config.data, tuple(summaries))


def damage(session: Session) -> tuple[str, ...]:
    """Names of datasets that no longer match their checksum."""
    try:
        return tuple(verify(session.path))
    except InputError as error:
        return (error.what,)
