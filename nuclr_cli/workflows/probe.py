"""`nuclr probe`: how well a linear probe reads a label from the embeddings, beside what it has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

from nuclr_cli.workflows.probe_answer import answer
from nuclr_cli.workflows.probe_ask import ask_all, label_names
from nuclr_cli.workflows.probe_inputs import read_table
from nuclr_cli.workflows.probe_record import ProbeConfig, ProbeRecord
from nuclr_cli.workflows.probe_rivals import Rivals
from nuclr_cli.workflows.reporting import Progress, Reporter, SilentReporter


def probe(config: ProbeConfig, reporter: Reporter | None = None) -> ProbeRecord:
    """Probe a label, compare with every baseline on the same units, and write the folder of the result.

    Raises:
        InputError: No embeddings, no such label, too few labels for the split, or nowhere to write.
    """
    (record,) = _probe(config, None, reporter)
    return record


def probe_labels(
    config: ProbeConfig, labels: Sequence[str], reporter: Reporter | None = None
) -> tuple[ProbeRecord, ...]:
    """Probe several labels of the same embeddings, each with a folder and a record of its own.

    The table is read and the sessions are described once. All labels are checked before the first is probed.

    Args:
        config: What they have in common; its own label is not looked at.
        labels: Names of columns; ``A,B`` is two names, unless a column is called so.
        reporter: Receives notes, warnings and progress.

    Raises:
        InputError: As `probe`, for any of the labels; nothing has been written then, unless it was the disk
            that failed.
    """
    return _probe(config, labels, reporter)


def _probe(
    config: ProbeConfig, labels: Sequence[str] | None, reporter: Reporter | None
) -> tuple[ProbeRecord, ...]:
    reporter = reporter or SilentReporter()
    _ = config.recipe  # an unknown variant is refused before anything is read
    source = read_table(config.run, config.embeddings, config.runs, reporter)
    if config.run is None and config.embeddings is None and source.run is not None:
        reporter.note(f"run {source.run.record.name}, the newest (--run chooses another)")
    names = (config.label,) if labels is None else label_names(labels, source)
    asked = ask_all(source, config, names)
    rivals = Rivals(source, [one.question.used for one in asked], config.data, config.baselines, reporter)
    records = []
    for one in asked:
        to = reporter if len(asked) == 1 else _About(one.config.label, reporter)
        for text in one.notes:
            to.note(text)
        for text in one.warnings:
            to.warn(text)
        records.append(answer(one, rivals, to))
    return tuple(records)


class _About:
    """Passes on what is said of one label of several, with its name."""

    def __init__(self, label: str, reporter: Reporter) -> None:
        self._label, self._reporter = label, reporter

    def note(self, text: str) -> None:
        self._reporter.note(f"{self._label}: {text}")

    def warn(self, text: str) -> None:
        self._reporter.warn(f"{self._label}: {text}")

    def progress(
        self, title: str, total: float | None, unit: str, start: float = 0
    ) -> AbstractContextManager[Progress]:
        title = f"{self._label}: {title}"
        if not start:  # reporters of others may know no start
            return self._reporter.progress(title, total, unit)
        return self._reporter.progress(title, total, unit, start)
