"""Sources processed on the workers of a Dask cluster, each attempt in a folder of its own."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path

from nuclr_cli.errors import InputError
from nuclr_cli.workflows.dask_cluster import Cluster, one_thread_each
from nuclr_cli.workflows.population_folder import PopulationFolder
from nuclr_cli.workflows.preprocess_source import SourceJob, SourceResult, process_source
from nuclr_cli.workflows.reporting import Reporter

_WANTED = "wanted"


def results_on(
    cluster: Cluster,
    jobs: Sequence[SourceJob],
    folder: PopulationFolder,
    reporter: Reporter,
    finished: Callable[[int, str], None],
) -> Generator[SourceResult, None, None]:
    """Process every job on the cluster; results in the order of the jobs, as far as they are known.

    That order decides which of two files with one name gets the plain one, as it does on this machine.

    Args:
        cluster: Whose workers read.
        jobs: What to do.
        folder: Where the files are staged; all workers must see it.
        reporter: Hears of idle workers.
        finished: Told how many jobs are done, and the name of the last one, as they end.

    Raises:
        InputError: A worker does not see the sources or the folder, or the cluster could not do a job.
    """
    idle = one_thread_each(cluster)
    if idle:
        reporter.note(idle)
    stagings = [folder.staging(n).absolute() for n in range(len(jobs))]
    cluster.require_shared(stagings[0].parent, [job.path for job in jobs])
    for staging in stagings:
        (staging / _WANTED).touch()
    tasks = [(_with_full_paths(job), staging) for job, staging in zip(jobs, stagings, strict=True)]
    early: dict[int, SourceResult] = {}
    following = 0
    results = cluster.results(process_elsewhere, tasks, alone=True)
    with contextlib.closing(results):
        for done, (n, result) in enumerate(results, start=1):
            finished(done, jobs[n].path.name)
            early[n] = _as_asked(result, jobs[n])
            while following in early:
                yield early.pop(following)
                following += 1


def process_elsewhere(job: SourceJob, staging: Path) -> SourceResult:
    """`process_source` on a worker, in a new folder inside `staging`.

    A worker that Dask takes for lost may still be writing when another one begins the same job: the two never
    share a file, and the command takes the files of the result that reached it. Whoever ends when the command
    is gone takes his folder away himself.

    Raises:
        InputError: `staging` is not there.
    """
    own = staging / f"attempt-{secrets.token_hex(6)}"
    try:
        own.mkdir()
    except OSError as error:
        raise InputError(
            f"A Dask worker cannot write to {staging}: {error.strerror or error}.",
            "All workers need the data and the output under the same paths: a shared file system",
        ) from None
    result = process_source(job, own, hash_beside=False)
    if not (staging / _WANTED).exists():
        shutil.rmtree(own, ignore_errors=True)
        for made_again in (staging, staging.parent):
            with contextlib.suppress(OSError):
                made_again.rmdir()
    return result


def _with_full_paths(job: SourceJob) -> SourceJob:
    """A worker has another current folder."""
    return replace(job, kept=tuple(replace(item, file=item.file.absolute()) for item in job.kept))


def _as_asked(result: SourceResult, job: SourceJob) -> SourceResult:
    """The result with the job as it was, whose error names files as the user does."""
    failure = result.failure
    if failure is not None:
        for item in job.kept:
            full, asked = str(item.file.absolute()), str(item.file)
            failure = replace(
                failure, what=failure.what.replace(full, asked), fix=failure.fix.replace(full, asked)
            )
    return replace(result, job=job, failure=failure)
