"""Spike counts: equal to torch_brain's BinSpikes, spike for spike, on real and on awkward times."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch_brain.data import ArrayDict, Data, Interval, IrregularTimeSeries
from torch_brain.transforms import BinSpikes

from nuclr_cli.data.tokens import SpikeTokens
from nuclr_cli.data.views import bin_counts

TOKENS = SpikeTokens()


def torch_brain_counts(
    times: NDArray[np.float64], units: NDArray[np.int64], start_s: float, tokens: SpikeTokens, n_units: int
) -> NDArray[np.int32]:
    """(n_units, n_bins) by torch_brain, on a slice of a session that is valid throughout."""
    domain = Interval(start=np.array([start_s - 100.0]), end=np.array([start_s + 100.0]))
    session = Data(
        spikes=IrregularTimeSeries(timestamps=times, unit_index=units, domain=domain),
        units=ArrayDict(id=np.arange(n_units)),
        domain=domain,
    )
    window = BinSpikes(tokens.bin_s)(session.slice(start_s, start_s + tokens.window_s))
    counts: NDArray[np.int32] = window.spikes_binned.binned_counts.T
    return counts


@settings(deadline=None, max_examples=150)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 400),
    st.sampled_from([1000.0, 20_000.0, 30_000.0, None]),
    st.sampled_from([TOKENS, SpikeTokens(2.1, 0.3, 0.05), SpikeTokens(1.0, 0.5, 0.001)]),
    st.floats(-50, 5000) | st.integers(0, 20_000).map(lambda n: n / 50),
)
def test_counts_equal_those_of_torch_brain(
    seed: int, n_spikes: int, rate_hz: float | None, tokens: SpikeTokens, start_s: float
) -> None:
    # Times on a sampling grid fall on bin edges all the time; starts on the bin grid make it worse.
    rng = np.random.default_rng(seed)
    times = start_s + rng.uniform(-1.0, tokens.window_s + 1.0, n_spikes)
    if rate_hz is not None:
        times = np.round(times * rate_hz) / rate_hz
    times = np.sort(times)
    units = rng.integers(0, 7, n_spikes)
    counts = bin_counts(times, units, start_s, tokens, 7)
    assert counts.dtype == np.float32
    assert counts.shape == (7, tokens.n_bins)
    assert np.array_equal(counts, torch_brain_counts(times, units, start_s, tokens, 7))


def test_counts_equal_those_of_torch_brain_where_the_window_is_a_rounding_error_too_long() -> None:
    rng = np.random.default_rng(0)
    # Adding the length rounds where the sum passes a power of two.
    starts = np.concatenate([power - rng.uniform(0, 10, 100) for power in (16.0, 512.0, 4096.0)])
    longer = [start for start in starts.tolist() if (start + 10.0) - start > 10.0]
    assert len(longer) > 20
    differ = 0
    for start_s in longer:
        times = start_s + np.arange(500) * 0.02  # on every bin edge, the first at the very start
        units = np.arange(500) % 3
        counts = bin_counts(times, units, start_s, TOKENS, 3)
        assert np.array_equal(counts, torch_brain_counts(times, units, start_s, TOKENS, 3))
        differ += counts.sum() < 500
    assert differ > 0  # BinSpikes leaves out a spike at the very start of such a window, and so does nuclr


def test_counts_of_a_real_recording_equal_those_of_torch_brain(shared: Path) -> None:
    folder = shared / "data" / "mea" / "2006-10-02" / "TC91-NB-C57-DIV25_A"
    info = json.loads((folder / "numpysorting_info.json").read_text())
    spikes = np.load(folder / "spikes.npy", allow_pickle=False)
    times = spikes["sample_index"] / float(info["sampling_frequency"])
    units, n_units = spikes["unit_index"].astype(np.int64), len(info["unit_ids"])
    total = 0.0
    for start_s in (0.0, 10.0, 33.34, 100.02, 211.123456, float(times[1000]), float(times[5000]) - 10.0):
        counts = bin_counts(times, units, start_s, TOKENS, n_units)
        assert np.array_equal(counts, torch_brain_counts(times, units, start_s, TOKENS, n_units))
        total += counts.sum()
    assert total > 1000


def test_counts_by_hand() -> None:
    tokens = SpikeTokens(window_s=1.0, patch_s=0.5, bin_s=0.25)
    times = np.array([9.9, 10.0, 10.1, 10.25, 10.99, 11.0])
    units = np.array([0, 0, 0, 1, 1, 0], dtype=np.uint16)
    assert bin_counts(times, units, 10.0, tokens, 3).tolist() == [[2, 0, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]]


def test_no_spikes_give_zeros() -> None:
    counts = bin_counts(np.zeros(0), np.zeros(0, np.uint16), 5.0, TOKENS, 4)
    assert counts.shape == (4, 500)
    assert not counts.any()


def test_large_unit_numbers_do_not_overflow() -> None:
    # 40,000 units x 500 bins is past what a 16-bit index or a product in 16 bits holds.
    times = np.array([0.5, 9.99])
    units = np.array([39_999, 65], dtype=np.uint16)
    counts = bin_counts(times, units, 0.0, TOKENS, 40_000)
    assert counts.sum() == 2
    assert counts[39_999, 25] == 1
    assert counts[65, 499] == 1


@pytest.mark.parametrize("start_s", [0.0, 0.1, 7.3])
def test_each_spike_in_the_window_counts_once(start_s: float) -> None:
    rng = np.random.default_rng(0)
    times = np.sort(rng.uniform(0, 30, 5000))
    units = rng.integers(0, 9, 5000)
    inside = (times >= start_s + 1e-9) & (times < start_s + 10)
    counts = bin_counts(times, units, start_s, TOKENS, 9)
    assert counts.sum(axis=1).tolist() == np.bincount(units[inside], minlength=9).tolist()
