"""What `nuclr embed` answers: every session, every unit without an embedding, and what needs no label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.data.embeddings import EmbeddingTable
from nuclr_cli.data.store import Session
from nuclr_cli.evaluation.diagnostics import Diagnostics
from nuclr_cli.workflows.devices import Device
from nuclr_cli.workflows.embed_select import Selection
from nuclr_cli.workflows.moving_average import Weights
from nuclr_cli.workflows.runs import Run


@dataclass(frozen=True)
class SessionEmbeddings:
    """How one session came out.

    Attributes:
        n_unseen: Units without a spike in any window: they have a row, their embedding is null.
        seen_in_training: Pretraining saw the subject, or this recording under another name; None = unknown,
            since the weights were trained elsewhere.
    """

    subject: str
    session: str
    population: str
    modality: str
    n_units: int
    n_unseen: int
    n_windows: int
    seen_in_training: bool | None


@dataclass(frozen=True)
class EmbedRecord:
    """What came out.

    Attributes:
        unseen: ``subject/session/population/unit`` of every unit without an embedding.
        labels: Label columns in which at least two labels are shared by two units: what a probe can read.
        diagnostics: What can be said without labels; None when no population has two units that are active in
            both halves of their recording.
        selection: How the checkpoint was chosen.
        weights: Which of its weights embedded: ``raw``, or ``ema``, their moving average.
    """

    out: Path
    run: str
    checkpoint: int
    device: str
    dim: int
    n_units: int
    n_unseen: int
    unseen: tuple[str, ...]
    labels: tuple[str, ...]
    sessions: tuple[SessionEmbeddings, ...]
    diagnostics: Diagnostics | None
    selection: Selection
    weights: Weights
    seconds: float


def embed_record(
    table: EmbeddingTable,
    sessions: Sequence[Session],
    run: Run,
    diagnostics: Diagnostics | None,
    selection: Selection,
    weights: Weights,
    device: Device,
    out: Path,
    seconds: float,
) -> EmbedRecord:
    """Sum up a table that was just made."""
    never = table.n_windows == 0
    trained = set(run.record.seen_subjects)
    digests = {digest for _, digest in run.record.seen_digests or () if digest}
    not_seen = None if run.record.inherited_how == "unknown" else False
    rows, start = [], 0
    for session in sessions:
        part = slice(start, start + session.n_units)
        start += session.n_units
        rows.append(
            SessionEmbeddings(
                session.key.subject,
                session.key.session,
                session.key.population,
                session.modality,
                session.n_units,
                int(never[part].sum()),
                int(table.n_windows[part].max(initial=0)),
                session.key.subject in trained
                or bool(digests & {session.activity_digest, session.recording_digest})
                or not_seen,
            )
        )
    unseen = [
        f"{table.subject[i]}/{table.session[i]}/{table.population[i]}/{table.unit_id[i]}"
        for i in np.flatnonzero(never)
    ]
    return EmbedRecord(
        out=out,
        run=run.record.name,
        checkpoint=selection.step,
        device=device.name,
        dim=table.embedding.shape[1],
        n_units=len(table.unit_id),
        n_unseen=len(unseen),
        unseen=tuple(unseen),
        labels=tuple(name for name, values in table.labels.items() if _can_be_probed(values)),
        sessions=tuple(rows),
        diagnostics=diagnostics,
        selection=selection,
        weights=weights,
        seconds=seconds,
    )


def _can_be_probed(labels: NDArray[np.str_]) -> bool:
    """Whether two classes have two units each; a column of names alone is no question."""
    _, counts = np.unique(labels[labels != ""], return_counts=True)
    return int((counts > 1).sum()) > 1
