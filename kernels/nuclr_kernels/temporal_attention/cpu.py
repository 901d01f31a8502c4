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
        qkv.is_cpu
        and not torch.compiler.is_compiling()
        and qkv.dtype == cos.dtype
        and not (cos.requires_grad or sin.requires_grad)
        and not torch.is_autocast_enabled("cpu")
        and qkv.storage_offset() % 2 == 0
        and qkv.numel() > 0
    )


def temporal_attention_cpu(qkv: Tensor, cos: Tensor, sin: Tensor, *, scale: float | None = None) -> Tensor:
    """Attend along patches, values rotated; arguments as `temporal_attention`, if they are suited."""
    there, back = _factors(cos, sin)
    recorded = qkv.requires_grad and torch.is_grad_enabled()
    if recorded and qkv.numel() > FEW_NUMBERS:
        query, key, value = _Turned.apply(qkv, there)  # type: ignore[no-untyped-call]
    else:
        query, key, value = _turned(qkv, there)
    attended = scaled_dot_product_attention(query, key, value, scale=scale).transpose(1, 2)
    pairs = _pairs(attended)
    return _reals(pairs * back if recorded else pairs.mul_(back))


_Known = tuple[Tensor, Tensor, Tensor, Tensor]
_known: _Known | None = None


def _factors(cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """(L, 1, 1, Dh/2) complex that turn, and (L, 1, Dh/2) that turn back.

    The last ones are kept, with copies of their tables: the layers of a model use the same, and for few units
    making the factors takes a fifth of a call. Comparing takes less, and notices every change.
    """
    global _known  # replaced as a whole, so threads see either the old or the new one
    if _known is not None:
        kept_cos, kept_sin, there, back = _known
        if kept_cos.dtype is cos.dtype and torch.equal(kept_cos, cos) and torch.equal(kept_sin, sin):
            return there, back
    there, back = _new_factors(cos, sin)
    if not there.is_inference():  # a tensor of inference mode cannot be used in training
        _known = cos.detach().clone(), sin.detach().clone(), there, back
    return there, back


def _new_factors(cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    turn = torch.complex(cos, sin)
    return turn[:, None, None], turn.conj().resolve_conj()[:, None]


def _pairs(x: Tensor) -> Tensor:
    """(..., Dh) real as (..., Dh/2) complex numbers, where they lie if they lie in pairs."""
    if not x.is_contiguous() and (x.stride(-1) != 1 or any(step % 2 for step in x.stride()[:-1])):
        x = x.contiguous()
    return torch.view_as_complex(x.view(*x.shape[:-1], -1, 2))


def _reals(x: Tensor) -> Tensor:
    """(..., Dh/2) complex numbers as (..., Dh) real."""
    return torch.view_as_real(x).flatten(-2)


def _turned(qkv: Tensor, there: Tensor) -> tuple[Tensor, ...]:
    """(U, L, 3, H, Dh), and (L, 1, 1, Dh/2) complex, to query, key and value, (U, H, L, Dh) each."""
    return _reals(_pairs(qkv) * there).permute(2, 0, 3, 1, 4).unbind(0)


class _Turned(torch.autograd.Function):
    """`_turned`, whose backward pass turns back into one tensor."""

    @staticmethod
    def forward(qkv: Tensor, there: Tensor) -> tuple[Tensor, ...]:
        return _turned(qkv, there)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, ...]) -> None:
        qkv, there = inputs
        ctx.save_for_backward(there)
        ctx.shape = qkv.shape

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (there,) = ctx.saved_tensors
        gathered, back = gradients[0].new_empty(ctx.shape), there[:, 0, 0].conj().resolve_conj()
        places = _pairs(gathered).permute(2, 0, 3, 1, 4).unbind(0)
        for place, gradient in zip(places, gradients, strict=True):
            torch.mul(_pairs(gradient), back, out=place)
        return gathered, None
