"""`train.compile`: the encoder through torch.compile, where this machine can compile at all."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

_LONGEST_REASON = 200  # characters


def compile_encoder(encoder: nn.Module, device: torch.device, warn: Callable[[str], None]) -> bool:
    """Compile in place, for batches of any size; weights keep their names.

    Compilation itself happens at the first batch, and takes a minute. Whether there is a compiler is tried
    before, on a function of one line.

    Args:
        encoder: Called as ``encoder(inputs, layout=layout)``.
        device: Where it is.
        warn: Told why nothing is compiled.

    Returns:
        Whether it will be compiled.
    """
    problem = _problem(device)
    if problem:
        need = (
            "a C++ compiler: sudo apt install g++, or name one with CXX=/path/to/g++"
            if device.type == "cpu"
            else "triton (pip install triton) and a C compiler: sudo apt install gcc, or CC=/path/to/gcc"
        )
        warn(
            f"train.compile: torch.compile does not work here, so the run goes on uncompiled ({problem}). "
            f"On this device it needs {need}"
        )
        return False
    encoder.compile(dynamic=True)
    return True


def _one_line(x: Tensor) -> Tensor:
    return x.sin() * 2.0


def _problem(device: torch.device) -> str:
    """Why this machine cannot compile for `device`; empty if it can."""
    try:
        # Without the cache, which may hold what was compiled when there was a compiler.
        compiled = torch.compile(_one_line, dynamic=True, options={"fx_graph_cache": False})
        compiled(torch.ones(64, device=device))
    except Exception as error:  # of every kind: what is missing decides who complains
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return f"{type(error).__name__}: {lines[0] if lines else ''}"[:_LONGEST_REASON]
    return ""
