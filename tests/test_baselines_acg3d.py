"""The 3D autocorrelogram: known trains give known images, and a plain double loop gives the same numbers."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nuclr_cli.evaluation.rate_autocorrelogram import (
    LAG_EDGES_MS,
    N_RATES,
    rate_autocorrelogram,
    rates_at_spikes,
)
from nuclr_cli.testing.simulate import tiny_population

Floats = NDArray[np.float64]

EDGES_S = np.array(LAG_EDGES_MS) / 1000.0
MIDDLE_S = 0.5 * (EDGES_S[1:] + EDGES_S[:-1])


def image(times: NDArray[Any], intervals: list[tuple[float, float]]) -> Floats:
    """(rates, lags) Hz of one unit."""
    units = np.zeros(len(times), dtype=np.int64)
    table = rate_autocorrelogram(np.asarray(times, dtype=np.float64), units, 1, np.array(intervals))
    return 10 ** table.reshape(N_RATES, len(MIDDLE_S))


def poisson(rate: float, seconds: float, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    return np.sort(rng.uniform(0.0, seconds, rng.poisson(rate * seconds)))


def test_a_poisson_train_is_flat_at_its_rate() -> None:
    found = image(poisson(20.0, 3000.0), [(0.0, 3000.0)])
    np.testing.assert_allclose(found.mean(axis=0), 20.0, rtol=0.1)
    # Beyond the span that its rate is measured in, a Poisson train forgets it.
    np.testing.assert_allclose(found[:, MIDDLE_S > 0.25], 20.0, rtol=0.05)
    # Within that span each tenth has its own rate, at every lag.
    near = found[:, (MIDDLE_S > 0.01) & (MIDDLE_S < 0.1)]
    assert np.all(np.diff(near.mean(axis=1)) > 0)
    assert near[0].mean() < 14 < 27 < near[-1].mean()


def test_a_regular_train_has_teeth_at_multiples_of_its_period_in_every_tenth() -> None:
    found = image(0.0125 + 0.025 * np.arange(4000), [(0.0, 100.0)])
    n_teeth = np.array([sum(a <= 25 * k < b for k in range(1, 40)) for a, b in pairwise(LAG_EDGES_MS)])
    holds = n_teeth > 0
    expected = n_teeth / np.diff(EDGES_S)
    np.testing.assert_allclose(found[:, holds], np.tile(expected[holds], (N_RATES, 1)), rtol=0.06)
    assert np.all(found[:, ~holds] < 3.0)  # two pairs of shrinkage are all there is
    assert LAG_EDGES_MS[np.flatnonzero(holds)[0]] == 25


def test_a_refractory_period_shows_at_every_rate() -> None:
    rng = np.random.default_rng(1)
    times = np.cumsum(0.005 + rng.exponential(0.045, 40_000))
    found = image(times, [(0.0, times[-1] + 1.0)])
    inside, after = EDGES_S[1:] <= 0.005, (EDGES_S[:-1] >= 0.005) & (MIDDLE_S < 0.05)
    assert np.all(found[:, inside] < 0.7)  # two pairs of shrinkage are all there is
    assert np.all(found[:, after].min(axis=1) > 7 * found[:, inside].max(axis=1))
    np.testing.assert_allclose(found[:, -1], 20.0, rtol=0.1)


def test_slow_and_fast_states_are_told_apart_where_a_plain_autocorrelogram_mixes_them() -> None:
    parts = [
        poisson((4.0, 40.0)[state % 2], 10.0, seed=state) + 10.0 * state for state in range(100)
    ]  # ten seconds each
    found = image(np.concatenate(parts), [(0.0, 1000.0)])
    lags = (MIDDLE_S > 0.15) & (MIDDLE_S < 0.9)
    # One spike in eleven belongs to the slow state.
    assert found[0, lags].mean() < 12
    assert found[1:, lags].mean() == pytest.approx(40.0, rel=0.1)


def test_the_rate_at_a_spike_is_the_mean_inverse_interval() -> None:
    times = np.array([0.0, 0.1, 0.2, 0.25, 0.3, 0.7, 5.0, 5.05, 9.0])
    interval = np.array([0, 0, 0, 0, 0, 0, 1, 1, 2])
    found = rates_at_spikes(times, interval)
    assert found[0] == pytest.approx((1 + 0.25) / 0.125)  # 0.025 s of the interval from 0.1 to 0.2
    assert found[2] == pytest.approx((0.1 / 0.1 + 0.025 / 0.1 + 2 + 0.025 / 0.4) / 0.25)
    assert found[5] == pytest.approx((0.125 / 0.4) / 0.125)
    assert found[6] == found[7] == pytest.approx(1 / 0.05)  # the span ends with the interval
    assert found[8] == 0.0
    assert rates_at_spikes(np.empty(0), np.empty(0, dtype=np.int64)).shape == (0,)


def slowly(times: Floats, intervals: Floats) -> Floats:
    """The same image from its definition, spike by spike."""
    interval = np.array([np.flatnonzero((intervals[:, 0] <= t) & (t <= intervals[:, 1]))[0] for t in times])
    order = np.argsort(rates_at_spikes(times, interval), kind="stable")
    tenth = np.empty(len(times), dtype=int)
    tenth[order] = [10 * place // len(times) for place in range(len(times))]
    pairs, seconds = np.zeros((N_RATES, len(MIDDLE_S))), np.zeros((N_RATES, len(MIDDLE_S)))
    for i, t in enumerate(times):
        start, end = intervals[interval[i]]
        for b in range(len(MIDDLE_S)):
            low, high = EDGES_S[b], EDGES_S[b + 1]
            for j, other in enumerate(times):
                if j != i and interval[i] == interval[j] and low <= abs(other - t) + 1e-8 < high:
                    pairs[tenth[i], b] += 1
            seen = (end - t >= MIDDLE_S[b], t - start >= MIDDLE_S[b])
            seconds[tenth[i], b] += (high - low) * sum(map(int, seen))
    rate = (len(times) + 0.5) / (intervals[:, 1] - intervals[:, 0]).sum()
    return (pairs + 2.0) / (seconds + 2.0 / rate)


@pytest.mark.parametrize("seed", range(4))
def test_the_image_is_that_of_a_plain_double_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    intervals = np.array([[0.0, 1.3], [1.5, 1.9], [4.0, 7.0]])
    times = np.sort(rng.uniform(0.0, 7.0, 90)).round(3)  # equal times, and lags on edges
    inside = ((times[:, None] >= intervals[:, 0]) & (times[:, None] <= intervals[:, 1])).any(axis=1)
    found = image(times, [tuple(pair) for pair in intervals.tolist()])
    np.testing.assert_allclose(found, slowly(times[inside], intervals), rtol=1e-9)


def test_a_gap_adds_no_lag_and_no_rate() -> None:
    train = poisson(15.0, 200.0)
    whole = image(train, [(0.0, 200.0)])
    parted = np.concatenate([train[train < 100.0], train[train >= 100.0] + 0.3])
    split = image(parted, [(0.0, 100.0), (100.3, 200.3)])
    np.testing.assert_allclose(np.log(split), np.log(whole), atol=0.2)
    careless = image(parted, [(0.0, 200.3)])
    assert not np.array_equal(careless, split)


def test_a_silent_unit_and_one_with_few_spikes_are_finite_and_near_their_rate() -> None:
    assert image(np.empty(0), [(0.0, 100.0)]) == pytest.approx(np.full((10, 28), 0.005))
    few = image(np.array([1.0, 1.5, 9.0]), [(0.0, 10.0)])
    assert np.isfinite(few).all()
    assert few[9, 5] == pytest.approx(0.35, rel=0.3)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 20), shift=st.integers(-1000, 1000), data=st.data())
def test_shifting_time_changes_nothing_and_permuting_units_permutes_rows(
    seed: int, shift: int, data: st.DataObject
) -> None:
    pop = tiny_population(seed, n_units=6, intervals=[(0.0, 40.0), (100.0, 130.0)], silent_units=1)
    assert pop.spikes is not None
    times, units = pop.spikes.times, np.asarray(pop.spikes.unit_index, dtype=np.int64)
    order = np.array(data.draw(st.permutations(range(6))))
    plain = rate_autocorrelogram(times, units, 6, pop.intervals)
    moved = rate_autocorrelogram(times + shift, units, 6, pop.intervals + shift)
    np.testing.assert_allclose(moved, plain, rtol=1e-7, atol=1e-7)
    renamed = rate_autocorrelogram(times, order[units], 6, pop.intervals)
    np.testing.assert_array_equal(renamed[order], plain)


def test_time_run_backwards_gives_the_same_image() -> None:
    times = poisson(12.0, 120.0, seed=4)
    # Tenths of equal rates are dealt in the order of time; here no two rates are equal.
    one = image(times, [(0.0, 120.0)])
    other = image((120.0 - times)[::-1], [(0.0, 120.0)])
    np.testing.assert_allclose(other, one, rtol=1e-6)


def test_equal_rates_are_dealt_in_the_order_of_time_wherever_the_clock_starts() -> None:
    # Groups of twenty spikes 25 ms apart: those inside have one rate, but the groups drift apart.
    starts = np.cumsum(np.linspace(0.7, 0.9, 200))
    times = (starts[:, None] + 0.025 * np.arange(20)).ravel()
    plain = image(times, [(0.0, 200.0)])
    for shift in (0.1, 1000 / 3, 86_400.7):
        moved = image(times + shift, [(shift, 200.0 + shift)])
        np.testing.assert_allclose(moved, plain, rtol=1e-6)


def test_a_session_takes_about_a_second() -> None:
    rng = np.random.default_rng(0)
    times = np.sort(rng.uniform(0.0, 900.0, 540_000))
    units = rng.integers(0, 60, len(times))
    start = time.process_time()
    rate_autocorrelogram(times, units, 60, np.array([[0.0, 900.0]]))
    # 0.5 s on one core of 2026; a loop over spikes takes minutes.
    assert time.process_time() - start < 5.0
