"""Kernels against float64 on this device: random shapes, large ones by sample, determinism, graphs, compile.

Ends with exit code 1 when something is wrong, after everything has run.
"""

from __future__ import annotations

import argparse
import json
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from machine import describe
from peers import loss_peers, offsets_of
from torch import Tensor

from nuclr_kernels import contrastive_loss, make_plan, population_attention, temporal_attention
from nuclr_kernels.temporal_attention.reference import temporal_attention_reference

# ||difference|| / ||float64 reference of the same rounded inputs||: (output, gradients)
TOLERANCE = {
    torch.float32: (2e-6, 5e-6),
    torch.float16: (1e-3, 2e-3),
    torch.bfloat16: (4e-3, 6e-3),
}
ROWS_AT_A_TIME = 2048


@dataclass(frozen=True)
class Result:
    """One check; `error` is NaN for checks that are yes or no."""

    name: str
    ok: bool
    error: float = float("nan")
    message: str = ""


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm().clamp_min(1e-300))


def judge(name: str, dtype: torch.dtype, pairs: Sequence[tuple[Tensor, Tensor]]) -> Result:
    """First pair: the output; the rest: gradients."""
    errors = [relative(found, expected) for found, expected in pairs]
    out, grad = TOLERANCE[dtype]
    bad = [i for i, e in enumerate(errors) if not e <= (out if i == 0 else grad)]
    message = "" if not bad else f"errors {', '.join(f'{e:.1e}' for e in errors)}"
    return Result(name, not bad, max(errors), message)


def attention_slice(q: Tensor, k: Tensor, v: Tensor, d_out: Tensor) -> tuple[Tensor, ...]:
    """Exact attention of one head at one patch in float64, (n, Dh) each: out, dq, dk, dv."""
    scale = q.shape[1] ** -0.5
    out, d_q = torch.empty_like(q), torch.empty_like(q)
    d_k, d_v = torch.zeros_like(k), torch.zeros_like(v)
    for first in range(0, len(q), ROWS_AT_A_TIME):
        rows = slice(first, first + ROWS_AT_A_TIME)
        p = (q[rows] @ k.T * scale).softmax(1)
        out[rows] = p @ v
        d_p = d_out[rows] @ v.T
        d_s = p * (d_p - (d_out[rows] * out[rows]).sum(1, keepdim=True)) * scale
        d_q[rows] = d_s @ k
        d_k += d_s.T @ q[rows]
        d_v += p.T @ d_out[rows]
    return out, d_q, d_k, d_v


def check_population(
    sizes: Sequence[int], n_patches: int, heads: int, width: int, dtype: torch.dtype, deterministic: bool
) -> Result:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    n = sum(sizes)
    qkv = torch.randn(n, n_patches, 3, heads, width, device=device).to(dtype).requires_grad_()
    d_out = torch.randn(n, n_patches, heads, width, device=device).to(dtype)
    plan = make_plan(sizes, device)
    out = population_attention(qkv, offsets_of(sizes), plan=plan, deterministic=deterministic)
    (gradient,) = torch.autograd.grad(out, qkv, d_out)
    rng = np.random.default_rng(n)
    everything = [(patch, head) for patch in range(n_patches) for head in range(heads)]
    chosen = [everything[i] for i in rng.permutation(len(everything))[: 2 if n > 5000 else 6]]
    found: list[list[Tensor]] = [[], [], [], []]
    expected: list[list[Tensor]] = [[], [], [], []]
    with torch.no_grad():
        for patch, head in chosen:
            for start, stop in pairwise(offsets_of(sizes).tolist()):
                part = qkv[start:stop, patch, :, head].double().unbind(1)
                exact = attention_slice(*part, d_out[start:stop, patch, head].double())
                ours = (out[start:stop, patch, head], *gradient[start:stop, patch, :, head].unbind(1))
                for i in range(4):
                    found[i].append(ours[i])
                    expected[i].append(exact[i])
    shape = f"{len(sizes)} x {max(sizes)}" if len(set(sizes)) <= 1 else f"{list(sizes)[:6]}"
    name = f"population {shape}, L{n_patches}, {heads} x {width}, {short(dtype)}"
    pairs = [(torch.cat(a), torch.cat(b)) for a, b in zip(found, expected, strict=True)]
    return judge(name + (", deterministic" if deterministic else ""), dtype, pairs)


