"""Files and folders that appear whole or not at all: for exporters, as ``nuclr_cli.api.whole_files``."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from nuclr_cli.disk_errors import disk_reason
from nuclr_cli.errors import InputError

# No reader takes a file that ends so for data.
_SUFFIX = ".nuclr-tmp"


@contextlib.contextmanager
def replacing(*targets: Path) -> Iterator[tuple[Path, ...]]:
    """Yield a hidden name beside each target; when the block ends well, what lies there takes their places.

    Whatever ends the block, every target is its old self (or still absent), or all of them are new. What was
    made under the hidden names is removed.

    Args:
        targets: Files or folders to be; each lies in a folder that exists.

    Raises:
        InputError: They cannot be written, or the disk is full.
    """
    mark = f"{os.getpid()}-{secrets.token_hex(4)}"
    staged = tuple(target.with_name(f".{target.name}.{mark}{_SUFFIX}") for target in targets)
    old = tuple(target.with_name(f".{target.name}.old-{mark}{_SUFFIX}") for target in targets)
    try:
        yield staged
        for path in staged:
            _flush(path)
        _swap(targets, staged, old)
        for folder in {target.parent for target in targets}:
            _flush_one(folder)
    except (OSError, RuntimeError) as error:  # h5py raises either when a disk is full
        names = ", ".join(map(str, targets))
        raise InputError(
            f"{names} could not be written: {disk_reason(error)}.",
            "Free some space or choose another place to write to; nothing half-written was left.",
        ) from error
    finally:
        for path in (*staged, *old):
            _remove(path)


def _swap(targets: tuple[Path, ...], staged: tuple[Path, ...], old: tuple[Path, ...]) -> None:
    done: list[int] = []
    try:
        for i, target in enumerate(targets):
            done.append(i)
            if target.is_dir():
                target.rename(old[i])
            elif target.exists():
                _second_name(target, old[i])
            staged[i].replace(target)
    except BaseException:  # an interrupt, too
        for i in reversed(done):
            if old[i].exists():
                if targets[i].is_dir():
                    shutil.rmtree(targets[i])
                old[i].replace(targets[i])
            elif not staged[i].exists():  # it was new, and stands in its place already
                _remove(targets[i])
        raise


def _second_name(path: Path, name: Path) -> None:
    try:
        os.link(path, name)
    except OSError:  # a file system without hard links
        shutil.copy2(path, name)


def _flush(path: Path) -> None:
    inside = [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]
    for file in inside:
        _flush_one(file)


def _flush_one(path: Path) -> None:
    if path.is_dir() and os.name == "nt":  # Windows cannot open folders
        return
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
