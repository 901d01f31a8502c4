"""Where a result was measured."""

from __future__ import annotations

import importlib.util
import os
import platform
import subprocess
from importlib.metadata import version
from typing import Any

import torch


def describe() -> dict[str, Any]:
    """Hardware, versions, commit."""
    cuda = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if cuda else f"CPU, {os.cpu_count()} cores",
        "capability": list(torch.cuda.get_device_capability()) if cuda else None,
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "triton": version("triton") if importlib.util.find_spec("triton") else None,
        "python": platform.python_version(),
        "commit": os.environ.get("NUCLR_COMMIT") or _commit(),
    }


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"