def check_temporal(
    n: int, n_patches: int, heads: int, width: int, dtype: torch.dtype, rotate_value: bool
) -> Result:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    qkv = torch.randn(n, n_patches, 3, heads, width, device=device).to(dtype).requires_grad_()
    d_out = torch.randn(n, n_patches, heads, width, device=device).to(dtype)
    angles = torch.outer(torch.arange(n_patches).double(), torch.logspace(0, -3, width // 2).double())
    cos, sin = angles.cos().float().to(device), angles.sin().float().to(device)
    out = temporal_attention(qkv, cos, sin, rotate_value=rotate_value)
    (gradient,) = torch.autograd.grad(out, qkv, d_out)
    units = torch.randperm(n, device=device)[:300]
    exact_in = qkv.detach()[units].double().requires_grad_()
    exact = temporal_attention_reference(exact_in, cos.double(), sin.double(), rotate_value=rotate_value)
    (exact_gradient,) = torch.autograd.grad(exact, exact_in, d_out[units].double())
    name = f"temporal {n} units, L{n_patches}, {heads} x {width}, {short(dtype)}"
    pairs = [(out[units], exact.detach()), (gradient[units], exact_gradient)]
    return judge(name + ("" if rotate_value else ", values not rotated"), dtype, pairs)


def check_loss(sizes: Sequence[int], width: int, dtype: torch.dtype, tau: float) -> Result:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    views = [
        F.normalize(torch.randn(sum(sizes), width, device=device), dim=1).to(dtype).requires_grad_()
        for _ in range(2)
    ]
    cu = offsets_of(sizes)
    partner = torch.cat([s + torch.randperm(n) for s, n in zip(cu.tolist(), sizes, strict=False)]).to(device)
    value = torch.cat(contrastive_loss(*views, cu, cu, partner, tau=tau)).sum()
    gradients = torch.autograd.grad(value, views)
    exact_views = [x.detach().double().requires_grad_() for x in views]
    exact = loss_peers(sizes, partner, tau, widest=0)["chunked torch"](*exact_views)
    exact_gradients = torch.autograd.grad(exact, exact_views)
    pairs = [(value.detach()[None], exact.detach()[None]), *zip(gradients, exact_gradients, strict=True)]
    return judge(f"loss {len(sizes)} x {max(sizes)}, D{width}, {short(dtype)}, tau {tau}", dtype, pairs)


def check_repeatable(call: Callable[[], Sequence[Tensor]], name: str) -> Result:
    first = [x.clone() for x in call()]
    same = all(torch.equal(a, b) for _ in range(3) for a, b in zip(first, call(), strict=True))
    return Result(f"{name}: same bits four times", same)


def check_graph(call: Callable[[], Sequence[Tensor]], name: str) -> Result:
    """Captured in a CUDA graph and replayed, the numbers are those of plain calls."""
    expected = [x.clone() for x in call()]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call()
    for x in captured:
        x.zero_()
    graph.replay()
    torch.cuda.synchronize()
    worst = max(relative(a, b.double()) for a, b in zip(captured, expected, strict=True))
    return Result(f"{name}: CUDA graph", worst < 1e-2, worst)  # atomics may sum in another order


def check_compiled(function: Callable[..., Tensor], x: Sequence[Tensor], name: str) -> Result:
    expected = function(*x)
    found = torch.compile(function, fullgraph=True)(*x)
    worst = relative(found.detach(), expected.detach().double())
    return Result(f"{name}: torch.compile(fullgraph=True)", worst < 1e-2, worst)


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def checks(small: bool) -> list[Callable[[], Result]]:
    """All of them, as calls, so that one that breaks does not hide the others."""
    found: list[Callable[[], Result]] = []
    cuda = torch.cuda.is_available()
    dtypes = [torch.float32, torch.float16, torch.bfloat16] if cuda else [torch.float32]
    rng = np.random.default_rng(0)
    for dtype in dtypes:
        for width in (16, 32, 64, 128):
            sizes = [int(n) for n in rng.integers(0, 90 if small else 700, 5)] + [1, 0, 33]
            for deterministic in (False, True):
                found.append(
                    lambda s=sizes, w=width, d=dtype, r=deterministic: check_population(s, 3, 2, w, d, r)
                )
            for n_patches in (1, 10, 32) if small else (1, 2, 7, 10, 32, 64, 100, 128):
                rotate = n_patches != 7
                found.append(
                    lambda p=n_patches, w=width, d=dtype, r=rotate: check_temporal(131, p, 4, w, d, r)
                )
        for width in (16, 64, 256):
            sizes = [int(n) for n in rng.integers(2, 60 if small else 900, 6)]
            for tau in (0.2, 0.005):
                found.append(lambda s=sizes, w=width, d=dtype, t=tau: check_loss(s, w, d, t))
    if not small:
        for n in (10_000, 100_000):
            found.append(lambda n=n: check_population([n], 10, 4, 64, torch.bfloat16, False))
            found.append(lambda n=n: check_population([n], 10, 4, 64, torch.bfloat16, True))
            found.append(lambda n=n: check_loss([n], 256, torch.bfloat16, 0.2))
        found.append(lambda: check_population([100_000], 32, 4, 64, torch.bfloat16, False))  # over 2^31
        found.append(lambda: check_temporal(100_000, 32, 4, 64, torch.bfloat16, True))
    found += ways_of_calling(cuda)
    return found


def ways_of_calling(cuda: bool) -> list[Callable[[], Result]]:
    """Repeats, CUDA graphs and the compiler."""
    device = torch.device("cuda" if cuda else "cpu")
    dtype = torch.bfloat16 if cuda else torch.float32
    sizes = [50, 130, 7]
    n = sum(sizes)
    plan, cu = make_plan(sizes, device), offsets_of(sizes)
    qkv = torch.randn(n, 10, 3, 4, 64, device=device).to(dtype).requires_grad_()
    cos = torch.ones(10, 32, device=device)
    sin = torch.zeros(10, 32, device=device)

    def population(x: Tensor) -> Tensor:
        return population_attention(x, cu, plan=plan)

    def temporal(x: Tensor) -> Tensor:
        return temporal_attention(x, cos, sin)

    def both(function: Callable[[Tensor], Tensor]) -> Callable[[], Sequence[Tensor]]:
        def call() -> Sequence[Tensor]:
            out = function(qkv)
            return [out.detach(), torch.autograd.grad(out.float().sum(), qkv)[0]]

        return call

    def deterministic(x: Tensor) -> Tensor:
        return population_attention(x, cu, plan=plan, deterministic=True)

    found: list[Callable[[], Result]] = [
        lambda: check_repeatable(both(deterministic), "population, deterministic"),
        lambda: check_repeatable(both(temporal), "temporal"),
        lambda: check_compiled(population, [qkv], "population"),
        lambda: check_compiled(temporal, [qkv], "temporal"),
    ]
    if cuda:
        found += [
            lambda: check_graph(both(population), "population"),
            lambda: check_graph(both(temporal), "temporal"),
        ]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    results = []
    for check in checks(arguments.small):
        try:
            result = check()
        except Exception as error:  # one that cannot run is a failure with a name, not the end
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(frame.filename).name}:{frame.lineno}"
            result = Result("?", False, message=f"{type(error).__name__} at {where}: {error}"[:500])
        results.append(result)
        if not result.ok:
            print(f"WRONG {result.name}: {result.message}", flush=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    wrong = sum(not result.ok for result in results)
    print(f"{len(results) - wrong} of {len(results)} checks passed")
    arguments.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"results": [asdict(r) for r in results], **describe()}, indent=1)
    (arguments.out / "correctness.json").write_text(text + "\n")
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
