"""Temporal attention on a CPU: the reference's complex products, with fewer passes over memory.

The backward pass turns the gradients of query, key and value straight into one tensor, where autograd stacks
them first; without gradient the output is turned back where it lies.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention

FEW_NUMBERS = 1 << 18
"""Of the projection, up to which autograd's extra pass costs less than another node."""


def suits_cpu(qkv: Tensor, cos: Tensor, sin: Tensor) -> bool:
    """Whether `temporal_attention_cpu` takes them; if not, the reference does.

    Not for a program that is being compiled: it cannot ask how a tensor lies in memory.
    """
    return (
        qkv.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and qkv.dtype == cos.dtype
        and not (cos.requires_grad or sin.requires_grad)
        and not torch.is_autocast_enabled("cpu")
        and qkv.storage_offset() % 2 == 0
        and qkv.numel() > 0
    )


def temporal_attention_cpu(qkv: Tensor, cos: Tensor, sin: Tensor, *, scale: float | None = None) -> Tensor:
    """Attend along patches, values rotated; arguments as `temporal_attention`, if they are suited."""
    turn = torch.complex(cos, sin)
    recorded = torch.is_grad_enabled() and qkv.requires_grad
    if recorded and qkv.numel() > FEW_NUMBERS:
        query, key, value = _Turned.apply(qkv, turn)  # type: ignore[no-untyped-call]
    else:
        query, key, value = _turned(qkv, turn)
    attended = scaled_dot_product_attention(query, key, value, scale=scale).transpose(1, 2)
    pairs, back = _pairs(attended), turn.conj()[:, None]
    return _reals(pairs * back if recorded else pairs.mul_(back))


def _pairs(x: Tensor) -> Tensor:
    """(..., Dh) real as (..., Dh/2) complex numbers, where they lie if they lie in pairs."""
    if x.stride(-1) != 1 or any(step % 2 for step in x.stride()[:-1]):
        x = x.contiguous()
    return torch.view_as_complex(x.view(*x.shape[:-1], -1, 2))


def _reals(x: Tensor) -> Tensor:
    """(..., Dh/2) complex numbers as (..., Dh) real."""
    return torch.view_as_real(x).flatten(-2)


def _turned(qkv: Tensor, turn: Tensor) -> tuple[Tensor, ...]:
    """(U, L, 3, H, Dh), and (L, Dh/2) complex, to query, key and value, (U, H, L, Dh) each."""
    return _reals(_pairs(qkv) * turn[:, None, None]).permute(2, 0, 3, 1, 4).unbind(0)


class _Turned(torch.autograd.Function):
    """`_turned`, whose backward pass turns back into one tensor."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, turn: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(turn)
        ctx.shape = qkv.shape
        return _turned(qkv, turn)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (turn,) = ctx.saved_tensors
        gathered, back = gradients[0].new_empty(ctx.shape), turn.conj().resolve_conj()
        places = _pairs(gathered).permute(2, 0, 3, 1, 4).unbind(0)
        for place, gradient in zip(places, gradients, strict=True):
            torch.mul(_pairs(gradient), back, out=place)
        return gathered, None
