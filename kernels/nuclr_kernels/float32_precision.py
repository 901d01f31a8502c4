"""How float32 matrix products are formed on tensor cores."""

from __future__ import annotations

import torch

from nuclr_kernels.compiled_constants import compiled_constant


@compiled_constant
def float32_precision() -> str:
    """``tf32`` where the user allows it for PyTorch's own products on CUDA, otherwise ``ieee``."""
    matmul = torch.backends.cuda.matmul
    try:  # PyTorch 2.9 named it anew, and refuses to tell by the old name once the new one was used
        allowed = matmul.fp32_precision == "tf32"
    except AttributeError:
        allowed = matmul.allow_tf32
    return "tf32" if allowed else "ieee"
