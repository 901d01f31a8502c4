"""Simulated animals have the statistics that their docstrings promise, and repeat exactly."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from nuclr_cli.errors import InputError
from nuclr_cli.testing.cell_types import CELL_TYPES, REGIONS
from nuclr_cli.testing.latents import GRID_S, draw_latents
from nuclr_cli.testing.simulate import SimulatedAnimal, SimulationConfig, simulate_animal, simulate_calcium
from nuclr_cli.testing.spiking import draw_nuisance, draw_train, refractory, sorting_errors

CONFIG = SimulationConfig(n_animals=4, units_per_animal=60, minutes=4.0, seed=5)


@cache
def animal(index: int) -> SimulatedAnimal:
    return simulate_animal(CONFIG, index)


@cache
def pool() -> tuple[NDArray[np.str_], NDArray[np.str_], NDArray[np.float64], NDArray[np.float64]]:
    """Cell type, region, rate and correlation with arousal (2 s bins) of the true trains of all animals."""
    types, regions, rates, states = [], [], [], []
    for index in range(CONFIG.n_animals):
        one = animal(index)
        bins = np.arange(0.0, 240.1, 2.0)
        arousal = one.arousal.reshape(len(bins) - 1, -1).mean(axis=1)
        for unit in range(60):
            counts = np.histogram(one.clean.times[one.clean.unit_index == unit], bins)[0]
            rates.append(counts.sum() / 240.0)
            states.append(np.corrcoef(counts, arousal)[0, 1] if counts.any() else 0.0)
        types.append(one.cell_type)
        regions.append(one.brain_region)
    return np.concatenate(types), np.concatenate(regions), np.array(rates), np.array(states)


def test_an_animal_is_a_function_of_seed_and_index_whatever_the_number_of_animals() -> None:
    config = SimulationConfig(n_animals=1, units_per_animal=60, minutes=4.0, seed=5)
    again = simulate_animal(config, 0)
    np.testing.assert_array_equal(again.samples, animal(0).samples)
    for name, column in animal(0).population.units.items():
        np.testing.assert_array_equal(again.population.units[name], column)
    assert len(animal(1).samples) != len(again.samples)
    reseeded = simulate_animal(SimulationConfig(n_animals=1, units_per_animal=60, minutes=4.0, seed=6), 0)
    assert len(reseeded.samples) != len(again.samples)


def test_spikes_are_whole_samples_sorted_and_inside_the_recording() -> None:
    one = animal(0)
    spikes = one.population.spikes
    assert spikes is not None
    assert np.all(np.diff(spikes.times) >= 0)
    assert spikes.times.min() >= 0
    assert spikes.times.max() < one.population.intervals[0, 1] == pytest.approx(240.0)
    np.testing.assert_array_equal(np.round(spikes.times * one.fs_hz), one.samples)
    assert spikes.unit_index.max() < one.population.n_units == 60


def test_labels_are_the_truth_or_empty() -> None:
    for index in range(CONFIG.n_animals):
        one = animal(index)
        for name, truth in (("cell_type", one.cell_type), ("brain_region", one.brain_region)):
            shown = one.population.units[name]
            assert np.all((shown == truth) | (shown == ""))
    hidden = np.mean([np.mean(animal(i).population.units["cell_type"] == "") for i in range(4)])
    assert 0.03 < hidden < 0.2


def test_rates_are_log_normal_over_about_two_decades() -> None:
    rates = pool()[2]
    log = np.log10(rates[rates > 0])
    low, high = np.quantile(log, (0.01, 0.99))
    assert 1.3 < high - low < 3.2
    skewness = np.mean(((log - log.mean()) / log.std()) ** 3)
    assert abs(skewness) < 0.7
    assert np.mean((rates - rates.mean()) ** 3) / rates.std() ** 3 > 1.0


def test_types_differ_as_documented_yet_their_rates_overlap() -> None:
    types, regions, rates, states = pool()
    overlap = {}
    for region in ("VISp", "CA1"):
        here = regions == region
        excitatory, fast = rates[here & (types == "excitatory")], rates[here & (types == "PV")]
        assert np.median(fast) > 1.5 * np.median(excitatory)
        overlap[region] = np.mean(excitatory[:, None] > fast)
    # By the table a cortical excitatory unit out-fires a PV unit in 22% of pairs, one of CA1 in 4%.
    assert 0.1 < overlap["VISp"] < 0.4
    assert overlap["CA1"] < 0.15
    cortex = regions == "VISp"
    assert states[cortex & (types == "VIP")].mean() > states[cortex & (types == "SST")].mean() + 0.15
    assert states[cortex & (types == "SST")].mean() < 0.0
    assert set(types[regions == "TH"]) == {"excitatory"}
    assert set(types) == set(CELL_TYPES)


def test_pv_cells_follow_their_population_more_than_vip_cells() -> None:
    coupling: dict[str, list[float]] = {"PV": [], "VIP": []}
    for index in range(CONFIG.n_animals):
        one = animal(index)
        here = np.flatnonzero(one.brain_region == "VISp")
        bins = np.arange(0.0, 240.1, 0.1)
        counts = np.stack(
            [np.histogram(one.clean.times[one.clean.unit_index == unit], bins)[0] for unit in here]
        )
        total = counts.sum(axis=0)
        for place, unit in enumerate(here):
            if one.cell_type[unit] in coupling and counts[place].any():
                r = np.corrcoef(counts[place], total - counts[place])[0, 1]
                coupling[one.cell_type[unit]].append(r)
    assert np.mean(coupling["PV"]) > np.mean(coupling["VIP"]) + 0.05


def test_ca1_units_ride_on_theta_at_the_phase_of_their_type() -> None:
    rng = np.random.default_rng(1)
    region = REGIONS["CA1"]
    latents = draw_latents(rng, (region,), 300.0)
    rhythm = latents.regions["CA1"].rhythms["theta"]
    lead = len(rhythm.cosine) - round(300.0 / GRID_S)
    means = {}
    for name in ("excitatory", "PV"):
        vectors = []
        for _ in range(12):
            train = draw_train(rng, region, region.cells[name], latents, draw_nuisance(rng), 30_000.0)
            place = lead + (train.samples / 30_000.0 / GRID_S).astype(np.int64)
            phase = np.arctan2(rhythm.sine[place], rhythm.cosine[place])
            vectors.append(np.exp(1j * phase).mean())
        means[name] = np.rad2deg(np.angle(np.mean(vectors)))
    assert abs((means["excitatory"] - 20 + 180) % 360 - 180) < 40
    assert abs((means["PV"] - 271 + 180) % 360 - 180) < 40


def test_no_interval_is_below_the_refractory_period_before_sorting_errors() -> None:
    rng = np.random.default_rng(2)
    regions = tuple(REGIONS.values())
    latents = draw_latents(rng, regions, 60.0)
    nuisance = draw_nuisance(rng)
    for region in regions:
        for profile in region.cells.values():
            train = draw_train(rng, region, profile, latents, nuisance, 30_000.0)
            assert 0.0006 <= train.refractory_s <= 0.005
            assert np.all(np.diff(train.samples) >= train.refractory_s * 30_000)
            assert len(np.unique(train.samples)) == len(train.samples)


def test_thalamic_bursts_follow_silence() -> None:
    rng = np.random.default_rng(3)
    region = REGIONS["TH"]
    latents = draw_latents(rng, (region,), 300.0)
    relay = replace(region.cells["excitatory"], rate_sigma=0.0)
    ratios = []
    for profile in (relay, replace(relay, burst_probability=0.0)):
        after_silence, elsewhere = [], []
        for _ in range(8):
            train = draw_train(rng, region, profile, latents, draw_nuisance(rng), 30_000.0)
            isi = np.diff(train.samples) / 30_000.0
            after_silence.append(np.mean(isi[1:][isi[:-1] > 0.1] < 0.006))
            elsewhere.append(np.mean(isi[1:][(isi[:-1] < 0.1) & (isi[:-1] > 0.01)] < 0.006))
        ratios.append(np.mean(after_silence) / np.mean(elsewhere))
    assert ratios[0] > 2.0
    assert ratios[1] < 1.0


def test_refractory_keeps_the_first_of_each_cluster() -> None:
    samples = np.array([0, 5, 9, 10, 30, 36, 41, 100])
    np.testing.assert_array_equal(refractory(samples, 10), [0, 10, 30, 41, 100])
    assert len(refractory(samples[:0], 10)) == 0


def test_sorting_errors_lose_and_add_the_asked_share() -> None:
    rng = np.random.default_rng(0)
    own, neighbour = np.arange(0, 40_000, 2), np.arange(1, 40_001, 2)
    result = sorting_errors(rng, own, neighbour, missed=0.3, contaminated=0.1)
    assert np.sum(result % 2 == 0) == pytest.approx(14_000, rel=0.05)
    assert np.sum(result % 2 == 1) == pytest.approx(2_000, rel=0.15)
    assert np.all(np.diff(result) > 0)
    np.testing.assert_array_equal(sorting_errors(rng, own, own[:0], 0.0, 0.5), own)


def test_a_unit_without_spikes_stays_in_the_table() -> None:
    config = SimulationConfig(n_animals=1, units_per_animal=200, minutes=1 / 60, seed=0)
    one = simulate_animal(config, 0)
    assert len(np.unique(one.clean.unit_index)) < 200
    assert one.population.n_units == 200
    assert len(one.population.units["cell_type"]) == 200


@pytest.mark.parametrize(
    "options",
    [
        {"n_animals": 0},
        {"units_per_animal": 2},
        {"minutes": 0.0},
        {"seed": -1},
        {"regions": ("VISp", "Atlantis")},
        {"regions": ()},
        {"regions": ("VISp", "VISp")},
        {"unlabelled": 1.0},
        {"fs_hz": 10.0},
    ],
)
def test_impossible_simulations_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(InputError, match="expected"):
        SimulationConfig(**options)  # type: ignore[arg-type]


def test_animals_are_counted_from_zero() -> None:
    with pytest.raises(InputError, match="there are 4"):
        simulate_animal(CONFIG, 4)


def test_calcium_shows_the_same_units_and_follows_their_spikes() -> None:
    config = SimulationConfig(n_animals=1, units_per_animal=20, minutes=2.0, seed=1, regions=("VISp",))
    imaged, recorded = (
        simulate_calcium(config, 0, sampling_rate_hz=15.0, n_planes=3),
        simulate_animal(config, 0),
    )
    traces = imaged.calcium
    assert traces is not None
    assert imaged.spikes is None
    assert traces.values.shape == (1800, 20)
    assert np.isfinite(traces.values).all()
    np.testing.assert_array_equal(imaged.units["cell_type"], recorded.population.units["cell_type"])
    np.testing.assert_allclose(traces.time_offset[:4], [0.0, 1 / 45, 2 / 45, 0.0])
    follow = []
    for unit in range(20):
        counts = np.histogram(
            recorded.clean.times[recorded.clean.unit_index == unit], np.arange(0, 120.1, 0.5)
        )[0]
        means = traces.values[:, unit][: 240 * 7].reshape(240, 7).mean(axis=1)
        frames = np.interp((np.arange(240) + 0.5) * 7 / 15, np.arange(240) * 0.5 + 0.25, counts)
        follow.append(np.corrcoef(means, frames)[0, 1])
    assert np.median(follow) > 0.3
