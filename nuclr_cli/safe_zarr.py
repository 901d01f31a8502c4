"""Opens arrays of a Zarr store (format 2) after looking at how they are encoded, so that no code in it runs.

For reader plugins, as ``nuclr_cli.api.safe_zarr``. zarr itself decodes pickles, reads chunks that are not
there as fill values, and hands chunks that were cut off to codecs that read past their end.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nuclr_cli.errors import MissingPackageError, ReaderError
from nuclr_cli.safe_files import read_json

# Codecs that only rearrange bytes. `pickle` is not among them: decoding it runs code in older numcodecs.
PLAIN_CODECS = frozenset(
    {
        "adler32",
        "astype",
        "bitround",
        "blosc",
        "bz2",
        "categorize",
        "crc32",
        "crc32c",
        "delta",
        "fixedscaleoffset",
        "fletcher32",
        "gzip",
        "json2",
        "lz4",
        "lzma",
        "packbits",
        "quantize",
        "shuffle",
        "vlen-bytes",
        "vlen-utf8",
        "zlib",
        "zstd",
    }
)


def open_group(folder: Path, package: str, what: str, fix: str) -> tuple[Any, str]:
    """The root group of a store, for reading, and zarr's version.

    Args:
        folder: The store.
        package: What to install where zarr is missing.
        what: What is being done, for that message.
        fix: What to do about a store that cannot be opened.

    Raises:
        ReaderError: It cannot be opened.
        MissingPackageError: zarr is not installed.
    """
    try:
        zarr = importlib.import_module("zarr")
    except ImportError:
        raise MissingPackageError(package, what) from None
    try:
        # By name alone zarr opens a folder called x.n5 as N5, whose codecs stand in other files than those
        # that are looked at here.
        store = zarr.DirectoryStore(str(folder))
        return zarr.open_group(store, mode="r"), str(zarr.__version__)
    except Exception as error:  # zarr raises its own types, which differ between versions
        raise ReaderError(f"{folder} cannot be opened as a Zarr group: {error}.", fix) from None


def codecs_of(header: Mapping[str, Any]) -> list[str]:
    """Names of an array's compressor and filters, from the content of its ``.zarray``."""
    filters = header.get("filters") or []
    codecs = [header.get("compressor"), *(filters if isinstance(filters, list) else [filters])]
    return [
        str(codec.get("id") if isinstance(codec, dict) else codec) for codec in codecs if codec is not None
    ]


def require_plain_codecs(folder: Path, place: object, fix: str) -> list[str]:
    """Names of the codecs of the array in `folder`, none of which runs code.

    Args:
        folder: Of the array; holds a ``.zarray``.
        place: The array, for messages.
        fix: What to do about codecs that could run code.

    Raises:
        ReaderError: The header is damaged, or names another codec.
    """
    codecs = codecs_of(read_json(folder / ".zarray"))
    forbidden = [name for name in codecs if name not in PLAIN_CODECS]
    if forbidden:
        raise ReaderError(f"{place} is encoded with {', '.join(forbidden)}, which could run code.", fix)
    return codecs


def open_array(
    group: Any, path: str, folder: Path, place: object, *, fix: str, fix_codecs: str
) -> tuple[Any, list[str]]:
    """A complete zarr array with harmless codecs, and their names.

    Args:
        group: Root of the store.
        path: Of the array in it.
        folder: Of the array on disk.
        place: The array, for messages.
        fix: What to do about damage.
        fix_codecs: What to do about codecs that could run code.

    Raises:
        ReaderError: Damaged, encoded with something that could run code, or a chunk is missing (zarr would
            return the fill value for it) or cut off.
    """
    codecs = require_plain_codecs(folder, place, fix_codecs)
    try:
        array = group[path]
        expected = int(array.nchunks)
        missing = expected - int(array.nchunks_initialized)
        fill = array.fill_value
    except Exception as error:
        raise ReaderError(f"{place} is damaged: {error}.", fix) from None
    if missing:
        raise ReaderError(
            f"{place} lacks {missing} of {expected} chunks; its values there would read as {fill}.",
            f"The copy is incomplete: {fix[:1].lower()}{fix[1:]}",
        )
    if codecs[:1] == ["blosc"]:
        _require_whole_blosc_chunks(folder, place, fix)
    return array, codecs


def _require_whole_blosc_chunks(folder: Path, place: object, fix: str) -> None:
    """Blosc reads past the end of a chunk that was cut off, and returns what lies in memory there."""
    cut = []
    for chunk in folder.rglob("*"):
        if chunk.name.startswith(".") or not chunk.is_file():
            continue
        with chunk.open("rb") as file:
            head = file.read(16)
        if len(head) < 16 or int.from_bytes(head[12:16], "little") != chunk.stat().st_size:
            cut.append(chunk.name)
    if cut:
        raise ReaderError(
            f"{place} cannot be decoded: {len(cut)} of its chunks {'is' if len(cut) == 1 else 'are'} cut off "
            f"({', '.join(sorted(cut)[:5])}).",
            fix,
        )
