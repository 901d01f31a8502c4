"""Every variant of the contrastive kernels that can be launched on a GPU, for the compile check.

Embedding widths are compile-time constants and could be any up to 512: the powers of two stand for them, and
96 the widths that are none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from nuclr_kernels.ahead_of_time import CompileCase
from nuclr_kernels.contrastive.tiles import (
    BACKWARD,
    DTYPES,
    FINISH_BLOCK,
    FORWARD,
    WIDTH_BOUNDS,
    choose_tile,
    kernel_constants,
    refusal,
)

WIDTHS = (16, 64, 96, 128, 256, 512)
_SHORT = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
_TYPES = {
    **dict.fromkeys(("samples", "partner"), "*i32"),
    **dict.fromkeys(("lse", "partial", "shift"), "*fp32"),
    **dict.fromkeys(("numerator", "denominator", "dnumerator", "ddenominator"), "*fp32"),
    **dict.fromkeys(("tiles", "n_tiles", "n_samples"), "i32"),
    **dict.fromkeys(("other_factor", "own_factor", "inverse_tau", "inverse_self_tau"), "fp32"),
}


def compile_cases(capability: tuple[int, int]) -> Iterator[CompileCase]:
    """Cases for a GPU of `capability`: kernels x dtypes x widths x options."""
    from nuclr_kernels.contrastive.backward_kernel import contrastive_backward
    from nuclr_kernels.contrastive.forward_kernel import contrastive_finish, contrastive_forward

    blocks = set()
    for operation, kernel in ((FORWARD, contrastive_forward), (BACKWARD, contrastive_backward)):
        for dtype in DTYPES:
            for width in WIDTHS:
                bound = next(bound for bound in WIDTH_BOUNDS if width <= bound)
                if refusal(dtype, bound, capability):
                    continue
                yield from _cases(operation, kernel, capability, dtype, width)
                if operation == FORWARD:
                    blocks.add(choose_tile(FORWARD, capability, dtype, width).constants["block_m"])
    for block in sorted(blocks):
        constants = {"BLOCK_M": block, "BLOCK": FINISH_BLOCK}
        yield _case(f"contrastive_finish {block} rows", contrastive_finish, capability, constants, 1, 3)


def _cases(
    operation: str, kernel: Any, capability: tuple[int, int], dtype: torch.dtype, width: int
) -> Iterator[CompileCase]:
    tile = choose_tile(operation, capability, dtype, width)
    for precision in ("ieee", "tf32") if dtype is torch.float32 else ("ieee",):
        # With all terms there is most to hold; the other options leave out code, and are tried once.
        options = [(True, True)]
        if width == 256 and dtype is torch.bfloat16:
            options += [(False, True), (True, False)]
        for dcl, full_denom in options:
            constants = kernel_constants(operation, tile, dtype, width, dcl, full_denom, precision, False)
            label = "" if dcl else " positives kept"
            label += "" if full_denom else " other view only"
            yield _case(
                f"{operation} {_SHORT[dtype]} width {width} {precision}{label}",
                kernel,
                capability,
                constants,
                tile.num_warps,
                tile.num_stages,
                dict.fromkeys(("p", "dp"), "*" + _SHORT[dtype]),
            )


def _case(
    name: str,
    kernel: Any,
    capability: tuple[int, int],
    constants: Any,
    num_warps: int,
    num_stages: int,
    types: dict[str, str] | None = None,
) -> CompileCase:
    known = _TYPES | (types or {})
    return CompileCase(
        name=name,
        kernel=kernel,
        types={name: known[name] for name in kernel.arg_names if name not in constants},
        constants=constants,
        num_warps=num_warps,
        num_stages=num_stages,
        capability=capability,
    )
