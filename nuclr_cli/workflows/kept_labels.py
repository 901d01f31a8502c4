"""Labels that `nuclr label` gave to files which `preprocess --overwrite` makes anew: they go along."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from nuclr_cli.api import Population
from nuclr_cli.data.checksums import verify
from nuclr_cli.data.store import Session, SessionKey
from nuclr_cli.errors import InputError
from nuclr_cli.wording import counted
from nuclr_cli.workflows.label_maps import with_map
from nuclr_cli.workflows.labels import texts_of
from nuclr_cli.workflows.made_classes import MadeColumn, in_order, made_columns, provenance_with_maps


@dataclass(frozen=True)
class KeptLabels:
    """What `nuclr label` left in one file.

    Attributes:
        file: Where.
        source: What the file was made from.
        key: Of its population.
        labels: Column -> unit id -> label, for the columns that were added or changed; '' = it was taken from
            the unit. Units that are not in it have the label of the source.
        removed: Columns of the source that were taken away. Some were added once more since.
        history: As stored in the file.
        made: Those of the columns that a map made from another one, each after the one that it was made from.
            They are made again; `labels` has what the file holds.
        by_hand: Such a column -> units whose class is not the map's.
    """

    file: Path
    source: str
    key: SessionKey
    labels: Mapping[str, Mapping[str, str]]
    removed: tuple[str, ...]
    history: tuple[Mapping[str, Any], ...]
    made: tuple[MadeColumn, ...] = ()
    by_hand: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def added_to(self, population: Population) -> Population:
        """The population with these labels on the units of the same id, and a note that says so."""
        self.require_whole()
        ids = [str(unit) for unit in population.units["id"]]
        units = {name: values for name, values in population.units.items() if name not in self.removed}
        for column, label_of in self.labels.items():
            own = texts_of(units[column]) if column in units and units[column].ndim == 1 else [""] * len(ids)
            kept = [label_of.get(unit, text) for unit, text in zip(ids, own, strict=True)]
            units[column] = np.array(kept, dtype=np.str_)
        notes = []
        if self.labels:
            notes.append(f"The labels that nuclr label added are kept: {', '.join(self.labels)}.")
        left_out = [column for column in self.removed if column not in self.labels]
        if left_out:
            notes.append(f"Left out again, as nuclr label did: {', '.join(left_out)}.")
        lost = sorted(self._labelled() - set(ids))
        warnings = []
        if lost:
            shown = ", ".join(lost[:5]) + (", ..." if len(lost) > 5 else "")
            had = "that nuclr label had labelled"
            text = counted(len(lost), f"unit {had} is gone", f"units {had} are gone")
            warnings.append(f"{text}: {shown}.")
        return self.made_again(
            replace(
                population,
                units=units,
                notes=(*population.notes, *notes),
                warnings=(*population.warnings, *warnings),
            )
        )

    def made_again(self, population: Population) -> Population:
        """The population with classes that fit the raw names it has now, where they are there.

        Classes that were not the map's stay. Doing it twice changes nothing more.

        Raises:
            InputError: A map is not clear about a raw name.
        """
        ids = [str(unit) for unit in population.units["id"]]
        for made in self.made:
            raws = population.units.get(made.reads)
            if made.label_map is None or raws is None or raws.ndim != 1:
                continue  # the raw names are gone: the classes stay what they were
            label_of = self.labels[made.target]
            kept_of = {unit: label_of.get(unit, "") for unit in self.by_hand[made.target]}
            pairs = zip(ids, made.classes(texts_of(raws)), strict=True)
            classes = np.array([kept_of.get(unit, text) for unit, text in pairs], dtype=np.str_)
            note = f"The map {made.name} made {made.target!r} again from {made.reads!r}."
            population = replace(
                population,
                units={**population.units, made.target: classes},
                notes=tuple(dict.fromkeys((*population.notes, note))),
                provenance=with_map(population.provenance, made.label_map, made.reads),
            )
        return population

    def _labelled(self) -> set[str]:
        """Units that were given a label by name. A map gives classes to whatever units there are."""
        made = {column.target for column in self.made}
        return {
            unit
            for column, label_of in self.labels.items()
            for unit, text in label_of.items()
            if text and (column not in made or unit in self.by_hand[column])
        }

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
        labelled = self._labelled()
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


def kept_labels(session: Session) -> tuple[KeptLabels, ...]:
    """What `nuclr label` left in a file that nuclr wrote, in one item; () when it left nothing.

    Raises:
        InputError: Key, source and history of the file cannot be read.
    """
    source, history = session.meta.source, session.meta.label_history
    if source is None or not history:
        return ()
    try:
        return (_of(session, source.path),)
    except (
        InputError,
        ValueError,
    ):  # a damaged units table is an error for whoever makes the file anew: `require_whole`
        return (KeptLabels(session.path, source.path, session.key, {}, (), history),)


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
    # What followed from another change follows from it again.
    actions = [action for entry in history for action in entry["actions"] if action["what"] != "remap"]
    touched = dict.fromkeys(column for action in actions for column in action["columns"])
    ids = session.unit_ids.tolist()
    named: dict[str, set[str]] = {column: set() for column in touched}
    for action in actions:
        for column in action["columns"]:
            named[column].update(action.get("units", ()))
    # Entries of before have no units: all that have a label are taken to be labelled by hand.
    older = {column for action in actions if "units" not in action for column in action["columns"]}
    texts = {
        column: dict(zip(ids, session.label(column).tolist(), strict=True))
        for column in touched
        if column in session.columns
    }
    labels = {
        column: {
            unit: text
            for unit, text in text_of.items()
            if unit in named[column] or (column in older and text)
        }
        for column, text_of in texts.items()
    }
    taken = {column for action in actions if action["what"] == "remove" for column in action["columns"]}
    removed = tuple(column for column in touched if column in taken or column not in session.columns)
    made = _made(session, {column for a in actions if a["what"] == "map" for column in a["columns"]})
    by_hand = {
        column.target: frozenset(
            unit
            for unit, text in texts[column.target].items()
            if text != class_of[unit] and (unit in named[column.target] or column.target in older)
        )
        for column, class_of in made
    }
    columns = tuple(in_order([column for column, _ in made]))
    return KeptLabels(session.path, source, session.key, labels, removed, history, columns, by_hand)


def _made(session: Session, asked_for: Container[str]) -> list[tuple[MadeColumn, dict[str, str]]]:
    """Columns that `nuclr label --label-map` made, with the class of each unit by its map.

    Those that `preprocess` made are made by it, or not, as it is told.
    """
    found = []
    for column in made_columns(provenance_with_maps(session.meta, session.columns)):
        raws = session.columns.get(column.reads)
        there = column.target in session.columns and raws is not None and raws.ndim == 1
        if column.label_map is None or column.target not in asked_for or not there:
            continue
        with contextlib.suppress(InputError):  # not clear about a name: the classes stay what they are
            classes = column.classes(texts_of(session.columns[column.reads]))
            found.append((column, dict(zip(session.unit_ids.tolist(), classes, strict=True))))
    return found
