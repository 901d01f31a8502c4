"""Every variant of the population kernels that can be launched on a GPU, for the compile check."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nuclr_kernels.ahead_of_time import CompileCase
from nuclr_kernels.population_attention.launch import DELTA_WARPS, kernel_constants, kernel_warps
from nuclr_kernels.population_attention.tiles import (
    FORWARD,
    HEAD_WIDTHS,
    KEY_GRADIENT,
    OPERATIONS,
    QUERY_GRADIENT,
    launchable_tiles,
)
from nuclr_kernels.tile_tables import TileConfig

_BITS = {"fp32": 32, "fp16": 16, "bf16": 16}
_ROW_TENSORS = ("lse_ptr", "delta_ptr")


def compile_cases(capability: tuple[int, int]) -> Iterator[CompileCase]:
    """Cases for a GPU of `capability`: kernels x rows of the tile tables x dtypes x head widths x options."""
    for operation in OPERATIONS:
        for dtype in _BITS:
            for head_width in HEAD_WIDTHS:
                for tile in launchable_tiles(operation, capability, _BITS[dtype], head_width):
                    yield from tile_cases(operation, tile, capability, dtype, head_width)


def tile_cases(
    operation: str, tile: TileConfig, capability: tuple[int, int], dtype: str, head_width: int
) -> Iterator[CompileCase]:
    """What one row of a table can be launched as.

    Args:
        operation: Name of the table.
        tile: Row of it.
        capability: Of the GPU.
        dtype: ``fp32``, ``fp16`` or ``bf16``.
        head_width: Dh.
    """
    from nuclr_kernels.population_attention.backward_kernel import (
        population_delta,
        population_query_gradient,
    )
    from nuclr_kernels.population_attention.forward_kernel import population_forward
    from nuclr_kernels.population_attention.key_gradient_kernel import population_key_gradient

    kernel: Any = {
        FORWARD: population_forward,
        QUERY_GRADIENT: population_query_gradient,
        KEY_GRADIENT: population_key_gradient,
    }[operation]
    atomic = (False, True) if tile.constants.get("atomic", 0) else (False,)
    described = (True, False) if tile.constants.get("descriptors", 0) else (False,)
    orders = (False, True) if tile.largest is None else (False,)
    for descriptors in described:
        for precision in ("ieee", "tf32") if dtype == "fp32" else ("ieee",):
            for adds in atomic:
                for tile_fastest in orders:
                    constants = kernel_constants(
                        operation,
                        tile,
                        head_width,
                        tile_fastest=tile_fastest,
                        descriptors=descriptors,
                        precision=precision,
                        wide=dtype == "fp32",
                        upcast=False,
                        atomic=adds,
                    )
                    options = [
                        name
                        for name, on in (
                            ("descriptors", descriptors),
                            ("atomic", adds),
                            ("tile fastest", tile_fastest),
                        )
                        if on
                    ]
                    label = " ".join([f"{constants['BLOCK_Q']}x{constants['BLOCK_K']}", precision, *options])
                    yield _case(
                        f"{operation} {dtype} width {head_width} {label}",
                        kernel,
                        dtype,
                        constants,
                        kernel_warps(tile, constants),
                        tile.num_stages,
                        capability,
                    )
    if operation == QUERY_GRADIENT:
        constants = {"HEAD_WIDTH": head_width, "BLOCK": tile.constants["block_q"]}
        name = f"population_delta {dtype} width {head_width} {constants['BLOCK']}"
        yield _case(name, population_delta, dtype, constants, DELTA_WARPS, 1, capability)


def _case(
    name: str,
    kernel: Any,
    dtype: str,
    constants: dict[str, Any],
    num_warps: int,
    num_stages: int,
    capability: tuple[int, int],
) -> CompileCase:
    names = [argument for argument in kernel.arg_names if argument not in constants]
    return CompileCase(
        name=name,
        kernel=kernel,
        types={argument: _type(argument, dtype, constants) for argument in names},
        constants=constants,
        num_warps=num_warps,
        num_stages=num_stages,
        capability=capability,
        unaligned=frozenset({"tiles_ptr"}),
        multiples_of_16=frozenset(argument for argument in names if "stride" in argument),
    )


def _type(argument: str, dtype: str, constants: dict[str, Any]) -> str:
    if argument == "tiles_ptr":
        return "*i32"
    if argument in _ROW_TENSORS or (argument == "dq_ptr" and "ATOMIC" in constants):
        return "*fp32"
    if argument.endswith("_ptr"):
        return f"*{dtype}"
    return "fp32" if argument.startswith("scale") else "i32"
