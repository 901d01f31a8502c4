"""The temporaldata HDF5 layout: names, attributes, and text that HDF5 or temporaldata cannot take as it is.

One file is one population. The root and every group carry an attribute ``object`` naming the temporaldata
class they load as; a group without it makes the whole file unreadable there, while additional root datasets
are harmless.
"""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from nuclr_cli.errors import InputError

META_DATASET = "nuclr_meta"
META_CHECKSUM = "nuclr_meta_sha256"
SCHEMA_ATTRIBUTE = "nuclr_schema"

#: How files are created. A mapped dataset starts on a page, since float64 at an odd offset would be copied
#: whole at every access. Headers are of HDF5 1.8, the first with checksums: a flipped bit in an older header
#: can send the HDF5 library into an endless loop.
CREATION = {"alignment_threshold": 512, "alignment_interval": 4096, "libver": ("v108", "v108")}

#: Public names of temporaldata's Data and ArrayDict: a field so called would hide the method.
RESERVED = frozenset(
    {
        "absolute_start",
        "close",
        "delete_nested_attribute",
        "domain",
        "end",
        "file",
        "from_dataframe",
        "from_hdf5",
        "get_nested_attribute",
        "has_nested_attribute",
        "keys",
        "load",
        "materialize",
        "save",
        "select_by_interval",
        "select_by_mask",
        "set_nested_attribute",
        "set_test_domain",
        "set_train_domain",
        "set_valid_domain",
        "slice",
        "start",
        "to_dict",
        "to_hdf5",
    }
)
_PLAIN_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+ ()[]:,;=#@")


def stored_name(column: str) -> str:
    """The name a units column has in the file: percent-escaped where HDF5 or temporaldata would choke.

    HDF5 reads ``/`` and ``.`` as path syntax; temporaldata takes ASCII names only, hides those with a leading
    underscore and addresses nested fields with dots. Different columns always get different names.
    """
    forced = 0 if column.startswith("_") or column in RESERVED else None
    return "".join(
        char if char in _PLAIN_NAME and position != forced else _percent(char)
        for position, char in enumerate(column)
    )


def _percent(char: str) -> str:
    return "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogatepass"))


def ascii_text(values: NDArray[np.str_]) -> tuple[NDArray[np.bytes_], bool]:
    """Text as fixed-length ASCII bytes, and whether it had to be backslash-escaped to become that."""
    if all(text.isascii() and "\0" not in text for text in values.flat):
        return values.astype(np.bytes_), False
    escaped = np.array([escape(text) for text in values.flat], dtype=np.bytes_)
    return escaped.reshape(values.shape), True


def escape(text: str) -> bytes:
    r"""Backslash escapes of Python (``\xe9``, ``\u03b1``); reversible by `unescape`."""
    return text.encode("unicode_escape")


def unescape(text: bytes) -> str:
    return text.decode("unicode_escape")


def plain_text(values: NDArray[Any], escaped: bool = False) -> NDArray[np.str_]:
    """Inverse of `ascii_text`; bytes of other writers are taken as UTF-8."""

    def decode(value: Any) -> str:
        if not isinstance(value, bytes):
            return str(value)
        return unescape(value) if escaped else value.decode("utf-8", "backslashreplace")

    return np.array([decode(value) for value in values.flat], dtype=np.str_).reshape(values.shape)


def write_data_group(parent: h5py.Group, name: str, fields: dict[str, str]) -> None:
    """A temporaldata ``Data`` object holding only text."""
    group = parent.create_group(name)
    mark(group, "Data")
    group.attrs["absolute_start"] = np.float64(0.0)
    for key, value in fields.items():
        group.attrs[key] = value


def mark(
    group: h5py.Group,
    kind: str,
    unicode_keys: tuple[str, ...] | None = None,
    timekeys: tuple[str, ...] | None = None,
) -> None:
    """Attributes by which temporaldata recognises a group."""
    group.attrs["object"] = kind
    if unicode_keys is not None:
        group.attrs["_unicode_keys"] = np.array(unicode_keys, dtype="S")
    if timekeys is not None:
        group.attrs["timekeys"] = np.array(timekeys, dtype="S")


def storable(name: str, values: Any) -> NDArray[Any]:
    """A units column as bool, int, float or str array.

    Raises:
        InputError: It holds something else.
    """
    array = np.asarray(values)
    if array.dtype.kind == "O" and all(isinstance(value, str) for value in array.flat):
        array = array.astype(np.str_)
    if array.dtype.kind == "S":
        array = plain_text(array)
    if array.dtype.kind == "U":
        for text in array.flat:
            require_text(text, f"units column {name!r}")
    if array.dtype.kind not in "biufU" or (array.dtype.itemsize > 8 and array.dtype.kind != "U"):
        raise InputError(
            f"Units column {name!r} has dtype {array.dtype}; text, numbers and true/false can be stored.",
            "Turn its values into text or numbers in the source (the reader, the labels file).",
        )
    return array


def require_text(text: str, where: str) -> None:
    """Refuse text that no encoding can write.

    Raises:
        InputError: `text` has lone surrogates, which is what badly decoded bytes become.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(
            f"The text {text!r} in {where} is not valid Unicode.", "Save the source's text as UTF-8."
        ) from None


def second_index(times: NDArray[np.float64], intervals: NDArray[np.float64]) -> NDArray[np.int64]:
    """First sample at or after every whole second from the first interval's start on."""
    grid = np.arange(intervals[0, 0], intervals[-1, 1] + 1.0, 1.0, dtype=np.float64)
    return np.searchsorted(times, grid).astype(np.int64)
