"""Unit features: known trains give known numbers, and nothing but the spikes inside the intervals counts."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nuclr_cli.evaluation.activity import COUNT_EDGES, binned_descriptor
from nuclr_cli.evaluation.features import spike_features
from nuclr_cli.testing.simulate import tiny_population

Floats = NDArray[np.float64]


def one_unit(times: NDArray[Any], intervals: list[tuple[float, float]]) -> dict[str, float]:
    table = spike_features(times, np.zeros(len(times), dtype=np.int64), 1, np.array(intervals))
    return dict(zip(table.names, table.values[0].tolist(), strict=True))


def population(seed: int = 0) -> tuple[Floats, NDArray[np.int64], int, Floats]:
    pop = tiny_population(seed, n_units=8, intervals=[(0.0, 40.0), (100.0, 160.0)], silent_units=1)
    assert pop.spikes is not None
    return pop.spikes.times, np.asarray(pop.spikes.unit_index, dtype=np.int64), 8, pop.intervals


def poisson(rate: float, seconds: float, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    return np.sort(rng.uniform(0.0, seconds, rng.poisson(rate * seconds)))


def test_a_poisson_train_has_the_values_of_a_poisson_process() -> None:
    found = one_unit(poisson(10.0, 2000.0), [(0.0, 2000.0)])
    assert found["rate_log10"] == pytest.approx(1.0, abs=0.01)
    for name in ("isi_cv", "isi_cv2", "isi_lv"):
        assert found[name] == pytest.approx(1.0, abs=0.05)
    assert found["isi_median_log"] == pytest.approx(np.log(np.log(2) / 10), abs=0.05)
    assert found["isi_mean_log"] == pytest.approx(-np.euler_gamma - np.log(10), abs=0.05)
    assert found["isi_sd_log"] == pytest.approx(np.pi / np.sqrt(6), abs=0.03)
    for name, value in found.items():
        if name.startswith(("acg_", "acf_", "fano_", "isi_below", "isi_above")):
            assert abs(value) < 0.25, name


def test_a_regular_train_has_no_variability_and_a_peaked_autocorrelogram() -> None:
    found = one_unit(0.0105 + 0.021 * np.arange(5000), [(0.0, 105.0)])
    assert found["isi_cv"] < 0.01
    assert found["isi_lv"] < 0.01
    assert found["isi_median_log"] == pytest.approx(np.log(0.021), abs=0.01)
    expected = 5000 * (1 / 0.021) * 0.005
    assert found["acg_20_25ms"] == pytest.approx(np.log(5001 / (expected + 2)), abs=0.01)
    assert found["acg_15_20ms"] < -6
    assert found["acg_10_12ms"] < -5
    assert found["fano_2s_log"] < -3


def test_bursts_show_in_short_intervals() -> None:
    starts = poisson(2.0, 1000.0)
    bursting = np.sort(np.concatenate([starts, starts + 0.0045]))
    bursting = bursting[bursting < 1000.0]
    found, plain = one_unit(bursting, [(0.0, 1000.0)]), one_unit(poisson(4.0, 1000.0), [(0.0, 1000.0)])
    assert found["isi_below_6ms_log"] > plain["isi_below_6ms_log"] + 2
    assert found["acg_4_5ms"] > 3
    assert found["acg_6_8ms"] < 1
    assert found["isi_cv"] > 1.2


def test_followers_of_a_shared_drive_are_coupled_and_an_independent_unit_is_not() -> None:
    rng = np.random.default_rng(4)
    up = np.repeat(rng.random(300) < 0.5, 200)
    trains = [np.flatnonzero(rng.random(60_000) < 0.01 + 0.04 * up) / 100.0 for _ in range(5)]
    trains.append(poisson(3.0, 600.0, seed=9))
    times, units = np.concatenate(trains), np.repeat(np.arange(6), [len(t) for t in trains])
    order = np.argsort(times, kind="stable")
    table = spike_features(times[order], units[order], 6, np.array([[0.0, 600.0]]))
    coupling = table.values[:, table.names.index("coupling_2s")]
    assert coupling[:5].min() > 0.5
    assert abs(coupling[5]) < 0.2
    fano = table.values[:, table.names.index("fano_2s_log")]
    assert fano[:5].min() > fano[5] + 0.5


def test_a_gap_adds_no_interval_no_lag_and_no_rate() -> None:
    train = poisson(8.0, 300.0)
    whole = one_unit(train, [(0.0, 300.0)])
    # The same spikes with 500 s of nothing between two halves, cut at a bin's edge.
    parted = np.concatenate([train[train < 150.0], train[train >= 150.0] + 500.0])
    split = one_unit(parted, [(0.0, 150.0), (650.0, 800.0)])
    for name, value in whole.items():
        assert split[name] == pytest.approx(value, abs=0.03), name
    careless = one_unit(parted, [(0.0, 800.0)])
    assert careless["isi_cv"] > 2 * whole["isi_cv"]
    few = one_unit(np.array([1.0, 1.5, 9.0, 9.5]), [(0.0, 2.0), (8.0, 10.0)])
    # Two intervals of 0.5 s and none of 7.5 s, at 4.5 spikes in 4 s.
    assert few["isi_above_1s_log"] == pytest.approx(-np.log(2 * np.exp(-4.5 / 4) + 1))


def test_spikes_outside_the_intervals_do_not_count() -> None:
    times, units, n, intervals = population()
    extra = np.array([-5.0, 50.0, 70.0, 170.0])
    more = np.concatenate([times, extra])
    order = np.argsort(more, kind="stable")
    with_extra = spike_features(more[order], np.concatenate([units, [0, 1, 2, 3]])[order], n, intervals)
    np.testing.assert_array_equal(with_extra.values, spike_features(times, units, n, intervals).values)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 20), shift=st.integers(-1000, 1000), data=st.data())
def test_shifting_time_changes_nothing_and_permuting_units_permutes_rows(
    seed: int, shift: int, data: st.DataObject
) -> None:
    times, units, n, intervals = population(seed)
    order = np.array(data.draw(st.permutations(range(n))))
    for measure in (lambda *a: spike_features(*a).values, binned_descriptor):
        plain = measure(times, units, n, intervals)
        moved = measure(times + shift, units, n, intervals + shift)
        np.testing.assert_allclose(moved, plain, rtol=1e-6, atol=1e-6)
        renamed = measure(times, order[units], n, intervals)
        np.testing.assert_allclose(renamed[order], plain, rtol=1e-9, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(
    spikes=st.lists(st.tuples(st.floats(0.0, 3.0), st.integers(0, 2)), max_size=12),
    lengths=st.lists(st.floats(0.001, 1.0), min_size=1, max_size=4),
)
def test_every_value_is_finite_for_however_few_spikes(
    spikes: list[tuple[float, int]], lengths: list[float]
) -> None:
    spikes.sort()
    times = np.array([t for t, _ in spikes], dtype=np.float64)
    units = np.array([u for _, u in spikes], dtype=np.int64)
    starts = np.cumsum([0.0, *lengths[:-1]]) + 0.1 * np.arange(len(lengths))
    intervals = np.stack([starts, starts + lengths], axis=1)
    table = spike_features(times, units, 3, intervals)
    assert table.values.shape == (3, len(table.names))
    assert np.isfinite(table.values).all()
    assert np.isfinite(binned_descriptor(times, units, 3, intervals)).all()


def test_a_silent_unit_looks_like_a_slow_poisson_process() -> None:
    found = one_unit(np.empty(0), [(0.0, 100.0)])
    assert found["rate_log10"] == pytest.approx(np.log10(0.005))
    assert found["isi_cv"] == 1.0
    assert found["coupling_2s"] == found["acf_0.3_0.5s"] == found["acg_4_5ms"] == found["fano_2s_log"] == 0.0


def test_columns_are_named_once_and_the_same_for_every_population() -> None:
    times, units, n, intervals = population()
    one = spike_features(times, units, n, intervals)
    other = spike_features(times[:50], units[:50], n, np.array([[0.0, 1.0]]))
    assert one.names == other.names
    assert len(set(one.names)) == len(one.names) == one.values.shape[1]


@pytest.mark.parametrize(
    ("times", "units", "intervals"),
    [
        ([2.0, 1.0], [0, 0], [(0.0, 5.0)]),
        ([1.0, 2.0], [0, 4], [(0.0, 5.0)]),
        ([1.0, 2.0], [0], [(0.0, 5.0)]),
        ([1.0, 2.0], [0, 0], []),
        ([1.0, 2.0], [0, 0], [(5.0, 5.0)]),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    times: list[float], units: list[int], intervals: list[tuple[float, float]]
) -> None:
    with pytest.raises(ValueError, match="must"):
        spike_features(np.array(times), np.array(units), 2, np.array(intervals).reshape(-1, 2))


def test_descriptor_of_an_alternating_train() -> None:
    # One spike in every other 20 ms bin: autocorrelation -1, +1, -1, ...
    times = np.linspace(0.01, 99.97, 2500, dtype=np.float64)
    table = binned_descriptor(times, np.zeros(2500, dtype=np.int64), 2, np.array([[0.0, 100.0]]))
    np.testing.assert_allclose(table[0, :100], np.tile([-1.0, 1.0], 50), atol=1e-9)
    tenth = table[0, 100 : 100 + len(COUNT_EDGES)] ** 2
    assert tenth[2] + tenth[3] == pytest.approx(1.0)
    second = table[0, 100 + len(COUNT_EDGES) :] ** 2
    assert second[COUNT_EDGES.index(23)] == pytest.approx(1.0)
    np.testing.assert_array_equal(table[1, :100], 0.0)
    assert table[1, 100] == table[1, 100 + len(COUNT_EDGES)] == 1.0


def test_descriptor_lags_do_not_cross_a_gap() -> None:
    rng = np.random.default_rng(0)
    # Busy in the first interval, quiet in the second: every in-interval pair agrees, pairs across would not.
    busy = np.sort(rng.uniform(0.0, 10.0, 400))
    quiet = np.sort(rng.uniform(1000.0, 1010.0, 20))
    times = np.concatenate([busy, quiet])
    table = binned_descriptor(
        times, np.zeros(len(times), dtype=np.int64), 1, np.array([[0.0, 10.0], [1000.0, 1010.0]])
    )
    counts = [
        np.histogram(busy, np.arange(0, 10.01, 0.02))[0],
        np.histogram(quiet - 1000, np.arange(0, 10.01, 0.02))[0],
    ]
    mean = np.concatenate(counts).mean()
    variance = np.concatenate(counts).var()
    for lag in (1, 7, 100):
        products = np.concatenate([(c[lag:] - mean) * (c[:-lag] - mean) for c in counts])
        assert table[0, lag - 1] == pytest.approx(products.mean() / variance, abs=1e-9)


def test_a_session_takes_about_a_second() -> None:
    rng = np.random.default_rng(0)
    times = np.sort(rng.uniform(0.0, 900.0, 540_000))
    units = rng.integers(0, 60, len(times))
    start = time.perf_counter()
    spike_features(times, units, 60, np.array([[0.0, 900.0]]))
    # 0.4 s on one core of 2026; the margin is for a busy machine.
    assert time.perf_counter() - start < 5.0
