"""Public entry of population attention: checks, then the implementation for the device."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nuclr_kernels._offsets import check_qkv, population_bounds
from nuclr_kernels.dispatch import runs_fused
from nuclr_kernels.population_attention.cpu import population_attention_cpu
from nuclr_kernels.population_attention.ops import fused_attention, fused_attention_split
from nuclr_kernels.population_attention.plan import PopulationPlan, plan_of_bounds
from nuclr_kernels.population_attention.reference import population_attention_reference
from nuclr_kernels.population_attention.tiles import HEAD_WIDTHS

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def population_attention(
    qkv: Tensor | tuple[Tensor, Tensor, Tensor],
    cu_seqlens: Tensor | None = None,
    *,
    scale: float | None = None,
    deterministic: bool | None = None,
    plan: PopulationPlan | None = None,
) -> Tensor:
    """Let every unit attend to the units of its own population at the same patch.

    There are no positions: permuting the units of a population permutes the output in the same way.

    On a GPU a fused kernel reads the projection where it lies, and the backward pass writes one gradient in
    the same layout. It takes float32, float16 and bfloat16, head widths 16, 32, 64 and 128 and any strides
    whose last is 1 (else `qkv` is copied first). float32 is multiplied as such unless
    ``torch.backends.cuda.matmul.allow_tf32`` is set. Under autocast it computes in autocast's dtype.

    Args:
        qkv: (U, L, 3, H, Dh) float, query, key and value of every unit and patch; any strides. Or the three
            by themselves, (U, L, H, Dh) each.
        cu_seqlens: (B+1,) int32 (int64 is taken too), offsets of the populations along the unit axis, ending
            at U. Empty populations are allowed. On a GPU the values have to be fetched at every call: make a
            plan, once a batch.
        scale: Factor on the scores; default ``Dh ** -0.5``.
        deterministic: Same inputs, same gradients to the bit, on the same GPU. Default: what
            ``torch.use_deterministic_algorithms`` says.
        plan: From `make_population_plan`, instead of `cu_seqlens`; if both are given only their lengths are
            compared.

    Returns:
        (U, L, H, Dh), same dtype and device as `qkv`.

    Raises:
        ValueError: An argument has the wrong shape, dtype or values; the message names it.
    """
    if isinstance(qkv, Tensor):
        check_qkv(qkv)
        like = qkv
    else:
        like = _check_parts(qkv)
    n_units, n_patches = like.shape[:2]
    n_heads, head_width = like.shape[-2:]
    if scale is None:
        scale = head_width**-0.5
    elif not math.isfinite(scale):
        raise ValueError(f"scale must be a finite number; got {scale}")
    if plan is not None:
        _check_plan(plan, cu_seqlens, n_units, like.device)
    elif cu_seqlens is None:
        raise ValueError("population_attention takes either cu_seqlens or a plan")
    else:
        plan = plan_of_bounds(population_bounds(cu_seqlens, n_units, "cu_seqlens"), like.device)
    if not plan.fused and _suits_cpu(like):
        return population_attention_cpu(qkv, plan.bounds, scale=scale)
    refusal = _refusal(like, scale)
    fused = plan.fused and (refusal is None or runs_fused("population_attention", like.device, refusal))
    if not fused or 0 in (n_units, n_patches, n_heads):
        return population_attention_reference(qkv, plan.bounds, scale=scale)

    if deterministic is None:
        deterministic = torch.are_deterministic_algorithms_enabled()
    options = (plan.tiles, len(plan.cu_seqlens) - 1, plan.max_size, float(scale), deterministic)
    out: Tensor
    if isinstance(qkv, Tensor):
        out, _ = fused_attention(_autocast(qkv), *options)
    else:
        query, key, value = (_autocast(part) for part in qkv)
        out, _ = fused_attention_split(query, key, value, *options)
    return out


def _check_parts(qkv: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Return the query, whose shape, dtype and device key and value share."""
    if len(qkv) != 3 or not all(isinstance(part, Tensor) for part in qkv):
        raise ValueError("qkv must be a tensor or three of them: query, key, value")
    query, key, value = qkv
    if query.ndim != 4 or not query.is_floating_point():
        raise ValueError(
            "query must be a floating point tensor (units, patches, heads, head width); "
            f"got {tuple(query.shape)}, {query.dtype}"
        )
    for name, part in (("key", key), ("value", value)):
        if part.shape != query.shape or part.dtype != query.dtype or part.device != query.device:
            raise ValueError(
                f"{name} must be like query, {tuple(query.shape)} {query.dtype} on {query.device}; "
                f"got {tuple(part.shape)} {part.dtype} on {part.device}"
            )
    return query


def _check_plan(plan: PopulationPlan, cu_seqlens: Tensor | None, n_units: int, device: torch.device) -> None:
    if plan.n_units != n_units:
        raise ValueError(f"plan is for {plan.n_units} units; qkv has {n_units}")
    if plan.cu_seqlens.device != device:
        raise ValueError(f"plan was made for {plan.cu_seqlens.device}; qkv is on {device}")
    if cu_seqlens is not None and cu_seqlens.shape != plan.cu_seqlens.shape:
        raise ValueError(
            f"cu_seqlens must be the plan's, of shape {tuple(plan.cu_seqlens.shape)}; "
            f"got {tuple(cu_seqlens.shape)}"
        )


def _refusal(like: Tensor, scale: float) -> str | None:
    """Why the kernels cannot take these arguments."""
    if like.dtype not in _DTYPES:
        return f"it takes float32, float16 and bfloat16, not {like.dtype}"
    if like.shape[-1] not in HEAD_WIDTHS:
        return f"it takes head widths {', '.join(map(str, HEAD_WIDTHS))}, not {like.shape[-1]}"
    return None if scale > 0 else f"it takes positive scales, not {scale}"


def _suits_cpu(like: Tensor) -> bool:
    """A CPU works on it at once; a program that is being compiled has its own ways to save copies."""
    return like.is_cpu and like.numel() > 0 and not torch.compiler.is_compiling()


def _autocast(x: Tensor) -> Tensor:
    """What scaled_dot_product_attention would do, which the reference calls."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x
