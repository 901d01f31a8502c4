"""Token lengths: reference defaults, and refusal of numbers that do not divide."""

from __future__ import annotations

from typing import Any

import pytest

from nuclr_cli.data.tokens import CalciumTokens, SpikeTokens, TokenSpec
from nuclr_cli.errors import InputError


def test_defaults_are_those_of_the_reference() -> None:
    tokens = TokenSpec()
    assert (tokens.spikes.n_patches, tokens.spikes.samples_per_patch, tokens.spikes.n_bins) == (10, 50, 500)
    assert (tokens.calcium.n_patches, tokens.calcium.samples_per_patch) == (32, 4)
    assert tokens.calcium.window_s == pytest.approx(29.88032)
    assert tokens.of("spikes") is tokens.spikes
    assert tokens.of("calcium") is tokens.calcium


def test_decimal_fractions_divide() -> None:
    tokens = SpikeTokens(window_s=2.1, patch_s=0.3, bin_s=0.1)
    assert (tokens.n_patches, tokens.samples_per_patch, tokens.n_bins) == (7, 3, 21)


@pytest.mark.parametrize(
    ("numbers", "named"),
    [
        ({"bin_s": 0.03}, "tokens.spikes.patch_s = 1.0 is 33.3333 times tokens.spikes.bin_s = 0.03"),
        ({"window_s": 9.5}, "tokens.spikes.window_s = 9.5"),
        ({"patch_s": 20.0, "window_s": 10.0}, "tokens.spikes.window_s"),
        ({"bin_s": 0.0}, "tokens.spikes.bin_s is 0.0"),
        ({"window_s": float("nan")}, "tokens.spikes.window_s is nan"),
        ({"max_distance_s": -1.0}, "tokens.spikes.max_distance_s"),
    ],
)
def test_spike_lengths_that_cannot_be(numbers: dict[str, float], named: str) -> None:
    with pytest.raises(InputError) as caught:
        SpikeTokens(**numbers)
    assert named in caught.value.what
    assert caught.value.fix.startswith("--set tokens.spikes.")


def test_the_number_to_type_next_works() -> None:
    with pytest.raises(InputError) as caught:
        SpikeTokens(bin_s=0.03)
    suggested = float(caught.value.fix.split("=")[1])
    assert SpikeTokens(bin_s=suggested).samples_per_patch == 33


@pytest.mark.parametrize(
    ("numbers", "named"),
    [
        ({"patch_samples": 5}, "tokens.calcium.n_samples = 128"),
        ({"n_samples": 0}, "tokens.calcium.n_samples"),
        ({"n_samples": 12.5}, "whole number"),
        ({"period_s": -0.1}, "tokens.calcium.period_s"),
    ],
)
def test_calcium_numbers_that_cannot_be(numbers: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        CalciumTokens(**numbers)
