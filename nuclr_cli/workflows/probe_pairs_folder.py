"""What a probe of pairs leaves behind: its folder, and everything in it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nuclr_cli.evaluation.pair_splits import PairSplit, units_of_pairs
from nuclr_cli.evaluation.pairs import PairFeatures, PairInput, PairPredictions, Strength, fit_all
from nuclr_cli.evaluation.ranking import PairMethod
from nuclr_cli.evaluation.records import NUCLR
from nuclr_cli.evaluation.split_files import split_document
from nuclr_cli.wording import counted
from nuclr_cli.workflows.pair_table import PairTable
from nuclr_cli.workflows.probe_card import PROBE, make_card, write_card
from nuclr_cli.workflows.probe_inputs import ProbeTable
from nuclr_cli.workflows.probe_number_plots import plot_pair_scores, plot_ranking
from nuclr_cli.workflows.probe_pairs_record import PairsRecord
from nuclr_cli.workflows.probe_report import replacing_folder, write_document


def write_pairs_folder(
    record: PairsRecord,
    source: ProbeTable,
    table: PairTable,
    split: PairSplit,
    own: Mapping[PairFeatures, PairPredictions],
    scores: Mapping[PairFeatures, Sequence[PairMethod]],
    strength: Strength,
) -> None:
    """Write the folder: report, predictions, plots, split, and the main probe refitted on every usable pair.

    Args:
        record: What came out.
        source: The table of embeddings.
        table: The pairs.
        split: Who trained and who was tested.
        own: NuCLR's out-of-fold scores, by kind of features.
        scores: Scores of the tested pairs by every method, by kind of features.
        strength: C, or nested.
    """
    import skops.io

    embedded = source.embedded[table.pre] & source.embedded[table.post]
    with replacing_folder(record.folder) as folder:
        write_document(_split_document(record, split), folder / "split.json", indent=None)
        _write_predictions(folder / "predictions.parquet", record, source, table, split, own)
        fit_on = np.flatnonzero(embedded & split.in_split)
        fitted = fit_all(
            PairInput(NUCLR, "NuCLR", units=source.table.embedding),
            record.main,
            split,
            table.connected,
            fit_on,
            strength,
            record.seed,
        )
        skops.io.dump({"units": fitted.units, "pairs": fitted.pairs}, folder / PROBE)
        card = make_card(
            "pairs",
            table.name,
            source,
            split.units,
            np.sort(units_of_pairs(table.pre[fit_on], table.post[fit_on])),
            folder / PROBE,
            knowledge=record.knowledge,
            variant=record.main,
            pipeline="a dictionary: units = StandardScaler of embeddings; pairs = StandardScaler, "
            f"LogisticRegression of {record.main} features of two standardised units "
            "(nuclr_cli.evaluation.pairs.pair_features); refitted on all usable pairs",
            scores=record.results[0].methods[0],
            versions=record.versions,
            c=fitted.strength,
        )
        write_card(card, folder)
        connected = table.connected[np.isfinite(own[record.main].score)]
        asked = f"{table.name}, {record.main} features, split by {record.split}"
        title = f"{asked}, {counted(record.n_tested, 'pair')}, {record.knowledge}"
        rows = [
            (one.name, one.title, one.average_precision, one.roc_auc) for one in record.results[0].methods
        ]
        plot_pair_scores(rows, title, folder / "scores.png")
        curves = [(one.name, one.title, one.score) for one in scores[record.main]]
        plot_ranking(curves, connected, title, folder / "curves.png")
        write_document(record, folder / "report.json")


def _split_document(record: PairsRecord, split: PairSplit) -> dict[str, Any]:
    """The units' split as `file_split` reads it back, and what it means for the pairs."""
    pairs = [
        {"name": fold.name, "n_train": len(fold.train), "n_test": len(fold.test), "n_across": fold.n_across}
        for fold in split.folds
    ]
    return {**split_document(split.units), "pairs": {"sha256": record.pairs_sha256, "folds": pairs}}


def _write_predictions(
    path: Path,
    record: PairsRecord,
    source: ProbeTable,
    table: PairTable,
    split: PairSplit,
    own: Mapping[PairFeatures, PairPredictions],
) -> None:
    """One row for every pair of the table (without repetitions), in the order of the units' keys.

    Columns: ``subject``, ``session``, ``pre_population``, ``pre``, ``post_population``, ``post``, ``label``,
    ``fold`` that tested the pair, ``score_KIND`` for each kind of features (null where nothing was predicted;
    a probability for classes of equal size, not calibrated), ``reason`` why not (empty where it was).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    keys = source.keys
    absent = ~np.isfinite(own[record.main].score)
    cases = [
        (~absent, ""),
        (~(source.embedded[table.pre] & source.embedded[table.post]), "no embedding of a unit"),
        (~split.in_split, "a unit is not in the split"),
        (split.across, "units in different parts of the split"),
        (split.fold_of < 0, "training only"),
    ]
    reason = np.select(
        [where for where, _ in cases],
        [np.array(text) for _, text in cases],
        default=np.array("its fold could not be trained"),
    )
    names = np.array([*(fold.name for fold in split.folds), ""])
    text: dict[str, Any] = {
        "subject": keys.subject[table.pre],
        "session": keys.session[table.pre],
        "pre_population": keys.population[table.pre],
        "pre": keys.unit_id[table.pre],
        "post_population": keys.population[table.post],
        "post": keys.unit_id[table.post],
    }
    columns: dict[str, Any] = {name: pa.array(values.tolist(), pa.string()) for name, values in text.items()}
    columns["label"] = pa.array(table.connected.astype(np.int64), pa.int64())
    columns["fold"] = pa.array(names[split.fold_of].tolist(), pa.string())
    for kind, predictions in own.items():
        columns[f"score_{kind}"] = pa.array(
            predictions.score, pa.float64(), mask=~np.isfinite(predictions.score)
        )
    columns["reason"] = pa.array(reason.tolist(), pa.string())
    about = {
        "kind": record.kind,
        "pairs_sha256": record.pairs_sha256,
        "run": record.run,
        "embeddings_sha256": record.embeddings_sha256,
    }
    pq.write_table(pa.table(columns).replace_schema_metadata({"nuclr": json.dumps(about)}), path)
