"""Inputs of a case, and nuclr's operation beside its peers as functions of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from cases import HEAD_DIM, HEADS, WIDTH, Case
from peers import loss_peers, offsets_of, population_peers, temporal_peers
from torch import Tensor

from nuclr_kernels import contrastive_loss, make_plan, population_attention, temporal_attention

OURS = "nuclr"
TAU = 0.2
WIDEST_WHOLE = 10_000
"""Largest sample whose whole logits a peer may form: at 100,000 units they are 240 GB."""


@dataclass(frozen=True)
class Problem:
    """A case with its inputs.

    Attributes:
        case: The case.
        inputs: Sets of leaf tensors, measured in turn.
        variants: nuclr and the peers: the inputs to one tensor.
    """

    case: Case
    inputs: list[list[Tensor]]
    variants: dict[str, Callable[..., Tensor]]


def make_problem(case: Case, device: torch.device, dtype: torch.dtype, n_sets: int = 2) -> Problem:
    """Draw inputs and bind the variants."""
    generator = torch.Generator(device=device).manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device, dtype=torch.float32).to(dtype)

    if case.operation == "loss":
        return _loss(case, device, [[draw(case.n_units, WIDTH) for _ in range(2)] for _ in range(n_sets)])
    sets = [[draw(case.n_units, case.n_patches, 3, HEADS, HEAD_DIM).requires_grad_()] for _ in range(n_sets)]
    variants: dict[str, Callable[..., Tensor]]
    if case.operation == "population":
        plan = make_plan(case.sizes, device)
        cu = offsets_of(case.sizes)

        def ours(qkv: Tensor) -> Tensor:
            return population_attention(qkv, cu, plan=plan)

        variants = {OURS: ours, **population_peers(case.sizes, case.n_patches, device)}
    else:
        angles = torch.outer(
            torch.arange(case.n_patches, dtype=torch.float64),
            torch.logspace(0, -3, HEAD_DIM // 2, dtype=torch.float64),
        )
        cos, sin = angles.cos().float().to(device), angles.sin().float().to(device)

        def ours(qkv: Tensor) -> Tensor:
            return temporal_attention(qkv, cos, sin)

        variants = {OURS: ours, **temporal_peers(cos, sin)}
    return Problem(case, sets, variants)


def _loss(case: Case, device: torch.device, sets: list[list[Tensor]]) -> Problem:
    sets = [[F.normalize(x.float(), dim=1).to(x.dtype).requires_grad_() for x in views] for views in sets]
    cu = offsets_of(case.sizes)
    permutations = [torch.randperm(n, generator=torch.Generator().manual_seed(1)) for n in case.sizes]
    partner = torch.cat([start + order for start, order in zip(cu.tolist(), permutations, strict=False)]).to(
        device
    )

    def ours(p1: Tensor, p2: Tensor) -> Tensor:
        numerator, denominator = contrastive_loss(p1, p2, cu, cu, partner, tau=TAU)
        return numerator.sum() + denominator.sum()

    return Problem(case, sets, {OURS: ours, **loss_peers(case.sizes, partner, TAU, WIDEST_WHOLE)})
