"""Sessions and an encoder in, one row a unit out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray

from nuclr_cli import __version__
from nuclr_cli.data.batch import EvaluationBatch, covered_events, evaluation_batches, evaluation_chunks
from nuclr_cli.data.embeddings import RESERVED_COLUMNS, EmbeddingTable
from nuclr_cli.data.pretrain_stream import deal_by_cost
from nuclr_cli.data.store import Session
from nuclr_cli.data.tokens import TokenSpec
from nuclr_cli.errors import InputError
from nuclr_cli.evaluation.diagnostics import Halves
from nuclr_cli.model.encoder import Encoder
from nuclr_cli.wording import counted
from nuclr_cli.workflows.devices import Device
from nuclr_cli.workflows.out_of_memory import told_of_memory
from nuclr_cli.workflows.pair_model import MODALITY_OF, encode, token_kind
from nuclr_cli.workflows.ranks import Ranks
from nuclr_cli.workflows.reporting import Reporter, SilentReporter
from nuclr_cli.workflows.window_groups import WindowGroup
from nuclr_cli.workflows.window_sums import HalfCut, WindowSums, added_up, half_cut, half_rates, halves_of


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
    group: WindowGroup | None = None,
) -> EmbeddingTable:
    """Embed sessions with an encoder at hand.

    A unit's embedding is the float64 mean over the windows in which it was active; windows follow one
    another, with a last overlapping one an interval (protocol of the reference). Batches never mix sessions,
    so the result does not depend on what else is embedded.

    Args:
        halves: Receives, from the same forward passes, each session's embeddings by half of its recording.
        ranks: Processes that share the windows; no number depends on how many there are. None = this one
            alone.
        group: Of these, the processes that hold a window together; None = each by itself.

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
    group = group or (WindowGroup(ranks.rank, ranks.world) if ranks else WindowGroup())
    cuts = [half_cut(s, tokens, limit_s=limit_s) if halves is not None else None for s in sessions]
    tasks = _tasks(sessions, tokens, max_tokens * group.of, limit_s, group.count)
    mine = deal_by_cost([task.cost for task in tasks], group.count)[group.index]

    def own() -> list[_Embedded]:
        done: list[_Embedded] = []
        with (
            torch.inference_mode(),
            reporter.progress(
                "embed", len(mine), "parts" if len(tasks) > len(sessions) else "sessions"
            ) as bar,
        ):
            for number, task in enumerate(tasks[place_of] for place_of in mine):
                session = sessions[task.session]
                cut = cuts[task.session]
                made = (
                    _embed_windows(
                        *(encoder, session, tokens, place, windows, cut, group),
                        max_tokens=max_tokens,
                        limit_s=limit_s,
                    )
                    for windows in task.chunks
                )
                sums, events, rates = added_up(made), None, None
                if task.chunks[0].start == 0:
                    events = covered_events(session, tokens, limit_s=limit_s)
                    rates = None if cut is None else half_rates(session, cut)
                done.append(_Embedded(task, sums, events, rates))
                session.close()
                bar.update(number + 1, str(session.key.session))
        return done if group.leads else []

    dealt = ranks.of_each(own) if ranks else [own()]
    in_order = sorted((one for hand in dealt for one in hand), key=lambda one: one.task.place)
    by_session = [
        added_up(one.sums for one in of_session)
        for _, of_session in groupby(in_order, key=lambda one: one.task.session)
    ]
    if halves is not None:
        rates = [one.rates for one in in_order if one.rates is not None]
        halves += [halves_of(sums, of_one) for sums, of_one in zip(by_session, rates, strict=True)]
    return _table(
        sessions,
        [_means(sums) for sums in by_session],
        [sums.counts[0] for sums in by_session],
        [one.events for one in in_order if one.events is not None],
        metadata or {},
    )


@dataclass(frozen=True)
class _Task:
    """What one process embeds at a time: a session, or a stretch of one that is long.

    Attributes:
        session: Its number.
        chunks: Numbers of the windows, stretch by stretch.
        cost: In arbitrary units: windows, of so many units, which attend.
    """

    session: int
    chunks: tuple[range, ...]
    cost: float

    @property
    def place(self) -> tuple[int, int]:
        return self.session, self.chunks[0].start


@dataclass(frozen=True)
class _Embedded:
    """What a task gave.

    Attributes:
        events: (N,) spikes (calcium: frames) of each unit inside all windows of the session; only of the task
            that holds its first window.
        rates: (2, N) activity in the halves of the recording, likewise, if halves are asked for.
    """

    task: _Task
    sums: WindowSums
    events: NDArray[np.int64] | None
    rates: NDArray[np.float64] | None


def _tasks(
    sessions: Sequence[Session], tokens: TokenSpec, max_tokens: int, limit_s: float | None, n_hands: int
) -> list[_Task]:
    """Sessions, and stretches of those that would keep one process busy while others wait."""
    whole = []
    for number, session in enumerate(sessions):
        # A session without a window takes part with nothing.
        chunks = evaluation_chunks(session, tokens, max_tokens, limit_s=limit_s) or [range(0)]
        cost = session.n_units * (1.0 + session.n_units / 1000.0)
        whole.append(_Task(number, tuple(chunks), cost * sum(map(len, chunks))))
    if n_hands == 1:
        return whole
    fair = sum(task.cost for task in whole) / n_hands
    tasks = []
    for task in whole:
        if task.cost <= fair / 4:
            tasks.append(task)
            continue
        of_window = task.cost / max(sum(map(len, task.chunks)), 1)
        tasks += [replace(task, chunks=(chunk,), cost=of_window * len(chunk)) for chunk in task.chunks]
    return tasks


def _embed_windows(
    encoder: Encoder,
    session: Session,
    tokens: TokenSpec,
    place: torch.device,
    windows: range,
    cut: HalfCut | None,
    group: WindowGroup,
    *,
    max_tokens: int,
    limit_s: float | None,
) -> WindowSums:
    sums = WindowSums(session.n_units, encoder.config.dim, cut)
    batches = evaluation_batches(session, tokens, max_tokens * group.of, windows=windows, limit_s=limit_s)
    for batch in group.together(batches):
        shards = group.shards(batch.views.units_per_population, place)
        views = batch.views if shards is None else group.own(batch.views)
        with group.working(), told_of_memory(*_too_much(batch, place, group.of)):
            z = encode(encoder, views.to(place), token_kind(views), shards)
        sums.add(batch, z.double().cpu().numpy())
    return sums


def _too_much(batch: EvaluationBatch, place: torch.device, of: int) -> tuple[str, str]:
    """What is going on, and what to type, when the memory does not suffice for a batch."""
    windows, tokens = len(batch.starts_s), batch.views.n_tokens
    fix = "Use a machine with more memory, or a GPU"
    if windows > 1:
        fix = f"Take fewer at a time: --max-tokens {tokens // (2 * of)}"
    elif place.type == "cuda":
        fix = "Share its units among more GPUs: --gpus N --processes-per-window N"
    return f"embed {counted(windows, 'window')} of {tokens:,} tokens at once", fix


def _means(sums: WindowSums) -> NDArray[np.float32]:
    with np.errstate(invalid="ignore"):
        means: NDArray[np.float32] = (sums.sums[0] / sums.counts[0][:, None]).astype(np.float32)
    return means


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
