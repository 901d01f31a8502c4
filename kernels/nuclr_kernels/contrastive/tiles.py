"""Which tiles the kernels of the contrastive loss use, shared by the launches and the compile check."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from nuclr_kernels.tile_tables import TileConfig, tile_config

FORWARD = "contrastive_forward"
BACKWARD = "contrastive_backward"
WIDTH_BOUNDS = (16, 32, 64, 128, 256, 512)
"""Embedding widths up to which tiles are chosen; rows of the tables name no others."""
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
FINISH_BLOCK = 128


def choose_tile(operation: str, capability: tuple[int, int], dtype: torch.dtype, width: int) -> TileConfig:
    """The tile of a call; the problem size that tables go by is the embedding width.

    Raises:
        LookupError: No tile fits on that GPU.
    """
    return tile_config(operation, capability, 8 * dtype.itemsize, 0, width)


def kernel_constants(
    operation: str,
    tile: TileConfig,
    dtype: torch.dtype,
    width: int,
    dcl: bool,
    full_denom: bool,
    precision: str,
    upcast: bool,
) -> Mapping[str, object]:
    """Compile-time arguments of the forward or backward kernel.

    Args:
        operation: FORWARD or BACKWARD.
        tile: The tile.
        dtype: Of the embeddings.
        width: Embedding width.
        dcl, full_denom: As `contrastive_loss`.
        precision: ``ieee`` or ``tf32``, of float32 products.
        upcast: Widen operands, for the interpreter.
    """
    spanning = max(16, 1 << (width - 1).bit_length())
    constants: dict[str, object] = {
        "WIDTH": width,
        "DCL": dcl,
        "FULL_DENOM": full_denom,
        "BLOCK_M": tile.constants["block_m"],
        "BLOCK_N": tile.constants["block_n"],
        "BLOCK_K": min(spanning, tile.constants["block_k"]),
        "PRECISION": precision,
        "UPCAST": upcast,
    }
    if operation == BACKWARD:
        constants["BLOCK_D"] = min(spanning, tile.constants["block_d"])
        constants["BOOST"] = 2.0**14 if dtype is torch.float16 else 1.0
    return constants


def refusal(dtype: torch.dtype, width_bound: int, capability: tuple[int, int]) -> str | None:
    """Why there is no kernel for such embeddings on such a GPU; None if there is.

    Args:
        dtype: Of the embeddings.
        width_bound: First of WIDTH_BOUNDS that the width does not exceed, 0 if it exceeds all.
        capability: Of the GPU.
    """
    if dtype not in DTYPES:
        return f"there is no kernel for {dtype}"
    if not width_bound:
        return f"kernels take embeddings of width 1 to {WIDTH_BOUNDS[-1]}"
    try:
        for operation in (FORWARD, BACKWARD):
            choose_tile(operation, capability, dtype, width_bound)
    except LookupError as error:
        return str(error)
    return None
