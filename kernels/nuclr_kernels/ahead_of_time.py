"""Compiles kernels for GPUs that this machine need not have, and reads what they use of them.

Works in a process without ``TRITON_INTERPRET``; needs triton, no driver.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nuclr_kernels.compile_options import COMPILE_OPTIONS

SHARED_LIMIT_BYTES = {(8, 0): 163 * 1024, (8, 6): 99 * 1024, (8, 9): 99 * 1024, (9, 0): 227 * 1024}
"""Shared memory a block may use, by compute capability (CUDA C++ programming guide)."""


@dataclass(frozen=True)
class CompileCase:
    """A kernel with everything its compilation depends on.

    Attributes:
        name: For tables and messages.
        kernel: The ``triton.jit`` function.
        types: Triton type of every argument that is no constant, such as ``*bf16``, ``i32``, ``fp32``.
        constants: Values of the ``tl.constexpr`` arguments.
        num_warps, num_stages: As at launch.
        capability: Of the GPU.
        unaligned: Pointers that are not known to be multiples of 16 bytes.
        multiples_of_16: Integers that are known to be multiples of 16, such as strides.
    """

    name: str
    kernel: Any
    types: Mapping[str, str]
    constants: Mapping[str, Any]
    num_warps: int
    num_stages: int
    capability: tuple[int, int]
    unaligned: frozenset[str] = frozenset()
    multiples_of_16: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Resources:
    """What a compiled kernel uses.

    Attributes:
        registers: Of a thread.
        stack_bytes: Local memory of a thread; above zero, registers were spilled.
        shared_bytes: Of a block.
        threads: Of a block, warp-specialised partitions included.
        tensor_core: The matrix instruction in its machine code: ``HGMMA`` (Hopper), ``HMMA``, or empty.
    """

    registers: int
    stack_bytes: int
    shared_bytes: int
    threads: int
    tensor_core: str


def compile_case(case: CompileCase) -> Resources:
    """Compile to machine code and read the resources from it."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = case.kernel.arg_names
    signature = {name: "constexpr" if name in case.constants else case.types[name] for name in names}
    attributes = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(names)
        if (signature[name].startswith("*") and name not in case.unaligned) or name in case.multiples_of_16
    }
    major, minor = case.capability
    compiled = triton.compile(
        ASTSource(case.kernel, signature, dict(case.constants), attributes),
        target=GPUTarget("cuda", 10 * major + minor, 32),
        options={"num_warps": case.num_warps, "num_stages": case.num_stages, **COMPILE_OPTIONS},
    )
    registers, stack = _usage(compiled.asm["cubin"])
    threads = re.search(r"\.(?:reqntid|maxntid)\s+(\d+)", compiled.asm["ptx"])
    ptx = compiled.asm["ptx"]
    return Resources(
        registers=registers,
        stack_bytes=stack,
        shared_bytes=int(compiled.metadata.shared),
        threads=int(threads.group(1)) if threads else 32 * case.num_warps,
        tensor_core="HGMMA" if "wgmma.mma_async" in ptx else "HMMA" if "mma.sync" in ptx else "",
    )


def _usage(cubin: bytes) -> tuple[int, int]:
    """Registers and stack bytes of the only kernel in a cubin, by the cuobjdump that triton ships."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run(
            [str(tool), "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        )
    found = re.findall(r"REG:(\d+)\s+STACK:(\d+)", done.stdout)
    if len(found) != 1:
        raise RuntimeError(f"cuobjdump told of {len(found)} kernels, expected one:\n{done.stdout}")
    return int(found[0][0]), int(found[0][1])
