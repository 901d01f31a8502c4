"""From recordings on disk to population files: read, check, label, write, and say what was assumed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path

from nuclr_cli.data.store import Session, SessionKey
from nuclr_cli.disk_errors import disk_reason
from nuclr_cli.errors import InputError, NuclrError
from nuclr_cli.registry import Registry
from nuclr_cli.wording import counted
from nuclr_cli.workflows.dask_cluster import connect
from nuclr_cli.workflows.info import summarise
from nuclr_cli.workflows.population_folder import KnownFile, PopulationFolder, require_whole
from nuclr_cli.workflows.preprocess_cluster import results_on
from nuclr_cli.workflows.preprocess_plan import all_in_one, plan_jobs
from nuclr_cli.workflows.preprocess_record import (
    PreprocessConfig,
    PreprocessRecord,
    SourceOutcome,
    SourcesFailed,
    say_outcome,
)
from nuclr_cli.workflows.preprocess_source import (
    Failure,
    SourceJob,
    SourceResult,
    not_written,
    process_source,
)
from nuclr_cli.workflows.reporting import Progress, Reporter, SilentReporter
from nuclr_cli.workflows.source_files import changes, option_differences
from nuclr_cli.workflows.worker_pool import results_of, usable_cores

__all__ = ["PreprocessConfig", "PreprocessRecord", "SourceOutcome", "SourcesFailed", "preprocess"]


def preprocess(config: PreprocessConfig, reporter: Reporter | None = None) -> PreprocessRecord:
    """Write one file per population into `config.out`.

    Every source is recognised, and compared with what is there, before anything is written. Then each is read
    in a process of its own; one that fails leaves nothing behind and does not stop the others.

    Raises:
        InputError: Nothing was written: a source is missing or unknown, two sources are the same session, the
            files of a source were made with other options, an option makes no sense, or a Dask cluster cannot
            be used.
        MissingPackageError: `config.dask` is given and distributed is not installed.
        SourcesFailed: Some sources failed (its `record` has the rest). A single source raises its own error.
    """
    reporter = reporter or SilentReporter()
    jobs = plan_jobs(config, reporter)
    with PopulationFolder.open(config.out, overwrite=config.overwrite, warn=reporter.warn) as folder:
        done = _already_done(jobs, folder, config.overwrite)
        todo = [replace(job, kept=folder.labels) for job in jobs if job.path not in done]
        results = _run(config, todo, folder, reporter)
    outcomes = [_outcome(job, results.get(job.path), done.get(job.path), folder) for job in jobs]
    record = PreprocessRecord(config.out, tuple(outcomes))
    say_outcome(record, folder.notes, reporter)
    failures = [result.failure for result in results.values() if result.failure is not None]
    if failures:
        raise _failure_of(record, failures)
    for table in (jobs[0].labels, jobs[0].regions):
        elsewhere = 0 if table is None else table.n_elsewhere(record.sessions)
        if table is not None and elsewhere:
            reporter.warn(
                f"{counted(elsewhere, 'row')} of {table.path.name} {'is' if elsewhere == 1 else 'are'} about "
                "sessions that are not among the sources; check their subject and session."
            )
    return record


def _outcome(
    job: SourceJob, result: SourceResult | None, done: tuple[Path, ...] | None, folder: PopulationFolder
) -> SourceOutcome:
    if result is not None and result.failure is not None:
        failure = result.failure
        return SourceOutcome(job.path, job.reader, job.detected, "failed", (), failure.what, failure.fix)
    skipped = done is not None or job.path in folder.kept
    sessions = tuple(summarise(Session(file)) for file in done or folder.files_of(job.path))
    return SourceOutcome(job.path, job.reader, job.detected, "skipped" if skipped else "written", sessions)


def _already_done(
    jobs: Sequence[SourceJob], folder: PopulationFolder, overwrite: bool
) -> dict[Path, tuple[Path, ...]]:
    """Sources that need no work, with their files.

    Raises:
        InputError: A source (or what was said about it) changed, or its file is damaged.
    """
    if overwrite:
        return {}
    done = {}
    errors: list[NuclrError] = []
    registry = Registry.load()
    for job in jobs:
        known = folder.made_from(job.path)
        if not known:
            continue
        try:
            files = list(registry.reader(job.reader).sources(job.path))
            for file in known:
                _require_unchanged(job, files, file)
            lost = {name for file in known for name in file.siblings} - {
                file.key.population for file in known
            }
            if lost:
                raise InputError(
                    f"{known[0].path.parent} lacks the population {', '.join(sorted(lost))} of {job.path}: "
                    "a run was killed, or its file was removed.",
                    "Make all of them anew with --overwrite.",
                )
        except NuclrError as error:
            errors.append(error)
        else:
            done[job.path] = tuple(file.path for file in known)
    if errors:
        raise all_in_one(errors, len(jobs), "do not match what is there; nothing was written")
    return done


def _require_unchanged(job: SourceJob, files: Sequence[Path], known: KnownFile) -> None:
    assert known.source is not None  # files of other writers have no source, so they are never asked for
    moved = changes(job.path, files, known.source.files)
    if moved:
        raise InputError(
            f"{job.path} has changed since {known.path} was made from it: {'; '.join(moved[:5])}.",
            "Make it anew with --overwrite.",
        )
    now = job.record(()).plain()
    was = known.source.plain()
    differing = option_differences(
        {"reader": was["reader"], **was["options"]}, {"reader": now["reader"], **now["options"]}
    )
    if differing:
        raise InputError(
            f"{known.path} was made from {job.path} with other options: {'; '.join(differing)}.",
            "Give the same options, or make it anew with --overwrite.",
        )
    require_whole(known.path)


def _run(
    config: PreprocessConfig, jobs: Sequence[SourceJob], folder: PopulationFolder, reporter: Reporter
) -> dict[Path, SourceResult]:
    """Process every job, and give finished files their names.

    A source that was not told its subject and session is held back until all are read: only then is it known
    whether two of them are the same session.
    """
    if not jobs:
        return {}
    results: dict[Path, SourceResult] = {}
    held: list[SourceResult] = []
    with _processed(config, jobs, folder, reporter) as finished:
        for result in finished:
            if result.job.key_is_stated or result.failure is not None:
                results[result.job.path] = _commit(result, folder)
            else:
                held.append(result)
    sources_of: dict[SessionKey, list[Path]] = {}
    for result in held:
        for item in result.staged:
            sources_of.setdefault(item.key, []).append(result.job.path)
    for result in held:
        shared = [item.key for item in result.staged if len(sources_of[item.key]) > 1]
        if shared:
            failure = _same_key(shared[0], sources_of[shared[0]])
            results[result.job.path] = replace(result, staged=(), failure=failure)
        else:
            results[result.job.path] = _commit(result, folder)
    return results


@contextmanager
def _processed(
    config: PreprocessConfig, jobs: Sequence[SourceJob], folder: PopulationFolder, reporter: Reporter
) -> Iterator[Iterator[SourceResult]]:
    """Results in the order of the jobs, from processes here or from a cluster; says how far they are."""
    with ExitStack() as stack:
        if config.dask is not None:
            cluster = stack.enter_context(connect(config.dask, reporter.warn))
            bar = stack.enter_context(reporter.progress("preprocess", len(jobs), "sources"))
            yield stack.enter_context(closing(results_on(cluster, jobs, folder, reporter, bar.update)))
            return
        cores = config.jobs or usable_cores()
        tasks = ((job, folder.staging(n), cores > len(jobs)) for n, job in enumerate(jobs))
        try:
            found = stack.enter_context(results_of(process_source, tasks, min(cores, len(jobs))))
            bar = stack.enter_context(reporter.progress("preprocess", len(jobs), "sources"))
            yield _counted(found, bar)
        except BrokenExecutor:
            raise InputError(
                f"The system stopped a process that was reading one of {len(jobs)} sources, most likely "
                "because memory ran out.",
                "Run the same command with --jobs 1; it goes on with what is not written yet.",
            ) from None


def _counted(results: Iterator[SourceResult], bar: Progress) -> Iterator[SourceResult]:
    for done, result in enumerate(results, start=1):
        yield result
        bar.update(done, result.job.path.name)


def _commit(result: SourceResult, folder: PopulationFolder) -> SourceResult:
    if result.failure is not None:
        return result  # what an earlier run made of this source stays
    try:
        folder.commit(result.job.path, result.staged)
    except NuclrError as error:
        return replace(result, staged=(), failure=Failure.of(error))
    except OSError as error:
        failure = Failure.of(not_written(result.job, disk_reason(error)))
        return replace(result, staged=(), failure=failure)
    return result


def _same_key(key: SessionKey, sources: Sequence[Path]) -> Failure:
    return Failure(
        f"{' and '.join(map(str, sources))} are both subject {key.subject!r}, session {key.session!r}, "
        f"population {key.population!r}, so none of them was written.",
        "Preprocess them one at a time with --subject and --session, or write a manifest.",
    )


def _failure_of(record: PreprocessRecord, failures: Sequence[Failure]) -> NuclrError:
    if len(record.sources) == 1:
        return failures[0].error()
    listed = "".join(f"\n  {failure.what}" for failure in failures)
    fixes = list(dict.fromkeys(failure.fix for failure in failures if failure.fix))
    error = SourcesFailed(
        f"{len(failures)} of {len(record.sources)} sources failed, the others were finished:{listed}",
        "\n".join(fixes[:3]),
        record,
    )
    codes = {failure.exit_code for failure in failures}
    error.exit_code = codes.pop() if len(codes) == 1 else error.exit_code
    error.__cause__ = failures[0].error().__cause__
    return error
