"""phy and Kilosort folders: integer sample times, one cluster per spike, labels in ``cluster_*.tsv``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import ReaderError, safe_files
from nuclr_spikeinterface.cluster_tables import cluster_table_files, read_cluster_tables
from nuclr_spikeinterface.groups import assign_probes
from nuclr_spikeinterface.phy_templates import ClusterPeaks, cluster_columns, template_files
from nuclr_spikeinterface.sorting import Block, RawSorting, require_integers, sampling_rate


def read_phy(folder: Path) -> RawSorting:
    """Every cluster that has spikes becomes a unit; label tables are joined on the left, so none is lost.

    Raises:
        ReaderError: A file is missing or damaged, or the lengths differ.
    """
    times_path, params_path = folder / "spike_times.npy", folder / "params.py"
    notes = []
    clusters_path = clusters_file(folder)
    if clusters_path.name == "spike_templates.npy":
        notes.append(
            "There is no spike_clusters.npy, so units are the templates in spike_templates.npy (uncurated)."
        )
    times = _one_per_spike(safe_files.open_npy(times_path), "spike times", times_path)
    clusters = _one_per_spike(safe_files.open_npy(clusters_path), "cluster ids", clusters_path)
    if len(times) != len(clusters):
        raise ReaderError(
            f"{times_path} has {len(times)} spikes but {clusters_path.name} has {len(clusters)}.",
            "The folder mixes files of two runs; export it again.",
        )
    ids = _distinct(clusters)
    unit_ids = np.array([str(number) for number in ids.tolist()], dtype=np.str_)
    tables = read_cluster_tables(folder, ids)
    if tables.without_spikes:
        notes.append(
            f"{len(tables.without_spikes)} clusters of the label tables have no spikes and are no units: "
            f"{', '.join(map(str, tables.without_spikes[:10]))}."
        )
    notes += tables.notes
    rows = _rows(clusters, ids)
    peaks = cluster_columns(folder, ids, rows, tables.columns) if len(ids) else ClusterPeaks()

    def blocks() -> Iterator[Block]:
        for begin in range(0, len(times), safe_files.BLOCK):
            part = slice(begin, begin + safe_files.BLOCK)
            yield Block(0, times[part], rows[part])

    raw = RawSorting(
        place=times_path,
        unit_ids=unit_ids,
        n_segments=1,
        fs_hz=sampling_rate(safe_files.read_params(params_path).get("sample_rate")),
        fs_place=params_path,
        blocks=blocks,
        properties={**tables.columns, **peaks.columns},
        notes=(*notes, *peaks.notes),
        warnings=(*tables.warnings, *peaks.warnings),
        quality_columns=("group", "KSLabel"),
        dropped_ids=tuple(map(str, tables.without_spikes)),
    )
    return raw if peaks.channels is None else assign_probes(raw, peaks.channels, peaks.rows)


def clusters_file(folder: Path) -> Path:
    """The curated clusters when there are any, else the templates they began as."""
    curated = folder / "spike_clusters.npy"
    original = folder / "spike_templates.npy"
    return original if original.is_file() and not curated.is_file() else curated


def phy_files(folder: Path) -> list[Path]:
    """Every file that `read_phy` reads."""
    return [
        folder / "params.py",
        folder / "spike_times.npy",
        clusters_file(folder),
        *cluster_table_files(folder),
        *template_files(folder),
    ]


def _one_per_spike(array: NDArray[Any], what: str, place: Path) -> NDArray[Any]:
    """Flatten (S, 1), which MATLAB and SpikeInterface write, and refuse other shapes."""
    require_integers(array, what, place)
    if array.ndim == 2 and array.shape[1] == 1:
        return array[:, 0]
    if array.ndim != 1:
        raise ReaderError(
            f"{place} has shape {array.shape}, expected one value per spike.", "Export it again."
        )
    return array


def _distinct(clusters: NDArray[Any]) -> NDArray[np.int64]:
    """Sorted distinct cluster numbers, found block by block."""
    found: NDArray[np.int64] = np.empty(0, dtype=np.int64)
    for begin in range(0, len(clusters), safe_files.BLOCK):
        part = clusters[begin : begin + safe_files.BLOCK]
        if part.min() >= 0 and part.max() < safe_files.BLOCK:
            distinct = np.flatnonzero(np.bincount(part.astype(np.int64)))  # no sorting
        else:
            distinct = np.unique(part).astype(np.int64)
        found = np.union1d(found, distinct)
    return found


def _rows(clusters: NDArray[Any], ids: NDArray[np.int64]) -> NDArray[np.integer[Any]]:
    """(S,) row of each spike's cluster among the sorted `ids`."""
    rows: NDArray[np.integer[Any]] = np.empty(len(clusters), np.uint16 if len(ids) <= 1 << 16 else np.uint32)
    table: NDArray[Any] | None = None
    if len(ids) and ids[0] >= 0 and ids[-1] < safe_files.BLOCK:
        table = np.zeros(int(ids[-1]) + 1, dtype=rows.dtype)
        table[ids] = np.arange(len(ids))
    for begin in range(0, len(clusters), safe_files.BLOCK):
        part = clusters[begin : begin + safe_files.BLOCK]
        rows[begin : begin + len(part)] = np.searchsorted(ids, part) if table is None else table[part]
    return rows
