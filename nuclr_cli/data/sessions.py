"""Find the population files of a folder."""

from __future__ import annotations

from pathlib import Path

from nuclr_cli.data.session import Session, SessionKey
from nuclr_cli.errors import InputError


def open_sessions(data: Path, *, check_foreign: bool = True) -> list[Session]:
    """All sessions of a folder (every ``*.h5`` below it) or of one file, sorted by key.

    Hidden files and folders are passed over, and so are the temporary files of a killed writer.

    Args:
        data: A folder or a file.
        check_foreign: Run `Session.check` on files that nuclr did not write; it reads all of their data.

    Raises:
        InputError: Nothing there; a file that is damaged or has another layout; two files with the same key.
    """
    data = Path(data)
    if not data.exists():
        raise InputError(f"{data} does not exist.", "Make it with `nuclr preprocess SOURCE -o " + f"{data}`.")
    sessions = [Session(path) for path in _population_files(data)]
    if not sessions:
        raise InputError(
            f"{data} holds no population file (*.h5).", f"Make some with `nuclr preprocess SOURCE -o {data}`."
        )
    by_key: dict[SessionKey, Session] = {}
    for session in sessions:
        first = by_key.setdefault(session.key, session)
        if first is not session:
            raise InputError(
                f"{first.path} and {session.path} are both subject {session.key.subject!r}, session "
                f"{session.key.session!r}, population {session.key.population!r}.",
                "Remove one, or preprocess one of them again with another --subject or --session.",
            )
        if check_foreign and session.meta.schema is None:
            session.check()
    return sorted(sessions, key=lambda session: session.key)


def _population_files(data: Path) -> list[Path]:
    if data.is_file():
        return [data]
    found = (path for path in data.rglob("*.h5") if path.is_file())
    return sorted(
        path for path in found if not any(part.startswith(".") for part in path.relative_to(data).parts)
    )
