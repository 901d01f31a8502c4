"""Dropout: its share, an unbiased mean, the gradient of its mask, and draws from the generator of torch."""

from __future__ import annotations

import pytest
import torch

from nuclr_cli.model.dropout import Dropout


@pytest.mark.parametrize("p", [0.05, 0.2, 0.5, 0.9])
def test_share_and_mean(p: float) -> None:
    torch.manual_seed(0)
    n = 1_000_003  # not a multiple of the elements a draw decides about
    out = Dropout(p)(torch.ones(n))
    deviation = (p * (1 - p) / n) ** 0.5
    assert abs((out == 0).double().mean().item() - p) < 5 * deviation
    assert abs(out.double().mean().item() - 1) < 5 * deviation / (1 - p)
    assert len(out.unique()) == 2


def test_neighbours_are_dropped_independently() -> None:
    torch.manual_seed(1)
    zero = (Dropout(0.2)(torch.ones(1_000_000)) == 0).double()
    for lag in (1, 2, 3, 4, 8):
        together = (zero[lag:] * zero[:-lag]).mean().item()
        assert abs(together - 0.04) < 5 * (0.04 * 0.96 / 1e6) ** 0.5


def test_gradient_is_the_mask() -> None:
    torch.manual_seed(2)
    x = torch.randn(7, 5, 3, dtype=torch.float64, requires_grad=True)
    out = Dropout(0.4)(x)
    out.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(out, x * x.grad)
    assert set((x.grad == 0).flatten().tolist()) == {True, False}


def test_same_state_of_the_generator_same_mask() -> None:
    layer, x = Dropout(0.3), torch.ones(10, 9)
    torch.manual_seed(3)
    first, other = layer(x), layer(x)
    torch.manual_seed(3)
    assert torch.equal(layer(x), first)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("layer", [Dropout(0.0), Dropout(0.5).eval()])
def test_nothing_is_dropped(layer: Dropout) -> None:
    x = torch.randn(4, 4)
    assert torch.equal(layer(x), x)


def test_half_precision_keeps_its_dtype() -> None:
    assert Dropout(0.5)(torch.ones(8, dtype=torch.bfloat16)).dtype is torch.bfloat16


@pytest.mark.parametrize("p", [-0.1, 1.0, 2.0])
def test_a_share_that_is_none_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match="dropout is"):
        Dropout(p)
