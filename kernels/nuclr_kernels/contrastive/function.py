"""Public entry of the contrastive loss: checks, then the implementation for the device."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nuclr_kernels._offsets import population_bounds
from nuclr_kernels.compiled_constants import compiled_constant
from nuclr_kernels.contrastive.cpu import contrastive_loss_cpu
from nuclr_kernels.contrastive.ops import contrastive_loss_op
from nuclr_kernels.contrastive.plan import LossPlan, plan_of_bounds
from nuclr_kernels.contrastive.reference import LossOptions, contrastive_loss_reference
from nuclr_kernels.contrastive.tiles import WIDTH_BOUNDS, refusal
from nuclr_kernels.dispatch import runs_fused
from nuclr_kernels.float32_precision import float32_precision
from nuclr_kernels.tile_tables import capability_of


def contrastive_loss(
    p1: Tensor,
    p2: Tensor,
    cu1: Tensor | None = None,
    cu2: Tensor | None = None,
    partner12: Tensor | None = None,
    *,
    plan: LossPlan | None = None,
    tau: float,
    self_tau: float = 1.0,
    dcl: bool = True,
    full_denom: bool = True,
) -> tuple[Tensor, Tensor]:
    """Contrast matched units of two views against the other units of the same sample.

    Decoupled contrastive loss (arXiv 2110.06848) per sample of NuCLR (arXiv 2512.01199). For a matched unit i
    of view 1 with partner j, similarities s being dot products:

    - numerator ``(1 - s12[i, j]) / tau``;
    - denominator ``logsumexp({s12[i, k] / tau, k != j} + {s11[i, k] / self_tau, k != i}) - log(n1 + n2)``,
      and the same for the partner in view 2; the two views' means are averaged.

    Unmatched units serve as negatives only. A unit with no negative at all adds nothing to the denominator.

    No matrix of units x units is stored, on any device. On a GPU a kernel computes the loss and one its
    gradient, for float32, float16 and bfloat16 embeddings of width 1 to 512; scores are summed in float32.
    Other calls run on plain PyTorch, with a warning. Results repeat bit by bit. Nothing depends on rows being
    of unit norm.

    Args:
        p1: (U1, D) float, unit-norm projections of view 1, samples packed along the first axis.
        p2: (U2, D) same dtype and device, view 2.
        cu1: (B+1,) int32 (int64 is taken too), offsets of the samples in `p1`.
        cu2: (B+1,) offsets of the samples in `p2`.
        partner12: (U1,) int64, row of `p2` that is the same unit in the same sample, -1 where there is none.
            Rows of `p2` are used once at most.
        plan: What `make_loss_plan` made of these three, in place of them. Without one, a plan is made here,
            for which the host waits if they are on a GPU.
        tau: Temperature of similarities between the views.
        self_tau: Temperature of similarities within a view. The reference leaves them undivided: 1.
        dcl: Leave the positive pair out of the denominator (decoupled); False keeps it in (InfoNCE).
        full_denom: Use units of the same view as negatives too; without them the constant is the log of the
            number of units in the other view.

    Returns:
        (numerator, denominator): each (B,), means over the sample's matched pairs; 0 where a sample has none.
        float64 for float64 embeddings, otherwise float32.

    Raises:
        ValueError: An argument has the wrong shape, dtype, device or values; the message names it.
    """
    for name, p in (("p1", p1), ("p2", p2)):
        if p.ndim != 2 or not p.is_floating_point():
            raise ValueError(
                f"{name} must be a floating point tensor (units, width); got {tuple(p.shape)}, {p.dtype}"
            )
    if p2.shape[1] != p1.shape[1] or p2.dtype != p1.dtype or p2.device != p1.device:
        raise ValueError(
            f"p2 must have the width, dtype and device of p1, {p1.shape[1]}, {p1.dtype} and {p1.device}; "
            f"got {p2.shape[1]}, {p2.dtype} and {p2.device}"
        )
    for name, temperature in (("tau", tau), ("self_tau", self_tau)):
        if not (math.isfinite(temperature) and temperature > 0):
            raise ValueError(f"{name} must be a positive number; got {temperature}")
    if plan is None:
        plan = _plan(p1, p2, cu1, cu2, partner12)
    else:
        _check_plan(plan, p1, p2, (cu1, cu2, partner12))
    width = p1.shape[1]
    width_bound = next((bound for bound in WIDTH_BOUNDS if 1 <= width <= bound), 0)
    if not _runs_fused(p1.device, p1.dtype, width_bound):
        if p1.device.type == "cpu":
            return contrastive_loss_cpu(p1, p2, plan, LossOptions(tau, self_tau, dcl, full_denom))
        return contrastive_loss_reference(
            p1,
            p2,
            plan.bounds1,
            plan.bounds2,
            plan.partner12,
            tau=tau,
            self_tau=self_tau,
            dcl=dcl,
            full_denom=full_denom,
        )
    # One matrix costs a copy of the embeddings and spares the kernel half its pointers.
    numerator, denominator, _, _ = contrastive_loss_op(
        torch.cat((p1, p2)),
        plan.samples,
        plan.partners,
        plan.largest,
        tau,
        self_tau,
        dcl,
        full_denom,
        float32_precision(),
    )
    return numerator, denominator


def _plan(
    p1: Tensor, p2: Tensor, cu1: Tensor | None, cu2: Tensor | None, partner12: Tensor | None
) -> LossPlan:
    """Check the offsets and partners against the embeddings, and plan for their device."""
    if cu1 is None or cu2 is None or partner12 is None:
        raise ValueError("plan is missing: give either plan, or cu1, cu2 and partner12")
    bounds1 = population_bounds(cu1, p1.shape[0], "cu1")
    bounds2 = population_bounds(cu2, p2.shape[0], "cu2")
    if len(bounds1) != len(bounds2):
        raise ValueError(f"cu2 must mark as many samples as cu1, {len(bounds1) - 1}; got {len(bounds2) - 1}")
    if partner12.shape != p1.shape[:1] or partner12.dtype != torch.int64:
        raise ValueError(
            f"partner12 must be an int64 tensor with one entry for each of the {p1.shape[0]} rows of p1; "
            f"got shape {tuple(partner12.shape)}, {partner12.dtype}"
        )
    return plan_of_bounds(bounds1, bounds2, partner12, p1.device)


def _check_plan(plan: LossPlan, p1: Tensor, p2: Tensor, others: tuple[Tensor | None, ...]) -> None:
    """Raise ValueError unless `plan` is for such embeddings."""
    if any(other is not None for other in others):
        raise ValueError("plan already holds cu1, cu2 and partner12; give either plan or these")
    if plan.n_units1 != p1.shape[0] or plan.n_units2 != p2.shape[0]:
        raise ValueError(
            f"plan was made for views of {plan.n_units1} and {plan.n_units2} units; "
            f"got {p1.shape[0]} and {p2.shape[0]}"
        )
    if plan.samples.device != p1.device:
        raise ValueError(f"plan must be on the device of p1, {p1.device}; it is on {plan.samples.device}")


@compiled_constant
def _runs_fused(device: torch.device, dtype: torch.dtype, width_bound: int) -> bool:
    """Whether the kernel runs; a constant of the compiled program under `torch.compile`."""
    return runs_fused("contrastive_loss", device, lambda: refusal(dtype, width_bound, capability_of(device)))
