"""Reads Suite2p folders."""

from __future__ import annotations

from collections.abc import Sequence

from nuclr_cli.api import Reader, hookimpl
from nuclr_suite2p.reader import Suite2pReader

__all__ = ["Suite2pReader", "nuclr_readers"]


@hookimpl
def nuclr_readers() -> Sequence[Reader]:
    """The reader of this plugin."""
    return [Suite2pReader()]
