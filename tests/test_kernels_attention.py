"""Population and temporal attention against an oracle written out entry by entry, both passes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from nuclr_kernels import PopulationPlan, make_plan, population_attention, temporal_attention
from nuclr_kernels.temporal_attention import tiles
from nuclr_kernels.tile_tables import tile_table

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


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_a_plan_stands_for_the_offsets(sizes: list[int]) -> None:
    qkv = random_qkv(sum(sizes))
    expected = population_attention(qkv, offsets(sizes))
    for plan in (make_plan(sizes), make_plan(torch.tensor(sizes)), make_plan(cu_seqlens=offsets(sizes))):
        assert torch.equal(population_attention(qkv, plan=plan), expected)
        assert torch.equal(population_attention(qkv, offsets(sizes), plan=plan), expected)
        assert plan.n_units == sum(sizes)
        assert plan.max_size == max(sizes)
        assert plan.cu_seqlens.tolist() == offsets(sizes).tolist()
        assert plan.cu_seqlens.dtype == torch.int32


def test_query_key_and_value_can_come_by_themselves() -> None:
    qkv = random_qkv(9)
    query, key, value = qkv.unbind(2)
    found = population_attention((query, key, value), offsets([4, 5]))
    torch.testing.assert_close(found, population_attention(qkv, offsets([4, 5])))


@pytest.mark.parametrize(
    "sizes", [[3, -1], [1.5], [[1, 2]], torch.tensor([2.0]), torch.tensor(3)], ids=lambda x: str(x)
)
def test_a_plan_takes_whole_numbers_of_units(sizes: Any) -> None:
    with pytest.raises(ValueError, match="sizes must be a list of integers, none of them negative"):
        make_plan(sizes)


def test_a_plan_takes_one_description_of_the_batch() -> None:
    for given in ({}, {"sizes": [3], "cu_seqlens": offsets([3])}):
        with pytest.raises(ValueError, match="either sizes or cu_seqlens"):
            make_plan(**given)
    with pytest.raises(ValueError, match="cu_seqlens must ascend"):
        make_plan(cu_seqlens=torch.tensor([0, 5, 4]))


@pytest.mark.parametrize(
    ("plan", "cu_seqlens", "said"),
    [
        (make_plan([3]), None, "plan is for 3 units; qkv has 4"),
        (make_plan([4]), offsets([1, 3]), "cu_seqlens must be the plan's"),
        (make_plan([4], "meta"), None, "plan was made for meta; qkv is on cpu"),
        (None, None, "either cu_seqlens or a plan"),
    ],
)
def test_a_plan_has_to_fit(plan: PopulationPlan | None, cu_seqlens: Tensor | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        population_attention(random_qkv(4), cu_seqlens, plan=plan)


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        ((torch.zeros(4, 3, 2, 8), torch.zeros(4, 3, 2, 8)), "three of them"),
        ((torch.zeros(4, 3, 8),) * 3, "query"),
        ((torch.zeros(4, 3, 2, 8), torch.zeros(3, 3, 2, 8), torch.zeros(4, 3, 2, 8)), "key"),
        ((torch.zeros(4, 3, 2, 8), torch.zeros(4, 3, 2, 8), torch.zeros(4, 3, 2, 8).half()), "value"),
    ],
)
def test_parts_of_the_projection_have_to_fit(parts: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        population_attention(parts, offsets([4]))


def test_the_scale_is_a_number() -> None:
    with pytest.raises(ValueError, match="scale must be a finite number"):
        population_attention(random_qkv(4), offsets([4]), scale=math.nan)


def test_kernels_that_cannot_run_are_an_error_if_demanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("NUCLR_KERNELS", "triton")
    with pytest.raises(ValueError, match="population_attention has no fused kernel here"):
        make_plan([4])
    monkeypatch.setenv("NUCLR_KERNELS", "reference")
    assert not make_plan([4]).fused


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
        (random_qkv(4), torch.ones(3, 4), torch.ones(3, 4, device="meta"), "sin"),
    ],
)
def test_temporal_attention_names_the_wrong_argument(
    qkv: Tensor, cos: Tensor, sin: Tensor, named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        temporal_attention(qkv, cos, sin)


def test_only_a_gpu_has_a_kernel_of_temporal_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    table = torch.ones(3, 8)
    qkv = random_qkv(4, width=16).float()
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("NUCLR_KERNELS", "triton")
    with pytest.raises(ValueError, match="temporal_attention has no fused kernel here"):
        temporal_attention(qkv, table, table)
    monkeypatch.setenv("NUCLR_KERNELS", "reference")
    assert temporal_attention(qkv, table, table).shape == (4, 3, 2, 16)


@pytest.mark.parametrize("capability", [(0, 0), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0)])
@pytest.mark.parametrize("dtype", tiles.DTYPES)
def test_temporal_tiles_of_every_gpu_fit_every_number_of_patches(
    capability: tuple[int, int], dtype: torch.dtype
) -> None:
    for head_width in tiles.HEAD_WIDTHS:
        for patches in range(1, tiles.PATCH_BOUNDS[-1] + 1):
            bound = tiles.first_reaching(tiles.PATCH_BOUNDS, patches)
            if tiles.refusal(dtype, head_width, bound, capability) is not None:
                # Float32 of many patches and wide heads of more than 32 do not fit into registers.
                assert patches > 32
                assert head_width == 128 or (dtype == torch.float32 and patches > 64)
                continue
            for operation in (tiles.FORWARD, tiles.BACKWARD):
                tile = tiles.choose_tile(operation, capability, dtype, head_width, patches)
                assert tile == tiles.choose_tile(operation, capability, dtype, head_width, bound)
                assert tile.constants["rows"] % tile.constants["query_rows"] == 0
                # Units that share a tile are kept apart only where all of it is one block of queries.
                one_block = tile.constants["rows"] == tile.constants["query_rows"]
                assert tiles.units_per_tile(tile, patches) == 1 or one_block


def test_temporal_tiles_change_only_where_dispatch_looks() -> None:
    for operation in (tiles.FORWARD, tiles.BACKWARD):
        assert {row.largest for row in tile_table(operation)} <= set(tiles.PATCH_BOUNDS)
    assert tiles.first_reaching(tiles.PATCH_BOUNDS, 129) == 0
