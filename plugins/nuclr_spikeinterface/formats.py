"""SpikeInterface's own layouts: numpy_folder, npz_folder, bare .npz."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import ReaderError, safe_files
from nuclr_spikeinterface.sorting import (
    Block,
    RawSorting,
    number_of_segments,
    require_integers,
    sampling_rate,
    text_ids,
)

_SPIKE_FIELDS = ("sample_index", "unit_index", "segment_index")


def read_numpy_folder(folder: Path, *, trust: bool) -> RawSorting:
    """``spikes.npy``: one structured row (sample_index, unit_index, segment_index) per spike.

    Raises:
        ReaderError: A file is missing or damaged.
    """
    info_path, spikes_path = folder / "numpysorting_info.json", folder / "spikes.npy"
    info = safe_files.read_json(info_path)
    unit_ids = text_ids(info.get("unit_ids"), info_path)
    spikes = safe_files.open_npy(spikes_path)
    names = spikes.dtype.names or ()
    missing = [name for name in _SPIKE_FIELDS if name not in names]
    if missing or spikes.ndim != 1:
        raise ReaderError(
            f"{spikes_path} has type {spikes.dtype} and shape {spikes.shape}, expected one row of "
            f"{', '.join(_SPIKE_FIELDS)} per spike.",
            "Save the sorting again with SpikeInterface.",
        )
    for name in _SPIKE_FIELDS:
        require_integers(spikes[name], name, spikes_path)
    n_segments = number_of_segments(info.get("num_segments"), info_path)

    def blocks() -> Iterator[Block]:
        for rows in safe_files.npy_blocks(spikes_path):
            yield from by_segment(rows, n_segments, spikes_path)

    return RawSorting(
        place=spikes_path,
        unit_ids=unit_ids,
        n_segments=n_segments,
        fs_hz=sampling_rate(info.get("sampling_frequency")),
        fs_place=info_path,
        blocks=blocks,
        properties=_properties(folder, len(unit_ids), trust=trust),
        annotations=_annotations(folder),
        versions=_written_by(folder),
    )


def read_npz_folder(folder: Path, *, trust: bool) -> RawSorting:
    """An ``.npz`` named by ``npz.json``, with ``properties/`` beside it.

    Raises:
        ReaderError: A file is missing or damaged.
    """
    pointer = folder / "npz.json"
    arguments = safe_files.read_json(pointer).get("kwargs")
    name = arguments.get("file_path") if isinstance(arguments, dict) else None
    # The name comes from a data file: it may only point at a neighbour.
    if not isinstance(name, str) or Path(name).name != name or name in ("", ".", ".."):
        raise ReaderError(
            f"{pointer} does not name a file in its own folder: {name!r}.", "Save the sorting again."
        )
    return read_npz(
        folder / name,
        properties_of=lambda n_units: _properties(folder, n_units, trust=trust),
        annotations=_annotations(folder),
        versions=_written_by(folder),
    )


def read_npz(
    path: Path,
    *,
    properties_of: Any = lambda n_units: {},
    annotations: dict[str, Any] | None = None,
    versions: dict[str, str] | None = None,
) -> RawSorting:
    """``spike_indexes_seg{i}`` and ``spike_labels_seg{i}``, the latter holding unit ids.

    Args:
        path: The ``.npz`` file.
        properties_of: Number of units -> property columns.
        annotations, versions: What the folder around it tells.

    Raises:
        ReaderError: An array is missing or damaged.
    """
    if not path.is_file():
        raise ReaderError(f"{path} is missing.", "Copy the whole folder again, or save it again.")
    stored_ids = safe_files.load_npz(path, "unit_ids")
    unit_ids = text_ids(stored_ids, path)
    n_segments = number_of_segments(
        _only(safe_files.load_npz(path, "num_segment"), "num_segment", path), path
    )
    stored = sum(name.startswith("spike_indexes_seg") for name in safe_files.npz_names(path) or ())
    if stored > n_segments:
        raise ReaderError(
            f"{path} holds spikes of {stored} segments, but num_segment says {n_segments}.",
            "Spikes would be lost; save the sorting again.",
        )
    fs_hz = sampling_rate(_only(safe_files.load_npz(path, "sampling_frequency"), "sampling_frequency", path))

    def blocks() -> Iterator[Block]:
        order = np.argsort(unit_ids)
        for segment in range(n_segments):
            samples = _flat(safe_files.load_npz(path, f"spike_indexes_seg{segment}"), "spike_indexes", path)
            labels = _flat(safe_files.load_npz(path, f"spike_labels_seg{segment}"), "spike_labels", path)
            require_integers(samples, f"spike_indexes_seg{segment}", path)
            if len(samples) != len(labels):
                raise ReaderError(
                    f"{path}: segment {segment} has {len(samples)} spikes but {len(labels)} unit labels.",
                    "Save the sorting again.",
                )
            for begin in range(0, len(samples), safe_files.BLOCK):
                part = slice(begin, begin + safe_files.BLOCK)
                yield Block(segment, samples[part], _rows_of(labels[part], unit_ids, order, path))

    return RawSorting(
        place=path,
        unit_ids=unit_ids,
        n_segments=n_segments,
        fs_hz=fs_hz,
        fs_place=path,
        blocks=blocks,
        properties=properties_of(len(unit_ids)),
        annotations=annotations or {},
        versions=versions or {},
    )


def by_segment(rows: NDArray[Any], n_segments: int, place: Path) -> Iterator[Block]:
    """Split rows of the spike vector by segment, keeping their order."""
    segment = rows["segment_index"]
    low, high = int(segment.min()), int(segment.max())
    if low < 0 or high >= n_segments:
        outside = int(((segment < 0) | (segment >= n_segments)).sum())
        raise ReaderError(
            f"{place}: {outside} spikes have a segment_index outside 0..{n_segments - 1} "
            f"(from {low} to {high}).",
            "The folder mixes files of different sortings; save it again.",
        )
    if low == high:
        yield Block(low, rows["sample_index"], rows["unit_index"])
        return
    for number in np.unique(segment):
        part = rows[segment == number]
        yield Block(int(number), part["sample_index"], part["unit_index"])


def _rows_of(
    labels: NDArray[Any], unit_ids: NDArray[np.str_], order: NDArray[np.intp], place: Path
) -> NDArray[np.int64]:
    """Row of the units table of each label (ids compare as text)."""
    names, where = np.unique(labels, return_inverse=True)
    wanted = np.array([str(name) for name in names.tolist()], dtype=np.str_)
    found = np.searchsorted(unit_ids, wanted, sorter=order).clip(max=max(len(unit_ids) - 1, 0))
    rows = order[found] if len(unit_ids) else np.zeros(len(wanted), np.intp)
    unknown = [
        n for n, row in zip(wanted.tolist(), rows, strict=True) if not len(unit_ids) or unit_ids[row] != n
    ]
    if unknown:
        raise ReaderError(
            f"{place}: spikes are labelled with {len(unknown)} ids that unit_ids does not list: "
            f"{', '.join(unknown[:5])}.",
            "Save the sorting again.",
        )
    return rows.astype(np.int64)[where.reshape(-1)]


def _only(array: NDArray[Any], name: str, place: Path) -> Any:
    if array.size != 1:
        raise ReaderError(
            f"{place}: {name} holds {array.size} values, expected 1.", "Save the sorting again."
        )
    return array.reshape(-1)[0].item()


def _flat(array: NDArray[Any], name: str, place: Path) -> NDArray[Any]:
    if array.ndim != 1:
        raise ReaderError(f"{place}: {name} has shape {array.shape}, expected one value per spike.")
    return array


def _properties(folder: Path, n_units: int, *, trust: bool) -> dict[str, NDArray[Any]]:
    columns = {}
    for path in property_files(folder):
        columns[path.stem] = column = safe_files.load_column(path, trust=trust)
        if column.ndim == 0 or len(column) != n_units:
            raise ReaderError(
                f"{path} has shape {column.shape}, expected one value for each of the {n_units} units.",
                "Labels could land on the wrong units; save the sorting again or delete that file.",
            )
    if "main_channel_id" not in columns:
        kept = _si_folder(folder).get("properties")
        channels = kept.get("main_channel_id") if isinstance(kept, dict) else None
        if isinstance(channels, list) and len(channels) == n_units:
            columns["main_channel_id"] = np.array([str(channel) for channel in channels], dtype=np.str_)
    return columns


def property_files(folder: Path) -> list[Path]:
    """The files of ``properties/``, sorted by name, without the ``._`` twins that macOS adds."""
    return sorted(path for path in (folder / "properties").glob("*.npy") if not path.name.startswith("."))


def _annotations(folder: Path) -> dict[str, Any]:
    """Annotations from ``si_folder.json``, then from ``annotations.json``, which newer versions write."""
    kept = _si_folder(folder).get("annotations")
    merged = dict(kept) if isinstance(kept, dict) else {}
    if (folder / "annotations.json").is_file():
        merged.update(safe_files.read_json(folder / "annotations.json"))
    return merged


def _written_by(folder: Path) -> dict[str, str]:
    version = _si_folder(folder).get("version")
    return {"spikeinterface (writer)": version} if isinstance(version, str) else {}


def _si_folder(folder: Path) -> dict[str, Any]:
    """``si_folder.json``. Class and module names in it are ignored: they say what to run."""
    path = folder / "si_folder.json"
    return safe_files.read_json(path) if path.is_file() else {}
