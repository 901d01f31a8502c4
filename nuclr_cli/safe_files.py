"""Reads arrays, pickled values, JSON and ``params.py`` without running anything found in them.

For reader plugins, as ``nuclr_cli.api.safe_files``: the usual loaders (``np.load(allow_pickle=True)``,
``pickle.load``, ``exec``) run whatever a folder that someone else sent asks for.
"""

from __future__ import annotations

import ast
import json
import math
import pickle
import tokenize
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.errors import ReaderError

BLOCK = 1 << 20  # rows read at a time: 24 MB of a SpikeInterface spike vector

# Rows of nothing: a header may promise any number of them, and loops would believe it.
_LONGEST_EMPTY = 1 << 24

# Deflate cannot shrink anything further than 1032 to 1; a larger promise is a lie, not data.
_MOST_DEFLATION = 1100

_COPY_AGAIN = "Copy it again, or save it again with the program that made it."
_SAVE_AGAIN = "Save it again with the program that made it."

# What damaged or hostile bytes make numpy, zipfile, ast and pickle raise.
DAMAGE = (
    ValueError,
    TypeError,
    OSError,
    EOFError,
    SyntaxError,
    KeyError,
    IndexError,
    AttributeError,
    ImportError,
    OverflowError,
    MemoryError,
    RecursionError,
    NotImplementedError,
    pickle.UnpicklingError,
    tokenize.TokenError,  # numpy parses headers with it
    zipfile.BadZipFile,
)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        ReaderError: Missing, unreadable, not JSON, or not an object.
    """
    try:
        content = json.loads(path.read_bytes())
    except DAMAGE as error:
        raise ReaderError(f"{path} cannot be read as JSON: {error}.", _SAVE_AGAIN) from None
    if not isinstance(content, dict):
        raise ReaderError(f"{path} holds a JSON {type(content).__name__}, expected an object.", _SAVE_AGAIN)
    return content


def open_npy(path: Path) -> NDArray[Any]:
    """Map a ``.npy`` file of plain values into memory.

    A header that promises more than the file holds is an error here, not a huge allocation.

    Raises:
        ReaderError: Missing, damaged, or an array of Python objects.
    """
    try:
        with path.open("rb") as file:
            promised, shape, dtype = _promised(file)
        held = path.stat().st_size
        if dtype.hasobject:
            raise ReaderError(
                f"{path} stores pickled Python objects, which could run code; plain values are expected.",
                "Save it again with plain numbers or text in it.",
            )
        # numpy multiplies shapes in 64 bits, so a product of 2^64 would pass as 0.
        if promised > held or (0 in shape and max(shape) > _LONGEST_EMPTY):
            raise ReaderError(
                f"{path} is damaged: its header promises shape {shape}, {promised} bytes; it has {held}.",
                _COPY_AGAIN,
            )
        array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except ReaderError:
        raise
    except FileNotFoundError:
        raise ReaderError(f"{path} is missing.", _COPY_AGAIN) from None
    except DAMAGE as error:
        raise ReaderError(f"{path} is damaged: {error}.", _COPY_AGAIN) from None
    return array


def require_characters(array: NDArray[Any], place: Path) -> NDArray[Any]:
    """The array, after a look at its texts: bytes that are no characters break whoever turns them into `str`.

    Raises:
        ReaderError: Some texts hold what is no character.
    """
    if array.dtype.kind != "U" or array.size == 0 or array.dtype.itemsize == 0:
        return array
    codes = np.ascontiguousarray(array).reshape(-1).view(np.dtype("u4").newbyteorder(array.dtype.byteorder))
    wrong = (codes > 0x10FFFF) | ((codes >= 0xD800) & (codes <= 0xDFFF))  # beyond Unicode; half a pair
    if wrong.any():
        texts = int(wrong.reshape(array.size, -1).any(axis=1).sum())
        raise ReaderError(f"{place} is damaged: {texts} of {array.size} texts are no text.", _COPY_AGAIN)
    return array


def npy_blocks(path: Path) -> Iterator[NDArray[Any]]:
    """Rows of a one-dimensional ``.npy`` file, `BLOCK` at a time, without keeping what was read in memory.

    Raises:
        ReaderError: As `open_npy`; also when the array is not one-dimensional.
    """
    mapped = open_npy(path)
    if mapped.ndim != 1:
        raise ReaderError(f"{path} has shape {mapped.shape}, expected one row per spike.")
    dtype, length = mapped.dtype, len(mapped)
    data_begins = int(getattr(mapped, "offset", 0))
    del mapped  # mapped pages would count as memory of this process
    with path.open("rb") as file:
        file.seek(data_begins)
        for begin in range(0, length, BLOCK):
            yield np.fromfile(file, dtype, min(BLOCK, length - begin))


def load_column(path: Path, *, trust: bool) -> NDArray[Any]:
    """An array read into memory: plain values, or Python objects through `unpickle_objects`.

    Args:
        path: The ``.npy`` file.
        trust: Let the pickle run as it pleases.

    Raises:
        ReaderError: Missing, damaged, or a pickle that wants anything but plain values.
    """
    try:
        with path.open("rb") as file:
            if not _holds_objects(file):
                return require_characters(np.array(open_npy(path)), path)
            if trust:
                file.seek(0)
                array: NDArray[Any] = np.load(file, allow_pickle=True)
                return array
            return unpickle_objects(file, path)
    except ReaderError:
        raise
    except DAMAGE as error:
        raise ReaderError(f"{path} is damaged: {error}.", _COPY_AGAIN) from None


def _holds_objects(file: IO[bytes]) -> bool:
    """Read the header of a ``.npy`` stream; leaves the stream at the data when these are Python objects."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        dtype = np.lib.format.read_array_header_1_0(file)[2]
    elif version == (2, 0):
        dtype = np.lib.format.read_array_header_2_0(file)[2]
    else:  # 3.0 exists for structured arrays with unusual field names; numpy never pickles those by default
        return False
    return bool(dtype.hasobject)


