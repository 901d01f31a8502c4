"""Where the sessions of a run are, also after the project was moved or copied."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

from nuclr_cli.data.embeddings import load_embeddings
from nuclr_cli.data.file_cache import Cache, CacheError
from nuclr_cli.data.remote import BrokenOff, Refused, place_of, url_of
from nuclr_cli.errors import InputError, MissingPackageError, NuclrError
from nuclr_cli.workflows.data_place import open_data
from nuclr_cli.workflows.runs import Run


def data_of(run: Run, how: str, say: Callable[[str], None] = lambda text: None) -> Path:
    """The data that pretraining read: beside the runs, as in a copied or moved project, if the recordings are
    the same; else where they were, or in the current folder.

    Args:
        run: The run.
        how: How to say where the data are, with ``DATA`` for the place.
        say: Told when they were found in another place.

    Raises:
        InputError: Neither is there, or the run was imported.
    """
    if not run.record.data:
        raise InputError(
            f"Run {run.record.name} was imported from {run.record.imported_from}: it has no data of its own.",
            f"Say which data: {how}",
        )
    if url_of(run.data):  # means the same from everywhere
        return run.data
    own = run.folder.resolve().parent.parent / run.data.name
    if own.resolve() == run.data and own.exists():
        return run.data
    nearby = [place for place in dict.fromkeys((own, Path(run.data.name))) if place.exists()]
    if run.data.exists():
        if own in nearby and holds_sessions_of(own, run):
            say(f"{own} holds the same recordings as {run.data}, which run {run.record.name} was trained on")
            return own
        return run.data
    for place in nearby:
        if holds_sessions_of(place, run):
            say(f"the data of run {run.record.name} are not at {run.data} any more; {place} holds the same")
            return place
    others = f" ({nearby[0]} holds other recordings)" if nearby else ""
    raise InputError(
        f"The data of run {run.record.name} are not at {run.data} any more{others}.",
        f"Restore them, or say where they are: {how}",
    )


def is_data_of(run: Run, data: Path, cache: Cache | None = None) -> bool:
    """Whether `data` are what the run was trained on: the same place, or the same recordings elsewhere and no
    others.

    An imported run has none. What is embedded with it first is taken for its own, so that nothing else
    replaces those embeddings unasked.

    Args:
        run: The run.
        data: A folder, a file or a URL.
        cache: As in `open_data`.
    """
    if not run.record.data:
        return not run.embeddings.exists() or _embedded_sessions(run) == _sessions_in(data, cache)
    return place_of(data) == run.data or holds_sessions_of(data, run, alone=True, cache=cache)


def _embedded_sessions(run: Run) -> set[tuple[str, ...]] | None:
    """Key and activity digest of each session in the run's embeddings; None where they do not say."""
    try:
        told = json.loads(load_embeddings(run.embeddings).metadata.get("activity", "null"))
        return None if told is None else {tuple(map(str, one)) for one in told}
    except (InputError, ValueError, TypeError):
        return None


def _sessions_in(data: Path, cache: Cache | None) -> set[tuple[str, ...]]:
    found: set[tuple[str, ...]] = set()
    for session in open_data(data, cache, check_foreign=False):
        key = session.key
        found.add((key.subject, key.session, key.population, session.activity_digest))
        session.close()
    return found


def holds_sessions_of(data: Path, run: Run, *, alone: bool = False, cache: Cache | None = None) -> bool:
    """Whether all recordings of the run are there (`alone`: and no others), unchanged by their checksums.

    Files without checksums, which nuclr did not write, can be told from others by their place alone.

    Raises:
        InputError: The data cannot be reached, or copies of them cannot be kept.
        MissingPackageError: Reading them needs a package that is not installed.
    """
    recorded = {(s.subject, s.session, s.population, s.activity_digest) for s in run.record.sessions}
    if not recorded or not all(digest for *_, digest in recorded):
        return False
    try:
        for session in open_data(data, cache, check_foreign=False):
            key = session.key
            one = (key.subject, key.session, key.population, session.activity_digest)
            session.close()
            if alone and one not in recorded:
                return False
            recorded.discard(one)
    except (BrokenOff, Refused, CacheError, MissingPackageError):  # says nothing of the recordings
        raise
    except NuclrError:
        return False
    return not recorded


def embed_command(run: Run, *options: str) -> str:
    """``nuclr embed DATA --run RUN ...``."""
    return " ".join(["nuclr embed DATA --run", shlex.quote(str(run.folder)), *options])
