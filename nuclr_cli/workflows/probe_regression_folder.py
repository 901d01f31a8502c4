"""What a regression probe leaves behind: its folder, and everything in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.evaluation.ridge import RidgePredictions, fit_ridge
from nuclr_cli.evaluation.split_files import split_document
from nuclr_cli.evaluation.splits import LEFT_OUT, Split
from nuclr_cli.wording import counted
from nuclr_cli.workflows.probe_card import PROBE, make_card, write_card
from nuclr_cli.workflows.probe_inputs import ProbeTable
from nuclr_cli.workflows.probe_number_plots import plot_predicted, plot_r2
from nuclr_cli.workflows.probe_regression_record import RegressionRecord
from nuclr_cli.workflows.probe_report import replacing_folder, write_document
from nuclr_cli.workflows.probe_target import Target


def write_regression_folder(
    record: RegressionRecord,
    source: ProbeTable,
    target: Target,
    split: Split,
    own: RidgePredictions,
    used: NDArray[np.int64],
) -> None:
    """Write the folder: report, predictions, plots, split, and the probe refitted on every usable unit.

    Args:
        record: What came out.
        source: The table of embeddings.
        target: The number of its rows.
        split: Who trained and who was tested.
        own: NuCLR's out-of-fold predictions.
        used: Usable rows in the order of their keys.
    """
    import skops.io

    with replacing_folder(record.folder) as folder:
        write_document(split_document(split), folder / "split.json", indent=None)
        about = {
            "kind": record.kind,
            "target": record.target,
            "run": record.run,
            "embeddings_sha256": record.embeddings_sha256,
        }
        _write_predictions(folder / "predictions.parquet", source, target, split, own, about)
        fitted = fit_ridge(source.table.embedding, target.values, split, used, seed=record.seed)
        skops.io.dump(fitted, folder / PROBE)
        card = make_card(
            "regression",
            record.target,
            source,
            split,
            used,
            folder / PROBE,
            knowledge=record.knowledge,
            variant="ridge",
            pipeline="StandardScaler, Ridge; refitted on all usable units",
            scores=record.methods[0],
            versions=record.versions,
            alpha=float(fitted.named_steps["ridge"].alpha),
            target=target.values,
        )
        write_card(card, folder)
        asked = f"{record.target}, split by {record.split}"
        title = f"{asked}, {counted(record.n_tested, 'unit')}, {record.knowledge}"
        tested = np.isfinite(own.predicted)
        plot_r2(record.methods, title, folder / "scores.png")
        plot_predicted(
            target.values[tested],
            own.predicted[tested],
            source.keys.subject[tested],
            record.target,
            title,
            folder / "predicted.png",
        )
        write_document(record, folder / "report.json")


def _write_predictions(
    path: Path,
    source: ProbeTable,
    target: Target,
    split: Split,
    own: RidgePredictions,
    about: Mapping[str, str],
) -> None:
    """One row for every row of the table of embeddings, in its order.

    Columns: the key, ``target`` (null = no value), ``fold`` that tested the unit, ``prediction`` (null where
    nothing was predicted), ``reason`` why not (empty where it was).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    absent = ~np.isfinite(own.predicted)
    fold = np.where(split.tested, np.array([*split.fold_names, "", ""])[split.fold], "")
    cases = [
        (~absent, ""),
        (np.isnan(target.values), "no value"),
        (split.fold == LEFT_OUT, "not in the split"),
        (~source.embedded, "no embedding: never active in a window"),
        (~split.tested, "training only"),
    ]
    reason = np.select(
        [where for where, _ in cases],
        [np.array(text) for _, text in cases],
        default=np.array("its fold could not be trained"),
    )
    names = ("subject", "session", "population", "unit_id")
    columns: dict[str, Any] = {
        name: pa.array(column.tolist(), pa.string())
        for name, column in zip(names, source.keys.columns(), strict=True)
    }
    columns["target"] = pa.array(target.values, pa.float64(), mask=np.isnan(target.values))
    columns["fold"] = pa.array(fold.tolist(), pa.string())
    columns["prediction"] = pa.array(own.predicted, pa.float64(), mask=absent)
    columns["reason"] = pa.array(reason.tolist(), pa.string())
    pq.write_table(pa.table(columns).replace_schema_metadata({"nuclr": json.dumps(dict(about))}), path)
