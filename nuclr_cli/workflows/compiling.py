"""`train.compile`: layers through torch.compile, where this machine can compile at all."""

from __future__ import annotations

import torch
from torch import Tensor

from nuclr_cli.model import Encoder
from nuclr_cli.model.blocks import FeedForward
from nuclr_cli.workflows.reporting import Reporter

_LONGEST_REASON = 200  # characters


def compile_encoder(encoder: Encoder, device: torch.device, reporter: Reporter) -> bool:
    """Compile in place, for batches of any size; weights keep their names.

    On a CPU only the feed-forward layers: attention there has code of its own that is quicker than what is
    compiled of it, and a program for each number of populations would be compiled anew. Nor are spike events
    compiled on any device: their groups of spikes are other ones in each batch. One program serves all
    feed-forward layers. Compilation itself happens in the first step. Whether there is a compiler is tried
    before, on a function of one line.

    Args:
        encoder: To train.
        device: Where it is.
        reporter: Told that the first step takes longer, or why nothing is compiled.

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
        reporter.warn(
            f"train.compile: torch.compile does not work here, so the run goes on uncompiled ({problem}). "
            f"On this device it needs {need}"
        )
        return False
    longer = "up to a minute longer" if device.type == "cpu" else "longer"
    reporter.note(f"train.compile: compiling; the first step takes {longer}")
    if device.type != "cpu" and encoder.events is None:
        encoder.compile(dynamic=True)
    else:
        for module in encoder.modules():
            if isinstance(module, FeedForward):
                module.compile(dynamic=True)
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
