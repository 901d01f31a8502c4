"""Recognises temporaldata files by their root, and tells those that nuclr wrote itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py

from nuclr_cli.api import hdf5_damage
from nuclr_temporaldata.hdf5 import attribute, open_file, subgroup

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
        try:
            file = open_file(path)
        except Exception:
            return Sighting(damaged=True) if _begins_like_one(path) else None
        with file:
            if _would_hang(path, file):
                return Sighting(damaged=True) if _looks_like_one(file) else None
            return look_at(file)
    except Exception:
        return None


def look_at(file: h5py.File) -> Sighting | None:
    """`recognise` for an open file."""
    if "nwb_version" in file.attrs or attribute(file, "object") != "Data":
        return None
    groups = tuple(name for name in (SPIKES, CALCIUM) if subgroup(file, name) is not None)
    return Sighting(groups, by_nuclr=_NUCLR_META in file) if groups else None


def _would_hang(path: Path, file: h5py.File) -> bool:
    """Whether HDF5 would never come back from the attribute that tells the format."""
    if "nwb_version" in file.attrs or "object" not in file.attrs:
        return False
    return hdf5_damage.text_hangs(path, file, "object")


def _looks_like_one(file: h5py.File) -> bool:
    """Whether a file whose texts cannot be read has the names of a temporaldata file."""
    held = {name for name in ("domain", SPIKES, CALCIUM) if file.get(name, getlink=True) is not None}
    return "domain" in held and len(held) > 1


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
