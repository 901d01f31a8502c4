"""`nuclr embed`: sessions and a run in, one row a unit out."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from nuclr_cli import __version__
from nuclr_cli.data.batch import covered_events, evaluation_batches
from nuclr_cli.data.embeddings import (
    RESERVED_COLUMNS,
    EmbeddingTable,
    load_embeddings,
    write_embeddings,
)
from nuclr_cli.data.sessions import open_sessions
from nuclr_cli.data.store import Session
from nuclr_cli.data.tokens import TokenSpec
from nuclr_cli.errors import InputError
from nuclr_cli.evaluation.diagnostics import Halves, diagnose
from nuclr_cli.model.encoder import Encoder
from nuclr_cli.model.rankme import rankme
from nuclr_cli.workflows.checkpoints import Checkpoint, steps_available
from nuclr_cli.workflows.devices import Device, choose_device
from nuclr_cli.workflows.embed_record import EmbedRecord, embed_record
from nuclr_cli.workflows.embed_select import SelectRule, check_rule, select_checkpoint
from nuclr_cli.workflows.freed_memory import keep_freed_memory
from nuclr_cli.workflows.half_embeddings import HalfEmbeddings
from nuclr_cli.workflows.pair_model import MODALITY_OF, encode, initial_model, token_kind
from nuclr_cli.workflows.reporting import Reporter, SilentReporter
from nuclr_cli.workflows.run_data import data_of, embed_command, is_data_of
from nuclr_cli.workflows.runs import RUNS, Run, find_run, list_runs


@dataclass(frozen=True)
class EmbedConfig:
    """What the user asked for.

    Attributes:
        data: DATA folder or session file; None = the one that the run was trained on.
        run: Run folder or name; None = the newest.
        runs: Folder that holds the runs.
        out: File to write; None = ``RUN/embeddings.parquet`` (only for the run's own data).
        checkpoint: Step of the checkpoint; None = the last.
        gpus: None = a GPU if there is one.
        limit_s: Use only the first so many seconds of each session.
        max_tokens: Units x patches encoded at once; None = what the run trained with.
        select: Rule that chooses the checkpoint; see `nuclr_cli.workflows.embed_select.Selection`.
        select_label: Label of ``val-f1``.
    """

    data: Path | None = None
    run: Path | None = None
    runs: Path = RUNS
    out: Path | None = None
    checkpoint: int | None = None
    gpus: int | None = None
    limit_s: float | None = None
    max_tokens: int | None = None
    select: str = "last"
    select_label: str | None = None

    def __post_init__(self) -> None:
        if self.limit_s is not None and not (math.isfinite(self.limit_s) and self.limit_s > 0):
            raise InputError(
                f"--limit {self.limit_s} is not a length of time.", "Give seconds, e.g. --limit 600"
            )
        check_rule(self.select, self.select_label, self.checkpoint)


def embed(config: EmbedConfig, reporter: Reporter | None = None) -> EmbedRecord:
    """Embed every unit of every session.

    Raises:
        InputError: No run, a damaged checkpoint, no sessions, a modality that the run has not
            learned, no unit that is active in any window, or nowhere to write.
    """
    reporter = reporter or SilentReporter()
    began = time.monotonic()
    run = _run(config, reporter)
    if config.run is None:
        reporter.note(f"run {run.record.name}, the newest (--run chooses another)")
    if run.record.state != "finished":
        reporter.warn(f"run {run.record.name} is not finished: it stands at step {run.record.step}")
    data = config.data or data_of(run, embed_command(run), reporter.note)
    # The place alone tells for most; files of a copy have to be opened.
    needs_own = config.out is None or config.select != "last"
    own_data = needs_own and (config.data is None or is_data_of(run, config.data))
    if not own_data and config.out is None:
        if not data.exists():
            open_sessions(data)  # says what is wrong
        raise InputError(
            f"{data} does not hold the data of run {run.record.name}: its embeddings need an own file.",
            _again(config, run),
        )
    out = config.out or run.embeddings
    device = choose_device(config.gpus)
    if device.accelerator == "cpu":
        keep_freed_memory()
    model = initial_model(run.settings)

    def work(
        checkpoint: Checkpoint,
        sessions: Sequence[Session],
        metadata: dict[str, str] | None = None,
        reporter: Reporter | None = None,
    ) -> tuple[EmbeddingTable, list[Halves]]:
        model.load_state_dict(checkpoint.model)
        halves: list[Halves] = []
        table = embed_sessions(
            model.encoder,
            sessions,
            run.settings.tokens,
            device,
            max_tokens=config.max_tokens or run.settings.train.max_tokens,
            limit_s=config.limit_s,
            metadata=metadata,
            reporter=reporter,
            halves=halves,
        )
        return table, halves

    rule = cast(SelectRule, config.select)
    known: list[Session] = []
    if rule != "last":
        # The embedded sessions need not be those that the rule scores checkpoints on.
        first = embed_command(run, "--select", rule) + ", then give this command --checkpoint STEP"
        known = open_sessions(data if own_data else data_of(run, first, reporter.note))
    checkpoint, selection = select_checkpoint(
        run, known, rule, config.select_label, config.checkpoint, work, reporter
    )
    sessions = open_sessions(data)
    metadata = {
        "run": run.id,
        "checkpoint_step": str(checkpoint.step),
        "checkpoint_sha256": checkpoint.digest,
        "trained_subjects": "\n".join(run.record.seen_subjects),
        "sessions": json.dumps([(s.key.subject, s.key.session, s.key.population) for s in sessions]),
        "activity": json.dumps(
            [(s.key.subject, s.key.session, s.key.population, s.activity_digest) for s in sessions]
        ),
        "limit_s": "" if config.limit_s is None else str(config.limit_s),
        "selection": json.dumps(dataclasses.asdict(selection)),
    }
    table, halves = work(checkpoint, sessions, metadata, reporter)
    if not table.seen.any():
        where = "" if config.limit_s is None else f" in the first {config.limit_s:g} s"
        raise InputError(
            f"No unit of {len(sessions)} sessions is active in a whole window{where}: nothing to embed.",
            "Give longer sessions" if config.limit_s is None else "Raise --limit",
        )
    found = diagnose(halves, rankme(torch.from_numpy(table.embedding[table.seen])))
    said = {"diagnostics": json.dumps(None if found is None else dataclasses.asdict(found))}
    table = dataclasses.replace(table, metadata={**table.metadata, **said})
    write_embeddings(table, out)
    return embed_record(table, sessions, run, found, selection, device, out, time.monotonic() - began)


def _again(config: EmbedConfig, run: Run) -> str:
    """The command, with a file of its own for what it makes."""
    given = {
        "--run": run.folder,
        "-o": "embeddings.parquet",
        "--checkpoint": config.checkpoint,
        "--limit": None if config.limit_s is None else f"{config.limit_s:g}",
        "--select": None if config.select == "last" else config.select,
        "--select-label": config.select_label,
        "--gpus": config.gpus,
    }
    said = [f"{option} {shlex.quote(str(value))}" for option, value in given.items() if value is not None]
    return " ".join(["nuclr embed", shlex.quote(str(config.data)), *said])


def _run(config: EmbedConfig, reporter: Reporter) -> Run:
    """The named run, else the newest that has something to embed with."""
    if config.run is None:
        ready = [run for run in list_runs(config.runs, reporter.warn) if steps_available(run.checkpoints)]
        if ready:
            return ready[-1]
    return find_run(config.run, config.runs, reporter.warn)


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
) -> EmbeddingTable:
    """Embed sessions with an encoder at hand.

    A unit's embedding is the float64 mean over the windows in which it was active; windows follow one
    another, with a last overlapping one an interval (protocol of the reference). Batches never mix sessions,
    so the result does not depend on what else is embedded.

    Args:
        halves: Receives, from the same forward passes, each session's embeddings by half of its recording.

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
    means: list[NDArray[np.float32]] = []
    windows: list[NDArray[np.int64]] = []
    events: list[NDArray[np.int64]] = []
    with torch.inference_mode(), reporter.progress("embed", len(sessions), "sessions") as bar:
        for number, session in enumerate(sessions):
            sums = np.zeros((session.n_units, encoder.config.dim), dtype=np.float64)
            counts = np.zeros(session.n_units, dtype=np.int64)
            apart = (
                None
                if halves is None
                else HalfEmbeddings(session, tokens, encoder.config.dim, limit_s=limit_s)
            )
            for batch in evaluation_batches(session, tokens, max_tokens, limit_s=limit_s):
                views = batch.views.to(place)
                z = encode(
                    encoder,
                    views.inputs,
                    views.spikes_per_unit,
                    views.units_per_population,
                    token_kind(views),
                )
                rows = batch.views.ids.numpy()
                embedded = z.double().cpu().numpy()
                np.add.at(sums, rows, embedded)
                np.add.at(counts, rows, 1)
                if apart is not None:
                    sizes = batch.views.units_per_population.numpy()
                    apart.add(rows, embedded, np.repeat(batch.starts_s, sizes))
            if halves is not None and apart is not None:
                halves.append(apart.halves())
            with np.errstate(invalid="ignore"):
                means.append((sums / counts[:, None]).astype(np.float32))
            windows.append(counts)
            events.append(covered_events(session, tokens, limit_s=limit_s))
            session.close()
            bar.update(number + 1, str(session.key.session))
    return _table(sessions, means, windows, events, metadata or {})


def embed_untrained(
    run: Run, sessions: Sequence[Session], reporter: Reporter | None = None
) -> EmbeddingTable:
    """Embeddings of the run's own encoder at step 0: the baseline that says what training added.

    Kept in ``RUN/baselines/untrained.parquet`` and reused while run and session files are the same.
    """
    cache = run.folder / "baselines" / "untrained.parquet"
    metadata = {
        "run": run.id,
        "checkpoint_step": "0",
        "untrained": "true",
        "sources": "\n".join(_file_identity(session) for session in sessions),
    }
    if cache.is_file():
        with contextlib.suppress(InputError):  # a damaged one is made again
            table = load_embeddings(cache)
            if metadata.items() <= table.metadata.items():
                return table
    table = embed_sessions(
        initial_model(run.settings).encoder,
        sessions,
        run.settings.tokens,
        choose_device(None),
        max_tokens=run.settings.train.max_tokens,
        metadata=metadata,
        reporter=reporter,
    )
    cache.parent.mkdir(exist_ok=True)
    write_embeddings(table, cache)
    return table


def _file_identity(session: Session) -> str:
    about = session.path.stat()
    return f"{session.key} {session.path.resolve()} {about.st_size} {about.st_mtime_ns}"


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
