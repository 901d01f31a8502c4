"""The traces of all planes as one array: dF/F, or deconvolved activity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import MissingPackageError, ReaderError, ReadOptions
from nuclr_suite2p.layout import PlaneFolder
from nuclr_suite2p.settings import (
    NEUROPIL_COEFFICIENT,
    SIG_BASELINE_FRAMES,
    WIN_BASELINE_S,
    PlaneSettings,
)
from nuclr_suite2p.signal import FLOOR, Broken, Recipe, TraceFile, Traces, baseline, delta_f_over_f, fill

_NAMED = 5
_COPY_AGAIN = "Copy the whole plane folder again, or let Suite2p extract it again."


@dataclass(frozen=True)
class PlaneTraces:
    """One plane: its files, and the rows of its arrays that are units."""

    folder: PlaneFolder
    settings: PlaneSettings
    raw: TraceFile
    rows: NDArray[np.int64]


@dataclass(frozen=True)
class Traced:
    """Traces of all units, also of those that cannot be used.

    Attributes:
        values: (T, N) float32.
        broken: Columns that cannot be used.
        notes: What was assumed.
        provenance: Signal and recipe.
    """

    values: Traces
    broken: Broken
    notes: tuple[str, ...]
    provenance: dict[str, Any]


@dataclass(frozen=True)
class _Source:
    """Arrays to read, and what to make of their blocks."""

    files: tuple[TraceFile, ...]
    make: Callable[..., Traces]
    recipe: Recipe | None


def read_traces(
    planes: Sequence[PlaneTraces], fs_hz: float, frames: NDArray[np.bool_], options: ReadOptions
) -> Traced:
    """Read and compute in blocks: memory stays near the size of the result.

    Args:
        planes: In the order of the units.
        fs_hz: Frames per second.
        frames: (T,) which frames are kept.
        options: `signal`.

    Raises:
        ReaderError: A file is missing, damaged, or does not fit F.npy.
        MissingPackageError: Deconvolution needs Suite2p.
    """
    notes: list[str] = []
    signal = options.signal or "dff"
    # All of them first: an error should come before the work, not after it.
    choose = _spks if signal == "spks" else _dff
    sources = [choose(plane, fs_hz, notes) for plane in planes]
    n_units = sum(len(plane.rows) for plane in planes)
    values = np.empty((int(frames.sum()), n_units), dtype=np.float32)
    broken = Broken()
    column = 0
    for plane, source in zip(planes, sources, strict=True):
        fill(values, source.files, plane.rows, frames, column, source.make, broken)
        column += len(plane.rows)
    if broken.bridged:
        notes.append(
            f"{broken.bridged_samples} NaN or infinite samples of {len(broken.bridged)} units lie in frames "
            "that are marked as bad: bridged by straight lines for the baseline, left out with these frames."
        )
    recipes = [source.recipe for source in sources if source.recipe is not None]
    provenance: dict[str, Any] = {"signal": signal}
    if recipes:
        provenance["baseline"] = [
            {
                "method": "maximin",
                "neuropil_coefficient": recipe.neuropil_coefficient,
                "sig_baseline_frames": recipe.sig_baseline_frames,
                "window_frames": recipe.window_frames,
                "floor_of_mean": FLOOR,
            }
            for recipe in recipes
        ]
    return Traced(values, broken, tuple(notes), provenance)


def without_broken(
    traced: Traced, ids: NDArray[np.str_], path: Path, options: ReadOptions, notes: list[str]
) -> tuple[Traces, NDArray[np.bool_]]:
    """Traces of usable units, and (N,) which these are.

    Raises:
        ReaderError: There are others and nobody said to leave them out, or there are only others.
    """
    usable = np.ones(len(ids), dtype=bool)
    usable[traced.broken.not_finite] = False
    usable[traced.broken.no_mean] = False
    if usable.all():
        return traced.values, usable
    reasons = [
        f"{what} of {_names(ids[columns])}"
        for what, columns in (
            ("NaN or infinite samples in the traces", traced.broken.not_finite),
            ("no dF/F, because the fluorescence or its mean is not above 0,", traced.broken.no_mean),
        )
        if columns
    ]
    said = "; ".join(reasons)
    if not options.drop_nan_units:
        raise ReaderError(f"{path}: {said}.", "Repair the source, or leave these units out: --drop-nan-units")
    if not usable.any():
        raise ReaderError(f"{path}: {said}; no unit is left.", "Repair the source.")
    notes.append(f"{int((~usable).sum())} of {len(ids)} units were left out: {said}.")
    return traced.values[:, usable], usable


def _names(ids: NDArray[np.str_]) -> str:
    more = ", ..." if len(ids) > _NAMED else ""
    return f"{len(ids)} unit{'s' * (len(ids) != 1)} ({', '.join(map(str, ids[:_NAMED]))}{more})"


def _dff(plane: PlaneTraces, fs_hz: float, notes: list[str]) -> _Source:
    recipe = _recipe(plane, fs_hz, notes)
    settings = plane.settings
    if settings.baseline not in (None, "maximin"):
        notes.append(
            f"{plane.folder.path.name}: Suite2p deconvolved with the baseline {settings.baseline!r}; dF/F "
            "uses maximin all the same."
        )
    notes.append(
        f"dF/F = (G - B) / max(B, {FLOOR:.0%} of the mean of F); "
        f"G = F - {recipe.neuropil_coefficient:g} Fneu, "
        f"B = running minimum, then maximum over {recipe.window_frames} frames of G smoothed over "
        f"{recipe.sig_baseline_frames:g} frames."
    )
    files = _fluorescence(plane, recipe)

    def make(raw: Traces, neuropil: Traces | None = None) -> Traces:
        return delta_f_over_f(raw, neuropil, recipe)

    return _Source(files, make, recipe)


def _spks(plane: PlaneTraces, fs_hz: float, notes: list[str]) -> _Source:
    """Deconvolved activity as Suite2p saved it, else by its own OASIS."""
    if plane.folder.has("spks.npy"):
        file = _fitting(plane, "spks.npy")
        notes.append("The signal is spks.npy, deconvolved by Suite2p: in units of fluorescence, not dF/F.")
        return _Source((file,), lambda spks: spks, None)
    tau_s = plane.settings.tau_s
    if tau_s is None:
        raise ReaderError(
            f"{plane.folder.path} has no spks.npy, and nothing says the indicator's decay time (tau).",
            "Let Suite2p deconvolve, or read dF/F: --signal dff",
        )
    oasis = _suite2p_oasis()
    recipe = _recipe(plane, fs_hz, notes)
    notes.append(
        f"{plane.folder.path.name} has no spks.npy: deconvolved with Suite2p's OASIS, tau {tau_s:g} s, at "
        f"{fs_hz:g} Hz."
    )
    files = _fluorescence(plane, recipe)

    def make(raw: Traces, neuropil: Traces | None = None) -> Traces:
        corrected = raw if neuropil is None else raw - np.float32(recipe.neuropil_coefficient) * neuropil
        corrected -= baseline(corrected, recipe)
        result: Traces = oasis(corrected, batch_size=len(corrected), tau=tau_s, fs=fs_hz)
        return result

    return _Source(files, make, recipe)


def _suite2p_oasis() -> Callable[..., Traces]:
    try:
        from suite2p.extraction.dcnv import oasis
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            error.name or "suite2p", "Deconvolving traces (there is no spks.npy)"
        ) from None
    except Exception as error:  # a broken torch, numba or torchvision raises whatever it likes
        raise ReaderError(
            f"suite2p is installed but cannot be imported: {type(error).__name__}: {error}.",
            "Repair that installation, let Suite2p deconvolve, or read dF/F: --signal dff",
        ) from None
    deconvolve: Callable[..., Traces] = oasis
    return deconvolve


def _recipe(plane: PlaneTraces, fs_hz: float, notes: list[str]) -> Recipe:
    settings = plane.settings
    assumed = []

    def known(value: float | None, default: float, name: str) -> float:
        if value is None:
            assumed.append(f"{name} {default:g}")
        return default if value is None else value

    coefficient = known(settings.neuropil_coefficient, NEUROPIL_COEFFICIENT, "neuropil coefficient")
    window_s = known(settings.win_baseline_s, WIN_BASELINE_S, "baseline window (s)")
    sigma = known(settings.sig_baseline_frames, SIG_BASELINE_FRAMES, "baseline smoothing (frames)")
    if assumed:
        notes.append(
            f"{plane.folder.path.name}: no file says {', '.join(assumed)}; Suite2p's defaults are taken."
        )
    return Recipe.of(coefficient, sigma, window_s, fs_hz)


def _fluorescence(plane: PlaneTraces, recipe: Recipe) -> tuple[TraceFile, ...]:
    if recipe.neuropil_coefficient == 0:
        return (plane.raw,)
    return (plane.raw, _fitting(plane, "Fneu.npy"))


def _fitting(plane: PlaneTraces, name: str) -> TraceFile:
    """An array that must have the shape of F."""
    file = TraceFile.open(plane.folder.file(name))
    if file.shape != plane.raw.shape:
        raise ReaderError(
            f"{file.path} has shape {file.shape}, F.npy {plane.raw.shape}; they must agree.", _COPY_AGAIN
        )
    return file
