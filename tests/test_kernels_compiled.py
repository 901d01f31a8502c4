"""Every kernel compiles for every generation of GPU, without spilling and within its shared memory."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

# On Linux it is a development dependency: its absence there is an error, not a reason to skip the gate.
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="triton is for Linux only")

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "kernel_resources.json"


@pytest.mark.slow
def test_every_kernel_passes_the_gate_on_every_gpu(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nuclr_kernels.compile_check", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    kernels = json.loads((tmp_path / "kernel_resources.json").read_text())["kernels"]
    for operation in ("population_forward", "temporal_forward", "contrastive_forward"):
        reached = {tuple(k["capability"]) for k in kernels if k["name"].startswith(operation)}
        assert reached == {(8, 0), (8, 6), (8, 9), (9, 0)}
    # 16-bit products run on the matrix units: Hopper's own on Hopper.
    for kernel in kernels:
        if re.search(r"\b(fp16|bf16)\b", kernel["name"]) and "delta" not in kernel["name"]:
            assert kernel["resources"]["tensor_core"], kernel["name"]


def test_the_committed_table_is_about_the_kernels_that_are_there() -> None:
    from nuclr_kernels.compile_check import CAPABILITIES, gate_cases

    committed = json.loads(RESULTS.read_text())["kernels"]
    expected = {(case.name, capability) for capability in CAPABILITIES for case in gate_cases(capability)}
    assert {(k["name"], tuple(k["capability"])) for k in committed} == expected, (
        "run python -m nuclr_kernels.compile_check --out benchmarks/results"
    )
    assert not [k["name"] for k in committed if k["complaints"]]
