"""Public entry of event attention: checks, the rotations, and the attention in their terms."""

from __future__ import annotations

import torch
from torch import Tensor

from nuclr_kernels.event_attention.reference import read_waves
from nuclr_kernels.event_attention.waves import SpikeWaves


def event_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    waves: SpikeWaves,
    cos: Tensor,
    sin: Tensor,
    *,
    scale: float | None = None,
) -> Tensor:
    """Let every latent of a unit attend to all spikes of the same unit, with rotary positions.

    All spikes have the same content, one key and one value a head; they differ in their times alone. Query,
    key and value are rotated by the angle of their time and the output is rotated back, as in
    `nuclr_kernels.temporal_attention`. So a score is a trigonometric polynomial of the spike's time,

        ``score(l, s) = sum_i Re(z_li exp(-j omega_i t_s))``, ``z_li = q_li exp(j omega_i t_l) conj(k_i)``

    with pairs of dimensions as complex numbers, and pair i of the output is the moment
    ``sum_s p_ls exp(j omega_i t_s)`` of the attention weights, times ``v_i exp(-j omega_i t_l)``. Keys and
    values are therefore never formed: all heads of all layers read the same 2T waves of a spike. Pairs that
    do not turn add the same to every score of a latent, which softmax takes away.

    Plain PyTorch on every device; there is no fused kernel. Scores exist for one group of the waves at a
    time: either pass holds at most 2 x L x H values for each of a group's spikes, of which there are
    `SPIKES_AT_ONCE_CPU` on a CPU and `SPIKES_AT_ONCE_GPU` elsewhere (unless a single unit has more). At the
    reference's 10 latents and 4 heads in float32 that is 1.3 MB and 84 MB, however large the batch.

    Args:
        query: (U, L, H, Dh) float, Dh even; any strides.
        key: (H, Dh) content of every spike's key, dtype of `query`.
        value: (H, Dh) content of every spike's value, dtype of `query`.
        waves: The units' spikes; their frequencies belong to the first T pairs of a head, the others do not
            turn. Sums are formed in the waves' dtype.
        cos: (L, Dh/2) cosines of the latents' angles, float32 or float64.
        sin: (L, Dh/2) sines, same dtype as `cos`.
        scale: Factor on the scores; default ``Dh ** -0.5``.

    Returns:
        (U, L, H, Dh), same dtype and device as `query`; zeros for units without spikes.

    Raises:
        ValueError: An argument has the wrong shape or dtype; the message names it.
    """
    turning = _check(query, key, value, waves, cos, sin)
    n_units, n_latents, n_heads, head_dim = query.shape
    dtype = waves.spiking.dtype
    turn = torch.complex(cos.to(dtype), sin.to(dtype))[:, None, :turning]
    factor = head_dim**-0.5 if scale is None else scale
    to_wave = turn * _pairs(key.to(dtype), turning).conj() * factor
    z = torch.view_as_real(_pairs(query.to(dtype), turning) * to_wave)
    moments = read_waves(z.reshape(n_units, n_latents * n_heads, 2 * turning), waves)
    moment = torch.view_as_complex(moments.view(n_units, n_latents, n_heads, turning, 2))
    turned = torch.view_as_real(moment * (turn.conj() * _pairs(value.to(dtype), turning))).flatten(-2)
    still = value[:, 2 * turning :].to(dtype) * waves.spiking
    return torch.cat((turned, still.expand(-1, n_latents, -1, -1)), dim=-1).to(query.dtype)


def _pairs(x: Tensor, turning: int) -> Tensor:
    """The first pairs (2i, 2i+1) of the last axis as complex numbers, (..., turning)."""
    return torch.view_as_complex(torch.unflatten(x[..., : 2 * turning], -1, (turning, 2)).contiguous())


def _check(query: Tensor, key: Tensor, value: Tensor, waves: SpikeWaves, cos: Tensor, sin: Tensor) -> int:
    """Number of pairs that turn."""
    if query.ndim != 4 or not query.is_floating_point():
        raise ValueError(
            "query must be floating point of shape (units, latents, heads, head width); "
            f"got {tuple(query.shape)}, {query.dtype}"
        )
    n_units, n_latents, n_heads, head_dim = query.shape
    if head_dim % 2:
        raise ValueError(f"query must have an even head width to be rotated in pairs; got {head_dim}")
    if waves.n_units != n_units:
        raise ValueError(f"waves must be those of the {n_units} units of query; got {waves.n_units} units")
    if waves.spiking.device != query.device:
        raise ValueError(f"waves must be on the device of query, {query.device}; got {waves.spiking.device}")
    for name, content in (("key", key), ("value", value)):
        if tuple(content.shape) != (n_heads, head_dim):
            raise ValueError(
                f"{name} must have shape (heads, head width) = {(n_heads, head_dim)}; "
                f"got {tuple(content.shape)}"
            )
        if not content.is_floating_point():
            raise ValueError(f"{name} must be floating point; got {content.dtype}")
    for name, table in (("cos", cos), ("sin", sin)):
        if tuple(table.shape) != (n_latents, head_dim // 2):
            raise ValueError(
                f"{name} must have shape (latents, head width / 2) = {(n_latents, head_dim // 2)}; "
                f"got {tuple(table.shape)}"
            )
        if not table.is_floating_point() or table.element_size() < 4:
            raise ValueError(
                f"{name} must be float32 or float64, since phases lose their meaning below; got {table.dtype}"
            )
    turning = waves.waves[0].shape[-1] // 2 if waves.waves else 0
    if turning > head_dim // 2:
        raise ValueError(
            f"waves must have at most head width / 2 = {head_dim // 2} frequencies; got {turning}"
        )
    return turning
