"""`nuclr report`: everything that a run has to show, as one HTML file that needs nothing else."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nuclr_cli import __version__
from nuclr_cli.data.atomic import replacing
from nuclr_cli.errors import InputError, MissingPackageError
from nuclr_cli.wording import counted
from nuclr_cli.workflows.report_articles import cards, result_part
from nuclr_cli.workflows.report_charts import Chart
from nuclr_cli.workflows.report_gather import Gathered, gather
from nuclr_cli.workflows.report_html import Html, join, tag
from nuclr_cli.workflows.report_map import (
    SEED,
    Projection,
    principal_components,
    umap,
    umap_is_installed,
)
from nuclr_cli.workflows.report_page import Section, map_part, page, plotly_script
from nuclr_cli.workflows.report_provenance import provenance_part
from nuclr_cli.workflows.report_results import Classification, Regression
from nuclr_cli.workflows.report_scaling import scaling_part
from nuclr_cli.workflows.report_training import diagnostics_part, training_part
from nuclr_cli.workflows.report_units import (
    PredictionColumns,
    read_predictions,
    unit_columns,
    units_document,
)
from nuclr_cli.workflows.reporting import Reporter, SilentReporter
from nuclr_cli.workflows.runs import RUNS, find_run

MOST_UNITS = 100_000


@dataclass(frozen=True)
class ReportConfig:
    """What the user asked for.

    Attributes:
        run: Run folder or name; None = the newest.
        runs: Folder that holds the runs.
        out: File to write; None = ``RUN/report.html``.
        scale: Folder of a sweep that is shown, too.
        umap: Draw a UMAP, too; None = where umap-learn is installed.
        max_points: Units on the map and in the table of units; of more, so many are drawn at random.
    """

    run: Path | None = None
    runs: Path = RUNS
    out: Path | None = None
    scale: Path | None = None
    umap: bool | None = None
    max_points: int = MOST_UNITS

    def __post_init__(self) -> None:
        if self.max_points < 1:
            raise InputError(f"--max-points {self.max_points} is below 1.", f"The default is {MOST_UNITS}")


@dataclass(frozen=True)
class ReportRecord:
    """What came out.

    Attributes:
        out: The file.
        run: Id of the run.
        n_units: Rows of the table of embeddings.
        n_shown: Rows on the map and in the table of units.
        maps: ``pca`` and, where umap-learn is installed, ``umap``.
        results: Places of the results below the run.
        warnings: What is missing from the report, and why.
        n_bytes: Of the file.
        seconds: Wall time.
    """

    out: Path
    run: str
    n_units: int
    n_shown: int
    maps: tuple[str, ...]
    results: tuple[str, ...]
    warnings: tuple[str, ...]
    n_bytes: int
    seconds: float


def report(config: ReportConfig, reporter: Reporter | None = None) -> ReportRecord:
    """Write the report of a run.

    Raises:
        InputError: No run, no embeddings, a damaged table, `scale` is no sweep, or nowhere to write.
        MissingPackageError: plotly is not installed, or umap-learn, which `umap` asks for.
    """
    reporter = reporter or SilentReporter()
    began = time.monotonic()
    plotly = plotly_script()
    with_umap = umap_is_installed() if config.umap is None else config.umap
    if with_umap and not umap_is_installed():
        raise MissingPackageError("umap-learn", "--umap")
    run = find_run(config.run, config.runs, reporter.warn)
    if config.run is None:
        reporter.note(f"run {run.record.name}, the newest")
    found = gather(run, config.scale)
    warnings = list(found.warnings)
    predictions = _predictions(found, warnings)
    shown = _shown(found, config.max_points)
    maps = _maps(found, shown, with_umap, reporter)
    tokens = run.settings.tokens
    columns = unit_columns(
        found.table,
        {"spikes": tokens.spikes.window_s, "calcium": tokens.calcium.window_s},
        [
            (f"predicted {one.result.name} ({one.folder.name})", predictions[one.place])
            for one in found.results
            if one.place in predictions
        ],
    )
    if columns.left_out:
        warnings.append(
            "Labels with very many different names are not on the map, nor in the table of units: "
            f"{', '.join(columns.left_out)}."
        )
    charts: list[Chart] = []
    results = [
        result_part(one, i, predictions.get(one.place), charts, warnings)
        for i, one in enumerate(found.results)
    ]
    training, curves = training_part(found.metrics)
    charts += curves
    sections = [
        Section("results", "Results in short", cards(found)),
        Section("units-map", "Map of the units", join(_map_words(found, shown, maps), map_part())),
    ]
    if results:
        sections.append(Section("probes", "Probes", join(*results)))
    if found.scale is not None:
        body, more = scaling_part(found.scale)
        charts += more
        sections.append(Section("scaling", "Scaling", body))
    sections += [
        Section("training", "Training", training),
        Section(
            "diagnostics",
            "Without labels",
            diagnostics_part(
                found.diagnostics,
                "diagnostics" in found.table.metadata,
                found.selection,
                found.embedded,
            ),
        ),
        Section("provenance", "Provenance", provenance_part(found)),
    ]
    for text in warnings:
        reporter.warn(text)
    out = config.out or run.folder / "report.html"
    now = datetime.now(UTC)
    label = next((one.result.name for one in found.results if isinstance(one.result, Classification)), "")
    text = page(
        run.record.name,
        _meta(found, now),
        sections,
        {
            "units": units_document(columns, maps, shown),
            "charts": {one.name: one.document() for one in charts},
            "color": label,
        },
        plotly=plotly,
        generator=f"nuclr {__version__}",
        footer=join(
            f"Made by nuclr {__version__} on {now:%Y-%m-%d %H:%M} UTC. This file needs no network and sends "
            "nothing."
        ),
        before=_left_out(warnings),
    )
    with replacing(out) as temporary:
        temporary.write_bytes(text.encode("utf-8", errors="replace"))
    return ReportRecord(
        out=out,
        run=run.id,
        n_units=found.table.n_units,
        n_shown=len(shown),
        maps=tuple(one.name for one in maps),
        results=tuple(one.place for one in found.results),
        warnings=tuple(warnings),
        n_bytes=out.stat().st_size,
        seconds=time.monotonic() - began,
    )


def _shown(found: Gathered, most: int) -> NDArray[np.int64]:
    """Rows on the map: all, or so many drawn at random, always the same ones."""
    n = found.table.n_units
    if n <= most:
        return np.arange(n)
    seen = np.flatnonzero(found.table.seen)  # a unit without an embedding has no place on it
    drawn = np.random.default_rng(SEED).choice(seen, size=min(most, len(seen)), replace=False)
    return np.sort(drawn)


def _maps(found: Gathered, shown: NDArray[np.int64], with_umap: bool, reporter: Reporter) -> list[Projection]:
    embedding = found.table.embedding
    maps = [principal_components(embedding)]
    if with_umap:
        some = umap(embedding[shown], reporter)
        if some is not None:
            places = np.full((len(embedding), 2), np.nan, dtype=np.float32)
            places[shown] = some.places
            maps.append(Projection(some.name, some.title, some.x_title, some.y_title, places))
    return maps


def _predictions(found: Gathered, warnings: list[str]) -> dict[str, PredictionColumns]:
    """Predictions of the probes that were made from the embeddings of the report, by their place."""
    read = {}
    for one in found.results:
        if not one.current or not isinstance(one.result, Classification | Regression):
            continue
        try:
            read[one.place] = read_predictions(one.folder / "predictions.parquet", found.table)
        except (OSError, ValueError) as error:
            warnings.append(f"{one.place}/predictions.parquet is left out: {error}.")
    return read


def _map_words(found: Gathered, shown: NDArray[np.int64], maps: Sequence[Projection]) -> Html:
    table = found.table
    unseen = int((~table.seen).sum())
    n = int(table.seen[shown].sum())
    said = [f"{counted(n, 'unit')}, a point each; near points behave alike."]
    if len(shown) < table.n_units:
        said.append(
            f"Drawn at random from {table.n_units} (--max-points); scores and tables of results use all."
        )
    if unseen:
        said.append(
            f"{counted(unseen, 'unit')} without an embedding (active in no window) are not on the map."
        )
    if len(maps) == 1 and not umap_is_installed():
        said.append("With UMAP, too, after: pip install umap-learn.")
    said.append(
        "Drag to zoom in, double-click for the whole map. The rate is that of the windows in which a unit "
        "is active."
    )
    return tag("p", " ".join(said), class_="quiet")


def _meta(found: Gathered, now: datetime) -> Html:
    table = found.table
    sessions = set(
        zip(table.subject.tolist(), table.session.tolist(), table.population.tolist(), strict=True)
    )
    step = table.metadata.get("checkpoint_step", "")
    parts = [
        counted(table.n_units, "unit"),
        counted(len(set(table.subject.tolist())), "subject"),
        counted(len(sessions), "session"),
        f"checkpoint {step}" if step else "",
        f"{now:%Y-%m-%d}",
    ]
    return join(" · ".join(part for part in parts if part))


def _left_out(warnings: Sequence[str]) -> Html:
    if not warnings:
        return Html("")
    items = [tag("li", text) for text in warnings]
    return tag(
        "div", tag("h2", "Missing from this report"), tag("ul", *items), class_="left-out", role="note"
    )
