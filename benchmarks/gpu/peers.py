"""The alternatives that the kernels are measured against, each a function of the same tensors.

A peer that needs another layout pays for its copies, for that is what a user of it pays. A peer that cannot
run here raises; the table then says why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from nuclr_kernels.contrastive.reference import contrastive_loss_reference
from nuclr_kernels.temporal_attention.reference import rotate_pairs, temporal_attention_reference

Attend = Callable[[Tensor], Tensor]


def offsets_of(sizes: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """(B+1,) int32."""
    return torch.tensor([0, *sizes]).cumsum(0).to(device=device, dtype=torch.int32)


def population_peers(sizes: Sequence[int], n_patches: int, device: torch.device) -> dict[str, Attend]:
    """Population attention on (U, L, 3, H, Dh), to (U, L, H, Dh)."""
    bounds = list(pairwise(offsets_of(sizes).tolist()))

    def views(qkv: Tensor) -> Tensor:
        """One call a population on permuted views: no copy in, one to put the outputs together."""
        outs = []
        for start, stop in bounds:
            query, key, value = qkv[start:stop].permute(2, 1, 3, 0, 4).unbind(0)
            outs.append(F.scaled_dot_product_attention(query, key, value).permute(2, 0, 1, 3))
        return outs[0] if len(outs) == 1 else torch.cat(outs)

    def with_backend(backend: SDPBackend) -> Attend:
        def run(qkv: Tensor) -> Tensor:
            with sdpa_kernel(backend):
                return views(qkv)

        return run

    def padded(qkv: Tensor) -> Tensor:
        most = max(sizes)
        present = torch.arange(most, device=device) < torch.tensor(sizes, device=device)[:, None]
        rows = torch.nonzero(present.flatten()).squeeze(1)
        full = qkv.new_zeros(present.numel(), *qkv.shape[1:]).index_copy(0, rows, qkv)
        query, key, value = full.unflatten(0, (-1, most)).permute(3, 0, 2, 4, 1, 5).unbind(0)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=present[:, None, None, None, :])
        return out.permute(0, 3, 1, 2, 4).flatten(0, 1)[rows]

    cu_all = offsets_of([*sizes] * n_patches, device)

    def varlen(qkv: Tensor) -> Tensor:
        """One call, a sequence for every (patch, population): tokens are copied to (L, U) order and back."""
        from torch.nn.attention.varlen import varlen_attn

        tokens = qkv.transpose(0, 1).reshape(-1, *qkv.shape[2:])
        query, key, value = tokens.unbind(1)
        out = varlen_attn(query, key, value, cu_all, cu_all, max(sizes), max(sizes))
        return out.unflatten(0, (n_patches, -1)).transpose(0, 1)

    peers: dict[str, Attend] = {"SDPA on views": views}
    if device.type == "cuda":
        peers["cuDNN SDPA on views"] = with_backend(SDPBackend.CUDNN_ATTENTION)
        peers["FlashAttention-2 SDPA on views"] = with_backend(SDPBackend.FLASH_ATTENTION)
        peers["varlen_attn with copies"] = varlen
        if len(set(sizes)) > 1 or len(sizes) > 1:
            peers["FlexAttention, block mask"] = _flex(sizes, n_patches, device)
    if len(sizes) > 1:
        peers["padded SDPA"] = padded
    return peers


def _flex(sizes: Sequence[int], n_patches: int, device: torch.device) -> Attend:
    """FlexAttention over all units with a block mask, which is made once and not counted."""
    compiled: list[Attend] = []

    def build() -> Attend:
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        population = torch.repeat_interleave(
            torch.arange(len(sizes), device=device), torch.tensor(sizes, device=device)
        )

        def same(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return population[query] == population[key]

        n = sum(sizes)
        mask = create_block_mask(same, None, None, n, n, device=str(device))
        attend = torch.compile(flex_attention)

        def run(qkv: Tensor) -> Tensor:
            query, key, value = qkv.permute(2, 1, 3, 0, 4).unbind(0)
            out: Tensor = attend(query, key, value, block_mask=mask)
            return out.permute(2, 0, 1, 3)

        return run

    def lazily(qkv: Tensor) -> Tensor:
        if not compiled:
            compiled.append(build())
        return compiled[0](qkv)

    return lazily


def temporal_peers(cos: Tensor, sin: Tensor) -> dict[str, Attend]:
    """Temporal attention on (U, L, 3, H, Dh), to (U, L, H, Dh)."""

    def reference(qkv: Tensor) -> Tensor:
        return temporal_attention_reference(qkv, cos, sin)

    turn = torch.complex(cos, sin)

    def varlen(qkv: Tensor) -> Tensor:
        """FlashAttention over one sequence a unit, with the rotations as separate passes."""
        from torch.nn.attention.varlen import varlen_attn

        n_units, n_patches = qkv.shape[:2]
        rotated = rotate_pairs(qkv, turn[:, None, None])
        query, key, value = rotated.flatten(0, 1).unbind(1)
        cu = torch.arange(0, n_units * n_patches + 1, n_patches, device=qkv.device, dtype=torch.int32)
        out = varlen_attn(query, key, value, cu, cu, n_patches, n_patches)
        return rotate_pairs(out.unflatten(0, (n_units, n_patches)), turn.conj()[:, None])

    peers: dict[str, Attend] = {"rotary + SDPA": reference}
    if cos.is_cuda:
        peers["rotary + FlashAttention varlen"] = varlen
        peers["torch.compile(rotary + SDPA)"] = torch.compile(_split_rotary(cos, sin))
    return peers


def _split_rotary(cos: Tensor, sin: Tensor) -> Attend:
    """The reference without complex numbers, which the compiler does not fuse."""

    def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
        return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2).to(x.dtype)

    def run(qkv: Tensor) -> Tensor:
        query, key, value = rotate(qkv, cos[:, None, None], sin[:, None, None]).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(query, key, value).transpose(1, 2)
        return rotate(out, cos[:, None], -sin[:, None])

    return run


Loss = Callable[[Tensor, Tensor], Tensor]


def loss_peers(sizes: Sequence[int], partner: Tensor, tau: float, widest: int) -> dict[str, Loss]:
    """Numerator plus denominator, summed over samples, of two views of equal sizes.

    Args:
        sizes: Units of each sample, in both views.
        partner: (U,) int64.
        tau: Temperature between views.
        widest: Largest sample whose whole logits are formed.
    """
    bounds = offsets_of(sizes).tolist()

    def whole(p1: Tensor, p2: Tensor) -> Tensor:
        return torch.cat(contrastive_loss_reference(p1, p2, bounds, bounds, partner, tau=tau)).sum()

    def chunk(query: Tensor, own: Tensor, other: Tensor, rows: Tensor, match: Tensor) -> Tensor:
        wide = torch.promote_types(query.dtype, torch.float32)
        cross = (query @ other.T).to(wide) / tau
        self_ = (query @ own.T).to(wide)
        numerator = (1 / tau - cross.gather(1, match[:, None])).sum()
        logits = torch.cat(
            (cross.scatter(1, match[:, None], -math.inf), self_.scatter(1, rows[:, None], -math.inf)), 1
        )
        return numerator / 2 + logits.logsumexp(1).sum() / 2

    def chunked(p1: Tensor, p2: Tensor) -> Tensor:
        """2,048 rows at a time, formed again in the backward pass (checkpointing): bounded memory."""
        from torch.utils.checkpoint import checkpoint

        total = p1.new_zeros((), dtype=torch.promote_types(p1.dtype, torch.float32))
        inverse = torch.empty_like(partner)
        inverse[partner] = torch.arange(len(partner), device=partner.device)
        for start, stop in pairwise(bounds):
            n = stop - start
            terms = torch.zeros_like(total)
            for own, other, match in ((p1, p2, partner), (p2, p1, inverse)):
                for first in range(start, stop, 2048):
                    last = min(first + 2048, stop)
                    rows = torch.arange(first - start, last - start, device=p1.device)
                    piece = checkpoint(
                        chunk,
                        own[first:last],
                        own[start:stop],
                        other[start:stop],
                        rows,
                        match[first:last] - start,
                        use_reentrant=False,
                    )
                    terms = terms + piece
            total = total + terms / n - math.log(2 * n)
        return total

    peers: dict[str, Loss] = {"chunked torch": chunked}
    if max(sizes) <= widest:
        peers["torch, whole logits"] = whole
    return peers
