"""Population and temporal attention against an oracle written out entry by entry, both passes."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from nuclr_kernels import population_attention, temporal_attention

SIZES = [[5, 1, 9], [0, 7, 0, 1, 3, 0], [1], [0], [12, 12]]


def offsets(sizes: list[int], dtype: torch.dtype = torch.int32) -> Tensor:
    return torch.tensor([0, *torch.tensor(sizes).cumsum(0).tolist()], dtype=dtype)


def random_qkv(units: int, patches: int = 3, heads: int = 2, width: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(units)
    return torch.randn(units, patches, 3, heads, width, dtype=torch.float64, generator=generator)


def population_oracle(qkv: Tensor, sizes: list[int], scale: float) -> Tensor:
    """One (U, U) score matrix for the whole batch, other populations masked."""
    query, key, value = qkv.unbind(2)
    sample = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    scores = torch.einsum("ulhd,vlhd->lhuv", query, key) * scale
    scores = scores.masked_fill(sample[:, None] != sample, -math.inf)
    return torch.einsum("lhuv,vlhd->ulhd", scores.softmax(-1), value)


def rotation(angle: Tensor) -> Tensor:
    """(L, Dh, Dh) block-diagonal rotation matrices of (L, Dh/2) angles."""
    blocks = [
        torch.stack([torch.stack([a.cos(), -a.sin()]), torch.stack([a.sin(), a.cos()])])
        for a in angle.flatten()
    ]
    return torch.stack(
        [torch.block_diag(*blocks[i : i + angle.shape[1]]) for i in range(0, len(blocks), angle.shape[1])]
    )


def temporal_oracle(qkv: Tensor, angle: Tensor, scale: float, rotate_value: bool) -> Tensor:
    turn = rotation(angle)
    query, key, value = qkv.unbind(2)
    query, key = (torch.einsum("lde,ulhe->ulhd", turn, x) for x in (query, key))
    if rotate_value:
        value = torch.einsum("lde,ulhe->ulhd", turn, value)
    scores = torch.einsum("ulhd,umhd->uhlm", query, key) * scale
    out = torch.einsum("uhlm,umhd->ulhd", scores.softmax(-1), value)
    return torch.einsum("led,ulhe->ulhd", turn, out) if rotate_value else out


def check(ours: Callable[[Tensor], Tensor], oracle: Callable[[Tensor], Tensor], qkv: Tensor) -> None:
    """Values and gradients agree, in float64 closely and in float32 as float32 can."""
    weight = torch.randn(qkv[:, :, 0].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected_input = qkv.clone().requires_grad_()
    expected = oracle(expected_input)
    expected.backward(weight)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-5)):
        found_input = qkv.to(dtype, copy=True).requires_grad_()
        found = ours(found_input)
        found.backward(weight.to(dtype))
        assert found.dtype == dtype
        assert found.shape == expected.shape
        assert found_input.grad is not None
        torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(
            found_input.grad.double(), expected_input.grad, rtol=tolerance, atol=tolerance
        )


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("scale", [None, 0.7])
def test_population_attention_matches_the_oracle(sizes: list[int], scale: float | None) -> None:
    qkv = random_qkv(sum(sizes))
    used = qkv.shape[-1] ** -0.5 if scale is None else scale
    check(
        lambda x: population_attention(x, offsets(sizes), scale=scale),
        lambda x: population_oracle(x, sizes, used),
        qkv,
    )


def test_population_attention_takes_any_strides_and_int64_offsets() -> None:
    sizes = [4, 6]
    qkv = random_qkv(10)
    strided = qkv.permute(2, 4, 0, 3, 1).contiguous().permute(2, 4, 0, 3, 1)
    assert not strided.is_contiguous()
    found = population_attention(strided, offsets(sizes, torch.int64))
    torch.testing.assert_close(found, population_attention(qkv, offsets(sizes)))


def test_a_population_cannot_see_its_neighbour() -> None:
    qkv = random_qkv(10)
    qkv[6:] = math.nan
    assert population_attention(qkv, offsets([6, 4]))[:6].isfinite().all()


@pytest.mark.parametrize("patches", [1, 10, 32])
@pytest.mark.parametrize("rotate_value", [True, False])
def test_temporal_attention_matches_the_oracle(patches: int, rotate_value: bool) -> None:
    qkv = random_qkv(4, patches)
    angle = torch.arange(patches, dtype=torch.float64)[:, None] * torch.tensor([6.3, 0.9, 0.1, 0.0]).double()
    check(
        lambda x: temporal_attention(
            x, angle.cos().to(x.dtype), angle.sin().to(x.dtype), rotate_value=rotate_value
        ),
        lambda x: temporal_oracle(x, angle, qkv.shape[-1] ** -0.5, rotate_value),
        qkv,
    )


def test_temporal_attention_depends_on_time_differences_only() -> None:
    qkv = random_qkv(3, patches=7)
    angle = torch.arange(7, dtype=torch.float64)[:, None] * torch.tensor([2.0, 0.5, 0.1, 0.01]).double()
    later = angle + 3 * angle[1]
    torch.testing.assert_close(
        temporal_attention(qkv, later.cos(), later.sin()), temporal_attention(qkv, angle.cos(), angle.sin())
    )


def test_temporal_attention_takes_any_strides() -> None:
    table = torch.arange(3, dtype=torch.float64)[:, None] * torch.tensor([2.0, 0.5, 0.1, 0.01]).double()
    qkv = random_qkv(5)
    expected = temporal_attention(qkv, table.cos(), table.sin())
    wider = torch.zeros(5, 3, 3, 2, 11, dtype=torch.float64)
    wider[..., 1:9] = qkv
    for same in (wider[..., 1:9], qkv.transpose(0, 4).contiguous().transpose(0, 4)):
        assert torch.equal(same, qkv)
        torch.testing.assert_close(temporal_attention(same, table.cos(), table.sin()), expected)


def test_temporal_attention_of_no_unit() -> None:
    table = torch.ones(3, 4, dtype=torch.float64)
    assert temporal_attention(random_qkv(0), table, table).shape == (0, 3, 2, 8)


def test_bfloat16_is_as_good_as_bfloat16_can_be() -> None:
    sizes = [5, 20]
    qkv = random_qkv(25, patches=10, width=16).bfloat16()
    angle = torch.arange(10, dtype=torch.float64)[:, None] * torch.linspace(0.1, 6.3, 8).double()
    pairs = [
        (population_attention(qkv, offsets(sizes)), population_oracle(qkv.double(), sizes, 0.25)),
        (
            temporal_attention(qkv, angle.cos().float(), angle.sin().float()),
            temporal_oracle(qkv.double(), angle, 0.25, True),
        ),
    ]
    for found, expected in pairs:
        assert found.dtype == torch.bfloat16
        assert (found.double() - expected).norm() / expected.norm() < 8e-3


@pytest.mark.parametrize(
    ("qkv", "cu_seqlens", "named"),
    [
        (torch.zeros(4, 3, 2, 2, 8), offsets([4]), "qkv"),
        (torch.zeros(4, 3, 3, 8), offsets([4]), "qkv"),
        (torch.zeros(4, 3, 3, 2, 8, dtype=torch.int64), offsets([4]), "qkv"),
        (random_qkv(4), offsets([3]), "cu_seqlens"),
        (random_qkv(4), torch.tensor([1, 4]), "cu_seqlens"),
        (random_qkv(4), torch.tensor([0, 5, 4]), "cu_seqlens"),
        (random_qkv(4), torch.tensor([0.0, 4.0]), "cu_seqlens"),
        (random_qkv(4), torch.tensor([[0, 4]]), "cu_seqlens"),
    ],
)
def test_population_attention_names_the_wrong_argument(qkv: Tensor, cu_seqlens: Tensor, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        population_attention(qkv, cu_seqlens)


@pytest.mark.parametrize(
    ("qkv", "cos", "sin", "named"),
    [
        (random_qkv(4)[..., :7], torch.ones(3, 3), torch.ones(3, 3), "qkv"),
        (random_qkv(4), torch.ones(2, 4), torch.ones(3, 4), "cos"),
        (random_qkv(4), torch.ones(3, 4), torch.ones(3, 8), "sin"),
        (random_qkv(4), torch.ones(3, 4).bfloat16(), torch.ones(3, 4), "cos"),
        (random_qkv(4), torch.ones(3, 4), torch.ones(3, 4).double(), "sin"),
    ],
)
def test_temporal_attention_names_the_wrong_argument(
    qkv: Tensor, cos: Tensor, sin: Tensor, named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        temporal_attention(qkv, cos, sin)
