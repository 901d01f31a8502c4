"""Predictions as label tables of a phy folder."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

from nuclr_cli.api import Exporter, ReaderError, UnitPredictions, by_unit, whole_files
from nuclr_spikeinterface.layout import Layout, recognise, saved_sorting_inside
from nuclr_spikeinterface.phy import read_phy


class PhyExporter(Exporter):
    """Adds ``cluster_nuclr_LABEL.tsv`` and ``cluster_nuclr_LABEL_probability.tsv`` to a phy folder.

    phy shows each as a column. Every cluster has a row, with nothing in it where the probe abstains or was
    not asked: SpikeInterface drops clusters that one of the tables leaves out.
    """

    name = "phy"
    formats = ("phy cluster_*.tsv",)

    def writes(self, predictions: Sequence[UnitPredictions], target: Path) -> Sequence[Path]:
        one = predictions[0]
        columns = [one.column, f"{one.column}_probability"] if one.classes else [one.column]
        return [target / f"cluster_{column}.tsv" for column in columns]

    def export(self, predictions: Sequence[UnitPredictions], target: Path) -> Sequence[Path]:
        _require_phy(target)
        sorting = read_phy(target)
        # Tables may name clusters without spikes.
        clusters = sorted({*sorting.unit_ids.tolist(), *sorting.dropped_ids}, key=int)
        found = by_unit(predictions, clusters, target)
        _require_plain(predictions[0].classes)
        label, *probability = self.writes(predictions, target)
        texts = [(label, {unit: one.label for unit, one in found.items()})]
        if probability:
            shares = {
                unit: "" if math.isnan(one.probability) else f"{one.probability:.4f}"
                for unit, one in found.items()
            }
            texts.append((probability[0], shares))
        with whole_files.replacing(*(path for path, _ in texts)) as staged:
            for (path, values), temporary in zip(texts, staged, strict=True):
                with temporary.open("w", newline="", encoding="utf-8") as file:
                    writer = csv.writer(file, delimiter="\t", lineterminator="\n")
                    writer.writerow(("cluster_id", path.stem.removeprefix("cluster_")))
                    writer.writerows((cluster, values.get(cluster, "")) for cluster in clusters)
        return [path for path, _ in texts]


def _require_phy(folder: Path) -> None:
    seen = recognise(folder) if folder.exists() else None
    if seen is not None and seen.layout is Layout.PHY:
        return
    what = "does not exist" if not folder.exists() else f"is {seen}" if seen else "is no phy folder"
    fix = "Name the folder with params.py and spike_times.npy: --to FOLDER"
    if seen is not None and seen.layout is Layout.SORTER:
        inside = saved_sorting_inside(folder)
        if inside is not None and inside[1] is Layout.PHY:
            fix = f"--to {inside[0]}"
    elif seen is not None:
        fix = "--export spikeinterface writes a copy of a saved sorting"
    raise ReaderError(f"{folder} {what}.", fix)


def _require_plain(classes: Sequence[str]) -> None:
    """phy and SpikeInterface read these tables line by line."""
    broken = [name for name in classes if "\t" in name or len(name.splitlines()) > 1]
    if broken:
        raise ReaderError(
            f"Labels with tabs or line breaks cannot stand in a phy table: {', '.join(map(repr, broken))}.",
            "Rename them with nuclr label --label-map, then probe again",
        )
