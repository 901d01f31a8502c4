"""Random numbers that depend on what is drawn, never on who draws it.

Every draw comes from a stream named by (seed, epoch, index, purpose). The name is hashed (BLAKE2b, the same
on every machine and in every process, unlike `hash`) to the key of a counter-based generator (Philox), so
that any process can open any stream without having drawn the ones before it.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.errors import InputError


class Purpose(StrEnum):
    """What a stream is for. The value is part of the stream's name: to change it changes every draw."""

    OFFSET = "offset"
    ORDER = "order"
    SECOND_VIEW = "second-view"
    DROPOUT_1 = "dropout-1"
    DROPOUT_2 = "dropout-2"
    INIT = "init"
    MODEL = "model"
    UNITS = "units"
    SUBJECTS = "subjects"
    BALANCE = "balance"


def stream(seed: int, epoch: int, index: int, purpose: Purpose) -> np.random.Generator:
    """Generator at the start of the stream (seed, epoch, index, purpose).

    Args:
        seed: The run's seed, 0 to 2**63 - 1.
        epoch, index: Numbers of what is drawn, 0 or more.
        purpose: Keeps streams of the same thing apart.

    Raises:
        InputError: A number is negative or too large.
    """
    return np.random.Generator(
        np.random.Philox(key=int.from_bytes(_digest(seed, epoch, index, purpose), "little"))
    )


def torch_seed(seed: int, epoch: int, index: int, purpose: Purpose) -> int:
    """Seed in [0, 2**63) for ``torch.manual_seed`` and the like; arguments as in `stream`."""
    return int.from_bytes(_digest(seed, epoch, index, purpose)[:8], "little") >> 1


def random_order(n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Random permutation of 0..n-1, (n,) int64.

    Sorts uniform numbers instead of calling ``rng.permutation``, whose algorithm numpy may change between
    versions.
    """
    return np.argsort(rng.random(n), kind="stable").astype(np.int64, copy=False)


def _digest(seed: int, epoch: int, index: int, purpose: Purpose) -> bytes:
    for name, value in (("seed", seed), ("epoch", epoch), ("index", index)):
        if not 0 <= value < 2**63:
            raise InputError(f"{name} is {value}; it must be between 0 and 2**63 - 1.")
    words = b"".join(int(value).to_bytes(8, "little") for value in (seed, epoch, index))
    return hashlib.blake2b(words + Purpose(purpose).value.encode("ascii"), digest_size=16).digest()
