"""Who was recorded, when and where, as the file says it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nuclr_cli.api import ReadOptions
from nuclr_nwb.tree import Tree

_ATTRIBUTES = {
    "session_start_time": "/session_start_time",
    "session_description": "/session_description",
    "identifier": "/identifier",
    "institution": "/general/institution",
    "lab": "/general/lab",
    "experimenter": "/general/experimenter",
    "experiment_description": "/general/experiment_description",
    "protocol": "/general/protocol",
    "species": "/general/subject/species",
    "sex": "/general/subject/sex",
    "age": "/general/subject/age",
    "genotype": "/general/subject/genotype",
    "strain": "/general/subject/strain",
    "weight": "/general/subject/weight",
    "date_of_birth": "/general/subject/date_of_birth",
}


@dataclass(frozen=True)
class Identity:
    """Subject, session and attributes of a file.

    Attributes:
        subject, session: Ids.
        subject_assumed: True when the subject is called after the file.
        attributes: As text.
        notes: Where they come from.
    """

    subject: str
    session: str
    subject_assumed: bool
    attributes: dict[str, str]
    notes: tuple[str, ...]


def identity(tree: Tree, path: Path, options: ReadOptions) -> Identity:
    """What was said, else what the file says, else the name of the file."""
    notes = []
    subject, assumed = options.subject, False
    if subject is None:
        subject = tree.text("/general/subject/subject_id")
        if subject:
            notes.append(f"Subject {subject!r} is taken from the file.")
        else:
            subject, assumed = _source_name(path), True
            notes.append(
                f"The file has no subject_id; the name {subject!r} is taken. --subject says otherwise."
            )
    session = options.session
    if session is None:
        for field_name, where in (("session_id", "/general/session_id"), ("identifier", "/identifier")):
            session = tree.text(where)
            if session:
                notes.append(f"Session {session!r} is taken from the file's {field_name}.")
                break
        else:
            session = _source_name(path)
            notes.append(f"The session is called {session!r}, after the source. --session says otherwise.")
    attributes = {name: text for name, where in _ATTRIBUTES.items() if (text := tree.text(where))}
    return Identity(subject, session, assumed, attributes, tuple(notes))


def _source_name(path: Path) -> str:
    name = path.resolve().name
    for suffix in (".zarr", ".nwb", ".h5", ".hdf5"):
        name = name.removesuffix(suffix)
    return name or "unnamed"
