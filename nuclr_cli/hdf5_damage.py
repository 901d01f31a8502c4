"""Damage on which the HDF5 library hangs or crashes the whole process, found before HDF5 reads it.

For reader plugins, as ``nuclr_cli.api.hdf5_damage``. A file that comes from elsewhere is looked at with
`damaged_texts` once it is open, before any value is read, and each attribute and dataset with `is_plain`.
Needs h5py, which is imported where it is used.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nuclr_cli import hdf5_headers

_MAGIC = b"GCOL\x01"
_HEADER = 16  # of a collection, and of an object in it
_WORTH_SKIPPING = 1 << 16  # bytes
_MOST_REMEMBERED = 4096

# What the search found: it takes as long as a checksum, and a file is opened several times.
_searched: dict[tuple[str, int, int, int], int | None] = {}


def damaged_texts(path: Path, file: Any) -> int | None:
    """`damaged_heap` of an open file, without the arrays of numbers in it; remembered until the file changes.

    Args:
        path: The file.
        file: The same, as an open ``h5py.File``.
    """
    status = path.stat()
    key = (str(path.absolute()), status.st_size, status.st_mtime_ns, status.st_ino)
    if key not in _searched:
        found = damaged_heap(path, skip=number_extents(path, file))
        if len(_searched) >= _MOST_REMEMBERED:
            _searched.clear()
        _searched[key] = found
    return _searched[key]


def damaged_heap(path: Path, within: int | None = None, skip: Sequence[tuple[int, int]] = ()) -> int | None:
    """First byte of a damaged place of texts of variable length, None = none is damaged.

    HDF5 walks through such a place (a global heap collection) from object to object and never arrives where
    the length of one is damaged. Layout: HDF5 file format specification, "Global Heap". The search goes
    through the whole file and takes about as long as its sha256.

    Args:
        path: The file.
        within: Look at collections that begin in so many bytes, None = all.
        skip: (begin, end) of stretches, in order, in which no collection can begin: large arrays of numbers.
    """
    with _mapped(path) as data:
        end = len(data) if within is None else min(within, len(data))
        begin = 0
        for pass_from, pass_to in (*skip, (end, end)):
            at = data.find(_MAGIC, begin, min(pass_from + len(_MAGIC) - 1, end))
            while at >= 0:
                if not _walkable(data, at):
                    return at
                at = data.find(_MAGIC, at + 1, min(pass_from + len(_MAGIC) - 1, end))
            begin = max(begin, pass_to)
    return None


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap | bytes]:
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data


def _walkable(data: mmap.mmap | bytes, at: int) -> bool:
    """Whether every object of the collection at byte `at` leads to the next, and the last to its end."""
    length = int.from_bytes(data[at + 8 : at + 16], "little")
    if at + length > len(data):
        return True  # cut off: HDF5 sees that itself
    position = _HEADER
    while position + _HEADER <= length:
        index = int.from_bytes(data[at + position : at + position + 2], "little")
        size = int.from_bytes(data[at + position + 8 : at + position + 16], "little")
        # Object 0 is the free space, header included.
        step = size if index == 0 else _HEADER + -(-size // 8) * 8
        if step <= 0 or position + step > length:
            return False
        position += step
    return True


def number_extents(path: Path, file: Any) -> list[tuple[int, int]]:
    """(begin, end) of the bytes of every large array of numbers, in order; no texts can be there.

    No dataset is opened that is not known to be one of numbers, in one piece or in chunks: HDF5 reads texts
    of variable length as soon as it opens a virtual one.

    Args:
        path: The file.
        file: The same, as an open ``h5py.File``.
    """
    from h5py import h5d, h5o

    found: list[tuple[int, int]] = []
    addresses: list[tuple[bytes, int]] = []

    def note(name: bytes, info: Any) -> None:
        if info.type == h5o.TYPE_DATASET:
            addresses.append((name, int(info.addr)))

    try:
        base = int(file.userblock_size)
        h5o.visit(file.id, note, info=True)
        with _mapped(path) as data:
            for name, address in addresses:
                kind, begin, size = hdf5_headers.number_layout(data, base + address)
                if kind == hdf5_headers.CONTIGUOUS and base + begin + size <= len(data):
                    found.append((base + begin, base + begin + size))
                elif kind == hdf5_headers.CHUNKED:
                    chunks = h5d.open(file.id, name)
                    if chunks.get_storage_size() >= _WORTH_SKIPPING:
                        chunks.chunk_iter(
                            lambda chunk: found.append(
                                (chunk.byte_offset, chunk.byte_offset + int(chunk.size))
                            )
                        )
    except Exception:  # whatever damaged bytes make h5py raise: search where nothing is known
        return []
    return _joined(found)


def _joined(stretches: list[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for begin, end in sorted(stretches):
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((begin, end))
    return [(begin, end) for begin, end in joined if end - begin >= _WORTH_SKIPPING]


def is_plain(held: Any) -> bool:
    """Whether HDF5 can be trusted to read some values: numbers, true or false, and text.

    Sequences of variable length crash HDF5 where their type is damaged, and text whose characters are said to
    be huge, or which is said to be longer than what is stored of it, takes all memory there is.

    Args:
        held: Identifier of the dataset or attribute (``dataset.id``, ``attrs.get_id(name)``).
    """
    from h5py import h5t

    try:
        kind = held.get_type()
        if kind.get_class() == h5t.STRING:
            if not kind.is_variable_str():
                return True
            return kind.get_super().get_size() == 1 and _texts_fit(held)
        return kind.get_class() in (h5t.INTEGER, h5t.FLOAT, h5t.ENUM)
    except Exception:  # whatever damaged bytes make h5py raise
        return False


def is_variable_text(held: Any) -> bool:
    """Whether values may lie in a collection of texts, which has to be sound before they are read.

    Args:
        held: As of `is_plain`.
    """
    from h5py import h5t

    try:
        kind = held.get_type()
        return bool(kind.get_class() != h5t.STRING or kind.is_variable_str())
    except Exception:  # whatever damaged bytes make h5py raise
        return True


def text_hangs(path: Path, file: Any, name: str) -> bool:
    """Whether HDF5 would never come back from a text attribute of a file's root.

    Looks only at the places that the attribute's own texts lie in, so that looking at a file of any size
    takes no time; where they cannot be told, at the whole file.

    Args:
        path: The file.
        file: The same, as an open ``h5py.File``, with an attribute `name`.
        name: Of the attribute.
    """
    from h5py import h5o

    if not is_variable_text(file.attrs.get_id(name)):
        return False
    base = int(file.userblock_size)
    with _mapped(path) as data:
        address = base + int(h5o.get_info(file.id).addr)
        stored = hdf5_headers.attribute_value(data, address, name.encode())
        if stored is None:
            return damaged_texts(path, file) is not None
        step = hdf5_headers.REFERENCE
        references = [stored[at : at + step] for at in range(0, len(stored) - step + 1, step)]
        places = {base + int.from_bytes(reference[4:12], "little") for reference in references}
        return not all(
            _walkable(data, place) for place in places if data[place : place + len(_MAGIC)] == _MAGIC
        )


def _texts_fit(held: Any) -> bool:
    """Whether texts of variable length are as long as the collections say that hold them.

    HDF5 asks for as much memory as is said where a text is used, and only then looks at what there is.
    Datasets that are compressed, or so small that they lie in their header, are not looked into.
    """
    from h5py import h5a, h5d, h5f, h5i, h5o

    path = Path(os.fsdecode(h5f.get_name(held)))
    base = int(h5i.get_file_id(held).get_create_plist().get_userblock())
    with _mapped(path) as data:
        if isinstance(held, h5a.AttrID):
            stored = hdf5_headers.attribute_value(data, base + int(h5o.get_info(held).addr), held.name)
            return stored is None or _lengths_fit(data, base, stored)
        assert isinstance(held, h5d.DatasetID)
        offset = held.get_offset()
        if offset is not None:
            return _lengths_fit(data, base, data[offset : offset + held.get_storage_size()])
        plist = held.get_create_plist()
        if plist.get_layout() != h5d.CHUNKED or plist.get_nfilters() or not hasattr(held, "chunk_iter"):
            return True
        parts: list[tuple[int, int]] = []
        held.chunk_iter(lambda chunk: parts.append((int(chunk.byte_offset), int(chunk.size))))
        return all(_lengths_fit(data, base, data[begin : begin + size]) for begin, size in parts)


def _lengths_fit(data: mmap.mmap | bytes, base: int, stored: bytes) -> bool:
    """Whether each reference to a text names no more bytes than its collection holds under its number."""
    sizes: dict[int, dict[int, int]] = {}
    step = hdf5_headers.REFERENCE
    for at in range(0, len(stored) - step + 1, step):
        length = int.from_bytes(stored[at : at + 4], "little")
        place = base + int.from_bytes(stored[at + 4 : at + 12], "little")
        if length == 0:
            continue
        if place not in sizes:
            sizes[place] = _sizes_in(data, place)
        # A number that is not there, or a place that is none, HDF5 sees itself, after it took the memory.
        if length > sizes[place].get(int.from_bytes(stored[at + 12 : at + 16], "little"), 0):
            return False
    return True


def _sizes_in(data: mmap.mmap | bytes, at: int) -> dict[int, int]:
    """Bytes of each object of the collection at byte `at`, by its number; none where there is none."""
    if data[at : at + len(_MAGIC)] != _MAGIC:
        return {}
    sizes: dict[int, int] = {}
    end, position = int.from_bytes(data[at + 8 : at + 16], "little"), _HEADER
    while position + _HEADER <= min(end, len(data) - at):
        index = int.from_bytes(data[at + position : at + position + 2], "little")
        size = int.from_bytes(data[at + position + 8 : at + position + 16], "little")
        if index == 0:
            break
        sizes[index] = size
        position += _HEADER + -(-size // 8) * 8
    return sizes
