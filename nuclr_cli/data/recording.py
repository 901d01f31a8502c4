"""What windows and views need to know about one recorded population, wherever it is stored."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import CalciumTraces, Modality
from nuclr_cli.data.session import SessionKey


class Recording(Protocol):
    """One population: `nuclr_cli.data.session.Session`, or anything with these attributes.

    Pickling one must be cheap: it travels to the loader's worker processes.
    """

    @property
    def key(self) -> SessionKey: ...

    @property
    def modality(self) -> Modality: ...

    @property
    def n_units(self) -> int: ...

    @property
    def intervals(self) -> NDArray[np.float64]:
        """(M, 2) float64 seconds, sorted, disjoint: when the recording is valid."""
        ...

    def spikes_between(
        self, start_s: float, end_s: float, /
    ) -> tuple[NDArray[np.float64], NDArray[np.integer[Any]]]:
        """Times (S,) float64 s, sorted, and unit rows (S,) of the spikes with start_s <= t < end_s."""
        ...

    @property
    def calcium(self) -> CalciumTraces: ...

    @property
    def calcium_scale(self) -> float:
        """99th percentile of dF/F over the session, positive: traces are divided by it."""
        ...
