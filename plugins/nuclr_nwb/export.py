"""Predictions as columns of the units table, in a copy of an NWB file."""

from __future__ import annotations

import shutil
import uuid
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
from nuclr_nwb.tables import column_names, read_ids
from nuclr_nwb.tree import DAMAGE
from nuclr_nwb.units import UNITS, has_units


class NwbExporter(Exporter):
    """Copies the NWB file that the units were read from, and adds columns to the units table of the copy.

    ``nuclr_LABEL`` (text, '' where the probe abstains or was not asked) and ``nuclr_LABEL_probability``
    (NaN there), in the order of the table's own ids.
    """

    name = "nwb"
    formats = ("copy of an NWB file (HDF5)",)

    def export(self, predictions: Sequence[UnitPredictions], target: Path) -> Sequence[Path]:
        source = common_source(predictions, "A copy of the NWB file")
        _require_possible(predictions, source, target)
        from nuclr_nwb.hdf5_tree import open_hdf5

        tree = open_hdf5(source)
        with tree:
            if not has_units(tree):
                raise ReaderError(
                    f"{source} has no units table.", "Name the file with the units: --source FILE"
                )
            if tree.is_elsewhere(UNITS):
                raise ReaderError(
                    f"The units of {source} are a link into another file, which must stay as it is.",
                    "Export the units into a file of their own with pynwb, and name it: --source FILE",
                )
            ids = read_ids(tree, UNITS).tolist()
            names = column_names(tree, UNITS)
            if target.parent.resolve() != source.parent.resolve():
                _require_no_links(tree.file, source, target)
        found = by_unit(predictions, ids, f"{source}:{UNITS}")
        columns = _columns(predictions[0], [found.get(unit, Predicted("", np.nan)) for unit in ids])
        with whole_files.replacing(target) as (temporary,):
            shutil.copyfile(source, temporary)
            _add(temporary, names, columns, predictions[0].label_name)
        return [target]


def _require_possible(predictions: Sequence[UnitPredictions], source: Path, target: Path) -> None:
    traces = sorted({one.population for one in predictions if one.modality != "spikes"})
    if traces:
        raise ReaderError(
            f"Population {', '.join(traces)} holds traces: their units are ROIs, which the units table of "
            "an NWB file does not list.",
            "Take the table: -o FILE.csv",
        )
    if source.is_dir():
        raise ReaderError(
            f"{source} is a folder; columns are added to NWB files in HDF5.",
            "Take the table: -o FILE.csv",
        )
    if target.suffix.lower() != ".nwb":
        raise ReaderError(f"{target} does not end with .nwb.", f"--to {target.with_suffix('.nwb')}")
    if target.is_dir():
        raise ReaderError(f"{target} is a folder.", "Name a file: --to FILE.nwb")
    if target.exists() and target.samefile(source):
        raise ReaderError(
            f"{target} is the original, which stays as it is.", "Name another file: --to FILE.nwb"
        )
    if target.exists() and not _is_ours(target):
        raise ReaderError(
            f"{target} exists and is no copy that nuclr made, so it is not replaced.",
            "Name a file that does not exist: --to FILE.nwb",
        )


def _is_ours(path: Path) -> bool:
    """Whether an earlier export added columns to it."""
    from nuclr_nwb.hdf5_tree import open_hdf5

    try:
        with open_hdf5(path) as tree:
            return any(name.startswith("nuclr_") for name in tree.names(UNITS))
    except ReaderError:
        return False


def _require_no_links(file: Any, source: Path, target: Path) -> None:
    """Refuse to tear a file from others that it finds beside it."""
    from nuclr_nwb.hdf5_links import relative_files

    try:
        linked = relative_files(file)
    except DAMAGE as error:
        raise ReaderError(f"{source} is damaged: {error}.", "Copy the file again.") from None
    if linked:
        at, name = linked[0]
        raise ReaderError(
            f"{source} finds parts of itself in other files ({at} in {name}), and its copy in "
            f"{target.parent} would not.",
            f"--to {source.parent / target.name}",
        )


def _columns(one: UnitPredictions, rows: Sequence[Predicted]) -> dict[str, NDArray[Any]]:
    if not one.classes:  # a number
        return {one.column: np.array([float(row.label or "nan") for row in rows])}
    return {
        one.column: np.array([row.label for row in rows], dtype=object),
        f"{one.column}_probability": np.array([row.probability for row in rows], dtype=np.float64),
    }


def _add(path: Path, names: list[str], columns: dict[str, NDArray[Any]], label: str) -> None:
    import h5py

    with h5py.File(path, "r+") as file:
        units = file[UNITS]
        for name, values in columns.items():
            if name in units:  # of an earlier export
                del units[name]
            is_text = values.dtype.kind == "O"
            column = units.create_dataset(
                name, data=values, dtype=h5py.string_dtype() if is_text else values.dtype
            )
            is_share = name.endswith("_probability")
            what = "probability of the likeliest" if is_share else "predicted"
            none = "empty" if is_text else "NaN"
            column.attrs["description"] = f"{what} {label}, by nuclr predict; {none}: no prediction"
            column.attrs["namespace"] = "hdmf-common"
            column.attrs["neurodata_type"] = "VectorData"
            column.attrs["object_id"] = str(uuid.uuid4())
        before = units.attrs.get("colnames", names)  # a table of another writer may do without
        before = [name.decode() if isinstance(name, bytes) else str(name) for name in before]
        listed = [*(name for name in before if name not in columns), *columns]
        units.attrs["colnames"] = np.array(listed, dtype=h5py.string_dtype())
