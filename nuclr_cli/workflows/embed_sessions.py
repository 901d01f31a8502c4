"""Sessions and an encoder in, one row a unit out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from nuclr_cli import __version__
from nuclr_cli.data.batch import covered_events, evaluation_batches
from nuclr_cli.data.embeddings import RESERVED_COLUMNS, EmbeddingTable
from nuclr_cli.data.pretrain_stream import deal_by_cost
from nuclr_cli.data.store import Session
from nuclr_cli.data.tokens import TokenSpec
from nuclr_cli.errors import InputError
from nuclr_cli.evaluation.diagnostics import Halves
from nuclr_cli.model.encoder import Encoder
from nuclr_cli.workflows.devices import Device
from nuclr_cli.workflows.half_embeddings import HalfEmbeddings
from nuclr_cli.workflows.pair_model import MODALITY_OF, encode, token_kind
from nuclr_cli.workflows.ranks import Ranks
from nuclr_cli.workflows.reporting import Reporter, SilentReporter


def embed_sessions(
    encoder: Encoder,
    sessions: Sequence[Session],
    tokens: TokenSpec,
    device: Device,
    *,
    max_tokens: int,
    limit_s: float | None = None,
    metadata: dict[str, str] | None = None,
    reporter: Reporter | None = None,
    halves: list[Halves] | None = None,
    ranks: Ranks | None = None,
) -> EmbeddingTable:
    """Embed sessions with an encoder at hand.

    A unit's embedding is the float64 mean over the windows in which it was active; windows follow one
    another, with a last overlapping one an interval (protocol of the reference). Batches never mix sessions,
    so the result does not depend on what else is embedded.

    Args:
        halves: Receives, from the same forward passes, each session's embeddings by half of its recording.
        ranks: Processes that share the sessions, each of which is embedded by one, so that no number depends
            on how many there are; None = this one alone.

    Returns:
        One row a unit, in the order of the sessions and their units tables; NaN for units never active.

    Raises:
        InputError: A session's modality has no patch embedding in this encoder.
    """
    reporter = reporter or SilentReporter()
    learned = [MODALITY_OF[kind] for kind in encoder.config.tokens]
    for session in sessions:
        if session.modality not in learned:
            raise InputError(
                f"{session.path} holds {session.modality} data, but the run was trained on "
                f"{', '.join(learned)} only.",
                "Embed it with a run that was trained on such sessions",
            )
    place = device.torch
    encoder = encoder.to(place).eval()
    deal = deal_by_cost([_cost(session, tokens) for session in sessions], ranks.world if ranks else 1)

    def own() -> list[_Embedded]:
        mine = deal[ranks.rank if ranks else 0]
        done: list[_Embedded] = []
        with torch.inference_mode(), reporter.progress("embed", len(mine), "sessions") as bar:
            for number, place_of in enumerate(mine):
                session = sessions[place_of]
                done.append(
                    _embed_session(
                        encoder,
                        session,
                        tokens,
                        place,
                        max_tokens=max_tokens,
                        limit_s=limit_s,
                        in_halves=halves is not None,
                    )
                )
                session.close()
                bar.update(number + 1, str(session.key.session))
        return done

    dealt = ranks.of_each(own) if ranks else [own()]
    by_session = {
        place_of: one
        for hand, of_rank in zip(deal, dealt, strict=True)
        for place_of, one in zip(hand, of_rank, strict=True)
    }
    embedded = [by_session[number] for number in range(len(sessions))]
    if halves is not None:
        halves += [one.halves for one in embedded if one.halves is not None]
    return _table(
        sessions,
        [one.means for one in embedded],
        [one.windows for one in embedded],
        [one.events for one in embedded],
        metadata or {},
    )


@dataclass(frozen=True)
class _Embedded:
    """One session of n units.

    Attributes:
        means: (n, D) float32, NaN for units never active.
        windows: (n,) windows in which each was active.
        events: (n,) spikes (calcium: frames) inside the windows.
        halves: Embeddings by half of the recording, if they were asked for.
    """

    means: NDArray[np.float32]
    windows: NDArray[np.int64]
    events: NDArray[np.int64]
    halves: Halves | None


def _cost(session: Session, tokens: TokenSpec) -> float:
    """What it takes to embed a session, in arbitrary units: windows, of so many units, which attend."""
    windows = session.duration_s / tokens.of(session.modality).window_s
    return windows * session.n_units * (1.0 + session.n_units / 1000.0)


def _embed_session(
    encoder: Encoder,
    session: Session,
    tokens: TokenSpec,
    place: torch.device,
    *,
    max_tokens: int,
    limit_s: float | None,
    in_halves: bool,
) -> _Embedded:
    sums = np.zeros((session.n_units, encoder.config.dim), dtype=np.float64)
    counts = np.zeros(session.n_units, dtype=np.int64)
    apart = HalfEmbeddings(session, tokens, encoder.config.dim, limit_s=limit_s) if in_halves else None
    for batch in evaluation_batches(session, tokens, max_tokens, limit_s=limit_s):
        views = batch.views.to(place)
        z = encode(
            encoder, views.inputs, views.spikes_per_unit, views.units_per_population, token_kind(views)
        )
        rows = batch.views.ids.numpy()
        embedded = z.double().cpu().numpy()
        np.add.at(sums, rows, embedded)
        np.add.at(counts, rows, 1)
        if apart is not None:
            sizes = batch.views.units_per_population.numpy()
            apart.add(rows, embedded, np.repeat(batch.starts_s, sizes))
    with np.errstate(invalid="ignore"):
        means = (sums / counts[:, None]).astype(np.float32)
    events = covered_events(session, tokens, limit_s=limit_s)
    return _Embedded(means, counts, events, None if apart is None else apart.halves())


def _table(
    sessions: Sequence[Session],
    means: list[NDArray[np.float32]],
    windows: list[NDArray[np.int64]],
    events: list[NDArray[np.int64]],
    metadata: dict[str, str],
) -> EmbeddingTable:
    def column(values: list[list[str]]) -> NDArray[np.str_]:
        return np.array([v for part in values for v in part], dtype=np.str_)

    names = sorted({name for session in sessions for name in session.label_names})
    # A units column may be called like one of the table's own; it then travels as ``NAME_label``.
    labels = {f"{name}_label" if name in RESERVED_COLUMNS else name: name for name in names}
    return EmbeddingTable(
        subject=column([[s.key.subject] * s.n_units for s in sessions]),
        session=column([[s.key.session] * s.n_units for s in sessions]),
        population=column([[s.key.population] * s.n_units for s in sessions]),
        unit_id=column([s.unit_ids.tolist() for s in sessions]),
        modality=column([[s.modality] * s.n_units for s in sessions]),
        n_windows=np.concatenate(windows),
        n_events=np.concatenate(events),
        labels={to: column([s.label(name).tolist() for s in sessions]) for to, name in labels.items()},
        embedding=np.concatenate(means),
        metadata={"nuclr_version": __version__, **metadata},
    )
