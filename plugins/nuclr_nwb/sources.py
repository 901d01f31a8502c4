"""Every file whose bytes the reading of an NWB file or store depends on."""

from __future__ import annotations

from pathlib import Path

from nuclr_cli.api import ReaderError
from nuclr_nwb.series import find_series
from nuclr_nwb.tree import DAMAGE, Tree, join

# Read whole. Of acquisition, processing and analysis only the series are, and what their ROIs lead to.
_WHOLE = ("/units", "/general", "/intervals/invalid_times")
_BULK = ("acquisition", "stimulus", "specifications")
_DEEPEST = 12


def hdf5_sources(path: Path) -> list[Path]:
    """The file, then those that its links, raw files and virtual datasets lead to, as far as they are there.

    Raw recordings in other files are left out: nothing of them is read, and they are large.
    """
    from nuclr_nwb.hdf5_links import LinkedFiles
    from nuclr_nwb.hdf5_tree import Hdf5Tree

    try:
        with Hdf5Tree(LinkedFiles(path)) as tree:
            linked = _followed(tree)
    except (ReaderError, *DAMAGE):
        return [path]  # reading says what is wrong
    own = path.resolve()
    return [path, *sorted({file.resolve() for file in linked} - {own})]


def _followed(tree: Tree) -> set[Path]:
    found: set[Path] = set()
    seen: set[str] = set()

    def take(path: str, depth: int) -> None:
        found.update(tree.files_of(path))
        where = tree.resolve(path)
        if depth == 0 or where in seen or not tree.is_group(path):
            return
        seen.add(where)
        for name in tree.names(path):
            take(join(path, name), depth - 1)

    for name in tree.names("/"):
        if not tree.is_group(join(name)):
            take(join(name), 0)
    for path in _WHOLE:
        take(path, _DEEPEST)
    for series in find_series(tree):
        take(series.path, _DEEPEST)
        if series.table:
            take(series.table, _DEEPEST)
    return found


def zarr_sources(folder: Path) -> list[Path]:
    """Every file of a store but raw recordings."""
    files = [file for file in sorted(folder.iterdir()) if file.is_file()]
    for part in sorted(entry for entry in folder.iterdir() if entry.is_dir()):
        # Raw recordings are large and never read; fluorescence traces may stand beside them.
        if part.name not in _BULK or next(part.rglob("rois"), None) is not None:
            files += [file for file in sorted(part.rglob("*")) if file.is_file()]
    return files
