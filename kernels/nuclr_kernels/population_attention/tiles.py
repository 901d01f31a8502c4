"""Which tiles the population kernels use, shared by the plan, the launches and the compile check."""

from __future__ import annotations

from functools import cache

from nuclr_kernels.tile_tables import TileConfig, tile_config, tile_table

FORWARD = "population_forward"
QUERY_GRADIENT = "population_query_gradient"
KEY_GRADIENT = "population_key_gradient"
OPERATIONS = (FORWARD, QUERY_GRADIENT, KEY_GRADIENT)
HEAD_WIDTHS = (16, 32, 64, 128)
MANY_UNITS = 2048
"""Above this size keys and values of all heads of a population no longer fit the L2 cache together."""

_LARGEST_SIZE = 2**31 - 1


def owned_block(operation: str, tile: TileConfig) -> int:
    """Units that one program of `operation` owns: queries, or keys and values for their gradients."""
    return tile.constants["block_k" if operation == KEY_GRADIENT else "block_q"]


def launchable_tiles(
    operation: str, capability: tuple[int, int], bits: int, head_width: int
) -> list[TileConfig]:
    """Rows of a table that some size of population is launched with; none on a GPU that is too old."""
    limits = [row.largest for row in tile_table(operation) if row.largest is not None]
    tiles: list[TileConfig] = []
    for size in sorted({1, _LARGEST_SIZE, *limits, *(limit + 1 for limit in limits)}):
        try:
            tile = tile_config(operation, capability, bits, head_width, size)
        except LookupError:
            continue
        if tile not in tiles:
            tiles.append(tile)
    return tiles


@cache
def tile_blocks(capability: tuple[int, int]) -> tuple[int, ...]:
    """Block sizes that launches on a GPU may ask the plan for, ascending."""
    return tuple(
        sorted(
            {
                owned_block(operation, tile)
                for operation in OPERATIONS
                for bits in (16, 32)
                for head_width in HEAD_WIDTHS
                for tile in launchable_tiles(operation, capability, bits, head_width)
            }
        )
    )


def tile_range(capability: tuple[int, int], block: int, n_units: int, n_populations: int) -> tuple[int, int]:
    """Where in `PopulationPlan.tiles` the tiles of a block size start and stop.

    Raises:
        LookupError: No such block size in the plan.
    """
    start = 0
    for size in tile_blocks(capability):
        count = n_units // size + n_populations
        if size == block:
            return start, start + count
        start += count
    raise LookupError(f"plans for capability {capability} hold no tiles of {block} units")
