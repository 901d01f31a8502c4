"""Training losses between two views of the same populations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nuclr_cli.model.config import LossConfig
from nuclr_cli.model.matching import plan_loss
from nuclr_kernels import LossPlan, contrastive_loss
from nuclr_kernels.compiled_constants import compiled_constant
from nuclr_kernels.dispatch import path_of


@dataclass(frozen=True)
class LossTerms:
    """A loss and its parts, scalars in float32, or float64 where the projections are.

    Attributes:
        total: What to differentiate; ``numerator + denominator``.
        numerator: Attraction: distance of matched units. Carries no gradient.
        denominator: Repulsion: closeness to other units (dcl) or lack of spread (vicreg). Carries no
            gradient.
        n_pairs: Matched pairs of this call.
    """

    total: Tensor
    numerator: Tensor
    denominator: Tensor
    n_pairs: int


class DecoupledContrastiveLoss(nn.Module):
    """Sample-wise decoupled contrastive loss of NuCLR (arXiv 2512.01199, 2110.06848).

    Each sample (one window of one recording) is its own contrastive problem; samples are weighted by their
    matched pairs.

    Args:
        dim: Width D of the embeddings.
        config: Temperatures and options.
    """

    def __init__(self, dim: int, config: LossConfig | None = None) -> None:
        super().__init__()
        self.config = LossConfig() if config is None else config
        self.projector = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))

    def forward(
        self,
        z1: Tensor,
        z2: Tensor,
        ids1: Tensor | None = None,
        ids2: Tensor | None = None,
        units1: Tensor | None = None,
        units2: Tensor | None = None,
        *,
        plan: LossPlan | None = None,
        n_pairs_total: int | None = None,
    ) -> LossTerms:
        """Compare two views: ``loss(z1, z2, ids1, ids2, units1, units2)`` or ``loss(z1, z2, plan=plan)``.

        With `n_pairs_total` the terms are this call's share of a larger batch: over micro-batches (and ranks)
        that split the samples of a batch, totals and their gradients add up to those of the whole batch.
        Where gradients are averaged over ranks, multiply the share by the number of ranks.

        Args:
            z1: (U1, D) embeddings of view 1, samples packed along the first axis.
            z2: (U2, D) embeddings of view 2.
            ids1: (U1,) integers, unique within a sample; the same id in the same sample of both views is a
                pair.
            ids2: (U2,) integers.
            units1: (B,) integers, units of each sample in view 1.
            units2: (B,) integers.
            plan: What `plan_loss` made of these four, in place of them: with it nothing is read back from the
                device, and no table copied to it. Without one the host waits for what is on a device.
            n_pairs_total: Matched pairs of the whole batch; default those of this call.

        Returns:
            The terms; all zero, with zero gradient, when nothing matches.

        Raises:
            ValueError: Lengths do not fit, an id occurs twice in a sample, or `n_pairs_total` is below this
                call's pairs.
        """
        plan = _plan(plan, z1, z2, ids1, ids2, units1, units2)
        n_total = plan.n_pairs if n_pairs_total is None else n_pairs_total
        if n_total < plan.n_pairs:
            raise ValueError(f"n_pairs_total is {n_total}, below the {plan.n_pairs} pairs of this call alone")
        p1, p2 = self.projector(z1), self.projector(z2)
        operand = _operand_dtype(p1)
        with torch.autocast(p1.device.type, enabled=False):
            # In bfloat16, similarities near 1 would differ in steps of 0.004: they are summed in float32.
            wide = torch.promote_types(p1.dtype, torch.float32)
            numerators, denominators = contrastive_loss(
                F.normalize(p1.to(wide), dim=1).to(operand),
                F.normalize(p2.to(wide), dim=1).to(operand),
                plan=plan,
                tau=self.config.tau,
                self_tau=self.config.self_tau,
                dcl=self.config.dcl,
                full_denom=self.config.full_denom,
            )
            # Shares are float32 also where the terms are float64, as in the official implementation.
            weights = (plan.pairs / max(n_total, 1)).to(numerators)
            numerator, denominator = (weights * numerators).sum(), (weights * denominators).sum()
        return LossTerms(numerator + denominator, numerator.detach(), denominator.detach(), plan.n_pairs)


class VICReg(nn.Module):
    """Variance, invariance and covariance regularisation (arXiv 2105.04906) with the reference's weights.

    Invariance is the mean squared distance of matched units; variance and covariance are taken over all units
    of each view and summed over the views. They are statistics of the whole batch and not sums over samples:
    a batch cut into micro-batches has another loss, so accumulating gradients changes what is optimised.

    Args:
        dim: Width D of the embeddings.
        config: Weights and projector width.
    """

    def __init__(self, dim: int, config: LossConfig | None = None) -> None:
        super().__init__()
        self.config = LossConfig(name="vicreg") if config is None else config
        wide = self.config.projector_mult * dim
        self.projector = nn.Sequential(
            nn.Linear(dim, wide), nn.ReLU(), nn.Linear(wide, wide), nn.ReLU(), nn.Linear(wide, wide)
        )

    def forward(
        self,
        z1: Tensor,
        z2: Tensor,
        ids1: Tensor | None = None,
        ids2: Tensor | None = None,
        units1: Tensor | None = None,
        units2: Tensor | None = None,
        *,
        plan: LossPlan | None = None,
        n_pairs_total: int | None = None,
    ) -> LossTerms:
        """Compare two views; arguments as `DecoupledContrastiveLoss.forward`.

        Args:
            n_pairs_total: Must be None or this call's own pairs, since the loss cannot be accumulated.

        Raises:
            ValueError: Lengths do not fit, an id occurs twice in a sample, a view has fewer than two units,
                or `n_pairs_total` says that the batch was cut.
        """
        plan = _plan(plan, z1, z2, ids1, ids2, units1, units2)
        n_pairs = plan.n_pairs
        if n_pairs_total is not None and n_pairs_total != n_pairs:
            raise ValueError(
                f"n_pairs_total is {n_pairs_total} but this call has {n_pairs} pairs: "
                "VICReg is a statistic of the whole batch and cannot be summed over micro-batches"
            )
        if min(len(z1), len(z2)) < 2:
            raise ValueError(f"a variance needs two units in each view; got {len(z1)} and {len(z2)}")
        p1, p2 = self.projector(z1), self.projector(z2)
        with torch.autocast(p1.device.type, enabled=False):
            wide = torch.promote_types(p1.dtype, torch.float32)
            p1, p2 = p1.to(wide), p2.to(wide)
            rows1 = torch.nonzero(plan.partner12 >= 0).squeeze(1)
            rows2 = plan.partner12[rows1]
            rows1, rows2 = (rows.to(p1.device, non_blocking=True) for rows in (rows1, rows2))
            squares = (p1[rows1] - p2[rows2]).square()
            invariance = self.config.invariance * (squares.mean() if n_pairs else squares.sum())
            spread = self._spread(p1) + self._spread(p2)
        return LossTerms(invariance + spread, invariance.detach(), spread.detach(), n_pairs)

    def _spread(self, p: Tensor) -> Tensor:
        """Weighted variance and covariance terms of one view (N, 4D)."""
        centred = p - p.mean(0)
        covariance = centred.T @ centred / (len(p) - 1)
        diagonal = covariance.diagonal()
        hinge = F.relu(self.config.std_target - (diagonal + self.config.eps).sqrt()).mean()
        off_diagonal = (covariance - diagonal.diag()).square().sum() / p.shape[1]
        return self.config.variance * hinge + self.config.covariance * off_diagonal


def build_loss(config: LossConfig, dim: int) -> DecoupledContrastiveLoss | VICReg:
    """Make the loss that `config` names, for embeddings of width `dim`."""
    return VICReg(dim, config) if config.name == "vicreg" else DecoupledContrastiveLoss(dim, config)


def _operand_dtype(p: Tensor) -> torch.dtype:
    """Dtype of the unit-norm rows whose products are the similarities.

    Where the kernels run, autocast rounds them, once, after they were normalised in float32: tensor cores
    multiply 16-bit numbers ten times as fast, and what is rounded came out of a 16-bit layer just before.
    Similarities and all sums stay float32 (docs/kernels.md has the errors). Plain PyTorch gains nothing by
    it and keeps float32.
    """
    kind = p.device.type
    if torch.is_autocast_enabled(kind) and _kernels_run(p.device):
        return torch.get_autocast_dtype(kind)
    return torch.promote_types(p.dtype, torch.float32)


@compiled_constant
def _kernels_run(device: torch.device) -> bool:
    """Kernels serve this device; a constant of the compiled program under `torch.compile`."""
    return path_of(device)[0] == "triton"


def _plan(
    plan: LossPlan | None,
    z1: Tensor,
    z2: Tensor,
    ids1: Tensor | None,
    ids2: Tensor | None,
    units1: Tensor | None,
    units2: Tensor | None,
) -> LossPlan:
    """The plan that was given, or one for the ids, checked against the embeddings."""
    if plan is not None:
        if any(given is not None for given in (ids1, ids2, units1, units2)):
            raise ValueError("plan already holds ids and units; give either plan or these")
        for view, z, n_units in (("1", z1, plan.n_units1), ("2", z2, plan.n_units2)):
            if z.ndim != 2 or len(z) != n_units:
                raise ValueError(
                    f"z{view} must be (units, width) with the {n_units} units of plan; got {tuple(z.shape)}"
                )
        return plan
    if ids1 is None or ids2 is None or units1 is None or units2 is None:
        raise ValueError("plan is missing: give either plan, or ids1, ids2, units1 and units2")
    ids1, ids2, units1, units2 = (torch.as_tensor(t) for t in (ids1, ids2, units1, units2))
    for view, z, ids in (("1", z1, ids1), ("2", z2, ids2)):
        if z.ndim != 2 or len(z) != len(ids):
            raise ValueError(
                f"z{view} must be (units, width) with one row for each of the {len(ids)} ids{view}; "
                f"got {tuple(z.shape)}"
            )
    return plan_loss(ids1, ids2, units1, units2, z1.device)