class _Dtype:
    """Stands in for `numpy.dtype` while unpickling.

    A real one takes flags from the pickle, and wrong flags make numpy read bytes as pointers.
    """

    def __init__(self, code: object = "", *_: object) -> None:
        self.code = str(code)
        self.order = ""

    def __setstate__(self, state: Any) -> None:
        self.order = state[1] if state[1] in ("<", ">") else ""

    def decode(self, data: bytes) -> NDArray[Any]:
        """Values of a plain dtype from their bytes."""
        dtype = np.dtype(self.order + self.code)
        if dtype.hasobject or dtype.kind not in "biufSU":
            raise pickle.UnpicklingError(f"values of type {dtype}")
        return np.frombuffer(data, dtype)


class _Array:
    """Stands in for `numpy.ndarray` while unpickling: keeps the values, builds nothing."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = (0,)
        self.objects: list[Any] | None = None
        self.plain: NDArray[Any] = np.zeros(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self.shape = tuple(int(n) for n in shape)
        if isinstance(data, list):
            if fortran and len(self.shape) > 1:
                raise pickle.UnpicklingError("objects in Fortran order")
            if math.prod(self.shape) != len(data):
                raise pickle.UnpicklingError(f"{len(data)} objects for the shape {self.shape}")
            self.objects = data
        else:
            self.plain = dtype.decode(data).reshape(self.shape, order="F" if fortran else "C")

    def values(self, done: dict[int, Any]) -> NDArray[Any]:
        """The array, objects made plain."""
        if self.objects is None:
            return self.plain
        array = np.empty(len(self.objects), dtype=object)
        for row, value in enumerate(self.objects):
            array[row] = _plain(value, done)
        return array.reshape(self.shape)


def _plain(value: Any, done: dict[int, Any]) -> Any:
    """Containers with every stand-in replaced by what it stands for.

    Args:
        value: What the pickle built; it outlives the call, so that an `id` names one object.
        done: `id` -> result. A container that stands in many places is made once: a few nested ones that hold
            themselves twice would otherwise grow without end.
    """
    if id(value) in done:
        return done[id(value)]
    made = value
    if isinstance(value, _Array):
        made = value.values(done)
    elif isinstance(value, _Dtype):
        made = value.order + value.code
    elif isinstance(value, dict):
        made = {_plain(key, done): _plain(item, done) for key, item in value.items()}
    elif isinstance(value, list):
        made = [_plain(item, done) for item in value]
    elif isinstance(value, tuple):
        made = tuple(_plain(item, done) for item in value)
    else:
        return made
    done[id(value)] = made
    return made


def _reconstruct(kind: object, shape: object, _: object) -> _Array:
    if kind is not _Array or shape != (0,):
        raise pickle.UnpicklingError("an unusual array")
    return _Array()


def _scalar(dtype: _Dtype, data: bytes) -> Any:
    return dtype.decode(data)[0].item()


def _frombuffer(data: bytes, dtype: _Dtype, shape: Any, order: str) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", bytes(data)))
    return array


def _path(*parts: str) -> str:
    return "/".join(parts)


_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("datetime", "datetime"): datetime,
    ("datetime", "timezone"): timezone,
    ("datetime", "timedelta"): timedelta,
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,
    ("builtins", "complex"): complex,
}
for _core in ("numpy.core", "numpy._core"):
    _ALLOWED[f"{_core}.multiarray", "_reconstruct"] = _reconstruct
    _ALLOWED[f"{_core}.multiarray", "scalar"] = _scalar
    _ALLOWED[f"{_core}.numeric", "_frombuffer"] = _frombuffer
for _kind in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"):
    for _module in ("pathlib", "pathlib._local"):
        _ALLOWED[_module, _kind] = _path


class _PlainUnpickler(pickle.Unpickler):
    """Builds plain values only. Names are matched exactly: ``numpy.*`` holds functions that run code."""

    def find_class(self, module: str, name: str, /) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise _ForbiddenName(f"{module}.{name}") from None

    def persistent_load(self, pid: Any, /) -> Any:
        raise _ForbiddenName("a persistent object")


class _ForbiddenName(pickle.UnpicklingError):
    """The pickle asks for something that is not a plain value."""


def unpickle_objects(file: IO[bytes], path: Path) -> NDArray[Any]:
    """The pickled part of an object ``.npy``, as an object array of plain values.

    Args:
        file: Stream at the start of the pickle.
        path: For messages.

    Raises:
        ReaderError: The pickle wants anything else, or is damaged. Nothing in it was run.
    """
    try:
        content = _PlainUnpickler(file).load()
        if not isinstance(content, _Array):
            raise pickle.UnpicklingError("no array inside")
        array = content.values({})
    except _ForbiddenName as error:
        raise ReaderError(
            f"{path} is a pickle that asks for {error}: it could run code, so it was not loaded.",
            "Delete that file, or pass --trust if you made it yourself.",
        ) from None
    except DAMAGE as error:
        raise ReaderError(f"{path} is a damaged pickle: {error}.", _SAVE_AGAIN) from None
    return array if array.dtype == object else array.astype(object)


def load_dict(path: Path, *, trust: bool) -> dict[str, Any]:
    """A dict saved with ``np.save`` (``ops.npy`` of Suite2p), plain values and arrays only.

    Args:
        path: The ``.npy`` file.
        trust: Let the pickle run as it pleases.

    Raises:
        ReaderError: Missing, damaged, not a dict, or a pickle that wants anything but plain values.
    """
    if not path.is_file():
        raise ReaderError(f"{path} is missing.", _COPY_AGAIN)
    array = load_column(path, trust=trust)
    content = array.item() if array.shape == () else None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ReaderError(f"{path} holds an array of shape {array.shape}, expected a dict.", _COPY_AGAIN)
    return content


def npz_names(path: Path) -> tuple[str, ...] | None:
    """Names of the arrays in an ``.npz`` (directory only); None when it is not a readable zip file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return tuple(name.removesuffix(".npy") for name in archive.namelist())
    except DAMAGE:
        return None


