"""Turns one source into population files in a staging folder; several run in processes of their own."""

from __future__ import annotations

import hashlib
import os
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nuclr_cli.api import Population, Reader, ReadOptions
from nuclr_cli.data.atomic import WriteError
from nuclr_cli.data.inline_executor import one_thread
from nuclr_cli.data.store import Session, SessionKey, SourceFile, SourceRecord, write_population
from nuclr_cli.data.writing import name_siblings
from nuclr_cli.errors import InputError, NuclrError
from nuclr_cli.registry import Registry
from nuclr_cli.workflows.kept_labels import KeptLabels, labels_for
from nuclr_cli.workflows.label_maps import LabelMap, add_map
from nuclr_cli.workflows.labels import Claims, LabelTable, add_broadcast, add_labels
from nuclr_cli.workflows.regions import RegionTable, add_regions
from nuclr_cli.workflows.source_files import changed_while_read, fingerprint


@dataclass(frozen=True)
class SourceJob:
    """One source and all that was said about it.

    Attributes:
        path: The source, absolute.
        reader: Name of the reader.
        detected: What the reader saw.
        options: For the reader.
        attributes: Session attributes.
        broadcast: Labels for every unit.
        labels: Label table, None = none.
        regions: Table of channels, None = none.
        maps: Applied to the labels in this order.
        kept: What `nuclr label` added to the files that are there, for those that this job makes anew.
    """

    path: Path
    reader: str
    detected: str
    options: ReadOptions = field(default_factory=ReadOptions)
    attributes: Mapping[str, str] = field(default_factory=dict)
    broadcast: Mapping[str, str] = field(default_factory=dict)
    labels: LabelTable | None = None
    regions: RegionTable | None = None
    maps: tuple[LabelMap, ...] = ()
    kept: tuple[KeptLabels, ...] = ()

    @property
    def key_is_stated(self) -> bool:
        """The user named subject and session, so nothing in the source can change them."""
        return self.options.subject is not None and self.options.session is not None

    def record(self, files: tuple[SourceFile, ...]) -> SourceRecord:
        """What is kept in every file made from this source."""
        options: dict[str, Any] = {
            "subject": self.options.subject,
            "session": self.options.session,
            "segment_starts_s": list(self.options.segment_starts_s),
            "duration_s": list(self.options.duration_s),
            "fs_hz": self.options.fs_hz,
            "keep": sorted(self.options.keep),
            "trust": self.options.trust,
            "extra": dict(self.options.extra),
            "attributes": dict(self.attributes),
            "broadcast": dict(self.broadcast),
            "labels": None if self.labels is None else self.labels.fingerprint,
        }
        # Only what was said: files that were made before an option existed are still made with these options.
        defaults = ReadOptions()
        for name in ("signal", "min_iscell", "red_label", "series", "drop_nan_units", "extractor"):
            value = getattr(self.options, name)
            if value != getattr(defaults, name):
                options[name] = list(value) if isinstance(value, tuple) else value
        if self.options.timestamps is not None:
            options["timestamps"] = _named_digest(self.options.timestamps)
        if self.regions is not None:
            options["regions"] = self.regions.fingerprint
        if self.maps:
            options["label_maps"] = [label_map.fingerprint for label_map in self.maps]
        return SourceRecord(str(self.path), self.reader, self.detected, files, options)


def _named_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return f"{path.name} sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}.", "Check the path.") from None


@dataclass(frozen=True)
class Staged:
    """A finished population file that waits for its name."""

    file: Path
    key: SessionKey
    source: SourceRecord


@dataclass(frozen=True)
class Failure:
    """Why a source could not be processed; plain texts, so that it travels between processes."""

    what: str
    fix: str = ""
    exit_code: int = 3
    trace: str = ""

    @classmethod
    def of(cls, error: NuclrError) -> Failure:
        return cls(error.what, error.fix, error.exit_code, traceback.format_exc())

    def error(self) -> InputError:
        """The failure as an exception, with the original traceback as its cause."""
        error = InputError(self.what, self.fix)
        error.exit_code = self.exit_code
        error.__cause__ = RuntimeError(self.trace) if self.trace else None
        return error


@dataclass(frozen=True)
class SourceResult:
    """Outcome of one job: staged files, or a failure and no files."""

    job: SourceJob
    staged: tuple[Staged, ...] = ()
    failure: Failure | None = None


