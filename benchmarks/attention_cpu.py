"""The operations on a CPU against padded SDPA, and the loss against whole matrices.

    python benchmarks/attention_cpu.py [--threads 1 2] [--seconds 2] [--out benchmarks/results]
    python benchmarks/attention_cpu.py --small

Held against each other: what `nuclr_kernels` runs on a CPU, and what a user would write without it. For
ragged populations that is to pad them (the copies in and out count) and to mask the padded keys, in one call
or in one call a patch, whichever is faster; for populations of one size nothing is padded, and a call a patch
needs no copy. Temporal attention has to rotate too, by complex products or by cosines and sines. The loss
forms its matrices of similarities a sample at a time, or padded at once.

Everything takes turns within a round, in alternating order, so that a disturbance meets all alike; a ratio is
the median over rounds of a peer's time over ours, so above 1 ours is faster. What depends on the sizes alone
(plans; masks and indices of the peers) is prepared before, on both sides, and timed by itself. Outputs and
gradients are made contiguous, as the linear layers around them need them. Values and gradients are compared
before anything is timed.

The claim is that no peer is faster at attention, at any size: it is broken, and the script ends with 1, where
the ratio is below 0.97 in the median of three measurements and the difference is above 50 microseconds a call
(peers check no arguments). The loss is computed once a training step, by a way that needs no unit norm and no
matrix of all units: its rows are judged by the same rule and printed, and do not end the script.
With one thread processor time is measured, with more wall-clock time, which needs a machine
that does nothing else: threads that wait for one another lose milliseconds to any other program. Freed memory
is kept by the process, as `nuclr pretrain` does.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from measuring import commit, machine, write_result
from torch import Tensor

import nuclr_cli
from nuclr_cli.workflows.freed_memory import keep_freed_memory
from nuclr_kernels import (
    contrastive_loss,
    make_loss_plan,
    make_population_plan,
    population_attention,
    temporal_attention,
)

HEADS, WIDTH, TAU = 4, 256, 0.2
LEAST_RATIO, CALL_S = 0.97, 50e-6
MEASUREMENTS = 3

Operation = Callable[..., Tensor]
Sizes = Sequence[int]


@dataclass(frozen=True)
class Case:
    """One size of one operation.

    Attributes:
        operation, name: What the table says.
        inputs: Leaves.
        makers: By name, ours first, what prepares for the sizes and returns the operation on the inputs.
    """

    operation: str
    name: str
    inputs: tuple[Tensor, ...]
    makers: dict[str, Callable[[], Operation]]


@dataclass
class Result:
    """One size of one operation in one pass.

    Attributes:
        times_ms: Medians, by name; ours first.
        ratios: Of each peer's time to ours.
        rounds: Over which these are medians.
        repeated: How many more times it was measured, since a ratio was below the limit.
        held: No peer is faster, by more than is tolerated.
        prepare_ms: Once a batch, by name.
    """

    operation: str
    name: str
    passes: str
    threads: int
    times_ms: dict[str, float]
    ratios: dict[str, float]
    rounds: int
    repeated: int
    held: bool
    prepare_ms: dict[str, float] = field(default_factory=dict)

    @property
    def fastest(self) -> str:
        """The peer with the lowest ratio."""
        return min(self.ratios, key=self.ratios.__getitem__)


def ragged(count: int, least: int, most: int) -> list[int]:
    generator = torch.Generator().manual_seed(count + most)
    return torch.randint(least, most + 1, (count,), generator=generator).tolist()


def offsets(sizes: Sizes) -> Tensor:
    return torch.tensor([0, *sizes]).cumsum(0)


SIZES: dict[str, list[int]] = {
    **{f"{count} x {n}": [n] * count for n in (1, 2, 4, 8, 32, 100) for count in (1, 16)},
    **{f"{count} x {n}": [n] * count for count, n in ((1, 500), (4, 500), (1, 2000), (1, 4000))},
    "128 x 1..10": ragged(128, 1, 10),
    "16 x 1..20": ragged(16, 1, 20),
    "16 x 20..200": ragged(16, 20, 200),
    "8 x 20..1000": ragged(8, 20, 1000),
}
TEMPORAL_SIZES = {
    "1 x 1": [1],
    "1 x 4": [4],
    "1 x 16": [16],
    "1 x 100": [100],
    "1 x 1000": [1000],
    "4 x 1000": [1000] * 4,
    "16 x 20..200": ragged(16, 20, 200),
}
LOSS_SIZES = {
    **{f"{count} x {n}": [n] * count for n in (2, 5, 20, 100) for count in (1, 16)},
    **{f"{count} x {n}": [n] * count for count, n in ((1, 500), (4, 1000), (1, 4000))},
    "128 x 2..10": ragged(128, 2, 10),
    "16 x 20..200": ragged(16, 20, 200),
    "8 x 20..2000": ragged(8, 20, 2000),
}
SMALL = ("1 x 1", "16 x 8", "16 x 1..20", "1 x 16", "16 x 5")


def presence(sizes: Sizes) -> tuple[int, Tensor, Tensor]:
    """Size of the largest, (B, most) where there is a unit, and (U,) the units' rows among B * most."""
    most = max(sizes)
    present = torch.arange(most) < torch.tensor(sizes)[:, None]
    return most, present, torch.nonzero(present.flatten()).squeeze(1)


