"""Simulated connections: who is connected to whom, and what it does to the spikes.

Cell types decide how likely a connection is, about as in cortex (Pfeffer et al. 2013, Nat Neurosci 16:1068;
Campagnola et al. 2022, Science 375:eabj5861): parvalbumin cells inhibit excitatory cells and one another,
somatostatin cells everybody but one another, VIP cells mostly somatostatin cells; excitatory cells reach all,
one another least. The numbers are round ones of that order, not measurements. A connection from an excitatory
cell adds spikes 1.5 to 3.5 ms later, one from an inhibitory cell removes some.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import Population, Spikes
from nuclr_cli.testing.animals import SimulatedAnimal

PROBABILITY: dict[str, dict[str, float]] = {
    "excitatory": {"excitatory": 0.10, "PV": 0.40, "SST": 0.30, "VIP": 0.10},
    "PV": {"excitatory": 0.50, "PV": 0.50, "SST": 0.05, "VIP": 0.05},
    "SST": {"excitatory": 0.50, "PV": 0.40, "SST": 0.02, "VIP": 0.40},
    "VIP": {"excitatory": 0.05, "PV": 0.10, "SST": 0.60, "VIP": 0.02},
}
"""Chance of a connection within one region, by cell type of the first and of the second unit."""

_EFFICACY = 0.04
_LATENCY_S = (0.0015, 0.0035)
_SILENCE_S = (0.001, 0.008)
_SILENCED = 0.5


@dataclass(frozen=True)
class ConnectedAnimal:
    """An animal whose units are connected, and all pairs that were looked at.

    Attributes:
        population: With the spikes that the connections add or remove, and the true numbers of connections of
            each unit as columns ``n_outputs`` and ``n_inputs``.
        pre, post: (P,) units of every ordered pair of one region.
        connected: (P,) whether the first is connected to the second.
    """

    population: Population
    pre: NDArray[np.int64]
    post: NDArray[np.int64]
    connected: NDArray[np.bool_]


def connect(animal: SimulatedAnimal, seed: int = 0) -> ConnectedAnimal:
    """Connect the units of a simulated animal.

    Args:
        animal: The animal; it stays as it is.
        seed: Of the connections and of what they do.

    Returns:
        The connected animal; a function of the two.
    """
    rng = np.random.default_rng([seed, 7003])
    source = animal.population
    assert source.spikes is not None  # simulated animals have spikes
    first, second = np.nonzero(animal.brain_region[:, None] == animal.brain_region[None, :])
    apart = first != second
    pre, post = first[apart].astype(np.int64), second[apart].astype(np.int64)
    kind = animal.cell_type.tolist()
    chance = np.array([PROBABILITY[kind[a]][kind[b]] for a, b in zip(pre, post, strict=True)])
    connected = rng.random(len(pre)) < chance
    trains = [source.spikes.times[source.spikes.unit_index == unit] for unit in range(source.n_units)]
    arriving = [trains[unit] for unit in range(source.n_units)]
    end_s = float(source.intervals[-1, 1])
    for a, b in zip(pre[connected].tolist(), post[connected].tolist(), strict=True):
        excites = kind[a] == "excitatory"
        arriving[b] = (_excited if excites else _inhibited)(rng, trains[a], arriving[b], end_s)
    times = np.concatenate(arriving)
    unit_index = np.repeat(np.arange(source.n_units), [len(train) for train in arriving])
    order = np.lexsort((unit_index, times))
    counts = {
        "n_outputs": np.bincount(pre[connected], minlength=source.n_units),
        "n_inputs": np.bincount(post[connected], minlength=source.n_units),
    }
    population = replace(
        source,
        units={**source.units, **counts},
        spikes=Spikes(times=times[order], unit_index=unit_index[order]),
    )
    return ConnectedAnimal(population, pre, post, connected)


def save_pairs(animals: Sequence[ConnectedAnimal], path: Path) -> None:
    """Write all pairs of some animals as the table that ``nuclr probe --pairs`` reads."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("subject", "session", "pre", "post", "label"))
        for animal in animals:
            ids = animal.population.units["id"].tolist()
            place = (animal.population.subject, animal.population.session)
            for a, b, label in zip(animal.pre, animal.post, animal.connected, strict=True):
                writer.writerow((*place, ids[a], ids[b], int(label)))


def _excited(
    rng: np.random.Generator, pre: NDArray[np.float64], post: NDArray[np.float64], end_s: float
) -> NDArray[np.float64]:
    """The second train with the spikes that the first one's cause."""
    causing = pre[rng.random(len(pre)) < _EFFICACY]
    caused = np.round((causing + rng.uniform(*_LATENCY_S, len(causing))) * 1e6) / 1e6
    return np.unique(np.concatenate([post, caused[caused < end_s]]))


def _inhibited(
    rng: np.random.Generator, pre: NDArray[np.float64], post: NDArray[np.float64], end_s: float
) -> NDArray[np.float64]:
    """The second train without some of the spikes that follow one of the first train."""
    if not len(pre) or not len(post):
        return post
    last = np.searchsorted(pre, post) - 1
    since = np.where(last >= 0, post - pre[np.maximum(last, 0)], np.inf)
    hit = (since >= _SILENCE_S[0]) & (since < _SILENCE_S[1]) & (rng.random(len(post)) < _SILENCED)
    return post[~hit]
