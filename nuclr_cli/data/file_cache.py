"""A folder of this machine that holds copies of session files, whole, for any number of processes.

    CACHE/.lock                 held for a moment by who needs or removes entries
    CACHE/leases/PID-XXXX.json  what a living process needs; see `nuclr_cli.data.leases`
    CACHE/files/DIGEST/NAME.h5  one file as it was at one time; DIGEST is of its place, size and tag
    CACHE/lists/DIGEST.json     what a place held when it was last reached; see `nuclr_cli.data.file_lists`

A file that is there is whole: it arrives under a temporary name and is renamed at last. What has changed on
the server is another entry; a process that reads the old one is not disturbed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nuclr_cli.data.atomic import TEMPORARY_SUFFIX
from nuclr_cli.data.endpoints import endpoint_mark
from nuclr_cli.data.file_lists import keep_list, last_list
from nuclr_cli.data.leases import leased, own_lease
from nuclr_cli.data.locks import locked
from nuclr_cli.data.remote import Away, BrokenOff, RemoteFile, RemoteFolder, Stopped, text_of, where_of
from nuclr_cli.errors import InputError
from nuclr_cli.wording import counted

_AT_ONCE = 8
_PAUSES_S = (0.2, 1.0)  # before the second and the third attempt
_END_S = 5.0  # for what is under way to break off


class CacheError(InputError):
    """Copies cannot be kept: the cache cannot be written, or holds too little."""


@dataclass(frozen=True)
class Cache:
    """Where copies lie.

    Attributes:
        folder: On a disk of this machine.
        limit_bytes: Of all copies together; None = what the disk holds.
    """

    folder: Path
    limit_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.limit_bytes is not None and self.limit_bytes <= 0:
            raise InputError("--cache-size is not above 0.", "Give gigabytes, e.g. --cache-size 200")


def cache_folder() -> Path:
    """``NUCLR_CACHE``, else ``nuclr`` in the folder where the platform keeps caches."""
    said = os.environ.get("NUCLR_CACHE")
    if said:
        return Path(said)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "nuclr"


class Copies:
    """The session files of DATA as copies in a cache.

    Making it lists the files and reserves room for them; until this process ends, no process removes them.
    Where the server is away (see `nuclr_cli.data.remote.Away`) and all that it held before is in the cache,
    that is what is used.

    Args:
        data: A URL, or a folder that is slow to read.
        cache: Where the copies go.

    Attributes:
        paths: All copies, and what each is a copy of; those of `missing` are still to come.
        missing: Files that have to be fetched.
        doubtful: What to say of copies that are used though the server was not reached, or does not say
            whether its files have changed since; "" where there are none.

    Raises:
        InputError: Nothing there, the files are more than the cache may hold, or it cannot be written.
        MissingPackageError: The protocol needs a package that is not installed.
    """

    def __init__(self, data: Path, cache: Cache) -> None:
        self._data, self._where, self._cache = data, where_of(data), cache
        self._source: RemoteFolder | None = None
        away: Away | None = None
        try:
            source = RemoteFolder(data)
            files, when = tuple(source.files()), ""
            self._source = source
        except Away as error:  # one that refuses is believed
            known = last_list(cache.folder, self._where)
            if known is None or not all(_is_whole(self._entry(one) / one.name, one) for one in known.files):
                raise
            away, files, when = error, known.files, known.when
        entries = [self._entry(file) for file in files]
        self._target = {file: entry / file.name for file, entry in zip(files, entries, strict=True)}
        self.paths = {path: file.path for file, path in self._target.items()}
        with _cache_errors(cache.folder):
            (cache.folder / "leases").mkdir(parents=True, exist_ok=True)
            (cache.folder / "files").mkdir(exist_ok=True)
            with locked(cache.folder / ".lock"):
                self._make_room({entry.name: file.size for entry, file in zip(entries, files, strict=True)})
                for entry in entries:
                    entry.mkdir(exist_ok=True)
                    os.utime(entry)
        self.missing = [file for file, path in self._target.items() if not _is_whole(path, file)]
        if away is not None and self.missing:  # another process took one away just now
            raise away
        self.doubtful = self._doubtful() if away is None else self._outdated(away, when)
        self._stop = threading.Event()
        self._keep_list()

    def fetch(self) -> Iterator[str]:
        """Fetch what is missing, several files at once; yields the name of each file that has arrived.

        Raises:
            InputError: A file does not arrive, or the cache cannot be written. No half file is left.
        """
        if self._source is None:
            return
        self._stop = threading.Event()
        threads = ThreadPoolExecutor(1 if self._source.one_at_a_time() else _AT_ONCE)
        running = {threads.submit(self._fetch, file): file for file in self.missing}
        try:
            for done in as_completed(running):
                done.result()
                yield running[done].name
        finally:  # an error or Ctrl-C does not wait for the whole files that are under way
            self._stop.set()
            threads.shutdown(wait=False, cancel_futures=True)
            wait([one for one in running if not one.cancelled()], _END_S)
        self._keep_list()

    def _keep_list(self) -> None:
        if self._source is not None and all(_is_whole(path, file) for file, path in self._target.items()):
            keep_list(self._cache.folder, self._where, list(self._target))

    def _outdated(self, away: Away, when: str) -> str:
        return (
            f"{away.what} Used instead: the copies of {counted(len(self._target), 'file')} in "
            f"{self._cache.folder}, which are what it held on {when} UTC; what has changed there since is "
            "not noticed"
        )

    def _doubtful(self) -> str:
        new = set(self.missing)
        old = [file for file in self._target if not file.tag and file not in new]
        if not old:
            return ""
        return (
            f"{text_of(self._data)} does not say when its files were changed: a change that keeps the "
            f"size of a file is not noticed. Copies of earlier are used for {counted(len(old), 'file')} "
            f"({old[0].name}); after a change remove {self._target[old[0]].parent.parent}"
        )

    def _go_on(self) -> None:
        if self._stop.is_set():
            raise Stopped("Fetching was stopped.", "Run the command again.")

    def _entry(self, file: RemoteFile) -> Path:
        protocol, _, rest = self._where.partition("://")
        server = rest.partition("/")[0]
        about = [protocol, file.path, str(file.size), file.tag]
        if server not in file.path:  # as for FTP, where a path begins after the host
            about.append(server)
        mark = "" if file.tag else endpoint_mark(self._where)  # a tag tells another endpoint's file
        about += [mark] if mark else []
        return self._cache.folder / "files" / hashlib.sha256("\n".join(about).encode()).hexdigest()[:24]

    def _fetch(self, file: RemoteFile) -> None:
        target = self._target[file]
        source = self._source
        assert source is not None  # else nothing is missing
        with _cache_errors(self._cache.folder), locked(target.parent / ".lock", self._go_on):
            if _is_whole(target, file):  # another process has fetched it meanwhile
                return
            for left in target.parent.glob(f".*{TEMPORARY_SUFFIX}"):  # of a process that was killed
                left.unlink()
            temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
            try:
                self._fetch_to(source, file, temporary)
                with temporary.open("rb+") as written:
                    os.fsync(written.fileno())
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)

    def _fetch_to(self, source: RemoteFolder, file: RemoteFile, temporary: Path) -> None:
        for pause_s in _PAUSES_S:
            try:
                return source.fetch(file, temporary, self._stop)
            except BrokenOff:
                self._stop.wait(pause_s)
        source.fetch(file, temporary, self._stop)

    def _make_room(self, wanted: dict[str, int]) -> None:
        """Reserve `wanted`; remove what nobody needs, the least recently used first, as far as necessary."""
        folder, limit = self._cache.folder, self._cache.limit_bytes
        if limit is not None:
            needed = leased(folder / "leases")
            kept = sum({**needed, **wanted}.values())
            if kept > limit:
                others = sum(needed.values()) - sum(needed.get(name, 0) for name in wanted)
                used = f", and running commands use {_gb(others)}" if others else ""
                raise CacheError(
                    f"{text_of(self._data)} holds {_gb(sum(wanted.values()))} of session files{used}; "
                    f"the cache {folder} may hold {_gb(limit)}.",
                    f"--cache-size {-(-kept // 10**9)}, or --cache FOLDER on a larger disk",
                )
            idle = [
                (entry.stat().st_mtime, entry)
                for entry in (folder / "files").iterdir()
                if entry.is_dir() and entry.name not in needed and entry.name not in wanted
            ]
            room = limit - kept
            for _, entry in sorted(idle, reverse=True):  # the newest stay as long as they fit
                size = sum(file.stat().st_size for file in entry.iterdir())
                if size <= room:
                    room -= size
                else:
                    room = 0
                    shutil.rmtree(entry)
        own_lease(folder / "leases").add(wanted)


def fetch_all(data: Path, cache: Cache) -> Mapping[Path, str]:
    """Copies of all session files of DATA, fetched where they are missing; see `Copies`."""
    copies = Copies(data, cache)
    if copies.doubtful:
        warnings.warn(copies.doubtful, stacklevel=2)
    for _ in copies.fetch():
        pass
    return copies.paths


def _is_whole(path: Path, file: RemoteFile) -> bool:
    with contextlib.suppress(OSError):
        return path.stat().st_size == file.size
    return False


def _gb(size: float) -> str:
    return f"{size / 1e9:.3g} GB"


@contextmanager
def _cache_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CacheError(
            f"The cache {folder} cannot be written: {error.strerror or error}.",
            "Free some space there, or choose another folder: --cache FOLDER, or NUCLR_CACHE.",
        ) from error
