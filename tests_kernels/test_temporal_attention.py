"""Temporal attention on the Triton kernels against float64, both passes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from nuclr_kernels import temporal_attention
from nuclr_kernels.temporal_attention import ops
from nuclr_kernels.temporal_attention.reference import temporal_attention_reference

# Of ||difference|| / ||reference||. The interpreter cuts float32 to bfloat16 where a GPU rounds, after the
# rotation, the softmax and at the end, each with a bias towards zero: errors are about three times those of
# rounding to nearest, for which 4e-3 (output) and 6e-3 (gradient) are asked on a GPU.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 2.5e-2}


def random_qkv(
    units: int, patches: int, heads: int = 2, width: int = 16, dtype: torch.dtype = torch.float32
) -> Tensor:
    generator = torch.Generator().manual_seed(units + patches)
    return torch.randn(units, patches, 3, heads, width, generator=generator).to(dtype)


def tables(patches: int, width: int) -> tuple[Tensor, Tensor]:
    angle = torch.arange(patches)[:, None] * torch.linspace(6.3, 0, width // 2, dtype=torch.float64)
    return angle.cos().float(), angle.sin().float()


def error(found: Tensor, expected: Tensor) -> float:
    return float(((found.double() - expected).norm() / expected.norm()).detach())


def check(qkv: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Output and gradient are as close to float64 as the dtype allows; they are returned."""
    cos, sin = tables(qkv.shape[1], qkv.shape[4])
    exact = qkv.detach().double().requires_grad_()
    expected = temporal_attention_reference(exact, cos.double(), sin.double(), **options)
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).to(qkv.dtype)
    expected.backward(weight.double())
    leaf = qkv.detach().requires_grad_()
    found = temporal_attention(leaf, cos, sin, **options)
    found.backward(weight)
    assert leaf.grad is not None
    assert exact.grad is not None
    assert found.dtype == leaf.grad.dtype == qkv.dtype
    assert found.is_contiguous()
    assert error(found, expected) < TOLERANCE[qkv.dtype]
    for part in range(3):
        if exact.grad[:, :, part].norm() > 1e-9:  # of a lone patch only values have a gradient
            assert error(leaf.grad[:, :, part], exact.grad[:, :, part]) < TOLERANCE[qkv.dtype]
    return found.detach(), leaf.grad


pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered")


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that a kernel fails to write holds NaN."""
    empty = torch.empty

    def filled(*args: Any, **kwargs: Any) -> Tensor:
        out = empty(*args, **kwargs)
        return out.fill_(math.nan) if out.is_floating_point() else out

    monkeypatch.setattr(ops.torch, "empty", filled)


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("units", [1, 5, 33])
@pytest.mark.parametrize("patches", [1, 10, 32])
def test_matches_float64(units: int, patches: int, dtype: torch.dtype) -> None:
    check(random_qkv(units, patches, dtype=dtype))


def test_seventy_units() -> None:
    check(random_qkv(70, 10, heads=1))


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("width", [32, 64, 128])
def test_head_widths(width: int, dtype: torch.dtype) -> None:
    check(random_qkv(7, 10, heads=1, width=width, dtype=dtype))


@pytest.mark.parametrize("patches", [16, 17, 33, 64, 65, 128])
def test_numbers_of_patches_at_which_tiles_change(patches: int) -> None:
    check(random_qkv(3, patches, heads=1))


@pytest.mark.parametrize("patches", [10, 40])
def test_values_as_they_are_and_another_scale(patches: int) -> None:
    check(random_qkv(4, patches), rotate_value=False, scale=0.7)


def test_large_scores_do_not_overflow() -> None:
    cos, sin = tables(10, 16)
    leaf = (100 * random_qkv(4, 10)).requires_grad_()
    found = temporal_attention(leaf, cos, sin)
    expected = temporal_attention_reference(leaf.detach().double(), cos.double(), sin.double())
    assert error(found, expected) < 1e-5
    found.sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()


def test_any_strides_without_a_copy() -> None:
    expected, expected_grad = check(random_qkv(5, 10))
    qkv = random_qkv(5, 10)
    wider = torch.full((7, 12, 3, 4, 16), math.nan)
    wider[1:6, 1:11, :, 1:3] = qkv
    transposed = qkv.permute(3, 0, 2, 1, 4).contiguous().permute(1, 3, 2, 0, 4)
    apart = qkv.transpose(3, 4).contiguous().transpose(3, 4)  # is copied
    for same in (wider[1:6, 1:11, :, 1:3], transposed, apart):
        found, grad = check(same)
        assert torch.equal(found, expected)
        assert torch.equal(grad, expected_grad)


def test_offsets_beyond_two_to_the_31() -> None:
    """Strides whose products with indices need 64 bits; what lies between is never touched."""
    qkv = random_qkv(4, 10, heads=1)
    expected, _ = check(qkv)
    cos, sin = tables(10, 16)
    try:
        storage = torch.zeros(3 * 2**30 + 2**20, dtype=torch.float16)
    except RuntimeError:
        pytest.skip("needs 6 GB of virtual memory")
    apart = storage.as_strided((4, 10, 3, 1, 16), (2**30, 48, 16, 16, 1))
    apart.copy_(qkv)
    found = temporal_attention(apart, cos, sin)
    assert error(found, expected) < TOLERANCE[torch.float16]


def test_a_broken_unit_does_not_reach_others_in_its_tile() -> None:
    cos, sin = tables(10, 16)
    qkv = random_qkv(5, 10)
    clean, clean_grad = check(qkv)
    for part, value in ((0, math.nan), (1, math.inf), (2, math.nan), (2, -math.inf)):
        broken = qkv.clone()
        broken[1, 3, part, 0, 5] = value
        leaf = broken.requires_grad_()
        found = temporal_attention(leaf, cos, sin)
        found.backward(torch.randn(found.shape, generator=torch.Generator().manual_seed(1)))
        assert leaf.grad is not None
        for ours, theirs in ((found, clean), (leaf.grad, clean_grad)):
            others = [0, 2, 3, 4]
            assert torch.equal(ours[others], theirs[others])
            assert not ours[1].isfinite().all()


def test_a_broken_gradient_stays_with_its_unit() -> None:
    cos, sin = tables(10, 16)
    qkv = random_qkv(5, 10)
    _, clean_grad = check(qkv)
    weight = torch.randn(5, 10, 2, 16, generator=torch.Generator().manual_seed(1))
    weight[4, 9, 1, 0] = math.nan
    leaf = qkv.requires_grad_()
    temporal_attention(leaf, cos, sin).backward(weight)
    assert leaf.grad is not None
    assert torch.equal(leaf.grad[:4], clean_grad[:4])
    assert leaf.grad[4].isnan().any()


def test_gradient_of_a_sum_which_is_one_number_seen_everywhere() -> None:
    cos, sin = tables(10, 16)
    grads = []
    for run in (temporal_attention, temporal_attention_reference):
        leaf = random_qkv(3, 10).requires_grad_()
        run(leaf, cos, sin).sum().backward()
        assert leaf.grad is not None
        grads.append(leaf.grad)
    assert error(grads[0], grads[1].double()) < 2e-6


@pytest.mark.parametrize("shape", [(0, 10, 3, 2, 16), (3, 10, 3, 0, 16)])
def test_nothing(shape: tuple[int, ...]) -> None:
    cos, sin = tables(10, 16)
    leaf = torch.zeros(shape, requires_grad=True)
    found = temporal_attention(leaf, cos, sin)
    assert found.shape == (shape[0], 10, *shape[3:])
    found.sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.shape == shape


def test_same_input_same_bits() -> None:
    first, second = check(random_qkv(5, 10)), check(random_qkv(5, 10))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_float64_tables_are_taken() -> None:
    qkv, (cos, sin) = random_qkv(3, 10), tables(10, 16)
    assert torch.equal(temporal_attention(qkv, cos.double(), sin.double()), temporal_attention(qkv, cos, sin))


def test_autocast_computes_in_its_dtype() -> None:
    cos, sin = tables(10, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert temporal_attention(random_qkv(2, 10), cos, sin).dtype == torch.bfloat16
        assert temporal_attention(random_qkv(2, 10).bfloat16(), cos, sin).dtype == torch.bfloat16


def test_the_operators_are_what_pytorch_expects() -> None:
    cos, sin = tables(10, 16)
    qkv = random_qkv(3, 10).requires_grad_()
    torch.library.opcheck(ops.temporal_attention_op, (qkv, cos, sin, True, 0.25, "ieee"))
    dout = torch.randn(3, 10, 2, 16)
    arguments = (dout, qkv.detach(), cos, sin, False, 0.25, "ieee")
    torch.library.opcheck(ops.temporal_attention_backward_op, arguments)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_in_one_graph(dynamic: bool) -> None:
    cos, sin = tables(10, 16)

    def double(x: Tensor) -> Tensor:
        return 2 * temporal_attention(x, cos, sin)

    compiled = torch.compile(double, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for units in (3, 5):
        leaf, plain = (random_qkv(units, 10).requires_grad_() for _ in range(2))
        out, expected = compiled(leaf), double(plain)
        out.square().sum().backward()
        expected.square().sum().backward()
        assert torch.equal(out, expected)
        assert leaf.grad is not None
        assert plain.grad is not None
        assert torch.equal(leaf.grad, plain.grad)


@pytest.mark.parametrize(
    ("qkv", "reason"),
    [
        (random_qkv(2, 10).double(), "float64"),
        (random_qkv(2, 10, width=24), "head width"),
        (random_qkv(2, 129), "128 patches"),
    ],
)
def test_says_what_the_kernel_cannot_take(qkv: Tensor, reason: str) -> None:
    cos, sin = tables(qkv.shape[1], qkv.shape[4])
    with pytest.raises(ValueError, match=reason):
        temporal_attention(qkv, cos, sin)
