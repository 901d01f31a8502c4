"""The reader of Suite2p folders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from nuclr_cli.api import Population, Reader, ReadOptions


class Suite2pReader(Reader):
    """Suite2p folders."""

    name = "suite2p"
    options = frozenset()

    def detect(self, path: Path) -> str | None:
        return None

    def sources(self, path: Path) -> Sequence[Path]:
        return []

    def read(self, path: Path, options: ReadOptions) -> Iterator[Population]:
        raise NotImplementedError
