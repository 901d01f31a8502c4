"""Whether every value of an HDF5 dataset is there: in its file, in raw files, or in those it is made of.

Whatever is missing HDF5 reads as 0 without a word.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import h5py

from nuclr_cli.api import ReaderError
from nuclr_nwb.hdf5_links import LinkedFiles, beside
from nuclr_nwb.tree import COPY_AGAIN, DAMAGE

# A promise that large is checked against the bytes that are there before memory is asked for.
_BIG_BYTES = 1 << 28
_MOST_COMPRESSION = 1100
_DEEPEST = 5  # virtual datasets made of virtual datasets


@dataclass(frozen=True)
class RawFile:
    """A stretch of a file without a format that holds values of a dataset.

    Attributes:
        path: Beside the file that names it. HDF5 would look in the working folder instead.
        offset, length: In bytes.
    """

    path: Path
    offset: int
    length: int


def read_raw(files: tuple[RawFile, ...], begin: int, end: int) -> bytes:
    """Bytes `begin` to `end` of raw files that follow one another."""
    parts: list[bytes] = []
    at = 0
    for file in files:
        first, last = max(begin - at, 0), min(end - at, file.length)
        if first < last:
            with file.path.open("rb") as stream:
                stream.seek(file.offset + first)
                parts.append(stream.read(last - first))
        at += file.length
    return b"".join(parts)


def require_whole(dataset: Any, place: str, linked: LinkedFiles, depth: int = 0) -> tuple[Path, ...]:
    """Look at every place that holds values of a dataset, without reading them.

    Args:
        dataset: The dataset.
        place: File and path inside, for messages.
        linked: The files that are open.
        depth: How many virtual datasets led here.

    Returns:
        Files beside the dataset's own that hold its values.

    Raises:
        ReaderError: Values, or a file that should hold them, are missing; names them.
    """
    shape = tuple(int(n) for n in dataset.shape or ())
    n_values = math.prod(shape)
    if dataset.external:
        return tuple(dict.fromkeys(file.path for file in raw_files(dataset, place)))
    if dataset.is_virtual:
        return _virtual_files(dataset, place, n_values, linked, depth)
    promised = n_values * dataset.dtype.itemsize
    stored = int(dataset.id.get_storage_size())
    if promised > _BIG_BYTES and promised > _MOST_COMPRESSION * stored:
        raise ReaderError(
            f"{place} promises {promised} bytes, but {stored} are stored; the rest was never written.",
            COPY_AGAIN,
        )
    if dataset.chunks is None and promised > stored:
        raise ReaderError(
            f"{place} promises {promised} bytes, but {stored} are stored; its values would read as "
            f"{dataset.fillvalue}.",
            "Writing was interrupted: " + COPY_AGAIN.lower(),
        )
    if dataset.chunks and promised:
        n_chunks = math.prod(-(-n // chunk) for n, chunk in zip(shape, dataset.chunks, strict=True))
        missing = n_chunks - int(dataset.id.get_num_chunks())
        if missing > 0:
            raise ReaderError(
                f"{place} lacks {missing} of {n_chunks} chunks; its values there would read as "
                f"{dataset.fillvalue}.",
                "Writing was interrupted, or the copy is incomplete: " + COPY_AGAIN.lower(),
            )
    return ()


def raw_files(dataset: Any, place: str) -> tuple[RawFile, ...]:
    """The raw files of a dataset, in the order of its values.

    Raises:
        ReaderError: One is not there, or too short.
    """
    promised = math.prod(int(n) for n in dataset.shape or ()) * dataset.dtype.itemsize
    files: list[RawFile] = []
    left = promised
    for name, offset, length in dataset.external:
        path = Path(dataset.file.filename).parent / name
        if not path.is_file():
            _missing(place, f"{name}, which is not there", dataset)
        needed = min(left, length)
        held = max(path.stat().st_size - offset, 0)
        if held < needed:
            raise ReaderError(
                f"{place} takes {needed} bytes from byte {offset} of {path} on, which holds {held}; the rest "
                f"would read as {dataset.fillvalue}.",
                COPY_AGAIN,
            )
        files.append(RawFile(path, offset, needed))
        left -= needed
    if left:
        raise ReaderError(
            f"{place} promises {promised} bytes, but {left} of them are in none of its raw files "
            f"({', '.join(str(file.path) for file in files[:5])}).",
            COPY_AGAIN,
        )
    return tuple(files)


def _virtual_files(
    dataset: Any, place: str, n_values: int, linked: LinkedFiles, depth: int
) -> tuple[Path, ...]:
    """The files whose datasets a virtual one shows, all values of it covered."""
    holder = Path(dataset.file.filename)
    if depth >= _DEEPEST:
        raise ReaderError(f"{place} is a virtual dataset of virtual datasets without end.", COPY_AGAIN)
    files: list[Path] = []
    stored = 0
    # Not the sum of the parts: one that is shown over another covers nothing that was not there.
    covered = h5py.h5s.create_simple(dataset.shape)
    covered.select_none()
    for target, name, source, shown in dataset.virtual_sources():
        what = f"{name}:{source}"
        n_shown = _n_selected(target)
        if n_shown is None:
            raise ReaderError(
                f"{place} is made of numbered or growing parts ({what}), which are not followed.",
                "Copy its values into the file.",
            )
        file = holder if name == "." else beside(holder, name)
        if file is None:
            _missing(place, f"{what}, which is not there", dataset)
        try:
            linked.open(file)
        except DAMAGE as error:
            raise ReaderError(f"{place} takes values from {file}, which HDF5 cannot open: {error}.") from None
        found = linked.find_in(file, source)
        if not isinstance(found.item, h5py.Dataset):
            _missing(place, f"{what}, " + (found.broken or "which is not there"), dataset)
        inner = found.item
        if found.files or inner.external:
            raise ReaderError(
                f"{place} takes values from {what}, which takes them from other files in turn.",
                "Copy its values into the file.",
            )
        if not _holds(inner.shape, shown, n_shown):
            raise ReaderError(
                f"{place} takes {n_shown} values from {what}, which has shape {inner.shape} and lacks some "
                f"of them; they would read as {dataset.fillvalue}.",
                COPY_AGAIN,
            )
        if file != holder:
            files.append(file)
        files += require_whole(inner, f"{file}:{source}", linked, depth + 1)
        _cover(covered, target)
        stored += int(inner.id.get_storage_size())
    promised = n_values * dataset.dtype.itemsize
    n_covered = int(covered.get_select_npoints())
    if n_covered < n_values or (promised > _BIG_BYTES and promised > _MOST_COMPRESSION * stored):
        raise ReaderError(
            f"{place} promises {n_values} values, but other datasets give {n_covered} of them; the rest "
            f"would read as {dataset.fillvalue}.",
            COPY_AGAIN,
        )
    return tuple(dict.fromkeys(files))


def _cover(covered: Any, part: Any) -> None:
    """Add a selection to another one of the same shape, in place."""
    if part.get_select_type() == h5py.h5s.SEL_ALL:
        covered.select_all()
    elif part.is_regular_hyperslab():
        start, stride, count, block = part.get_regular_hyperslab()
        covered.select_hyperslab(start, count, stride, block, op=h5py.h5s.SELECT_OR)
    else:
        for first, last in part.get_select_hyper_blocklist().tolist():
            size = tuple(b - a + 1 for a, b in zip(first, last, strict=True))
            covered.select_hyperslab(tuple(first), (1,) * len(size), None, size, op=h5py.h5s.SELECT_OR)


def _n_selected(space: Any) -> int | None:
    """How many values a selection has, None = without end. Numbered files occur in those without end only."""
    try:
        return int(space.get_select_npoints())
    except DAMAGE:
        return None


def _holds(shape: tuple[int, ...], shown: Any, n_shown: int) -> bool:
    """Whether a dataset of some shape has all values that a virtual one shows of it."""
    if shown.get_select_type() == h5py.h5s.SEL_ALL:
        return math.prod(shape) == n_shown
    _, ends = shown.get_select_bounds()
    return len(ends) == len(shape) and all(end < n for end, n in zip(ends, shape, strict=True))


def _missing(place: str, what: str, dataset: Any) -> NoReturn:
    raise ReaderError(
        f"{place} takes its values from {what}.",
        f"Put that file back where {Path(dataset.file.filename).name} expects it.",
    )
