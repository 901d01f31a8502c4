"""Labels that `nuclr label` gave to files which `preprocess --overwrite` makes anew: they go along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nuclr_cli.api import Population
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
    labels = {
        column: dict(zip(ids, session.label(column).tolist(), strict=True))
        for column in touched
        if column in session.columns
    }
    removed = tuple(column for column in touched if column not in session.columns)
    return KeptLabels(session.path, source, session.key, labels, removed, history)
