"""Sample-wise decoupled contrastive loss between two views of ragged populations."""

from nuclr_kernels.contrastive.function import contrastive_loss
from nuclr_kernels.contrastive.plan import LossPlan, make_loss_plan

__all__ = ["LossPlan", "contrastive_loss", "make_loss_plan"]
