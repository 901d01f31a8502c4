"""Reads temporaldata and brainsets files."""

from __future__ import annotations

from collections.abc import Sequence

from nuclr_cli.api import Reader, hookimpl
from nuclr_temporaldata.reader import TemporaldataReader

__all__ = ["TemporaldataReader", "nuclr_readers"]


@hookimpl
def nuclr_readers() -> Sequence[Reader]:
    """The reader of this plugin."""
    return [TemporaldataReader()]
