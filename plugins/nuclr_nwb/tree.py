"""One view of an NWB file for both containers: paths, attributes, links and arrays.

NWB files are read here through h5py and zarr and not through pynwb, for three reasons. One broken link
anywhere, such as raw data kept in another file, makes pynwb refuse the whole file; so do extensions that
are not installed. And object columns of a Zarr store are pickles, which older numcodecs runs on access.
"""

from __future__ import annotations

import posixpath
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import ReaderError, safe_files

# What damaged or hostile bytes make h5py, zarr and the codecs raise.
DAMAGE = (*safe_files.DAMAGE, RuntimeError)

COPY_AGAIN = "Copy it again, or export it again with the program that made it."
BLOCK_BYTES = 16 << 20
_DEEPEST = 8


@dataclass(frozen=True)
class Array(ABC):
    """An array on disk, nothing of it read yet.

    Attributes:
        place: File and path inside, for messages.
        shape: Of the array; () = a single value.
        dtype: Of numbers and booleans; None for text and for values that no column can hold.
        is_text: Text of fixed or variable length.
        rows_per_chunk: Rows that are decoded together.
    """

    place: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any] | None
    is_text: bool
    rows_per_chunk: int

    @abstractmethod
    def rows(self, begin: int, end: int) -> NDArray[Any]:
        """Rows `begin` to `end`; text as (n,) str.

        Raises:
            ReaderError: The bytes cannot be decoded.
        """

    @abstractmethod
    def scalar(self) -> Any:
        """The value of a single-value array (text as str), or of the first row of a longer one."""

    def all(self) -> NDArray[Any]:
        """Every row."""
        return self.rows(0, self.shape[0])

    def blocks(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """First row and values of consecutive blocks of about `BLOCK_BYTES`, in whole chunks."""
        itemsize = 16 if self.dtype is None else self.dtype.itemsize
        row_bytes = max(int(np.prod(self.shape[1:], dtype=np.int64)) * itemsize, 1)
        chunk = max(self.rows_per_chunk, 1)
        step = max(BLOCK_BYTES // row_bytes // chunk, 1) * chunk
        for begin in range(0, self.shape[0], step):
            yield begin, self.rows(begin, min(begin + step, self.shape[0]))

    def numbers(self, what: str, kinds: str = "iuf") -> NDArray[Any]:
        """All values of a one-dimensional numeric array.

        Raises:
            ReaderError: Another shape or type.
        """
        if len(self.shape) != 1 or self.dtype is None or self.dtype.kind not in kinds:
            raise ReaderError(
                f"{self.place}: {what} have type {self.dtype or 'text or objects'} and shape {self.shape}, "
                f"expected {'integers' if 'f' not in kinds else 'numbers'}, one-dimensional.",
                COPY_AGAIN,
            )
        return self.all()


class Tree(ABC):
    """An open NWB file. Paths are absolute inside it (``/units/id``).

    Attributes:
        place: The file or folder.
        versions: Package -> version, of what read and wrote it.
    """

    place: Path
    versions: dict[str, str]

    @abstractmethod
    def names(self, path: str) -> list[str]:
        """Sorted names in a group, links that lead nowhere included; [] when there is no such group."""

    @abstractmethod
    def is_group(self, path: str) -> bool:
        """Whether a group can be reached at `path`."""

    @abstractmethod
    def has_array(self, path: str) -> bool:
        """Whether an array can be reached at `path`."""

    @abstractmethod
    def attributes(self, path: str) -> Mapping[str, Any]:
        """Attributes as plain values: text as str, references as the path they lead to."""

    @abstractmethod
    def array(self, path: str) -> Array:
        """The array at `path`.

        Raises:
            ReaderError: Missing (the target of a broken link is named), damaged or incomplete.
        """

    @abstractmethod
    def references(self, path: str) -> list[str] | None:
        """Paths that an array of object references leads to ('' = nowhere); None when it holds none."""

    @abstractmethod
    def resolve(self, path: str) -> str:
        """The path without links: two paths of the same object give the same text."""

    @abstractmethod
    def broken_link(self, path: str) -> str | None:
        """Where a link that leads nowhere points, and why it does; None when `path` is none.

        ``other.nwb:/units, which is not there``
        """

    def is_elsewhere(self, path: str) -> bool:
        """Whether `path` lies in another file, behind a link."""
        return False

    def may_hold(self, path: str, name: str) -> bool:
        """Whether something called `name` may lie at or below `path`; told without reading linked files."""
        return True

    def files_of(self, path: str) -> tuple[Path, ...]:
        """Files beside the opened one that links on the way to `path` lead to, or that hold its values."""
        return ()

    @abstractmethod
    def close(self) -> None:
        """Close the file."""

    def text(self, path: str) -> str:
        """A single text, or the rows of a short list of them joined; '' when it is not there."""
        if not self.has_array(path):
            return ""
        try:
            array = self.array(path)
            if array.shape and array.shape[0] > 1:
                return ", ".join(map(str, array.rows(0, min(array.shape[0], 100)).tolist()))
            return str(array.scalar()).strip()
        except ReaderError:
            return ""

    def __enter__(self) -> Tree:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def join(*parts: str) -> str:
    """An absolute path inside the file; ``..`` never leads out of it."""
    return posixpath.normpath("/" + "/".join(parts)).replace("//", "/")


def walk_groups(tree: Tree, top: str, holding: str | None = None) -> Iterator[str]:
    """Every group below `top` (itself first), each object once, also when links lead in circles.

    Args:
        tree: The file.
        top: Where to begin.
        holding: Links to files in which nothing has this name are not followed.
    """
    seen: set[str] = set()

    def visit(path: str, depth: int) -> Iterator[str]:
        resolved = tree.resolve(path)
        if depth > _DEEPEST or resolved in seen:
            return
        seen.add(resolved)
        yield path
        if "colnames" in tree.attributes(path):
            return  # a table: nothing but columns below
        for name in tree.names(path):
            if holding is not None and not tree.may_hold(join(path, name), holding):
                continue
            if tree.is_group(join(path, name)):
                yield from visit(join(path, name), depth + 1)

    if tree.is_group(top):
        yield from visit(top, 0)


def broken_links_below(tree: Tree, top: str) -> list[tuple[str, str]]:
    """(path, target) of links directly in a group that lead nowhere."""
    found = ((join(top, name), tree.broken_link(join(top, name))) for name in tree.names(top))
    return [(path, target) for path, target in found if target is not None]
