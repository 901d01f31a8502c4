"""Fluorescence features."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import lfilter

from nuclr_cli.evaluation.features import trace_features
from nuclr_cli.testing.simulate import tiny_calcium

RATE = 20.0


def columns(values: NDArray[np.float64], stamps: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    table = trace_features(values, stamps, RATE)
    assert np.isfinite(table.values).all()
    return {name: table.values[:, i] for i, name in enumerate(table.names)}


def test_white_noise_and_slow_noise_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    white = rng.normal(2.0, 0.5, 20_000)
    keep = np.exp(-1 / RATE)
    slow = lfilter([np.sqrt(1 - keep**2)], [1, -keep], rng.normal(size=20_000))
    found = columns(np.stack([white, slow], axis=1), np.arange(20_000) / RATE)
    assert found["mean"][0] == pytest.approx(2.0, abs=0.02)
    assert np.exp(found["sd_log"][0]) == pytest.approx(0.5, rel=0.03)
    assert np.exp(found["noise_log"][0]) == pytest.approx(0.5, rel=0.05)
    assert abs(found["skewness"][0]) < 0.1
    assert abs(found["acf_1s"][0]) < 0.05
    assert found["acf_1s"][1] == pytest.approx(np.exp(-1), abs=0.12)


def test_events_are_counted() -> None:
    rng = np.random.default_rng(1)
    trace = rng.normal(0.0, 0.05, 12_000)
    for start in range(100, 12_000, 200):
        trace[start : start + 20] += 1.0
    found = columns(np.stack([trace, rng.normal(size=12_000)], axis=1), np.arange(12_000) / RATE)
    assert np.exp(found["event_rate_log"][0]) == pytest.approx(0.1, rel=0.4)
    assert found["skewness"][0] > 1.0


def test_lags_and_steps_do_not_cross_a_gap() -> None:
    rng = np.random.default_rng(2)
    values = np.cumsum(rng.normal(size=(400, 2)), axis=0)
    jumped = np.concatenate([values, values + 1000.0])
    # A level change across a gap is no step: the noise estimate stays.
    stamps = np.concatenate([np.arange(400) / RATE, 500 + np.arange(400) / RATE])
    found, alone = columns(jumped, stamps), columns(values, stamps[:400])
    np.testing.assert_allclose(found["noise_log"], alone["noise_log"], atol=1e-9)
    assert np.all(found["acf_4s"] > 0.9)
    joined = columns(jumped, np.arange(800) / RATE)
    assert np.all(joined["acf_4s"] < found["acf_4s"])


def test_a_constant_trace_and_a_single_unit_give_finite_values() -> None:
    found = columns(np.ones((100, 1)), np.arange(100) / RATE)
    assert found["coupling"][0] == found["skewness"][0] == found["acf_1s"][0] == 0.0


def test_rows_follow_units_and_coupled_units_stand_out() -> None:
    pop = tiny_calcium(0, n_units=12, minutes=10.0, sampling_rate_hz=RATE)
    assert pop.calcium is not None
    order = np.random.default_rng(0).permutation(12)
    one = trace_features(pop.calcium.values, pop.calcium.timestamps, RATE)
    other = trace_features(pop.calcium.values[:, order], pop.calcium.timestamps, RATE)
    np.testing.assert_allclose(other.values, one.values[order], rtol=1e-6, atol=1e-9)
    coupling = one.values[:, one.names.index("coupling")]
    inhibitory = np.arange(12) % 3 == 0
    assert coupling[inhibitory].mean() > coupling[~inhibitory].mean()


def test_fewer_than_two_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="at least two"):
        trace_features(np.ones((1, 3)), np.array([0.0]), RATE)
