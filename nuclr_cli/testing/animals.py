"""Simulated animals: populations whose cell types and regions differ as real ones do.

`cell_types` holds what is known of each type and region, `latents` what units share, `spiking` how they
fire. An animal is one insertion through cortex, hippocampus and thalamus. Type shows in single trains
(rate, bursts, autocorrelation) and in relations to the others (coupling to the local population, lag behind
it, phase in its rhythm, sign of the response to arousal), none of them sufficient; animals differ in rate,
synchrony, rhythm frequency and sorting quality.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import CalciumTraces, Population, Spikes
from nuclr_cli.errors import InputError
from nuclr_cli.testing.calcium import fluorescence
from nuclr_cli.testing.cell_types import REGIONS, Region
from nuclr_cli.testing.latents import GRID_S, LEAD_S, FloatArray, draw_latents
from nuclr_cli.testing.spiking import AnimalNuisance, draw_nuisance, draw_train, sorting_errors

_CONTAMINATED_MUA = 0.1


@dataclass(frozen=True)
class SimulationConfig:
    """What to simulate.

    Attributes:
        n_animals: Number of animals; animal `index` is the same whatever their number.
        units_per_animal: Units of each animal, over all its regions.
        minutes: Length of each recording.
        seed: Everything is a function of it, of the animal's index and of the sizes above.
        regions: Names of `cell_types.REGIONS`.
        unlabelled: Share of units whose cell type is not known, and, drawn apart, whose region is not.
        fs_hz: Sampling rate; spike times are whole samples.

    Raises:
        InputError: A value is out of range.
    """

    n_animals: int = 10
    units_per_animal: int = 60
    minutes: float = 8.0
    seed: int = 0
    regions: tuple[str, ...] = ("VISp", "CA1", "TH")
    unlabelled: float = 0.1
    fs_hz: float = 30_000.0

    def __post_init__(self) -> None:
        checks = (
            (self.n_animals >= 1, f"n_animals is {self.n_animals}", "at least 1"),
            (
                self.units_per_animal >= max(2, len(self.regions)),
                f"units_per_animal is {self.units_per_animal}",
                "at least 2, and one for each region",
            ),
            (self.minutes * 60.0 >= 1.0, f"minutes is {self.minutes}", "at least a second"),
            (self.seed >= 0, f"seed is {self.seed}", "0 or more"),
            (
                0 < len(set(self.regions)) == len(self.regions) and set(self.regions) <= set(REGIONS),
                f"regions is {', '.join(self.regions) or 'empty'}",
                f"different names out of {', '.join(REGIONS)}",
            ),
            (0.0 <= self.unlabelled < 1.0, f"unlabelled is {self.unlabelled}", "from 0 to below 1"),
            (1e3 <= self.fs_hz <= 1e6, f"fs_hz is {self.fs_hz}", "from 1,000 to 1,000,000 Hz"),
        )
        for fine, found, expected in checks:
            if not fine:
                raise InputError(f"Simulation: {found}; expected {expected}.")


@dataclass(frozen=True)
class SimulatedAnimal:
    """One simulated insertion and what is true of it.

    Attributes:
        population: What a spike sorter and an annotator would hand over: sorting errors in, some labels
        missing.
        samples: (S,) int64 sample numbers of `population`'s spikes.
        fs_hz: Sampling rate.
        cell_type, brain_region: (N,) true labels of every unit.
        clean: The spikes without sorting errors.
        arousal: (T,) float32, about standard normal, one value per `latents.GRID_S` seconds.
    """

    population: Population
    samples: NDArray[np.int64]
    fs_hz: float
    cell_type: NDArray[np.str_]
    brain_region: NDArray[np.str_]
    clean: Spikes
    arousal: FloatArray


def simulate_animal(config: SimulationConfig, index: int) -> SimulatedAnimal:
    """Simulate animal number `index` (0 to n_animals - 1).

    Returns:
        The animal. Its population has one interval, [0, duration], and the unit columns ``id``,
        ``cell_type``, ``brain_region``, ``quality`` (``good``, or ``mua`` when contaminated by more than a
        tenth) and ``depth_um``. A unit that happens not to fire stays in the table.

    Raises:
        InputError: There is no such animal.
    """
    if not 0 <= index < config.n_animals:
        raise InputError(f"Simulated animal {index}: there are {config.n_animals}, counted from 0.")
    rng = np.random.default_rng([config.seed, index, 7001])
    regions = tuple(REGIONS[name] for name in config.regions)
    duration_s = round(config.minutes * 60.0 / GRID_S) * GRID_S
    nuisance = draw_nuisance(rng)
    latents = draw_latents(rng, regions, duration_s)
    cell_type, brain_region = _composition(rng, regions, config.units_per_animal)
    trains = [
        draw_train(rng, REGIONS[r], REGIONS[r].cells[c], latents, nuisance, config.fs_hz).samples
        for c, r in zip(cell_type.tolist(), brain_region.tolist(), strict=True)
    ]
    sorted_trains, contaminated = _sort(rng, trains, brain_region, nuisance)
    samples, unit_index = _merge(sorted_trains)
    clean_samples, clean_index = _merge(trains)
    population = Population(
        subject=f"sim{index:02d}",
        session=f"sim{index:02d}_1",
        units=_units(rng, config, cell_type, brain_region, contaminated),
        intervals=np.array([[0.0, duration_s]]),
        spikes=Spikes(times=samples / config.fs_hz, unit_index=unit_index),
        attributes={"simulated": "yes", "seed": str(config.seed)},
        notes=("Simulated by nuclr; no animal was recorded.",),
    )
    return SimulatedAnimal(
        population=population,
        samples=samples,
        fs_hz=config.fs_hz,
        cell_type=cell_type,
        brain_region=brain_region,
        clean=Spikes(times=clean_samples / config.fs_hz, unit_index=clean_index),
        arousal=latents.arousal[round(LEAD_S / GRID_S) :],
    )


def simulate_calcium(
    config: SimulationConfig, index: int, *, sampling_rate_hz: float = 30.0, n_planes: int = 1
) -> Population:
    """Image animal `index` instead of recording it: its spikes seen through a calcium indicator.

    Args:
        config: As for `simulate_animal`; one region (``regions=("VISp",)``) is what a microscope would see.
        sampling_rate_hz: Frame rate of each plane.
        n_planes: Imaging planes that share the units in turn; plane ``k`` is read ``k / (n_planes * rate)``
        s late.

    Returns:
        A calcium population with the same ids and labels, without spikes.
    """
    animal = simulate_animal(config, index)
    source = animal.population
    duration_s = float(source.intervals[0, 1])
    offsets = (np.arange(source.n_units) % n_planes) / (n_planes * sampling_rate_hz)
    rng = np.random.default_rng([config.seed, index, 7002])
    values = fluorescence(rng, animal.clean, source.n_units, duration_s, sampling_rate_hz, offsets)
    hidden = ("quality", "depth_um")
    return Population(
        subject=source.subject,
        session=source.session,
        units={name: column for name, column in source.units.items() if name not in hidden},
        intervals=source.intervals,
        calcium=CalciumTraces(
            values=values,
            timestamps=np.arange(len(values)) / sampling_rate_hz,
            sampling_rate_hz=sampling_rate_hz,
            time_offset=offsets,
        ),
        attributes=source.attributes,
        notes=source.notes,
    )


def _composition(
    rng: np.random.Generator, regions: tuple[Region, ...], n_units: int
) -> tuple[NDArray[np.str_], NDArray[np.str_]]:
    """Cell type and region of every unit, regions in order of depth, none of them empty."""
    shares = np.array([region.fraction for region in regions])
    counts = 1 + rng.multinomial(n_units - len(regions), shares / shares.sum())
    types: list[str] = []
    names: list[str] = []
    for region, count in zip(regions, counts.tolist(), strict=True):
        weights = np.array([profile.fraction for profile in region.cells.values()])
        types += rng.choice(list(region.cells), size=count, p=weights / weights.sum()).tolist()
        names += [region.name] * count
    return np.array(types), np.array(names)


def _sort(
    rng: np.random.Generator,
    trains: list[NDArray[np.int64]],
    brain_region: NDArray[np.str_],
    nuisance: AnimalNuisance,
) -> tuple[list[NDArray[np.int64]], NDArray[np.float64]]:
    """Apply sorting errors. Returns trains and each unit's share of foreign spikes, from one neighbour."""
    missed = np.clip(rng.exponential(nuisance.missed, len(trains)), 0.0, 0.5)
    contaminated = np.clip(rng.exponential(nuisance.contaminated, len(trains)), 0.0, 0.2)
    result = []
    for unit, own in enumerate(trains):
        others = np.flatnonzero(brain_region == brain_region[unit])
        others = others[others != unit]
        neighbour = trains[rng.choice(others)] if len(others) else own[:0]
        result.append(sorting_errors(rng, own, neighbour, missed[unit], contaminated[unit]))
    return result, contaminated


def _merge(trains: list[NDArray[np.int64]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """One list of samples in order of time, ties in order of units, and each spike's unit."""
    samples = np.concatenate(trains)
    unit_index = np.repeat(np.arange(len(trains)), [len(train) for train in trains])
    order = np.argsort(samples, kind="stable")
    return samples[order], unit_index[order]


def _units(
    rng: np.random.Generator,
    config: SimulationConfig,
    cell_type: NDArray[np.str_],
    brain_region: NDArray[np.str_],
    contaminated: NDArray[np.float64],
) -> dict[str, NDArray[np.str_] | NDArray[np.float64]]:
    n_units = len(cell_type)
    depth = np.sort(rng.uniform(0.0, 3000.0, n_units))
    return {
        "id": np.arange(n_units).astype(str),
        "cell_type": np.where(rng.random(n_units) < config.unlabelled, "", cell_type),
        "brain_region": np.where(rng.random(n_units) < config.unlabelled, "", brain_region),
        "quality": np.where(contaminated > _CONTAMINATED_MUA, "mua", "good"),
        "depth_um": np.round(depth, 1),
    }
