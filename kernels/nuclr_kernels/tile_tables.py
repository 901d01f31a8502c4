"""Tile sizes of the kernels: data, one JSON table an operation in ``tiles/``.

A row says for which GPUs, precision, head width and problem size it holds. GPUs of a newer generation than
any row take the newest row there is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path

import torch

INTERPRETER = (0, 0)
VARIABLE = "NUCLR_TILES"


@dataclass(frozen=True)
class TileConfig:
    """One row of a table.

    Attributes:
        capability: Oldest compute capability it is meant for; (0, 0) is Triton's interpreter.
        bits: Width of the operands' dtype, 16 or 32.
        width: Head or embedding width it is meant for, None = any.
        largest: Largest problem size it is meant for (the operation says what it counts), None = any.
        constants: Compile-time constants of the kernel, by name.
        num_warps: Warps of a program.
        num_stages: Depth of the software pipeline.
        measured: On which GPU the row was found to be the fastest; empty = chosen by reasoning.
    """

    capability: tuple[int, int]
    bits: int
    width: int | None
    largest: int | None
    constants: Mapping[str, int] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 2
    measured: str = ""

    def fits(self, capability: tuple[int, int], bits: int, width: int, size: int) -> bool:
        """The row is meant for such a call."""
        return (
            (self.capability == INTERPRETER) == (capability == INTERPRETER)
            and self.capability <= capability
            and self.bits == bits
            and self.width in (None, width)
            and (self.largest is None or size <= self.largest)
        )


@cache
def tile_table(operation: str) -> tuple[TileConfig, ...]:
    """All rows of an operation's table, in the order of the file; ``NUCLR_TILES`` is a folder of others."""
    elsewhere = Path(os.environ.get(VARIABLE, "")) / f"{operation}.json" if VARIABLE in os.environ else None
    if elsewhere is not None and elsewhere.is_file():
        text = elsewhere.read_text()
    else:
        text = (files("nuclr_kernels") / "tiles" / f"{operation}.json").read_text()
    return tuple(
        TileConfig(**{**row, "capability": tuple(row["capability"])}) for row in json.loads(text)["rows"]
    )


@cache
def tile_config(operation: str, capability: tuple[int, int], bits: int, width: int, size: int) -> TileConfig:
    """The row for a call: of the newest capability that fits, the one for the smallest size.

    Args:
        operation: Name of the table.
        capability: Of the GPU; (0, 0) for the interpreter.
        bits: Width of the operands' dtype, 16 or 32.
        width: Head or embedding width.
        size: Problem size, as the operation counts it.

    Raises:
        LookupError: No row fits.
    """
    rows = [row for row in tile_table(operation) if row.fits(capability, bits, width, size)]
    if not rows:
        raise LookupError(
            f"no tile of {operation} for capability {capability}, {bits} bit, width {width}, size {size}"
        )
    newest = max(row.capability for row in rows)
    return min(
        (row for row in rows if row.capability == newest),
        key=lambda row: (float("inf") if row.largest is None else row.largest, row.width is None),
    )


@cache
def capability_of(device: torch.device) -> tuple[int, int]:
    """Compute capability of a CUDA device; (0, 0), the interpreter, of a CPU."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else INTERPRETER
