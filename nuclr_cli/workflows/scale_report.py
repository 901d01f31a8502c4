"""The results of a sweep put together: by size, judged, and written as JSON, CSV and a plot."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nuclr_cli.data.atomic import replacing
from nuclr_cli.errors import InputError
from nuclr_cli.evaluation.scaling_law import MIN_POINTS, fit_scaling
from nuclr_cli.workflows.probe_report import write_document
from nuclr_cli.workflows.scale_config import SIZE_NAMES
from nuclr_cli.workflows.scale_folder import read_result
from nuclr_cli.workflows.scale_plot import plot_sweep
from nuclr_cli.workflows.scale_record import (
    BaselineScore,
    PointResult,
    PointSpec,
    ScaleRecord,
    SizeSummary,
    Spread,
    Sweep,
)

REPORT_FILE, TABLE_FILE, PLOT_FILE = "scale.json", "scale.csv", "scale.png"


def summarise(
    folder: Path,
    sweep: Sweep,
    choices: tuple[str, ...],
    warnings: tuple[str, ...],
    n_before: int,
    seconds: float,
) -> ScaleRecord:
    """Read every point and judge them.

    Raises:
        InputError: A point is not done, or its file is damaged.
    """
    done = {}
    for point in sweep.points:
        result = read_result(folder, point.name)
        if result is None:
            raise InputError(f"The point {point.name} of {folder} is not done.", "Run the same command again")
        done[point.name] = result
    results = tuple(done.values())
    size_name = SIZE_NAMES[sweep.axis]
    sizes = [point.size for point in sweep.points]
    fits = (
        fit_scaling(
            sizes,
            [result.held_out_loss for result in results],
            score="held-out loss",
            size=size_name,
            falls=True,
            seed=sweep.seed,
        ),
        fit_scaling(
            sizes,
            [result.macro_f1 for result in results],
            score="macro F1",
            size=size_name,
            falls=False,
            bounds=(0.0, 1.0),
            seed=sweep.seed,
        ),
    )
    by_size = _by_size(sweep.points, results)
    baselines = next((one.baselines for one in reversed(results) if one.baselines), ())
    knowledge = sorted({result.knowledge for result in results})
    return ScaleRecord(
        folder=folder,
        label=sweep.label,
        axis=sweep.axis,
        size_name=size_name,
        sweep=sweep,
        choices=choices,
        warnings=(*warnings, *_warnings(results, by_size, baselines)),
        results=results,
        sizes=by_size,
        fits=fits,
        baselines=baselines,
        knowledge=", ".join(knowledge),
        n_before=n_before,
        seconds=seconds,
    )


def _by_size(points: Sequence[PointSpec], results: Sequence[PointResult]) -> tuple[SizeSummary, ...]:
    summaries = []
    for size in sorted({point.size for point in points}):
        own = [result for point, result in zip(points, results, strict=True) if point.size == size]
        steps = next(point.steps for point in points if point.size == size)
        f1 = _spread([result.macro_f1 for result in own])
        assert f1 is not None
        summaries.append(
            SizeSummary(
                size,
                len(own),
                steps,
                _spread([result.held_out_loss for result in own]),
                _spread([result.train_loss for result in own]),
                f1,
            )
        )
    return tuple(summaries)


def _spread(values: Sequence[float | None]) -> Spread | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return None
    return Spread(float(np.mean(known)), float(np.std(known, ddof=1)) if len(known) > 1 else None)


def _warnings(
    results: Sequence[PointResult], sizes: Sequence[SizeSummary], baselines: Sequence[BaselineScore]
) -> list[str]:
    found = []
    for what, values in (
        ("devices", {result.device for result in results}),
        ("versions of nuclr", {result.version for result in results}),
    ):
        if len(values) > 1:
            found.append(
                f"The points were computed with different {what} ({', '.join(sorted(values))}): differences "
                "between them may come from that."
            )
    if len(sizes) < MIN_POINTS:
        found.append(
            f"A law needs at least {MIN_POINTS} sizes, and there are {len(sizes)}: only the trend is told "
            "(--points, --values)."
        )
    best = max(baselines, key=lambda one: one.macro_f1, default=None)
    if best is not None and best.macro_f1 >= max(size.macro_f1.mean for size in sizes):
        found.append(
            f"No size has a higher mean macro F1 than the baseline {best.title!r} ({best.macro_f1:.3f})."
        )
    return found


def write_report(record: ScaleRecord) -> None:
    """Write the table, the plot and, last, scale.json into the folder of the sweep.

    Raises:
        InputError: They cannot be written.
    """
    with replacing(record.folder / TABLE_FILE) as temporary:
        _write_table(record, temporary)
    with replacing(record.folder / PLOT_FILE) as temporary:
        plot_sweep(record, temporary)
    with replacing(record.folder / REPORT_FILE) as temporary:
        write_document(record, temporary)


def _write_table(record: ScaleRecord, path: Path) -> None:
    columns = (
        "point", "axis", "value", "size", "seed", "steps", "subjects", "sessions", "units",
        "minutes_per_session", "parameters", "held_out_loss", "train_loss", "macro_f1", "macro_f1_low",
        "macro_f1_high", "balanced_accuracy", "units_tested", "rankme", "knowledge", "device", "run",
        "checkpoint",
    )  # fmt: skip
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for point, result in zip(record.sweep.points, record.results, strict=True):
            writer.writerow(
                (
                    point.name, record.axis, point.value, point.size, point.seed, point.steps,
                    ";".join(point.subjects), point.n_sessions, point.n_units, point.minutes,
                    result.parameters, result.held_out_loss, result.train_loss, result.macro_f1,
                    result.macro_f1_low, result.macro_f1_high, result.balanced_accuracy, result.n_tested,
                    result.rankme, result.knowledge, result.device, result.run, result.checkpoint,
                )
            )  # fmt: skip