def padded_once(sizes: Sizes, n_patches: int) -> Operation:
    """Pad, one SDPA call whose batch is populations x patches, take the padding out."""
    most, present, rows = presence(sizes)
    count = len(sizes)
    mask = present[:, None, None, None].expand(count, n_patches, 1, 1, most).reshape(-1, 1, 1, most)

    def attend(qkv: Tensor) -> Tensor:
        padded = qkv.new_zeros(count * most, *qkv.shape[1:]).index_copy(0, rows, qkv)
        by_population = padded.view(count, most, *qkv.shape[1:]).permute(3, 0, 2, 4, 1, 5)
        query, key, value = by_population.flatten(1, 2).unbind(0)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return out.view(count, n_patches, *out.shape[1:]).permute(0, 3, 1, 2, 4).flatten(0, 1)[rows]

    return attend


def padded_by_patch(sizes: Sizes, n_patches: int) -> Operation:
    """Pad, an SDPA call a patch on views, take the padding out."""
    most, present, rows = presence(sizes)
    mask = present[:, None, None]

    def attend(qkv: Tensor) -> Tensor:
        padded = qkv.new_zeros(len(sizes) * most, *qkv.shape[1:]).index_copy(0, rows, qkv)
        by_population = padded.view(len(sizes), most, *qkv.shape[1:])
        outs = []
        for patch in range(n_patches):
            query, key, value = by_population[:, :, patch].permute(2, 0, 3, 1, 4).unbind(0)
            out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
            outs.append(out.transpose(1, 2))
        return torch.stack(outs, 2).flatten(0, 1)[rows]

    return attend


def equal_once(sizes: Sizes, n_patches: int) -> Operation:
    """One SDPA call whose batch is populations x patches; no copy where there is one population."""
    count, size = len(sizes), sizes[0]

    def attend(qkv: Tensor) -> Tensor:
        by_population = qkv.view(count, size, *qkv.shape[1:]).permute(3, 0, 2, 4, 1, 5)
        query, key, value = by_population.reshape(3, count * n_patches, -1, size, qkv.shape[-1]).unbind(0)
        out = F.scaled_dot_product_attention(query, key, value)
        return out.view(count, n_patches, *out.shape[1:]).permute(0, 3, 1, 2, 4).flatten(0, 1)

    return attend


