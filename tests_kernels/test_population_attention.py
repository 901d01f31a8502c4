"""Population attention on the Triton kernels against float64, both passes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from nuclr_kernels import PopulationPlan, make_plan, population_attention
from nuclr_kernels.population_attention import launch
from nuclr_kernels.population_attention.ops import fused_attention, fused_attention_split
from nuclr_kernels.population_attention.reference import population_attention_reference
from nuclr_kernels.population_attention.tiles import tile_blocks, tile_range
from nuclr_kernels.tile_tables import TileConfig, tile_config

pytestmark = pytest.mark.filterwarnings(
    "ignore:invalid value encountered", "ignore:divide by zero", "ignore:overflow encountered"
)

RAGGED = [1, 5, 0, 33, 70]
# Of ||difference|| / ||reference||. The interpreter cuts float32 to bfloat16 where a GPU rounds, so there the
# error is about twice that of one rounding to nearest, both of outputs and of the weights inside.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def random_qkv(
    units: int, patches: int = 1, heads: int = 1, width: int = 16, dtype: torch.dtype = torch.float32
) -> Tensor:
    generator = torch.Generator().manual_seed(units)
    return torch.randn(units, patches, 3, heads, width, generator=generator).to(dtype)


def error(found: Tensor, expected: Tensor) -> float:
    return float(((found.double() - expected).norm() / expected.norm()).detach())


def check(
    qkv: Tensor, plan: PopulationPlan, scale: float | None = None, **options: Any
) -> tuple[Tensor, Tensor]:
    """Output and gradient are as close to float64 as the dtype allows; they are returned."""
    tolerance = TOLERANCE[qkv.dtype]
    exact = qkv.detach().double().requires_grad_()
    expected = population_attention_reference(exact, plan.bounds, scale=scale)
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).to(qkv.dtype)
    expected.backward(weight.double())
    leaf = qkv.detach().requires_grad_()
    found = population_attention(leaf, plan=plan, scale=scale, **options)
    assert found.dtype == qkv.dtype
    assert found.is_contiguous()
    found.backward(weight)
    assert leaf.grad is not None
    assert exact.grad is not None
    assert error(found, expected) < tolerance
    for part in range(3):
        if exact.grad[:, :, part].norm() > 1e-9:  # of a lone unit only values have a gradient
            assert error(leaf.grad[:, :, part], exact.grad[:, :, part]) < tolerance
    return found.detach(), leaf.grad


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel is to write holds NaN beforehand, so that what it leaves out shows."""
    empty = torch.empty

    def poisoned(*args: Any, **kwargs: Any) -> Tensor:
        made = empty(*args, **kwargs)
        return made.fill_(math.nan) if made.is_floating_point() else made

    monkeypatch.setattr(torch, "empty", poisoned)


