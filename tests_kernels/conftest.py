"""Tests of the Triton kernels on the CPU, by Triton's interpreter, against float64 references.

Run them with ``make kernels``: the interpreter is chosen when triton is imported.
"""

from __future__ import annotations

import os

import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.exit("these tests need TRITON_INTERPRET=1: run make kernels", returncode=4)


@pytest.fixture(autouse=True)
def kernels_or_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that silently fell back to the reference would prove nothing."""
    monkeypatch.setenv("NUCLR_KERNELS", "triton")
