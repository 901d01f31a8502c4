"""Event attention against an oracle that forms every key and value, both passes; groups, memory, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from nuclr_kernels.event_attention import SpikeWaves, event_attention, spike_waves
from nuclr_kernels.event_attention import reference as implementation

COUNTS = [[3, 0, 17, 1, 5, 9], [1], [0, 0], [2, 2, 2], []]
LATENTS, HEADS, WIDTH = 3, 2, 8
OMEGA = torch.tensor([62831.853, 41.0, 0.7, 0.0], dtype=torch.float64)
LATENT_TIMES = torch.arange(LATENTS, dtype=torch.float64) + 0.5
COS, SIN = (LATENT_TIMES[:, None] * OMEGA).cos(), (LATENT_TIMES[:, None] * OMEGA).sin()


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def inputs(counts: list[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Times, query, key, value; the last three want gradients."""
    times = torch.rand(sum(counts), dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * 3
    contents = (
        random(len(counts), LATENTS, HEADS, WIDTH),
        random(HEADS, WIDTH, seed=1),
        random(HEADS, WIDTH, seed=2),
    )
    query, key, value = (content.requires_grad_() for content in contents)
    return times, query, key, value


def waves_of(times: Tensor, counts: list[int], at_once: int | None = None) -> SpikeWaves:
    return spike_waves(times, counts, OMEGA[:3].to(times.dtype), dtype=torch.float64, spikes_at_once=at_once)


def rotate(x: Tensor, times: Tensor, sign: int = 1) -> Tensor:
    """Turn the pairs of (N, H, Dh) by (N,) times."""
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2).contiguous())
    phase = times[:, None] * OMEGA
    turned = pairs * torch.polar(torch.ones_like(phase), sign * phase)[:, None]
    return torch.view_as_real(turned).flatten(-2)


def oracle(
    times: Tensor, counts: list[int], query: Tensor, key: Tensor, value: Tensor, scale: float = WIDTH**-0.5
) -> Tensor:
    """Unit after unit, with the rotated key and value of every spike written out."""
    out = [query.new_zeros(0, LATENTS, HEADS, WIDTH)]
    for unit, spikes in zip(query, torch.split(times, counts), strict=True):
        if len(spikes) == 0:
            out.append(query.new_zeros(1, LATENTS, HEADS, WIDTH))
            continue
        keys = rotate(key.expand(len(spikes), -1, -1), spikes)
        values = rotate(value.expand(len(spikes), -1, -1), spikes)
        scores = torch.einsum("lhd,shd->hls", rotate(unit, LATENT_TIMES), keys) * scale
        read = torch.einsum("hls,shd->lhd", scores.softmax(-1), values)
        out.append(rotate(read, LATENT_TIMES, -1)[None])
    return torch.cat(out)


def error(found: Tensor, expected: Tensor) -> float:
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm().clamp_min(1e-3))


@pytest.mark.parametrize("at_once", [1, 10, None])
@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_values_and_gradients(counts: list[int], at_once: int | None) -> None:
    times, *contents = inputs(counts)
    found = event_attention(*contents, waves_of(times, counts, at_once), COS, SIN)
    expected = oracle(times, counts, *contents)
    assert found.shape == (len(counts), LATENTS, HEADS, WIDTH)
    assert error(found, expected) < 1e-12
    if not counts:
        return
    weight = random(*found.shape, seed=4)
    gradients = torch.autograd.grad(found, contents, weight)
    # Without a spike nothing depends on key and value, which the oracle then leaves out of its graph.
    wanted = torch.autograd.grad(expected + 0 * sum(c.sum() for c in contents), contents, weight)
    for one, other in zip(gradients, wanted, strict=True):
        assert error(one, other) < 1e-11


def test_gradients_by_finite_differences() -> None:
    times, *contents = inputs([3, 0, 5])
    waves = waves_of(times, [3, 0, 5], 4)
    assert torch.autograd.gradcheck(lambda *given: event_attention(*given, waves, COS, SIN), contents)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float16, 1e-3), (torch.bfloat16, 4e-3)]
)
def test_narrow_dtypes_are_summed_in_the_dtype_of_the_waves(dtype: torch.dtype, tolerance: float) -> None:
    counts = [40, 3, 0, 200, 1]
    times, *contents = inputs(counts)
    rounded = [content.detach().to(dtype) for content in contents]
    waves = spike_waves(times.float(), counts, OMEGA[:3])
    found = event_attention(*rounded, waves, COS.float(), SIN.float())
    expected = oracle(times.float().double(), counts, *(content.double() for content in rounded))
    assert found.dtype == dtype
    assert error(found, expected) < tolerance


def test_autocast_does_not_narrow_the_sums() -> None:
    counts = [40, 3]
    times, *contents = inputs(counts)
    single = [content.detach().float() for content in contents]
    waves = spike_waves(times, counts, OMEGA[:3])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = event_attention(*single, waves, COS.float(), SIN.float())
    assert torch.equal(found, event_attention(*single, waves, COS.float(), SIN.float()))


