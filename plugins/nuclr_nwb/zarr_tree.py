"""NWB in a Zarr store (format 2), as hdmf-zarr writes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import ReaderError, safe_zarr
from nuclr_nwb.tree import COPY_AGAIN, DAMAGE, Array, Tree, join

_LONGEST_LINK = 8


def open_zarr(folder: Path) -> ZarrTree:
    """Open for reading.

    Raises:
        ReaderError: Not a Zarr group of format 2, or not NWB.
        MissingPackageError: zarr is not installed.
    """
    if not (folder / ".zgroup").is_file() and (folder / "zarr.json").is_file():
        raise ReaderError(
            f"{folder} is a Zarr store of format 3; nuclr reads format 2.", "Export it to HDF5 with pynwb."
        )
    group, version = safe_zarr.open_group(folder, "hdmf-zarr", f"Reading the Zarr store {folder}", COPY_AGAIN)
    tree = ZarrTree(folder, group, version)
    tree.versions["NWB (of the file)"] = str(tree.attributes("/").get("nwb_version"))
    return tree


@dataclass(frozen=True)
class _ZarrArray(Array):
    array: Any

    def rows(self, begin: int, end: int) -> NDArray[Any]:
        try:
            values = np.asarray(self.array[begin:end])
        except Exception as error:  # codecs raise RuntimeError, ValueError, their own types
            raise ReaderError(f"{self.place} cannot be decoded: {error}.", COPY_AGAIN) from None
        if not self.is_text:
            return values
        texts = [_text(value) for value in values.reshape(-1).tolist()]
        return np.array(texts, dtype=np.str_).reshape(values.shape)

    def scalar(self) -> Any:
        if not self.shape or not self.shape[0]:
            return ""
        return self.rows(0, 1).reshape(-1)[0]


class ZarrTree(Tree):
    """An open Zarr store. Headers and links are read as JSON; zarr only decodes chunks."""

    def __init__(self, place: Path, group: Any, version: str) -> None:
        self.place, self.group = place, group
        self.versions = {"zarr": version}

    def _folder(self, path: str) -> Path:
        return self.place / join(path).strip("/")

    def _json(self, path: str, name: str) -> dict[str, Any]:
        try:
            content = json.loads((self._folder(path) / name).read_bytes())
        except DAMAGE:
            return {}
        return content if isinstance(content, dict) else {}

    def _links(self, path: str) -> dict[str, dict[str, Any]]:
        """Name -> link, of the links in a group."""
        links = self._json(path, ".zattrs").get("zarr_link")
        listed = links if isinstance(links, list) else []
        return {str(link["name"]): link for link in listed if isinstance(link, dict) and "name" in link}

    def _follow(self, path: str) -> tuple[str, str | None]:
        """The path without links, and the target of the first link that leads nowhere."""
        at, parts = "/", [part for part in join(path).split("/") if part]
        for _ in range(_LONGEST_LINK * 4):
            if not parts:
                return at, None
            part, *parts = parts
            if self._folder(join(at, part)).is_dir():
                at = join(at, part)
                continue
            link = self._links(at).get(part)
            if link is None:
                return join(at, part, *parts), None
            source, target = str(link.get("source", ".")), join(str(link.get("path", "")))
            if source not in (".", "") or not self._folder(target).is_dir():
                return join(at, part), f"{source}:{target}, which is not there"
            at, parts = "/", [*(piece for piece in target.split("/") if piece), *parts]
        return join(path), f"{path}, which leads in a circle"

    def names(self, path: str) -> list[str]:
        at = self._follow(path)[0]
        try:
            folders = [entry.name for entry in self._folder(at).iterdir() if entry.is_dir()]
        except OSError:
            return []
        return sorted({*folders, *self._links(at)})

    def is_group(self, path: str) -> bool:
        return (self._folder(self._follow(path)[0]) / ".zgroup").is_file()

    def has_array(self, path: str) -> bool:
        return (self._folder(self._follow(path)[0]) / ".zarray").is_file()

    def attributes(self, path: str) -> Mapping[str, Any]:
        stored = self._json(self._follow(path)[0], ".zattrs")
        return {name: _reference_path(value) for name, value in stored.items()}

    def array(self, path: str) -> Array:
        at, broken = self._follow(path)
        place = f"{self.place}:{path}"
        if broken is not None:
            raise ReaderError(f"{place} is a link to {broken}.", "Put the linked store back.")
        folder = self._folder(at)
        if not (folder / ".zarray").is_file():
            raise ReaderError(f"{place} is missing.", COPY_AGAIN)
        array, codecs = safe_zarr.open_array(
            self.group,
            at.strip("/"),
            folder,
            place,
            fix=COPY_AGAIN,
            fix_codecs="Export the file to HDF5 with pynwb.",
        )
        try:
            dtype = np.dtype(array.dtype)
            shape = tuple(int(n) for n in array.shape)
            rows_per_chunk = int(array.chunks[0]) if array.chunks else 1
        except Exception as error:
            raise ReaderError(f"{place} is damaged: {error}.", COPY_AGAIN) from None
        return _ZarrArray(
            place=place,
            shape=shape,
            dtype=dtype if dtype.kind in "biuf" and dtype.itemsize <= 8 else None,
            is_text=dtype.kind in "US" or not {"vlen-utf8", "vlen-bytes"}.isdisjoint(codecs),
            rows_per_chunk=rows_per_chunk,
            array=array,
        )

    def references(self, path: str) -> list[str] | None:
        return None  # they are pickles

    def resolve(self, path: str) -> str:
        return self._follow(path)[0]

    def broken_link(self, path: str) -> str | None:
        return self._follow(path)[1]

    def close(self) -> None:
        return None


def is_pickled(tree: Tree, path: str) -> bool:
    """Whether an array holds object references that only a pickle could tell."""
    if not isinstance(tree, ZarrTree):
        return False
    return "pickle" in safe_zarr.codecs_of(tree._json(tree.resolve(path), ".zarray"))


def _reference_path(value: Any) -> Any:
    """The path in ``{"zarr_dtype": "object", "value": {"path": ...}}``; other values as they are."""
    if not isinstance(value, dict) or value.get("zarr_dtype") != "object":
        return value
    target = value.get("value")
    return join(str(target.get("path", ""))) if isinstance(target, dict) else ""


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
