"""Resampling of traces: constants, means, ramps and per-unit offsets survive, at any frame rate."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nuclr_cli.api import CalciumTraces
from nuclr_cli.data.resample import resample_traces
from nuclr_cli.data.tokens import CalciumTokens

TOKENS = CalciumTokens()
PERIOD = TOKENS.period_s
RATES = st.floats(0.5, 120.0)


def traces(
    values: NDArray[np.float64],
    rate_hz: float,
    first_s: float = 0.0,
    offset: NDArray[np.float64] | None = None,
) -> CalciumTraces:
    """(T, N) values on a regular clock."""
    times = first_s + np.arange(len(values)) / rate_hz
    offset = np.zeros(values.shape[1]) if offset is None else offset
    return CalciumTraces(values.astype(np.float32), times, rate_hz, offset)


@settings(deadline=None)
@given(RATES, st.floats(0, 60), st.floats(-1e3, 1e3), st.integers(0, 2**31))
def test_constant_traces_stay_constant(rate_hz: float, start_s: float, value: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    constant = np.full((int(100 * rate_hz) + 2, 3), value)
    calcium = traces(constant, rate_hz, offset=rng.uniform(0, 1 / rate_hz, 3))
    samples = resample_traces(calcium, start_s, TOKENS)
    assert samples.shape == (3, 128)
    assert samples.dtype == np.float32
    smallest_normal = float(np.finfo(np.float32).tiny)  # below it a float32 has no relative precision
    assert np.allclose(samples, np.float32(value), rtol=1e-6, atol=smallest_normal)


def test_frames_at_the_period_pass_unchanged() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(500, 4))
    for first_s, frame in ((0.0, 0), (0.0, 100), (1234.5, 37), (1e5, 372)):
        calcium = traces(values, 1 / PERIOD, first_s)
        samples = resample_traces(calcium, float(calcium.timestamps[frame]), TOKENS)
        assert np.allclose(samples, calcium.values[frame : frame + 128].T, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("factor", [2, 3, 7])
def test_whole_factors_average_their_frames(factor: int) -> None:
    values = np.random.default_rng(1).normal(size=(128 * factor + 50, 5))
    calcium = traces(values, factor / PERIOD)
    samples = resample_traces(calcium, float(calcium.timestamps[10]), TOKENS)
    means = values[10 : 10 + 128 * factor].reshape(128, factor, 5).mean(axis=1).T
    assert np.allclose(samples, means, atol=1e-5)


@settings(deadline=None)
@given(st.floats(1.0, 30.0), st.floats(1.0, 5.0), st.integers(0, 2**31))
def test_going_down_keeps_the_time_average(factor: float, start_s: float, seed: int) -> None:
    rate_hz = factor / PERIOD
    values = np.random.default_rng(seed).normal(size=(int(40 * rate_hz), 2))
    calcium = traces(values, rate_hz)
    samples = resample_traces(calcium, start_s, TOKENS)
    # Integral of the trace that holds each frame until the next.
    edges = np.clip(calcium.timestamps, start_s, start_s + TOKENS.window_s)
    held = np.diff(np.append(edges, start_s + TOKENS.window_s))
    wanted = (held[:, None] * calcium.values).sum(axis=0) / TOKENS.window_s
    assert np.allclose(samples.mean(axis=1), wanted, atol=1e-5)


@settings(deadline=None)
@given(st.floats(0.5, 0.99 / PERIOD), st.floats(3, 50))
def test_going_up_reproduces_a_ramp(rate_hz: float, start_s: float) -> None:
    values = np.arange(int(100 * rate_hz))[:, None] / rate_hz
    samples = resample_traces(traces(values, rate_hz), start_s, TOKENS)
    assert np.allclose(samples[0], start_s + PERIOD * np.arange(128), atol=1e-4)


@settings(deadline=None)
@given(st.floats(1.0, 40.0), st.floats(3, 50))
def test_going_down_reproduces_a_ramp_within_a_frame(factor: float, start_s: float) -> None:
    rate_hz = factor / PERIOD
    values = np.arange(int(90 * rate_hz))[:, None] / rate_hz
    samples = resample_traces(traces(values, rate_hz), start_s, TOKENS)
    # The frames that fall in [t, t + period) lie, in the mean, at t + (period - frame) / 2.
    wanted = start_s + PERIOD * np.arange(128) + (PERIOD - 1 / rate_hz) / 2
    assert np.allclose(samples[0], wanted, atol=1 / rate_hz / 4 + 1e-4)


@settings(deadline=None)
@given(RATES, st.floats(1, 30), st.floats(-0.9, 0.9))
def test_an_offset_is_a_later_clock(rate_hz: float, start_s: float, share: float) -> None:
    values = np.random.default_rng(3).normal(size=(int(80 * rate_hz) + 2, 4))
    offset = share / rate_hz
    with_offset = traces(values, rate_hz, offset=np.array([0.0, offset, 0.0, offset]))
    late_clock = traces(values, rate_hz, first_s=offset)
    samples = resample_traces(with_offset, start_s, TOKENS)
    assert np.allclose(samples[[0, 2]], resample_traces(traces(values, rate_hz), start_s, TOKENS)[[0, 2]])
    assert np.allclose(samples[[1, 3]], resample_traces(late_clock, start_s, TOKENS)[[1, 3]], atol=1e-3)


def test_planes_of_one_signal_agree_once_offsets_are_honoured() -> None:
    rate_hz, offsets = 10.0, np.array([0.0, 0.025, 0.05, 0.075])
    times = np.arange(700) / rate_hz
    slow = np.sin(0.5 * (times[:, None] + offsets))
    samples = resample_traces(traces(slow, rate_hz, offset=offsets), 12.3, TOKENS)
    ignored = resample_traces(traces(slow, rate_hz), 12.3, TOKENS)
    assert np.ptp(samples, axis=0).max() < 0.02
    assert np.ptp(ignored, axis=0).max() > 0.03


def test_rows_select_units_in_their_order() -> None:
    values = np.random.default_rng(4).normal(size=(1500, 6))
    calcium = traces(values, 30.0, offset=np.array([0, 1, 2, 0, 1, 2]) / 90)
    everything = resample_traces(calcium, 5.0, TOKENS)
    rows = np.array([0, 2, 5])
    assert np.array_equal(resample_traces(calcium, 5.0, TOKENS, rows), everything[rows])
    assert resample_traces(calcium, 5.0, TOKENS, np.zeros(0, np.int64)).shape == (0, 128)


def test_missing_and_jittered_frames_do_no_harm() -> None:
    rng = np.random.default_rng(5)
    times = np.arange(900) / 30.0
    times += rng.uniform(-0.01, 0.01, 900)
    kept = np.sort(rng.permutation(900)[:800])
    kept = np.concatenate([[0], kept[kept > 0]])
    calcium = CalciumTraces(np.sin(times[kept])[:, None].astype(np.float32), times[kept], 30.0, np.zeros(1))
    samples = resample_traces(calcium, 0.0, TOKENS)[0]
    assert np.abs(samples - np.sin(PERIOD * (np.arange(128) + 0.5))).max() < 0.1


def test_a_gap_does_not_leak_across_the_edge_of_a_window() -> None:
    # Plane 1 has its first frame after the interval's start; what came before the gap is another state.
    rate_hz = 10.0
    times = np.concatenate([np.arange(300), np.arange(5000, 5600)]) / rate_hz
    values = np.concatenate([np.full((300, 2), 9.0), np.full((600, 2), 1.0)]).astype(np.float32)
    calcium = CalciumTraces(values, times, rate_hz, np.array([0.0, 0.05]))
    assert np.allclose(resample_traces(calcium, 500.0, TOKENS), 1.0)
    assert np.allclose(resample_traces(calcium, 30.0 - TOKENS.window_s, TOKENS), 9.0)


def test_window_past_the_last_frame_holds_it() -> None:
    calcium = traces(np.arange(10.0)[:, None], 1 / PERIOD)
    samples = resample_traces(calcium, 0.0, TOKENS)[0]
    assert samples[:10].tolist() == list(range(10))
    assert np.allclose(samples[10:], 9.0)
    assert np.allclose(resample_traces(calcium, 1000.0, TOKENS), 9.0)
    assert np.allclose(resample_traces(calcium, -1000.0, TOKENS), 0.0)