def load_npz(path: Path, name: str) -> NDArray[Any]:
    """One array of plain values out of an ``.npz``.

    Raises:
        ReaderError: Missing, damaged, or an array of Python objects.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.getinfo(f"{name}.npy")
            with archive.open(member) as stream:
                if _holds_objects(stream):
                    raise ReaderError(
                        f"{path} stores {name} as pickled Python objects, which could run code.",
                        "Save it again with plain numbers or text in it.",
                    )
                held = member.file_size
                stream.seek(0)
                promised = _promised(stream)[0]
            if promised != held or held > _MOST_DEFLATION * path.stat().st_size:
                raise ReaderError(
                    f"{path}: the header of {name} promises {promised} bytes, the file cannot hold them.",
                    _COPY_AGAIN,
                )
            with archive.open(member) as stream:
                array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
                return require_characters(array, path)
    except KeyError:
        raise ReaderError(f"{path} has no array {name!r}; it needs one.", _SAVE_AGAIN) from None
    except ReaderError:
        raise
    except (*DAMAGE, zipfile.LargeZipFile, RuntimeError) as error:
        raise ReaderError(f"{path} is damaged: {error}.", _COPY_AGAIN) from None


def _promised(stream: IO[bytes]) -> tuple[int, tuple[int, ...], np.dtype[Any]]:
    """Length that a ``.npy`` stream must have by its header, and the shape and type that stand there."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    return stream.tell() + math.prod(shape) * dtype.itemsize, shape, dtype


def read_params(path: Path) -> dict[str, Any]:
    """Plain assignments of literals in a phy ``params.py``. Nothing is run.

    A name whose last assignment is no literal (``sample_rate = 2 * x``) has no known value: it is left out.

    Raises:
        ReaderError: Missing, or not Python.
    """
    try:
        tree = ast.parse(path.read_bytes())
    except DAMAGE as error:
        raise ReaderError(
            f"{path} cannot be read: {error}.", "Restore it, or write: sample_rate = 30000."
        ) from None
    values: dict[str, Any] = {}
    for node in tree.body:
        if not isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign)):
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        names = [target.id for target in targets if isinstance(target, ast.Name)]
        try:
            if isinstance(node, ast.AugAssign) or node.value is None:
                raise ValueError("no value of its own")
            values.update(dict.fromkeys(names, ast.literal_eval(node.value)))
        except DAMAGE:
            for name in names:
                values.pop(name, None)
    return values
