"""HDF5 that may be damaged or hostile: nothing outside the file is opened, no promise is believed.

An HDF5 file can name other files (external links, external and virtual datasets) and promise arrays of any
size (chunks that were never written read as zeros). Both are errors here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import h5py
import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import ReaderError, hdf5_damage

LONGEST_TEXT = 10_000  # characters; a longer value is no label, id or attribute

COPY_AGAIN = "Copy it again, or run the pipeline that made it again."

# Deflate cannot shrink anything further than 1032 to 1; a larger promise is a lie, not data.
_MOST_DEFLATION = 1100
_SMALL = 64 << 20  # bytes that may be promised without being looked at twice
_TEXT_BLOCK = 256 << 20  # every variable-length text of a block can be as long as the file


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """The file, read only; whatever damaged bytes make h5py raise becomes a ReaderError that names the file.

    Raises:
        ReaderError: No such file, no permission, damaged, cut off, or no HDF5.
    """
    try:
        with open_file(path) as file:
            if (at := hdf5_damage.damaged_texts(path, file)) is not None:
                raise ReaderError(
                    f"{path} is damaged: the texts at byte {at} do not follow one another.", COPY_AGAIN
                )
            yield file
    except ReaderError:
        raise
    except FileNotFoundError:
        raise ReaderError(f"{path} does not exist.", "Check the path.") from None
    except PermissionError:
        raise ReaderError(f"No permission to read {path}.", "Ask its owner, or chmod u+r.") from None
    except Exception as error:  # damaged bytes surface as almost any type, deep inside h5py and numpy
        reason = " ".join(str(error).strip("'\"").split()) or type(error).__name__
        raise ReaderError(
            f"{path} cannot be read ({reason}); it is damaged, cut off or no HDF5 file.", COPY_AGAIN
        ) from None


def open_file(path: Path) -> h5py.File:
    """Open for reading, also on network file systems that know no locks."""
    try:
        return h5py.File(path, "r")
    except OSError as error:
        if "lock" not in str(error):
            raise
        return h5py.File(path, "r", locking=False)


def damaged(item: h5py.Group | h5py.Dataset, what: str, fix: str = COPY_AGAIN) -> NoReturn:
    """Raise an error that names the file and the item."""
    raise ReaderError(f"{item.file.filename}: {item.name.lstrip('/') or 'the root'!r} {what}.", fix)


def member(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | None:
    """What `group` holds under `name`, None = nothing.

    Raises:
        ReaderError: The name is a link to somewhere else, or to something that is no group or dataset.
    """
    link = group.get(name, getlink=True)
    if link is None:
        return None
    if not isinstance(link, h5py.HardLink):
        damaged(
            group, f"holds {name!r} as a link to another place, which is not followed", "Copy the data in."
        )
    item = group[name]
    if not isinstance(item, (h5py.Group, h5py.Dataset)):
        damaged(group, f"holds {name!r}, which is neither a group nor a dataset")
    return item


def subgroup(group: h5py.Group, name: str) -> h5py.Group | None:
    """The group called `name`, None where there is none (or a dataset of that name)."""
    item = member(group, name)
    return item if isinstance(item, h5py.Group) else None


def dataset(group: h5py.Group, name: str) -> h5py.Dataset:
    """The dataset called `name`.

    Raises:
        ReaderError: There is none.
    """
    item = member(group, name)
    if not isinstance(item, h5py.Dataset):
        held = ", ".join(map(repr, list(group)[:20])) or "nothing"
        damaged(group, f"has no dataset {name!r} (it holds {held})")
    return item


def values(data: h5py.Dataset) -> NDArray[Any]:
    """All values of a dataset of numbers or fixed-length text, in native byte order.

    Raises:
        ReaderError: The values lie in another file, were never written, or cannot be decoded.
    """
    require_stored(data)
    array = np.asarray(data[()])
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def texts(data: h5py.Dataset) -> list[bytes] | None:
    """All values of a one-dimensional dataset of variable-length text; None when one is too long.

    Raises:
        ReaderError: As `values`.
    """
    require_stored(data)
    if not hdf5_damage.is_plain(data.id):
        damaged(data, "has a type that is damaged")
    size = max(Path(data.file.filename).stat().st_size, 1)
    step = max(_TEXT_BLOCK // size, 1)
    found: list[bytes] = []
    for begin in range(0, data.shape[0], step):
        for text in data[begin : begin + step].tolist():
            raw = text if isinstance(text, bytes) else str(text).encode("utf-8", "surrogateescape")
            if len(raw) > LONGEST_TEXT:
                return None
            found.append(raw)
    return found


def require_stored(data: h5py.Dataset) -> None:
    """Refuse arrays whose values do not all lie in this file."""
    if data.shape is None:
        damaged(data, "is empty")
    if data.is_virtual or data.external:
        damaged(data, "takes its values from other files, which are not opened", "Copy the data in.")
    promised, stored = math.prod(data.shape) * data.dtype.itemsize, data.id.get_storage_size()
    if promised == 0:
        return
    if data.chunks is None:
        if stored < promised or promised > Path(data.file.filename).stat().st_size:
            damaged(data, f"promises {promised} bytes but {stored} are in the file")
        return
    n_chunks = math.prod(-(-n // c) for n, c in zip(data.shape, data.chunks, strict=True))
    missing = n_chunks - data.id.get_num_chunks()
    if missing > 0:
        damaged(data, f"lacks {missing} of {n_chunks} chunks; its values there would read as 0")
    needed = max(promised, math.prod(data.chunks) * data.dtype.itemsize)
    if needed > _SMALL and needed > _MOST_DEFLATION * stored:
        damaged(data, f"promises {promised} bytes but only {stored} are in the file")


def attribute(item: h5py.Group | h5py.File, name: str) -> str | None:
    """An attribute of one value as text: whole floats without the point; None = absent or no such value."""
    try:
        value = item.attrs[name] if name in item.attrs and _holds_one_value(item, name) else None
    except Exception:  # types that h5py does not know; nothing else depends on them
        return None
    if isinstance(value, np.ndarray):
        value = value.reshape(-1)[0] if value.size == 1 else None
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    if isinstance(value, (float, np.floating)):
        number = float(value)
        text = str(int(number)) if number.is_integer() and abs(number) < 1e15 else str(value)
    elif isinstance(value, (str, bool, int, np.bool_, np.integer)):
        text = str(value).strip()
    else:
        return None
    return text if len(text) <= LONGEST_TEXT and is_text(text) else None


def _holds_one_value(item: h5py.Group, name: str) -> bool:
    """Looked at before reading: HDF5 crashes on some damaged types."""
    held = item.attrs.get_id(name)
    if not hdf5_damage.is_plain(held):
        return False
    kind = "S" if h5py.check_string_dtype(held.dtype) else held.dtype.kind
    return kind in "biufS" and math.prod(held.shape or (1,)) == 1 and held.get_storage_size() <= LONGEST_TEXT


def is_text(text: str | bytes) -> bool:
    """Whether `text` is valid Unicode: h5py gives badly encoded ones as bytes or with lone surrogates."""
    return isinstance(text, str) and not any("\ud800" <= char <= "\udfff" for char in text)
