"""The contrastive loss against an oracle that sums pair by pair."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from nuclr_kernels import contrastive_loss
from nuclr_kernels.contrastive import make_loss_plan, reference

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


@pytest.mark.parametrize("chunk_elements", [1, 24, 1 << 23])
@pytest.mark.parametrize(("dcl", "full_denom"), [(True, True), (False, True), (True, False)])
def test_gradients_are_those_of_the_loss_however_rows_are_cut(
    chunk_elements: int, dcl: bool, full_denom: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "CHUNK_ELEMENTS", chunk_elements)

    def terms(p1: Tensor, p2: Tensor) -> tuple[Tensor, Tensor]:
        options = {"tau": 0.5, "self_tau": 0.7, "dcl": dcl, "full_denom": full_denom}
        return contrastive_loss(p1, p2, offsets(SIZES1), offsets(SIZES2), PARTNER, **options)

    assert torch.autograd.gradcheck(terms, views())


def test_no_matrix_of_units_times_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are cut where a whole matrix of scores would be larger than what may be alive at a time."""
    monkeypatch.setattr(reference, "CHUNK_ELEMENTS", 1000)
    seen = []
    addmm = torch.addmm

    def watched(*args: Tensor, **kwargs: object) -> Tensor:
        out: Tensor = addmm(*args, **kwargs)
        seen.append(out.numel())
        return out

    monkeypatch.setattr(torch, "addmm", watched)
    p = torch.nn.functional.normalize(torch.randn(100, 8), dim=1)
    contrastive_loss(p, p, offsets([100]), offsets([100]), torch.arange(100), tau=0.2)
    assert max(seen) <= 1000
    assert sum(seen) == 2 * 100 * 200


def test_sixteen_bit_embeddings_give_float32_terms_and_sixteen_bit_gradients() -> None:
    expected = contrastive_loss(*views(), offsets(SIZES1), offsets(SIZES2), PARTNER, tau=0.2)
    p1, p2 = views(torch.bfloat16)
    found = contrastive_loss(p1, p2, offsets(SIZES1), offsets(SIZES2), PARTNER, tau=0.2)
    torch.stack(found).sum().backward()
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), theirs, rtol=0.02, atol=0.02)
    assert p1.grad is not None
    assert p1.grad.dtype == torch.bfloat16


def test_without_gradient_none_is_computed() -> None:
    p1, p2 = views()
    with torch.no_grad():
        numerator, _ = contrastive_loss(p1, p2, offsets(SIZES1), offsets(SIZES2), PARTNER, tau=0.2)
    assert not numerator.requires_grad


def test_a_plan_stands_for_offsets_and_partners() -> None:
    p1, p2 = views()
    plan = make_loss_plan(offsets(SIZES1), offsets(SIZES2), PARTNER)
    for ours, theirs in zip(
        contrastive_loss(p1, p2, plan=plan, tau=0.2),
        contrastive_loss(p1, p2, offsets(SIZES1), offsets(SIZES2), PARTNER, tau=0.2),
        strict=True,
    ):
        assert torch.equal(ours, theirs)
    assert plan.largest == 6
    # Largest samples first; view 2 is counted on behind the 14 units of view 1.
    assert plan.samples.tolist()[:2] == [[4, 10, 19, 21, 1, 1], [0, 4, 14, 19, 2, 0]]
    assert plan.partners[:3].tolist() == [-1, 17, 14]
    assert plan.partners[14:18].tolist() == [2, -1, -1, 1]


def test_a_plan_of_other_views_is_refused() -> None:
    p1, p2 = views()
    plan = make_loss_plan(offsets(SIZES1), offsets(SIZES2), PARTNER)
    with pytest.raises(ValueError, match="plan was made for views of 14 and 13 units; got 13 and 13"):
        contrastive_loss(p1[1:], p2, plan=plan, tau=0.2)
    with pytest.raises(ValueError, match="give either plan or these"):
        contrastive_loss(p1, p2, offsets(SIZES1), plan=plan, tau=0.2)
    with pytest.raises(ValueError, match="plan is missing"):
        contrastive_loss(p1, p2, offsets(SIZES1), tau=0.2)
    with pytest.raises(ValueError, match="partner12"):
        make_loss_plan(offsets(SIZES1), offsets(SIZES2), PARTNER.double())
    with pytest.raises(ValueError, match="cu2"):
        make_loss_plan(offsets(SIZES1), offsets(SIZES2)[:-1], PARTNER)


def test_only_a_gpu_has_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    p1, p2 = views(torch.float32)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("NUCLR_KERNELS", "triton")
    with pytest.raises(ValueError, match="contrastive_loss has no fused kernel here"):
        contrastive_loss(p1, p2, offsets(SIZES1), offsets(SIZES2), PARTNER, tau=0.2)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"p1": torch.zeros(14)}, "p1"),
        ({"p2": torch.zeros(13, 8, dtype=torch.int64)}, "p2"),
        ({"p2": torch.zeros(13, 4, dtype=torch.float64)}, "p2"),
        ({"p2": torch.zeros(13, 8, dtype=torch.float32)}, "p2"),
        ({"p2": torch.zeros(13, 8, dtype=torch.float64, device="meta")}, "p2"),
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
