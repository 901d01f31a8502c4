"""Peak channels of phy and Kilosort clusters, from the templates that their spikes were found with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import ReaderError, safe_files
from nuclr_spikeinterface.peaks import peak_columns, peak_rows
from nuclr_spikeinterface.probes import Channels

_NAMES = ("channel_map.npy", "channel_positions.npy", "channel_probes.npy")
_TEMPLATE_NAMES = (
    "templates.npy",
    "template_ind.npy",
    "templates_ind.npy",
    "whitening_mat_inv.npy",
    "spike_templates.npy",
)
_MOST_TEMPLATES = 1 << 20
_MOST_COUNTS = 1 << 28  # clusters times templates: 2 GB of counts


@dataclass(frozen=True)
class ClusterPeaks:
    """Where clusters are largest.

    Attributes:
        columns: For the units table.
        notes, warnings: For the user.
        channels: Channels of the recording; None = not told.
        rows: (N,) row of each cluster's peak channel, -1 = unknown; None = all unknown.
    """

    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    channels: Channels | None = None
    rows: NDArray[np.intp] | None = None


def template_files(folder: Path) -> list[Path]:
    """Files that peak channels depend on."""
    return [folder / name for name in (*_NAMES, *_TEMPLATE_NAMES)]


def read_channels(folder: Path) -> Channels | None:
    """Channels of the templates, numbered as in the recording; None when the folder does not list them.

    Raises:
        ReaderError: A file is damaged or does not fit the others.
    """
    map_path, positions_path = folder / "channel_map.npy", folder / "channel_positions.npy"
    positions = _small(positions_path)
    if positions is not None and (
        positions.ndim != 2 or positions.shape[1] < 2 or positions.dtype.kind not in "iuf"
    ):
        raise ReaderError(f"{positions_path} has shape {positions.shape}, expected one x and y per channel.")
    numbers = _small(map_path)
    if numbers is None:
        if positions is None:
            return None
        numbers = np.arange(len(positions))
    numbers = _flat_integers(numbers, map_path)
    if positions is not None and len(positions) != len(numbers):
        raise ReaderError(f"{positions_path} has {len(positions)} channels, {map_path.name} {len(numbers)}.")
    if len(np.unique(numbers)) < len(numbers):
        raise ReaderError(f"{map_path} names a channel twice.")
    probes = _small(folder / "channel_probes.npy")
    probe: NDArray[np.intp] | None = None
    names: tuple[str, ...] = ()
    if probes is not None:
        probes = _flat_integers(probes, folder / "channel_probes.npy")
        if len(probes) == len(numbers):
            values, probe = np.unique(probes, return_inverse=True)
            names = tuple(str(value) for value in values.tolist())
    return Channels(
        ids=numbers.astype(np.str_),
        positions_um=None if positions is None else positions[:, :2].astype(np.float64),
        probe=None if probe is None else probe.astype(np.intp),
        probe_names=names,
    )


def peaks_of_clusters(
    folder: Path, clusters: NDArray[np.int64], rows: NDArray[np.integer[Any]], n_channels: int
) -> NDArray[np.intp] | None:
    """Channel on which the mean template of each cluster has its widest range.

    The mean is over the spikes of the cluster: after merging, each may have another template.

    Args:
        folder: The folder.
        clusters: (N,) sorted cluster numbers.
        rows: (S,) row of each spike's cluster.
        n_channels: Number of channels of the recording.

    Returns:
        (N,) row of the channel, -1 = unknown; None when there are no templates.

    Raises:
        ReaderError: A file is damaged or does not fit the others.
    """
    path = folder / "templates.npy"
    if not path.is_file():
        return None
    templates = safe_files.open_npy(path)
    if templates.ndim != 3 or templates.dtype.kind != "f" or len(templates) > _MOST_TEMPLATES:
        raise ReaderError(
            f"{path} has shape {templates.shape} and type {templates.dtype}, expected 3 axes of floats."
        )
    channel_of = _channel_of(folder, templates.shape, n_channels)
    counts = _counts(folder, clusters, rows, len(templates))
    unwhiten = None if channel_of is not None else _unwhitening(folder, n_channels)
    peaks = np.full(len(clusters), -1, dtype=np.intp)
    alone: dict[int, int] = {}  # template -> channel: most clusters have a template of their own
    for row in range(len(clusters)):
        used = np.flatnonzero(counts[row])
        if len(used) == 1 and int(used[0]) in alone:
            peaks[row] = alone[int(used[0])]
            continue
        if channel_of is None:
            mean = _mean(templates, used, counts[row])
            mean = mean if unwhiten is None else mean @ unwhiten
        else:
            mean = _spread(templates, used, counts[row], channel_of, n_channels)
        peaks[row] = peak_rows(mean[None], mode="peak_to_peak")[0]
        if len(used) == 1:
            alone[int(used[0])] = int(peaks[row])
    return peaks


def cluster_columns(
    folder: Path,
    clusters: NDArray[np.int64],
    rows: NDArray[np.integer[Any]],
    known: Mapping[str, NDArray[Any]],
) -> ClusterPeaks:
    """Peak channels of all clusters, from templates, else from the column ``ch`` of cluster_info.

    What does not fit is a warning: peak channels are worth less than the spikes.

    Args:
        folder: The folder.
        clusters: (N,) sorted cluster numbers.
        rows: (S,) row of each spike's cluster.
        known: Columns of the label tables.
    """
    try:
        channels = read_channels(folder)
        if channels is None:
            return ClusterPeaks()
        peaks = peaks_of_clusters(folder, clusters, rows, len(channels.ids))
        how = "the channel with the widest range of the mean template of the cluster's spikes"
        if peaks is None and "ch" in known:
            peaks, how = channels.rows_of(known["ch"]), "the column 'ch' of cluster_info"
        if peaks is None:
            return ClusterPeaks(channels=channels)
    except ReaderError as error:
        return ClusterPeaks(warnings=(f"Peak channels are not known: {error.what}",))
    columns, notes = peak_columns(channels, peaks, known, how)
    return ClusterPeaks(columns, tuple(notes), (), channels, peaks)


def _mean(templates: NDArray[Any], used: NDArray[np.intp], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """(samples, C) mean of some templates, weighted by the number of spikes of each."""
    weights = counts[used] / max(int(counts[used].sum()), 1)
    total = np.zeros(templates.shape[1:])
    for number, weight in zip(used.tolist(), weights.tolist(), strict=True):
        total += weight * templates[number]
    return total


def _spread(
    templates: NDArray[Any],
    used: NDArray[np.intp],
    counts: NDArray[np.int64],
    channel_of: NDArray[np.int64],
    n_channels: int,
) -> NDArray[np.float64]:
    """As `_mean`, for templates that name the channels they are stored for (-1 = none)."""
    weights = counts[used] / max(int(counts[used].sum()), 1)
    total = np.zeros((templates.shape[1], n_channels))
    for number, weight in zip(used.tolist(), weights.tolist(), strict=True):
        stored = channel_of[number] >= 0
        total[:, channel_of[number][stored]] += weight * templates[number][:, stored]
    return total


def _counts(
    folder: Path, clusters: NDArray[np.int64], rows: NDArray[np.integer[Any]], n_templates: int
) -> NDArray[np.int64]:
    """(N, templates) spikes of each cluster that each template found."""
    path = folder / "spike_templates.npy"
    if len(clusters) * n_templates > _MOST_COUNTS:
        raise ReaderError(
            f"{folder} has {len(clusters)} clusters and {n_templates} templates, too many to relate."
        )
    if not path.is_file():
        if int(clusters.min()) < 0 or int(clusters.max()) >= n_templates:
            raise ReaderError(f"{path} is missing, so which templates clusters are made of is not told.")
        alone = np.zeros((len(clusters), n_templates), dtype=np.int64)
        alone[np.arange(len(clusters)), clusters] = 1
        return alone
    stored = safe_files.open_npy(path)
    if stored.dtype.kind not in "iu" or stored.size != len(rows) or stored.ndim > 2:
        raise ReaderError(
            f"{path} has shape {stored.shape} and type {stored.dtype}, expected one whole number for each of "
            f"{len(rows)} spikes."
        )
    flat = stored.reshape(-1)
    counts = np.zeros(len(clusters) * n_templates, dtype=np.int64)
    for begin in range(0, len(rows), safe_files.BLOCK):
        part = slice(begin, begin + safe_files.BLOCK)
        template = flat[part].astype(np.int64)
        if int(template.min()) < 0 or int(template.max()) >= n_templates:
            raise ReaderError(
                f"{path} names template {int(template.max())}, templates.npy holds {n_templates}."
            )
        counts += np.bincount(rows[part].astype(np.int64) * n_templates + template, minlength=len(counts))
    return counts.reshape(len(clusters), n_templates)


def _channel_of(folder: Path, shape: tuple[int, ...], n_channels: int) -> NDArray[np.int64] | None:
    """(templates, stored channels) channel of each stored column; None when all are stored in order."""
    for name in ("template_ind.npy", "templates_ind.npy"):
        path = folder / name
        stored = _small(path)
        if stored is None:
            continue
        if stored.shape != (shape[0], shape[2]) or stored.dtype.kind not in "iuf":
            raise ReaderError(f"{path} has shape {stored.shape}, expected {(shape[0], shape[2])}.")
        channels: NDArray[np.int64] = np.nan_to_num(stored, nan=-1).astype(np.int64)
        channels[channels >= n_channels] = -1  # phy pads with the number of channels, too
        in_order = shape[2] == n_channels and (channels == np.arange(n_channels)).all()
        return None if in_order else channels
    if shape[2] != n_channels:
        raise ReaderError(
            f"{folder / 'templates.npy'} has {shape[2]} channels, channel_map.npy {n_channels}."
        )
    return None


def _unwhitening(folder: Path, n_channels: int) -> NDArray[np.float64] | None:
    """Turns whitened templates, which Kilosort stores, back into voltages; None = nothing to do."""
    matrix = _small(folder / "whitening_mat_inv.npy")
    if matrix is None or matrix.shape != (n_channels, n_channels) or matrix.dtype.kind != "f":
        return None
    finite = np.isfinite(matrix).all()
    diagonal = np.count_nonzero(matrix - np.diag(np.diagonal(matrix))) == 0
    return None if diagonal or not finite else matrix.astype(np.float64)


def _small(path: Path) -> NDArray[Any] | None:
    return np.asarray(safe_files.open_npy(path)) if path.is_file() else None


def _flat_integers(values: NDArray[Any], path: Path) -> NDArray[np.int64]:
    """(C,) or (C, 1) whole numbers; MATLAB writes them as floats."""
    flat = values.reshape(-1)
    whole = flat.dtype.kind in "iu" or (flat.dtype.kind == "f" and (flat == np.floor(flat)).all())
    if values.size != len(values) or not whole:
        raise ReaderError(
            f"{path} has shape {values.shape} and type {values.dtype}, expected one number per channel."
        )
    return flat.astype(np.int64)
