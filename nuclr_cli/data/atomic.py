"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from nuclr_cli.disk_errors import disk_reason
from nuclr_cli.errors import InputError

TEMPORARY_SUFFIX = ".nuclr-tmp"


class WriteError(InputError):
    """A file could not be written; what was there is as it was.

    Attributes:
        reason: What stopped it, in one line.
    """

    reason: str = ""

    @classmethod
    def of(cls, path: Path, error: BaseException) -> WriteError:
        """What to say of `path`, which is the name that the file was to have."""
        said = cls(
            f"{path} could not be written: {disk_reason(error)}.",
            "Free some space or choose another place to write to; nothing half-written was left.",
        )
        said.reason = disk_reason(error)
        return said


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it to disk and rename it over `path`.

    Whatever ends the block (an error, an interrupt), `path` is either its old self or the whole new file.
    Only a killed process leaves its temporary file behind: hidden, and never ending in a suffix that is read
    as data.

    Raises:
        WriteError: The folder cannot be made or written, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)
    except (OSError, RuntimeError) as error:  # h5py raises either when a disk is full
        raise WriteError.of(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # renamed by now, or its folder is no folder
            temporary.unlink()


def claim(file: Path, target: Path) -> None:
    """Rename a file to a name that no file has; of two processes that do so, one fails.

    Args:
        file: A whole file, on the same file system.
        target: Its name.

    Raises:
        FileExistsError: The name is taken; `file` is where it was.
    """
    try:
        os.link(file, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: take the name first, with an empty file
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        try:
            file.replace(target)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
    else:
        file.unlink()


def replace_all(staged: Sequence[tuple[Path, Path]], check: Callable[[], None] = lambda: None) -> None:
    """Rename every staged file over its old one; when that fails or is interrupted, the old ones come back.

    Args:
        staged: (file, new file on the same file system). A file that is not there yet is no error.
        check: Called when everything is ready for the first rename; to stop here, it raises.

    Raises:
        InputError: They could not be replaced. It names the files that could not be put back, if any.
    """
    backups: dict[Path, Path] = {}
    stuck: list[Path] = []
    try:
        try:
            for path, new in staged:
                _make_ready(path, new, backups)
        except OSError as error:
            raise _unchanged(error) from error
        check()
        begun: list[tuple[Path, Path]] = []
        try:
            for path, new in staged:
                begun.append((path, new))
                new.replace(path)
        except BaseException as error:  # an interrupt, too
            stuck += _put_back(begun, backups)
            if stuck:
                raise _half_done(error, stuck, backups) from error
            if isinstance(error, OSError):
                raise _unchanged(error) from error
            raise
    finally:
        for path, backup in backups.items():
            if path not in stuck:
                with contextlib.suppress(OSError):  # a hidden file left over harms nobody
                    backup.unlink(missing_ok=True)


def _make_ready(path: Path, new: Path, backups: dict[Path, Path]) -> None:
    """Force the new file to disk, and give the old one a second name under which it can come back."""
    _flush(new)
    if not path.exists():
        return
    shutil.copymode(path, new)
    backups[path] = beside(path, "old")
    try:
        os.link(path, backups[path])
    except OSError:  # a file system without hard links
        shutil.copy2(path, backups[path])


def _put_back(begun: Sequence[tuple[Path, Path]], backups: Mapping[Path, Path]) -> list[Path]:
    """Undo renames; returns the files for which that failed."""
    stuck = []
    for path, new in begun:
        if new.exists():  # not renamed
            continue
        try:
            if path in backups:
                backups[path].replace(path)
            else:
                path.unlink(missing_ok=True)
        except OSError:
            stuck.append(path)
    return stuck


def _unchanged(error: OSError) -> InputError:
    return InputError(
        f"The session files could not be replaced: {disk_reason(error)}.",
        "Nothing was changed; check their permissions, and the space beside them.",
    )


def _half_done(error: BaseException, stuck: Sequence[Path], backups: Mapping[Path, Path]) -> InputError:
    """The error that says which files are new, and where the old ones lie."""
    olds = [f"{backups[path]} is the old {path.name}" for path in stuck if path in backups]
    return InputError(
        f"The session files could not be replaced: {error or type(error).__name__}. These are the new ones "
        f"already, and could not be put back: {', '.join(map(str, stuck))}.",
        f"Rename the old ones by hand: {'; '.join(olds)}." if olds else "Remove them by hand.",
    )


def beside(path: Path, role: str) -> Path:
    """A hidden name in the same folder that is never read as data."""
    return path.with_name(f".{path.name}.{role}-{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")


def _flush(path: Path) -> None:
    """Force a file's bytes (or a folder's entries) to disk."""
    if (
        path.is_dir() and os.name == "nt"
    ):  # Windows cannot open folders, and renames there are durable on return
        return
    flags = os.O_RDONLY if os.name != "nt" else os.O_RDWR
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
