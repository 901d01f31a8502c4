"""What to type when memory runs out, instead of PyTorch's traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from nuclr_cli.errors import InputError


@contextmanager
def told_of_memory(doing: str, fix: str) -> Iterator[None]:
    """Turn PyTorch's lack of memory into words.

    Args:
        doing: What was going on, for the message: "encode 3 windows of up to 1,000 units".
        fix: What to type next.

    Raises:
        InputError: Memory of the GPU or the machine ran out inside.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise InputError(f"The GPU's memory is too small to {doing}: {_reason(error)}", fix) from error
    except RuntimeError as error:
        # What the CPU's allocator raises has no type of its own.
        if "DefaultCPUAllocator" not in str(error):
            raise
        raise InputError(f"Memory is too small to {doing}: {_reason(error)}", fix) from error


def _reason(error: RuntimeError) -> str:
    return str(error).splitlines()[0].partition("DefaultCPUAllocator: ")[2] or str(error).splitlines()[0]
