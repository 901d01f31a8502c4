"""Every variant of the temporal kernels that can be launched on a GPU, for the compile check."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from nuclr_kernels.ahead_of_time import CompileCase
from nuclr_kernels.temporal_attention.tiles import (
    BACKWARD,
    DTYPES,
    FORWARD,
    HEAD_WIDTHS,
    PATCH_BOUNDS,
    choose_tile,
    first_reaching,
    kernel_constants,
    refusal,
)

_SHORT = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
_FLOATS = {"factor", "scale"}
_TABLES = {"cos", "sin"}
_TENSORS = {"qkv", "out", "dout", "dqkv"}


def compile_cases(capability: tuple[int, int]) -> Iterator[CompileCase]:
    """Cases for a GPU of `capability`: operations x tiles x dtypes x head widths x options."""
    from nuclr_kernels.temporal_attention.backward_kernel import temporal_backward
    from nuclr_kernels.temporal_attention.forward_kernel import temporal_forward

    for operation, kernel in ((FORWARD, temporal_forward), (BACKWARD, temporal_backward)):
        for dtype in DTYPES:
            for head_dim in HEAD_WIDTHS:
                yield from _cases(operation, kernel, capability, dtype, head_dim)


def _cases(
    operation: str, kernel: Any, capability: tuple[int, int], dtype: torch.dtype, head_dim: int
) -> Iterator[CompileCase]:
    seen = set()
    for n_patches in range(1, PATCH_BOUNDS[-1] + 1):
        if refusal(dtype, head_dim, first_reaching(PATCH_BOUNDS, n_patches), capability):
            continue
        tile = choose_tile(operation, capability, dtype, head_dim, n_patches)
        for precision in ("ieee", "tf32") if dtype is torch.float32 else ("ieee",):
            # Values that are not rotated leave out code; that is tried once.
            once = dtype is torch.bfloat16 and head_dim == 64
            for rotate_value in (True, False) if once else (True,):
                constants = kernel_constants(tile, head_dim, n_patches, rotate_value, precision, False)
                key = tuple(constants.values())
                if key in seen:
                    continue
                seen.add(key)
                label = f"{constants['ROWS']}x{constants['QUERY_ROWS']} {constants['PRECISION']}"
                label += " shared" if constants["SHARED_TILE"] else ""
                label += "" if rotate_value else " values as they are"
                names = kernel.arg_names
                yield CompileCase(
                    name=f"{operation} {_SHORT[dtype]} width {head_dim} {label}",
                    kernel=kernel,
                    types={name: _type(name, dtype) for name in names if name not in constants},
                    constants=constants,
                    num_warps=tile.num_warps,
                    num_stages=tile.num_stages,
                    capability=capability,
                    multiples_of_16=frozenset(name for name in names if "stride" in name),
                )


def _type(name: str, dtype: torch.dtype) -> str:
    if name in _TABLES:
        return "*fp32"
    if name in _TENSORS:
        return "*" + _SHORT[dtype]
    return "fp32" if name in _FLOATS else "i32"
