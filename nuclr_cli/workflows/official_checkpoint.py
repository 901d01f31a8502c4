"""Reads checkpoints of the official NuCLR implementation (nerdslab/nuclr) without running what is in them.

They are pickles in a zip file, and a pickle may call any function. Four gates: the zip file holds what it
promises, stored and not compressed; the pickle names nothing but tensors, plain containers and the classes of
OmegaConf, which are replaced by inert ones; `torch.load` takes weights only; what comes out is dense numbers
that the file is large enough to hold.
"""

from __future__ import annotations

import hashlib
import math
import pickletools
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nuclr_cli.errors import InputError
from nuclr_cli.safe_files import DAMAGE

_LONGEST_PICKLE = 16 << 20  # a hundred times what the names of such a model's tensors take

_STORAGES = ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
_WEIGHTS = {
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "torch.Size",
    *(f"torch.{kind}Storage" for kind in _STORAGES),
}
# What the configuration is pickled with. Nothing of it is imported.
_PLAIN_TYPES = {f"builtins.{kind}" for kind in ("dict", "list", "tuple", "str", "int", "float", "bool")}
_SETTINGS = {"typing.Any", "collections.defaultdict", *_PLAIN_TYPES}
_STRINGS = ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
# Instructions that take a name, or a class, from elsewhere than a GLOBAL; torch.save writes none of them.
_OTHER_NAMES = ("STACK_GLOBAL", "INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID")

_SAVE_WEIGHTS = (
    "If you trust it, save its weights alone where it was made: "
    "torch.save({'model_state_dict': model.state_dict()}, 'weights.pt')"
)
_COPY_AGAIN = "Copy it again from where it was made"
_WHAT = "nuclr import-checkpoint takes a .pt file that the official NuCLR code wrote with torch.save"


class _Settings:
    """Stands in for every class of OmegaConf: keeps its fields, does nothing."""

    fields: Mapping[str, Any] = {}  # of those that the pickle gives none

    def __new__(cls, *_: object) -> _Settings:
        return object.__new__(cls)

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        self.fields = state if isinstance(state, dict) else {}


def _empty_cache(*_: object) -> dict[Any, Any]:
    """Stands in for `collections.defaultdict`."""
    return {}


@dataclass(frozen=True)
class OfficialCheckpoint:
    """What an official checkpoint holds, as plain values.

    Attributes:
        path: The file.
        sha256: Of the file.
        model: Official name -> float32 tensor of the encoder.
        loss: The same of the loss; None where there is none, or it is no state dict.
        step: ``train_step``; None where the file does not say.
        other: The other top-level names, sorted.
    """

    path: Path
    sha256: str
    model: dict[str, Tensor]
    loss: dict[str, Tensor] | None
    step: int | None
    other: tuple[str, ...]
    cfg: object

    def setting(self, key: str) -> str | int | float | bool | None:
        """A number, text or switch of the file's own configuration, by its dotted key; None = it has none."""
        node = self.cfg
        for name in key.split("."):
            content = node.fields.get("_content") if isinstance(node, _Settings) else node
            if not isinstance(content, dict):
                return None
            node = content.get(name)
        value = node.fields.get("_val") if isinstance(node, _Settings) else node
        return value if isinstance(value, str | int | float | bool) else None


def read_official_checkpoint(path: Path) -> OfficialCheckpoint:
    """Read a checkpoint. Whatever is in it, nothing of it is run.

    Args:
        path: A ``.pt`` file.

    Raises:
        InputError: There is no such file, it is damaged or no checkpoint, it asks for anything but weights
            and settings, or promises more numbers than it holds.
    """
    if not path.is_file():
        raise InputError(f"There is no file {path}.", _WHAT)
    names = _names_in(path, _pickle_of(path))
    content = _load(path, names)
    if not isinstance(content, dict) or not isinstance(content.get("model_state_dict"), dict):
        found = ", ".join(sorted(map(str, content))[:8]) if isinstance(content, dict) else ""
        raise InputError(
            f"{path} is no NuCLR checkpoint: it has no model_state_dict"
            + (f" (found: {found})." if found else "."),
            _WHAT,
        )
    held = path.stat().st_size
    model = _tensors(path, "model_state_dict", content["model_state_dict"], held)
    loss = content.get("loss_state_dict")
    step = content.get("train_step")
    known = {"model_state_dict", "loss_state_dict", "train_step", "cfg"}
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return OfficialCheckpoint(
        path=path,
        sha256=digest,
        model=model,
        loss=_tensors(path, "loss_state_dict", loss, held) if isinstance(loss, dict) and loss else None,
        step=step if isinstance(step, int) and not isinstance(step, bool) and step >= 0 else None,
        other=tuple(sorted(str(key) for key in content if key not in known)),
        cfg=content.get("cfg"),
    )


def _is_omegaconf(name: str) -> bool:
    return name.startswith("omegaconf.")


