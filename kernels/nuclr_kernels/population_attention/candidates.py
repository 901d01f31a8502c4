"""Tiles worth timing on a GPU. The tables hold one choice each; only a clock can tell which is best.

All of them pass the compile check for their capability: `compile_cases.tile_cases` lists what to compile.
"""

from __future__ import annotations

from itertools import product

from nuclr_kernels.population_attention.tiles import FORWARD, KEY_GRADIENT, QUERY_GRADIENT, launchable_tiles
from nuclr_kernels.tile_tables import TileConfig

_Row = tuple[int, int, int, int]
"""Queries and keys of a tile, warps, stages."""

_POINTERS: dict[tuple[str, bool], tuple[_Row, ...]] = {
    (FORWARD, False): (
        (64, 64, 4, 2),
        (64, 64, 4, 3),
        (128, 64, 4, 3),
        (128, 64, 8, 2),
        (128, 64, 8, 3),
        (128, 128, 8, 2),
    ),
    (FORWARD, True): ((64, 64, 4, 2), (128, 32, 8, 3), (128, 64, 8, 2), (128, 64, 8, 3)),
    (QUERY_GRADIENT, False): (
        (64, 64, 4, 2),
        (64, 64, 4, 3),
        (128, 64, 8, 2),
        (128, 64, 8, 3),
        (128, 128, 8, 2),
    ),
    (QUERY_GRADIENT, True): ((64, 32, 4, 2), (64, 64, 4, 2), (64, 64, 8, 2), (128, 64, 8, 2)),
    (KEY_GRADIENT, False): (
        (32, 64, 4, 2),
        (64, 64, 8, 2),
        (32, 128, 8, 3),
        (64, 128, 8, 2),
        (64, 128, 8, 3),
    ),
    (KEY_GRADIENT, True): ((32, 64, 8, 2), (32, 64, 8, 3)),
}
"""Of Hopper, 16 bit, by operation and whether heads are 128 wide. Descriptors take the same."""

_SPECIALIZED: dict[tuple[str, bool], tuple[_Row, ...]] = {
    (FORWARD, False): ((128, 64, 4, 2), (128, 64, 4, 3), (128, 128, 4, 2)),
    (FORWARD, True): ((128, 64, 4, 2), (128, 64, 4, 3), (128, 128, 4, 2)),
    (KEY_GRADIENT, False): ((32, 128, 4, 2), (64, 128, 4, 2)),
    (KEY_GRADIENT, True): ((32, 128, 4, 2),),
}
"""The same with specialised warps, which take four."""


def candidates(operation: str, capability: tuple[int, int], bits: int, head_width: int) -> list[TileConfig]:
    """Rows to time for a table, those in use first.

    Args:
        operation: Name of the table.
        capability: Of the GPU.
        bits: Width of the operands' dtype, 16 or 32.
        head_width: Dh.

    Returns:
        Rows for that capability and width and for populations of any size. On GPUs other than Hopper's, and
        for float32, they are those in use.
    """
    found = launchable_tiles(operation, capability, bits, head_width)
    if capability[0] != 9 or bits != 16:
        return found
    wide = head_width == 128
    atomic = (0, 1) if operation == KEY_GRADIENT else (0,)
    choices = [
        (row, {"descriptors": described, "warp_specialize": 0, "atomic": adds})
        for row, described, adds in product(_POINTERS[operation, wide], (0, 1), atomic)
    ]
    choices += [
        (row, {"descriptors": 1, "warp_specialize": 1, "atomic": 0})
        for row in _SPECIALIZED.get((operation, wide), ())
    ]
    for (block_q, block_k, num_warps, num_stages), flags in choices:
        constants = {"block_q": block_q, "block_k": block_k, **flags}
        found.append(TileConfig(capability, bits, head_width, None, constants, num_warps, num_stages))
    return found
