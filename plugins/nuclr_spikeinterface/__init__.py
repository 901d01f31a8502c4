"""Spike sortings as SpikeInterface, phy and Kilosort leave them on disk.

The bytes are read here and never by the libraries that wrote them: their loaders execute code found in the
data (``params.py``, pickled properties, class names in JSON).
"""

from __future__ import annotations

from collections.abc import Sequence

from nuclr_cli.api import Reader, hookimpl
from nuclr_spikeinterface.reader import SpikeInterfaceReader

__all__ = ["SpikeInterfaceReader", "nuclr_readers"]


@hookimpl
def nuclr_readers() -> Sequence[Reader]:
    """The one reader of this plugin."""
    return [SpikeInterfaceReader()]
