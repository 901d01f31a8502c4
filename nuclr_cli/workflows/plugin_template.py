"""`nuclr plugins new`: a package with a reader that works, to be changed into one's own."""

from __future__ import annotations

import importlib.util
import os
import re
import secrets
import shutil
import string
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from nuclr_cli.api import API_VERSION
from nuclr_cli.data.atomic import TEMPORARY_SUFFIX
from nuclr_cli.errors import InputError
from nuclr_cli.registry import Registry

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LONGEST_NAME = 40
_SUFFIX = ".template"


@dataclass(frozen=True)
class NewPluginRecord:
    """A package that was written.

    Attributes:
        folder: Where it is.
        distribution: What ``pip`` calls it.
        module: What Python calls it.
        reader: What ``--reader`` calls it.
        files: Its files, relative to `folder`.
    """

    folder: Path
    distribution: str
    module: str
    reader: str
    files: tuple[str, ...]


def new_plugin(name: str, out: Path) -> NewPluginRecord:
    """Write the package ``nuclr-NAME`` into the folder `out`, whole or not at all.

    Args:
        name: Lower case letters, digits and single hyphens; a leading ``nuclr-`` is dropped.
        out: Folder to put it into; made if need be.

    Raises:
        InputError: The name cannot be used, the package exists, or the folder cannot be written.
    """
    name = _checked(name)
    module = f"nuclr_{name.replace('-', '_')}"
    target = out / f"nuclr-{name}"
    if os.path.lexists(target):
        raise InputError(
            f"{target} exists; nothing was written.",
            f"Choose another name or folder: nuclr plugins new {name} -o elsewhere",
        )
    words = {
        "name": name,
        "module": module,
        "class_name": "".join(part.capitalize() for part in name.split("-")) + "Reader",
        "api": API_VERSION.partition(".")[0],
    }
    files = {
        place.removesuffix(_SUFFIX).replace("MODULE", module): string.Template(text).substitute(words)
        for place, text in _templates().items()
    }
    _write(files, target)
    return NewPluginRecord(target, f"nuclr-{name}", module, name, tuple(sorted(files)))


def _checked(name: str) -> str:
    """The name without its prefix.

    Raises:
        InputError: It cannot name a package, or is taken.
    """
    short = name.removeprefix("nuclr-")
    if not _NAME.fullmatch(short) or len(short) > _LONGEST_NAME:
        likely = re.sub(r"[^a-z0-9]+", "-", short.lower()).strip("-0123456789")[:_LONGEST_NAME].strip("-")
        raise InputError(
            f"{name!r} cannot name a plugin: lower case letters, digits and single hyphens are expected, a "
            f"letter first, at most {_LONGEST_NAME}.",
            f"nuclr plugins new {likely or 'mylab'}",
        )
    registry = Registry.load()
    taken = {reader.name for reader in registry.readers} | {info.name for info in registry.plugins}
    if short in taken or importlib.util.find_spec(f"nuclr_{short.replace('-', '_')}") is not None:
        raise InputError(
            f"{short!r} is taken by something that is installed.", f"nuclr plugins new {short}-mylab"
        )
    return short


def _templates() -> dict[str, str]:
    """Place in the package, with MODULE in it -> text, with ``$name`` and the like in it."""
    found: dict[str, str] = {}

    def walk(folder: Traversable, prefix: str) -> None:
        for entry in folder.iterdir():
            if entry.is_dir():
                walk(entry, f"{prefix}{entry.name}/")
            elif entry.name.endswith(_SUFFIX):
                found[prefix + entry.name] = entry.read_text(encoding="utf-8")

    walk(resources.files("nuclr_cli").joinpath("plugin_template"), "")
    return found


def _write(files: dict[str, str], target: Path) -> None:
    """Write a folder under another name beside its own, then rename it."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        for place, text in files.items():
            path = temporary / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
        temporary.rename(target)
    except OSError as error:
        raise InputError(
            f"{target} could not be written: {error}.", "Choose another folder with -o; nothing was left."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
