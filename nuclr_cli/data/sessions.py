"""Find the population files of a folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from nuclr_cli.data.remote import url_of
from nuclr_cli.data.session import Session, SessionKey
from nuclr_cli.errors import InputError


def open_sessions(
    data: Path,
    *,
    check_foreign: bool = True,
    unusable: dict[Path, InputError] | None = None,
    files: Mapping[Path, str] | None = None,
) -> list[Session]:
    """All sessions of a folder (every ``*.h5`` below it), of one file or of a URL, sorted by key.

    Hidden files and folders are passed over, and so are the temporary files of a killed writer.

    Args:
        data: A folder, a file or a URL, whose files are fetched into the default cache.
        check_foreign: Run `Session.check` on files that nuclr did not write; it reads all of their data.
        unusable: Gets the files that are damaged or have another layout, each with its error; None = the
            first of them is an error.
        files: Copies of the files of `data`, where they are here already, and what each is a copy of.

    Raises:
        InputError: Nothing there; a file that is damaged or has another layout; two files with the same key.
    """
    data = Path(data)
    if files is None and url_of(data):
        from nuclr_cli.data.file_cache import Cache, cache_folder, fetch_all

        files = fetch_all(data, Cache(cache_folder()))
    paths = _checked(data) if files is None else list(files)
    names = files or {}
    by_key: dict[SessionKey, Session] = {}
    for session in map(Session, paths):
        try:
            key = session.key
            if check_foreign and session.meta.schema is None:
                session.check()
        except InputError as error:
            if unusable is None:
                raise
            unusable[session.path] = error
            continue
        first = by_key.setdefault(key, session)
        if first is not session:
            one, two = (names.get(path, str(path)) for path in (first.path, session.path))
            raise InputError(
                f"{one} and {two} are both subject {key.subject!r}, session {key.session!r}, population "
                f"{key.population!r}.",
                "Remove one, or preprocess one of them again with another --subject or --session.",
            )
    return [by_key[key] for key in sorted(by_key)]


def require_sessions(data: Path) -> None:
    """Refuse a place of this machine that is not there, or that holds something else than population files.

    Raises:
        InputError: Says what is there, and what makes population files of it.
    """
    _checked(data)


def _checked(data: Path) -> list[Path]:
    from nuclr_cli.data.not_sessions import no_sessions, require_session_file

    if data.is_file():
        require_session_file(data)
    paths = population_files(data)
    if not paths:
        raise no_sessions(data)
    return paths


def population_files(data: Path) -> list[Path]:
    """Every ``*.h5`` below a folder, sorted, but for hidden files and folders; of a file, that file.

    Folders that another process takes away meanwhile are passed over.
    """
    if data.is_file():
        return [data]
    found = []
    for folder, below, files in os.walk(data):
        below[:] = [name for name in below if not name.startswith(".")]
        found += [Path(folder, name) for name in files if name.endswith(".h5") and not name.startswith(".")]
    return sorted(path for path in found if path.is_file())
