"""Write simulated animals as SpikeInterface sortings, as a laboratory would hand them over."""

from __future__ import annotations

import csv
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from nuclr_cli.errors import InputError, MissingPackageError
from nuclr_cli.testing.animals import SimulatedAnimal, SimulationConfig, simulate_animal

SortingFormat = Literal["numpy_folder", "zarr"]

MANIFEST = "sessions.csv"


def save_animals(
    config: SimulationConfig,
    folder: Path,
    formats: Sequence[SortingFormat] = ("numpy_folder", "zarr"),
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Simulate every animal and save each as a sorting folder with its unit properties.

    Args:
        config: What to simulate.
        folder: Where; made when missing. Animal ``i`` goes to ``sim00``, ``sim01.zarr``, ...
        formats: SpikeInterface formats, used in turn.
        progress: Called with (animals done, animals in all) after each animal.

    Returns:
        The manifest, ``sessions.csv``, with the columns ``path`` (relative to the manifest), ``subject``,
        ``session`` and ``duration_s``, which a sorting does not store. It is written last.

    Raises:
        InputError: The folder already holds one of the names, or `formats` is empty or unknown.
        MissingPackageError: SpikeInterface (or zarr, for that format) is not installed.
    """
    unknown = [name for name in formats if name not in ("numpy_folder", "zarr")]
    if unknown or not formats:
        raise InputError(f"Sorting formats: found {unknown or 'none'}; expected 'numpy_folder' or 'zarr'.")
    _require(formats[: config.n_animals])
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = [
        f"sim{i:02d}" + (".zarr" if formats[i % len(formats)] == "zarr" else "")
        for i in range(config.n_animals)
    ]
    taken = [name for name in [*names, MANIFEST] if (folder / name).exists()]
    if taken:
        raise InputError(
            f"{folder} already holds {taken[0]}" + (f" and {len(taken) - 1} more" if taken[1:] else "") + ".",
            "Name another folder, or remove these first.",
        )
    rows = []
    for index, name in enumerate(names):
        animal = simulate_animal(config, index)
        _save_sorting(animal, folder / name, formats[index % len(formats)])
        population = animal.population
        duration_s = float(population.intervals[-1, 1])
        rows.append((name, population.subject, population.session, repr(duration_s)))
        if progress is not None:
            progress(index + 1, config.n_animals)
    manifest = folder / MANIFEST
    temporary = folder / f".{MANIFEST}.{os.getpid()}"
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "subject", "session", "duration_s"))
        writer.writerows(rows)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(manifest)
    return manifest


def _require(formats: Sequence[SortingFormat]) -> None:
    try:
        import spikeinterface.core  # noqa: F401
    except ImportError as error:
        raise MissingPackageError("spikeinterface", "Saving simulated animals") from error
    if "zarr" in formats:
        try:
            import zarr  # noqa: F401
        except ImportError as error:
            raise MissingPackageError("zarr>=2.18,<3", "Saving simulated animals as zarr") from error


def _save_sorting(animal: SimulatedAnimal, target: Path, sorting_format: SortingFormat) -> None:
    """Save under a temporary name in the same folder, then rename."""
    from spikeinterface.core import NumpySorting

    population = animal.population
    assert population.spikes is not None  # `simulate_animal` always makes spikes
    ids = population.units["id"].astype(np.int64)
    sorting = NumpySorting.from_samples_and_labels(
        [animal.samples], [ids[population.spikes.unit_index]], animal.fs_hz, unit_ids=ids
    )
    for name, column in population.units.items():
        if name != "id":
            sorting.set_property(name, column)
    workspace = Path(tempfile.mkdtemp(prefix=".simulated-", dir=target.parent))
    try:
        with warnings.catch_warnings():
            # There is no recording that the saved sorting could point back to.
            warnings.filterwarnings("ignore", message="The extractor is not serializable")
            # The suffix stays: SpikeInterface tells zarr folders by it.
            sorting.save(format=sorting_format, folder=workspace / target.name)
        (workspace / target.name).replace(target)
    finally:
        shutil.rmtree(workspace, ignore_errors=True)
