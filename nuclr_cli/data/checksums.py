"""Prove that a population file still holds the bytes that were written."""

from __future__ import annotations

import hashlib
from pathlib import Path

import h5py
import numpy as np

from nuclr_cli.data.reading import opened, read_meta

_BLOCK_BYTES = 1 << 24


def verify(path: Path, under: tuple[str, ...] = ("",)) -> list[str]:
    """Names of the datasets that are missing, new in shape or changed; empty when whole (or not written by
    nuclr).

    Raises:
        InputError: The file is damaged beyond reading, or its metadata does not match its own checksum.
    """
    expected = read_meta(path).checksums
    with opened(path) as file:
        return [
            name
            for name, digest in expected.items()
            if name.startswith(under) and (name not in file or _digest(file[name]) != digest)
        ]


def _digest(dataset: h5py.Dataset) -> str:
    """sha256 of the bytes as stored, block by block."""
    digest = hashlib.sha256()
    row_bytes = max(dataset.dtype.itemsize * int(np.prod(dataset.shape[1:])), 1)
    rows = max(_BLOCK_BYTES // row_bytes, 1)
    for start in range(0, dataset.shape[0], rows):
        block = np.ascontiguousarray(dataset[start : start + rows])
        digest.update(block.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
    return digest.hexdigest()
