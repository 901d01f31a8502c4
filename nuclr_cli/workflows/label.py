"""Adds, changes and removes labels in session files that are there; the recordings in them stay."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import nuclr_cli
from nuclr_cli.api import Population
from nuclr_cli.data.atomic import beside, replace_all
from nuclr_cli.data.relabel import copy_with_columns, require_same
from nuclr_cli.data.remote import text_of, url_of
from nuclr_cli.data.sessions import open_sessions
from nuclr_cli.data.store import Session
from nuclr_cli.errors import InputError, NuclrError
from nuclr_cli.wording import counted
from nuclr_cli.workflows.info import summarise
from nuclr_cli.workflows.label_change import Change
from nuclr_cli.workflows.label_maps import LabelMap, add_map, source_column
from nuclr_cli.workflows.label_record import LabelAction, LabelConfig, LabelledSession, LabelRecord
from nuclr_cli.workflows.labels import RESERVED, Claims, LabelTable, add_labels, read_label_table
from nuclr_cli.workflows.made_classes import orphaned, without_column
from nuclr_cli.workflows.preprocess_plan import all_in_one, read_label_maps, refuse_ambiguous_tables
from nuclr_cli.workflows.preprocess_record import of_whom
from nuclr_cli.workflows.regions import RegionTable, add_regions, read_region_table
from nuclr_cli.workflows.reporting import Reporter, SilentReporter

__all__ = ["LabelAction", "LabelConfig", "LabelRecord", "LabelledSession", "label"]


def label(config: LabelConfig, reporter: Reporter | None = None) -> LabelRecord:
    """Change the labels of every session that the tables are about.

    All sessions are worked out, and all new files written and compared with their checksums, before the first
    one takes the place of the old.

    Raises:
        InputError: Nothing was changed: a table cannot be read or names unknown units, labels contradict what
            is there, a file is damaged or was not written by nuclr.
    """
    reporter = reporter or SilentReporter()
    if config.labels is None and config.regions is None and not config.label_maps and not config.remove:
        raise InputError(
            "There is nothing to do.",
            "Give --labels FILE, --regions FILE, --label-map NAME or --remove COLUMN.",
        )
    if url_of(config.data):
        raise InputError(
            f"{text_of(config.data)} can only be read; labels are written into the session files.",
            "Label the files where they were made, then copy them there again.",
        )
    sessions = open_sessions(config.data, check_foreign=False)
    foreign = [str(session.path) for session in sessions if session.meta.schema is None]
    if foreign:
        raise InputError(
            f"{len(foreign)} of {len(sessions)} files were not written by nuclr and have no checksums: "
            f"{', '.join(foreign[:5])}.",
            "Make session files of them with nuclr preprocess, which takes --labels, too.",
        )
    maps = read_label_maps(config.label_maps)
    given = {label_map.target: label_map.sha256 for label_map in maps}
    changes = [Change.of(session, str(config.data), given) for session in sessions]
    _remove(config, changes)
    _join(config, changes, reporter)
    _group(config, maps, changes, reporter)
    todo = [change for change in changes if change.differs]
    _write(todo, reporter)
    record = LabelRecord(config.data, tuple(_outcome(change, change in todo) for change in changes))
    _say(changes, record, reporter)
    return record


def _remove(config: LabelConfig, changes: Sequence[Change]) -> None:
    """Take columns away. One that an earlier run has removed is no error."""
    for column in dict.fromkeys(config.remove):
        having = [change for change in changes if column in change.population.units]
        removed_before = any(_was_removed(change.session, column) for change in changes)
        if column in RESERVED:
            raise InputError(f"The column {column!r} cannot be removed.", "Every session file needs it.")
        if not having and not removed_before:
            known = sorted({name for change in changes for name in change.session.label_names})
            close = difflib.get_close_matches(column, known, n=1)
            raise InputError(
                f"{config.data} has no column {column!r}; its labels are: {', '.join(known) or 'none'}.",
                f"--remove {close[0]}" if close else "Name one of them.",
            )
        for change in having:
            units = {name: values for name, values in change.population.units.items() if name != column}
            made_by = without_column(change.population.provenance, column)
            after = replace(change.population, units=units, provenance=made_by)
            change.apply(LabelAction("remove", columns=(column,)), after)
    for change in changes:
        gone = [name for name in config.remove if name in change.session.columns]
        change.warnings += orphaned(change.population, gone, change.given)


def _was_removed(session: Session, column: str) -> bool:
    return any(
        action["what"] == "remove" and column in action["columns"]
        for entry in session.meta.label_history
        for action in entry["actions"]
    )


def _join(config: LabelConfig, changes: Sequence[Change], reporter: Reporter) -> None:
    """Join the tables to the units of every session that they are about."""
    labels = None if config.labels is None else read_label_table(config.labels)
    regions = None if config.regions is None else read_region_table(config.regions)
    refuse_ambiguous_tables(labels, regions, len(changes), "sessions")
    overwrite = config.overwrite_labels
    if labels is not None:
        table = labels
        _each(
            changes,
            table,
            "labels",
            lambda population, claims: add_labels(population, table, overwrite, claims),
            reporter,
        )
    if regions is not None:
        channels = regions
        _each(
            changes,
            channels,
            "regions",
            lambda population, claims: add_regions(population, channels, overwrite, claims),
            reporter,
        )


def _each(
    changes: Sequence[Change],
    table: LabelTable | RegionTable,
    what: str,
    work: Callable[[Population, Claims], Population],
    reporter: Reporter,
) -> None:
    populations = [change.population for change in changes]
    elsewhere = table.n_elsewhere(populations)
    if elsewhere == len(table.rows):
        keys = ", ".join(f"{p.subject}/{p.session}" for p in populations[:5])
        raise InputError(
            f"None of the {elsewhere} rows of {table.path} is about a session that is there ({keys}"
            f"{', ...' if len(populations) > 5 else ''}).",
            f"Correct its column {' and '.join(table.scoped_by)}: ids must match exactly, as text."
            if table.rows
            else "Write one row per unit.",
        )
    if elsewhere:
        text = counted(elsewhere, f"row of {table.path.name} is", f"rows of {table.path.name} are")
        reporter.warn(f"{text} about sessions that are not there.")
    errors: list[NuclrError] = []
    claims = Claims(table.path)
    for change in changes:
        if not any(row.concerns(change.population) for row in table.rows):
            continue
        try:
            after = work(change.population, claims)
            change.apply(LabelAction(what, table.path.name, table.sha256, table.columns), after)
        except NuclrError as error:
            errors.append(error)
    if errors:
        raise _all(errors, len(changes))
    claims.finish()


def _group(
    config: LabelConfig, maps: Sequence[LabelMap], changes: Sequence[Change], reporter: Reporter
) -> None:
    """Apply the maps to every session that has their column."""
    for label_map in maps:
        having = [
            change for change in changes if source_column(change.population.units, label_map) is not None
        ]
        lacking = [change for change in changes if change not in having]
        if having and lacking:
            names = ", ".join(change.name for change in lacking[:5]) + (", ..." if len(lacking) > 5 else "")
            wanted = " or ".join(map(repr, label_map.columns))
            have = counted(len(lacking), "session has", "sessions have")
            reporter.warn(f"{have} no column {wanted} for {label_map.name}: {names}.")
        errors: list[NuclrError] = []
        for change in having or changes[:1]:  # without any, the first says what is missing
            try:
                reads = source_column(change.population.units, label_map)
                after = add_map(change.population, label_map, config.overwrite_labels)
                columns = ((label_map.target,), () if reads is None else (reads,))
                change.apply(LabelAction("map", label_map.name, label_map.sha256, *columns), after)
            except NuclrError as error:
                errors.append(error)
        if errors:
            raise _all(errors, len(changes))


def _all(errors: Sequence[NuclrError], n_sessions: int) -> NuclrError:
    return (
        errors[0]
        if len(errors) == 1
        else all_in_one(errors, n_sessions, "cannot take them; nothing was changed")
    )


def _write(changes: Sequence[Change], reporter: Reporter) -> None:
    """Write every new file beside the old one, then put them all in place; on an error, put none."""
    when = datetime.now(UTC).isoformat(timespec="seconds")
    staged: list[tuple[Path, Path]] = []
    try:
        with reporter.progress("label", len(changes), "sessions") as progress:
            for done, change in enumerate(changes, start=1):
                path = change.session.path.resolve()  # a link stays; the file that it leads to changes
                staged.append((path, beside(path, "new")))
                entry = {"when": when, "nuclr": nuclr_cli.__version__, "actions": change.actions}
                copy_with_columns(path, staged[-1][1], change.population, entry, change.session.stamp)
                progress.update(done, change.session.path.name)
        for change in changes:
            change.session.close()
        replace_all(staged, lambda: _require_same(changes))
    finally:
        for _, temporary in staged:
            with contextlib.suppress(OSError):  # nothing is there on a disk that is read-only
                temporary.unlink(missing_ok=True)


def _require_same(changes: Sequence[Change]) -> None:
    for change in changes:
        require_same(change.session.path, change.session.stamp)


def _outcome(change: Change, written: bool) -> LabelledSession:
    status = "written" if written else "unchanged"
    return LabelledSession(status, tuple(change.actions), summarise(Session(change.session.path)))


def _say(changes: Sequence[Change], record: LabelRecord, reporter: Reporter) -> None:
    said: dict[str, list[str]] = {}
    warned: dict[str, list[str]] = {}
    for change in changes:
        for text in (note for action in change.actions for note in action.notes):
            said.setdefault(text, []).append(change.name)
        for text in change.warnings:
            warned.setdefault(text, []).append(change.name)
    for text, names in said.items():
        reporter.note(of_whom(text, names, len(changes)))
    for text, names in warned.items():
        reporter.warn(of_whom(text, names, len(changes)))
    if record.count("written"):
        reporter.note("Embeddings made before hold the labels of before; nuclr embed makes them anew.")
    elif record.sessions:
        reporter.note("All labels were there already; no file was written.")
