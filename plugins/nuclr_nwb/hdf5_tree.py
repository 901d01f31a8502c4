"""NWB in HDF5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import ReaderError, hdf5_damage
from nuclr_nwb.hdf5_links import LinkedFiles, may_lead_to
from nuclr_nwb.hdf5_storage import RawFile, raw_files, read_raw, require_whole
from nuclr_nwb.tree import COPY_AGAIN, DAMAGE, Array, Tree, join


def open_hdf5(path: Path) -> Hdf5Tree:
    """Open for reading.

    Raises:
        ReaderError: Cut off, damaged, not HDF5, not readable, or not NWB 2.
    """
    try:
        tree = Hdf5Tree(LinkedFiles(path))
    except PermissionError:
        raise ReaderError(f"No permission to read {path}.", "Ask its owner, or chmod u+r.") from None
    except DAMAGE as error:
        raise ReaderError(_why_not_opened(path, str(error)), COPY_AGAIN) from None
    version = tree.attributes("/").get("nwb_version")
    if version is None:
        old = tree.text("/nwb_version")
        tree.close()
        if old:
            raise ReaderError(
                f"{path} is written in {old}; nuclr reads NWB 2 and later.", "Convert it to NWB 2."
            )
        raise ReaderError(
            f"{path} is HDF5 but has no attribute nwb_version: it is no NWB file.",
            "Check the path, or name another reader with --reader.",
        )
    tree.versions["NWB (of the file)"] = str(version)
    return tree


def _why_not_opened(path: Path, reason: str) -> str:
    try:
        size = path.stat().st_size
    except OSError as error:
        return f"{path} cannot be read: {error}."
    if "truncated" in reason:
        stored = reason.rpartition("stored_eof = ")[2].rstrip(") ")
        return f"{path} is cut off: it has {size} bytes, its header promises {stored}."
    if "signature not found" in reason:
        return f"{path} is not HDF5 ({size} bytes, without its signature)."
    return f"{path} cannot be opened as HDF5: {reason}."


@dataclass(frozen=True)
class _Hdf5Array(Array):
    dataset: Any

    def rows(self, begin: int, end: int) -> NDArray[Any]:
        self._refuse_objects()
        try:
            return _decoded(self.dataset[begin:end], self.is_text)
        except DAMAGE as error:
            raise ReaderError(f"{self.place} cannot be decoded: {error}.", COPY_AGAIN) from None

    def scalar(self) -> Any:
        if self.shape:
            if not self.shape[0]:
                return ""
            return self.rows(0, 1).reshape(-1)[0]
        self._refuse_objects()
        try:
            value = self.dataset[()]
        except DAMAGE as error:
            raise ReaderError(f"{self.place} cannot be decoded: {error}.", COPY_AGAIN) from None
        return _plain(value)

    def _refuse_objects(self) -> None:
        # HDF5 itself crashes on some damaged variable-length types, so only known ones are read.
        if self.dtype is None and not self.is_text:
            raise ReaderError(f"{self.place} holds neither numbers nor text.", COPY_AGAIN)


@dataclass(frozen=True)
class _RawArray(Array):
    files: tuple[RawFile, ...]

    def rows(self, begin: int, end: int) -> NDArray[Any]:
        if self.dtype is None:
            raise ReaderError(f"{self.place} holds no numbers, and lies in raw files.", COPY_AGAIN)
        inner = self.shape[1:]
        row_bytes = int(np.prod(inner, dtype=np.int64)) * self.dtype.itemsize
        try:
            raw = read_raw(self.files, begin * row_bytes, end * row_bytes)
        except OSError as error:
            raise ReaderError(f"{self.place} cannot be read: {error}.", COPY_AGAIN) from None
        return np.frombuffer(raw, self.dtype).reshape(-1, *inner)

    def scalar(self) -> Any:
        return self.rows(0, 1).reshape(-1)[0].item()


class Hdf5Tree(Tree):
    """An open HDF5 file."""

    def __init__(self, linked: LinkedFiles) -> None:
        self.place, self.linked, self.file = linked.path, linked, linked.main
        self.versions = {"h5py": str(h5py.__version__), "HDF5": str(h5py.version.hdf5_version)}

    def _object(self, path: str) -> Any:
        """Group or dataset, or None."""
        return self.linked.find(join(path)).item

    def names(self, path: str) -> list[str]:
        group = self._object(path)
        try:
            # A name that is no Unicode is none of NWB.
            return sorted(n for n in group if isinstance(n, str)) if isinstance(group, h5py.Group) else []
        except DAMAGE:
            return []

    def is_group(self, path: str) -> bool:
        return isinstance(self._object(path), h5py.Group)

    def has_array(self, path: str) -> bool:
        return isinstance(self._object(path), h5py.Dataset)

    def attributes(self, path: str) -> Mapping[str, Any]:
        found = self._object(path)
        values: dict[str, Any] = {}
        if found is None:
            return values
        try:
            for name in found.attrs:
                values[name] = self._attribute(found, name)
        except DAMAGE:
            pass  # an attribute of a type that h5py does not know stays unknown
        return values

    def _attribute(self, found: Any, name: str) -> Any:
        try:
            held = found.attrs.get_id(name)
            is_reference = h5py.check_ref_dtype(held.dtype) is h5py.Reference
            if not is_reference and not hdf5_damage.is_plain(held):
                return None
            value = found.attrs[name]
        except DAMAGE:
            return None
        if isinstance(value, h5py.Reference):
            return self._path_of(value, found)
        return _plain(value)

    def is_elsewhere(self, path: str) -> bool:
        found = self._object(path)
        return found is not None and found.file.id != self.file.id

    def may_hold(self, path: str, name: str) -> bool:
        above, _, last = join(path).rpartition("/")
        try:
            group = self._object(above)
            return not isinstance(group, h5py.Group) or may_lead_to(group, last, name)
        except DAMAGE:
            return True

    def _path_of(self, reference: Any, owner: Any) -> str:
        try:
            if owner.file.id != self.file.id:
                return ""  # behind a link: an address in another file means nothing in this one
            return str(self.file[reference].name) if reference else ""
        except DAMAGE:
            return ""

    def array(self, path: str) -> Array:
        dataset, place = self._object(path), f"{self.place}:{path}"
        if not isinstance(dataset, h5py.Dataset):
            target = self.broken_link(path)
            if target is not None:
                raise ReaderError(
                    f"{place} is a link to {target}.",
                    f"Put the linked file back where {self.place.name} expects it.",
                )
            raise ReaderError(f"{place} is missing.", COPY_AGAIN)
        try:
            return self._array(dataset, place)
        except DAMAGE as error:
            raise ReaderError(f"{place} is damaged: {error}.", COPY_AGAIN) from None

    def _array(self, dataset: Any, place: str) -> Array:
        require_whole(dataset, place, self.linked)
        is_text = h5py.check_string_dtype(dataset.dtype) is not None and hdf5_damage.is_plain(dataset.id)
        plain = dataset.dtype.kind in "biuf" and dataset.dtype.itemsize <= 8
        shape = tuple(int(n) for n in dataset.shape or ())
        dtype = dataset.dtype if plain else None
        if dataset.external:
            return _RawArray(place, shape, dtype, False, 1, raw_files(dataset, place))
        rows_per_chunk = int(dataset.chunks[0]) if dataset.chunks else 1
        return _Hdf5Array(place, shape, dtype, is_text, rows_per_chunk, dataset)

    def references(self, path: str) -> list[str] | None:
        dataset = self._object(path)
        if not isinstance(dataset, h5py.Dataset) or h5py.check_ref_dtype(dataset.dtype) is not h5py.Reference:
            return None
        try:
            self._array(dataset, f"{self.place}:{path}")  # refuses a length that the file cannot hold
            return [self._path_of(reference, dataset) for reference in np.atleast_1d(dataset[()]).tolist()]
        except DAMAGE:
            return None

    def resolve(self, path: str) -> str:
        found = self._object(path)
        try:
            info = h5py.h5o.get_info(found.id)
            return f"{info.fileno}:{info.addr}"
        except DAMAGE:
            return path

    def broken_link(self, path: str) -> str | None:
        return self.linked.find(join(path)).broken

    def files_of(self, path: str) -> tuple[Path, ...]:
        found = self.linked.find(join(path))
        if not isinstance(found.item, h5py.Dataset):
            return found.files
        try:
            return (*found.files, *require_whole(found.item, path, self.linked))
        except (ReaderError, *DAMAGE):
            return found.files

    def close(self) -> None:
        self.linked.close()


def _decoded(values: Any, is_text: bool) -> NDArray[Any]:
    array = np.asarray(values)
    if not is_text:
        return array
    texts = [_plain(value) for value in array.reshape(-1).tolist()]
    return np.array(texts, dtype=np.str_).reshape(array.shape)


def _plain(value: Any) -> Any:
    """Bytes become text, NumPy scalars Python ones, arrays lists."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value.tolist()]
    return value.item() if isinstance(value, np.generic) else value
