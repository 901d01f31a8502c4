"""Settings and outcome of `preprocess`, and how the outcome is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nuclr_cli.data.tokens import FEWEST_UNITS
from nuclr_cli.errors import InputError
from nuclr_cli.workflows.info import SessionSummary
from nuclr_cli.workflows.reporting import Reporter


@dataclass(frozen=True)
class PreprocessConfig:
    """Settings of `preprocess`.

    Attributes:
        sources: Files and folders that a reader recognises. Empty with `manifest`.
        out: Folder of the population files.
        manifest: Table with one row per source; its columns that are named like options act as options.
        labels: Table of unit labels.
        regions: Table of channels with their brain regions.
        label_maps: Names or files of maps that group labels.
        broadcast: Columns of the manifest that become a label of every unit.
        subject, session: Ids for every source; None = from the source, else its name.
        reader: Reader to use, None = the one that recognises the source.
        keep: Curation labels to keep; () = all but ``noise``, ``("all",)`` = everything.
        segment_starts_s, duration_s: Seconds, one per segment; () = unknown.
        fs_hz: Sampling rate where the source has none.
        signal, timestamps, min_iscell, red_label, series, drop_nan_units, extractor: As in
            `nuclr_cli.api.ReadOptions`.
        jobs: Processes, None = as many as cores and sources. 1 keeps to one core.
        dask: Address of a Dask scheduler whose workers read the sources, instead of processes here.
        overwrite: Replace files made from the same source.
        trust: Let pickles inside sources run.
        extra: Options of a single reader, by name.
    """

    sources: tuple[Path, ...] = ()
    out: Path = Path("nuclr-data")
    manifest: Path | None = None
    labels: Path | None = None
    regions: Path | None = None
    label_maps: tuple[str, ...] = ()
    broadcast: tuple[str, ...] = ()
    subject: str | None = None
    session: str | None = None
    reader: str | None = None
    keep: tuple[str, ...] = ()
    segment_starts_s: tuple[float, ...] = ()
    duration_s: tuple[float, ...] = ()
    fs_hz: float | None = None
    signal: Literal["dff", "spks"] | None = None
    timestamps: Path | None = None
    min_iscell: float | None = None
    red_label: str | None = None
    series: tuple[str, ...] = ()
    drop_nan_units: bool = False
    extractor: str | None = None
    jobs: int | None = None
    dask: str | None = None
    overwrite: bool = False
    trust: bool = False
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SourceOutcome:
    """What became of one source.

    Attributes:
        path: The source.
        reader, detected: Who read it, and as what.
        status: ``skipped``: the files were there, made from the same bytes with the same options.
        sessions: Its populations.
        error, fix: Why it failed.
    """

    path: Path
    reader: str
    detected: str
    status: Literal["written", "skipped", "failed"]
    sessions: tuple[SessionSummary, ...] = ()
    error: str = ""
    fix: str = ""


@dataclass(frozen=True)
class PreprocessRecord:
    """Outcome of `preprocess`, sources in the order they were given."""

    out: Path
    sources: tuple[SourceOutcome, ...]

    @property
    def sessions(self) -> tuple[SessionSummary, ...]:
        """Populations of all sources."""
        return tuple(session for source in self.sources for session in source.sessions)

    @property
    def n_units(self) -> int:
        return sum(session.n_units for session in self.sessions)

    @property
    def trainable(self) -> bool:
        """Whether some population has the units that a view of pretraining needs."""
        return any(session.n_units >= FEWEST_UNITS for session in self.sessions)

    def count(self, status: str) -> int:
        """Number of sources with that status."""
        return sum(source.status == status for source in self.sources)


class SourcesFailed(InputError):
    """Some sources failed; the others were finished.

    Attributes:
        record: What became of every source.
    """

    def __init__(self, what: str, fix: str, record: PreprocessRecord) -> None:
        super().__init__(what, fix)
        self.record: PreprocessRecord = record


def say_outcome(record: PreprocessRecord, folder_notes: Sequence[str], reporter: Reporter) -> None:
    """Tell what was detected, every property found, and all notes and warnings, each sentence once."""
    written = [source for source in record.sources if source.status == "written"]
    said: dict[str, list[str]] = {}
    warned: dict[str, list[str]] = {}
    for source in written:
        for session in source.sessions:
            name = f"{session.subject}/{session.session}"
            columns = ", ".join(column for column in session.columns if column not in ("id", "n_spikes"))
            sentences = (
                f"Read as {source.detected}.",
                f"Unit properties: {columns or 'none'}.",
                *session.notes,
            )
            for text in sentences:
                said.setdefault(text, []).append(name)
            for text in session.warnings:
                warned.setdefault(text, []).append(name)
    n_sessions = sum(len(source.sessions) for source in written)
    for text, names in said.items():
        reporter.note(of_whom(text, names, n_sessions))
    for text, names in warned.items():
        reporter.warn(of_whom(text, names, n_sessions))
    if record.sessions and not record.trainable:
        most = max(session.n_units for session in record.sessions)
        reporter.warn(
            f"No population has the {FEWEST_UNITS} units that pretraining needs, the largest has {most}: add "
            "larger ones to the same folder, or embed these with a run of other data (nuclr embed --run RUN)"
        )
    skipped = [source for source in record.sources if source.status == "skipped"]
    if len(skipped) > 3:
        reporter.note(f"{len(skipped)} sources are unchanged; their files were checked and kept.")
    else:
        for source in skipped:
            files = ", ".join(str(session.file) for session in source.sessions)
            reporter.note(f"{source.path} is unchanged; {files} was checked and kept.")
    for text in folder_notes:
        reporter.note(text)


def of_whom(text: str, names: Sequence[str], n_sessions: int) -> str:
    """The sentence, with the sessions it is about unless there is only one."""
    if n_sessions == 1:
        return text
    if len(names) <= 3:
        return f"{', '.join(names)}: {text}"
    return f"{len(names)} of {n_sessions} sessions: {text}"
