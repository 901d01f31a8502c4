"""One session file on its way to other labels: its units as they will be, and what was done to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import Population
from nuclr_cli.data.store import Session
from nuclr_cli.workflows.label_maps import MADE_BY
from nuclr_cli.workflows.label_record import LabelAction
from nuclr_cli.workflows.labels import texts_of
from nuclr_cli.workflows.made_classes import made_again, provenance_with_maps


@dataclass
class Change:
    """One session on its way: units as they will be, and what was done to them.

    Attributes:
        session: As it is in the file.
        population: Its units as they will be, without the recording.
        data: What to call the DATA folder in messages.
        given: Target -> digest of the maps that are applied in the end anyway.
        actions: What was done so far.
        warnings: What was said so far.
    """

    session: Session
    population: Population
    data: str
    given: Mapping[str, str]
    actions: list[LabelAction] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, session: Session, data: str, given: Mapping[str, str]) -> Change:
        """A session to which nothing was done yet.

        Raises:
            InputError: The file is damaged.
        """
        population = Population(
            subject=session.key.subject,
            session=session.key.session,
            population=session.key.population,
            units=session.columns,
            intervals=session.intervals,
            provenance=provenance_with_maps(session.meta, session.columns),
        )
        return cls(session, population, data, given)

    @property
    def name(self) -> str:
        return f"{self.population.subject}/{self.population.session}"

    def apply(self, action: LabelAction, after: Population) -> None:
        """Take the step to `after`; classes that maps made from columns that it changed are made again.

        Args:
            action: What is done: the kind, the file, the columns that are read and written.
            after: The units with it, and the notes and warnings of this step.

        Raises:
            InputError: A map is not clear about a new name.
        """
        before = self.population
        self._take(action, after)
        if action.what == "remove":
            return
        steps, warnings = made_again(before, self.population, action.columns, self.data, self.given)
        for made, again in steps:
            remap = LabelAction("remap", made.name, made.sha256, (made.target,), (made.reads,))
            self._take(remap, again)
        self.warnings += warnings

    def _take(self, action: LabelAction, after: Population) -> None:
        before = self.population
        moved = np.zeros(before.n_units, dtype=np.bool_)
        for column in action.columns:
            moved |= np.array(_texts(before, column)) != np.array(_texts(after, column))
        done = replace(
            action,
            labelled=sum(bool(text) for text in _texts(after, action.columns[0])),
            changed=int(moved.sum()),
            units=tuple(before.units["id"][moved].tolist()),
            notes=tuple(after.notes),
        )
        self.actions.append(done)
        self.warnings += after.warnings
        self.population = replace(after, notes=(), warnings=())

    @property
    def differs(self) -> bool:
        """Whether the units table, or what is known about its classes, is another than the file's."""
        now, was = self.population.units, self.session.columns
        told = self.population.provenance.get(MADE_BY) != self.session.meta.provenance.get(MADE_BY)
        labelled = any(action.what == "map" for action in self.actions)
        return (
            (told and labelled)
            or now.keys() != was.keys()
            or any(
                now[name].dtype.kind != was[name].dtype.kind or not np.array_equal(now[name], was[name])
                for name in was
                if now[name] is not was[name]
            )
        )


def _texts(population: Population, column: str) -> list[str]:
    values: NDArray[Any] | None = population.units.get(column)
    if values is None:
        return [""] * population.n_units
    return texts_of(values) if values.ndim == 1 else [str(row) for row in values.tolist()]
