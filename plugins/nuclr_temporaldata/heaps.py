"""Checks the places where HDF5 keeps text of variable length, before HDF5 itself reads them.

The HDF5 library walks through such a place (a global heap collection) from object to object and never
arrives where the length of one is damaged: the whole process would hang, out of Python's reach. Layout:
HDF5 file format specification, "Global Heap".
"""

from __future__ import annotations

import mmap
from pathlib import Path

_MAGIC = b"GCOL\x01\0\0\0"
_HEADER = 16  # of a collection, and of an object in it


def damaged_heap(path: Path, within: int | None = None) -> int | None:
    """First byte of a damaged collection, None = none is damaged.

    Args:
        path: The file.
        within: Look at collections that begin in so many bytes, None = all.
    """
    with path.open("rb") as file:
        size = path.stat().st_size
        if size == 0:
            return None
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            end = len(data) if within is None else min(within, len(data))
            at = data.find(_MAGIC, 0, end)
            while at >= 0:
                if not _walkable(data, at):
                    return at
                at = data.find(_MAGIC, at + 1, end)
    return None


def _walkable(data: mmap.mmap, at: int) -> bool:
    """Whether every object of the collection at byte `at` leads to the next, and the last to its end."""
    length = int.from_bytes(data[at + 8 : at + 16], "little")
    if at + length > len(data):
        return True  # cut off: HDF5 sees that itself
    position = _HEADER
    while position + _HEADER <= length:
        index = int.from_bytes(data[at + position : at + position + 2], "little")
        size = int.from_bytes(data[at + position + 8 : at + position + 16], "little")
        # Object 0 is the free space, header included.
        step = size if index == 0 else _HEADER + -(-size // 8) * 8
        if step <= 0 or position + step > length:
            return False
        position += step
    return True
