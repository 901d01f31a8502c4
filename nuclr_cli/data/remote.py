"""DATA that is a URL: what it is called, which session files it holds, and how one of them is fetched.

Every protocol that fsspec knows will do; those that need a package of their own say so. A `Path` that was
made from a URL (``s3:/bucket/folder``) stands for that URL, so that places of data have one type everywhere.
"""

from __future__ import annotations

import asyncio
import io
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from nuclr_cli.data.server_errors import is_away, is_gone, is_refusal, reason_of
from nuclr_cli.errors import InputError, MissingPackageError, NuclrError

# Two letters at least: one is a drive of Windows.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", flags=re.DOTALL)
# What a file system may say that changes with the contents; digests before times.
_TAGS = (
    *("ETag", "etag", "md5Hash", "Content-MD5", "content-md5", "content_md5", "Digest", "sha", "checksum"),
    *("LastModified", "Last-Modified", "last_modified", "mtime", "modify", "modified", "modificationTime"),
    *("last_write_time", "updated", "created"),
)
_AT_ONCE = 16
_LOOK_S = 0.2  # between two looks whether a file is still wanted
_WITH_AT_SIGN = frozenset({"github", "git", "gitlab", "file", "local"})
"""Protocols in whose URLs OWNER:NAME@BRANCH, or anything, may stand before an ``@``."""
_PASSWORD = re.compile(r"[^/@]*:(?!\d*(?:/|$))[^@]*@")  # NAME:PASSWORD@, but not HOST:PORT/folder@2


def url_of(data: Path) -> str | None:
    """The URL that a path was made from; None where it is a path of this machine.

    Raises:
        InputError: It holds a password or a token, which run records and messages would repeat.
    """
    found = _URL.fullmatch(data.as_posix())
    if found is None:
        return None
    protocol, rest = found.groups()
    _refuse_secrets(protocol.lower(), rest)
    return f"{protocol}://{'/' if protocol == 'file' else ''}{rest}"


def text_of(data: Path) -> str:
    """DATA as a user writes it."""
    return url_of(data) or str(data)


def place_of(data: Path) -> Path:
    """DATA as it is named from any folder: absolute, or a URL."""
    return data if url_of(data) else data.resolve()


def where_of(data: Path) -> str:
    """DATA as a URL, also where it is a folder of this machine."""
    return url_of(data) or f"file://{data.resolve().as_posix()}"


def _refuse_secrets(protocol: str, rest: str) -> None:
    named = "@" in rest.partition("/")[0] and protocol.startswith(("http", "webdav"))
    if protocol not in _WITH_AT_SIGN and (named or _PASSWORD.match(rest)):
        held = "a user name or a password (before the @)"
    elif "?" in rest and protocol not in ("file", "local"):
        held = "a query (from the ? on), which may be a token"
    else:
        return
    raise InputError(
        f"The {protocol}:// address of the data holds {held}: it would be kept in run records and shown.",
        f"Leave it out of the address, and tell it to fsspec: FSSPEC_{protocol.upper()}_... in the "
        "environment (such as FSSPEC_FTP_PASSWORD), or a file in ~/.config/fsspec",
    )


class BrokenOff(InputError):
    """A server did not give what it was asked for, or not to the end: it may the next time."""


class Away(BrokenOff):
    """A server did not answer, or only that it is out of order: nothing is known of what it holds."""


class Refused(InputError):
    """The server gives the data to others only."""


class Stopped(InputError):
    """Whoever wanted the file does not want it any more."""


@dataclass(frozen=True)
class RemoteFile:
    """One file as its server describes it.

    Attributes:
        path: Where, as its file system names it.
        size: Bytes.
        tag: Changes with the contents: the server's ETag, else the time of the last change; "" where the
            server says neither.
    """

    path: str
    size: int
    tag: str

    @property
    def name(self) -> str:
        """Last part of the path."""
        return PurePosixPath(self.path).name


