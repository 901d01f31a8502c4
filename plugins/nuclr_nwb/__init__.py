"""Units and fluorescence series of NWB files (Neurodata Without Borders, version 2), in HDF5 or Zarr.

The bytes are read through h5py and zarr. pynwb is not needed: see `nuclr_nwb.tree`.
"""

from __future__ import annotations

from collections.abc import Sequence

from nuclr_cli.api import Exporter, Reader, hookimpl
from nuclr_nwb.export import NwbExporter
from nuclr_nwb.reader import NwbReader

__all__ = ["NwbExporter", "NwbReader", "nuclr_exporters", "nuclr_readers"]


@hookimpl
def nuclr_readers() -> Sequence[Reader]:
    """The one reader of this plugin."""
    return [NwbReader()]


@hookimpl
def nuclr_exporters() -> Sequence[Exporter]:
    """Columns of the units table, in a copy of a file."""
    return [NwbExporter()]
