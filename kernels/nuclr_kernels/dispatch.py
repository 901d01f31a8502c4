"""Which implementation of an operation runs: the fused Triton kernels, or the plain PyTorch reference.

Chosen for every call by the tensor's device and by what the kernels can do. ``NUCLR_KERNELS=reference`` keeps
to the reference; ``NUCLR_KERNELS=triton`` makes every call that the kernels cannot serve an error.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Callable
from functools import cache

import torch

VARIABLE = "NUCLR_KERNELS"
FIRST_CAPABILITY = (8, 0)
_MODES = ("", "reference", "triton")


def runs_fused(
    operation: str, device: torch.device, refusal: Callable[[], str | None] | str | None = None
) -> bool:
    """Whether a call of `operation` runs on its Triton kernel.

    Args:
        operation: Name for messages.
        device: Where the tensors are.
        refusal: Why the kernel cannot take these arguments, None if it can. It matters only where a kernel
            could run; what has to be looked up can be given as a function, which is called only there.

    Raises:
        ValueError: ``NUCLR_KERNELS`` demands a kernel that cannot run here, or has an unknown value.
    """
    mode = requested_mode()
    if mode == "reference":
        return False
    if mode == "" and device.type != "cuda":
        return False
    reason = (refusal() if callable(refusal) else refusal) or obstacle(device)
    if reason is None:
        return True
    if mode == "triton":
        raise ValueError(f"{VARIABLE}=triton, but {operation} has no fused kernel here: {reason}")
    warn_once(f"{operation} runs on the slower PyTorch reference: {reason}")
    return False


def requested_mode() -> str:
    """What ``NUCLR_KERNELS`` asks for: ``reference``, ``triton`` or, unset, empty.

    Raises:
        ValueError: It has another value.
    """
    mode = os.environ.get(VARIABLE, "")
    if mode not in _MODES:
        raise ValueError(f"{VARIABLE} is {mode!r}; set it to 'reference' or 'triton', or leave it unset")
    return mode


def obstacle(device: torch.device) -> str | None:
    """Why no Triton kernel runs on `device` at all; None if they do."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install triton)"
    if device.type != "cuda":
        return None if interpreting() else f"tensors are on {device.type}, kernels need a CUDA device"
    if torch.version.hip is not None:
        return "kernels are written for NVIDIA GPUs"
    capability = torch.cuda.get_device_capability(device)
    if capability < FIRST_CAPABILITY:
        return f"the GPU has compute capability {capability[0]}.{capability[1]}, kernels need 8.0 or newer"
    return None


def interpreting() -> bool:
    """Triton interprets kernels instead of compiling them, so they take tensors on the CPU."""
    return os.environ.get("TRITON_INTERPRET", "0") in ("1", "true", "on", "yes")


@cache
def warn_once(message: str) -> None:
    """Warn, the first time this process has something to say in these words."""
    warnings.warn(message, RuntimeWarning, stacklevel=4)


def path_of(device: torch.device) -> tuple[str, str]:
    """Which implementation calls on `device` run by default, ``triton`` or ``reference``, and why.

    What a kernel cannot take (a dtype, a head width) still goes to the reference, with a warning.
    """
    mode = requested_mode()
    if mode == "reference":
        return "reference", f"{VARIABLE}=reference"
    reason = obstacle(device)
    if reason is not None:
        return "reference", reason
    if device.type != "cuda" and mode != "triton":
        return "reference", "no CUDA device"
    return "triton", "Triton interprets the kernels" if interpreting() else ""
