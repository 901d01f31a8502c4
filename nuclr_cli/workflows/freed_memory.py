"""Keep the memory of freed tensors, so that the next step need not ask the system for it again."""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of glibc's malloc.h
_LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let glibc reuse large freed blocks instead of returning each to the system.

    By default every tensor above 32 MB is mapped anew, and a training step on a CPU spends much of its time
    in page faults (`benchmarks/train_step.py` measures it). The setting is of the process and costs up to a
    tenth more peak memory. Who sets MALLOC_* or GLIBC_TUNABLES has decided already and is left alone.

    Returns:
        Whether the setting was made: False under another C library, or when the environment decides.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # not glibc
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, _LARGEST_INT))
