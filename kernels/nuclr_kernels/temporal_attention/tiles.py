"""Which tiles the kernels of temporal attention use, shared by the launches and the compile check."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from nuclr_kernels.tile_tables import TileConfig, tile_config

FORWARD = "temporal_forward"
BACKWARD = "temporal_backward"
HEAD_WIDTHS = (16, 32, 64, 128)
PATCH_BOUNDS = (16, 32, 64, 128)
"""Numbers of patches up to which tiles are chosen; rows of the tables name no others."""
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def choose_tile(
    operation: str, capability: tuple[int, int], dtype: torch.dtype, head_dim: int, n_patches: int
) -> TileConfig:
    """The tile of a call; the problem size that tables go by is the number of patches.

    Raises:
        LookupError: No tile fits on that GPU.
    """
    return tile_config(operation, capability, 8 * dtype.itemsize, head_dim, n_patches)


def units_per_tile(tile: TileConfig, n_patches: int) -> int:
    """Whole units that fit into the rows of a tile."""
    return tile.constants["rows"] // n_patches


def kernel_constants(
    tile: TileConfig, head_dim: int, n_patches: int, rotate_value: bool, precision: str, upcast: bool
) -> Mapping[str, object]:
    """Compile-time arguments of a kernel, forward and backward alike.

    Args:
        tile: The tile.
        head_dim: Head width.
        n_patches: Patches of a unit; decides only whether units share a tile.
        rotate_value: Rotate values, and the output back.
        precision: ``ieee`` or ``tf32``, of float32 products. A tile with the constant ``tf32`` 0 keeps to
            ``ieee``, since tensor cores would take more registers than there are.
        upcast: Widen operands, for the interpreter.

    A tile with the constant ``guard`` 1 keeps units apart even where it holds one: that variant happens to
    need fewer registers.
    """
    return {
        "WIDTH": head_dim,
        "ROWS": tile.constants["rows"],
        "QUERY_ROWS": tile.constants["query_rows"],
        "ROTATE_VALUE": rotate_value,
        "SHARED_TILE": units_per_tile(tile, n_patches) > 1 or tile.constants.get("guard") == 1,
        "PRECISION": precision if tile.constants.get("tf32") != 0 else "ieee",
        "UPCAST": upcast,
    }


def first_reaching(bounds: tuple[int, ...], number: int) -> int:
    """The first of ascending `bounds` that is not below `number`; 0 if all are.

    Returns one of a few constants, also where `torch.compile` keeps `number` symbolic.
    """
    return next((bound for bound in bounds if number <= bound), 0)


def refusal(dtype: torch.dtype, head_dim: int, patch_bound: int, capability: tuple[int, int]) -> str | None:
    """Why there is no kernel for such tensors on such a GPU; None if there is.

    Args:
        dtype: Of `qkv`.
        head_dim: Head width, 0 where it is none of HEAD_WIDTHS.
        patch_bound: First of PATCH_BOUNDS that the number of patches does not exceed, 0 if it exceeds all.
        capability: Of the GPU.
    """
    if dtype not in DTYPES:
        return f"there is no kernel for {dtype}"
    if not head_dim:
        return f"kernels take a head width of {', '.join(map(str, HEAD_WIDTHS))}"
    if not patch_bound:
        return f"kernels take up to {PATCH_BOUNDS[-1]} patches"
    try:
        for operation in (FORWARD, BACKWARD):
            choose_tile(operation, capability, dtype, head_dim, patch_bound)
    except LookupError as error:
        return str(error)
    return None
