"""What a probe leaves behind: its folder, and everything in it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from nuclr_cli.evaluation.probes import Predictions, fit_probe
from nuclr_cli.evaluation.split_files import split_document
from nuclr_cli.evaluation.splits import Split
from nuclr_cli.wording import counted
from nuclr_cli.workflows.probe_inputs import ProbeTable
from nuclr_cli.workflows.probe_plots import plot_confusion, plot_scores
from nuclr_cli.workflows.probe_question import Question, reasons
from nuclr_cli.workflows.probe_record import ProbeConfig, ProbeRecord
from nuclr_cli.workflows.probe_report import (
    file_sha256,
    folder_name,
    replacing_folder,
    write_document,
    write_predictions,
)


def result_folder(source: ProbeTable, split: Split, config: ProbeConfig) -> Path:
    """``RUN/probes/L/SPLIT-VARIANT`` for a run's own embeddings; beside the file for any other."""
    if source.run is not None and source.path.resolve() == source.run.embeddings.resolve():
        root = source.run.folder / "probes"
    else:
        root = source.path.parent / f"{source.path.stem}-probes"
    kind = split.kind if split.kind != "file" else folder_name(f"file-{Path(config.split).stem}")
    name = f"{kind}-{config.variant}"
    if config.classes or config.test_subjects:  # another question, which keeps an answer of its own
        asked = json.dumps([sorted(config.classes), sorted(config.test_subjects)])
        name += "-" + hashlib.sha256(asked.encode()).hexdigest()[:8]
    return root / folder_name(config.label) / name


def write_folder(record: ProbeRecord, question: Question, own: Predictions) -> None:
    """Write the folder: report, predictions, plots, split, and the probe refitted on every usable unit."""
    import skops.io

    source, split = question.source, question.split
    with replacing_folder(record.folder) as folder:
        write_document(split_document(split), folder / "split.json", indent=None)
        fold = np.where(split.tested, np.array([*split.fold_names, "", ""])[split.fold], "")
        write_predictions(
            folder / "predictions.parquet",
            source.keys,
            question.labels.values,
            fold,
            own.predicted,
            own.probability,
            question.classes,
            reasons(question, own),
            {"label": record.label, "run": record.run, "embeddings_sha256": record.embeddings_sha256},
        )
        used = question.used
        fitted = fit_probe(
            source.table.embedding[used],
            np.asarray(question.labels.values[used], dtype=str),
            question.variant,
        )
        skops.io.dump(fitted, folder / "probe.skops")
        nuclr = record.methods[0]
        write_document(
            {
                "label": record.label,
                "classes": list(record.classes),
                "split": record.split,
                "knowledge": record.knowledge,
                "variant": record.variant,
                "pipeline": "StandardScaler, LogisticRegression; refitted on all usable units",
                "n_train_units": len(used),
                "n_train_units_per_class": dict(
                    zip(record.classes, np.bincount(question.codes[used]).tolist(), strict=True)
                ),
                "dim": int(source.table.embedding.shape[1]),
                "scores_of_the_split": nuclr,
                "run": record.run,
                "checkpoint": record.checkpoint,
                "embeddings_sha256": record.embeddings_sha256,
                "probe_sha256": file_sha256(folder / "probe.skops"),
                "versions": record.versions,
            },
            folder / "card.json",
        )
        title = (
            f"{record.label}, split by {record.split}, {counted(record.n_tested, 'unit')}, {record.knowledge}"
        )
        plot_scores(record.methods, title, folder / "scores.png")
        plot_confusion(np.array(record.confusion), record.classes, title, folder / "confusion.png")
        write_document(record, folder / "report.json")
