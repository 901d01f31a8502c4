"""Follows the links of HDF5 files one step at a time, so that every file that is read is known and checked.

HDF5 would follow them by itself, but it tells nobody which files it opened on the way, and looks for some of
them in the folder that the program happens to run in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from nuclr_cli.api import ReaderError, hdf5_damage
from nuclr_nwb.tree import COPY_AGAIN, DAMAGE, join

_MOST_LINKS = 40  # on the way to one object


@dataclass(frozen=True)
class Found:
    """Where a path leads.

    Attributes:
        item: Group or dataset, None = nothing is there.
        files: Files that links led to, in the order of the way; the last one holds `item`.
        broken: Target of the link that leads nowhere, and why it does; None when no link is to blame.
    """

    item: Any = None
    files: tuple[Path, ...] = ()
    broken: str | None = None


class LinkedFiles:
    """A file and those that its links lead to, each opened once and closed together.

    Args:
        path: The file that the user named.

    Raises:
        ReaderError: Its texts are damaged, so that HDF5 would hang.
        OSError: HDF5 cannot open it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files: dict[Path, Any] = {}
        self._found: dict[str, Found] = {}
        self.main = self.open(path)

    def open(self, path: Path) -> Any:
        """The open file at `path`.

        Raises:
            ReaderError: Its texts are damaged, so that HDF5 would hang.
            OSError: HDF5 cannot open it.
        """
        if path not in self._files:
            file = h5py.File(path, "r", locking="best-effort")
            at = hdf5_damage.damaged_texts(path, file)
            if at is not None:
                file.close()
                raise ReaderError(
                    f"{path} is damaged: the texts at byte {at} do not follow one another.", COPY_AGAIN
                )
            self._files[path] = file
        return self._files[path]

    def close(self) -> None:
        """Close every file."""
        self._found.clear()
        for file in self._files.values():
            file.close()

    def find(self, path: str) -> Found:
        """Follow a path from the root of the main file."""
        if path not in self._found:
            self._found[path] = self.find_in(self.path, path)
        return self._found[path]

    def find_in(self, holder: Path, path: str) -> Found:
        """Follow a path from the root of an opened file."""
        at, todo = "/", deque(_parts(path))
        files: list[Path] = []
        # Links on the way: parts that were left when each was met, and where it points.
        links: list[tuple[int, str]] = []

        def nowhere() -> Found:
            left = len(todo)
            broken = next((target for rest, target in reversed(links) if left >= rest), None)
            return Found(None, tuple(files), None if broken is None else f"{broken}, which is not there")

        while todo:
            part = todo.popleft()
            try:
                group = self._files[holder][at]
                link = group.get(part, getlink=True) if isinstance(group, h5py.Group) else None
            except DAMAGE:
                return nowhere()
            if link is None:
                return nowhere()
            if isinstance(link, h5py.HardLink):
                at = join(at, part)
                continue
            target = str(link.path)
            if isinstance(link, h5py.ExternalLink):
                target = f"{link.filename}:{link.path}"
            named_by = "" if holder == self.path else f" (named by {holder})"
            links.append((len(todo), f"{target}{named_by}"))
            if len(links) > _MOST_LINKS:
                return Found(None, tuple(files), f"{target}{named_by}, which leads in a circle")
            if isinstance(link, h5py.ExternalLink):
                other = beside(holder, str(link.filename))
                if other is None:
                    return nowhere()
                files.append(other)
                try:
                    self.open(other)
                except (ReaderError, *DAMAGE) as error:
                    why = error.what if isinstance(error, ReaderError) else f"HDF5 cannot open it: {error}"
                    return Found(None, tuple(files), f"{target}{named_by}, which cannot be read ({why})")
                holder, at = other, "/"
            elif target.startswith("/"):
                at = "/"
            todo.extendleft(reversed(_parts(str(link.path))))
        try:
            return Found(self._files[holder][at], tuple(files))
        except DAMAGE:
            return nowhere()


def may_lead_to(group: Any, name: str, wanted: str) -> bool:
    """Whether an object called `wanted` may lie at or below what `group` holds under `name`.

    Only names are looked at: a raw recording in another file is large, and nothing of it is searched or read.

    Args:
        group: An open group.
        name: Of a link in it; one to another file is looked into, any other may lead anywhere.
        wanted: The name that is looked for.
    """
    link = group.get(name, getlink=True)
    if not isinstance(link, h5py.ExternalLink):
        return True
    other = beside(Path(group.file.filename), str(link.filename))
    if other is None:
        return True  # following it says what is missing
    try:
        with h5py.File(other, "r", locking="best-effort") as file:
            at = file["/"]
            for part in _parts(str(link.path)):
                if not isinstance(at.get(part, getlink=True), h5py.HardLink):
                    return True
                # Asked before it is opened: what opens as a dataset may read texts, which nobody checked.
                if h5py.h5o.get_info(at.id, part.encode()).type != h5py.h5o.TYPE_GROUP:
                    return False
                at = at[part]
            # Stops at the first that is called so, or that leads on to somewhere else.
            return at.id.links.visit(_is_called(wanted), info=True) is not None
    except DAMAGE:
        return True


def _is_called(wanted: str) -> Callable[[bytes, Any], bool | None]:
    def visit(name: bytes, info: Any) -> bool | None:
        is_found = name.rpartition(b"/")[2] == wanted.encode() or info.type != h5py.h5l.TYPE_HARD
        return True if is_found else None

    return visit


def relative_files(file: Any) -> list[tuple[str, str]]:
    """(path inside, file name) of everything that an open HDF5 file finds by a name relative to its folder.

    Links to other files, raw files, and datasets made of datasets in other files.
    """
    found: list[tuple[str, str]] = []

    def link(name: bytes, info: Any) -> None:
        if info.type == h5py.h5l.TYPE_EXTERNAL:
            target = file.get(name, getlink=True)
            found.append((name.decode("utf-8", "replace"), str(target.filename)))

    def item(name: str, held: Any) -> None:
        if not isinstance(held, h5py.Dataset):
            return
        if held.external:
            found.extend((name, str(raw[0])) for raw in held.external)
        if held.is_virtual:
            found.extend((name, part.file_name) for part in held.virtual_sources() if part.file_name != ".")

    file.id.links.visit(link, info=True)
    file.visititems(item)
    return [(name, target) for name, target in found if not Path(target).is_absolute()]


def beside(holder: Path, name: str) -> Path | None:
    """The file called `name` by another one: relative to the folder of that one. None = it is not there.

    A file that was moved together with the one that names it is found by its last name, as HDF5 does it.
    """
    for folder in dict.fromkeys((holder.parent, holder.resolve().parent)):
        for path in (folder / name, folder / Path(name).name):
            if (path == folder / name or Path(name).is_absolute()) and path.is_file():
                return path
    return None


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]
