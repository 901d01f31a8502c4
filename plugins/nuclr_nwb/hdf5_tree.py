"""NWB in HDF5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import ReaderError
from nuclr_nwb.tree import COPY_AGAIN, DAMAGE, Array, Tree, join

# A promise that large is checked against the bytes that are there before memory is asked for.
_BIG_BYTES = 1 << 28
_MOST_COMPRESSION = 1100


def open_hdf5(path: Path) -> Hdf5Tree:
    """Open for reading.

    Raises:
        ReaderError: Cut off, not HDF5, not readable, or not NWB 2.
    """
    try:
        file = h5py.File(path, "r", locking="best-effort")
    except PermissionError:
        raise ReaderError(f"No permission to read {path}.", "Ask its owner, or chmod u+r.") from None
    except DAMAGE as error:
        raise ReaderError(_why_not_opened(path, str(error)), COPY_AGAIN) from None
    tree = Hdf5Tree(path, file)
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


class Hdf5Tree(Tree):
    """An open HDF5 file."""

    def __init__(self, place: Path, file: Any) -> None:
        self.place, self.file = place, file
        self.versions = {"h5py": str(h5py.__version__), "HDF5": str(h5py.version.hdf5_version)}

    def _object(self, path: str) -> Any:
        """Group or dataset, or None."""
        try:
            return self.file[path]
        except DAMAGE:
            return None

    def names(self, path: str) -> list[str]:
        group = self._object(path)
        try:
            return sorted(group) if isinstance(group, h5py.Group) else []
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
            dtype = found.attrs.get_id(name).dtype
            is_reference = h5py.check_ref_dtype(dtype) is h5py.Reference
            if dtype.kind not in "biufSU" and not is_reference and h5py.check_string_dtype(dtype) is None:
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
                    f"{place} is a link to {target}, which is not there.",
                    f"Put the linked file back where {self.place.name} expects it.",
                )
            raise ReaderError(f"{place} is missing.", COPY_AGAIN)
        try:
            return self._array(dataset, place)
        except DAMAGE as error:
            raise ReaderError(f"{place} is damaged: {error}.", COPY_AGAIN) from None

    def _array(self, dataset: Any, place: str) -> Array:
        shape = tuple(int(n) for n in dataset.shape or ())
        stored = int(dataset.id.get_storage_size())
        promised = int(np.prod([float(n) for n in shape])) * dataset.dtype.itemsize
        if promised > _BIG_BYTES and promised > _MOST_COMPRESSION * stored and not dataset.external:
            raise ReaderError(
                f"{place} promises {promised} bytes, but {stored} are stored; the rest was never written.",
                COPY_AGAIN,
            )
        within = not dataset.external and not dataset.is_virtual
        if dataset.chunks is None and promised > stored and within:
            raise ReaderError(
                f"{place} promises {promised} bytes, but {stored} are stored; its values would read as "
                f"{dataset.fillvalue}.",
                "Writing was interrupted: " + COPY_AGAIN.lower(),
            )
        if dataset.chunks and promised:
            counts = [-(-n // chunk) for n, chunk in zip(shape, dataset.chunks, strict=True)]
            missing = int(np.prod(counts)) - int(dataset.id.get_num_chunks())
            if missing > 0:
                raise ReaderError(
                    f"{place} lacks {missing} of {int(np.prod(counts))} chunks; its values there would read "
                    f"as {dataset.fillvalue}.",
                    "Writing was interrupted, or the copy is incomplete: " + COPY_AGAIN.lower(),
                )
        is_text = h5py.check_string_dtype(dataset.dtype) is not None
        plain = dataset.dtype.kind in "biuf" and dataset.dtype.itemsize <= 8
        return _Hdf5Array(
            place=place,
            shape=shape,
            dtype=dataset.dtype if plain else None,
            is_text=is_text,
            rows_per_chunk=int(dataset.chunks[0]) if dataset.chunks else 1,
            dataset=dataset,
        )

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
        at = "/"
        for part in join(path).strip("/").split("/"):
            at = join(at, part)
            if self._object(at) is not None:
                continue
            try:
                link = self.file.get(at, getlink=True)
            except DAMAGE:
                return None
            if isinstance(link, h5py.ExternalLink):
                return f"{link.filename}:{link.path}"
            return str(link.path) if isinstance(link, h5py.SoftLink) else None
        return None

    def close(self) -> None:
        self.file.close()


def linked_files(path: Path, tops: tuple[str, ...]) -> list[Path]:
    """Other files that links below some groups lead to, those that are there."""
    found: set[Path] = set()

    def visit(group: Any, depth: int) -> None:
        for name in group:
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                found.add((path.parent / link.filename).resolve())
            elif isinstance(link, h5py.HardLink) and depth < 6:
                member = group[name]
                if isinstance(member, h5py.Group):
                    visit(member, depth + 1)
                elif isinstance(member, h5py.Dataset) and member.external:
                    found.update((path.parent / external[0]).resolve() for external in member.external)

    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            for top in tops:
                link = file.get(top, getlink=True) if top in file or file.get(top, getlink=True) else None
                if isinstance(link, h5py.ExternalLink):
                    found.add((path.parent / link.filename).resolve())
                elif isinstance(file.get(top), h5py.Group):
                    visit(file[top], 0)
    except DAMAGE:
        pass
    return sorted(file for file in found if file.is_file())


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
