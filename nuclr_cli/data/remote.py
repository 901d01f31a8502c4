"""DATA that is a URL: what it is called, which session files it holds, and how one of them is fetched.

Every protocol that fsspec knows will do; those that need a package of their own say so. A `Path` that was
made from a URL (``s3:/bucket/folder``) stands for that URL, so that places of data have one type everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from nuclr_cli.errors import InputError, MissingPackageError

# Two letters at least: one is a drive of Windows.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", flags=re.DOTALL)
_TAGS = ("ETag", "etag", "md5Hash", "LastModified", "Last-Modified", "last_modified", "mtime")
_AT_ONCE = 16


def url_of(data: Path) -> str | None:
    """The URL that a path was made from; None where it is a path of this machine."""
    found = _URL.fullmatch(data.as_posix())
    if found is None:
        return None
    protocol, rest = found.groups()
    return f"{protocol}://{'/' if protocol == 'file' else ''}{rest}"


def text_of(data: Path) -> str:
    """DATA as a user writes it."""
    return url_of(data) or str(data)


def place_of(data: Path) -> Path:
    """DATA as it is named from any folder: absolute, or a URL."""
    return data if url_of(data) else data.resolve()


class BrokenOff(InputError):
    """A server did not answer, or not to the end: it may the next time."""


@dataclass(frozen=True)
class RemoteFile:
    """One file as its server describes it.

    Attributes:
        path: Where, as its file system names it.
        size: Bytes.
        tag: Changes with the contents: the server's ETag, else the time of the last change.
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
        InputError: No such protocol.
        MissingPackageError: The protocol needs a package that is not installed.
    """

    def __init__(self, data: Path) -> None:
        self.data = data
        self.where = url_of(data) or f"file://{data.resolve().as_posix()}"
        self._system, self._root = _file_system(self.where)

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

    def fetch(self, file: RemoteFile, target: Path) -> None:
        """Write one file to `target`, whole and as it was listed.

        Raises:
            OSError: `target` cannot be written.
            BrokenOff: The connection broke.
            InputError: The file is gone, or not the one that was listed.
        """
        with target.open("wb"):  # what is wrong on this side, apart from what is wrong on the other
            pass
        with self._told("fetch", file.path, target):
            self._system.get_file(file.path, str(target))
            now = self._described(file.path, self._system.info(file.path))
        size = target.stat().st_size
        if size != file.size and now == file:
            raise BrokenOff(
                f"{file.path} broke off: {size} of {file.size} bytes arrived.", "Run the command again."
            )
        if now != file or size != file.size:
            raise InputError(f"{file.path} was changed while it was read.", "Run the command again.")

    def _listed(self) -> list[RemoteFile]:
        if self._root.endswith(".h5") and not self._system.isdir(self._root):
            return [self._described(self._root, self._system.info(self._root))]
        root = self._root.rstrip("/")
        listed = self._found_below(root)
        wanted = {}
        for path, about in listed.items():
            parts = PurePosixPath(path[len(root) :]).parts
            if path.endswith(".h5") and not any(part.startswith(".") for part in parts):
                wanted[path] = about
        # A web server's list has no more than names.
        bare = [path for path, about in wanted.items() if about.get("size") is None]
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            wanted.update(zip(bare, threads.map(self._system.info, bare), strict=True))
        return [self._described(path, about) for path, about in wanted.items()]

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

    def _described(self, path: str, about: dict[str, Any]) -> RemoteFile:
        size = about.get("size")
        if size is None:
            raise InputError(
                f"The server does not say how large {path} is, so that a broken copy would not be noticed.",
                "Serve the folder with a server that does, or copy it to this machine.",
            )
        tag = next((f"{name}={about[name]}" for name in _TAGS if about.get(name)), "")
        return RemoteFile(path, int(size), tag)

    @contextmanager
    def _told(self, what: str, path: str = "", target: Path | None = None) -> Iterator[None]:
        """Turn what a server or its package raises into an error that names the place."""
        place = path or text_of(self.data)
        try:
            yield
        except InputError:
            raise
        except FileNotFoundError as error:
            raise InputError(f"{place} does not exist.", "Correct the place of the data.") from error
        except PermissionError as error:
            raise InputError(
                f"No permission to read {place}: {error}.",
                "Ask its owner, or log in (for S3: AWS_PROFILE, or AWS_ACCESS_KEY_ID and its secret).",
            ) from error
        except Exception as error:  # each protocol has types of its own
            if isinstance(error, OSError) and target is not None and error.filename == str(target):
                raise
            if isinstance(error, OSError) and error.errno in _OWN_DISK:
                raise
            reason = str(error) or type(error).__name__
            raise BrokenOff(
                f"Could not {what} {place}: {reason}.",
                "Check the address and the connection, then run the command again: what has arrived is kept.",
            ) from error


def _file_system(url: str) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs
    except ModuleNotFoundError:
        raise MissingPackageError("fsspec", f"Reading {url}") from None
    try:
        # A list that is remembered would hide what has changed since.
        system, root = url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        missing = getattr(error.__cause__, "name", None) or getattr(error, "name", None)
        raise MissingPackageError(missing or url.partition(":")[0], f"Reading {url}") from None
    except ValueError as error:
        raise InputError(
            f"{url}: {error}.", "Give a folder, or a URL such as s3://bucket/folder or https://host/folder"
        ) from None
    return system, root


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
