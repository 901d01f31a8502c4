"""Baselines of several labels in one call: each session is described once, for the units of all labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.evaluation.baselines import Representation
from nuclr_cli.workflows.probe_baselines import TITLES, MissingBaseline, representations
from nuclr_cli.workflows.probe_inputs import ProbeTable
from nuclr_cli.workflows.reporting import Reporter


class Rivals:
    """Other descriptions of the units.

    Args:
        source: The table of embeddings.
        used: Rows that each label uses.
        data: DATA folder or file; None = that of the run.
        level: Of ``--baselines``.
        reporter: Told about progress.
    """

    def __init__(
        self,
        source: ProbeTable,
        used: list[NDArray[np.int64]],
        data: Path | None,
        level: str,
        reporter: Reporter,
    ) -> None:
        self._source, self._data, self._level, self._reporter = source, data, level, reporter
        order = source.keys.order
        anybody = np.zeros(len(order), dtype=bool)
        for rows in used:
            anybody[rows] = True
        self._rows = order[anybody[order]]
        self._made, self._missing = representations(source, self._rows, data, reporter, level)

    def of(self, rows: NDArray[np.int64]) -> tuple[tuple[Representation, ...], tuple[MissingBaseline, ...]]:
        """The descriptions of one label's rows, and what is missing.

        A baseline that lacks a unit of another label only is made again, for these rows.
        """
        if not self._missing or len(rows) == len(self._rows):
            return self._made, self._missing
        absent = [one.name for one in self._missing]
        again, missing = representations(
            self._source, rows, self._data, self._reporter, self._level, only=absent
        )
        made = {one.name: one for one in (*self._made, *again)}
        return tuple(made[name] for name in TITLES if name in made), missing
