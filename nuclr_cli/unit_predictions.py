"""What a probe says about units, as exporters get it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.errors import ReaderError


@dataclass(frozen=True)
class UnitPredictions:
    """What a probe says about the units of one population.

    Attributes:
        subject, session, population: As in `Population`.
        label_name: What was predicted (``cell_type``).
        classes: The K values it may take; () for a number.
        unit_ids: (N,) str, the ids that the reader gave.
        labels: (N,) str, the likeliest class of each unit, also of those in `abstain`; a number as text.
        probabilities: (N, K) float64, columns in the order of `classes`; NaN where nothing could be said.
        abstain: (N,) bool, True where the prediction should not be used.
        source: What the population was read from, by its session file or as the user says; None = unknown.
        modality: ``spikes`` or ``calcium``.

    Raises:
        ValueError: The lengths do not agree.
    """

    subject: str
    session: str
    population: str
    label_name: str
    classes: tuple[str, ...]
    unit_ids: NDArray[np.str_]
    labels: NDArray[np.str_]
    probabilities: NDArray[np.float64]
    abstain: NDArray[np.bool_]
    source: Path | None = None
    modality: Literal["spikes", "calcium"] = "spikes"

    def __post_init__(self) -> None:
        n_units = len(self.unit_ids)
        found = [array.shape for array in (self.unit_ids, self.labels, self.abstain, self.probabilities)]
        expected = [(n_units,)] * 3 + [(n_units, len(self.classes))]
        if found != expected:
            raise ValueError(
                f"unit_ids, labels, abstain and probabilities have shapes {found}, expected {expected}"
            )

    @property
    def given(self) -> NDArray[np.str_]:
        """(N,) str: `labels`, empty where the probe abstains."""
        return np.where(self.abstain, "", self.labels)

    @property
    def probability(self) -> NDArray[np.float64]:
        """(N,) float64 probability of `labels`; NaN where nothing could be said, and for numbers."""
        if not self.classes:
            return np.full(len(self.unit_ids), np.nan)
        return np.asarray(self.probabilities.max(axis=1), dtype=np.float64)

    @property
    def column(self) -> str:
        """``nuclr_LABEL``: a name for the column that works as a file name, too."""
        safe = re.sub(r"[^A-Za-z0-9._-]", "_", self.label_name)[:80]
        if safe != self.label_name:  # two names must not become one
            safe = f"{safe}-{hashlib.sha256(self.label_name.encode()).hexdigest()[:8]}"
        return f"nuclr_{safe}"


class Predicted(NamedTuple):
    """Of one unit: its label ('' where the probe abstains), and the probability of the likeliest class."""

    label: str
    probability: float


def by_unit(
    predictions: Sequence[UnitPredictions], ids: Sequence[str], place: object
) -> Mapping[str, Predicted]:
    """The predictions of several populations of one source, by unit id, after a look that they fit it.

    Args:
        predictions: Of the populations.
        ids: Ids of all units of the source.
        place: The source, for messages.

    Raises:
        ReaderError: A predicted unit is not in the source, or two populations have one of the same id.
    """
    known = set(ids)
    found: dict[str, Predicted] = {}
    missing: list[str] = []
    for one in predictions:
        for unit, label, share in zip(
            one.unit_ids.tolist(), one.given.tolist(), one.probability.tolist(), strict=True
        ):
            if unit not in known:
                missing.append(unit)
            elif unit in found:
                raise ReaderError(
                    f"The unit {unit!r} is predicted twice for {place}: in two populations, the last is "
                    f"{one.subject}/{one.session}/{one.population}.",
                    "Export one session at a time: --session NAME",
                )
            found[unit] = Predicted(label, share)
    if missing:
        more = ", ..." if len(missing) > 10 else ""
        raise ReaderError(
            f"{place} has no unit {', '.join(missing[:10])}{more}: {len(missing)} of {len(found)} predicted "
            f"units are missing from its {len(known)}.",
            "Give what these units were read from; if it was sorted or curated again, nuclr preprocess and "
            "nuclr embed come first",
        )
    return found


def common_source(predictions: Sequence[UnitPredictions], needed_for: str) -> Path:
    """What all populations were read from.

    Args:
        predictions: Of the populations.
        needed_for: What is made from it, for messages (``a copy with labels``).

    Raises:
        ReaderError: It is unknown, is not there any more, or there are several.
    """
    sources = sorted({str(one.source) for one in predictions if one.source is not None})
    if len(sources) != 1 or any(one.source is None for one in predictions):
        found = f"the units come from {', '.join(sources)}" if sources else "nothing says where it is"
        raise ReaderError(
            f"{needed_for} needs the recording that the units were read from, and {found}.",
            "--data FOLDER with their session files, which say where it is, or name it: --source PATH"
            if len(sources) < 2
            else "Export one session at a time: --session NAME",
        )
    path = Path(sources[0])
    if not path.exists():
        raise ReaderError(
            f"{needed_for} needs {path}, which the units were read from; it is gone.",
            "Put it back, or say where it is now: --source PATH",
        )
    return path
