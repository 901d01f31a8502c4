"""Who and what was recorded: the describing groups and attributes of a temporaldata file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import h5py

from nuclr_cli.api import ReadOptions
from nuclr_temporaldata.hdf5 import attribute, is_text, subgroup

# Of every temporaldata object, or with a place of their own.
_NOT_ATTRIBUTES = frozenset({"object", "absolute_start", "id", "population"})
_ROOT_IDS = {"subject": ("subject_id", "subject"), "session": ("session_id", "session")}


@dataclass(frozen=True)
class Identity:
    """Names and description of one file.

    Attributes:
        subject, session, population: The key.
        subject_assumed: Nobody said who the subject is.
        attributes: Of subject and session under their own names, of others as ``brainset_source``.
        notes: Where the names come from.
    """

    subject: str
    session: str
    population: str = "0"
    subject_assumed: bool = False
    attributes: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def identify(file: h5py.File, path: Path, options: ReadOptions) -> Identity:
    """Ids as the user says, else from the file, else its name; every attribute as text."""
    notes: list[str] = []
    stem = path.resolve().stem or "unnamed"
    found = {role: _stored_id(file, role) for role in _ROOT_IDS}
    subject = found["subject"] if options.subject is None else options.subject
    session = found["session"] if options.session is None else options.session
    assumed = options.subject is None and not subject
    if options.subject is None:
        notes.append(
            f"Subject {subject!r} is taken from the file."
            if subject
            else f"Nobody said who the subject is; the name {stem!r} is taken. --subject says otherwise."
        )
    if options.session is None:
        notes.append(
            f"Session {session!r} is taken from the file."
            if session
            else f"The session is called {stem!r}, after the file. --session says otherwise."
        )
    session_group = subgroup(file, "session")
    population = "" if session_group is None else attribute(session_group, "population")
    return Identity(
        subject=stem if assumed else subject,
        session=stem if options.session is None and not session else session,
        population=population or "0",
        subject_assumed=assumed,
        attributes=_attributes(file, notes),
        notes=tuple(notes),
    )


def _stored_id(file: h5py.File, role: str) -> str:
    group = subgroup(file, role)
    candidates = [] if group is None else [attribute(group, "id")]
    candidates += [attribute(file, name) for name in _ROOT_IDS[role]]
    return next((text for text in candidates if text), "")


def _attributes(file: h5py.File, notes: list[str]) -> dict[str, str]:
    attributes: dict[str, str] = {}
    for place in ("subject", "session", "brainset", "device"):
        group = subgroup(file, place)
        if group is None:
            continue
        own_names = place in ("subject", "session")
        if not own_names and (text := attribute(group, "id")):
            attributes[place] = text
        for name, text in _texts(group):
            full_name = name if own_names and name not in attributes else f"{place}_{name}"
            attributes[full_name] = text
    for name, text in _texts(file):
        if name not in (*_ROOT_IDS["subject"], *_ROOT_IDS["session"]):
            attributes.setdefault(name, text)
    cut_at = attribute(file, "absolute_start")
    if cut_at not in (None, "", "0", "nan"):
        attributes["absolute_start"] = str(cut_at)
        notes.append(f"The file was cut out of a longer recording at {cut_at} s; its times count from there.")
    return attributes


def _texts(group: h5py.Group) -> list[tuple[str, str]]:
    names = [name for name in group.attrs if is_text(name) and not name.startswith("_")]
    found = [(name, attribute(group, name)) for name in names if name not in _NOT_ATTRIBUTES]
    return [(name, text) for name, text in found if text]
