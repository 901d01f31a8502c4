"""What a probe leaves behind: its folder, and everything in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from nuclr_cli.evaluation.predictions import Predictions
from nuclr_cli.evaluation.probes import DEFAULT_C, variant_named
from nuclr_cli.evaluation.split_files import split_document, split_title
from nuclr_cli.evaluation.splits import Split
from nuclr_cli.wording import counted
from nuclr_cli.workflows.probe_baselines import DEFAULT_LEVEL
from nuclr_cli.workflows.probe_card import PROBE, make_card, validated, write_card
from nuclr_cli.workflows.probe_inputs import ProbeTable
from nuclr_cli.workflows.probe_plots import plot_confusion, plot_scores
from nuclr_cli.workflows.probe_question import Question, reasons
from nuclr_cli.workflows.probe_record import ProbeConfig, ProbeRecord
from nuclr_cli.workflows.probe_report import (
    folder_name,
    replacing_folder,
    write_document,
    write_predictions,
)
from nuclr_cli.workflows.reliability_plot import plot_reliability


def result_folder(source: ProbeTable, split: Split, config: ProbeConfig) -> Path:
    """``RUN/probes/L/SPLIT-VARIANT`` for a run's own embeddings; beside the file for any other.

    Another question or another probe keeps an answer of its own: what is not the default is in the name.
    """
    if source.run is not None and source.path.resolve() == source.run.embeddings.resolve():
        root = source.run.folder / "probes"
    else:
        root = source.path.parent / f"{source.path.stem}-probes"
    kind = split.kind if split.kind != "file" else folder_name(f"file-{split_title(config.split)}")
    name = f"{kind}-{config.variant}"
    recipe = config.recipe
    if recipe.balance != variant_named(config.variant).balance:
        name += f"-balance-{recipe.balance}"
    if recipe.c != DEFAULT_C:
        name += f"-C-{recipe.c}"
    if config.folds is not None:
        name += f"-folds-{config.folds}"
    if config.baselines != DEFAULT_LEVEL:
        name += f"-baselines-{config.baselines}"
    if config.parent is not None:
        name += f"-parent-{folder_name(config.parent)}"
    if config.classes or config.test_subjects:
        asked = json.dumps([sorted(config.classes), sorted(config.test_subjects)])
        name += "-" + hashlib.sha256(asked.encode()).hexdigest()[:8]
    return root / folder_name(config.label) / name


def write_folder(
    record: ProbeRecord,
    question: Question,
    own: Predictions,
    fitted: Pipeline,
    others: Mapping[str, NDArray[np.int64]],
) -> None:
    """Write the folder: report, predictions, plots, split, and the probe fitted on every usable unit.

    Args:
        record: The report.
        question: The question.
        own: The probe's predictions.
        fitted: The probe that is kept.
        others: (N,) class codes by name: what other ways to read the same embedding predict.
    """
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
            others,
        )
        used = question.used
        skops.io.dump(fitted, folder / PROBE)
        card = make_card(
            "classification",
            record.label,
            source,
            split,
            used,
            folder / PROBE,
            knowledge=record.knowledge,
            variant=record.variant,
            pipeline="StandardScaler, LogisticRegression; refitted on all usable units",
            scores=record.methods[0],
            versions=record.versions,
            classes=record.classes,
            codes=question.codes,
            c=float(fitted[-1].C),
            calibration=validated(own.probability, question.codes, question.tested, split),
        )
        write_card(card, folder)
        title = (
            f"{record.label}, split by {record.split}, {counted(record.n_tested, 'unit')}, {record.knowledge}"
        )
        plot_scores(record.methods, title, folder / "scores.png")
        plot_confusion(np.array(record.confusion), record.classes, title, folder / "confusion.png")
        if card.calibration is not None:
            plot_reliability(card.calibration, title, folder / "reliability.png")
        write_document(record, folder / "report.json")