def process_source(job: SourceJob, staging: Path, hash_beside: bool = True) -> SourceResult:
    """Read, label, check and write every population of a source.

    Args:
        job: The source.
        staging: Existing empty folder for the files of this job alone.
        hash_beside: Hash in a second thread; False keeps to one core.

    Returns:
        The outcome. Errors are caught, so that one source does not stop the others.
    """
    try:
        return SourceResult(job, _process(job, staging, hash_beside))
    except WriteError as error:
        failure = Failure.of(not_written(job, error.reason))
    except NuclrError as error:
        failure = Failure.of(error)
    except Exception as error:
        failure = Failure(
            f"The reader {job.reader!r} broke on {job.path}: {type(error).__name__}: {error}.",
            "This is a bug in that reader: run with --debug and report what it prints.",
            exit_code=1,
            trace=traceback.format_exc(),
        )
    for leftover in staging.iterdir():
        leftover.unlink()
    return SourceResult(job, failure=failure)


def not_written(job: SourceJob, reason: str) -> InputError:
    """The error for a source whose files have no place; they would have other names than what was tried."""
    return InputError(
        f"The sessions of {job.path} could not be written: {reason}.",
        "Free some space, or choose another place with -o; nothing half-written was left, and the same "
        "command makes what is missing.",
    )


def _process(job: SourceJob, staging: Path, hash_beside: bool) -> tuple[Staged, ...]:
    reader = Registry.load().reader(job.reader)
    files = list(reader.sources(job.path))
    locked = [str(file) for file in files if file.exists() and not os.access(file, os.R_OK)]
    if locked:
        raise InputError(f"No permission to read {', '.join(locked[:5])}.", "Ask their owner, or chmod u+r.")
    staged: list[Staged] = []
    claims = [Claims(table.path) for table in (job.labels, job.regions) if table is not None]
    left_over: dict[Path, KeptLabels] = {i.file: i for i in job.kept if i.source == str(job.path)}
    with one_thread(hash_beside) as hashing:
        fingerprints = hashing.submit(fingerprint, job.path, files)
        for number, population in enumerate(_read(reader, job, claims)):
            source = job.record(fingerprints.result())
            key = SessionKey(population.subject, population.session, population.population)
            if any(earlier.key == key for earlier in staged):
                raise InputError(
                    f"{job.path} holds population {key} twice.",
                    f"This is a bug in the reader {job.reader!r}.",
                )
            target = staging / f"{number}.h5"
            kept = labels_for(job.kept, population, job.path)
            history: tuple[Mapping[str, Any], ...] = ()
            if kept is not None:
                history = kept.history
                left_over.pop(kept.file, None)
                moved = [] if _same_bytes(kept, source) else kept.moved(population)
                if moved:
                    raise InputError(
                        f"{job.path} has changed: {len(moved)} units that nuclr label had labelled in "
                        f"{kept.file} are other units now ({', '.join(moved[:5])}).",
                        f"Remove {kept.file} to let the labels go, and give them anew with --labels.",
                    )
            write_population(
                population, target, source=source, label_history=history, hash_beside=hash_beside
            )
            staged.append(Staged(target, key, source))
    for claim in claims:
        claim.finish()
    for item in left_over.values():
        raise InputError(
            f"The labels that nuclr label added to {item.file} ({', '.join(item.labels) or 'removals'}) have "
            f"no population to go to: {job.path} no longer holds {item.key}.",
            f"Remove {item.file} to let them go.",
        )
    if not staged:
        raise InputError(f"{job.path} holds no population ({job.detected}).", "Check that it is complete.")
    if len(staged) > 1:
        for done in staged:
            name_siblings(done.file, [item.key.population for item in staged])
    moved = changed_while_read(job.path, files, fingerprints.result())
    if moved:
        raise InputError(
            f"{job.path} changed while it was read: {', '.join(moved[:5])}.",
            "Wait until nothing writes to it.",
        )
    return tuple(staged)


def _same_bytes(kept: KeptLabels, now: SourceRecord) -> bool:
    """The files are those of before: ids mean the same units, whatever the options cut out or shift."""
    stored = Session(kept.file).meta.source
    return stored is not None and {(f.name, f.sha256) for f in stored.files} == {
        (f.name, f.sha256) for f in now.files
    }


def _read(reader: Reader, job: SourceJob, claims: Sequence[Claims]) -> Any:
    for population in reader.read(job.path, job.options):
        yield _with_what_was_said(population, job, claims)


def _with_what_was_said(population: Population, job: SourceJob, claims: Sequence[Claims]) -> Population:
    attributes = {**population.attributes, **job.attributes}
    provenance = {"path": str(job.path), **population.provenance}  # what is wrong is told with its place
    population = replace(population, attributes=attributes, provenance=provenance)
    kept = labels_for(job.kept, population, job.path)
    if kept is not None:
        population = kept.added_to(population)
    if job.broadcast:
        population = add_broadcast(population, job.broadcast)
    if job.labels is not None:
        population = add_labels(population, job.labels, claims=claims[0])
    if job.regions is not None:
        population = add_regions(population, job.regions, claims=claims[-1])
    for label_map in job.maps:
        population = add_map(population, label_map)
    if kept is not None:
        population = kept.made_again(population)  # the raw names may have come from a table just now
    return population