class RemoteFolder:
    """The session files of a URL, or of a folder that is slow to read.

    Args:
        data: A folder or one ``*.h5`` file.

    Raises:
        InputError: No such protocol, a password in the URL, or a server that does not answer.
        MissingPackageError: The protocol needs a package that is not installed.
    """

    def __init__(self, data: Path) -> None:
        self.data = data
        self.where = where_of(data)
        with self._told("reach"):
            self._system, self._root = _file_system(self.where)

    def one_at_a_time(self) -> bool:
        """Whether the file system has one connection, which threads cannot share."""
        return self.where.startswith("ftp:")

    def files(self) -> list[RemoteFile]:
        """Every ``*.h5`` below the folder, sorted by path, but for hidden files and folders.

        Raises:
            InputError: Nothing there, or the server does not answer.
        """
        with self._told("list"):
            found = self._listed()
        if not found:
            raise InputError(
                f"{text_of(self.data)} holds no population file (*.h5).",
                "Copy there what `nuclr preprocess` made, or correct the place.",
            )
        return sorted(found, key=lambda file: file.path)

    def fetch(self, file: RemoteFile, target: Path, stop: threading.Event | None = None) -> None:
        """Write one file to `target`, whole and as it was listed; break off when `stop` is set.

        Raises:
            Stopped: `stop` was set.
            OSError: `target` cannot be written.
            BrokenOff: The connection broke.
            InputError: The file is gone, or not the one that was listed.
        """
        with target.open("wb"):  # what is wrong on this side, apart from what is wrong on the other
            pass
        with self._told("fetch", file.path, target):
            self._copy(file.path, target, stop or threading.Event())
            self._system.invalidate_cache()
            now = self._described(file.path, self._system.info(file.path), file.tag.partition("=")[0])
        size = target.stat().st_size
        if size != file.size and now == file:
            raise BrokenOff(
                f"{file.path} broke off: {size} of {file.size} bytes arrived.", "Run the command again."
            )
        if now != file or size != file.size:
            raise InputError(f"{file.path} was changed while it was read.", "Run the command again.")

    def _copy(self, path: str, target: Path, stop: threading.Event) -> None:
        from fsspec.asyn import AsyncFileSystem
        from fsspec.callbacks import Callback
        from fsspec.implementations.ftp import FTPFileSystem
        from fsspec.implementations.local import LocalFileSystem

        def look(*_: object, **__: object) -> None:
            if stop.is_set():
                raise Stopped(f"Fetching {path} was stopped.", "Run the command again.")

        look()
        if isinstance(self._system, LocalFileSystem | FTPFileSystem):  # which call nobody back
            with _Watched(io.FileIO(target, "wb"), look) as written:
                self._system.get_file(path, written)
        elif isinstance(self._system, AsyncFileSystem):  # calls back while something comes, not before
            wanted = self._system._get_file(path, str(target))
            running = asyncio.run_coroutine_threadsafe(wanted, self._system.loop)
            while not wait([running], _LOOK_S).done:
                if stop.is_set():
                    running.cancel()
                look()
            running.result()
        else:
            self._system.get_file(path, str(target), callback=Callback(hooks={"stop": look}))

    def _listed(self) -> list[RemoteFile]:
        self._system.invalidate_cache()  # a list that is remembered would hide what has changed since
        if self._root.endswith(".h5") and not self._system.isdir(self._root):
            return [self._described(self._root, self._system.info(self._root))]
        root = self._root.rstrip("/")
        listed = self._found_below(root)
        wanted = {}
        for path, about in listed.items():
            parts = PurePosixPath(path[len(root) :]).parts
            if path.endswith(".h5") and not any(part.startswith(".") for part in parts):
                wanted[path] = about
        # A web server's list has no more than names, and that of a folder describes a link, not its target.
        bare = [path for path, about in wanted.items() if about.get("size") is None or _is_link(about)]
        with ThreadPoolExecutor(1 if self.one_at_a_time() else _AT_ONCE) as threads:
            wanted.update(zip(bare, threads.map(self._asked, [wanted[one] for one in bare]), strict=True))
        return [self._described(path, about) for path, about in wanted.items() if about]

    def _asked(self, about: dict[str, Any]) -> dict[str, Any]:
        """What the system says of one file; nothing of a link that leads nowhere."""
        try:
            found: dict[str, Any] = self._system.info(about["name"])
        except FileNotFoundError:
            if not _is_link(about):
                raise
            return {}
        return found

    def _found_below(self, root: str) -> dict[str, dict[str, Any]]:
        """What the system says of every file below a folder."""
        if _finds_by_itself(self._system):  # as buckets do, a thousand names at a time
            found: dict[str, dict[str, Any]] = self._system.find(root, detail=True)
            return found
        # fsspec's own walk passes over folders that cannot be listed, and follows a web page's links upwards.
        found, waiting, seen = {}, [root], {root}
        while waiting:
            for about in self._system.ls(waiting.pop(), detail=True):
                path = str(about["name"])
                if not path.startswith(root + "/") or path.rstrip("/") in seen:
                    continue
                seen.add(path.rstrip("/"))
                if about["type"] == "directory":
                    waiting.append(path.rstrip("/"))
                else:
                    found[path] = about
        return found

    def _described(self, path: str, about: dict[str, Any], tagged: str | None = None) -> RemoteFile:
        """`tagged`: what the tag is to be made of, if the system says it; "" for no tag."""
        size = about.get("size")
        if size is None:
            raise InputError(
                f"The server does not say how large {path} is, so that a broken copy would not be noticed.",
                "Serve the folder with a server that does, or copy it to this machine.",
            )
        names = _TAGS if tagged is None else (tagged,)
        tag = next((f"{name}={_written(about[name])}" for name in names if about.get(name)), "")
        return RemoteFile(path, int(size), tag)

    @contextmanager
    def _told(self, what: str, path: str = "", target: Path | None = None) -> Iterator[None]:
        """Turn what a server or its package raises into an error that names the place."""
        place = path or text_of(self.data)
        try:
            yield
        except NuclrError:
            raise
        except Exception as raised:  # each protocol has types of its own
            error = reason_of(raised)
            if is_gone(error):
                raise InputError(f"{place} does not exist.", "Correct the place of the data.") from error
            if is_refusal(error):
                raise Refused(
                    f"No permission to read {place}: {str(error).rstrip('.')}.",
                    "Ask its owner, or log in (for S3: AWS_PROFILE, or AWS_ACCESS_KEY_ID and its secret; for "
                    "others a file in ~/.config/fsspec).",
                ) from error
            if isinstance(error, OSError) and target is not None and error.filename == str(target):
                raise
            if isinstance(error, OSError) and error.errno in _OWN_DISK:
                raise
            reason = (str(error) or type(error).__name__).rstrip(".")
            raise (Away if is_away(error) else BrokenOff)(
                f"Could not {what} {place}: {reason}.",
                "Check the address and the connection, then run the command again: what has arrived is kept.",
            ) from error


