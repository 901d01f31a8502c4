"""Matching and losses: exact accumulation, hand-computed values, refusals."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nuclr_cli.errors import InputError
from nuclr_cli.model import (
    DecoupledContrastiveLoss,
    LossConfig,
    LossTerms,
    VICReg,
    build_loss,
    match_units,
)

DIM = 6


@dataclass(frozen=True)
class Pair:
    """One sample: ids of its units in both views."""

    ids1: list[int]
    ids2: list[int]


SAMPLES = st.lists(
    st.builds(
        Pair,
        st.lists(st.integers(-3, 9), unique=True, max_size=8),
        st.lists(st.integers(-3, 9), unique=True, max_size=8),
    ),
    min_size=1,
    max_size=5,
)


def packed(pairs: list[Pair]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """ids1, ids2, units1, units2."""
    ids1 = torch.tensor([i for pair in pairs for i in pair.ids1], dtype=torch.int64)
    ids2 = torch.tensor([i for pair in pairs for i in pair.ids2], dtype=torch.int64)
    units1 = torch.tensor([len(pair.ids1) for pair in pairs], dtype=torch.int64)
    units2 = torch.tensor([len(pair.ids2) for pair in pairs], dtype=torch.int64)
    return ids1, ids2, units1, units2


def embeddings(pairs: list[Pair]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids1, ids2, _, _ = packed(pairs)
    z1, z2 = (torch.randn(len(ids), DIM, dtype=torch.float64, generator=generator) for ids in (ids1, ids2))
    return z1.requires_grad_(), z2.requires_grad_()


def loss(config: LossConfig | None = None) -> DecoupledContrastiveLoss | VICReg:
    torch.manual_seed(0)
    return build_loss(LossConfig() if config is None else config, DIM).double()


def gradients(module: nn.Module) -> list[Tensor]:
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in module.parameters()]


@settings(deadline=None)
@given(pairs=SAMPLES)
def test_matching_agrees_with_a_search(pairs: list[Pair]) -> None:
    found = match_units(*packed(pairs)).tolist()
    expected, start = [], 0
    for pair in pairs:
        expected += [start + pair.ids2.index(i) if i in pair.ids2 else -1 for i in pair.ids1]
        start += len(pair.ids2)
    assert found == expected


@settings(max_examples=40, deadline=None)
@given(pairs=SAMPLES, size=st.integers(1, 3))
def test_micro_batches_add_up_to_the_batch(pairs: list[Pair], size: int) -> None:
    whole = loss()
    z1, z2 = embeddings(pairs)
    terms = whole(z1, z2, *packed(pairs))
    terms.total.backward()
    assert terms.n_pairs == sum(len({*pair.ids1} & {*pair.ids2}) for pair in pairs)

    cut = loss()
    w1, w2 = (z.detach().clone().requires_grad_() for z in (z1, z2))
    shares: list[LossTerms] = []
    start1 = start2 = 0
    for at in range(0, len(pairs), size):
        ids1, ids2, units1, units2 = packed(pairs[at : at + size])
        stop1, stop2 = start1 + len(ids1), start2 + len(ids2)
        share = cut(
            w1[start1:stop1], w2[start2:stop2], ids1, ids2, units1, units2, n_pairs_total=terms.n_pairs
        )
        share.total.backward()
        shares.append(share)
        start1, start2 = stop1, stop2
    for name in ("total", "numerator", "denominator"):
        added = torch.stack([getattr(share, name).detach() for share in shares]).sum()
        torch.testing.assert_close(added, getattr(terms, name).detach(), rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(
        [*gradients(cut), w1.grad, w2.grad], [*gradients(whole), z1.grad, z2.grad], strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_a_sample_weighs_as_many_pairs_as_it_has() -> None:
    pairs = [Pair([1, 2, 3, 4], [4, 3, 1, 9]), Pair([5, 6], [6, 7, 8])]
    z1, z2 = embeddings(pairs)
    both = loss()(z1, z2, *packed(pairs))
    first = loss()(z1[:4], z2[:4], *packed(pairs[:1]))
    second = loss()(z1[4:], z2[4:], *packed(pairs[1:]))
    assert both.total.item() == pytest.approx((3 * first.total.item() + second.total.item()) / 4)


def test_the_order_of_units_does_not_matter() -> None:
    pair = Pair([1, 2, 3, 4], [4, 3, 1, 9])
    z1, z2 = embeddings([pair])
    order = [2, 0, 3, 1]
    shuffled = Pair(pair.ids1, [pair.ids2[i] for i in order])
    torch.testing.assert_close(
        loss()(z1, z2[order], *packed([shuffled])).total, loss()(z1, z2, *packed([pair])).total
    )


@pytest.mark.parametrize("name", ["dcl", "vicreg"])
def test_nothing_matched_is_finite_with_finite_gradients(name: str) -> None:
    pairs = [Pair([1, 2], [3, 4]), Pair([3], [])]
    module = loss(LossConfig(name=name))
    z1, z2 = embeddings(pairs)
    terms = module(z1, z2, *packed(pairs))
    terms.total.backward()
    assert terms.n_pairs == 0
    assert terms.numerator.item() == 0
    assert all(gradient.isfinite().all() for gradient in gradients(module))
    if name == "dcl":
        assert terms.total.item() == 0
        assert not any(gradient.any() for gradient in gradients(module))


def test_bfloat16_embeddings_give_a_float32_loss() -> None:
    pairs = [Pair([*range(20)], [*range(5, 25)])]
    z1, z2 = (z.detach().float() for z in embeddings(pairs))
    module = loss().float()
    expected = module(z1, z2, *packed(pairs)).total
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = module(z1.bfloat16(), z2.bfloat16(), *packed(pairs)).total
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=0.02)


def test_vicreg_by_hand() -> None:
    """Without its projector, on numbers small enough to follow."""
    module = loss(LossConfig(name="vicreg"))
    module.projector = nn.Sequential()
    pairs = [Pair([1, 2, 3], [3, 1])]
    z1 = torch.tensor([[1.0, 0.0], [5.0, 5.0], [0.0, 2.0]], dtype=torch.float64)
    z2 = torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)

    def total(**weights: float) -> float:
        off = dict.fromkeys(("invariance", "variance", "covariance"), 0)
        module.config = replace(module.config, **(off | weights))
        terms = module(z1, z2, *packed(pairs))
        assert terms.total.item() == pytest.approx((terms.numerator + terms.denominator).item())
        return terms.total.item()

    assert total(invariance=1) == pytest.approx((0 + 1 + 0 + 4) / 4)
    # View 2: both dimensions have variance 0.5 and covariance 0.5. View 1: all deviations above 1.
    assert total(variance=1) == pytest.approx(1 - math.sqrt(0.5 + 1e-4))
    covariance1 = ((1 - 2) * (0 - 7 / 3) + (5 - 2) * (5 - 7 / 3) + (0 - 2) * (2 - 7 / 3)) / 2
    assert total(covariance=1) == pytest.approx((2 * covariance1**2 + 2 * 0.5**2) / 2)


def test_vicreg_defaults_and_projector() -> None:
    module = build_loss(LossConfig(name="vicreg"), DIM)
    widths = [layer.weight.shape for layer in module.projector if isinstance(layer, nn.Linear)]
    assert widths == [(4 * DIM, DIM), (4 * DIM, 4 * DIM), (4 * DIM, 4 * DIM)]
    assert (module.config.invariance, module.config.variance, module.config.covariance) == (25, 25, 1)


def test_vicreg_refuses_to_be_accumulated() -> None:
    pairs = [Pair([1, 2, 3], [3, 1])]
    z1, z2 = embeddings(pairs)
    module = loss(LossConfig(name="vicreg"))
    assert module(z1, z2, *packed(pairs), n_pairs_total=2).n_pairs == 2
    with pytest.raises(ValueError, match="n_pairs_total"):
        module(z1, z2, *packed(pairs), n_pairs_total=3)


def test_vicreg_needs_two_units_a_view() -> None:
    pairs = [Pair([1, 2, 3], [3])]
    z1, z2 = embeddings(pairs)
    with pytest.raises(ValueError, match="two units"):
        loss(LossConfig(name="vicreg"))(z1, z2, *packed(pairs))


@pytest.mark.parametrize(
    ("pairs", "changes", "named"),
    [
        ([Pair([1, 2], [1]), Pair([7, 7], [7])], {}, "ids1 holds unit 7 twice in sample 1"),
        ([Pair([1, 2], [2, 5, 2])], {}, "ids2 holds unit 2 twice in sample 0"),
        ([Pair([1, 2], [1])], {"ids1": torch.tensor([1, 2, 3])}, "z1"),
        ([Pair([1, 2], [1])], {"ids2": torch.tensor([1, 2])}, "z2"),
        ([Pair([1, 2], [1])], {"units1": torch.tensor([3])}, "units1"),
        ([Pair([1, 2], [1])], {"units2": torch.tensor([2, -1])}, "units"),
        ([Pair([1, 2], [1])], {"units1": torch.tensor([1, 1])}, "units1 and units2"),
        ([Pair([1, 2], [1])], {"ids1": torch.tensor([1.0, 2.0])}, "ids1"),
        ([Pair([1, 2], [1, 2])], {"n_pairs_total": 1}, "n_pairs_total"),
    ],
)
def test_refuses_what_does_not_fit(pairs: list[Pair], changes: dict[str, Tensor | int], named: str) -> None:
    z1, z2 = embeddings(pairs)
    arguments = dict(zip(("ids1", "ids2", "units1", "units2"), packed(pairs), strict=True))
    with pytest.raises(ValueError, match=named):
        loss()(z1, z2, **(arguments | changes))


@pytest.mark.parametrize(
    "change",
    [{"name": "clip"}, {"tau": 0.0}, {"self_tau": math.inf}, {"variance": -1.0}, {"projector_mult": 0}],
    ids=str,
)
def test_a_bad_configuration_is_the_users_to_mend(change: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(change))):
        LossConfig(**change)


def test_ids_may_be_huge() -> None:
    big = 2**62
    ids = [torch.tensor([big + i for i in order]) for order in itertools.permutations(range(3))]
    for other in ids:
        partner = match_units(ids[0], other, torch.tensor([3]), torch.tensor([3]))
        assert torch.equal(other[partner], ids[0])
