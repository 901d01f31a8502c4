"""What to say of a place that holds no population file: often it is what such files are made from."""

from __future__ import annotations

import csv
import os
import shlex
from pathlib import Path

import h5py

from nuclr_cli.data.session import Session
from nuclr_cli.errors import InputError
from nuclr_cli.registry import MOST_INSIDE, Registry

MANIFEST_COLUMNS = ("path", "subject", "session")
TABLES = (".csv", ".tsv")
_HDF5 = (".h5", ".hdf5")
_MAKES = "`nuclr preprocess SOURCE` makes population files, in nuclr-data."
_MOST_TABLES = 50


def is_manifest(path: Path) -> bool:
    """Whether a file is a table whose header names every column that a manifest needs."""
    if path.suffix.lower() not in TABLES or not path.is_file():
        return False
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
        mark = next((mark for mark in ",\t;" if mark in first), ",")
        header = [name.strip() for name in next(csv.reader([first], delimiter=mark), [])]
    except (OSError, UnicodeDecodeError, csv.Error):
        return False
    return set(MANIFEST_COLUMNS) <= set(header)


def manifest_command(path: Path) -> str:
    """What to type to preprocess the recordings that a manifest lists."""
    return f"nuclr preprocess --manifest {shlex.quote(str(path))}"


def require_session_file(path: Path) -> None:
    """Refuse a file that was given by name and is something else than a population file.

    A file called ``.h5`` is taken for one, be it damaged.

    Raises:
        InputError: Says what it is and what makes population files of it, where that is known.
    """
    if path.suffix == ".h5":
        return
    try:
        Session(path).key  # noqa: B018 - reads the file
    except InputError:
        readable = os.access(path, os.R_OK)
        made_by = _made_by(path) if readable else ""
        if made_by or (readable and not h5py.is_hdf5(path)):
            what = f"{path} is no population file (*.h5){_seen(path)}."
            raise InputError(what, made_by or _MAKES) from None
        raise


def no_sessions(data: Path) -> InputError:
    """The error for a place of this machine that is not there, or a folder without a population file."""
    quoted = shlex.quote(str(data))
    if not data.exists():
        fix = f"Make it with `nuclr preprocess SOURCE -o {quoted}`."
        if data.suffix[1:].isalpha() or data.suffix.lower() in _HDF5:  # the name of a file
            fix = f"Name a folder of population files, or one of them. {_MAKES}"
        return InputError(f"{data} does not exist.", fix)
    if not os.access(data, os.R_OK):
        return InputError(f"No permission to read {data}.", "Ask its owner, or chmod u+rx.")
    what = f"{data} holds no population file (*.h5){_seen(data)}."
    if not any(data.iterdir()):
        return InputError(what, f"Make some with `nuclr preprocess SOURCE -o {quoted}`.")
    return InputError(what, _made_by(data) or _MAKES)


def _seen(path: Path) -> str:
    if is_manifest(path):
        return "; it is a manifest, a table of recordings"
    claims = Registry.load().claims(path, warn=lambda text: None)
    return f"; it is a recording ({claims[0].detected})" if claims else ""


def _made_by(path: Path) -> str:
    """The command that makes population files of what is there, and where they will be; '' = none does."""
    if is_manifest(path):
        return f"`{manifest_command(path)}` makes population files of its recordings, in nuclr-data."
    registry = Registry.load()
    if registry.claims(path, warn=lambda text: None):
        return f"`nuclr preprocess {shlex.quote(str(path))}` makes population files of it, in nuclr-data."
    if not path.is_dir():
        return ""
    tables = sorted(file for file in path.iterdir() if file.suffix.lower() in TABLES)
    manifest = next((file for file in tables[:_MOST_TABLES] if is_manifest(file)), None)
    if manifest is not None:
        return (
            f"`{manifest_command(manifest)}` makes population files of the recordings in it, in nuclr-data."
        )
    inside = registry.recognised_inside(path)
    if inside:
        listed = " ".join(shlex.quote(str(one)) for one in inside)
        if len(inside) == MOST_INSIDE:  # there may be more
            listed += " ..."
        return f"`nuclr preprocess {listed}` makes population files of the recordings in it, in nuclr-data."
    return ""
