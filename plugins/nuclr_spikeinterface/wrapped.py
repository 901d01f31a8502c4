"""Sortings that only SpikeInterface can load. It runs code found in data, so all this needs ``--trust``."""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import MissingPackageError, ReaderError, ReadOptions, safe_files
from nuclr_spikeinterface.formats import by_segment
from nuclr_spikeinterface.sorting import Block, RawSorting, number_of_segments, sampling_rate, text_ids

# NumpySorting takes arrays, IblSortingExtractor an id on a server: neither takes a path.
_NO_PATH = ("numpy", "ibl")


def read_with_extractor(path: Path, name: str, options: ReadOptions) -> RawSorting:
    """Load `path` with an extractor of SpikeInterface.

    Args:
        path: File or folder.
        name: ``phy``, ``read_phy`` or ``PhySortingExtractor``.
        options: `trust` must be set; `fs_hz` and `extra` are passed on where the extractor takes them.

    Raises:
        ReaderError: No `trust`, an unknown name or option, or the extractor fails.
        MissingPackageError: SpikeInterface is not installed.
    """
    if not options.trust:
        raise ReaderError(
            f"--extractor {name} lets SpikeInterface load {path}; its loaders can run code found in data.",
            "Add --trust if you trust these files.",
        )
    try:
        extractors: Any = importlib.import_module("spikeinterface.extractors.extractor_classes")
    except ImportError:
        raise MissingPackageError("spikeinterface", f"--extractor {name}") from None
    loader = _loader(getattr(extractors, "sorting_extractor_full_dict", {}), name)
    arguments = _arguments(loader, name, options)
    try:
        sorting = loader(path, **arguments)
        sorting = sorting[1] if isinstance(sorting, tuple) else sorting  # read_mearec: recording, sorting
    except ImportError as error:
        needs = error.name or "unknown"
        raise MissingPackageError(needs, f"SpikeInterface's extractor {name!r}") from None
    except Exception as error:  # whatever any of thirty extractors raises
        raise _failed(name, path, error) from None
    return from_sorting(sorting, path, f"its extractor {name!r}")


def _loader(known: Mapping[str, Any], name: str) -> Any:
    """The class or function that the name stands for."""
    usable = {key: value for key, value in known.items() if key not in _NO_PATH}
    by_any_name = {alias: v for k, v in usable.items() for alias in (k, f"read_{k}", v.__name__)}
    lowered = {alias.lower(): loader for alias, loader in by_any_name.items()}
    loader = lowered.get(name.lower()) or lowered.get(name.lower().removesuffix("_sorting"))
    if loader is None:
        close = difflib.get_close_matches(name.lower().removeprefix("read_"), usable, n=3, cutoff=0.5)
        raise ReaderError(
            f"SpikeInterface has no extractor {name!r} for sortings.",
            f"Did you mean {' or '.join(close)}?" if close else f"There are: {', '.join(sorted(usable))}.",
        )
    return loader


def _arguments(loader: Any, name: str, options: ReadOptions) -> dict[str, Any]:
    """Keyword arguments out of ``--fs`` and ``--option key=value``."""
    parameters = inspect.signature(loader).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    rate = parameters.get("sampling_frequency")
    arguments: dict[str, Any] = {}
    if options.fs_hz is not None and rate is not None:
        arguments["sampling_frequency"] = options.fs_hz
    for key, text in options.extra.items():
        if key not in parameters and not takes_any:
            raise ReaderError(
                f"SpikeInterface's extractor {name!r} has no option {key!r}.",
                f"It takes: {', '.join(list(parameters)[1:]) or 'none'}.",
            )
        try:
            arguments[key] = ast.literal_eval(text)
        except safe_files.DAMAGE:
            arguments[key] = text
    if rate is not None and rate.default is rate.empty and "sampling_frequency" not in arguments:
        raise ReaderError(
            f"SpikeInterface's extractor {name!r} must be told the sampling rate.", "Pass it: --fs 30000"
        )
    return arguments


def _failed(how: str, path: Path, error: Exception) -> ReaderError:
    return ReaderError(
        f"SpikeInterface's extractor {how!r} could not load {path}: {type(error).__name__}: "
        f"{' '.join(str(error).split())}.",
        f"Check that the path is what this extractor expects (SpikeInterface {_version()} is installed), or "
        "name another one.",
    )


def _version() -> str:
    return str(getattr(importlib.import_module("spikeinterface"), "__version__", "unknown"))


def from_sorting(sorting: Any, path: Path, how: str) -> RawSorting:
    """A loaded ``BaseSorting`` as a `RawSorting`.

    Args:
        sorting: What SpikeInterface returned.
        path: Where it came from, for messages.
        how: Which loader read it, for the note.

    Raises:
        ReaderError: It is no sorting, or its parts cannot be got.
    """
    si = importlib.import_module("spikeinterface")
    if not isinstance(sorting, si.BaseSorting):
        raise ReaderError(
            f"SpikeInterface read {path} as a {type(sorting).__name__}, expected a sorting.",
            "Name an extractor of sortings.",
        )
    try:
        spikes: NDArray[Any] = sorting.to_spike_vector()
        properties = {str(key): np.asarray(sorting.get_property(key)) for key in sorting.get_property_keys()}
        n_segments = number_of_segments(int(sorting.get_num_segments()), path)
        ids = text_ids(np.asarray(sorting.unit_ids), path)
        fs_hz = sampling_rate(float(sorting.get_sampling_frequency()))
        starts = tuple(_start_s(segment) for segment in sorting.segments)
    except ReaderError:
        raise
    except Exception as error:  # lazily read files fail here
        raise _failed(how, path, error) from None
    notes = [f"SpikeInterface {si.__version__} loaded the source with {how}; code found in it may have run."]
    known = any(start for start in starts if math.isfinite(start))
    if known:
        told = ", ".join(f"{start:g} s" for start in starts[:5])
        notes.append(f"SpikeInterface says when the segments began: {told}. --segment-starts says otherwise.")

    def blocks() -> Iterator[Block]:
        for begin in range(0, len(spikes), safe_files.BLOCK):
            yield from by_segment(spikes[begin : begin + safe_files.BLOCK], n_segments, path)

    annotations = getattr(sorting, "_annotations", {})
    return RawSorting(
        place=path,
        unit_ids=ids,
        n_segments=n_segments,
        fs_hz=fs_hz,
        fs_place=path,
        blocks=blocks,
        properties={
            key: _blank_nan(column)
            for key, column in properties.items()
            if column.ndim and len(column) == len(ids)
        },
        annotations=dict(annotations) if isinstance(annotations, dict) else {},
        notes=tuple(notes),
        versions={"spikeinterface": str(si.__version__)},
        starts_s=starts if known else (),
    )


def _blank_nan(column: NDArray[Any]) -> NDArray[Any]:
    """Some extractors turn blank labels into the text ``nan``, which is no label."""
    return np.where(column == "nan", "", column) if column.dtype.kind == "U" else column


def _start_s(segment: Any) -> float:
    start = getattr(segment, "_t_start", None)
    return float("nan") if start is None else float(start)
