"""Spike sortings as SpikeInterface, phy and Kilosort leave them on disk.

The bytes are read here and never by the libraries that wrote them: their loaders execute code found in the
data (``params.py``, pickled properties, class names in JSON).
"""

from __future__ import annotations

from collections.abc import Sequence

from nuclr_cli.api import Exporter, Reader, hookimpl
from nuclr_spikeinterface.export_phy import PhyExporter
from nuclr_spikeinterface.export_sorting import SortingExporter
from nuclr_spikeinterface.reader import SpikeInterfaceReader

__all__ = ["PhyExporter", "SortingExporter", "SpikeInterfaceReader", "nuclr_exporters", "nuclr_readers"]


@hookimpl
def nuclr_readers() -> Sequence[Reader]:
    """The one reader of this plugin."""
    return [SpikeInterfaceReader()]


@hookimpl
def nuclr_exporters() -> Sequence[Exporter]:
    """Label tables of phy, and a copy of a saved sorting."""
    return [PhyExporter(), SortingExporter()]
