"""Reads NWB files."""

from __future__ import annotations

from collections.abc import Sequence

from nuclr_cli.api import Reader, hookimpl
from nuclr_nwb.reader import NwbReader

__all__ = ["NwbReader", "nuclr_readers"]


@hookimpl
def nuclr_readers() -> Sequence[Reader]:
    """The reader of this plugin."""
    return [NwbReader()]
