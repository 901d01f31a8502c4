"""Freed tensors are reused, without asking the system for their memory again."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PAGES_OF_A_TENSOR = 64 * 2**20 // 4096
COUNT = """
import resource, torch
from nuclr_cli.workflows.freed_memory import keep_freed_memory
print(keep_freed_memory())
for _ in range(30):  # until a block is left that nothing else takes a piece of
    torch.ones(16 * 2**20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(16 * 2**20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _page_faults(**environment: str) -> tuple[bool, int]:
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_", "LD_PRELOAD", "THP_"))
    }
    done = subprocess.run(
        [sys.executable, "-c", COUNT],
        env={**kept, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    made, faults = done.stdout.split()
    return made == "True", int(faults)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="page faults of glibc")
def test_large_tensors_are_not_mapped_anew() -> None:
    made, faults = _page_faults()
    assert made
    assert faults < 3 * PAGES_OF_A_TENSOR  # of twenty tensors together


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="page faults of glibc")
@pytest.mark.parametrize("variable", ["MALLOC_MMAP_THRESHOLD_", "MALLOC_ARENA_MAX"])
def test_who_set_the_allocator_is_left_alone(variable: str) -> None:
    made, faults = _page_faults(**{variable: "4"})
    assert not made
    assert faults > 10 * PAGES_OF_A_TENSOR
