"""The folder of a sweep: sweep.json says what it is, points/NAME/point.json that a point is done."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from nuclr_cli.errors import InputError
from nuclr_cli.workflows.from_json import rebuild
from nuclr_cli.workflows.probe_report import folder_name
from nuclr_cli.workflows.runs import read_json, write_json
from nuclr_cli.workflows.scale_config import SWEEPS, ScaleConfig
from nuclr_cli.workflows.scale_record import PointResult, PointSpec, Sweep

T = TypeVar("T")

SWEEP_FILE, POINT_FILE, RUN_NAME = "sweep.json", "point.json", "run"


def folder_of(config: ScaleConfig, axis: str) -> Path:
    """Where a sweep lies: where the user said, else ``nuclr-scale/LABEL-AXIS``."""
    return config.out or SWEEPS / folder_name(f"{config.label}-{axis}")


def point_folder(sweep: Path, name: str) -> Path:
    return sweep / "points" / name


def read_sweep(folder: Path) -> Sweep:
    """Read sweep.json.

    Raises:
        InputError: It is missing, damaged, or of another version of nuclr.
    """
    return _read(folder / SWEEP_FILE, Sweep, "the sweep", "Name another folder with -o, or remove this one")


def read_result(folder: Path, name: str) -> PointResult | None:
    """The result of a point; None when it is not done.

    Raises:
        InputError: Its file is damaged.
    """
    path = point_folder(folder, name) / POINT_FILE
    if not path.is_file():
        return None
    return _read(path, PointResult, "a point of a sweep", f"Remove {path}: the point is then finished again")


def write_result(folder: Path, result: PointResult) -> None:
    """Write point.json, whole or not at all: from now on the point is done."""
    write_json(point_folder(folder, result.point) / POINT_FILE, dataclasses.asdict(result))


def _read(path: Path, kind: type[T], what: str, fix: str) -> T:
    try:
        document: Any = read_json(path, what)
        return rebuild(kind, document)
    except InputError as error:
        raise InputError(error.what, fix) from None
    except ValueError as error:
        raise InputError(f"{path} is damaged, or of another version of nuclr: {error}.", fix) from None


def settle(folder: Path, wanted: Sweep) -> str:
    """Make the folder of a sweep, or check that it is this one; more points than it has are added.

    Returns:
        A sentence for the user, empty when the folder is new.

    Raises:
        InputError: The folder holds a sweep of another configuration, or something else.
    """
    if not (folder / SWEEP_FILE).is_file():
        if folder.exists() and (not folder.is_dir() or any(_visible(folder))):
            raise InputError(
                f"{folder} exists and is not the folder of a sweep.", "Name another folder with -o"
            )
        _write(folder, wanted)
        return ""
    stored = read_sweep(folder)
    differing = differences(stored, wanted)
    if differing:
        raise InputError(
            f"{folder} holds a sweep of another configuration: {'; '.join(differing)}.",
            "Give the same options to continue it, or name another folder with -o",
        )
    if len(wanted.points) > len(stored.points):
        _write(folder, wanted)
        return f"{len(wanted.points) - len(stored.points)} points are new in {folder}"
    return f"continuing {folder}"


def _visible(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def _write(folder: Path, sweep: Sweep) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / SWEEP_FILE, dataclasses.asdict(sweep))
    except OSError as error:
        raise InputError(
            f"Cannot make the folder of the sweep {folder}: {error.strerror or error}.",
            "Free some space or mend the permissions, or name another folder with -o",
        ) from None


def differences(stored: Sweep, wanted: Sweep) -> list[str]:
    """What makes `wanted` another sweep than `stored`, one clause each. Further points do not."""
    found = []
    for field in dataclasses.fields(Sweep):
        if field.name in ("sessions", "points", "version", "changes"):
            continue
        then, now = getattr(stored, field.name), getattr(wanted, field.name)
        if then != now:
            found.append(f"{field.name} is {_shown(then)} there, {_shown(now)} here")
    for key in sorted({*stored.changes, *wanted.changes}):
        then, now = stored.changes.get(key, "unchanged"), wanted.changes.get(key, "unchanged")
        if then != now:
            found.append(f"{key} is {then} there, {now} here")
    sessions = {one.key: one for one in stored.sessions}, {one.key: one for one in wanted.sessions}
    for key in sorted({*sessions[0], *sessions[1]}):
        if key not in sessions[0] or key not in sessions[1]:
            found.append(f"session {key} is {'new' if key not in sessions[0] else 'gone'}")
        elif sessions[0][key] != sessions[1][key]:
            what = "labels" if sessions[0][key].activity == sessions[1][key].activity else "activity"
            found.append(f"the {what} of session {key} changed")
    return found or _point_differences(stored.points, wanted.points)


def _point_differences(stored: Sequence[PointSpec], wanted: Sequence[PointSpec]) -> list[str]:
    now = {point.name: point for point in wanted}
    missing = [point.name for point in stored if point.name not in now]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        return [f"it has the points {', '.join(missing[:3])}{more}, which are not asked for here"]
    other = [point.name for point in stored if now[point.name] != point]
    return [f"the point {name} trains on something else here" for name in other]


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "nothing"
    return "not set" if value is None else str(value)
