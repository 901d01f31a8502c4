"""Labels that `nuclr label` gave to files which `preprocess --overwrite` makes anew: they go along."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nuclr_cli.api import Population
from nuclr_cli.data.checksums import verify
from nuclr_cli.data.store import Session, SessionKey
from nuclr_cli.errors import InputError
from nuclr_cli.workflows.labels import texts_of


@dataclass(frozen=True)
class KeptLabels:
    """What `nuclr label` left in one file.

    Attributes:
        file: Where.
        source: What the file was made from.
        key: Of its population.
        labels: Column -> unit id -> label, for the columns that were added or changed.
        removed: Columns that were taken away.
        history: As stored in the file.
    """

    file: Path
    source: str
    key: SessionKey
    labels: Mapping[str, Mapping[str, str]]
    removed: tuple[str, ...]
    history: tuple[Mapping[str, Any], ...]

    def added_to(self, population: Population) -> Population:
        """The population with these labels on the units of the same id, and a note that says so."""
        self.require_whole()
        ids = [str(unit) for unit in population.units["id"]]
        units = {name: values for name, values in population.units.items() if name not in self.removed}
        for column, label_of in self.labels.items():
            own = texts_of(units[column]) if column in units and units[column].ndim == 1 else [""] * len(ids)
            kept = [label_of.get(unit, "") or text for unit, text in zip(ids, own, strict=True)]
            units[column] = np.array(kept, dtype=np.str_)
        notes = []
        if self.labels:
            notes.append(f"The labels that nuclr label added are kept: {', '.join(self.labels)}.")
        if self.removed:
            notes.append(f"Left out again, as nuclr label did: {', '.join(self.removed)}.")
        known = {unit for label_of in self.labels.values() for unit, text in label_of.items() if text}
        lost = sorted(known - set(ids))
        warnings = []
        if lost:
            shown = ", ".join(lost[:5]) + (", ..." if len(lost) > 5 else "")
            warnings.append(f"{len(lost)} units that nuclr label had labelled are gone: {shown}.")
        return replace(
            population,
            units=units,
            notes=(*population.notes, *notes),
            warnings=(*population.warnings, *warnings),
        )

    def require_whole(self) -> None:
        """Raises:
        InputError: The units table in the file no longer matches its checksums: ids or labels are wrong.
        """
        damaged = verify(self.file, ("units/", "rois/"))
        if damaged:
            raise InputError(
                f"The labels that nuclr label added to {self.file} cannot be kept: {', '.join(damaged[:5])} "
                "no longer match their checksum.",
                f"Copy the file again; or remove {self.file} and give the labels once more.",
            )

    def moved(self, population: Population) -> list[str]:
        """Labelled units that have other spikes, or another trace, than in the file."""
        labelled = {unit for label_of in self.labels.values() for unit, text in label_of.items() if text}
        session = Session(self.file)
        was = _activity_of(
            session.unit_ids, session.spikes if session.modality == "spikes" else session.calcium
        )
        now = _activity_of(
            population.units["id"], population.spikes if population.calcium is None else population.calcium
        )
        return [unit for unit in was if unit in labelled and unit in now and was[unit] != now[unit]]


def _activity_of(ids: Any, data: Any) -> dict[str, bytes]:
    """Unit id -> digest of its spike times or of its trace."""
    if hasattr(data, "values"):
        parts: Any = (np.ascontiguousarray(data.values[:, row], dtype=np.float32) for row in range(len(ids)))
    else:
        order = np.argsort(data.unit_index, kind="stable")
        edges = np.searchsorted(np.asarray(data.unit_index)[order], np.arange(1, len(ids)))
        parts = np.split(np.asarray(data.times, dtype=np.float64)[order], edges)
    return {str(unit): hashlib.sha256(part.tobytes()).digest() for unit, part in zip(ids, parts, strict=True)}


def kept_labels(folder: Path) -> tuple[KeptLabels, ...]:
    """The labels that `nuclr label` added to files of a folder. Files that cannot be read have none."""
    found = []
    for path in sorted(folder.rglob("*.h5")) if folder.is_dir() else ():
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        try:
            session = Session(path)
            if session.meta.label_history and session.meta.source is not None:
                found.append(_of(session, session.meta.source.path))
        except InputError:
            continue  # the folder is looked at once more, and says it then
    return tuple(found)


def labels_for(kept: Sequence[KeptLabels], population: Population, source: Path) -> KeptLabels | None:
    """Those of the population with the same key, else (it was renamed) the only ones from the same source."""
    key = SessionKey(population.subject, population.session, population.population)
    for item in kept:
        if item.key == key:
            return item
    alike = [i for i in kept if i.source == str(source) and i.key.population == population.population]
    return alike[0] if len(alike) == 1 else None


def _of(session: Session, source: str) -> KeptLabels:
    history = session.meta.label_history
    actions = [action for entry in history for action in entry["actions"]]
    touched = dict.fromkeys(column for action in actions for column in action["columns"])
    ids = session.unit_ids.tolist()
    said: dict[str, set[str]] = {column: set() for column in touched}
    for action in actions:  # entries of before have no units: all are taken to be labelled by hand
        for column in action["columns"]:
            said[column].update(action.get("units", ids))
    labels = {
        column: {
            unit: text
            for unit, text in zip(ids, session.label(column).tolist(), strict=True)
            if unit in said[column]
        }
        for column in touched
        if column in session.columns
    }
    removed = tuple(column for column in touched if column not in session.columns)
    return KeptLabels(session.path, source, session.key, labels, removed, history)
