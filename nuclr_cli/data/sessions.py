"""Find the population files of a folder."""

from __future__ import annotations

import os
from pathlib import Path

from nuclr_cli.data.session import Session, SessionKey
from nuclr_cli.errors import InputError


def open_sessions(
    data: Path, *, check_foreign: bool = True, unusable: dict[Path, InputError] | None = None
) -> list[Session]:
    """All sessions of a folder (every ``*.h5`` below it) or of one file, sorted by key.

    Hidden files and folders are passed over, and so are the temporary files of a killed writer.

    Args:
        data: A folder or a file.
        check_foreign: Run `Session.check` on files that nuclr did not write; it reads all of their data.
        unusable: Gets the files that are damaged or have another layout, each with its error; None = the
            first of them is an error.

    Raises:
        InputError: Nothing there; a file that is damaged or has another layout; two files with the same key.
    """
    data = Path(data)
    if not data.exists():
        raise InputError(f"{data} does not exist.", "Make it with `nuclr preprocess SOURCE -o " + f"{data}`.")
    paths = population_files(data)
    if not paths:
        raise InputError(
            f"{data} holds no population file (*.h5).", f"Make some with `nuclr preprocess SOURCE -o {data}`."
        )
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
            raise InputError(
                f"{first.path} and {session.path} are both subject {session.key.subject!r}, session "
                f"{session.key.session!r}, population {session.key.population!r}.",
                "Remove one, or preprocess one of them again with another --subject or --session.",
            )
    return [by_key[key] for key in sorted(by_key)]


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
