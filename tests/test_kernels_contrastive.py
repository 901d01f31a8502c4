"""The contrastive loss against an oracle that sums pair by pair."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from nuclr_kernels import contrastive_loss

SIZES1, SIZES2 = [4, 6, 1, 3, 0], [5, 2, 1, 2, 3]
# Sample 0: two pairs. 1: one pair. 2: a single unit on both sides, a pair. 3 and 4: none.
PARTNER = torch.tensor([-1, 3, 0, -1, -1, -1, 6, -1, -1, -1, 7, -1, -1, -1])


def offsets(sizes: list[int]) -> Tensor:
    return torch.tensor([0, *itertools.accumulate(sizes)], dtype=torch.int32)


def views(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    raw = (torch.randn(n, 8, dtype=torch.float64, generator=generator) for n in (sum(SIZES1), sum(SIZES2)))
    p1, p2 = (torch.nn.functional.normalize(x, dim=1).to(dtype).requires_grad_() for x in raw)
    return p1, p2


def oracle(
    p1: Tensor, p2: Tensor, tau: float, self_tau: float, dcl: bool, full_denom: bool
) -> tuple[Tensor, Tensor]:
    numerators, denominators = [], []
    cu1, cu2 = offsets(SIZES1).tolist(), offsets(SIZES2).tolist()
    for sample in range(len(SIZES1)):
        rows1, rows2 = range(cu1[sample], cu1[sample + 1]), range(cu2[sample], cu2[sample + 1])
        pairs = [(i, int(PARTNER[i])) for i in rows1 if PARTNER[i] >= 0]
        numerator, denominator = p1.new_zeros(()), p1.new_zeros(())
        for i, j in pairs:
            numerator = numerator + (1 - p1[i] @ p2[j]) / tau / len(pairs)
            for query, other, partner, own, row in (
                (p1[i], [(k, p2[k]) for k in rows2], j, [(k, p1[k]) for k in rows1], i),
                (p2[j], [(k, p1[k]) for k in rows1], i, [(k, p2[k]) for k in rows2], j),
            ):
                terms = [(query @ x / tau).exp() for k, x in other if not (dcl and k == partner)]
                count = len(other)
                if full_denom:
                    terms += [(query @ x / self_tau).exp() for k, x in own if k != row]
                    count += len(own)
                if terms:
                    mean = sum(terms, p1.new_zeros(())).log() - math.log(count)
                    denominator = denominator + mean / (2 * len(pairs))
        numerators.append(numerator)
        denominators.append(denominator)
    return torch.stack(numerators), torch.stack(denominators)


@pytest.mark.parametrize("dcl", [True, False])
@pytest.mark.parametrize("full_denom", [True, False])
@pytest.mark.parametrize("self_tau", [1.0, 0.3])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_matches_the_oracle_in_both_passes(
    dcl: bool, full_denom: bool, self_tau: float, dtype: torch.dtype, tolerance: float
) -> None:
    weight = torch.linspace(0.5, 2, len(SIZES1), dtype=torch.float64)
    expected1, expected2 = views()
    expected = oracle(expected1, expected2, 0.2, self_tau, dcl, full_denom)
    ((expected[0] + 2 * expected[1]) @ weight).backward()
    p1, p2 = views(dtype)
    found = contrastive_loss(
        p1,
        p2,
        offsets(SIZES1),
        offsets(SIZES2),
        PARTNER,
        tau=0.2,
        self_tau=self_tau,
        dcl=dcl,
        full_denom=full_denom,
    )
    ((found[0] + 2 * found[1]) @ weight.to(dtype)).backward()
    for ours, theirs in zip(
        (*found, p1.grad, p2.grad), (*expected, expected1.grad, expected2.grad), strict=True
    ):
        assert ours is not None
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.double(), theirs, rtol=tolerance, atol=tolerance)


def test_samples_without_a_pair_are_zero_with_zero_gradient() -> None:
    p1, p2 = views()
    numerator, denominator = contrastive_loss(
        p1, p2, offsets(SIZES1), offsets(SIZES2), torch.full_like(PARTNER, -1), tau=0.2
    )
    assert torch.equal(numerator, torch.zeros(5).double())
    assert torch.equal(denominator, torch.zeros(5).double())
    (numerator + denominator).sum().backward()
    assert p1.grad is not None
    assert not p1.grad.any()


def test_no_sample_at_all() -> None:
    empty = torch.zeros(0, 8)
    start = torch.zeros(1, dtype=torch.int32)
    numerator, denominator = contrastive_loss(
        empty, empty, start, start, torch.zeros(0, dtype=torch.int64), tau=0.2
    )
    assert numerator.shape == denominator.shape == (0,)


def test_extreme_temperature_stays_finite() -> None:
    p1, p2 = views(torch.float32)
    numerator, denominator = contrastive_loss(p1, p2, offsets(SIZES1), offsets(SIZES2), PARTNER, tau=1e-4)
    (numerator + denominator).sum().backward()
    for tensor in (numerator, denominator, p1.grad, p2.grad):
        assert tensor is not None
        assert tensor.isfinite().all()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"p1": torch.zeros(14)}, "p1"),
        ({"p2": torch.zeros(13, 8, dtype=torch.int64)}, "p2"),
        ({"p2": torch.zeros(13, 4, dtype=torch.float64)}, "p2"),
        ({"p2": torch.zeros(13, 8, dtype=torch.float32)}, "p2"),
        ({"cu1": torch.tensor([0, 13])}, "cu1"),
        ({"cu2": torch.tensor([0, 14])}, "cu2"),
        ({"cu2": torch.tensor([0, 13])}, "cu2"),
        ({"partner12": PARTNER[:3]}, "partner12"),
        ({"partner12": PARTNER.double()}, "partner12"),
        ({"partner12": torch.where(PARTNER == 3, 5, PARTNER)}, "partner12"),  # of another sample
        ({"partner12": torch.where(PARTNER == 3, 0, PARTNER)}, "partner12"),  # shared
        ({"partner12": torch.where(PARTNER == 7, 13, PARTNER)}, "partner12"),  # beyond the end
        ({"tau": 0.0}, "tau"),
        ({"tau": math.nan}, "tau"),
        ({"self_tau": -1.0}, "self_tau"),
    ],
)
def test_names_the_wrong_argument(changes: dict[str, object], named: str) -> None:
    p1, p2 = views()
    arguments: dict[str, object] = {
        "p1": p1,
        "p2": p2,
        "cu1": offsets(SIZES1),
        "cu2": offsets(SIZES2),
        "partner12": PARTNER,
        "tau": 0.2,
    }
    with pytest.raises(ValueError, match=named):
        contrastive_loss(**(arguments | changes))
