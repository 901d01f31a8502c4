"""The descriptor of dF/F that the PCA baseline reads: known traces, gaps, frame rates, scales."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nuclr_cli.evaluation.activity import TRACE_EDGES, trace_descriptor

Floats = NDArray[np.float64]

N_LAGS, N_CLASSES = 32, len(TRACE_EDGES) + 1


def parts(
    values: Floats, rate_hz: float, scale: float = 1.0, stamps: Floats | None = None
) -> tuple[Floats, Floats, Floats]:
    """Autocorrelation, shares of frames and shares of 1 s means, by unit."""
    stamps = np.arange(len(values)) / rate_hz if stamps is None else stamps
    table = trace_descriptor(values, stamps, rate_hz, scale)
    assert table.shape == (values.shape[1], N_LAGS + 2 * N_CLASSES)
    assert np.isfinite(table).all()
    acf, frames, means = np.split(table, [N_LAGS, N_LAGS + N_CLASSES], axis=1)
    return acf, frames**2, means**2


@pytest.mark.parametrize("rate_hz", [3.0, 4.2836, 15.0, 30.0])
def test_a_sine_has_its_cosine_at_every_frame_rate(rate_hz: float) -> None:
    n = round(1200 * rate_hz)
    trace = np.sin(2 * np.pi * np.arange(n) / rate_hz / 4.0)[:, None]
    acf, _, _ = parts(trace, rate_hz)
    wanted = np.cos(2 * np.pi * 0.25 * np.arange(1, N_LAGS + 1) / 4.0)
    # Between frames the autocorrelation is a straight line: slow frames cut the peak a little.
    np.testing.assert_allclose(acf[0], wanted, atol=0.01 + 0.25 * (2 * np.pi / 4.0 / rate_hz) ** 2)


def test_shares_are_those_of_the_frames_and_of_means_over_a_second() -> None:
    # Two values that take turns at 10 Hz: every mean over a second lies in the middle.
    trace = np.tile([0.3, 0.9], 500)[:, None]
    _, frames, means = parts(trace, 10.0)
    of = {edges: i + 1 for i, edges in enumerate(pairwise(TRACE_EDGES))}
    assert frames[0, of[0.2, 0.35]] == pytest.approx(0.5)
    assert frames[0, of[0.75, 1.0]] == pytest.approx(0.5)
    assert means[0, of[0.5, 0.75]] == pytest.approx(1.0)
    assert frames.sum() == pytest.approx(1.0)
    assert means.sum() == pytest.approx(1.0)
    _, scaled, _ = parts(7.0 * trace, 10.0, scale=7.0)
    np.testing.assert_allclose(scaled, frames)
    _, outside, _ = parts(np.array([[-50.0], [50.0]]), 10.0)
    assert outside[0, 0] == outside[0, -1] == pytest.approx(0.5)


def test_lags_and_means_do_not_cross_a_gap() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(size=95), 5.0 + rng.normal(size=87)])
    stamps = np.concatenate([np.arange(95), 1000 + np.arange(87)]) / 10.0
    acf, _, means = parts(values[:, None], 10.0, stamps=stamps)
    centred = values - values.mean()
    for lag_s, frames in ((1.0, 10), (4.0, 40)):
        runs = (centred[:95], centred[95:])
        products = np.concatenate([run[frames:] * run[:-frames] for run in runs])
        assert acf[0, round(lag_s / 0.25) - 1] == pytest.approx(products.mean() / values.var())
    whole = [values[:90].reshape(9, 10).mean(axis=1), values[95:175].reshape(8, 10).mean(axis=1)]
    expected = np.bincount(
        np.searchsorted(TRACE_EDGES, np.concatenate(whole), side="right"), minlength=N_CLASSES
    )
    np.testing.assert_allclose(means[0], expected / 17)


def test_a_constant_trace_and_one_shorter_than_a_lag_give_finite_values() -> None:
    acf, frames, _ = parts(np.full((50, 2), 0.15), 10.0)
    assert not acf.any()
    assert frames[0].max() == pytest.approx(1.0)
    acf, _, means = parts(np.random.default_rng(0).normal(size=(6, 1)), 30.0)
    assert not acf[0, 1:].any()
    assert not means.any()  # not one whole second


@settings(max_examples=10, deadline=None)
@given(shift=st.integers(-1000, 1000), factor=st.floats(0.01, 100.0), data=st.data())
def test_the_clock_the_unit_of_dff_and_the_order_of_units_do_not_matter(
    shift: int, factor: float, data: st.DataObject
) -> None:
    rng = np.random.default_rng(1)
    values = np.cumsum(rng.normal(size=(300, 4)), axis=0)
    stamps = np.concatenate([np.arange(180), 250 + np.arange(120)]) / 6.0
    order = np.array(data.draw(st.permutations(range(4))))
    plain = trace_descriptor(values, stamps, 6.0, 10.0)
    np.testing.assert_allclose(trace_descriptor(values, stamps + shift, 6.0, 10.0), plain, atol=1e-12)
    other = trace_descriptor(factor * values, stamps, 6.0, factor * 10.0)
    np.testing.assert_allclose(other[:, :N_LAGS], plain[:, :N_LAGS], atol=1e-9)
    np.testing.assert_array_equal(trace_descriptor(values[:, order], stamps, 6.0, 10.0), plain[order])


def test_frames_that_do_not_fit_their_timestamps_are_refused() -> None:
    with pytest.raises(ValueError, match="equally many"):
        trace_descriptor(np.ones((5, 2)), np.arange(4.0), 1.0, 1.0)
