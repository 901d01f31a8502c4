"""Change the units table of a population file, and nothing else in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
from numpy.typing import NDArray

from nuclr_cli.api import Population
from nuclr_cli.data import layout
from nuclr_cli.data.checksums import verify
from nuclr_cli.data.meta import StoredMeta
from nuclr_cli.data.reading import file_stamp, read_meta
from nuclr_cli.data.writing import Writer
from nuclr_cli.disk_errors import disk_reason, is_locked
from nuclr_cli.errors import InputError


def copy_with_columns(
    path: Path,
    target: Path,
    population: Population,
    entry: Mapping[str, Any],
    stamp: tuple[int, int],
) -> None:
    """Copy a population file with another units table and provenance.

    All else is copied as it lies, by the HDF5 library, and compared with its checksums afterwards: spikes and
    traces are the same bytes, aligned as before. The file keeps what is known about its source.

    Args:
        path: A file that nuclr wrote.
        target: New file.
        population: Has the whole units table, (N,) or (N, k) each; ``id`` must be the one that is there.
        entry: What was done, plain values; goes to the end of the file's label history.
        stamp: `file_stamp` of the file that `population` was made from; another one is refused.

    Raises:
        InputError: `path` is damaged or cannot be read, or `target` cannot be written.
    """
    require_same(path, stamp)
    _require_whole(path, verify(path, ("units/", "rois/")))  # these get new checksums below
    meta = replace(read_meta(path), provenance=population.provenance)
    units = {name: layout.storable(name, values) for name, values in population.units.items()}
    try:
        with (
            h5py.File(path, "r", locking=False) as source,  # replaced whole, never changed in place
            ThreadPoolExecutor(max_workers=1) as hashing,
            h5py.File(target, "w", **layout.CREATION) as file,
        ):
            _copy(source, Writer(file, hashing), meta, units, entry)
    except (
        OSError,
        RuntimeError,
        KeyError,
    ) as error:  # h5py raises any of them for a full disk or bad headers
        raise InputError(
            f"{path} could not be written anew beside itself: {disk_reason(error)}.",
            "Mend the permissions of its folder, or copy the files to another place; it was left as it is."
            if is_locked(error)
            else "Free some space there, or copy the file again if it is damaged; it was left as it is.",
        ) from error
    _require_whole(path, verify(target))


def require_same(path: Path, stamp: tuple[int, int]) -> None:
    """Refuse a file that another process has replaced since its columns were read.

    Raises:
        InputError: It has.
    """
    if file_stamp(path) != stamp:
        raise InputError(
            f"{path} was changed by another process meanwhile; no label was written.",
            "Run the command again.",
        )


def _require_whole(path: Path, damaged: Sequence[str]) -> None:
    if damaged:
        raise InputError(
            f"{path} is damaged: {', '.join(damaged[:5])} no longer match their checksum; it was "
            "left as it is.",
            "Make it anew with nuclr preprocess SOURCE --overwrite.",
        )


def _copy(
    source: h5py.File,
    writer: Writer,
    meta: StoredMeta,
    units: Mapping[str, NDArray[Any]],
    entry: Mapping[str, Any],
) -> None:
    table = "units" if "spikes" in source else "rois"
    for name in source.attrs:
        if name != layout.META_CHECKSUM:
            writer.file.attrs[name] = source.attrs[name]
    for name in source:
        if name not in (table, layout.META_DATASET):
            source.copy(source[name], writer.file, name)
    stored = writer.units(table, units)
    fresh = {name: digest.result() for name, digest in writer.checksums.items()}
    kept = {name: digest for name, digest in meta.checksums.items() if not name.startswith(f"{table}/")}
    writer.meta(
        replace(
            meta,
            columns=stored,
            checksums=dict(sorted({**kept, **fresh}.items())),
            label_history=(*meta.label_history, dict(entry)),
        )
    )