def _pickle_of(path: Path) -> bytes:
    """The pickle inside, of a zip file whose other members are what it says they are.

    Raises:
        InputError: It is no such zip file.
    """
    with path.open("rb") as file:
        first = file.read(2)
    if first != b"PK":
        if first[:1] == b"\x80":
            raise InputError(
                f"{path} is a bare pickle, which could run code, so it was not loaded; a checkpoint is a zip "
                "file with a pickle inside.",
                _SAVE_WEIGHTS,
            )
        raise InputError(f"{path} is no checkpoint: it is no zip file, as torch.save writes it.", _WHAT)
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_members(path, members)
            (name,) = (member.filename for member in members if member.filename.endswith("/data.pkl"))
            broken = archive.testzip()
            if broken is not None:
                raise InputError(
                    f"{path} is damaged: the bytes of {broken} do not match their checksum.", _COPY_AGAIN
                )
            return archive.read(name)
    except (*DAMAGE, zipfile.LargeZipFile, RuntimeError) as error:
        raise InputError(f"{path} is damaged: {error}.", _COPY_AGAIN) from None


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    names = [member.filename for member in members]
    pickles = [name for name in names if name.endswith("/data.pkl")]
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        raise InputError(f"{path} is a TorchScript program, not a checkpoint; it was not loaded.", _WHAT)
    if len(pickles) != 1:
        raise InputError(
            f"{path} is a zip file, but no checkpoint: it has {len(pickles)} members called data.pkl, and "
            "one is expected.",
            _WHAT,
        )
    if len(set(names)) != len(names):
        raise InputError(f"{path} is damaged: members of the zip file share a name.", _COPY_AGAIN)
    packed = [member.filename for member in members if member.compress_type != zipfile.ZIP_STORED]
    promised, held = sum(member.file_size for member in members), path.stat().st_size
    if packed or promised > held:
        raise InputError(
            f"{path} promises {promised} bytes in a file of {held}"
            + (f" ({packed[0]} is compressed, which torch.save never does)" if packed else "")
            + "; it was not unpacked.",
            _SAVE_WEIGHTS,
        )
    longest = next(member.file_size for member in members if member.filename == pickles[0])
    if longest > _LONGEST_PICKLE:
        raise InputError(
            f"{path} has a pickle of {longest} bytes, which no NuCLR checkpoint has; it was not loaded.",
            _SAVE_WEIGHTS,
        )


def _names_in(path: Path, pickled: bytes) -> set[str]:
    """``module.name`` of all that a pickle asks for, read as a list of instructions: none is followed.

    Raises:
        InputError: It is damaged, asks for anything but weights and settings, or for something in a way that
            torch.save does not write.
    """
    names: set[str] = set()
    unusual: set[str] = set()
    texts: list[str] = []
    memo: dict[int, str | None] = {}
    pushed: str | None = None
    try:
        for instruction, argument, _ in pickletools.genops(pickled):
            kind, before, pushed = instruction.name, pushed, None
            if kind in _STRINGS:
                pushed = str(argument)
            elif kind in ("BINGET", "LONG_BINGET"):
                pushed = memo.get(int(str(argument)))
            elif kind in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
                memo[len(memo) if argument is None else int(str(argument))] = before
                pushed = before
            elif kind == "GLOBAL":
                names.add(_full_name(*str(argument).split(" ", 1)))
            elif kind in _OTHER_NAMES:
                unusual.add(kind)
                # What a name is made of is known by what stands before it, well enough for a message.
                names.add(_full_name(*texts) if kind == "STACK_GLOBAL" and len(texts) == 2 else str(argument))
            if pushed is not None and kind not in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
                texts = [*texts[-1:], pushed]
    except DAMAGE as error:
        raise InputError(f"{path} is damaged: its pickle ends in {error}.", _COPY_AGAIN) from None
    forbidden = sorted(name for name in names - _WEIGHTS - _SETTINGS if not _is_omegaconf(name))
    if forbidden or unusual:
        how = f" (by {', '.join(sorted(unusual))}, which torch.save does not write)" if unusual else ""
        raise InputError(
            f"{path} is a pickle that asks for {', '.join((forbidden or sorted(names))[:5])}{how}: it could "
            "run code, so it was not loaded.",
            _SAVE_WEIGHTS,
        )
    return names


def _full_name(module: str, name: str) -> str:
    """Under today's names: protocol 2, which torch.save writes, has those of Python 2."""
    if (module, name) in NAME_MAPPING:
        module, name = NAME_MAPPING[module, name]
    return f"{IMPORT_MAPPING.get(module, module)}.{name}"


def _load(path: Path, names: set[str]) -> object:
    stand_ins: list[Any] = [
        (_empty_cache if name == "collections.defaultdict" else _Settings, name)
        for name in names
        if name in _SETTINGS or _is_omegaconf(name)
    ]
    try:
        with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Mapped, a tensor that promises more than its storage holds is an error and no look into memory.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (*DAMAGE, RuntimeError, AssertionError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        why = next(
            (line for line in lines if "rror" in line or "nsupported" in line), lines[0] if lines else ""
        )
        raise InputError(
            f"torch.load, which takes weights only, refuses {path}: {why or type(error).__name__}.",
            _SAVE_WEIGHTS,
        ) from None


def _tensors(path: Path, part: str, state: Mapping[Any, Any], held: int) -> dict[str, Tensor]:
    """Copies in float32, apart from the file.

    Raises:
        InputError: Something in it is no dense tensor of finite real numbers, or they are more than `held`
            bytes.
    """
    for name, value in state.items():
        kind = type(value).__name__
        if isinstance(value, Tensor):
            plain = value.layout is torch.strided and value.device.type == "cpu" and not value.is_quantized
            kind = "" if plain and value.is_floating_point() else f"{value.layout} {value.dtype}"
        if kind or not isinstance(name, str):
            raise InputError(
                f"{path}: {part} holds {name!r}, which is no tensor of plain numbers ({kind}).", _WHAT
            )
    promised = sum(math.prod(value.shape) * value.element_size() for value in state.values())
    if promised > held:
        raise InputError(
            f"{path}: the tensors of {part} promise {promised} bytes in a file of {held}; they were not "
            "read.",
            _COPY_AGAIN,
        )
    copies = {name: value.detach().to(torch.float32, copy=True).contiguous() for name, value in state.items()}
    if wrong := [name for name, value in copies.items() if not bool(value.isfinite().all())]:
        raise InputError(
            f"{path}: {part} holds numbers that are not finite, in {', '.join(wrong[:5])}.",
            "Take a checkpoint from before the training diverged",
        )
    return copies
