"""Makes Suite2p importable without touching the home folder; runs in a virtual environment of its own."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

# Importing Suite2p creates ~/.suite2p, cellpose ~/.cellpose; both look at HOME when they are imported.
_HOME = tempfile.TemporaryDirectory(prefix="suite2p-home-")
os.environ["HOME"] = _HOME.name
os.environ["MPLCONFIGDIR"] = str(Path(_HOME.name) / "matplotlib")
# Suite2p caches compiled code beside its source otherwise, which fails where that is read-only.
os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(_HOME.name) / "numba"))

import torch  # noqa: E402


def _make_torchvision_importable() -> None:
    """torchvision built for CUDA does not find its operators beside a CPU build of torch, and then does not
    import. cellpose imports it, nothing here calls these operators: declaring their names is enough.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
    else:
        return
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _LIBRARIES.append(library)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    import torchvision  # noqa: F401


_LIBRARIES: list[torch.library.Library] = []  # names vanish with the object that declared them
_make_torchvision_importable()
