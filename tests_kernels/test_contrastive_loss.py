"""The contrastive loss on the Triton kernels against float64, both passes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from nuclr_kernels import contrastive_loss
from nuclr_kernels.contrastive import make_loss_plan, ops
from nuclr_kernels.contrastive.reference import contrastive_loss_reference

pytestmark = pytest.mark.filterwarnings(
    "ignore:invalid value encountered", "ignore:overflow encountered", "ignore:divide by zero"
)

SIZES1, SIZES2 = [33, 1, 0, 5, 70], [30, 1, 4, 6, 64]
# Of ||difference|| / ||reference||, of gradients. Weights and gradients are rounded to the operands' dtype.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 6e-3}


def offsets(sizes: list[int]) -> Tensor:
    return torch.tensor([0, *itertools.accumulate(sizes)], dtype=torch.int32)


def views(sizes1: list[int], sizes2: list[int], width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(width)
    raw = (torch.randn(sum(sizes), width, generator=generator) for sizes in (sizes1, sizes2))
    p1, p2 = (torch.nn.functional.normalize(x, dim=1).to(dtype) for x in raw)
    return p1, p2


def partners(sizes1: list[int], sizes2: list[int], share: float = 0.7) -> Tensor:
    """Some units of each sample, in an order of their own."""
    generator = torch.Generator().manual_seed(0)
    partner = torch.full((sum(sizes1),), -1)
    for start1, start2, size1, size2 in zip(
        offsets(sizes1).tolist(), offsets(sizes2).tolist(), sizes1, sizes2, strict=False
    ):
        matched = math.ceil(min(size1, size2) * share)
        rows1 = torch.randperm(size1, generator=generator)[:matched]
        partner[start1 + rows1] = start2 + torch.randperm(size2, generator=generator)[:matched]
    return partner


def error(found: Tensor, expected: Tensor) -> float:
    return float(((found.double() - expected).norm() / expected.norm()).detach())


def check(p1: Tensor, p2: Tensor, cu1: Tensor, cu2: Tensor, partner: Tensor, **options: Any) -> list[Tensor]:
    """Terms and gradients are as close to float64 as the dtype allows; they are returned."""
    options = {"tau": 0.2} | options
    weights = torch.linspace(0.5, 2, len(cu1) - 1), torch.linspace(3, 1, len(cu1) - 1)
    results = []
    for exact in (True, False):
        leaf1, leaf2 = (p.detach().to(torch.float64 if exact else p.dtype, copy=True) for p in (p1, p2))
        leaf1.requires_grad_()
        leaf2.requires_grad_()
        terms = (
            contrastive_loss_reference(leaf1, leaf2, cu1.tolist(), cu2.tolist(), partner, **options)
            if exact
            else contrastive_loss(leaf1, leaf2, cu1, cu2, partner, **options)
        )
        sum((term * weight.to(term)).sum() for term, weight in zip(terms, weights, strict=True)).backward()
        results.append([*(term.detach() for term in terms), leaf1.grad, leaf2.grad])
    expected, found = results
    for ours, theirs in zip(found[:2], expected[:2], strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)
    for ours, theirs, leaf in zip(found[2:], expected[2:], (p1, p2), strict=True):
        assert ours.dtype == leaf.dtype
        assert ours.shape == leaf.shape
        assert ours.isfinite().all()
        assert error(ours, theirs) < TOLERANCE[leaf.dtype] if theirs.any() else not ours.any()
    return found


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that a kernel fails to write holds NaN."""
    for make in (torch.empty, torch.empty_like):
        monkeypatch.setattr(ops.torch, make.__name__, partial(_filled, make))


