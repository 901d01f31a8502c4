"""Hands predictions to an exporter, after a look that they would reach the right units and no other file."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from nuclr_cli.api import Exporter, UnitPredictions
from nuclr_cli.data.session import SessionKey
from nuclr_cli.errors import InputError
from nuclr_cli.registry import Registry
from nuclr_cli.workflows.predict_record import PredictConfig
from nuclr_cli.workflows.predict_sources import Records, changed_since, read_from, source_records
from nuclr_cli.workflows.predict_table import Rows
from nuclr_cli.workflows.reporting import Reporter


@dataclass(frozen=True)
class ExportPlan:
    """An export that nothing speaks against.

    Attributes:
        exporter: Who writes.
        predictions: One record a population.
        target: Where.
        warnings: What the user should look at.
    """

    exporter: Exporter
    predictions: tuple[UnitPredictions, ...]
    target: Path
    warnings: tuple[str, ...]

    def run(self) -> tuple[Path, ...]:
        """Write; returns the files (or folders) that were written."""
        return tuple(self.exporter.export(self.predictions, self.target))


def plan_export(config: PredictConfig, rows: Rows, reporter: Reporter) -> ExportPlan:
    """Find the exporter, and what each population was read from.

    Raises:
        InputError: No such exporter, a file that exists, a target that belongs to another recording.
    """
    assert config.export is not None
    assert config.to is not None
    exporter = Registry.load().exporter(config.export)
    above = config.to.parent
    if not above.is_dir():
        raise InputError(f"The folder {above} does not exist.", f"mkdir -p {shlex.quote(str(above))}")
    records = source_records(config, rows.source, reporter)
    predictions = _predictions(config, rows, records)
    writes = list(exporter.writes(predictions, config.to))
    warnings: tuple[str, ...] = ()
    if config.to not in writes and config.to.is_dir():  # it is added to
        predictions = read_from(predictions, records, config.to, config.source)
    else:
        warnings = changed_since(predictions, records)
    taken = [path for path in writes if path.exists()]
    if taken and not config.overwrite:
        raise InputError(
            f"{', '.join(map(str, taken))} exist{'s' if len(taken) == 1 else ''}.",
            "Name another place with --to, or replace it with --overwrite",
        )
    return ExportPlan(exporter, predictions, config.to, warnings)


def _predictions(config: PredictConfig, rows: Rows, records: Records) -> tuple[UnitPredictions, ...]:
    keys, table, card = rows.source.keys, rows.source.table, rows.card
    names = [
        SessionKey(*map(str, key))
        for key in zip(keys.subject[rows.row], keys.session[rows.row], keys.population[rows.row], strict=True)
    ]
    rows_of: dict[SessionKey, list[int]] = {}
    for i, name in enumerate(names):
        rows_of.setdefault(name, []).append(i)
    result = []
    for name, inside in rows_of.items():
        record = records.get(name)
        modality = str(table.modality[rows.row[inside[0]]])
        result.append(
            UnitPredictions(
                subject=name.subject,
                session=name.session,
                population=name.population,
                label_name=card.label,
                classes=card.classes,
                unit_ids=keys.unit_id[rows.row[inside]],
                labels=rows.label[inside],
                probabilities=rows.probability[inside],
                abstain=rows.abstain[inside],
                source=config.source or (Path(record.path) if record else None),
                modality="calcium" if modality == "calcium" else "spikes",
            )
        )
    return tuple(result)
