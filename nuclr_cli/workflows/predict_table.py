"""Predictions of units, and the CSV file of them."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.data.atomic import replacing
from nuclr_cli.workflows.probe_card import ProbeCard
from nuclr_cli.workflows.probe_inputs import ProbeTable

KEY = ("subject", "session", "population", "unit_id")


@dataclass(frozen=True)
class Rows:
    """What a probe says of n units.

    Attributes:
        card: Of the probe.
        source: The table of embeddings.
        row: (n,) int64 rows of that table.
        label: (n,) str likeliest class, also where the probe abstains; a number as text; '' = no embedding.
        probability: (n, K) float64, calibrated as the card says; NaN without an embedding.
        reason: (n,) str why the probe abstains; '' where it does not.
        outside: What of each unit is outside what the probe has seen.
        known: (n,) str label that the table has already, '' = none.
    """

    card: ProbeCard
    source: ProbeTable
    row: NDArray[np.int64]
    label: NDArray[np.str_]
    probability: NDArray[np.float64]
    reason: NDArray[np.str_]
    outside: tuple[tuple[str, ...], ...]
    known: NDArray[np.str_]

    @property
    def abstain(self) -> NDArray[np.bool_]:
        """(n,) True where the probe abstains."""
        return np.asarray(self.reason != "")

    @property
    def given(self) -> NDArray[np.str_]:
        """(n,) str: `label`, '' where the probe abstains."""
        return np.where(self.abstain, "", self.label)


def write_csv(rows: Rows, path: Path) -> None:
    """Write one line a unit, whole or not at all.

    Columns: the key; ``label`` (``value`` of a number), empty where the probe abstains; ``probability`` of
    the likeliest class; ``abstain`` (``yes`` or ``no``) and ``abstain_reason``; ``applicability``, what is
    outside what the probe has seen; ``known_label`` (``known_value``), as in the table of embeddings; then
    ``probability_CLASS``.

    Raises:
        InputError: The place cannot be written.
    """
    classes = rows.card.classes
    name = "label" if classes else "value"
    header = [*KEY, name, *(["probability"] if classes else []), "abstain", "abstain_reason", "applicability"]
    header += [f"known_{name}", *(f"probability_{klass}" for klass in classes)]
    columns = rows.source.keys.columns()
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        for i, row in enumerate(rows.row.tolist()):
            shares = [_text(share) for share in rows.probability[i].tolist()]
            best = _text(float(rows.probability[i].max())) if classes else ""
            writer.writerow(
                [
                    *(str(column[row]) for column in columns),
                    str(rows.given[i]),
                    *([best] if classes else []),
                    "yes" if rows.reason[i] else "no",
                    str(rows.reason[i]),
                    "; ".join(rows.outside[i]),
                    str(rows.known[i]),
                    *shares,
                ]
            )


def _text(share: float) -> str:
    return "" if np.isnan(share) else f"{share:.6f}"