def test_phases_are_those_of_float64_also_for_late_spikes_in_float32() -> None:
    times = torch.tensor([9.87654321, 1e-5], dtype=torch.float32)
    (group,) = spike_waves(times, [1, 1], OMEGA[:1].float()).waves
    phase = times.double() * OMEGA[0].float().double()
    assert torch.allclose(group[:, 0, 0].double(), phase.cos(), atol=1e-7)
    assert torch.allclose(group[:, 0, 1].double(), phase.sin(), atol=1e-7)


def test_the_order_of_spikes_within_a_unit_does_not_matter() -> None:
    counts = [4, 6]
    times, *contents = inputs(counts)
    turned = torch.cat([part.flip(0) for part in torch.split(times, counts)])
    first, second = (event_attention(*contents, waves_of(t, counts), COS, SIN) for t in (times, turned))
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("unit", [0, 1, 2])
def test_another_unit_changes_nothing_not_even_with_nan(unit: int) -> None:
    counts = [4, 7, 6]
    times, *contents = inputs(counts)
    expected = event_attention(*contents, waves_of(times, counts), COS, SIN)
    parts = list(torch.split(times.clone(), counts))
    parts[unit].fill_(math.nan)
    found = event_attention(*contents, waves_of(torch.cat(parts), counts), COS, SIN)
    others = [other for other in range(3) if other != unit]
    assert torch.equal(found[others], expected[others])
    assert found[unit].isnan().any()


def test_any_strides_of_the_query_are_taken() -> None:
    times, query, key, value = inputs([4, 6])
    strided = query.permute(2, 0, 3, 1).contiguous().permute(1, 3, 0, 2)
    waves = waves_of(times, [4, 6])
    expected = event_attention(query, key, value, waves, COS, SIN)
    assert torch.equal(event_attention(strided, key, value, waves, COS, SIN), expected)


def test_the_scale_may_be_given() -> None:
    times, *contents = inputs([4, 6])
    found = event_attention(*contents, waves_of(times, [4, 6]), COS, SIN, scale=2.0)
    assert error(found, oracle(times, [4, 6], *contents, scale=2.0)) < 1e-12


def test_same_inputs_same_bits() -> None:
    def both() -> list[Tensor]:
        times, *contents = inputs([40, 3, 0, 7])
        out = event_attention(*contents, waves_of(times, [40, 3, 0, 7]), COS, SIN)
        return [out, *torch.autograd.grad(out.square().sum(), contents)]

    assert all(torch.equal(one, other) for one, other in zip(both(), both(), strict=True))


def test_groups_hold_every_spiking_unit_once_and_padding_at_most_doubles() -> None:
    generator = torch.Generator().manual_seed(0)
    counts = (torch.rand(300, generator=generator) * 7).exp().long() - 1
    times = torch.rand(int(counts.sum()), generator=generator) * 10
    for at_once in (64, 4096, None):
        waves = spike_waves(times, counts, OMEGA[:3], spikes_at_once=at_once)
        assert sorted(torch.cat(waves.units).tolist()) == counts.nonzero().flatten().tolist()
        padded = sum(group.shape[0] * group.shape[1] for group in waves.waves)
        assert padded < 2 * len(times)
        if at_once is not None:
            for group in waves.waves:
                assert group.shape[0] == 1 or group.shape[0] * group.shape[1] <= at_once
        for units, padding in zip(waves.units, waves.padding, strict=True):
            assert torch.equal((padding == 0).sum((1, 2)), counts[units])