def _file_system(url: str) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs
    except ModuleNotFoundError:
        raise MissingPackageError("fsspec", f"Reading {url}") from None
    try:
        system, root = url_to_fs(url, **_web_options(url.partition(":")[0]))
    except ImportError as error:
        missing = getattr(error.__cause__, "name", None) or getattr(error, "name", None)
        raise MissingPackageError(missing or url.partition(":")[0], f"Reading {url}") from None
    except ValueError as error:
        raise InputError(
            f"{url}: {error}.", "Give a folder, or a URL such as s3://bucket/folder or https://host/folder"
        ) from None
    return system, root


def _web_options(protocol: str) -> dict[str, Any]:
    """aiohttp gives a file 300 s unless it is told otherwise; any time will do as long as something comes."""
    if protocol not in ("http", "https"):
        return {}
    try:
        import aiohttp
    except ModuleNotFoundError:  # fsspec says so in a moment
        return {}
    from fsspec.config import conf

    configured = conf.get(protocol, {}).get("client_kwargs") or {}
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
    return {"client_kwargs": {"timeout": timeout, **configured}}


def _written(value: Any) -> str:
    """A list may say seconds where a description says a date."""
    return str(value.timestamp() if isinstance(value, datetime) else value)


def _is_link(about: dict[str, Any]) -> bool:
    return bool(about.get("islink")) or about.get("type") == "link"


class _Watched(io.BufferedWriter):
    """A file that asks before each piece whether it is still wanted."""

    def __init__(self, raw: io.FileIO, look: Callable[[], None]) -> None:
        super().__init__(raw)
        self._look = look

    def write(self, piece: Any, /) -> int:
        self._look()
        return super().write(piece)


def _finds_by_itself(system: Any) -> bool:
    """Whether a file system has a way of its own to list all that is below a folder."""
    from fsspec import AbstractFileSystem
    from fsspec.asyn import AsyncFileSystem

    kind = type(system)
    if isinstance(system, AsyncFileSystem):
        return kind._find is not AsyncFileSystem._find
    return kind.find is not AbstractFileSystem.find


def _own_disk() -> frozenset[int]:
    import errno

    names = ("ENOSPC", "EDQUOT", "EFBIG", "EROFS")
    return frozenset(getattr(errno, name) for name in names if hasattr(errno, name))


_OWN_DISK = _own_disk()
"""Errors that are of this machine's disk, whoever names them."""
