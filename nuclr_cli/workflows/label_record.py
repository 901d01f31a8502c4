"""Settings and outcome of `label`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nuclr_cli.workflows.info import SessionSummary


@dataclass(frozen=True)
class LabelConfig:
    """Settings of `label`. They are applied in the order remove, labels, regions, maps.

    Attributes:
        data: Folder of session files, or one file.
        labels: Table of unit labels.
        regions: Table of channels with their brain regions.
        label_maps: Names or files of maps that group labels.
        remove: Columns to remove.
        overwrite_labels: New labels replace those that are there and differ.
    """

    data: Path = Path("nuclr-data")
    labels: Path | None = None
    regions: Path | None = None
    label_maps: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    overwrite_labels: bool = False


@dataclass(frozen=True)
class LabelAction:
    """What one table, map or removal did to one session.

    Attributes:
        what: ``labels``, ``regions``, ``map``, ``remove``, or ``remap``: a map that had made a column was
            applied again, because the column that it reads changed.
        file: Name of the table or map, '' for a removal.
        sha256: Of that file.
        columns: Columns of the units table that it wrote or removed.
        reads: Column of the raw names that a map read.
        labelled: Units with a label in the first of these columns, afterwards.
        changed: Units whose label in any of them is another than before.
        units: Their ids.
        notes: What was joined, dropped and left out.
    """

    what: str
    file: str = ""
    sha256: str = ""
    columns: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    labelled: int = 0
    changed: int = 0
    units: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class LabelledSession:
    """What became of one session: ``written``, or ``unchanged`` when its labels were these already."""

    status: str
    actions: tuple[LabelAction, ...]
    session: SessionSummary


@dataclass(frozen=True)
class LabelRecord:
    """Every session of the folder, in the order of their keys."""

    data: Path
    sessions: tuple[LabelledSession, ...]

    def count(self, status: str) -> int:
        """Number of sessions with that status."""
        return sum(session.status == status for session in self.sessions)
