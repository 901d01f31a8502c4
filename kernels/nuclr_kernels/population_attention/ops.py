"""Population attention on Triton kernels as operators of PyTorch, for autograd and torch.compile."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nuclr_kernels.population_attention.launch import Launcher


@torch.library.custom_op("nuclr::population_attention", mutates_args=())
def fused_attention(
    qkv: Tensor, tiles: Tensor, n_populations: int, max_size: int, scale: float, deterministic: bool
) -> tuple[Tensor, Tensor]:
    """Forward pass on the packed projection.

    Args:
        qkv: (U, L, 3, H, Dh); copied only if the last axis is not contiguous.
        tiles: Of the `PopulationPlan`, as are `n_populations` and `max_size`.
        scale: Factor on the scores.
        deterministic: For the backward pass.

    Returns:
        (U, L, H, Dh), and logarithms for the backward pass, (L, H, U) float32.
    """
    query, key, value = _rows(qkv).unbind(2)
    return Launcher(query, key, value, tiles, n_populations, max_size, scale).forward()


@fused_attention.register_fake
def _(
    qkv: Tensor, tiles: Tensor, n_populations: int, max_size: int, scale: float, deterministic: bool
) -> tuple[Tensor, Tensor]:
    return _fake_results(qkv.select(2, 0))


@torch.library.custom_op("nuclr::population_attention_backward", mutates_args=())
def fused_attention_backward(
    grad: Tensor,
    qkv: Tensor,
    out: Tensor,
    lse: Tensor,
    tiles: Tensor,
    n_populations: int,
    max_size: int,
    scale: float,
    deterministic: bool,
) -> Tensor:
    """Gradient (U, L, 3, H, Dh) of `qkv`, contiguous."""
    gradient = torch.empty(qkv.shape, dtype=qkv.dtype, device=qkv.device)
    query, key, value = _rows(qkv).unbind(2)
    launcher = Launcher(query, key, value, tiles, n_populations, max_size, scale)
    launcher.backward(out, lse, _rows(grad), gradient.unbind(2), deterministic)
    return gradient


@fused_attention_backward.register_fake
def _(
    grad: Tensor,
    qkv: Tensor,
    out: Tensor,
    lse: Tensor,
    tiles: Tensor,
    n_populations: int,
    max_size: int,
    scale: float,
    deterministic: bool,
) -> Tensor:
    return qkv.new_empty(qkv.shape)


@torch.library.custom_op("nuclr::population_attention_split", mutates_args=())
def fused_attention_split(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tiles: Tensor,
    n_populations: int,
    max_size: int,
    scale: float,
    deterministic: bool,
) -> tuple[Tensor, Tensor]:
    """`fused_attention` on three (U, L, H, Dh) tensors."""
    launcher = Launcher(_rows(query), _rows(key), _rows(value), tiles, n_populations, max_size, scale)
    return launcher.forward()


@fused_attention_split.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tiles: Tensor,
    n_populations: int,
    max_size: int,
    scale: float,
    deterministic: bool,
) -> tuple[Tensor, Tensor]:
    return _fake_results(query)


@torch.library.custom_op("nuclr::population_attention_split_backward", mutates_args=())
def fused_attention_split_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    tiles: Tensor,
    n_populations: int,
    max_size: int,
    scale: float,
    deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients (U, L, H, Dh) of `query`, `key` and `value`, contiguous."""
    gradients = [torch.empty(query.shape, dtype=query.dtype, device=query.device) for _ in range(3)]
    launcher = Launcher(_rows(query), _rows(key), _rows(value), tiles, n_populations, max_size, scale)
    launcher.backward(out, lse, _rows(grad), gradients, deterministic)
    return gradients[0], gradients[1], gradients[2]


@fused_attention_split_backward.register_fake
def _(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    tiles: Tensor,
    n_populations: int,
    max_size: int,
    scale: float,
    deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), query.new_empty(query.shape), query.new_empty(query.shape)


def _rows(x: Tensor) -> Tensor:
    """`x`, its last axis contiguous."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _fake_results(query: Tensor) -> tuple[Tensor, Tensor]:
    n_units, n_patches, n_heads, _ = query.shape
    lse = query.new_empty((n_patches, n_heads, n_units), dtype=torch.float32)
    return query.new_empty(query.shape), lse


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, n_populations, max_size, scale, deterministic = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors[:-1], *output, tensors[-1])
    ctx.options = (n_populations, max_size, scale, deterministic)


def _backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 6
    return (fused_attention_backward(grad, *ctx.saved_tensors, *ctx.options), *(None,) * 5)


def _split_backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 8
    return (*fused_attention_split_backward(grad, *ctx.saved_tensors, *ctx.options), *(None,) * 5)


fused_attention.register_autograd(_backward, setup_context=_remember)
fused_attention_split.register_autograd(_split_backward, setup_context=_remember)