def equal_by_patch(sizes: Sizes, n_patches: int) -> Operation:
    """An SDPA call a patch on views."""
    count, size = len(sizes), sizes[0]

    def attend(qkv: Tensor) -> Tensor:
        by_population = qkv.view(count, size, *qkv.shape[1:])
        outs = []
        for patch in range(n_patches):
            query, key, value = by_population[:, :, patch].permute(2, 0, 3, 1, 4).unbind(0)
            outs.append(F.scaled_dot_product_attention(query, key, value).transpose(1, 2))
        return torch.stack(outs, 2).flatten(0, 1)

    return attend


def population_case(name: str, sizes: Sizes, n_patches: int, head_width: int) -> Case:
    def ours() -> Operation:
        plan = make_population_plan(sizes)
        return lambda qkv: population_attention(qkv, plan=plan)

    ways = (equal_once, equal_by_patch) if len(set(sizes)) == 1 else (padded_once, padded_by_patch)
    names = ("SDPA, one call", "SDPA, a call a patch")
    if ways[0] is padded_once:
        names = ("padded SDPA, one call", "padded SDPA, a call a patch")
    makers: dict[str, Callable[[], Operation]] = {"nuclr": ours}
    for peer, way in zip(names, ways, strict=True):
        makers[peer] = lambda way=way: way(sizes, n_patches)  # type: ignore[misc]
    qkv = torch.randn(sum(sizes), n_patches, 3, HEADS, head_width)
    return Case(f"population attention, {n_patches} patches, heads of {head_width}", name, (qkv,), makers)


def complex_rotary(cos: Tensor, sin: Tensor) -> Operation:
    """Rotate by complex products, SDPA, rotate back."""
    turn = torch.complex(cos, sin)
    there, back = turn[:, None, None], turn.conj()[:, None]

    def rotate(x: Tensor, by: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.view(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * by).flatten(-2)

    def attend(qkv: Tensor) -> Tensor:
        query, key, value = rotate(qkv, there).permute(2, 0, 3, 1, 4).unbind(0)
        return rotate(F.scaled_dot_product_attention(query, key, value).transpose(1, 2), back)

    return attend


def real_rotary(cos: Tensor, sin: Tensor) -> Operation:
    """The same with cosines and sines."""

    def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
        return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)

    def attend(qkv: Tensor) -> Tensor:
        query, key, value = rotate(qkv, cos[:, None, None], sin[:, None, None]).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(query, key, value).transpose(1, 2)
        return rotate(out, cos[:, None], -sin[:, None])

    return attend


def padded_rotary(sizes: Sizes, cos: Tensor, sin: Tensor) -> Operation:
    """On units of padded populations, which are put behind the others here."""
    most, _, rows = presence(sizes)
    rotary = complex_rotary(cos, sin)
    spare = len(sizes) * most - len(rows)

    def attend(qkv: Tensor) -> Tensor:
        return rotary(torch.cat((qkv, qkv.new_zeros(spare, *qkv.shape[1:]))))[: len(qkv)]

    return attend