def _filled(make: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    out = make(*args, **kwargs)
    return out.fill_(math.nan) if out.is_floating_point() else out


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_matches_float64(dtype: torch.dtype) -> None:
    check(*views(SIZES1, SIZES2, 32, dtype), offsets(SIZES1), offsets(SIZES2), partners(SIZES1, SIZES2))


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("dcl", [True, False])
@pytest.mark.parametrize("full_denom", [True, False])
@pytest.mark.parametrize("self_tau", [1.0, 0.1])
def test_options(dcl: bool, full_denom: bool, self_tau: float) -> None:
    sizes1, sizes2 = [17, 1, 3], [20, 1, 1]
    check(
        *views(sizes1, sizes2, 16, torch.float32),
        offsets(sizes1),
        offsets(sizes2),
        partners(sizes1, sizes2),
        dcl=dcl,
        full_denom=full_denom,
        self_tau=self_tau,
    )


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("width", [5, 16, 24, 64, 96, 200])
def test_widths(width: int, dtype: torch.dtype) -> None:
    sizes1, sizes2 = [18, 3], [17, 5]
    check(*views(sizes1, sizes2, width, dtype), offsets(sizes1), offsets(sizes2), partners(sizes1, sizes2))


@pytest.mark.parametrize("norm", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("tau", [0.5, 0.05, 0.01])
def test_low_temperatures_and_rows_that_are_not_of_unit_norm(tau: float, norm: float) -> None:
    """Up to scores of 900: the sums of a sample then differ by more than one exponential can span."""
    sizes1, sizes2 = [20, 4], [19, 5]
    p1, p2 = (p * norm for p in views(sizes1, sizes2, 16, torch.float32))
    lengths = torch.linspace(0.1, 1, 24)[:, None]
    arguments = (p1 * lengths, p2, offsets(sizes1), offsets(sizes2), partners(sizes1, sizes2))
    if norm**2 / tau <= 100:
        check(*arguments, tau=tau)
        return
    # Float32 itself knows scores of this size to 1e-4 only.
    leaf1, leaf2, exact1, exact2 = (
        p.detach().to(dtype, copy=True).requires_grad_()
        for dtype in (torch.float32, torch.float64)
        for p in arguments[:2]
    )
    found = contrastive_loss(leaf1, leaf2, *arguments[2:], tau=tau)
    bounds1, bounds2, partner = arguments[2].tolist(), arguments[3].tolist(), arguments[4]
    expected = contrastive_loss_reference(exact1, exact2, bounds1, bounds2, partner, tau=tau)
    torch.stack(found).sum().backward()
    torch.stack(expected).sum().backward()
    torch.testing.assert_close(torch.stack(found).double(), torch.stack(expected), rtol=1e-5, atol=1e-4)
    assert leaf1.grad is not None
    assert exact1.grad is not None
    assert error(leaf1.grad, exact1.grad) < 2e-4


def test_samples_without_a_pair_are_zero_with_zero_gradient() -> None:
    p1, p2 = views(SIZES1, SIZES2, 16, torch.float32)
    found = check(p1, p2, offsets(SIZES1), offsets(SIZES2), torch.full((sum(SIZES1),), -1))
    assert not any(tensor.any() for tensor in found)


@pytest.mark.parametrize("upstream", [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0)])
def test_each_term_alone_has_its_gradient(upstream: tuple[float, float]) -> None:
    sizes = [9, 20]
    grads = []
    for dtype in (torch.float32, torch.float64):
        p1 = views(sizes, sizes, 16, torch.float32)[0].to(dtype).requires_grad_()
        p2 = views(sizes, sizes, 16, torch.float32)[1].to(dtype)
        arguments = (p1, p2, offsets(sizes), offsets(sizes), partners(sizes, sizes))
        if dtype is torch.float32:
            terms = contrastive_loss(*arguments, tau=0.2)
        else:
            bounds = offsets(sizes).tolist()
            terms = contrastive_loss_reference(p1, p2, bounds, bounds, arguments[4], tau=0.2)
        (upstream[0] * terms[0].sum() + upstream[1] * terms[1].sum()).backward()
        assert p1.grad is not None
        grads.append(p1.grad)
    torch.testing.assert_close(grads[0].double(), grads[1], rtol=1e-5, atol=1e-6)


def test_a_broken_sample_does_not_reach_its_neighbours() -> None:
    sizes = [20, 7, 20]
    cu, partner = offsets(sizes), partners(sizes, sizes)
    p1, p2 = views(sizes, sizes, 16, torch.float32)
    clean = check(p1, p2, cu, cu, partner)
    p1[20:27] = math.nan
    p2[20:27] = math.nan
    leaf1, leaf2 = p1.requires_grad_(), p2.requires_grad_()
    terms = contrastive_loss(leaf1, leaf2, cu, cu, partner, tau=0.2)
    weights = torch.linspace(0.5, 2, 3), torch.linspace(3, 1, 3)
    sum((term * weight).sum() for term, weight in zip(terms, weights, strict=True)).backward()
    for ours, theirs in zip((*terms, leaf1.grad, leaf2.grad), clean, strict=True):
        assert ours is not None
        inside = slice(1, 2) if len(theirs) == 3 else slice(20, 27)
        others = torch.ones(len(theirs), dtype=torch.bool)
        others[inside] = False
        assert torch.equal(ours[others], theirs[others])
        assert ours[inside].isnan().all()


@pytest.mark.parametrize("sizes", [[], [0], [0, 0]], ids=str)
def test_nothing(sizes: list[int]) -> None:
    empty = torch.zeros(0, 16, requires_grad=True)
    cu, none = offsets(sizes), torch.zeros(0, dtype=torch.int64)
    numerator, denominator = contrastive_loss(empty, empty, cu, cu, none, tau=0.2)
    assert torch.equal(numerator, torch.zeros(len(sizes)))
    assert torch.equal(denominator, torch.zeros(len(sizes)))
    (numerator + denominator).sum().backward()
    assert empty.grad is not None


def test_same_input_same_bits_with_or_without_a_plan() -> None:
    cu1, cu2, partner = offsets(SIZES1), offsets(SIZES2), partners(SIZES1, SIZES2)
    plan = make_loss_plan(cu1, cu2, partner)
    results = []
    for arguments in ({"plan": plan}, {"cu1": cu1, "cu2": cu2, "partner12": partner}):
        p1, p2 = (p.requires_grad_() for p in views(SIZES1, SIZES2, 16, torch.float32))
        terms = contrastive_loss(p1, p2, **arguments, tau=0.2)
        torch.stack(terms).sum().backward()
        results.append((*terms, p1.grad, p2.grad))
    for ours, theirs in zip(*results, strict=True):
        assert ours is not None
        assert theirs is not None
        assert torch.equal(ours, theirs)


def test_offsets_beyond_two_to_the_31() -> None:
    """The only sample lies behind 2^31 numbers, which are never touched and so take no memory."""
    width, before = 512, 2**22
    sizes = [6]
    p1, p2 = views(sizes, sizes, width, torch.float16)
    try:
        packed = torch.zeros(before + 12, width, dtype=torch.float16)
    except RuntimeError:
        pytest.skip("needs 9 GB of virtual memory")
    packed[before : before + 6] = p1
    packed[before + 6 :] = p2
    partners_far = torch.full((before + 12,), -1, dtype=torch.int32)
    partners_far[before : before + 6] = torch.arange(before + 6, before + 12)
    partners_far[before + 6 :] = torch.arange(before, before + 6)
    samples = torch.tensor([[before, before + 6, before + 6, before + 12, 6, 0]], dtype=torch.int32)
    options = (6, 0.2, 1.0, True, True, "ieee")
    *terms, lse, shift = ops.contrastive_loss_op(packed, samples, partners_far, *options)
    ones = torch.ones(1)
    dp = ops.contrastive_loss_backward_op(ones, ones, packed, samples, partners_far, lse, shift, *options)
    leaf1, leaf2 = (p.double().requires_grad_() for p in (p1, p2))
    expected = contrastive_loss_reference(leaf1, leaf2, [0, 6], [0, 6], torch.arange(6), tau=0.2)
    torch.stack(expected).sum().backward()
    torch.testing.assert_close(torch.stack(terms).double(), torch.stack(expected), rtol=1e-5, atol=1e-5)
    assert leaf1.grad is not None
    assert error(dp[before : before + 6], leaf1.grad) < TOLERANCE[torch.float16]


def test_the_operators_are_what_pytorch_expects() -> None:
    plan = make_loss_plan(offsets([7, 2]), offsets([6, 3]), partners([7, 2], [6, 3]))
    p = torch.cat(views([7, 2], [6, 3], 16, torch.float32)).requires_grad_()
    rest = (plan.samples, plan.partners)
    options = (plan.largest, 0.2, 1.0, True, True, "ieee")
    checks = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(ops.contrastive_loss_op, (p, *rest, *options), test_utils=checks)
    *_, lse, shift = ops.contrastive_loss_op(p.detach(), *rest, *options)
    upstream = torch.ones(2), torch.ones(2)
    arguments = (*upstream, p.detach(), *rest, lse, shift, *options)
    torch.library.opcheck(ops.contrastive_loss_backward_op, arguments)


def test_compiles_in_one_graph() -> None:
    @torch.compile(fullgraph=True, backend="aot_eager")
    def compiled(p1: Tensor, p2: Tensor) -> Tensor:
        return torch.stack(contrastive_loss(p1, p2, plan=plan, tau=0.2)).sum()

    plan = make_loss_plan(offsets([7, 2]), offsets([6, 3]), partners([7, 2], [6, 3]))
    p1, p2 = (p.requires_grad_() for p in views([7, 2], [6, 3], 16, torch.float32))
    q1, q2 = (p.detach().clone().requires_grad_() for p in (p1, p2))
    compiled(p1, p2).backward()
    torch.stack(contrastive_loss(q1, q2, plan=plan, tau=0.2)).sum().backward()
    assert p1.grad is not None
    assert q1.grad is not None
    assert torch.equal(p1.grad, q1.grad)


def test_autocast_leaves_it_alone() -> None:
    cu, partner = offsets([9]), torch.arange(9)
    p1, p2 = views([9], [9], 16, torch.float32)
    expected = contrastive_loss(p1, p2, cu, cu, partner, tau=0.2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = contrastive_loss(p1, p2, cu, cu, partner, tau=0.2)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("width", "dtype", "reason"), [(16, torch.float64, "float64"), (513, torch.float32, "1 to 512")]
)
def test_says_what_the_kernel_cannot_take(width: int, dtype: torch.dtype, reason: str) -> None:
    p1, p2 = views([3], [3], width, dtype)
    with pytest.raises(ValueError, match=reason):
        contrastive_loss(p1, p2, offsets([3]), offsets([3]), torch.arange(3), tau=0.2)
