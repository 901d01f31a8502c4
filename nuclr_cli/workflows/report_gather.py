"""Everything that a run has to show, read from its folder; what cannot be read is named."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nuclr_cli.data.embeddings import EmbeddingTable, load_embeddings
from nuclr_cli.errors import InputError
from nuclr_cli.evaluation.diagnostics import Diagnostics
from nuclr_cli.workflows.embed_select import Selection
from nuclr_cli.workflows.embedded_step import EmbeddedStep, embed_again, embedded_step
from nuclr_cli.workflows.from_json import rebuild
from nuclr_cli.workflows.metrics_log import read_metrics
from nuclr_cli.workflows.probe_report import file_sha256
from nuclr_cli.workflows.report_results import (
    AnyResult,
    Card,
    Classification,
    LabelEfficiency,
    Pairs,
    Regression,
    Scale,
    read_card_of,
    read_document,
    read_result,
    read_scale,
)
from nuclr_cli.workflows.runs import Run
from nuclr_cli.workflows.scale_config import SWEEPS
from nuclr_cli.workflows.scale_folder import SWEEP_FILE

_ORDER = (Classification, Regression, Pairs, LabelEfficiency)


@dataclass(frozen=True)
class Found:
    """One result of `nuclr probe`.

    Attributes:
        folder: Where it lies.
        place: The same, below the run.
        result: What report.json says.
        card: What card.json says; None where there is none, or it is damaged.
        current: Whether it was made from the embeddings that the report draws.
    """

    folder: Path
    place: str
    result: AnyResult
    card: Card | None
    current: bool


@dataclass(frozen=True)
class Gathered:
    """All of a run.

    Attributes:
        run: The run.
        table: Its embeddings.
        embeddings_sha256: Digest of their file.
        results: Of its probes: labels, numbers, pairs, label efficiency.
        scale, scale_folder: A sweep, None when none was given.
        metrics: Rows of metrics.jsonl.
        environment: What environment.json says; empty when there is none.
        diagnostics: None where they could not be computed, or the embeddings are older.
        selection: How the checkpoint was chosen; None where the embeddings are older.
        embedded: Which step of the run the embeddings are of; None where they do not say.
        warnings: What is missing from the report, and why.
    """

    run: Run
    table: EmbeddingTable
    embeddings_sha256: str
    results: tuple[Found, ...]
    scale: Scale | None
    scale_folder: Path | None
    metrics: tuple[Mapping[str, float], ...]
    environment: Mapping[str, Any]
    diagnostics: Diagnostics | None
    selection: Selection | None
    embedded: EmbeddedStep | None
    warnings: tuple[str, ...]


def gather(run: Run, scale: Path | None) -> Gathered:
    """Read a run, and a sweep beside it.

    Raises:
        InputError: There are no embeddings, they cannot be read, or `scale` is no sweep that was finished.
    """
    if not run.embeddings.is_file():
        raise InputError(
            f"Run {run.record.name} has no embeddings: {run.embeddings} does not exist.",
            f"Make them with: nuclr embed --run {run.folder}",
        )
    table = load_embeddings(run.embeddings)
    if not table.n_units or not table.seen.any():
        raise InputError(
            f"No unit of {run.embeddings} has an embedding: there is nothing to draw.",
            f"Embed longer sessions with: nuclr embed --run {run.folder}",
        )
    warnings: list[str] = []
    sha256 = file_sha256(run.embeddings)
    sweep = None if scale is None else _scale(scale, run, table)
    results = _results(run.folder, sha256, warnings)
    metrics = _metrics(run.folder / "metrics.jsonl", warnings)
    environment = _environment(run.folder / "environment.json", warnings)
    diagnostics = _metadata(table, "diagnostics", Diagnostics, warnings)
    selection = _metadata(table, "selection", Selection, warnings)
    if run.record.state != "finished":
        warnings.append(f"The run is not finished: it is {run.record.state} at step {run.record.step}.")
    embedded = embedded_step(table.metadata, run.id, run.record.step, run.checkpoints)
    if embedded is not None and embedded.outdated:
        warnings.append(
            f"The embeddings are of step {embedded.step}, but the run stands at step {embedded.stands}. "
            f"For its newest weights: {embed_again(run.folder, embedded)}, then probe and report again."
        )
    made_by = table.metadata.get("run", "")
    if made_by and made_by != run.id:
        warnings.append(f"The embeddings say that another run made them: {made_by}.")
    return Gathered(
        run=run,
        table=table,
        embeddings_sha256=sha256,
        results=results,
        scale=sweep,
        scale_folder=scale,
        metrics=metrics,
        environment=environment,
        diagnostics=diagnostics,
        selection=selection,
        embedded=embedded,
        warnings=tuple(warnings),
    )


def _results(run: Path, sha256: str, warnings: list[str]) -> tuple[Found, ...]:
    found = []
    folders = [
        folder
        for folder in sorted((run / "probes").glob("*/*"))
        if folder.is_dir() and not any(part.startswith(".") for part in (folder.name, folder.parent.name))
    ]
    for folder in folders:
        place = folder.relative_to(run).as_posix()
        path = folder / "report.json"
        if not path.is_file():
            warnings.append(f"{place} is left out: it has no report.json.")
            continue
        result = _try(lambda path=path: read_result(path), f"{place}/report.json", warnings)  # type: ignore[misc]
        if result is None:
            continue
        card_path = folder / "card.json"
        card = None
        if card_path.is_file():
            card = _try(lambda path=card_path: read_card_of(path), f"{place}/card.json", warnings)  # type: ignore[misc]
        current = result.embeddings_sha256 == sha256
        if not current:
            warnings.append(
                f"{place} was made from other embeddings than those that the map shows (nuclr embed ran "
                "again since): its predictions are not on the map. Probe again to have them there."
            )
        found.append(Found(folder, place, result, card, current))
    return tuple(sorted(found, key=lambda one: (_ORDER.index(type(one.result)), one.place)))


def _try(read: Callable[[], Any], what: str, warnings: list[str]) -> Any:
    """What `read` returns; None, and a warning, where the file is damaged."""
    try:
        return read()
    except OSError as error:
        warnings.append(f"{what} is left out: it cannot be read ({error.strerror or error}).")
    except ValueError as error:
        warnings.append(f"{what} is left out: it is damaged, or of another version of nuclr ({error}).")
    return None


def _scale(folder: Path, run: Run, table: EmbeddingTable) -> Scale:
    path = folder / "scale.json"
    if not path.is_file():
        if (folder / SWEEP_FILE).is_file():
            raise InputError(
                f"--scale {folder}: the sweep is not finished, it has no scale.json.",
                "Run the same nuclr scale command again: it keeps the points that are done",
            )
        what = "is no sweep: it has no scale.json" if folder.exists() else "does not exist"
        raise InputError(f"--scale {folder} {what}.", _make_sweep(folder, run, table))
    try:
        return read_scale(path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} is damaged, or of another version of nuclr: {error}.",
            "Run the same nuclr scale command again: it keeps the points that are done",
        ) from None


def _make_sweep(folder: Path, run: Run, table: EmbeddingTable) -> str:
    """What to type where no sweep is: a finished one that is near, and the command that makes one."""
    finished = sorted(
        {
            path.parent
            for place in (folder, folder.parent, SWEEPS)
            for path in place.glob("*/scale.json")
            if path.is_file()
        }
    )
    there = f"Finished sweeps: {', '.join(map(str, finished[:5]))}. Or run" if finished else "Run"
    label = next(iter(table.labels), "NAME")
    make = ["nuclr", "scale", str(run.data) if run.record.data else "DATA", "--label", label]
    # A folder that holds something else is left alone.
    place = [] if folder.exists() else ["-o", str(folder)]
    shown = "FOLDER" if folder.exists() else shlex.quote(str(folder))
    then = f"nuclr report {shlex.quote(str(run.folder))} --scale {shown}"
    return f"{there} nuclr scale first: {shlex.join([*make, *place])}; then: {then}"


def _metrics(path: Path, warnings: list[str]) -> tuple[Mapping[str, float], ...]:
    try:
        rows = read_metrics(path)
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    except OSError as error:
        warnings.append(f"metrics.jsonl is left out: it cannot be read ({error.strerror or error}).")
        return ()
    damaged = sum(1 for line in lines if line.strip()) - len(rows)
    if damaged:
        warnings.append(f"{damaged} of {len(lines)} lines of metrics.jsonl are damaged and left out.")
    return tuple(rows)


def _environment(path: Path, warnings: list[str]) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    found: Mapping[str, Any] | None = _try(lambda: read_document(path), path.name, warnings)
    return found or {}


def _metadata(table: EmbeddingTable, key: str, kind: type[Any], warnings: list[str]) -> Any:
    text = table.metadata.get(key)
    if text is None:
        return None
    try:
        document = json.loads(text)
        return None if document is None else rebuild(kind, document)
    except (ValueError, TypeError, RecursionError) as error:
        warnings.append(f"{key} in the metadata of the embeddings are left out: damaged ({error}).")
        return None
