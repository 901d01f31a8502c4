"""The folder that `preprocess` writes to: what is there, and how new files get their names."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nuclr_cli.data.store import Session, SessionKey, SourceRecord
from nuclr_cli.errors import InputError
from nuclr_cli.workflows.info import damage
from nuclr_cli.workflows.preprocess_source import Staged

_LONGEST_STEM = 120


@dataclass(frozen=True)
class KnownFile:
    """A population file that was there before; `source` is None when nuclr did not write it."""

    path: Path
    key: SessionKey
    source: SourceRecord | None
    siblings: tuple[str, ...] = ()


class PopulationFolder:
    """Population files of one folder. Make it with `open`.

    Attributes:
        notes: What happened to files that were there before.
        kept: Sources whose populations were there already, made from an equal copy of the source.
    """

    def __init__(
        self, path: Path, known: Sequence[KnownFile], unreadable: frozenset[Path], overwrite: bool
    ) -> None:
        self.path = path
        self.notes: list[str] = []
        self.kept: set[Path] = set()
        self._known = list(known)
        self._unreadable = unreadable
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
        unreadable = set()
        for file in sorted(path.rglob("*.h5")):
            if any(part.startswith(".") for part in file.relative_to(path).parts):
                continue
            try:
                session = Session(file)
                known.append(KnownFile(file, session.key, session.meta.source, session.meta.siblings))
            except InputError as error:
                unreadable.add(file)
                warn(error.what)
        folder = cls(path, known, frozenset(unreadable), overwrite)
        was_there = path.exists()
        try:
            yield folder
        finally:
            shutil.rmtree(folder._staging, ignore_errors=True)
            if not was_there and path.is_dir() and not any(path.iterdir()):
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
            InputError: A population of that key is there already, from another source.
        """
        before = self.made_from(source)
        targets: list[Path] = []
        renames: list[tuple[Path, Path]] = []
        for item in staged:
            present = next((file for file in self._known if file.key == item.key), None)
            if present is not None and present not in before:
                if not _is_copy(present.source, item.source):
                    raise _already_there(item.key, present)
                if not self._overwrite:
                    require_whole(present.path)
                    self.kept.add(source)
                    self.notes.append(
                        f"{source} is an equal copy of what {present.path} was made from; kept as it is."
                    )
                    targets.append(present.path)
                    continue
                before.append(present)
            targets.append(present.path if present is not None else self._free_name(item.key, targets))
            renames.append((item.file, targets[-1]))
        for file, target in renames:
            file.replace(target)
        self._forget(source, before, targets)
        self._known += [
            KnownFile(target, item.key, item.source) for item, target in zip(staged, targets, strict=True)
        ]
        self._files[source] = tuple(targets)

    def _forget(self, source: Path, before: Sequence[KnownFile], targets: Sequence[Path]) -> None:
        """Drop what an earlier run made from the same source, under keys that it no longer has."""
        for file in before:
            self._known.remove(file)
            if file.path in targets:
                self.notes.append(f"{file.path} was replaced.")
            else:
                file.path.unlink(missing_ok=True)
                self.notes.append(f"{file.path} was removed: {source} is no longer {file.key}.")

    def _free_name(self, key: SessionKey, taken: Sequence[Path]) -> Path:
        """A name for a new file. Keys that would share one, or that no file system takes, get a hash."""
        parts = (key.subject, key.session, key.population)
        plain = "_".join(parts)
        stem = re.sub(r"[^A-Za-z0-9._+-]+", "-", plain).lstrip(".-")[:_LONGEST_STEM]
        path = self.path / f"{stem}.h5"
        damaged = path in self._unreadable
        if stem != plain or (path.exists() and not damaged) or path in taken:
            digest = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:8]
            path = self.path / f"{stem}-{digest}.h5"
            damaged = path in self._unreadable
        if damaged and not self._overwrite:
            raise InputError(f"{path} is in the way, and it is damaged.", "Replace it with --overwrite.")
        return path


def require_whole(path: Path) -> None:
    """Raises:
    InputError: Datasets of a population file no longer match their checksum.
    """
    damaged = damage(Session(path))
    if damaged:
        raise InputError(
            f"{path} is damaged: {', '.join(damaged[:5])} no longer match their checksum.",
            "Make it anew with --overwrite.",
        )


def _is_copy(stored: SourceRecord | None, now: SourceRecord) -> bool:
    """Same bytes in the same files, read with the same options, from another place."""
    if stored is None:
        return False
    bytes_of = [{(file.name, file.sha256) for file in record.files} for record in (stored, now)]
    return bytes_of[0] == bytes_of[1] and stored.plain()["options"] == now.plain()["options"]


def _already_there(key: SessionKey, present: KnownFile) -> InputError:
    origin = f", made from {present.source.path}" if present.source is not None else ""
    return InputError(
        f"Subject {key.subject!r}, session {key.session!r}, population {key.population!r} is already in "
        f"{present.path}{origin}.",
        "Tell the two apart with --subject or --session, or remove that file.",
    )