def temporal_case(name: str, sizes: Sizes, n_patches: int, head_width: int) -> Case:
    phase = torch.arange(n_patches)[:, None] * torch.linspace(0, 3, head_width // 2)
    cos, sin = phase.cos(), phase.sin()
    makers: dict[str, Callable[[], Operation]] = {
        "nuclr": lambda: lambda qkv: temporal_attention(qkv, cos, sin),
        "complex rotary + SDPA": lambda: complex_rotary(cos, sin),
        "real rotary + SDPA": lambda: real_rotary(cos, sin),
    }
    if len(set(sizes)) > 1:
        makers["complex rotary + SDPA, padded units"] = lambda: padded_rotary(sizes, cos, sin)
    qkv = torch.randn(sum(sizes), n_patches, 3, HEADS, head_width)
    return Case(f"temporal attention, {n_patches} patches, heads of {head_width}", name, (qkv,), makers)


def loss_by_sample(sizes: Sizes, partner: Tensor) -> Operation:
    """Whole matrices, one sample after the other; every unit has a partner."""
    bounds = list(pairwise(offsets(sizes).tolist()))
    partners = [partner[start:stop] - start for start, stop in bounds]
    back = [one.argsort() for one in partners]

    def loss(p1: Tensor, p2: Tensor) -> Tensor:
        terms = []
        for (start, stop), one, two in zip(bounds, partners, back, strict=True):
            n = stop - start
            rows, itself = torch.arange(n), torch.eye(n, dtype=torch.bool)
            first, second = p1[start:stop], p2[start:stop]
            cross = first @ second.T / TAU
            positive = cross[rows, one]
            rivals = cross.index_put((rows, one), cross.new_full((), -math.inf))
            own = [(view @ view.T).masked_fill(itself, -math.inf) for view in (first, second)]
            logs = (
                torch.cat((rivals, own[0]), 1).logsumexp(1),
                torch.cat((rivals.T, own[1]), 1)[two.argsort().argsort()].logsumexp(1),
            )
            denominator = (logs[0].mean() + logs[1].mean()) / 2 - math.log(2 * n)
            terms.append(1 / TAU - positive.mean() + denominator)
        return torch.stack(terms)

    return loss


def loss_padded(sizes: Sizes, partner: Tensor) -> Operation:
    """Whole matrices of all samples at once, padded."""
    most, present, rows = presence(sizes)
    count, counts = len(sizes), torch.tensor(sizes)
    sample = torch.arange(count).repeat_interleave(counts)
    starts = offsets(sizes)[sample]
    unit, other = torch.arange(len(partner)) - starts, partner - starts
    pairs = torch.zeros(count, most, most, dtype=torch.bool)
    pairs[sample, unit, other] = True
    absent = ~present
    excluded = pairs | absent[:, None], pairs.mT | absent[:, None]
    itself = torch.eye(most, dtype=torch.bool) | absent[:, None]
    weight = torch.where(present, 1 / counts[:, None], 0)

    def loss(p1: Tensor, p2: Tensor) -> Tensor:
        padded = [
            p.new_zeros(count * most, p.shape[1]).index_copy(0, rows, p).view(count, most, -1)
            for p in (p1, p2)
        ]
        cross = torch.bmm(padded[0], padded[1].mT) / TAU
        positive = torch.zeros_like(weight, dtype=cross.dtype).index_put(
            (sample, unit), cross[sample, unit, other]
        )
        logs = []
        for matrix, out, view in zip((cross, cross.mT), excluded, padded, strict=True):
            own = torch.bmm(view, view.mT).masked_fill(itself, -math.inf)
            both = torch.cat((matrix.masked_fill(out, -math.inf), own), 2)
            logs.append(both.logsumexp(2))
        denominator = ((logs[0] + logs[1]) / 2).masked_fill(absent, 0) * weight
        return 1 / TAU - (positive * weight).sum(1) + denominator.sum(1) - (2 * counts).log()

    return loss


def loss_case(name: str, sizes: Sizes) -> Case:
    generator = torch.Generator().manual_seed(1)
    starts = offsets(sizes).tolist()
    partner = torch.cat(
        [torch.randperm(n, generator=generator) + s for n, s in zip(sizes, starts, strict=False)]
    )
    cu = offsets(sizes)

    def ours() -> Operation:
        plan = make_loss_plan(cu, cu, partner)
        return lambda p1, p2: torch.add(*contrastive_loss(p1, p2, plan=plan, tau=TAU))

    views = tuple(F.normalize(torch.randn(sum(sizes), WIDTH), dim=1) for _ in range(2))
    makers = {
        "nuclr": ours,
        "whole matrices, a sample at a time": lambda: loss_by_sample(sizes, partner),
        "whole matrices, padded": lambda: loss_padded(sizes, partner),
    }
    return Case(f"contrastive loss, width {WIDTH}", name, views, makers)


def cases(small: bool) -> Iterable[Case]:
    def chosen(sizes: dict[str, list[int]]) -> Iterable[tuple[str, list[int]]]:
        return ((name, of) for name, of in sizes.items() if not small or name in SMALL)

    for width in (64, 32):
        for name, sizes in chosen(SIZES):
            yield population_case(name, sizes, 10, width)
    for n_patches, width in ((10, 64), (10, 32), (32, 64)):
        for name, sizes in chosen(TEMPORAL_SIZES):
            yield temporal_case(name, sizes, n_patches, width)
    for name, sizes in chosen(LOSS_SIZES):
        yield loss_case(name, sizes)


def calls_of(case: Case, operations: dict[str, Operation], passes: str) -> dict[str, Callable[[], object]]:
    """What is timed."""
    if passes == "forward":

        def forward(operation: Operation) -> Tensor:
            with torch.no_grad():
                return operation(*case.inputs).contiguous()

        return {name: lambda o=operation: forward(o) for name, operation in operations.items()}  # type: ignore[misc]
    leaves = [x.detach().requires_grad_() for x in case.inputs]
    with torch.no_grad():
        weight = torch.randn_like(operations["nuclr"](*case.inputs).contiguous())

    def both(operation: Operation) -> list[Tensor]:
        gradients = torch.autograd.grad(operation(*leaves).contiguous(), leaves, weight)
        return [gradient.contiguous() for gradient in gradients]

    return {name: lambda o=operation: both(o) for name, operation in operations.items()}  # type: ignore[misc]


def timed(call: Callable[[], object]) -> float:
    """Seconds: with one thread of the processor, since other programs then do not count."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    began = clock()
    call()
    return clock() - began


def interleaved(
    calls: dict[str, Callable[[], object]], seconds: float, least: int
) -> tuple[dict[str, list[float]], int]:
    """Seconds of each call, by round; of a peer twice as slow as the fastest one in the first, that alone."""
    times = {name: [timed(call)] for name, call in calls.items()}
    fastest = min(of[0] for name, of in times.items() if name != "nuclr")
    going = [name for name in calls if name == "nuclr" or times[name][0] <= 2 * fastest]
    rounds = max(least, min(2000, int(seconds / sum(times[name][0] for name in going))))
    for number in range(rounds):
        for name in going if number % 2 else reversed(going):
            times[name].append(timed(calls[name]))
    return times, rounds + 1


def measure(
    case: Case, operations: dict[str, Operation], passes: str, threads: int, seconds: float, small: bool
) -> Result:
    """Time one pass; again if a peer seems to be faster."""
    calls = calls_of(case, operations, passes)
    outcomes = {name: call() for name, call in calls.items()}
    for outcome in outcomes.values():
        torch.testing.assert_close(outcome, outcomes["nuclr"], rtol=2e-3, atol=2e-4)
    del outcomes
    found: list[Result] = []
    for repeated in range(1 if small else MEASUREMENTS):
        times, rounds = interleaved(calls, seconds, least=1 if small else 4)
        ours = times["nuclr"]
        ratios = {
            name: statistics.median(a / b for a, b in zip(of, ours, strict=False))
            for name, of in times.items()
            if name != "nuclr"
        }
        medians = {name: statistics.median(of) * 1e3 for name, of in times.items()}
        found.append(
            Result(case.operation, case.name, passes, threads, medians, ratios, rounds, repeated, True)
        )
        if faster(found[-1]) is None:
            break
    found.sort(key=lambda result: min(result.ratios.values()))
    middle = found[len(found) // 2]
    middle.repeated = len(found) - 1
    middle.held = small or faster(middle) is None
    return middle


def faster(result: Result) -> str | None:
    """A peer that is faster by more than is tolerated."""
    peer = result.fastest
    behind_ms = result.times_ms["nuclr"] * (1 - result.ratios[peer])
    return peer if result.ratios[peer] < LEAST_RATIO and behind_ms > CALL_S * 1e3 else None


def prepared(case: Case) -> tuple[dict[str, Operation], dict[str, float]]:
    """The operations, and the milliseconds that preparing for the sizes takes, a first call of ours included
    where it works something out for the plan.
    """
    operations = {name: make() for name, make in case.makers.items()}
    spent: dict[str, float] = {}
    with torch.no_grad():
        for name, make in case.makers.items():
            again = [timed(make) for _ in range(5)]
            spent[name] = statistics.median(again) * 1e3
        if "loss" in case.operation:
            fresh = case.makers["nuclr"]
            operations["nuclr"](*case.inputs)
            known = min(timed(lambda: operations["nuclr"](*case.inputs)) for _ in range(3))
            first = min(timed(lambda: fresh()(*case.inputs)) for _ in range(3))
            spent["nuclr"] = max(spent["nuclr"], (first - known) * 1e3)
    return operations, spent


def losses_of(results: Sequence[Result]) -> list[Result]:
    return [result for result in results if "loss" in result.operation]


def attention_of(results: Sequence[Result]) -> list[Result]:
    return [result for result in results if "loss" not in result.operation]


def verdict(what: str, judged: Sequence[Result]) -> list[str]:
    """How many rows held, the worst of them, and those that did not."""
    lost = [result for result in judged if not result.held]
    worst = min(judged, key=lambda result: min(result.ratios.values()))
    under = [r for r in judged if r.held and min(r.ratios.values()) < LEAST_RATIO]
    lines = [
        f"**{what}: {len(judged) - len(lost)} of {len(judged)} rows held.** Lowest ratio "
        f"{min(worst.ratios.values()):.2f} ({worst.operation}, {worst.name}, {worst.passes}, threads: "
        f"{worst.threads}); {len(under)} held rows are below {LEAST_RATIO}, by less than {CALL_S * 1e6:g} us "
        "a call.",
    ]
    padded = [
        result.ratios[result.fastest]
        for result in judged
        if result.operation.startswith("population") and ".." in result.name
    ]
    if padded:
        lines.append(f"Where the peer has to pad, its ratio is {min(padded):.1f} to {max(padded):.1f}.")
    return lines + [
        f"- Lost: {r.operation}, {r.name}, {r.passes}, threads: {r.threads}: "
        f"{r.fastest} takes {r.ratios[r.fastest]:.2f} of our time, "
        f"{r.times_ms['nuclr'] * (1 - r.ratios[r.fastest]) * 1e3:.0f} us less."
        for r in lost
    ]


def report(record: dict[str, Any], results: Sequence[Result]) -> str:
    lines = [
        "# The operations on a CPU against padded attention and whole matrices",
        "",
        f"`{record['command']}`",
        "",
        "Milliseconds: median over interleaved rounds; ratio: median over rounds of the fastest peer's time",
        "over ours, above 1 ours is faster. With one thread it is processor time, which other programs on",
        "the machine hardly stretch; with more it is wall-clock time. Peers are what a user would write",
        "without nuclr: SDPA on padded populations with the keys masked, in one call or one a patch (equal",
        "populations: no padding, and no copy with a call a patch), rotary positions around SDPA, the loss",
        f"by whole matrices. A case is `count x units`; {HEADS} heads, float32. Plans, masks and indices are",
        "prepared before, on both sides; outputs and gradients are contiguous. A row is *lost* where the",
        f"ratio is below {LEAST_RATIO} in the median of {MEASUREMENTS} measurements and the difference is",
        f"above {CALL_S * 1e6:g} us a call (peers check no arguments).",
        "",
        f"Hardware: {record['machine']['processor']}, {record['machine']['cores']} cores, "
        f"{record['machine']['platform']}; {record['capability']}. torch {record['versions']['torch']}, "
        f"nuclr {record['versions']['nuclr']} (commit {record['commit']}), Python "
        f"{record['versions']['python']}. Load average {record['load'][0]:.1f} before, "
        f"{record['load'][1]:.1f} after; the benchmark itself makes a load of its threads.",
    ]
    for what, judged in (("Attention", attention_of(results)), ("Loss", losses_of(results))):
        lines += ["", *verdict(what, judged)]
    for threads in sorted({result.threads for result in results}):
        for operation in dict.fromkeys(result.operation for result in results):
            rows = [r for r in results if r.threads == threads and r.operation == operation]
            lines += ["", f"## {operation[0].upper()}{operation[1:]}, threads: {threads}", ""]
            lines += [
                "| case | forward: nuclr | fastest peer | | ratio | both: nuclr | fastest peer | | ratio |",
                "|--|--|--|--|--|--|--|--|--|",
            ]
            by_case: dict[str, list[Result]] = {}
            for row in rows:
                by_case.setdefault(row.name, []).append(row)
            for name, of in by_case.items():
                cells = " | ".join(
                    f"{r.times_ms['nuclr']:.3g} | {r.times_ms[r.fastest]:.3g} | {r.fastest} | "
                    f"**{r.ratios[r.fastest]:.2f}**{'' if r.held else ' lost'}"
                    for r in of
                )
                lines.append(f"| {name} | {cells} |")
    losses = [r for r in losses_of(results) if r.passes == "forward"]
    first = [r for r in losses if r.threads == losses[0].threads]
    lines += [
        "",
        "## Prepared once a batch",
        "",
        "Plan of the loss and what its first call works out for it, and indices and masks of the padded",
        "matrices, milliseconds. Plans of attention take 0.1 ms or less.",
        "",
        "| case | nuclr | whole matrices, padded |",
        "|--|--|--|",
        *(
            f"| {r.name} | {r.prepare_ms['nuclr']:.2f} | {r.prepare_ms['whole matrices, padded']:.2f} |"
            for r in first
        ),
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[torch.get_num_threads()])
    parser.add_argument("--seconds", type=float, default=2.0, help="about how long to time a case's pass")
    parser.add_argument("--small", action="store_true", help="a few sizes, too short to judge")
    parser.add_argument("--out", type=Path, help="folder for the results; without it they are only printed")
    arguments = parser.parse_args()
    keep_freed_memory()
    load_before = os.getloadavg()[0]
    results: list[Result] = []
    seconds = 0.02 if arguments.small else arguments.seconds
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        for case in cases(arguments.small):
            operations, prepare_ms = prepared(case)
            for passes in ("forward", "forward + backward"):
                result = measure(case, operations, passes, threads, seconds, arguments.small)
                result.prepare_ms = prepare_ms
                results.append(result)
                print(
                    f"threads {threads}, {case.operation}, {case.name}, {passes}: "
                    f"{result.times_ms['nuclr']:.3g} ms, {result.fastest} "
                    f"{result.ratios[result.fastest]:.2f} x{'' if result.held else ', LOST'}",
                    file=sys.stderr,
                    flush=True,
                )
    words = " ".join(str(threads) for threads in arguments.threads)
    record: dict[str, Any] = {
        "benchmark": "attention_cpu",
        "command": f"python benchmarks/attention_cpu.py --threads {words} --seconds {seconds:g}"
        + (" --small" if arguments.small else "")
        + ("" if arguments.out is None else f" --out {arguments.out}"),
        "load": [load_before, os.getloadavg()[0]],
        "machine": machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "versions": {
            "nuclr": nuclr_cli.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        "commit": commit(),
    }
    text = report(record, results)
    print(text)
    if arguments.out is not None:
        record["results"] = [asdict(result) for result in results]
        write_result(arguments.out, "attention_cpu", record, text)
    return 0 if arguments.small or all(result.held for result in attention_of(results)) else 1


if __name__ == "__main__":
    raise SystemExit(main())
