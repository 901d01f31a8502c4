"""Open DATA wherever it is: in a folder, behind a URL, or on a file server, by copies on this machine."""

from __future__ import annotations

from pathlib import Path

from nuclr_cli.data.file_cache import Cache, Copies, cache_folder
from nuclr_cli.data.remote import url_of
from nuclr_cli.data.sessions import open_sessions
from nuclr_cli.data.store import Session
from nuclr_cli.errors import InputError
from nuclr_cli.workflows.reporting import Reporter, SilentReporter


def chosen_cache(folder: Path | None, gigabytes: float | None) -> Cache | None:
    """What ``--cache`` and ``--cache-size`` ask for; None where neither is given.

    Raises:
        InputError: No size.
    """
    if folder is None and gigabytes is None:
        return None
    limit = None if gigabytes is None else round(gigabytes * 1e9)
    return Cache(cache_folder() if folder is None else folder.absolute(), limit)


def open_data(
    data: Path,
    cache: Cache | None,
    reporter: Reporter | None = None,
    *,
    check_foreign: bool = True,
    unusable: dict[Path, InputError] | None = None,
) -> list[Session]:
    """The sessions of DATA; arguments and errors otherwise as in `open_sessions`.

    Args:
        data: A folder, a file or a URL.
        cache: Where copies of its files lie; None = the default one for a URL, and none for a folder.
        reporter: Told how many files have come, and which copies may be out of date.

    Raises:
        InputError: Also: files do not arrive, or the cache cannot hold them.
    """
    if cache is None and url_of(data) is None:
        return open_sessions(data, check_foreign=check_foreign, unusable=unusable)
    if url_of(data) is None and not data.exists():
        return open_sessions(data)  # says what is wrong
    copies = Copies(data, cache or Cache(cache_folder()))
    reporter = reporter or SilentReporter()
    if copies.doubtful:
        reporter.warn(copies.doubtful)
    if copies.missing:
        with reporter.progress("fetch", len(copies.missing), "files") as progress:
            for done, name in enumerate(copies.fetch(), start=1):
                progress.update(done, name)
    return open_sessions(data, check_foreign=check_foreign, unusable=unusable, files=copies.paths)