def test_memory_is_bounded_by_a_group_whatever_the_batch() -> None:
    """Both passes, by the profiler's account of what is allocated beyond what they return."""
    n_units, n_spikes, at_once = 400, 100, 1000
    counts = [n_spikes] * n_units
    times = torch.rand(n_units * n_spikes) * 3
    waves = spike_waves(times, counts, OMEGA[:3], spikes_at_once=at_once)
    query = torch.randn(n_units, LATENTS * HEADS, 6)
    groups = [list(part) for part in (waves.units, waves.waves, waves.padding)]

    def peak(work: Callable[[], object]) -> int:
        with torch.profiler.profile(
            profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]
        ) as p:
            kept = work()
        held = highest = 0
        for event in sorted(p.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
            if event.name() == "[memory]":
                held += event.nbytes()
                highest = max(highest, held)
        del kept
        return highest

    scores = 4 * LATENTS * HEADS * at_once
    outputs = 4 * (query.numel() + n_units * LATENTS * HEADS)
    slack = 12 * 4 * query.numel() * at_once // (n_units * n_spikes)  # a group's rows of queries and the like
    moments, logs = implementation._read(query, *groups)
    forward = peak(lambda: implementation._read(query, *groups))
    backward = peak(lambda: implementation._read_backward(moments, query, moments, logs, *groups))
    everything = 4 * LATENTS * HEADS * n_units * n_spikes
    assert forward <= outputs + 2 * scores + slack < everything
    assert backward <= outputs + 2 * scores + slack < everything


def test_compiles_as_one_graph() -> None:
    times, *contents = inputs([3, 0, 9])
    waves = waves_of(times, [3, 0, 9])
    compiled = torch.compile(
        lambda *given: event_attention(*given, waves, COS, SIN), fullgraph=True, backend="aot_eager"
    )
    found, expected = compiled(*contents), event_attention(*contents, waves, COS, SIN)
    torch.testing.assert_close(found, expected)
    for one, other in zip(
        *(torch.autograd.grad(out.square().sum(), contents) for out in (found, expected)), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_the_operator_is_registered_as_torch_wants_it() -> None:
    times, query, *_ = inputs([3, 0, 9])
    waves = waves_of(times, [3, 0, 9])
    rows = query.detach()[..., :6].reshape(3, LATENTS * HEADS, 6).requires_grad_()
    groups = [list(part) for part in (waves.units, waves.waves, waves.padding)]
    torch.library.opcheck(implementation._read, (rows, *groups))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_same_on_a_gpu() -> None:
    counts = [3, 0, 17, 1]
    times, *contents = inputs(counts)
    expected = oracle(times, counts, *contents)
    waves = spike_waves(times.cuda(), counts, OMEGA[:3].cuda(), dtype=torch.float64)
    found = event_attention(*(c.detach().cuda() for c in contents), waves, COS.cuda(), SIN.cuda())
    assert error(found.cpu(), expected) < 1e-12


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"times": torch.zeros(5, 1)}, "times must be one-dimensional"),
        ({"times": torch.zeros(5, dtype=torch.int64)}, "times must be one-dimensional"),
        ({"times": torch.zeros(5, dtype=torch.bfloat16)}, "times must be one-dimensional"),
        ({"omega": torch.zeros(2, dtype=torch.float16)}, "omega must be one-dimensional"),
        ({"omega": torch.zeros(2, device="meta")}, "omega must be on the device"),
        ({"spikes_per_unit": [2, 2]}, "spikes_per_unit must be at least 0 and add up"),
        ({"spikes_per_unit": [6, -1]}, "spikes_per_unit must be at least 0 and add up"),
        ({"spikes_per_unit": [2.0, 3.0]}, "spikes_per_unit must be a list of integers"),
        ({"spikes_per_unit": [[2, 3]]}, "spikes_per_unit must be a list of integers"),
        ({"dtype": torch.bfloat16}, "dtype must be float32 or float64"),
        ({"spikes_at_once": 0}, "spikes_at_once must be at least 1"),
    ],
    ids=str,
)
def test_wrong_spikes_are_named(change: dict[str, object], named: str) -> None:
    arguments: dict[str, object] = {
        "times": torch.zeros(5),
        "spikes_per_unit": [2, 3],
        "omega": torch.zeros(2),
    }
    with pytest.raises(ValueError, match=named):
        spike_waves(**{**arguments, **change})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"query": torch.zeros(2, 3, 16)}, "query must be floating point of shape"),
        ({"query": torch.zeros(2, 3, 2, 8, dtype=torch.int64)}, "query must be floating point"),
        ({"query": torch.zeros(2, 3, 2, 7)}, "query must have an even head width"),
        ({"query": torch.zeros(3, 3, 2, 8)}, "waves must be those of the 3 units"),
        ({"query": torch.zeros(2, 3, 2, 8, device="meta")}, "waves must be on the device"),
        ({"key": torch.zeros(2, 6)}, "key must have shape"),
        ({"value": torch.zeros(3, 8)}, "value must have shape"),
        ({"value": torch.zeros(2, 8, dtype=torch.int32)}, "value must be floating point"),
        ({"cos": torch.zeros(4, 4)}, "cos must have shape"),
        ({"sin": torch.zeros(3, 8)}, "sin must have shape"),
        ({"sin": torch.zeros(3, 4, dtype=torch.bfloat16)}, "sin must be float32 or float64"),
        ({"waves": spike_waves(torch.zeros(5), [2, 3], torch.zeros(5))}, "at most head width / 2 = 4"),
    ],
    ids=[*map(str, range(12))],
)
def test_wrong_arguments_are_named(change: dict[str, object], named: str) -> None:
    arguments: dict[str, object] = {
        "query": torch.zeros(2, 3, 2, 8),
        "key": torch.zeros(2, 8),
        "value": torch.zeros(2, 8),
        "waves": spike_waves(torch.zeros(5), [2, 3], torch.zeros(3)),
        "cos": torch.zeros(3, 4),
        "sin": torch.zeros(3, 4),
    }
    with pytest.raises(ValueError, match=named):
        event_attention(**{**arguments, **change})  # type: ignore[arg-type]


def test_waves_are_not_compared_entry_by_entry() -> None:
    waves = spike_waves(torch.zeros(2), [1, 1], torch.zeros(1))
    assert waves != replace(waves)
