"""Where the planes of a Suite2p recording lie, by names alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_PLANE_NAME = re.compile(r"plane(0|[1-9][0-9]{0,5})")
_COMBINED = "combined"

# F.npy alone could be anybody's array; one of these beside it makes it Suite2p's.
_BESIDE_TRACES = ("stat.npy", "iscell.npy", "Fneu.npy", "spks.npy", "ops.npy", "settings.npy")
_BEGUN = ("F.npy", "ops.npy", "settings.npy")

#: Every file of a plane that `read` may open.
FILES = (
    "F.npy",
    "Fneu.npy",
    "spks.npy",
    "iscell.npy",
    "redcell.npy",
    "stat.npy",
    "settings.npy",
    "db.npy",
    "ops.npy",
    "reg_outputs.npy",
    "detect_outputs.npy",
)


@dataclass(frozen=True)
class PlaneFolder:
    """One ``plane*`` folder.

    Attributes:
        path: The folder.
        number: From its name; None when somebody renamed it.
    """

    path: Path
    number: int | None

    def file(self, name: str) -> Path:
        return self.path / name

    def has(self, name: str) -> bool:
        return self.file(name).is_file()


@dataclass(frozen=True)
class Found:
    """What a path holds.

    Attributes:
        kind: ``suite2p folder``, ``suite2p plane`` or ``suite2p combined folder``.
        planes: Folders of the planes, by number; empty for a combined folder.
        detail: What was seen, for people.
    """

    kind: str
    planes: tuple[PlaneFolder, ...]
    detail: str

    @property
    def is_combined(self) -> bool:
        return self.kind == "suite2p combined folder"

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}"


def recognise(path: Path) -> Found | None:
    """Look at names only; None when this is no Suite2p output (or not a readable folder)."""
    try:
        return _recognise(path)
    except (OSError, ValueError):  # no permission; a NUL in the name
        return None


def _recognise(path: Path) -> Found | None:
    if not path.is_dir():
        return None
    name = path.resolve().name
    looks_like_traces = (path / "F.npy").is_file() and any((path / n).is_file() for n in _BESIDE_TRACES)
    if name == _COMBINED:
        return Found("suite2p combined folder", (), "F.npy") if looks_like_traces else None
    match = _PLANE_NAME.fullmatch(name)
    if looks_like_traces or (match and any((path / n).is_file() for n in _BEGUN)):
        number = int(match[1]) if match else None
        seen = ", ".join(n for n in FILES if (path / n).is_file())
        return Found("suite2p plane", (PlaneFolder(path, number),), seen)
    for folder in (path, path / "suite2p"):
        planes = _planes_in(folder)
        if planes:
            seen = ", ".join(plane.path.name for plane in planes)
            return Found("suite2p folder", planes, seen)
        if (folder / _COMBINED / "F.npy").is_file():
            return Found("suite2p combined folder", (), f"{_COMBINED}/F.npy")
    return None


def _planes_in(folder: Path) -> tuple[PlaneFolder, ...]:
    if not folder.is_dir():
        return ()
    planes = []
    for inside in folder.iterdir():
        match = _PLANE_NAME.fullmatch(inside.name)
        if match and any((inside / name).is_file() for name in _BEGUN):
            planes.append(PlaneFolder(inside, int(match[1])))
    return tuple(sorted(planes, key=lambda plane: plane.number or 0))


def recording_name(path: Path) -> str:
    """Name of the folder that holds the Suite2p output: ``suite2p`` and ``plane0`` name no recording."""
    path = path.resolve()
    while path.parent != path and (path.name == "suite2p" or _PLANE_NAME.fullmatch(path.name)):
        path = path.parent
    return path.name or "unnamed"
