"""Runs every operation once, forward and backward, against the reference in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nuclr_kernels.contrastive import contrastive_loss
from nuclr_kernels.contrastive.reference import contrastive_loss_reference
from nuclr_kernels.dispatch import path_of
from nuclr_kernels.population_attention import population_attention
from nuclr_kernels.population_attention.reference import population_attention_reference
from nuclr_kernels.temporal_attention import temporal_attention
from nuclr_kernels.temporal_attention.reference import temporal_attention_reference

SIZES = (33, 1, 70)
N_PATCHES, HEADS, HEAD_DIM, WIDTH = 10, 4, 64, 64

# Of ||difference|| / ||reference||, forward and gradients. 16-bit outputs are rounded to 2^-8 and 2^-11.
TOLERANCE = {torch.float32: 5e-6, torch.float16: 2e-3, torch.bfloat16: 8e-3}


@dataclass(frozen=True)
class OperationCheck:
    """How one operation did.

    Attributes:
        operation: Its name.
        path: ``triton`` or ``reference``.
        reason: Why the reference runs, empty where the kernel does.
        dtype: Of the inputs.
        error: ``||difference|| / ||float64 reference||``, the larger of output and gradients; NaN counts as
            infinite.
        tolerance: What `error` must not exceed.
        failure: What the operation raised, empty when it ran.
    """

    operation: str
    path: str
    reason: str
    dtype: str
    error: float
    tolerance: float
    failure: str = ""

    @property
    def ok(self) -> bool:
        return not self.failure and self.error <= self.tolerance


def self_test(device: torch.device) -> tuple[OperationCheck, ...]:
    """Check every operation on `device`: float32, and bfloat16 on a GPU. Takes seconds, to compile mostly."""
    dtypes = [torch.float32, torch.bfloat16] if device.type == "cuda" else [torch.float32]
    return tuple(_check(name, case, dtype, device) for name, case in _CASES.items() for dtype in dtypes)


Operation = Callable[[Sequence[Tensor]], Tensor]
Case = Callable[[torch.Generator], tuple[Operation, Operation, list[Tensor]]]


def _check(name: str, case: Case, dtype: torch.dtype, device: torch.device) -> OperationCheck:
    path, reason = path_of(device)
    fused, reference, inputs = case(torch.Generator().manual_seed(0))
    error, failure = float("inf"), ""
    rounded = [x.to(dtype) for x in inputs]
    expected = _with_gradients(reference, [x.double() for x in rounded])
    try:
        found = _with_gradients(fused, [x.to(device) for x in rounded])
        error = max(_relative(a, b) for a, b in zip(found, expected, strict=True))
    except Exception as caught:  # a kernel that does not compile or launch is what this looks for
        failure = f"{type(caught).__name__}: {caught}".strip().splitlines()[0]
    short = str(dtype).removeprefix("torch.")
    return OperationCheck(name, path, reason, short, error, TOLERANCE[dtype], failure)


def _with_gradients(operation: Operation, inputs: Sequence[Tensor]) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = operation(leaves)
    weight = torch.linspace(-1.0, 1.0, out.numel()).reshape(out.shape).to(out)
    return [out.detach(), *torch.autograd.grad((out * weight).sum(), leaves)]


def _relative(found: Tensor, expected: Tensor) -> float:
    difference = found.detach().cpu().double() - expected
    error = float(difference.norm() / expected.norm())
    return error if error == error else float("inf")


def _offsets(sizes: Sequence[int]) -> Tensor:
    return torch.tensor([0, *sizes]).cumsum(0).to(torch.int32)


def _population(generator: torch.Generator) -> tuple[Operation, Operation, list[Tensor]]:
    qkv = torch.randn(sum(SIZES), N_PATCHES, 3, HEADS, HEAD_DIM, generator=generator)
    offsets = _offsets(SIZES)
    return (
        lambda x: population_attention(x[0], offsets),
        lambda x: population_attention_reference(x[0], offsets.tolist()),
        [qkv],
    )


def _temporal(generator: torch.Generator) -> tuple[Operation, Operation, list[Tensor]]:
    qkv = torch.randn(sum(SIZES), N_PATCHES, 3, HEADS, HEAD_DIM, generator=generator)
    angles = torch.arange(N_PATCHES)[:, None] * torch.logspace(0, -4, HEAD_DIM // 2, dtype=torch.float64)
    cos, sin = angles.cos(), angles.sin()
    return (
        lambda x: temporal_attention(x[0], cos.float().to(x[0].device), sin.float().to(x[0].device)),
        lambda x: temporal_attention_reference(x[0], cos.float().double(), sin.float().double()),
        [qkv],
    )


def _contrastive(generator: torch.Generator) -> tuple[Operation, Operation, list[Tensor]]:
    sizes2 = (30, 1, 66)
    views = [
        torch.nn.functional.normalize(torch.randn(sum(sizes), WIDTH, generator=generator), dim=1)
        for sizes in (SIZES, sizes2)
    ]
    cu1, cu2 = _offsets(SIZES), _offsets(sizes2)
    partner = torch.full((sum(SIZES),), -1)
    for start1, start2, size1, size2 in zip(cu1.tolist(), cu2.tolist(), SIZES, sizes2, strict=False):
        matched = min(size1, size2) * 9 // 10
        partner[start1 : start1 + matched] = start2 + torch.randperm(size2, generator=generator)[:matched]

    def fused(x: Sequence[Tensor]) -> Tensor:
        return torch.cat(contrastive_loss(x[0], x[1], cu1, cu2, partner.to(x[0].device), tau=0.2))

    def reference(x: Sequence[Tensor]) -> Tensor:
        return torch.cat(contrastive_loss_reference(x[0], x[1], cu1.tolist(), cu2.tolist(), partner, tau=0.2))

    return fused, reference, views


_CASES: dict[str, Case] = {
    "population_attention": _population,
    "temporal_attention": _temporal,
    "contrastive_loss": _contrastive,
}
