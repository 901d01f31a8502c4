"""`nuclr info`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nuclr_cli.cli.console import Console
from nuclr_cli.cli.options import CacheFolder, CacheSize, command
from nuclr_cli.errors import InputError
from nuclr_cli.wording import counted

if TYPE_CHECKING:
    from nuclr_cli.workflows.info import InfoRecord, SessionSummary

_MOST_VALUES = 8


def register(app: typer.Typer) -> None:
    """Add the subcommand."""

    @command(app, "info")
    def info(
        console: Console,
        data: Annotated[
            Path, typer.Argument(metavar="[DATA]", help="Folder of population files, one file, or a URL.")
        ] = Path("nuclr-data"),
        verify: Annotated[
            bool, typer.Option("--verify", help="Compare every dataset with its checksum.")
        ] = False,
        plot: Annotated[
            Path | None,
            typer.Option(metavar="PNG|DIR", help="Draw each session: raster or traces, and the mean."),
        ] = None,
        cache: CacheFolder = None,
        cache_size: CacheSize = None,
    ) -> None:
        """List the sessions of a data folder: units, minutes, rates, gaps, labels with counts, warnings."""
        from nuclr_cli.workflows.data_place import chosen_cache
        from nuclr_cli.workflows.info import InfoConfig
        from nuclr_cli.workflows.info import info as run

        record = run(InfoConfig(data, verify, plot, chosen_cache(cache, cache_size)), console)
        console.result(record, lambda: _render(console, record))
        for file in record.unusable:
            console.warn(file.what)
        damaged = record.damaged
        if record.unusable:
            fixes = dict.fromkeys(file.fix for file in record.unusable if file.fix)
            listed = "".join(f"\n  {file.file}" for file in record.unusable)
            listed += "".join(f"\n  {s.file}: {', '.join(s.damaged or ())}" for s in damaged)
            n_files = len(record.unusable) + len(record.sessions)
            raise InputError(
                f"{len(record.unusable) + len(damaged)} of {n_files} files cannot be used:{listed}",
                "\n".join(list(fixes)[:3]),
            )
        if damaged:
            listed = "".join(f"\n  {s.file}: {', '.join(s.damaged or ())}" for s in damaged)
            raise InputError(
                f"{len(damaged)} of {len(record.sessions)} files do not match their checksums:{listed}",
                "Copy them again, or make them anew with nuclr preprocess SOURCE --overwrite",
            )
        if verify:
            match = counted(len(record.sessions), "file matches its checksums", "files match their checksums")
            console.done(match)
        if record.plots:
            console.done(f"{counted(len(record.plots), 'plot')} in {plot}")


def labels_text(session: SessionSummary) -> str:
    """``cell_type: PV 1, exc 5 (2 blank)``, one line per label column."""
    lines = []
    for name, counts in session.labels.items():
        filled = sorted(
            ((n, value) for value, n in counts.items() if value), key=lambda item: (-item[0], item[1])
        )
        text = ", ".join(f"{value} {n}" for n, value in filled[:_MOST_VALUES])
        if len(filled) > _MOST_VALUES:
            text += f", {len(filled) - _MOST_VALUES} more"
        blank = counts.get("", 0)
        lines.append(f"{name}: {text or 'none'}" + (f" ({blank} blank)" if blank else ""))
    return "\n".join(lines)


def rate_text(session: SessionSummary) -> str:
    """``2.31 Hz (4 silent)``, the median over units that fire; for calcium ``30 frames/s``."""
    if session.frame_rate_hz is not None:
        return f"{session.frame_rate_hz:.3g} frames/s"
    text = "-" if session.median_rate_hz is None else f"{session.median_rate_hz:.3g} Hz"
    return text + (f" ({session.n_silent} silent)" if session.n_silent else "")


def _render(console: Console, record: InfoRecord) -> None:
    rows = [
        [
            session.subject + (" (assumed)" if session.subject_assumed else ""),
            session.session + (f" / {session.population}" if session.population != "0" else ""),
            session.modality,
            str(session.n_units),
            f"{session.minutes:.1f}",
            rate_text(session),
            f"{session.n_gaps}: {session.gap_s:.4g} s" if session.n_gaps else "-",
            labels_text(session),
            "\n".join(session.warnings),
        ]
        for session in record.sessions
    ]
    columns = ["subject", "session", "modality", "units", "minutes", "rate", "gaps", "labels", "warnings"]
    console.table("", columns, rows, right=(3, 4))
    console.print(
        f"{counted(record.n_subjects, 'subject')}, {counted(len(record.sessions), 'session')}, "
        f"{counted(record.n_units, 'unit')}, "
        f"{record.minutes:.1f} minutes"
    )
