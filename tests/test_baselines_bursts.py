"""Burst and population features: planted bursts and planted coupling come out as planted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nuclr_cli.evaluation.bursts import BURST_NAMES, burst_statistics, find_bursts
from nuclr_cli.evaluation.features import spike_features, trace_features

Floats = NDArray[np.float64]


def bursts_of(times: Any, interval: Any = None, duration_s: float = 100.0) -> dict[str, float]:
    times = np.asarray(times, dtype=np.float64)
    interval = np.zeros(len(times), dtype=np.int64) if interval is None else np.asarray(interval)
    rate = (len(times) + 0.5) / duration_s
    return dict(zip(BURST_NAMES, burst_statistics(times, interval, rate, duration_s).tolist(), strict=True))


def test_planted_bursts_give_their_share_rate_and_length() -> None:
    bursts = np.arange(0.5, 100.0, 1.0)[:, None] + 0.005 * np.arange(4)  # four spikes, once a second
    singles = np.arange(0.0, 100.0, 1.0)
    found = bursts_of(np.sort(np.concatenate([bursts.ravel(), singles])))
    assert found["burst_share"] == pytest.approx(0.8, abs=0.01)
    assert found["burst_rate_sqrt"] ** 2 == pytest.approx(1.0)
    assert np.exp(found["burst_length_log"]) == pytest.approx(4.0, abs=0.03)
    assert found["burst_share_log"] > 3
    assert found["burst_rate_log"] > 3


def test_a_burst_needs_three_spikes_each_within_ten_milliseconds_of_the_one_before() -> None:
    one_train = np.zeros(20, dtype=np.int64)
    times = np.cumsum([1.0, 0.009, 0.009, 1.0, 0.009, 1.0, 0.010, 0.010, 1.0, 0.002, 0.003, 0.009, 0.001])
    first, spikes = find_bursts(times, one_train[: len(times)])
    # Three spikes; a pair; three at exactly 10 ms, which is too far; five.
    assert first.tolist() == [0, 8]
    assert spikes.tolist() == [3, 5]
    assert find_bursts(times[:2], one_train[:2])[0].tolist() == []
    assert find_bursts(np.empty(0), np.empty(0, dtype=np.int64))[1].tolist() == []


def test_a_burst_never_spans_a_gap() -> None:
    times = [1.0, 1.004, 1.008, 5.0, 5.004, 5.008]
    assert find_bursts(np.array(times), np.array([0, 0, 1, 1, 1, 1]))[0].tolist() == [3]


@pytest.mark.parametrize("rate", [10.0, 30.0, 60.0])
def test_a_poisson_train_shows_the_bursts_of_a_poisson_process(rate: float) -> None:
    rng = np.random.default_rng(3)
    times = np.sort(rng.uniform(0.0, 2000.0, rng.poisson(rate * 2000)))
    found = bursts_of(times, duration_s=2000.0)
    p = 1 - np.exp(-0.01 * rate)
    assert found["burst_share"] == pytest.approx(1 - (1 - p) ** 2 * (1 + 2 * p), abs=0.01)
    assert found["burst_rate_sqrt"] ** 2 == pytest.approx(rate * (1 - p) * p**2, rel=0.15, abs=0.002)
    assert np.exp(found["burst_length_log"]) == pytest.approx(2 + 1 / (1 - p), rel=0.05)
    assert abs(found["burst_share_log"]) < 0.3
    assert abs(found["burst_rate_log"]) < 0.3


def test_a_silent_unit_has_no_bursts_however_long_the_recording_is() -> None:
    short, long = bursts_of([], duration_s=60.0), bursts_of([], duration_s=6000.0)
    for name in BURST_NAMES:
        assert short[name] == pytest.approx(long[name], abs=1e-3)
    assert short["burst_share"] == pytest.approx(0.0, abs=1e-6)
    assert np.exp(short["burst_length_log"]) == pytest.approx(3.0, abs=1e-3)


def features(trains: list[Floats], duration_s: float) -> dict[str, Floats]:
    times, units = np.concatenate(trains), np.repeat(np.arange(len(trains)), [len(t) for t in trains])
    order = np.argsort(times, kind="stable")
    table = spike_features(times[order], units[order], len(trains), np.array([[0.0, duration_s]]))
    return {name: table.values[:, i] for i, name in enumerate(table.names)}


def in_bins(rng: np.random.Generator, chance: Floats) -> Floats:
    """A spike in the middle of each 20 ms bin with that chance."""
    return np.flatnonzero(rng.random(len(chance)) < chance) * 0.02 + 0.01


def test_the_population_rate_at_a_units_spikes_does_not_depend_on_its_own_rate() -> None:
    rng = np.random.default_rng(5)
    # The population is at three times its rate in a fifth of all bins.
    up = rng.random(50_000) < 0.2
    drive = np.where(up, 3.0, 1.0)
    population = [in_bins(rng, 0.03 * drive) for _ in range(12)]
    trains = [in_bins(rng, share * up) for share in (0.4, 0.02)] + [in_bins(rng, np.full(50_000, 0.1))]
    found = features([*population, *trains], 1000.0)
    gain = found["population_at_spikes_log"][12:]
    # Up bins hold 3 / (0.2 x 3 + 0.8 x 1) of the mean; the two followers add a little to each other's.
    assert gain[:2] == pytest.approx(np.log(3.0 / 1.4), abs=0.25)
    assert gain[0] == pytest.approx(gain[1], abs=0.25)
    assert abs(gain[2]) < 0.05
    coupling = found["coupling_0.02s"][12:]
    assert coupling[0] > 2 * coupling[1] > 10 * abs(coupling[2])  # the correlation does depend on the rate


def test_a_unit_is_left_out_of_its_own_population() -> None:
    rng = np.random.default_rng(6)
    loud = in_bins(rng, np.full(20_000, 0.5))
    faint = [in_bins(rng, np.full(20_000, 0.01)) for _ in range(3)]
    found = features([loud, *faint], 400.0)
    # Nearly all spikes are the first unit's: with itself in the population, it would be coupled to 1.
    for name in ("coupling_0.02s", "population_at_spikes_log"):
        assert abs(found[name][0]) < 0.1, name
    alone = features([loud], 400.0)
    assert alone["coupling_0.02s"][0] == alone["population_at_spikes_log"][0] == 0.0


def test_the_coupling_of_one_unit_is_the_correlation_with_the_sum_of_the_others() -> None:
    rng = np.random.default_rng(7)
    trains = [np.sort(rng.uniform(0.0, 40.0, n)) for n in (300, 80, 500)]
    found = features(trains, 40.0)
    for bin_s in (0.02, 0.2, 2.0):
        edges = np.arange(round(40.0 / bin_s) + 1) * bin_s
        counts = np.array([np.histogram(train, edges)[0] for train in trains])
        for unit in range(3):
            others = np.delete(counts, unit, axis=0).sum(axis=0)
            expected = np.corrcoef(counts[unit], others)[0, 1]
            assert found[f"coupling_{bin_s:g}s"][unit] == pytest.approx(expected)


@settings(max_examples=10, deadline=None)
@given(shift=st.integers(-1000, 1000), seed=st.integers(0, 20), data=st.data())
def test_bursts_and_coupling_follow_the_units_and_ignore_the_clock(
    shift: int, seed: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    starts = rng.uniform(0.0, 30.0, 60)
    times = np.sort(np.concatenate([starts + gap for gap in (0.0, 0.004, 0.008, 2.0)]))
    units = rng.integers(0, 5, len(times))
    intervals = np.array([[0.0, 12.5], [13.0, 33.0]])
    order = np.array(data.draw(st.permutations(range(5))))
    plain = spike_features(times, units, 5, intervals)
    columns = [
        i for i, name in enumerate(plain.names) if name.startswith(("burst", "coupling", "population"))
    ]
    assert len(columns) == 9
    moved = spike_features(times + shift, units, 5, intervals + shift)
    np.testing.assert_allclose(moved.values[:, columns], plain.values[:, columns], rtol=1e-7, atol=1e-9)
    renamed = spike_features(times, order[units], 5, intervals)
    np.testing.assert_array_equal(renamed.values[order][:, columns], plain.values[:, columns])


def test_the_coupling_of_traces_is_the_correlation_with_the_mean_of_the_others() -> None:
    rng = np.random.default_rng(8)
    shared = rng.normal(size=4000)
    gains, scales = np.array([2.0, 1.0, 0.0, -1.0]), np.array([1.0, 50.0, 0.1, 3.0])
    values = (shared[:, None] * gains + rng.normal(size=(4000, 4))) * scales
    table = trace_features(values, np.arange(4000) / 20.0, 20.0)
    coupling = table.values[:, table.names.index("coupling")]
    scaled = (values - values.mean(axis=0)) / values.std(axis=0)
    for unit in range(4):
        others = np.delete(scaled, unit, axis=1).sum(axis=1)
        assert coupling[unit] == pytest.approx(np.corrcoef(scaled[:, unit], others)[0, 1])
