"""temporaldata files (HDF5), as brainsets pipelines and torch_brain write them.

Read with h5py alone: nothing in a file is executed, and no link or dataset may lead out of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from nuclr_cli.api import Reader, hookimpl
from nuclr_temporaldata.reader import TemporaldataReader

__all__ = ["TemporaldataReader", "nuclr_readers"]


@hookimpl
def nuclr_readers() -> Sequence[Reader]:
    """The one reader of this plugin."""
    return [TemporaldataReader()]