@pytest.fixture
def rows_with(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Change the constants of the tiles that are launched."""

    def change(**constants: int) -> None:
        def changed(*key: Any) -> TileConfig:
            row = tile_config(*key)
            return replace(row, constants={**row.constants, **constants})

        monkeypatch.setattr(launch, "tile_config", changed)

    return change


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("deterministic", [False, True])
def test_ragged_populations(dtype: torch.dtype, deterministic: bool) -> None:
    check(random_qkv(sum(RAGGED), dtype=dtype), make_plan(RAGGED), deterministic=deterministic)


@pytest.mark.parametrize("width", [32, 64, 128])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_head_widths(width: int, dtype: torch.dtype) -> None:
    sizes = [33, 1]
    check(random_qkv(sum(sizes), width=width, dtype=dtype), make_plan(sizes))


@pytest.mark.parametrize(("patches", "heads"), [(10, 2), (32, 1)])
def test_patches_and_heads(patches: int, heads: int) -> None:
    sizes = [5, 18]
    check(random_qkv(sum(sizes), patches, heads, dtype=torch.float16), make_plan(sizes))


def test_large_populations_order_their_programs_differently(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [40, 3, 0, 17]
    qkv = random_qkv(sum(sizes), 2, 2, dtype=torch.float16)
    small = check(qkv, make_plan(sizes))
    monkeypatch.setattr(launch, "MANY_UNITS", 16)
    large = check(qkv, make_plan(sizes))
    assert all(map(torch.equal, small, large))


@pytest.mark.parametrize("warp_specialize", [0, 1])
@pytest.mark.parametrize("deterministic", [False, True])
def test_descriptors_give_the_same_bits_as_pointers(
    rows_with: Any, warp_specialize: int, deterministic: bool
) -> None:
    sizes = [33, 16, 5]
    qkv = random_qkv(sum(sizes), 2, dtype=torch.float16)
    pointers = check(qkv, make_plan(sizes), deterministic=deterministic)
    rows_with(descriptors=1, warp_specialize=warp_specialize)
    descriptors = check(qkv, make_plan(sizes), deterministic=deterministic)
    assert all(map(torch.equal, pointers, descriptors))


def test_descriptors_leave_unaligned_tensors_to_pointers(rows_with: Any) -> None:
    rows_with(descriptors=1)
    wide = torch.zeros(20, 1, 3, 1, 19, dtype=torch.float16)
    wide[..., 1:17] = random_qkv(20, dtype=torch.float16)
    check(wide[..., 1:17], make_plan([20]))


@pytest.mark.parametrize("descriptors", [0, 1])
def test_a_population_cannot_see_its_neighbours(rows_with: Any, descriptors: int) -> None:
    rows_with(descriptors=descriptors)
    sizes = [7, 20, 9]
    qkv = random_qkv(sum(sizes), dtype=torch.float16)
    plan = make_plan(sizes)
    clean = qkv.clone().requires_grad_()
    population_attention(clean, plan=plan).sum().backward()
    dirty = qkv.clone()
    dirty[:7] = dirty[27:] = math.nan
    dirty.requires_grad_()
    found = population_attention(dirty, plan=plan)
    found.sum().backward()
    assert clean.grad is not None
    assert dirty.grad is not None
    assert found[7:27].isfinite().all()
    assert torch.equal(dirty.grad[7:27], clean.grad[7:27])
    assert found[:7].isnan().all()


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("key_shift", [-20.0, 20.0])
def test_scores_far_from_zero(key_shift: float, deterministic: bool) -> None:
    """Rows beyond a population have score zero, here e^320 above or below the real ones."""
    qkv = random_qkv(40) / 4
    qkv[:, :, 0] += 1
    qkv[:, :, 1] += key_shift
    exact = qkv.double().requires_grad_()
    expected = population_attention_reference(exact, (0, 40), scale=1.0)
    expected.square().sum().backward()
    leaf = qkv.requires_grad_()
    found = population_attention(leaf, plan=make_plan([40]), scale=1.0, deterministic=deterministic)
    found.square().sum().backward()
    assert leaf.grad is not None
    assert exact.grad is not None
    assert error(found.detach(), expected.detach()) < 1e-4  # the scores have lost that much to rounding
    assert error(leaf.grad, exact.grad) < 1e-3


def test_strides_are_taken_as_they_are() -> None:
    sizes = [9, 12]
    qkv = random_qkv(21, 2, 2)
    strided = qkv.permute(3, 1, 2, 0, 4).contiguous().permute(3, 1, 2, 0, 4)
    reversed_axes = qkv.permute(4, 3, 2, 1, 0).contiguous().permute(4, 3, 2, 1, 0)
    expected = check(qkv, make_plan(sizes))
    for same in (strided, reversed_axes):
        assert not same.is_contiguous()
        assert all(map(torch.equal, check(same, make_plan(sizes)), expected))


def test_gradients_of_any_strides() -> None:
    qkv = random_qkv(20, 2, 2).requires_grad_()
    plan = make_plan([20])
    weight = torch.randn(2, 2, 16, 20).permute(3, 0, 1, 2)
    (expected,) = torch.autograd.grad(population_attention(qkv, plan=plan), qkv, weight.contiguous())
    (found,) = torch.autograd.grad(population_attention(qkv, plan=plan), qkv, weight)
    assert torch.equal(found, expected)
    (summed,) = torch.autograd.grad(population_attention(qkv, plan=plan).sum(), qkv)
    assert summed.isfinite().all()  # an expanded scalar, all strides zero


def test_offsets_beyond_32_bits() -> None:
    """Units lie 2^30 entries apart, the last beyond what 32 bits count; untouched memory costs nothing."""
    step = 2**30
    try:
        storage = torch.tensor([], dtype=torch.float16).new_zeros(0).resize_(2 * step + 48)
    except RuntimeError:
        pytest.skip("no 4 GiB of address space")
    far = storage.as_strided((3, 1, 3, 1, 16), (step, 48, 16, 16, 1))
    near = random_qkv(3, dtype=torch.float16)
    far.copy_(near)
    plan = make_plan([3])
    assert torch.equal(population_attention(far, plan=plan), population_attention(near, plan=plan))
    leaf, far_leaf = near.requires_grad_(), far.requires_grad_()
    (expected,) = torch.autograd.grad(population_attention(leaf, plan=plan).square().sum(), leaf)
    (found,) = torch.autograd.grad(population_attention(far_leaf, plan=plan).square().sum(), far_leaf)
    assert torch.equal(found, expected)


def test_query_key_and_value_by_themselves() -> None:
    sizes = [9, 12]
    qkv = random_qkv(21, 2, 2).requires_grad_()
    parts = [part.detach().clone().requires_grad_() for part in qkv.unbind(2)]
    plan = make_plan(sizes)
    weight = torch.randn(21, 2, 2, 16)
    packed = population_attention(qkv, plan=plan)
    packed.backward(weight)
    split = population_attention((parts[0], parts[1], parts[2]), plan=plan)
    split.backward(weight)
    assert torch.equal(packed, split)
    assert qkv.grad is not None
    for index, part in enumerate(parts):
        assert part.grad is not None
        assert torch.equal(part.grad, qkv.grad[:, :, index])


def test_offsets_instead_of_a_plan() -> None:
    qkv = random_qkv(20)
    offsets = torch.tensor([0, 7, 20], dtype=torch.int32)
    assert torch.equal(population_attention(qkv, offsets), population_attention(qkv, plan=make_plan([7, 13])))


@pytest.mark.parametrize("sizes", [[], [0], [0, 0]])
def test_no_units(sizes: list[int]) -> None:
    qkv = random_qkv(0, 2, 2).requires_grad_()
    found = population_attention(qkv, plan=make_plan(sizes))
    assert found.shape == (0, 2, 2, 16)
    found.sum().backward()
    assert qkv.grad is not None


def test_deterministic_follows_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    backward = launch.Launcher.backward

    def spy(self: launch.Launcher, *args: Any) -> None:
        asked.append(args[-1])
        backward(self, *args)

    monkeypatch.setattr(launch.Launcher, "backward", spy)
    qkv = random_qkv(3).requires_grad_()
    population_attention(qkv, plan=make_plan([3])).sum().backward()
    torch.use_deterministic_algorithms(True)
    try:
        population_attention(qkv, plan=make_plan([3])).sum().backward()
        population_attention(qkv, plan=make_plan([3]), deterministic=False).sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert asked == [False, True, False]


def test_operators_are_sound() -> None:
    plan = make_plan([5, 3])
    options = (plan.tiles, 2, 5, 0.25, True)
    qkv = random_qkv(8, 2, 1).requires_grad_()
    torch.library.opcheck(fused_attention, (qkv, *options))
    parts = [part.detach().clone().requires_grad_() for part in qkv.unbind(2)]
    torch.library.opcheck(fused_attention_split, (*parts, *options))


def test_compiles_as_one_graph() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda x, plan: population_attention(2 * x, plan=plan).square(), fullgraph=True, backend="aot_eager"
    )
    for step, sizes in enumerate(([5, 3], [4, 2, 1], [6, 3, 9], [2, 8, 0, 1])):
        plan = make_plan(sizes)
        qkv = random_qkv(sum(sizes)).requires_grad_()
        with torch.compiler.set_stance("fail_on_recompile" if step > 2 else "default"):
            found = compiled(qkv, plan)
        expected = population_attention(2 * qkv, plan=plan).square()
        assert torch.equal(found, expected)
        (found_gradient,) = torch.autograd.grad(found.sum(), qkv)
        (gradient,) = torch.autograd.grad(expected.sum(), qkv)
        assert torch.equal(found_gradient, gradient)


def test_autocast_chooses_the_dtype() -> None:
    qkv = random_qkv(6).requires_grad_()
    with torch.autocast("cpu", torch.float16):
        found = population_attention(qkv, plan=make_plan([6]))
    assert found.dtype == torch.float16
    found.sum().backward()
    assert qkv.grad is not None
    assert qkv.grad.dtype == torch.float32


def test_a_plan_lists_every_tile_once_large_populations_first() -> None:
    plan = make_plan(RAGGED)
    starts = plan.bounds[:-1]
    for block in tile_blocks((0, 0)):
        first, last = tile_range((0, 0), block, plan.n_units, len(RAGGED))
        tiles = plan.tiles[first:last].tolist()
        used = [tile for tile in tiles if tile[1]]
        expected = [
            [start, size, at]
            for start, size in zip(starts, RAGGED, strict=True)
            for at in range(0, size, block)
        ]
        assert sorted(used) == sorted(expected)
        assert tiles[: len(used)] == used
        assert [tile[1] for tile in used] == sorted((tile[1] for tile in used), reverse=True)
    assert len(plan.tiles) == last
    assert plan.max_size == 70
    assert plan.cu_seqlens.tolist() == list(plan.bounds)


def test_what_the_kernel_cannot_take_is_an_error_here() -> None:
    plan = make_plan([4])
    for qkv, scale in (
        (random_qkv(4).double(), None),
        (random_qkv(4, width=24), None),
        (random_qkv(4), -1.0),
    ):
        with pytest.raises(ValueError, match="population_attention has no fused kernel here: it takes"):
            population_attention(qkv, plan=plan, scale=scale)
