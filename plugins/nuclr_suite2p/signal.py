"""Traces: neuropil correction, baseline and dF/F, a block of units at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import ReaderError, safe_files

FLOOR = 0.05
"""dF/F divides by no less than this part of a unit's mean fluorescence: a baseline near 0 would blow up."""

_TRUNCATE = 3  # sigmas, as Suite2p
_BLOCK_SAMPLES = 1 << 21

Traces = NDArray[np.float32]


@dataclass(frozen=True)
class Recipe:
    """How fluorescence becomes dF/F.

    Attributes:
        neuropil_coefficient: G = F - coefficient * Fneu.
        sig_baseline_frames: Sigma of the Gaussian.
        window_frames: Length of the running minimum, then maximum; odd.
    """

    neuropil_coefficient: float
    sig_baseline_frames: float
    window_frames: int

    @classmethod
    def of(cls, coefficient: float, sig_frames: float, win_s: float, fs_hz: float) -> Recipe:
        frames = int(win_s * fs_hz)
        return cls(coefficient, sig_frames, frames + 1 - frames % 2)


def baseline(traces: Traces, recipe: Recipe) -> Traces:
    """Suite2p's "maximin" baseline: Gaussian, running minimum, running maximum, edges repeated.

    Equals ``suite2p.extraction.dcnv.baseline_maximin`` of 1.1.0 to rounding, without torch.

    Args:
        traces: (n, T) float32, corrected for neuropil.
        recipe: Its widths.

    Returns:
        (n, T) float32.
    """
    from scipy.ndimage import gaussian_filter1d, maximum_filter1d, minimum_filter1d

    radius = int(np.round(recipe.sig_baseline_frames * _TRUNCATE))
    # From twice the recording on, every frame sees all of it: a wider window only costs memory.
    window = min(recipe.window_frames, 2 * traces.shape[1] + 1)
    smooth = gaussian_filter1d(traces, recipe.sig_baseline_frames, axis=1, mode="nearest", radius=radius)
    lowest = minimum_filter1d(smooth, window, axis=1, mode="nearest")
    result: Traces = maximum_filter1d(lowest, window, axis=1, mode="nearest")
    return result


def delta_f_over_f(raw: Traces, neuropil: Traces | None, recipe: Recipe) -> Traces:
    """(G - B) / max(B, 5% of the mean of F).

    Args:
        raw: (n, T) float32 F.
        neuropil: (n, T) float32 Fneu, None where the coefficient is 0.
        recipe: Coefficient and widths.

    Returns:
        (n, T) float32; not finite for a unit whose mean fluorescence is not above 0.
    """
    corrected = raw if neuropil is None else raw - np.float32(recipe.neuropil_coefficient) * neuropil
    base = baseline(corrected, recipe)
    mean = raw.mean(axis=1, dtype=np.float64)
    floor = np.where(mean > 0, FLOOR * mean, np.nan).astype(np.float32)
    result: Traces = corrected - base
    result /= np.maximum(base, floor[:, None])
    return result


@dataclass(frozen=True)
class TraceFile:
    """A ``(N, T)`` array on disk whose header was checked.

    It is mapped anew for each block: pages that stay mapped count as memory of this process.
    """

    path: Path
    shape: tuple[int, int]

    @classmethod
    def open(cls, path: Path) -> TraceFile:
        """Raises ReaderError: missing, damaged, or no table of numbers."""
        array = safe_files.open_npy(path)
        if array.ndim != 2 or array.dtype.kind not in "fiu":
            raise ReaderError(
                f"{path} holds {array.dtype} values of shape {array.shape}, expected numbers, ROIs x frames.",
                "Copy it again, or let Suite2p write it again.",
            )
        return cls(path, (array.shape[0], array.shape[1]))

    def rows(self, which: NDArray[np.int64]) -> Traces:
        """(n, T) float32 copy of some units."""
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as such
            return np.ascontiguousarray(safe_files.open_npy(self.path)[which], dtype=np.float32)


@dataclass
class Broken:
    """Units whose traces cannot be used, by row of the result, and why.

    Attributes:
        not_finite: NaN or infinite samples in frames that count.
        no_mean: No fluorescence to divide by.
        bridged: Usable units that had such samples in frames that do not count, where they do no harm.
        bridged_samples: How many these were; one that is missing in F and in Fneu counts once.
    """

    not_finite: list[int] = field(default_factory=list)
    no_mean: list[int] = field(default_factory=list)
    bridged: list[int] = field(default_factory=list)
    bridged_samples: int = 0


def fill(
    values: Traces,
    files: tuple[TraceFile, ...],
    rows: NDArray[np.int64],
    frames: NDArray[np.bool_],
    first_column: int,
    make: Callable[..., Traces],
    broken: Broken,
) -> None:
    """Compute a plane's units block by block into the columns of `values` from `first_column` on.

    Args:
        values: (T', N) float32, written.
        files: Arrays that `make` takes, in its order; the first is F where there are two.
        rows: Units of this plane that are kept.
        frames: (T,) frames that are kept; the arrays may have more frames, which are cut off before `make`.
        first_column: Column of the first unit.
        make: (n, T) blocks in, (n, T) block out.
        broken: Takes the columns that cannot be used.
    """
    step = max(1, _BLOCK_SAMPLES // max(1, files[0].shape[1]))
    keep_all = bool(frames.all())
    for begin in range(0, len(rows), step):
        which = rows[begin : begin + step]
        column = first_column + begin
        inputs = [file.rows(which)[:, : len(frames)] for file in files]
        finite = np.all([np.isfinite(block[:, frames]).all(axis=1) for block in inputs], axis=0)
        lost = np.any([~np.isfinite(block) for block in inputs], axis=0) & finite[:, None]
        for block in inputs:
            block[~finite] = 1.0  # keeps the filters free of warnings; the unit is refused or left out
            _bridge(block, frames)
        broken.bridged += (column + np.flatnonzero(lost.any(axis=1))).tolist()
        broken.bridged_samples += int(lost.sum())
        made = make(*inputs)
        usable = np.isfinite(made).all(axis=1)
        broken.not_finite += (column + np.flatnonzero(~finite)).tolist()
        broken.no_mean += (column + np.flatnonzero(finite & ~usable)).tolist()
        values[:, column : column + len(which)] = (made if keep_all else made[:, frames]).T


def _bridge(block: Traces, frames: NDArray[np.bool_]) -> None:
    """Put straight lines where samples are not finite in frames that do not count: no filter may see NaN.

    One NaN would spread over a whole window of the baseline. Other samples of such frames stay: Suite2p's own
    baseline sees them, too.

    Args:
        block: (n, T), changed in place; finite in all `frames`.
        frames: (T,) frames that count; the lines run between these.
    """
    lost = ~np.isfinite(block)
    known = np.flatnonzero(frames)
    for row in np.flatnonzero(lost.any(axis=1)):
        gaps = np.flatnonzero(lost[row])
        block[row, gaps] = np.interp(gaps, known, block[row, known])
