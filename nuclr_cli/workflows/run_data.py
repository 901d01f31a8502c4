"""Where the sessions of a run are, also after the project was moved or copied."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

from nuclr_cli.data.sessions import open_sessions
from nuclr_cli.errors import InputError, NuclrError
from nuclr_cli.workflows.runs import Run


def data_of(run: Run, how: str, say: Callable[[str], None] = lambda text: None) -> Path:
    """The data that pretraining read; where they are gone, a folder of that name beside the runs' folder or
    here, if it holds the same recordings.

    Args:
        run: The run.
        how: How to say where the data are, with ``DATA`` for the place.
        say: Told when they were found in another place.

    Raises:
        InputError: Neither is there.
    """
    if run.data.exists():
        return run.data
    nearby = _nearby(run)
    for place in nearby:
        if holds_sessions_of(place, run):
            say(f"the data of run {run.record.name} are not at {run.data} any more; {place} holds the same")
            return place
    others = f" ({nearby[0]} holds other recordings)" if nearby else ""
    raise InputError(
        f"The data of run {run.record.name} are not at {run.data} any more{others}.",
        f"Restore them, or say where they are: {how}",
    )


def is_data_of(run: Run, data: Path) -> bool:
    """Whether `data` are what the run was trained on: the same place, or the same recordings elsewhere."""
    return data.resolve() == run.data or holds_sessions_of(data, run)


def holds_sessions_of(data: Path, run: Run) -> bool:
    """Whether all recordings of the run are there, unchanged as far as their checksums tell.

    Files without checksums, which nuclr did not write, can be told from others by their place alone.
    """
    recorded = {(s.subject, s.session, s.population, s.activity_digest) for s in run.record.sessions}
    if not recorded or not all(digest for *_, digest in recorded):
        return False
    try:
        for session in open_sessions(data, check_foreign=False):
            key = session.key
            recorded.discard((key.subject, key.session, key.population, session.activity_digest))
            session.close()
    except NuclrError:
        return False
    return not recorded


def embed_command(run: Run, *options: str) -> str:
    """``nuclr embed DATA --run RUN ...``."""
    return " ".join(["nuclr embed DATA --run", shlex.quote(str(run.folder)), *options])


def _nearby(run: Run) -> tuple[Path, ...]:
    name = run.data.name
    places = (run.folder.parent.parent / name, Path(name))
    return tuple(dict.fromkeys(place for place in places if place.exists()))
