"""The folder that `preprocess` writes to: what is there, and how new files get their names."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nuclr_cli.data.atomic import beside, claim, replace_all
from nuclr_cli.data.sessions import population_files
from nuclr_cli.data.store import Session, SessionKey
from nuclr_cli.errors import InputError
from nuclr_cli.workflows.kept_labels import KeptLabels, kept_labels
from nuclr_cli.workflows.known_files import (
    KnownFile,
    already_there,
    is_copy,
    kept_note,
    require_whole,
    stamp_of,
)
from nuclr_cli.workflows.preprocess_source import Staged

__all__ = ["KnownFile", "PopulationFolder", "require_whole"]

_LONGEST_STEM = 120
_MOST_ATTEMPTS = 20


class PopulationFolder:
    """Population files of one folder. Make it with `open`.

    Several processes may write into one folder. New files get their names in a way that fails when the name
    was taken meanwhile, and the folder is looked at again before each source: a population is never there
    twice.

    Attributes:
        notes: What happened to files that were there before.
        labels: What `nuclr label` added to the files that were there, when these may be made anew: it is read
            together with the history that tells, before a file is replaced, whether more came since.
        kept: Sources whose populations were there already, made from an equal copy of the source.
    """

    def __init__(
        self,
        path: Path,
        known: Sequence[KnownFile],
        labels: tuple[KeptLabels, ...],
        unreadable: frozenset[Path],
        overwrite: bool,
    ) -> None:
        self.path = path
        self.labels = labels
        self.notes: list[str] = []
        self.kept: set[Path] = set()
        self._known = list(known)
        self._history = {file.path: file.history for file in known}
        self._unreadable = set(unreadable)
        self._names: set[str] = set()
        self._overwrite = overwrite
        self._files: dict[Path, tuple[Path, ...]] = {}
        self._staging = path / f".preprocess-{os.getpid()}-{secrets.token_hex(4)}"

    @classmethod
    @contextmanager
    def open(cls, path: Path, *, overwrite: bool, warn: Callable[[str], None]) -> Iterator[PopulationFolder]:
        """Look at what is there. On leaving, whatever was not committed is gone.

        Raises:
            InputError: `path` is no folder, or cannot be written.
        """
        if path.exists() and not path.is_dir():
            raise InputError(f"{path} is a file, expected a folder.", "Choose another one with -o.")
        known = []
        labels: list[KeptLabels] = []
        unreadable = set()
        for file in population_files(path):
            session = Session(file)
            try:
                known.append(KnownFile.of(session))
            except InputError as error:
                unreadable.add(file)
                warn(error.what)
            else:
                labels += kept_labels(session) if overwrite else ()
        folder = cls(path, known, tuple(labels), frozenset(unreadable), overwrite)
        was_there = path.exists()
        try:
            yield folder
        finally:
            shutil.rmtree(folder._staging, ignore_errors=True)
            if not was_there and path.is_dir() and not any(path.iterdir()):
                with contextlib.suppress(OSError):  # another process writes into it by now
                    path.rmdir()

    def made_from(self, source: Path) -> list[KnownFile]:
        """Files that were made from `source` in an earlier run."""
        return [file for file in self._known if file.source is not None and file.source.path == str(source)]

    def files_of(self, source: Path) -> tuple[Path, ...]:
        """Files that hold the populations of `source` now."""
        return self._files.get(source, ())

    def staging(self, number: int) -> Path:
        """A new hidden folder beside the final files, on the same file system."""
        folder = self._staging / str(number)
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise InputError(
                f"{self.path} cannot be written: {error.strerror}.", "Choose another folder: -o"
            ) from None
        return folder

    def commit(self, source: Path, staged: Sequence[Staged]) -> None:
        """Give the staged files of one source their names; all of them or, on an error, none.

        Raises:
            InputError: A population of that key is there already, from another source; or a file that would
                be replaced got labels meanwhile.
        """
        tried: list[Path] = []
        for _ in range(_MOST_ATTEMPTS):
            self._look_again(tried)
            before = self.made_from(source) if self._overwrite else []
            places, notes = self._places(source, staged, before)
            try:
                _put([place for place in places if place.file is not None])
            except (FileExistsError, _Changed):  # another process took a name, or replaced a file, since
                tried = [place.target for place in places]
                continue
            break
        else:
            raise InputError(
                f"Other processes keep writing into {self.path}.", "Run the command again when they are done."
            )
        self.notes += notes
        targets = [place.target for place in places]
        if any(place.file is None for place in places):
            self.kept.add(source)
        before += [place.present for place in places if place.present is not None and place.file is not None]
        self._forget(source, list(dict.fromkeys(file.path for file in before)), targets)
        self._remember(targets)
        self._files[source] = tuple(targets)

    def _look_again(self, tried: Sequence[Path]) -> None:
        """Take notice of what other processes wrote, or removed, since the last look.

        Names are chosen by what was seen here, together with the keys: a file that came later takes a name
        that was free, which is noticed.

        Args:
            tried: Names that were not all free a moment ago. One that is taken and not listed differs from
                the listed one in case only, on a file system to which that is the same.
        """
        stamps: dict[Path, tuple[int, ...]] = {}
        self._names = {entry.name for entry in os.scandir(self.path)}  # new files come to lie nowhere else
        for name in list(self._names):
            if name.endswith(".h5") and not name.startswith("."):
                with contextlib.suppress(OSError):  # gone again
                    stamps[self.path / name] = stamp_of((self.path / name).stat())
        here = {file.path: file for file in self._known}
        new = [path for path, stamp in stamps.items() if path not in here or here[path].stamp != stamp]
        gone = {path for path in here if path.parent == self.path and path not in stamps}
        self._known = [file for file in self._known if file.path not in gone]
        self._remember(new, ours=False)
        self._names |= {path.name for path in tried if os.path.lexists(path)}

    def _remember(self, paths: Sequence[Path], *, ours: bool = True) -> None:
        """Read what is in these files now. Labels that another process gave them stay unknown to this one."""
        self._known = [file for file in self._known if file.path not in paths]
        for path in dict.fromkeys(paths):
            try:
                file = KnownFile.of(Session(path))
            except InputError:
                self._unreadable.add(path)
                continue
            self._unreadable.discard(path)
            self._known.append(file)
            if ours:
                self._history[path] = file.history

    def _places(
        self, source: Path, staged: Sequence[Staged], before: Sequence[KnownFile]
    ) -> tuple[list[_Place], list[str]]:
        """Where each staged file goes, and notes."""
        places: list[_Place] = []
        notes: list[str] = []
        for item in staged:
            present = next((file for file in self._known if file.key == item.key), None)
            if present is None:
                target, free = self._free_name(item.key, [place.target for place in places])
                places.append(_Place(item.file, target, None, free))
                continue
            if present not in before and not is_copy(present.source, item.source):
                raise already_there(item.key, present, source)
            if self._overwrite:
                self._require_no_new_labels(present)
                places.append(_Place(item.file, present.path, present, False))
                continue
            require_whole(present.path)
            notes.append(kept_note(source, present))
            places.append(_Place(None, present.path, present, False))
        for file in before:
            self._require_no_new_labels(file)
        return places, notes

    def _require_no_new_labels(self, file: KnownFile) -> None:
        if file.history != self._history.get(file.path, ()):
            raise InputError(
                f"{file.path} got other labels from another process meanwhile; it was left as it is.",
                "Run the command again; it keeps them.",
            )

    def _forget(self, source: Path, before: Sequence[Path], targets: Sequence[Path]) -> None:
        """Drop what an earlier run made from the same source, under keys that it no longer has."""
        for path in before:
            file = next(file for file in self._known if file.path == path)
            self._known.remove(file)
            if path in targets:
                self.notes.append(f"{path} was replaced.")
            else:
                path.unlink(missing_ok=True)
                self.notes.append(f"{path} was removed: {source} is no longer {file.key}.")

    def _free_name(self, key: SessionKey, taken: Sequence[Path]) -> tuple[Path, bool]:
        """A name for a new file, and whether none has it: else a damaged one does, and is replaced.

        Keys that would share a name, or whose name no file system takes, get a hash.
        """
        parts = (key.subject, key.session, key.population)
        plain = "_".join(parts)
        stem = re.sub(r"[^A-Za-z0-9._+-]+", "-", plain).lstrip(".-")[:_LONGEST_STEM]
        path = self.path / f"{stem}.h5"
        damaged = path in self._unreadable
        if stem != plain or (path.name in self._names and not damaged) or path in taken:
            digest = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:8]
            path = self.path / f"{stem}-{digest}.h5"
            damaged = path in self._unreadable
        if damaged and not self._overwrite:
            raise InputError(f"{path} is in the way, and it is damaged.", "Replace it with --overwrite.")
        return path, not damaged


@dataclass(frozen=True)
class _Place:
    """Where a staged file goes.

    Attributes:
        file: The staged file, None = what is there is kept.
        target: Its name.
        present: The file that is there.
        free: No file has that name yet, and none may get it meanwhile.
    """

    file: Path | None
    target: Path
    present: KnownFile | None
    free: bool


class _Changed(Exception):
    """A file that is to be replaced is no longer the one that was looked at."""


def _put(places: Sequence[_Place]) -> None:
    """Give files their names, all of them or none.

    Raises:
        FileExistsError: Another process took a name.
        _Changed: Another process replaced one of the files.
        InputError: Files could not be replaced.
    """
    new: list[tuple[Path, Path]] = []
    copies: list[Path] = []
    staged: list[tuple[Path, Path]] = []
    try:
        for place in places:
            if place.file is None or place.free:
                continue
            if place.target.is_symlink():  # the link stays; its file changes
                target = place.target.resolve()
                copies.append(beside(target, "new"))  # it may lie on another file system
                shutil.copyfile(place.file, copies[-1])
                staged.append((target, copies[-1]))
            else:
                staged.append((place.target, place.file))
        for place in places:
            if place.free and place.file is not None:
                claim(place.file, place.target)
                new.append((place.target, place.file))
        replace_all(staged, lambda: _require_same(places))
    except BaseException:
        for path, file in new:
            path.replace(file)  # it is wanted once more when other names are tried
        raise
    finally:
        for path in copies:
            path.unlink(missing_ok=True)


def _require_same(places: Sequence[_Place]) -> None:
    """Raises:
    _Changed: One of the files is another than when it was looked at, or gone.
    """
    for place in places:
        if place.present is not None and place.file is not None:
            try:
                same = stamp_of(place.target.stat()) == place.present.stamp
            except OSError:
                same = False
            if not same:
                raise _Changed
