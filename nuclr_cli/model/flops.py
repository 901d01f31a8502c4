"""Floating-point operations that a training step needs, from the sizes alone: the numerator of MFU.

Model FLOP utilisation is (operations the model needs per second) / (what the devices could do), as in PaLM
(Chowdhery et al. 2022, arXiv 2204.02311, appendix B). Counted are matrix products, a multiplication and an
addition each; what is computed twice to save memory counts once. Left out are norms, activations, the
similarities of the loss and the optimiser: some percent.
"""

from __future__ import annotations

from collections.abc import Sequence

from nuclr_cli.model.config import LossConfig, ModelConfig, TokenKind


def training_flops(
    config: ModelConfig,
    loss: LossConfig,
    tokens: TokenKind,
    units_per_population: Sequence[int],
    n_spikes: int = 0,
) -> int:
    """Operations of one forward and backward pass of the encoder and the loss' projector.

    A product costs twice as much again in the backward pass, for the gradients of both factors; where one
    factor is data (patches, spikes), as much again.

    Args:
        config: Sizes of the encoder.
        loss: Which projector.
        tokens: Kind of the batch.
        units_per_population: Units of each population of each view.
        n_spikes: Of all units; only events have some.
    """
    dim, inner, hidden = config.dim, config.heads * config.head_dim, config.ffn_mult * config.dim
    patches, n_units = config.patches(tokens), sum(units_per_population)
    n_tokens = n_units * patches
    temporal = config.temporal_layers + config.spatiotemporal_layers
    pairs = temporal + config.spatiotemporal_layers
    attention, feed_forward, event_attention = 8 * dim * inner, 6 * dim * hidden, 4 * dim * inner
    whole = n_tokens * pairs * (attention + feed_forward)
    whole += temporal * n_units * 4 * patches**2 * inner
    whole += config.spatiotemporal_layers * sum(4 * n**2 * patches * inner for n in units_per_population)
    whole += n_units * _projector(loss, dim)
    if tokens == "events":
        whole += n_tokens * ((pairs + 1) * event_attention + feed_forward)
        turning = round(config.head_dim * config.rotary_fraction) // 2
        data = (pairs + 1) * n_spikes * 8 * patches * config.heads * turning
    else:
        data = n_tokens * 2 * config.samples(tokens) * dim
    return 3 * whole + 2 * data


def _projector(loss: LossConfig, dim: int) -> int:
    """Operations a unit, forward."""
    if loss.name == "dcl":
        return 4 * dim * dim
    wide = loss.projector_mult * dim
    return 2 * dim * wide + 4 * wide * wide


PEAK_BF16_TFLOPS: tuple[tuple[str, float], ...] = (
    ("H200 NVL", 835.0),
    ("GH200", 989.0),
    ("H200", 989.0),
    ("H100 PCIe", 756.0),
    ("H100 NVL", 835.0),
    ("H100", 989.0),
    ("A100", 312.0),
    ("L40S", 362.0),
    ("A40", 149.7),
    ("A30", 165.0),
)
"""Part of a GPU's name -> dense bf16 tensor-core TFLOP/s of NVIDIA's data sheets. The first that fits."""


def peak_tflops(device_name: str) -> float | None:
    """Peak of a GPU in bf16, TFLOP/s; None = not in the table."""
    return next((peak for part, peak in PEAK_BF16_TFLOPS if part in device_name), None)
