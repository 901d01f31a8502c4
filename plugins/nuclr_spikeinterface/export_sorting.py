"""Predictions as unit properties in a copy of a saved sorting."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import (
    Exporter,
    Predicted,
    ReaderError,
    UnitPredictions,
    by_unit,
    common_source,
    whole_files,
)
from nuclr_spikeinterface.formats import read_npz_folder, read_numpy_folder
from nuclr_spikeinterface.layout import Layout, Sighting, recognise, saved_sorting_inside
from nuclr_spikeinterface.zarr_sorting import read_zarr

_COPIED = (Layout.NUMPY_FOLDER, Layout.NPZ_FOLDER, Layout.ZARR)


class SortingExporter(Exporter):
    """Copies the saved sorting that the units were read from, and adds properties to the copy.

    ``nuclr_LABEL`` (text, '' where the probe abstains or was not asked) and ``nuclr_LABEL_probability``
    (NaN there). The bytes are copied, so nothing in the folder is run and everything else in it stays.
    """

    name = "spikeinterface"
    formats = ("copy of a SpikeInterface sorting (numpy_folder, npz_folder, zarr)",)

    def export(self, predictions: Sequence[UnitPredictions], target: Path) -> Sequence[Path]:
        given = common_source(predictions, "A copy of the sorting")
        source, layout = _saved_sorting(given)
        _require_apart(source, given, target)
        _require_name(target, layout)
        ids = _unit_ids(source, layout)
        found = by_unit(predictions, ids, source)
        columns = _columns(predictions[0], [found.get(unit, Predicted("", np.nan)) for unit in ids])
        with whole_files.replacing(target) as (temporary,):
            shutil.copytree(source, temporary)
            if layout is Layout.ZARR:
                _add_to_zarr(temporary, columns)
            else:
                (temporary / "properties").mkdir(exist_ok=True)
                for name, values in columns.items():
                    np.save(temporary / "properties" / f"{name}.npy", values)
        return [target]


def _unit_ids(source: Path, layout: Layout) -> list[str]:
    """Ids in the order of the sorting."""
    if layout is Layout.ZARR:
        sorting = read_zarr(source)
    elif layout is Layout.NPZ_FOLDER:
        sorting = read_npz_folder(source, trust=False)
    else:
        sorting = read_numpy_folder(source, trust=False)
    return [str(unit) for unit in sorting.unit_ids.tolist()]


def _saved_sorting(source: Path) -> tuple[Path, Layout]:
    """The folder to copy: the source, or the saved sorting inside an analyzer or a sorter folder.

    Raises:
        ReaderError: There is none that could take properties.
    """
    seen = recognise(source)
    place, layout = source, None if seen is None else seen.layout
    if layout is Layout.ANALYZER:
        inside = recognise(source / "sorting")
        place, layout = source / "sorting", None if inside is None else inside.layout
    elif layout is Layout.SORTER:
        place, layout = saved_sorting_inside(source) or (source, layout)
    if layout in _COPIED:
        return place, layout
    raise ReaderError(
        f"{source} is {seen or 'no sorting'}: it has no place for properties.", _instead(seen, layout, place)
    )


def _instead(seen: Sighting | None, layout: Layout | None, place: Path) -> str:
    if layout is Layout.PHY:
        return f"--export phy --to {place}"
    if seen is None:
        return "Name the saved sorting: --source FOLDER"
    return "Save it with sorting.save(folder=...) in SpikeInterface, and name that folder: --source FOLDER"


def _require_apart(source: Path, given: Path, target: Path) -> None:
    """Refuse a target that would touch the original, or a folder that is none of ours.

    Raises:
        ReaderError: It would.
    """
    new = target.resolve()
    for original in (source.resolve(), given.resolve()):
        if new == original or original in new.parents or new in original.parents:
            raise ReaderError(
                f"{target} and {original}, which is copied, lie in one another.",
                "Name another folder: --to FOLDER",
            )
    if target.exists() and not (recognise(target) and any(target.glob("properties/nuclr_*"))):
        raise ReaderError(
            f"{target} exists and is no copy that nuclr made, so it is not replaced.",
            "Name a folder that does not exist: --to FOLDER",
        )


def _require_name(target: Path, layout: Layout) -> None:
    """SpikeInterface takes a folder for zarr by the end of its name."""
    if (layout is Layout.ZARR) != (target.suffix == ".zarr"):
        name = target.with_suffix(".zarr") if layout is Layout.ZARR else target.with_suffix("")
        raise ReaderError(
            f"The copy is a {layout.value}, and SpikeInterface would not load that from {target.name}.",
            f"--to {name}",
        )


def _columns(one: UnitPredictions, rows: Sequence[Predicted]) -> dict[str, NDArray[Any]]:
    if not one.classes:  # a number
        return {one.column: np.array([float(row.label or "nan") for row in rows])}
    return {
        one.column: np.array([row.label for row in rows], dtype=np.str_),
        f"{one.column}_probability": np.array([row.probability for row in rows], dtype=np.float64),
    }


def _add_to_zarr(folder: Path, columns: dict[str, NDArray[Any]]) -> None:
    import zarr  # reading the source found it

    store = zarr.DirectoryStore(str(folder))
    properties = zarr.open_group(store, mode="r+").require_group("properties")
    for name, values in columns.items():
        # As SpikeInterface writes them.
        properties.create_dataset(name=name, data=values, compressor=None, overwrite=True)
    if (folder / ".zmetadata").is_file():
        zarr.consolidate_metadata(store)
