"""What a table of embeddings says of its making, read without what reads its rows.

`nuclr runs` looks into the table of each run, and importing pyarrow would take longer than all else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

_MAGIC = b"PAR1"
# A KeyValue of the footer in Thrift's compact protocol: field 1 is the text "nuclr", field 2 a text. Source:
# parquet.thrift of the Parquet format, and the Thrift compact protocol (header 0x18: next field, binary).
_KEY = b"\x18\x05nuclr\x18"
_LONGEST = 1 << 26


def origin(path: Path) -> Mapping[str, str]:
    """The metadata of a file of `write_embeddings`: text by name.

    Returns:
        Nothing where the file is missing, damaged, or does not say: whoever needs more loads the table.
    """
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(end - 8, 0))
            length = int.from_bytes(file.read(4), "little")
            if file.read(4) != _MAGIC or length > min(end - 8, _LONGEST):
                return {}
            file.seek(end - 8 - length)
            document = json.loads(_value(file.read(length)))
    except (OSError, ValueError, RecursionError):
        return {}
    return {str(k): str(v) for k, v in document.items()} if isinstance(document, dict) else {}


def _value(footer: bytes) -> bytes:
    """The text below the key, of which the last counts: the file's own metadata follow those of its parts."""
    at = footer.rfind(_KEY)
    if at < 0:
        return b"{}"
    at += len(_KEY)
    length = shift = 0
    for byte in footer[at : at + 5]:  # a varint: seven bits a byte, the lowest first
        at, length, shift = at + 1, length | (byte & 0x7F) << shift, shift + 7
        if byte < 0x80:
            break
    return footer[at : at + length]
