"""Binning on the device equals binning on the host, spike for spike; wrong arguments are named."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nuclr_cli.data.tokens import SpikeTokens
from nuclr_cli.data.views import bin_counts, order_by_unit, window_times
from nuclr_kernels.bin_spikes import bin_spikes

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def packed(
    times: np.ndarray, unit_index: np.ndarray, start_s: float, tokens: SpikeTokens, n_units: int
) -> tuple[Tensor, Tensor]:
    """What a worker would ship: seconds from the start of the window, unit after unit, and offsets."""
    relative, units = window_times(times, unit_index, start_s, tokens)
    offsets = np.concatenate(([0], np.cumsum(np.bincount(units, minlength=n_units))))
    return torch.from_numpy(relative[order_by_unit(units, n_units)]), torch.from_numpy(offsets)


def binned(times: Tensor, offsets: Tensor, tokens: SpikeTokens, device: str = "cpu") -> Tensor:
    return bin_spikes(
        times.to(device),
        offsets,
        n_patches=tokens.n_patches,
        samples_per_patch=tokens.samples_per_patch,
        bin_s=tokens.bin_s,
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 9999),
    start_s=st.sampled_from([0.0, 0.1, 12.5, 3599.97, 1e5 + 1 / 3]),
    bin_s=st.sampled_from([0.02, 0.01, 0.1, 1 / 3, 1.0]),
    on_edges=st.booleans(),
)
def test_counts_equal_those_of_the_host_to_the_bit(
    seed: int, start_s: float, bin_s: float, on_edges: bool
) -> None:
    tokens = SpikeTokens(window_s=10 * bin_s * 5, patch_s=bin_s * 5, bin_s=bin_s)
    rng = np.random.default_rng(seed)
    n_units = int(rng.integers(1, 9))
    if on_edges:  # where rounding decides
        times = start_s + np.sort(rng.integers(0, 51, 300)) * bin_s
    else:
        times = np.sort(rng.uniform(start_s - bin_s, start_s + tokens.window_s + bin_s, 300))
    unit_index = rng.integers(0, n_units, 300)
    expected = bin_counts(times, unit_index, start_s, tokens, n_units)
    found = binned(*packed(times, unit_index, start_s, tokens, n_units), tokens)
    assert found.dtype == torch.float32
    assert found.shape == (n_units, 10, 5)
    assert np.array_equal(found.view(n_units, -1).numpy(), expected)


@pytest.mark.parametrize("device", DEVICES)
def test_units_without_spikes_and_windows_without_any(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    tokens = SpikeTokens()
    times = torch.tensor([0.0, 9.999, 5.0, 5.001], dtype=torch.float64)
    found = binned(times, torch.tensor([0, 0, 2, 2, 4]), tokens, device).cpu()
    assert found.sum((1, 2)).tolist() == [0, 2, 0, 2]
    assert found[1, 0, 0] == found[1, 9, 49] == 1
    assert found[3, 5, 0] == 2
    assert not binned(times[:0], torch.zeros(4, dtype=torch.int32), tokens, device).any()
    assert binned(times[:0], torch.zeros(1, dtype=torch.int32), tokens, device).shape == (0, 10, 50)


def test_order_within_a_unit_and_deterministic_mode_change_no_bit() -> None:
    tokens = SpikeTokens()
    times = torch.rand(4000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 10
    offsets = torch.tensor([0, 1000, 1000, 4000])
    expected = binned(times, offsets, tokens)
    assert expected.max() > 1
    shuffled = torch.cat([part.flip(0) for part in torch.tensor_split(times, [1000])])
    assert torch.equal(binned(shuffled, offsets, tokens), expected)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.equal(binned(times, offsets, tokens), expected)
    finally:
        torch.use_deterministic_algorithms(False)


def test_the_end_of_the_window_belongs_to_the_last_bin_also_in_float32() -> None:
    tokens = SpikeTokens()
    almost = np.nextafter(10.0, 0.0)
    for dtype in (torch.float64, torch.float32):  # in float32 it is 10 s
        found = binned(torch.tensor([almost], dtype=dtype), torch.tensor([0, 1]), tokens)
        assert found[0, 9, 49] == 1


def test_counts_in_another_dtype() -> None:
    found = bin_spikes(
        torch.zeros(300, dtype=torch.float64),
        torch.tensor([0, 300]),
        n_patches=1,
        samples_per_patch=2,
        bin_s=1.0,
        dtype=torch.int32,
    )
    assert found.tolist() == [[[300, 0]]]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"times": torch.zeros(4, 1)}, "times must be one-dimensional"),
        ({"times": torch.zeros(4, dtype=torch.int64)}, "times must be one-dimensional"),
        ({"times": torch.zeros(4, dtype=torch.float16)}, "times must be one-dimensional"),
        ({"times": torch.tensor([0.0, -0.1, 0, 0])}, "times must lie in the window"),
        ({"times": torch.tensor([0.0, 11.0, 0, 0])}, "times must lie in the window"),
        ({"times": torch.tensor([0.0, math.nan, 0, 0])}, "times must lie in the window"),
        ({"unit_offsets": torch.tensor([0, 2])}, "unit_offsets must ascend"),
        ({"unit_offsets": torch.tensor([0, 3, 2, 4])}, "unit_offsets must ascend"),
        ({"unit_offsets": torch.tensor([0.0, 4.0])}, "unit_offsets must be"),
        ({"n_patches": 0}, "n_patches must be at least 1"),
        ({"samples_per_patch": 0}, "samples_per_patch must be at least 1"),
        ({"bin_s": 0.0}, "bin_s must be"),
        ({"bin_s": math.nan}, "bin_s must be"),
    ],
    ids=str,
)
def test_wrong_arguments_are_named(change: dict[str, object], named: str) -> None:
    arguments: dict[str, object] = {
        "times": torch.zeros(4),
        "unit_offsets": torch.tensor([0, 2, 4]),
        "n_patches": 10,
        "samples_per_patch": 50,
        "bin_s": 0.02,
    }
    with pytest.raises(ValueError, match=named):
        bin_spikes(**{**arguments, **change})  # type: ignore[arg-type]


def test_offsets_name_units_one_after_the_other() -> None:
    tokens = SpikeTokens()
    sizes = [3, 0, 5]
    offsets = torch.tensor([0, 3, 3, 8], dtype=torch.int32)
    found = binned(torch.full((8,), 0.5), offsets, tokens)
    assert [int(unit.sum()) for unit in found] == sizes == [b - a for a, b in pairwise(offsets.tolist())]
