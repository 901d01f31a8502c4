"""What Suite2p was told and what it noted: 1.x (settings, db, ...) and older releases (ops) alike."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import ReaderError, safe_files
from nuclr_suite2p.layout import PlaneFolder

NEUROPIL_COEFFICIENT = 0.7
WIN_BASELINE_S = 60.0
SIG_BASELINE_FRAMES = 10.0

_LONGEST_WINDOW_S = 86400.0
_WIDEST_SIGMA = 10_000.0
_MOST_PLANES = 10_000

_CORRECT_SETTING = "Correct that setting in Suite2p and save again."


@dataclass(frozen=True)
class PlaneSettings:
    """Settings of one plane; None where no file says.

    Attributes:
        files: Names of the files that were read, for messages.
        fs_hz: Frames per second of this plane, as stored: not checked, NaN when it is no number.
        tau_s: Decay time of the indicator.
        neuropil_coefficient: Part of the surround that is subtracted.
        baseline: Kind of baseline Suite2p deconvolved with.
        win_baseline_s: Window of the running minimum and maximum.
        sig_baseline_frames: Sigma of the Gaussian before them.
        n_frames: Frames Suite2p counted.
        n_planes: Planes of the recording, also those that are not here.
        plane: Place of this plane in the scan.
        bad_frames: (T,) frames that registration or the user marked.
        version: Of Suite2p.
        red_threshold: Threshold of the red channel.
        red_by_overlap: Red cells were found by overlap with masks, not by intensity; None = not said.
    """

    files: tuple[str, ...] = ()
    fs_hz: float | None = None
    tau_s: float | None = None
    neuropil_coefficient: float | None = None
    baseline: str | None = None
    win_baseline_s: float | None = None
    sig_baseline_frames: float | None = None
    n_frames: int | None = None
    n_planes: int | None = None
    plane: int | None = None
    bad_frames: NDArray[np.bool_] | None = None
    version: str | None = None
    red_threshold: float | None = None
    red_by_overlap: bool | None = None

    @property
    def is_old(self) -> bool:
        """Written by a release before 1.0."""
        return self.version is not None and self.version.startswith("0.")


def read_settings(folder: PlaneFolder, *, trust: bool) -> PlaneSettings:
    """Settings from ``settings.npy`` and ``db.npy``, and ``ops.npy`` where one of the newer files is missing.

    Raises:
        ReaderError: A file is damaged or hostile, or a value is not of its kind.
    """
    names = ["settings.npy", "db.npy", "reg_outputs.npy"]
    if not all(folder.has(name) for name in names):
        names.append("ops.npy")
    if folder.has("redcell.npy"):
        names.append("detect_outputs.npy")
    present = [name for name in names if folder.has(name)]
    stored = _Stored(
        {folder.file(name): safe_files.load_dict(folder.file(name), trust=trust) for name in present}
    )
    is_nested = folder.has("settings.npy") or stored.find(("extraction", "neuropil_coefficient")) is not None
    version = stored.text(("version",), ("suite2p_version",))
    if version is None and present:
        version = "1.x" if is_nested else "0.x"
    return PlaneSettings(
        files=tuple(present),
        fs_hz=stored.unchecked(("fs",)),
        tau_s=stored.number(1e-3, 100.0, ("tau",)),
        neuropil_coefficient=stored.number(
            0.0, 10.0, ("extraction", "neuropil_coefficient"), ("neuropil_coefficient",), ("neucoeff",)
        ),
        baseline=stored.text(("dcnv_preprocess", "baseline"), ("baseline",)),
        win_baseline_s=stored.number(
            0.0, _LONGEST_WINDOW_S, ("dcnv_preprocess", "win_baseline"), ("win_baseline",)
        ),
        sig_baseline_frames=stored.number(
            1e-3, _WIDEST_SIGMA, ("dcnv_preprocess", "sig_baseline"), ("sig_baseline",)
        ),
        n_frames=stored.count(2**53, ("nframes",)),
        n_planes=stored.count(_MOST_PLANES, ("nplanes",)),
        plane=stored.count(_MOST_PLANES, ("iplane",)),
        bad_frames=stored.bad_frames(),
        version=version,
        red_threshold=stored.number(0.0, 1.0, ("detection", "chan2_threshold"), ("chan2_thres",)),
        red_by_overlap=stored.red_by_overlap(),
    )


class _Stored:
    """Values by key path, the first file that has one deciding."""

    def __init__(self, dicts: Mapping[Path, Mapping[str, Any]]) -> None:
        self.dicts = dicts

    def find(self, *keys: tuple[str, ...]) -> tuple[Path, str, Any] | None:
        """File, key and value; None where no file has the key, or it is None."""
        for path, content in self.dicts.items():
            for key in keys:
                value: Any = content
                for part in key:
                    value = value.get(part) if isinstance(value, Mapping) else None
                if value is not None:
                    return path, ".".join(key), value
        return None

    def unchecked(self, *keys: tuple[str, ...]) -> float | None:
        found = self.find(*keys)
        return None if found is None else _as_float(found[2])

    def number(self, low: float, high: float, *keys: tuple[str, ...]) -> float | None:
        found = self.find(*keys)
        if found is None:
            return None
        path, key, value = found
        number = _as_float(value)
        if not low <= number <= high:  # NaN, too
            raise ReaderError(
                f"{path}: {key} is {str(value)[:50]}, expected a number from {low:g} to {high:g}.",
                _CORRECT_SETTING,
            )
        return number

    def count(self, high: int, *keys: tuple[str, ...]) -> int | None:
        number = self.number(0, high, *keys)
        return None if number is None else int(number)

    def text(self, *keys: tuple[str, ...]) -> str | None:
        found = self.find(*keys)
        return found[2][:50] if found is not None and isinstance(found[2], str) else None

    def bad_frames(self) -> NDArray[np.bool_] | None:
        marked: NDArray[np.bool_] | None = None
        for key in ("badframes", "badframes0"):
            found = self.find((key,))
            if found is None:
                continue
            path, _, value = found
            if not isinstance(value, np.ndarray) or value.ndim != 1 or value.dtype.kind not in "biu":
                raise ReaderError(
                    f"{path}: {key} is not a list of true and false, one per frame.", _CORRECT_SETTING
                )
            flags = value.astype(bool)
            if marked is not None and len(marked) != len(flags):
                raise ReaderError(
                    f"{path}: {key} has {len(flags)} entries, badframes {len(marked)}.", _CORRECT_SETTING
                )
            marked = flags if marked is None else marked | flags
        return marked

    def red_by_overlap(self) -> bool | None:
        said = [content for content in self.dicts.values() if "chan2_masks" in content]
        return any(content["chan2_masks"] is not None for content in said) if said else None


def _as_float(value: Any) -> float:
    """The number a value is, NaN when it is none."""
    try:
        return float(value) if np.ndim(value) == 0 and not isinstance(value, (str, bytes)) else math.nan
    except (TypeError, ValueError, OverflowError):
        return math.nan
