"""Works out what `preprocess` was asked to do: one job per source, every source recognised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nuclr_cli.api import Reader, ReadOptions
from nuclr_cli.data.not_sessions import MANIFEST_COLUMNS, TABLES, is_manifest, manifest_command
from nuclr_cli.errors import InputError, NuclrError
from nuclr_cli.registry import Registry
from nuclr_cli.workflows.dask_cluster import check_place
from nuclr_cli.workflows.label_maps import LabelMap, read_label_map
from nuclr_cli.workflows.labels import LabelTable, read_label_table
from nuclr_cli.workflows.manifest import ManifestRow, mistaken_columns, read_manifest
from nuclr_cli.workflows.preprocess_record import PreprocessConfig
from nuclr_cli.workflows.preprocess_source import SourceJob
from nuclr_cli.workflows.regions import RegionTable, read_region_table
from nuclr_cli.workflows.reporting import Reporter


def plan_jobs(config: PreprocessConfig, reporter: Reporter) -> list[SourceJob]:
    """One job per source, every source recognised.

    Raises:
        InputError: Names every source that cannot be used.
    """
    if bool(config.sources) == bool(config.manifest):
        raise InputError(
            "Give either sources or a manifest." if config.sources else "There is nothing to preprocess.",
            "nuclr preprocess SOURCE, or nuclr preprocess --manifest sessions.csv",
        )
    if config.broadcast and config.manifest is None:
        raise InputError(
            "--broadcast names a column of a manifest, and there is none.", "Add --manifest FILE.csv"
        )
    check_place(config.jobs, config.dask)
    for name in ("subject", "session"):
        value = getattr(config, name)
        if value is not None and not value.strip():
            raise InputError(f"--{name} is empty.", f"Write --{name} NAME, or leave it out.")
    registry = Registry.load()
    jobs: list[SourceJob] = []
    errors: list[NuclrError] = []
    requests = _requests(config, reporter)
    for request in requests:
        try:
            reader, detected = registry.find(
                request.path,
                request.reader or None,
                # An extractor of a wrapped library reads what the reader itself would not recognise.
                detect=not (request.reader and request.options.extractor),
                warn=reporter.warn,
            )
        except NuclrError as error:
            errors.append(_not_a_source(request) or error)
            continue
        ignored = _ignored_options(reader, request.options)
        if ignored:
            errors.append(
                InputError(
                    f"{request.path} is read by {reader.name!r}, which has no use for {', '.join(ignored)}.",
                    f"Leave {', '.join(ignored)} out.",
                )
            )
        else:
            jobs.append(replace(request, path=request.path.resolve(), reader=reader.name, detected=detected))
    if errors:
        raise all_in_one(errors, len(requests), "cannot be used; nothing was written")
    _refuse_repeats(jobs)
    return jobs


def _not_a_source(request: SourceJob) -> InputError | None:
    """The error for a table in place of a recording; None where it is none, or a reader was named for it."""
    path = request.path
    if request.reader or path.suffix.lower() not in TABLES or not path.is_file():
        return None
    if is_manifest(path):
        return InputError(
            f"{path} is a manifest, a table of recordings.", f"Did you mean `{manifest_command(path)}`?"
        )
    return InputError(
        f"{path} is a table, and no reader recognises it as a recording.",
        f"A table of recordings (columns {', '.join(MANIFEST_COLUMNS)}) goes behind --manifest, one of "
        "labels behind --labels.",
    )


_OPTION_NAMES = {
    "segment_starts_s": "--segment-starts",
    "duration_s": "--duration",
    "fs_hz": "--fs",
    "keep": "--keep",
    "signal": "--signal",
    "timestamps": "--timestamps",
    "min_iscell": "--min-iscell",
    "red_label": "--red-label",
    "series": "--series",
    "drop_nan_units": "--drop-nan-units",
    "extractor": "--extractor",
}


def _ignored_options(reader: Reader, options: ReadOptions) -> list[str]:
    """Options that the user gave and the reader would silently ignore."""
    if reader.options is None:
        return []
    defaults = ReadOptions()
    return [
        name
        for field, name in _OPTION_NAMES.items()
        if getattr(options, field) != getattr(defaults, field) and field not in reader.options
    ]


def _requests(config: PreprocessConfig, reporter: Reporter) -> list[SourceJob]:
    """Jobs as asked for: the reader is the one asked for, or empty."""
    common = ReadOptions(
        subject=config.subject,
        session=config.session,
        segment_starts_s=config.segment_starts_s,
        duration_s=config.duration_s,
        fs_hz=config.fs_hz,
        keep=config.keep,
        signal=config.signal,
        timestamps=None if config.timestamps is None else config.timestamps.resolve(),
        min_iscell=config.min_iscell,
        red_label=config.red_label,
        series=config.series,
        drop_nan_units=config.drop_nan_units,
        extractor=config.extractor,
        trust=config.trust,
        extra=config.extra,
    )
    labels = None if config.labels is None else read_label_table(config.labels)
    regions = None if config.regions is None else read_region_table(config.regions)
    maps = read_label_maps(config.label_maps)
    if config.manifest is None:
        refuse_ambiguous_tables(labels, regions, len(config.sources))
        said = SourceJob(Path(), config.reader or "", "", common, labels=labels, regions=regions, maps=maps)
        return [replace(said, path=path) for path in config.sources]
    rows = read_manifest(config.manifest, config.broadcast)
    for name, option in mistaken_columns(rows, config.broadcast).items():
        reporter.warn(
            f"The column {name!r} of {config.manifest.name} is only kept as an attribute; did you mean "
            f"{option!r}?"
        )
    refuse_ambiguous_tables(labels, regions, len(rows))
    return [
        SourceJob(
            row.path,
            row.reader or config.reader or "",
            "",
            _row_options(config, row, common),
            attributes=row.attributes,
            broadcast={column: row.attributes[column] for column in config.broadcast},
            labels=labels,
            regions=regions,
            maps=maps,
        )
        for row in rows
    ]


def _row_options(config: PreprocessConfig, row: ManifestRow, common: ReadOptions) -> ReadOptions:
    """Options of one row. What the row and the command line both say would be a guess, so it is refused."""
    said_twice = [
        option
        for option, by_row, by_command in (
            ("--subject", row.subject, common.subject),
            ("--session", row.session, common.session),
            ("--duration", row.duration_s, common.duration_s),
            ("--fs", row.fs_hz, common.fs_hz),
            ("--segment-starts", row.segment_starts_s, common.segment_starts_s),
            ("--reader", row.reader, config.reader),
        )
        if by_row and by_command
    ]
    if said_twice:
        raise InputError(
            f"{config.manifest}, row {row.number}, and the command line both say {', '.join(said_twice)}.",
            f"Leave {', '.join(said_twice)} out: the manifest has it.",
        )
    return replace(
        common,
        subject=row.subject,
        session=row.session,
        duration_s=row.duration_s or common.duration_s,
        fs_hz=row.fs_hz if row.fs_hz is not None else common.fs_hz,
        segment_starts_s=row.segment_starts_s or common.segment_starts_s,
    )


def read_label_maps(names: Sequence[str]) -> tuple[LabelMap, ...]:
    """The maps, in the order in which they are applied.

    Raises:
        InputError: One cannot be read, or two write the same column.
    """
    maps = tuple(read_label_map(name) for name in names)
    first_of: dict[str, LabelMap] = {}
    for label_map in maps:
        first = first_of.setdefault(label_map.target, label_map)
        if first is not label_map:
            raise InputError(
                f"The maps {first.name} and {label_map.name} both write the column {label_map.target!r}.",
                "Leave one out, or give it another target.",
            )
    return maps


def refuse_ambiguous_tables(
    labels: LabelTable | None, regions: RegionTable | None, n_sources: int, what: str = "sources"
) -> None:
    """Refuse tables that could be about any of several recordings.

    Raises:
        InputError: Names the columns that would tell.
    """
    if n_sources == 1:
        return
    if labels is not None and not {"subject", "session"} <= set(labels.scoped_by):
        raise InputError(
            f"{labels.path} does not say which session its units are of, and there are {n_sources} {what}.",
            f"Add the columns subject and session to it, or take one of the {what} at a time.",
        )
    # An insertion that stayed in for weeks has the same channels in all its sessions: the subject is enough.
    if regions is not None and not {"subject", "session"} & set(regions.scoped_by):
        raise InputError(
            f"{regions.path} does not say which recording its channels are of, and there are {n_sources} "
            f"{what}.",
            f"Add the column subject or session (or both) to it, or take one of the {what} at a time.",
        )


def _refuse_repeats(jobs: Sequence[SourceJob]) -> None:
    """Refuse sources given twice, and sources that were said to be the same session."""
    by_path: dict[Path, SourceJob] = {}
    by_key: dict[tuple[str | None, str | None], SourceJob] = {}
    for job in jobs:
        if by_path.setdefault(job.path, job) is not job:
            raise InputError(f"{job.path} is given twice.", "Give every source once.")
        if job.key_is_stated:
            first = by_key.setdefault((job.options.subject, job.options.session), job)
            if first is not job:
                raise InputError(
                    f"{first.path} and {job.path} are both subject {job.options.subject!r}, session "
                    f"{job.options.session!r}.",
                    "Give each source its own --session, or use a manifest.",
                )


def all_in_one(errors: Sequence[NuclrError], n_sources: int, what: str) -> NuclrError:
    """One error as it is; several as one."""
    if n_sources == 1:
        return errors[0]
    listed = "".join(f"\n  {error.what}" for error in errors)
    fixes = list(dict.fromkeys(error.fix for error in errors if error.fix))
    return InputError(f"{len(errors)} of {n_sources} sources {what}:{listed}", "\n".join(fixes[:3]))
