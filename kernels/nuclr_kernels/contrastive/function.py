"""Public entry of the contrastive loss: checks, then the implementation for the device."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nuclr_kernels._offsets import population_bounds
from nuclr_kernels.contrastive.reference import contrastive_loss_reference


def contrastive_loss(
    p1: Tensor,
    p2: Tensor,
    cu1: Tensor,
    cu2: Tensor,
    partner12: Tensor,
    *,
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

    Args:
        p1: (U1, D) float, unit-norm projections of view 1, samples packed along the first axis.
        p2: (U2, D) same dtype and device, view 2.
        cu1: (B+1,) int32 (int64 is taken too), offsets of the samples in `p1`.
        cu2: (B+1,) offsets of the samples in `p2`.
        partner12: (U1,) int64, row of `p2` that is the same unit in the same sample, -1 where there is none.
            Rows of `p2` are used once at most.
        tau: Temperature of similarities between the views.
        self_tau: Temperature of similarities within a view. The reference leaves them undivided: 1.
        dcl: Leave the positive pair out of the denominator (decoupled); False keeps it in (InfoNCE).
        full_denom: Use units of the same view as negatives too; without them the constant is the log of the
            number of units in the other view.

    Returns:
        (numerator, denominator): each (B,), means over the sample's matched pairs; 0 where a sample has none.

    Raises:
        ValueError: An argument has the wrong shape, dtype or values; the message names it.
    """
    for name, p in (("p1", p1), ("p2", p2)):
        if p.ndim != 2 or not p.is_floating_point():
            raise ValueError(
                f"{name} must be a floating point tensor (units, width); got {tuple(p.shape)}, {p.dtype}"
            )
    if p2.shape[1] != p1.shape[1] or p2.dtype != p1.dtype:
        raise ValueError(
            f"p2 must have the width and dtype of p1, {p1.shape[1]} and {p1.dtype}; "
            f"got {p2.shape[1]} and {p2.dtype}"
        )
    for name, temperature in (("tau", tau), ("self_tau", self_tau)):
        if not (math.isfinite(temperature) and temperature > 0):
            raise ValueError(f"{name} must be a positive number; got {temperature}")
    bounds1 = population_bounds(cu1, p1.shape[0], "cu1")
    bounds2 = population_bounds(cu2, p2.shape[0], "cu2")
    if len(bounds1) != len(bounds2):
        raise ValueError(f"cu2 must mark as many samples as cu1, {len(bounds1) - 1}; got {len(bounds2) - 1}")
    if partner12.shape != p1.shape[:1] or partner12.dtype != torch.int64:
        raise ValueError(
            f"partner12 must be an int64 tensor with one entry for each of the {p1.shape[0]} rows of p1; "
            f"got shape {tuple(partner12.shape)}, {partner12.dtype}"
        )
    _check_partners(partner12, cu1, cu2, len(p2))
    return contrastive_loss_reference(
        p1,
        p2,
        bounds1,
        bounds2,
        partner12,
        tau=tau,
        self_tau=self_tau,
        dcl=dcl,
        full_denom=full_denom,
    )


def _check_partners(partner12: Tensor, cu1: Tensor, cu2: Tensor, n_units2: int) -> None:
    """Raise ValueError unless partners are rows of their own sample, each used once at most."""
    device = partner12.device
    rows1 = torch.nonzero(partner12 >= 0).squeeze(1)
    rows2 = partner12[rows1]
    in_range = bool((rows2 < n_units2).all())
    if in_range:
        sample1 = torch.searchsorted(cu1.to(device).long(), rows1, right=True)
        sample2 = torch.searchsorted(cu2.to(device).long(), rows2, right=True)
        if torch.equal(sample1, sample2) and len(torch.unique(rows2)) == len(rows2):
            return
    raise ValueError(
        "partner12 must pair a unit with a unit of its own sample in p2, and each of those once at most"
    )
