"""Reads headers of HDF5 objects byte by byte: where values lie, and how long their texts are said to be.

The HDF5 library tells neither without touching the values. Layout: HDF5 file format specification, "Data
Object Headers". Whatever is damaged or of a newer kind is passed over: nothing is known of it then.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

DATATYPE, LAYOUT, ATTRIBUTE = 0x0003, 0x0008, 0x000C
INTEGER, FLOAT, VARIABLE_LENGTH = 0, 1, 9
CONTIGUOUS, CHUNKED = 1, 2
#: Of a value of variable length where its place in the file is told: length, collection, number in it.
REFERENCE = 16

_CONTINUATION = 0x0010
_SHARED = 2  # flag of a message whose body is elsewhere
_MOST_PARTS = 1000


class Bytes(Protocol):
    """The bytes of a file, or a mapping of it."""

    def __getitem__(self, index: slice, /) -> bytes: ...


def number(data: Bytes, begin: int, n_bytes: int) -> int:
    """An unsigned integer."""
    return int.from_bytes(data[begin : begin + n_bytes], "little")


def messages(data: Bytes, address: int) -> Iterator[tuple[int, bytes]]:
    """Kind and body of each message of the object header at byte `address`; none where it is damaged."""
    if data[address : address + 4] == b"OHDR":
        yield from _messages_2(data, address)
    elif data[address : address + 1] == b"\x01":
        yield from _messages_1(data, address)


def _messages_1(data: Bytes, address: int) -> Iterator[tuple[int, bytes]]:
    parts = [(address + 16, number(data, address + 8, 4))]
    for at, length in parts:
        end = at + length
        while at + 8 <= end:
            kind, size, flags = number(data, at, 2), number(data, at + 2, 2), number(data, at + 4, 1)
            body = data[at + 8 : at + 8 + size]
            if kind == _CONTINUATION and len(parts) < _MOST_PARTS:
                parts.append((number(body, 0, 8), number(body, 8, 8)))
            elif not flags & _SHARED:
                yield kind, body
            at += 8 + size


def _messages_2(data: Bytes, address: int) -> Iterator[tuple[int, bytes]]:
    flags = number(data, address + 5, 1)
    at = address + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
    width = 1 << (flags & 3)
    parts = [(at + width, number(data, at, width))]
    head = 6 if flags & 4 else 4
    for at, length in parts:
        end = at + length
        while at + head <= end:
            kind, size, shared = number(data, at, 1), number(data, at + 1, 2), number(data, at + 3, 1)
            body = data[at + head : at + head + size]
            if kind == _CONTINUATION and len(parts) < _MOST_PARTS:
                # Its signature stands before the messages, its checksum behind them.
                parts.append((number(body, 0, 8) + 4, number(body, 8, 8) - 8))
            elif not shared & _SHARED:
                yield kind, body
            at += head + size


def attribute_value(data: Bytes, address: int, name: bytes) -> bytes | None:
    """The stored bytes of an attribute of the object at byte `address`, None = they are not in its header."""
    for kind, body in messages(data, address):
        if kind != ATTRIBUTE:
            continue
        version = number(body, 0, 1)
        sizes = [number(body, at, 2) for at in (2, 4, 6)]
        begin = 9 if version == 3 else 8
        if body[begin : begin + sizes[0]].rstrip(b"\0") != name:
            continue
        if version == 1:
            sizes = [-(-size // 8) * 8 for size in sizes]
        return body[begin + sum(sizes) :]
    return None


def number_layout(data: Bytes, address: int) -> tuple[int, int, int]:
    """How a dataset of numbers is stored: `CONTIGUOUS` with offset and bytes, `CHUNKED`, or 0 = unknown."""
    found, is_number = (0, 0, 0), False
    for kind, body in messages(data, address):
        if kind == DATATYPE:
            is_number = number(body, 0, 1) & 15 in (INTEGER, FLOAT)
        elif kind == LAYOUT and number(body, 0, 1) in (3, 4, 5):
            storage = number(body, 1, 1)
            if storage == CONTIGUOUS:
                found = (CONTIGUOUS, number(body, 2, 8), number(body, 10, 8))
            elif storage == CHUNKED:
                found = (CHUNKED, 0, 0)
    return found if is_number else (0, 0, 0)
