"""How the kernels of population attention are launched: constants, tiles, grids."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nuclr_kernels.compile_options import COMPILE_OPTIONS
from nuclr_kernels.dispatch import interpreting
from nuclr_kernels.float32_precision import float32_precision
from nuclr_kernels.population_attention.tiles import (
    FORWARD,
    KEY_GRADIENT,
    MANY_UNITS,
    QUERY_GRADIENT,
    owned_block,
    tile_range,
)
from nuclr_kernels.tile_tables import TileConfig, capability_of, tile_config

LOG2_E = math.log2(math.e)
DELTA_WARPS = 4


def kernel_constants(
    operation: str,
    tile: TileConfig,
    head_width: int,
    *,
    tile_fastest: bool,
    descriptors: bool,
    precision: str,
    wide: bool,
    upcast: bool,
    atomic: bool = False,
) -> dict[str, Any]:
    """Compile-time constants of the kernel of an operation.

    Args:
        operation: Name of the tile table.
        tile: Row of it.
        head_width: Dh.
        tile_fastest: Order of the programs.
        descriptors: The tensors can be read through descriptors; they are if the row says so too.
        precision: Of products of float32: ``ieee`` or ``tf32``.
        wide: Values are float32.
        upcast: Widen operands, as Triton's interpreter needs it.
        atomic: Gradients of keys: add up those of the queries too.
    """
    descriptors = descriptors and bool(tile.constants.get("descriptors", 0))
    constants: dict[str, Any] = {
        "HEAD_WIDTH": head_width,
        "BLOCK_Q": tile.constants["block_q"],
        "BLOCK_K": tile.constants["block_k"],
        "TILE_FASTEST": tile_fastest,
        "DESCRIPTORS": descriptors,
        # Without tensor cores, and with them at this width, whole float32 rows do not fit the registers.
        "NARROW": wide and (precision == "ieee" or head_width >= 128),
        "PRECISION": precision,
        "UPCAST": upcast,
    }
    if operation != QUERY_GRADIENT:
        # Triton cannot specialise the warps of a loop that adds atomically.
        wanted = bool(tile.constants.get("warp_specialize", 0))
        constants["WARP_SPECIALIZE"] = wanted and descriptors and not atomic
    if operation == KEY_GRADIENT:
        constants["ATOMIC"] = atomic
    return constants


def kernel_warps(tile: TileConfig, constants: Mapping[str, Any]) -> int:
    """Warps of a program. Specialised ones bring more of their own; without these it takes twice as many."""
    missed = tile.constants.get("warp_specialize", 0) and not constants.get("WARP_SPECIALIZE", False)
    return 2 * tile.num_warps if missed else tile.num_warps


class Launcher:
    """Launches on one batch.

    Args:
        query, key, value: (U, L, H, Dh) float32, float16 or bfloat16, last axis contiguous.
        tiles: Of the `PopulationPlan`.
        n_populations: B.
        max_size: Units of the largest population.
        scale: Factor on the scores, positive.
    """

    def __init__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        tiles: Tensor,
        n_populations: int,
        max_size: int,
        scale: float,
    ) -> None:
        self.query, self.key, self.value = query, key, value
        self.tiles = tiles
        self.n_populations = n_populations
        self.max_size = max_size
        self.scale = scale
        self.n_units, self.n_patches, self.n_heads, self.head_width = query.shape
        # -1 leaves the current device as it is, and CUDA alone on a machine without.
        self.device_index = query.device.index if query.is_cuda else -1
        self.capability = capability_of(query.device)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Output (U, L, H, Dh) and logarithms (L, H, U) float32."""
        from nuclr_kernels.population_attention.forward_kernel import population_forward

        out = torch.empty(self.query.shape, dtype=self.query.dtype, device=self.query.device)
        lse = self._empty_rows()
        pointers = {"q_ptr": self.query, "k_ptr": self.key, "v_ptr": self.value}
        self._launch(
            population_forward,
            FORWARD,
            {**pointers, "out_ptr": out, "lse_ptr": lse, **_strides(q=self.query, k=self.key, v=self.value)},
            (self.query, self.key, self.value),
        )
        return out, lse

    def backward(
        self, out: Tensor, lse: Tensor, grad: Tensor, gradients: Sequence[Tensor], deterministic: bool
    ) -> None:
        """Write the gradients of query, key and value.

        Args:
            out, lse: Results of `forward`.
            grad: (U, L, H, Dh) gradient of `out`, last axis contiguous.
            gradients: Three (U, L, H, Dh), written; last axis contiguous.
            deterministic: Same inputs, same bits. Otherwise gradients of queries may be added up by several
                programs at once, where the tile table says so: five matrix products instead of seven.
        """
        from nuclr_kernels.population_attention.backward_kernel import (
            population_query_gradient,
        )
        from nuclr_kernels.population_attention.key_gradient_kernel import population_key_gradient

        dq, dk, dv = gradients
        delta = self._empty_rows()
        read = (self.query, self.key, self.value, grad)
        arguments = {
            "q_ptr": self.query,
            "k_ptr": self.key,
            "v_ptr": self.value,
            "grad_ptr": grad,
            "lse_ptr": lse,
            "delta_ptr": delta,
            "scale": self.scale,
            **_strides(q=self.query, k=self.key, v=self.value, grad=grad),
        }
        atomic = bool(self._tile(KEY_GRADIENT).constants.get("atomic", 0)) and not deterministic
        if atomic:
            self._delta(out, grad, delta)
            sums = torch.zeros(self.query.shape, dtype=torch.float32, device=self.query.device)
        else:
            self._launch(
                population_query_gradient,
                QUERY_GRADIENT,
                {**arguments, "out_ptr": out, "dq_ptr": dq, **_strides(dq=dq)},
                read,
            )
            sums = lse  # not touched; a kernel argument has to point somewhere
        self._launch(
            population_key_gradient,
            KEY_GRADIENT,
            {**arguments, "dq_ptr": sums, "dk_ptr": dk, "dv_ptr": dv, **_strides(dk=dk, dv=dv)},
            read,
            atomic=atomic,
        )
        if atomic:
            torch.mul(sums, self.scale, out=dq)

    def _delta(self, out: Tensor, grad: Tensor, delta: Tensor) -> None:
        from nuclr_kernels.population_attention.backward_kernel import population_delta

        block = self._tile(QUERY_GRADIENT).constants["block_q"]
        tiles = self._tiles(block)
        arguments = {"out_ptr": out, "grad_ptr": grad, "delta_ptr": delta, "tiles_ptr": tiles}
        with torch.cuda.device(self.device_index):
            population_delta[self._grid(tiles)](
                **arguments,
                **_strides(grad=grad),
                **self._sizes(tiles),
                HEAD_WIDTH=self.head_width,
                BLOCK=block,
                **COMPILE_OPTIONS,
                num_warps=DELTA_WARPS,
            )

    def _launch(
        self,
        kernel: Any,
        operation: str,
        arguments: Mapping[str, Any],
        read: Sequence[Tensor],
        atomic: bool | None = None,
    ) -> None:
        tile = self._tile(operation)
        constants = kernel_constants(
            operation,
            tile,
            self.head_width,
            tile_fastest=self.max_size > MANY_UNITS,
            descriptors=all(map(_describable, read)),
            precision=_precision(self.query.dtype),
            wide=self.query.dtype == torch.float32,
            upcast=interpreting(),
            atomic=bool(atomic),
        )
        if constants["DESCRIPTORS"]:
            _give_scratch_memory()
        tiles = self._tiles(owned_block(operation, tile))
        with torch.cuda.device(self.device_index):
            kernel[self._grid(tiles)](
                **arguments,
                tiles_ptr=tiles,
                **self._sizes(tiles),
                scale_log2=self.scale * LOG2_E,
                **constants,
                **COMPILE_OPTIONS,
                num_warps=kernel_warps(tile, constants),
                num_stages=tile.num_stages,
            )

    def _tile(self, operation: str) -> TileConfig:
        bits = 8 * self.query.element_size()
        return tile_config(operation, self.capability, bits, self.head_width, self.max_size)

    def _tiles(self, block: int) -> Tensor:
        start, stop = tile_range(self.capability, block, self.n_units, self.n_populations)
        return self.tiles[start:stop]

    def _grid(self, tiles: Tensor) -> tuple[int]:
        return (len(tiles) * self.n_patches * self.n_heads,)

    def _sizes(self, tiles: Tensor) -> dict[str, int]:
        return {
            "n_tiles": len(tiles),
            "n_units": self.n_units,
            "n_patches": self.n_patches,
            "n_heads": self.n_heads,
        }

    def _empty_rows(self) -> Tensor:
        shape = (self.n_patches, self.n_heads, self.n_units)
        return torch.empty(shape, dtype=torch.float32, device=self.query.device)


def _strides(**tensors: Tensor) -> dict[str, int]:
    names = ("unit_stride", "patch_stride", "head_stride")
    return {
        f"{prefix}_{name}": step
        for prefix, tensor in tensors.items()
        for name, step in zip(names, tensor.stride()[:3], strict=True)
    }


def _describable(tensor: Tensor) -> bool:
    """A tensor descriptor can read every patch and head: they start at multiples of 16 bytes."""
    size = tensor.element_size()
    aligned = tensor.data_ptr() % 16 == 0 and all(step * size % 16 == 0 for step in tensor.stride()[:3])
    return aligned and tensor.stride(0) > 0


def _precision(dtype: torch.dtype) -> str:
    return float32_precision() if dtype == torch.float32 else "ieee"


def _give_scratch_memory() -> None:
    """Descriptors made on the device are written to global memory, which Triton asks its caller for.

    The function it asks belongs to the context (a thread of autograd has one of its own), so it is set before
    every launch.
    """
    if interpreting():
        return
    import triton

    triton.set_allocator(lambda size, alignment, stream: torch.empty(size, dtype=torch.int8, device="cuda"))
