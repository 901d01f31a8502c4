"""Sample-wise decoupled contrastive loss between two views of ragged populations."""

from nuclr_kernels.contrastive.function import contrastive_loss

__all__ = ["contrastive_loss"]
