"""What runs on a CPU against the plain references, in float64: every way in which work is cut and shared."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from nuclr_kernels import (
    contrastive_loss,
    make_loss_plan,
    make_population_plan,
    population_attention,
    temporal_attention,
)
from nuclr_kernels.contrastive import cpu_groups
from nuclr_kernels.contrastive.reference import contrastive_loss_reference
from nuclr_kernels.population_attention import cpu as population_cpu
from nuclr_kernels.population_attention.reference import population_attention_reference
from nuclr_kernels.temporal_attention import cpu as temporal_cpu
from nuclr_kernels.temporal_attention.reference import temporal_attention_reference

# For 3 patches: populations alone, fewer and more of a size than patches, all that share calls, mixtures.
RUNS = [
    [9],
    [1],
    [1] * 5,
    [2] * 7,
    [2] * 3,
    [3] * 2,
    [4] * 5,
    [3] * 30,
    [5] * 2,
    [5] * 9,
    [1, 1, 1, 4, 4, 4, 4, 4, 7, 0, 2, 2, 0, 1],
    [0, 6, 0],
]


def offsets(sizes: list[int]) -> Tensor:
    return torch.tensor([0, *itertools.accumulate(sizes)], dtype=torch.int32)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def assert_same_in_both_passes(
    ours: Callable[[Tensor], Tensor], reference: Callable[[Tensor], Tensor], x: Tensor
) -> Tensor:
    """Return our gradient."""
    expected_input, found_input = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected, found = reference(expected_input), ours(found_input)
    weight = random(*expected.shape, seed=1)
    (expected_grad,) = torch.autograd.grad(expected, expected_input, weight)
    (found_grad,) = torch.autograd.grad(found, found_input, weight)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(found_grad, expected_grad, rtol=1e-12, atol=1e-13)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), expected, rtol=1e-12, atol=1e-13)
    return found_grad


@pytest.mark.parametrize("large", [3, 500])
@pytest.mark.parametrize("few_numbers", [0, 1 << 18])
@pytest.mark.parametrize("sizes", RUNS, ids=str)
def test_population_attention_is_that_of_the_reference(
    sizes: list[int], few_numbers: int, large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(population_cpu, "FEW_NUMBERS", few_numbers)
    monkeypatch.setattr(population_cpu, "LARGE", large)
    monkeypatch.setattr(population_cpu, "LARGE_RECORDED", large)
    population_cpu._runs.cache_clear()
    bounds = offsets(sizes).tolist()
    gradient = assert_same_in_both_passes(
        lambda x: population_attention(x, offsets(sizes), scale=0.7),
        lambda x: population_attention_reference(x, bounds, scale=0.7),
        random(sum(sizes), 3, 3, 2, 8),
    )
    if few_numbers == 0 and len(set(sizes)) > 1:
        assert gradient.is_contiguous()  # as the layer in front of it takes it


@pytest.mark.parametrize("sizes", [[3] * 5, [1] * 5, [4] * 40, [6, 6, 2]], ids=str)
def test_populations_that_share_a_call_do_not_see_each_other(sizes: list[int]) -> None:
    qkv = random(sum(sizes), 3, 3, 2, 8)
    expected = population_attention(qkv, offsets(sizes))
    qkv[: sizes[0]] = math.nan
    found = population_attention(qkv, offsets(sizes))
    assert found[: sizes[0]].isnan().all()
    torch.testing.assert_close(found[sizes[0] :], expected[sizes[0] :])


def test_parts_of_a_projection_get_their_gradients() -> None:
    sizes = [3, 3, 5]
    parts = [random(11, 3, 2, 8, seed=i).requires_grad_() for i in range(3)]
    weight = random(11, 3, 2, 8, seed=4)
    found = torch.autograd.grad(population_attention(tuple(parts), offsets(sizes)), parts, weight)  # type: ignore[arg-type]
    expected = torch.autograd.grad(
        population_attention_reference(tuple(parts), offsets(sizes).tolist()),  # type: ignore[arg-type]
        parts,
        weight,
    )
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


def angles(patches: int) -> Tensor:
    return torch.arange(patches, dtype=torch.float64)[:, None] * torch.tensor([6.3, 0.9, 0.1, 0.0]).double()


@pytest.mark.parametrize("few_numbers", [0, 1 << 18])
@pytest.mark.parametrize("patches", [1, 5])
@pytest.mark.parametrize("layout", ["packed", "odd strides", "odd start", "reversed"])
def test_temporal_attention_is_that_of_the_reference(
    layout: str, patches: int, few_numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(temporal_cpu, "FEW_NUMBERS", few_numbers)
    cos, sin = angles(patches).cos(), angles(patches).sin()

    def laid_out(x: Tensor) -> Tensor:
        if layout == "odd strides":
            return torch.nn.functional.pad(x, (0, 3))[..., :8]
        if layout == "odd start":
            return torch.nn.functional.pad(x.flatten(), (1, 0))[1:].view_as(x)
        return x.transpose(0, 4).contiguous().transpose(0, 4) if layout == "reversed" else x

    assert_same_in_both_passes(
        lambda x: temporal_attention(laid_out(x), cos, sin, scale=0.7),
        lambda x: temporal_attention_reference(laid_out(x), cos, sin, scale=0.7),
        random(4, patches, 3, 2, 8),
    )


def test_tables_of_rotary_positions_can_be_learned() -> None:
    qkv = random(4, 5, 3, 2, 8)
    cos, sin = (table.requires_grad_() for table in (angles(5).cos(), angles(5).sin()))
    weight = random(4, 5, 2, 8, seed=1)
    found = torch.autograd.grad(temporal_attention(qkv, cos, sin), (cos, sin), weight)
    expected = torch.autograd.grad(temporal_attention_reference(qkv, cos, sin), (cos, sin), weight)
    for ours, theirs in zip(found, expected, strict=True):
        assert theirs.any()
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("table", "autocast"), [(torch.float64, False), (torch.float32, True)])
def test_temporal_attention_keeps_to_the_dtypes_of_the_reference(table: torch.dtype, autocast: bool) -> None:
    qkv, cos, sin = random(4, 5, 3, 2, 8).float(), angles(5).cos().to(table), angles(5).sin().to(table)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found, expected = temporal_attention(qkv, cos, sin), temporal_attention_reference(qkv, cos, sin)
    assert found.dtype == expected.dtype == (torch.bfloat16 if autocast else torch.float32)
    assert torch.equal(found, expected)


def test_tables_that_were_changed_are_read_again() -> None:
    qkv, cos, sin = random(4, 5, 3, 2, 8), angles(5).cos(), angles(5).sin()
    for factor in (1.0, 0.3, 0.3):
        cos.copy_((factor * angles(5)).cos())
        sin.copy_((factor * angles(5)).sin())
        torch.testing.assert_close(
            temporal_attention(qkv, cos, sin), temporal_attention_reference(qkv, cos, sin)
        )


def test_tables_changed_behind_torchs_back_are_read_again() -> None:
    qkv, cos, sin = random(4, 5, 3, 2, 8), angles(5).cos(), angles(5).sin()
    temporal_attention(qkv, cos, sin)
    cos.data.copy_((0.3 * angles(5)).cos())
    sin.numpy()[:] = (0.3 * angles(5)).sin().numpy()
    torch.testing.assert_close(temporal_attention(qkv, cos, sin), temporal_attention_reference(qkv, cos, sin))


def test_functional_gradients_are_those_of_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temporal_cpu, "FEW_NUMBERS", 0)
    monkeypatch.setattr(population_cpu, "FEW_NUMBERS", 0)
    qkv, cos, sin = random(4, 5, 3, 2, 8), angles(5).cos(), angles(5).sin()
    bounds = offsets([3, 1]).tolist()
    pairs: list[tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = [
        (
            lambda x: temporal_attention(x, cos, sin).square().sum(),
            lambda x: temporal_attention_reference(x, cos, sin).square().sum(),
        ),
        (
            lambda x: population_attention(x, offsets([3, 1])).square().sum(),
            lambda x: population_attention_reference(x, bounds).square().sum(),
        ),
    ]
    for ours, theirs in pairs:
        torch.testing.assert_close(torch.func.grad(ours)(qkv), torch.func.grad(theirs)(qkv))


def test_tables_of_other_layers_and_modes_do_not_mix() -> None:
    qkv, tables = random(4, 5, 3, 2, 8), [(angles(5) * f).cos() for f in (1.0, 0.3)]
    others = [(angles(5) * f).sin() for f in (1.0, 0.3)]
    with torch.inference_mode():
        temporal_attention(qkv, tables[0], others[0])
        made = (angles(5).cos(), angles(5).sin())
        for factor in (1.0, 0.3):
            made[0].copy_((factor * angles(5)).cos())
            found = temporal_attention(qkv, *made)
            torch.testing.assert_close(found, temporal_attention_reference(qkv, *made))
    for cos, sin in itertools.product(tables, others):
        assert_same_in_both_passes(
            lambda x, cos=cos, sin=sin: temporal_attention(x, cos, sin),  # type: ignore[misc]
            lambda x, cos=cos, sin=sin: temporal_attention_reference(x, cos, sin),  # type: ignore[misc]
            qkv,
        )


def batch(sizes1: list[int], sizes2: list[int], matched: float) -> Tensor:
    """Partners of view 1: units of the same sample in a random order, some with none."""
    generator = torch.Generator().manual_seed(2)
    partner, start = [], 0
    for n1, n2 in zip(sizes1, sizes2, strict=True):
        order = torch.randperm(max(n1, n2), generator=generator)[:n1]
        there = (order < n2) & (torch.rand(n1, generator=generator) < matched)
        partner.append(torch.where(there, order + start, -1))
        start += n2
    return torch.cat(partner)


def units(n: int, seed: int, norm: float = 1.0) -> Tensor:
    return norm * torch.nn.functional.normalize(random(n, 6, seed=seed), dim=1)


BATCHES = {
    "one": ([7], [7]),
    "equal": ([4] * 5, [4] * 5),
    "ragged": ([4, 0, 9, 1, 1, 3, 30, 2], [5, 2, 7, 1, 6, 0, 20, 1]),
    "singles": ([1, 1, 1], [1, 1, 2]),
}


@pytest.mark.parametrize("group_size", [1, 300, 1 << 20])
@pytest.mark.parametrize(
    "options", list(itertools.product([True, False], [True, False], [1.0, 0.4])), ids=str
)
@pytest.mark.parametrize(("sizes1", "sizes2"), BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("matched", [1.0, 0.6])
def test_contrastive_loss_is_that_of_the_reference(
    sizes1: list[int],
    sizes2: list[int],
    options: tuple[bool, bool, float],
    matched: float,
    group_size: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cpu_groups, "LARGEST_GROUP", group_size)
    dcl, full_denom, self_tau = options
    named = {"tau": 0.3, "self_tau": self_tau, "dcl": dcl, "full_denom": full_denom}
    partner = batch(sizes1, sizes2, matched)
    n1, n2 = sum(sizes1), sum(sizes2)

    def ours(p: Tensor) -> Tensor:
        terms = contrastive_loss(p[:n1], p[n1:], offsets(sizes1), offsets(sizes2), partner, **named)  # type: ignore[arg-type]
        return torch.cat(terms)

    def reference(p: Tensor) -> Tensor:
        bounds = offsets(sizes1).tolist(), offsets(sizes2).tolist()
        return torch.cat(contrastive_loss_reference(p[:n1], p[n1:], *bounds, partner, **named))  # type: ignore[arg-type]

    assert_same_in_both_passes(ours, reference, units(n1 + n2, 0))


@pytest.mark.parametrize("norm", [1e-3, 40.0, math.inf])
def test_contrastive_loss_needs_no_unit_norm(norm: float) -> None:
    """Exponentials of the scores of one sample alone would vanish next to those of another."""
    sizes = [6, 5, 8]
    p = torch.cat((units(11, 0), units(8, 1) if norm == math.inf else units(8, 1, norm))).repeat(2, 1)
    if norm == math.inf:
        p[11:19] = math.inf
    partner = batch(sizes, sizes, 1.0)
    found = contrastive_loss(p[:19], p[19:], offsets(sizes), offsets(sizes), partner, tau=0.2)
    bounds = offsets(sizes).tolist()
    expected = contrastive_loss_reference(p[:19], p[19:], bounds, bounds, partner, tau=0.2)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, equal_nan=True)
        assert ours[:2].isfinite().all()


def test_contrastive_gradient_of_a_sample_is_its_own() -> None:
    """A sample with broken numbers leaves those that are worked on together with it alone."""
    sizes = [6, 6, 5]
    p1, p2 = units(17, 0), units(17, 1)
    partner = batch(sizes, sizes, 0.7)
    gradients = []
    for broken in (False, True):
        p1[6] = math.nan if broken else p1[6]
        leaves = [p.clone().requires_grad_() for p in (p1, p2)]
        terms = contrastive_loss(*leaves, offsets(sizes), offsets(sizes), partner, tau=0.2)
        gradients.append(torch.autograd.grad(torch.stack(terms).sum(), leaves))
    for sound, broken_one in zip(*gradients, strict=True):
        others = torch.arange(17).lt(6) | torch.arange(17).ge(12)
        torch.testing.assert_close(broken_one[others], sound[others])
        assert broken_one[~others].isnan().any()


def test_a_plan_serves_every_kind_of_loss() -> None:
    """What is worked out for a plan depends on the options and the dtype too."""
    sizes = [6, 5]
    p1, p2, partner = units(11, 0), units(11, 1), batch(sizes, sizes, 0.8)
    plan, bounds = make_loss_plan(offsets(sizes), offsets(sizes), partner), offsets(sizes).tolist()
    for dcl, tau, dtype in itertools.product([True, False], [0.2, 0.9], [torch.float64, torch.float32]):
        found = contrastive_loss(p1.to(dtype), p2.to(dtype), plan=plan, tau=tau, dcl=dcl)
        expected = contrastive_loss_reference(p1, p2, bounds, bounds, partner, tau=tau, dcl=dcl)
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.dtype == dtype
            tolerance = 1e-12 if dtype == torch.float64 else 1e-5
            torch.testing.assert_close(ours.double(), theirs, rtol=tolerance, atol=tolerance)


def test_compiles_as_one_graph_each() -> None:
    plan = make_population_plan([5, 7])
    qkv, table = random(12, 5, 3, 2, 8).float(), angles(5).float()
    operations: list[Callable[[Tensor], Tensor]] = [
        lambda x: population_attention(x, plan=plan),
        lambda x: temporal_attention(x, table.cos(), table.sin()),
    ]
    for operation in operations:
        compiled = torch.compile(operation, fullgraph=True, backend="aot_eager")
        leaves = [qkv.clone().requires_grad_() for _ in range(2)]
        found, expected = compiled(leaves[0]), operation(leaves[1])
        torch.testing.assert_close(found, expected)
        found.square().sum().backward()
        expected.square().sum().backward()
        torch.testing.assert_close(leaves[0].grad, leaves[1].grad)
