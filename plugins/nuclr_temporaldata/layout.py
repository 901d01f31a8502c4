"""Recognises temporaldata files by their root, and tells those that nuclr wrote itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py

from nuclr_temporaldata.hdf5 import attribute, open_file, subgroup
from nuclr_temporaldata.heaps import damaged_heap

SPIKES, CALCIUM = "spikes", "calcium_traces"

_SUFFIXES = (".h5", ".hdf5")
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_HEAD = 1 << 20
_NUCLR_META = "nuclr_meta"


@dataclass(frozen=True)
class Sighting:
    """What a file is.

    Attributes:
        groups: Which of ``spikes`` and ``calcium_traces`` it holds.
        by_nuclr: It is a session file already.
        damaged: HDF5 cannot open it, though it begins like a temporaldata file.
    """

    groups: tuple[str, ...] = ()
    by_nuclr: bool = False
    damaged: bool = False

    def __str__(self) -> str:
        if self.damaged:
            return "damaged temporaldata file"
        kind = "session file of nuclr" if self.by_nuclr else "temporaldata file"
        return f"{kind}: {' + '.join(self.groups)}"


def recognise(path: Path) -> Sighting | None:
    """What `path` is, None when it is no temporaldata file. Reads headers only and never raises."""
    try:
        if not path.is_file() or not h5py.is_hdf5(path):
            return None
        if damaged_heap(path, _HEAD) is not None:
            return Sighting(damaged=True) if _begins_like_one(path) else None
        try:
            file = open_file(path)
        except Exception:
            return Sighting(damaged=True) if _begins_like_one(path) else None
        with file:
            return look_at(file)
    except Exception:
        return None


def look_at(file: h5py.File) -> Sighting | None:
    """`recognise` for an open file."""
    if "nwb_version" in file.attrs or attribute(file, "object") != "Data":
        return None
    groups = tuple(name for name in (SPIKES, CALCIUM) if subgroup(file, name) is not None)
    return Sighting(groups, by_nuclr=_NUCLR_META in file) if groups else None


def _begins_like_one(path: Path) -> bool:
    """Whether an HDF5 file that does not open has the names of a temporaldata file in its first megabyte.

    The end of the file is what a broken-off copy lacks; the names of its groups lie at its beginning.
    """
    if path.suffix.lower() not in _SUFFIXES:
        return False
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if not head.startswith(_SIGNATURE) or b"nwb_version" in head:
        return False
    names = ((b"spikes", b"calcium_traces"), (b"units", b"rois"), (b"domain",))
    return all(any(name in head for name in either) for either in names)
