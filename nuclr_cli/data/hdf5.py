"""HDF5 that anyone may have written: nothing outside the file is opened, no promise is believed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NoReturn

import h5py
import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import hdf5_damage
from nuclr_cli.errors import InputError

# Deflate cannot shrink anything further than 1032 to 1; a larger promise is a lie, not data.
_MOST_DEFLATION = 1100
_SMALL = 64 << 20  # bytes that may be promised without being looked at twice


def refuse(path: Path, what: str) -> NoReturn:
    """Raise the error of HDF5 that is no population file."""
    raise InputError(
        f"{path} is HDF5 but not a population file in the temporaldata layout: {what}.",
        "Give a folder made by `nuclr preprocess` or by brainsets, and move other .h5 files out of it.",
    )


def require_sound_texts(path: Path, file: h5py.File) -> None:
    """Refuse a file in which HDF5 would hang as soon as it reads a text.

    Raises:
        InputError: Names the first damaged byte.
    """
    at = hdf5_damage.damaged_texts(path, file)
    if at is not None:
        raise InputError(
            f"{path} is damaged: the texts at byte {at} do not follow one another.",
            "Copy it again, or make it anew with `nuclr preprocess SOURCE --overwrite`.",
        )


def member(path: Path, group: h5py.Group, name: str) -> Any:
    """What `group` holds under `name`, None = nothing.

    Raises:
        InputError: It is a link to another place: its bytes could change without anyone's notice.
    """
    link = group.get(name, getlink=True)
    if link is None:
        return None
    if isinstance(link, h5py.HardLink):
        return group[name]
    target = f"{link.filename}:{link.path}" if isinstance(link, h5py.ExternalLink) else str(link.path)
    at = f"{group.name.rstrip('/')}/{name}".lstrip("/")
    raise InputError(
        f"{path}: {at!r} is a link to {target}, which is not followed.",
        "Copy what it leads to into the file.",
    )


def values(path: Path, dataset: Any) -> NDArray[Any]:
    """All values of a dataset of numbers or text.

    Raises:
        InputError: The values lie in another file, were never written, or are of another type.
    """
    if not isinstance(dataset, h5py.Dataset):
        refuse(path, f"its {dataset.name!r} is no array")
    if not hdf5_damage.is_plain(dataset.id):
        refuse(path, f"its {dataset.name!r} holds neither numbers nor text")
    require_stored(path, dataset)
    found: NDArray[Any] = dataset[()]
    return found


def require_stored(path: Path, dataset: h5py.Dataset) -> None:
    """Refuse an array whose values do not all lie in the file.

    Raises:
        InputError: They are in other files, or some were never written.
    """
    if dataset.shape is None:
        refuse(path, f"its {dataset.name!r} is empty")
    if dataset.is_virtual or dataset.external:
        refuse(path, f"its {dataset.name!r} takes its values from other files")
    promised = math.prod(dataset.shape) * dataset.dtype.itemsize
    if not promised:
        return
    stored = int(dataset.id.get_storage_size())
    if dataset.chunks is None:
        if stored < promised:
            refuse(path, f"its {dataset.name!r} promises {promised} bytes but {stored} are in the file")
        return
    chunks = math.prod(-(-n // c) for n, c in zip(dataset.shape, dataset.chunks, strict=True))
    if dataset.id.get_num_chunks() < chunks:
        refuse(path, f"its {dataset.name!r} lacks chunks, whose values would be read as 0")
    if promised > _SMALL and promised > _MOST_DEFLATION * stored:
        refuse(path, f"its {dataset.name!r} promises {promised} bytes but only {stored} are in the file")


def text_attribute(item: Any, name: str) -> str:
    """An attribute as text; '' when it is not there, or of a type that only damage makes."""
    if item is None or name not in item.attrs or not hdf5_damage.is_plain(item.attrs.get_id(name)):
        return ""
    value = item.attrs[name]
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def number_attribute(item: Any, name: str) -> float:
    """An attribute as a number; NaN when it is not there or no number."""
    if name not in item.attrs or not hdf5_damage.is_plain(item.attrs.get_id(name)):
        return float("nan")
    try:
        return float(item.attrs[name])
    except (TypeError, ValueError):
        return float("nan")


def edges_of(path: Path, group: h5py.Group) -> NDArray[np.float64]:
    """(M, 2) float64 seconds of an Interval as it is stored."""
    columns = [member(path, group, name) for name in ("start", "end")]
    if any(column is None for column in columns):
        refuse(path, f"its group {group.name!r} has no datasets 'start' and 'end'")
    start, end = (values(path, column) for column in columns)
    numbers = start.dtype.kind in "iuf" and end.dtype.kind in "iuf"
    if start.ndim != 1 or start.shape != end.shape or not numbers:
        refuse(path, f"its group {group.name!r} does not hold one start and one end for each interval")
    edges: NDArray[np.float64] = np.stack([start, end], axis=1).astype(np.float64)
    return edges
