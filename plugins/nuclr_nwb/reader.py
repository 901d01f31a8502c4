"""The reader of NWB files: units become populations of spikes, fluorescence series of traces."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nuclr_cli.api import Population, Reader, ReaderError, ReadOptions
from nuclr_nwb.ophys import TracePart, read_ophys
from nuclr_nwb.series import find_series
from nuclr_nwb.session import Identity, identity
from nuclr_nwb.sources import hdf5_sources, zarr_sources
from nuclr_nwb.tree import DAMAGE, Tree, broken_links_below, join
from nuclr_nwb.units import SpikePart, has_units, read_units
from nuclr_nwb.zarr_tree import open_zarr

_SUFFIXES = (".nwb", ".h5", ".hdf5")
_EXTRA = ("tau", "dff")


class NwbReader(Reader):
    """NWB 2 files, in HDF5 or Zarr. HDF5 is read with h5py alone, Zarr with zarr.

    Its own options (``--option``): ``tau``, decay time of the indicator in seconds for a deconvolution;
    ``dff=as-is``, raw fluorescence is dF/F already.
    """

    name = "nwb"
    formats = ("NWB (HDF5)", "NWB (Zarr)")
    looks_for = "an .nwb file, or a Zarr folder whose .zattrs hold nwb_version"
    options = frozenset(
        {
            "segment_starts_s",
            "duration_s",
            "fs_hz",
            "keep",
            "signal",
            "timestamps",
            "min_iscell",
            "series",
            "drop_nan_units",
        }
    )

    def detect(self, path: Path) -> str | None:
        try:
            if path.is_dir():
                return _detect_zarr(path)
            if path.suffix.lower() not in _SUFFIXES or not path.is_file():
                return None
            return _detect_hdf5(path)
        except DAMAGE:
            return None

    def sources(self, path: Path) -> Sequence[Path]:
        return hdf5_sources(path) if path.is_file() else zarr_sources(path)

    def read(self, path: Path, options: ReadOptions) -> Iterator[Population]:
        unknown = [name for name in options.extra if name not in _EXTRA]
        if unknown or options.extra.get("dff", "as-is") != "as-is":
            given = ", ".join(f"{name}={value}" for name, value in options.extra.items())
            raise ReaderError(
                f"{path}: the reader {self.name!r} does not understand --option {given}.",
                "It knows --option tau=SECONDS and --option dff=as-is.",
            )
        if not path.exists():
            raise ReaderError(f"{path} does not exist.", "Check the path.")
        with _open(path) as tree:
            yield from _populations(tree, path, options)


def _open(path: Path) -> Tree:
    if path.is_dir():
        return open_zarr(path)
    from nuclr_nwb.hdf5_tree import open_hdf5

    return open_hdf5(path)


def _detect_zarr(path: Path) -> str | None:
    for name in (".zattrs", "zarr.json"):
        header = path / name
        if header.is_file():
            content = json.loads(header.read_bytes())
            found = content if name == ".zattrs" else content.get("attributes", {})
            if "nwb_version" in found:
                return f"NWB {found['nwb_version']} in Zarr: {name} with nwb_version"
    return None


def _detect_hdf5(path: Path) -> str | None:
    import h5py

    is_named_so = path.suffix.lower() == ".nwb"
    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            # Its value is not read: HDF5 can hang on a damaged text.
            is_nwb = "nwb_version" in file.attrs
    except DAMAGE:
        return "NWB by its suffix only: HDF5 cannot open it" if is_named_so else None
    if is_nwb:
        return "NWB in HDF5: attribute nwb_version"
    return "NWB by its suffix only: no attribute nwb_version" if is_named_so else None


def _populations(tree: Tree, path: Path, options: ReadOptions) -> Iterator[Population]:
    has_spikes, series = has_units(tree), find_series(tree)
    if not has_spikes and not series:
        raise _nothing(tree)
    who = identity(tree, path, options)
    spare = _warnings(tree, options, has_spikes, bool(series))
    target = tree.broken_link("/units") or tree.broken_link("/units/spike_times")
    if target is not None and series:
        has_spikes = False
        spare.append(f"The units are a link to {target}; only fluorescence was read.")
    if has_spikes:
        for part in read_units(tree, options):
            name = part.name or ("ephys" if series else "0")
            yield _population(tree, who, name, part, options, spare)
            del part  # before the traces are read
    if series:
        for traces in read_ophys(tree, series, options):
            name = traces.name or ("ophys" if has_spikes else "0")
            yield _population(tree, who, name, traces, options, spare)


def _population(
    tree: Tree,
    who: Identity,
    name: str,
    part: SpikePart | TracePart,
    options: ReadOptions,
    spare: list[str],
) -> Population:
    details: dict[str, Any] = dict(part.details)
    is_spikes = isinstance(part, SpikePart)
    return Population(
        subject=who.subject,
        session=who.session,
        population=name,
        units=part.units,
        intervals=part.intervals,
        spikes=part.spikes if isinstance(part, SpikePart) else None,
        calcium=part.calcium if isinstance(part, TracePart) else None,
        subject_assumed=who.subject_assumed,
        attributes={**who.attributes, **({} if isinstance(part, SpikePart) else part.attributes)},
        notes=tuple(dict.fromkeys([*who.notes, *part.notes])),
        warnings=tuple(dict.fromkeys([*spare, *part.warnings])),
        provenance={
            "reader": NwbReader.name,
            "path": str(tree.place),
            "detected": "units" if is_spikes else "fluorescence series",
            "versions": {"numpy": np.__version__, **tree.versions},
            **details,
        },
    )


def _warnings(tree: Tree, options: ReadOptions, has_spikes: bool, has_series: bool) -> list[str]:
    """Options with nothing to act on, and links to files that are not there."""
    warnings = []
    if not has_series:
        given = {
            "--fs": options.fs_hz is not None,
            "--signal": options.signal is not None,
            "--timestamps": options.timestamps is not None,
            "--series": bool(options.series),
            "--min-iscell": options.min_iscell is not None,
            "--drop-nan-units": options.drop_nan_units,
        }
        unused = [name for name, is_given in given.items() if is_given]
        if unused:
            warnings.append(
                f"{tree.place} holds no fluorescence series: {', '.join(unused)} changed nothing."
            )
    if not has_spikes:
        given = {
            "--duration": bool(options.duration_s),
            "--segment-starts": bool(options.segment_starts_s),
            "--keep": bool(options.keep),
        }
        unused = [name for name, is_given in given.items() if is_given]
        if unused:
            warnings.append(f"The file holds no units with spikes: {', '.join(unused)} changed nothing.")
    for top in ("/", "/processing", *(join("/processing", name) for name in tree.names("/processing"))):
        for at, target in broken_links_below(tree, top):
            warnings.append(f"{tree.place}:{at} is a link to {target}; it was not read.")
    return warnings


def _nothing(tree: Tree) -> ReaderError:
    if tree.is_group("/units"):
        what = "its units table has no spike_times"
    else:
        what = "it has neither a units table nor fluorescence series of ROIs (RoiResponseSeries)"
    held = ", ".join(
        join(top, name) for top in ("/acquisition", "/processing") for name in tree.names(top)[:5]
    )
    broken = [f"{at} -> {target}" for at, target in broken_links_below(tree, "/processing")]
    extra = f" Links that lead nowhere: {', '.join(broken)}." if broken else ""
    return ReaderError(
        f"{tree.place} holds nothing that can be read: {what}.{extra}",
        "Sort or segment the recording first"
        + (f"; the file holds {held}." if held else ", and write the result into the file."),
    )
