"""The NuCLR encoder, its losses, and weights of the official implementation."""

from nuclr_cli.model.config import LossConfig, LossName, ModelConfig, TokenKind
from nuclr_cli.model.encoder import Encoder
from nuclr_cli.model.losses import DecoupledContrastiveLoss, LossTerms, VICReg, build_loss
from nuclr_cli.model.matching import match_units, plan_loss
from nuclr_cli.model.reference_weights import encoder_from_reference, loss_from_reference

__all__ = [
    "DecoupledContrastiveLoss",
    "Encoder",
    "LossConfig",
    "LossName",
    "LossTerms",
    "ModelConfig",
    "TokenKind",
    "VICReg",
    "build_loss",
    "encoder_from_reference",
    "loss_from_reference",
    "match_units",
    "plan_loss",
]
