"""Raw fluorescence becomes dF/F, or deconvolved activity."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import MissingPackageError, ReaderError

SMOOTHING_FRAMES = 10.0
BASELINE_WINDOW_S = 60.0
_LEAST_BASELINE = 0.05  # of the mean fluorescence: a smaller divisor would only amplify noise
_UNITS_AT_A_TIME = 32
_NAMED = 5

RECIPE = (
    "dF/F is computed from the raw fluorescence: the baseline is a Gaussian filter (10 frames), then a "
    "running minimum and maximum over 60 s, as Suite2p's; dF/F = (F - baseline) / max(baseline, 5% of the "
    "mean F)"
)


def baseline(traces: NDArray[np.float32], fs_hz: float) -> NDArray[np.float32]:
    """Running baseline of fluorescence: smoothed, then the maximum of the minimum (Suite2p's ``maximin``).

    Args:
        traces: (n, T) float32.
        fs_hz: Frame rate.

    Returns:
        (n, T) float32.
    """
    from scipy.ndimage import gaussian_filter1d, maximum_filter1d, minimum_filter1d

    window = int(BASELINE_WINDOW_S * fs_hz)
    window += 1 - window % 2
    smooth = gaussian_filter1d(traces, SMOOTHING_FRAMES, axis=1, mode="nearest", truncate=3.0)
    low = minimum_filter1d(smooth, window, axis=1, mode="nearest")
    return np.asarray(maximum_filter1d(low, window, axis=1, mode="nearest"), dtype=np.float32)


def _by_units(values: NDArray[np.float32]) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Columns of (T, N), and their (n, T) contiguous copy, a few units at a time."""
    for begin in range(0, values.shape[1], _UNITS_AT_A_TIME):
        columns = slice(begin, min(begin + _UNITS_AT_A_TIME, values.shape[1]))
        yield columns, np.ascontiguousarray(values[:, columns].T)


def dff_in_place(values: NDArray[np.float32], fs_hz: float, ids: NDArray[np.str_], place: str) -> None:
    """Replace raw fluorescence by dF/F.

    Args:
        values: (T, N) float32, finite; overwritten.
        fs_hz: Frame rate.
        ids: (N,) str, for messages.
        place: For messages.

    Raises:
        ReaderError: Units whose mean fluorescence is not above 0: these are no raw traces.
    """
    means = values.mean(axis=0, dtype=np.float64)
    negative = np.flatnonzero(~(means > 0))
    if len(negative):
        shown = ", ".join(repr(str(unit)) for unit in ids[negative[:_NAMED]])
        raise ReaderError(
            f"{place}: the mean fluorescence of {len(negative)} of {len(ids)} units is not above 0 ({shown}"
            f"{', ...' if len(negative) > _NAMED else ''}), so it cannot be divided by.",
            "If these values are dF/F already, pass --option dff=as-is.",
        )
    for columns, traces in _by_units(values):
        low = baseline(traces, fs_hz)
        floor = (_LEAST_BASELINE * means[columns]).astype(np.float32)[:, None]
        values[:, columns] = ((traces - low) / np.maximum(low, floor)).T


def deconvolve_in_place(values: NDArray[np.float32], fs_hz: float, tau_s: float, place: str) -> None:
    """Replace raw fluorescence by the deconvolved activity of Suite2p's OASIS.

    Args:
        values: (T, N) float32, finite; overwritten.
        fs_hz: Frame rate.
        tau_s: Decay time of the indicator.
        place: For messages.

    Raises:
        MissingPackageError: Suite2p is not installed.
    """
    try:
        dcnv = importlib.import_module("suite2p.extraction.dcnv")
    except ImportError:
        raise MissingPackageError(
            "suite2p", f"{place} holds no deconvolved series; deconvolving its fluorescence"
        ) from None
    for columns, traces in _by_units(values):
        flat = traces - baseline(traces, fs_hz)
        values[:, columns] = dcnv.oasis(F=flat, batch_size=_UNITS_AT_A_TIME, tau=tau_s, fs=fs_hz).T
