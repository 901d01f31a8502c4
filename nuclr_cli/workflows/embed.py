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
from typing import Literal, cast

import torch

from nuclr_cli.data.embeddings import (
    EmbeddingTable,
    load_embeddings,
    write_embeddings,
)
from nuclr_cli.data.file_cache import Cache
from nuclr_cli.data.remote import text_of, url_of
from nuclr_cli.data.sessions import require_sessions
from nuclr_cli.data.store import Session
from nuclr_cli.errors import InputError
from nuclr_cli.evaluation.diagnostics import Halves, diagnose
from nuclr_cli.model.rankme import rankme
from nuclr_cli.workflows.checkpoints import Checkpoint, load_checkpoint, steps_available, take_weights
from nuclr_cli.workflows.data_place import open_data
from nuclr_cli.workflows.devices import Device, choose_device
from nuclr_cli.workflows.embed_record import EmbedRecord, embed_record
from nuclr_cli.workflows.embed_select import (
    Selection,
    SelectRule,
    best_of_training,
    check_rule,
    select_checkpoint,
)
from nuclr_cli.workflows.embed_sessions import embed_sessions
from nuclr_cli.workflows.freed_memory import keep_freed_memory
from nuclr_cli.workflows.launchers import layout_of
from nuclr_cli.workflows.moving_average import Weights, check_weights, chosen_weights
from nuclr_cli.workflows.pair_model import initial_model
from nuclr_cli.workflows.ranks import Ranks
from nuclr_cli.workflows.reporting import Reporter, SilentReporter
from nuclr_cli.workflows.run_data import data_of, embed_command, is_data_of
from nuclr_cli.workflows.runs import RUNS, Run, find_run, list_runs, open_run
from nuclr_cli.workflows.window_groups import WindowGroup, window_groups


@dataclass(frozen=True)
class EmbedConfig:
    """What the user asked for.

    Attributes:
        data: DATA folder or session file; None = the one that the run was trained on.
        run: Run folder or name; None = the newest.
        runs: Folder that holds the runs.
        out: File to write; None = ``RUN/embeddings.parquet`` (only for the run's own data).
        checkpoint: Step of the checkpoint; ``best``: by what training logged; None = the last.
        gpus: None = a GPU if there is one.
        limit_s: Use only the first so many seconds of each session.
        max_tokens: Units x patches encoded at once; None = what the run trained with.
        select: Rule that chooses the checkpoint; see `nuclr_cli.workflows.embed_select.Selection`.
        select_label: Label of ``val-f1``.
        processes_per_window: Processes that hold the units of a window together.
        cache: Where copies of sessions lie that are not on this machine; see `open_data`.
        weights: ``raw``, or ``ema``, the moving average; None = the average where the run keeps one.
    """

    data: Path | None = None
    run: Path | None = None
    runs: Path = RUNS
    out: Path | None = None
    checkpoint: int | Literal["best"] | None = None
    gpus: int | None = None
    limit_s: float | None = None
    max_tokens: int | None = None
    select: str = "last"
    select_label: str | None = None
    processes_per_window: int = 1
    cache: Cache | None = None
    weights: str | None = None

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise InputError(f"--max-tokens {self.max_tokens} is below 1.", "Leave it out for the run's own")
        if self.processes_per_window < 1:
            raise InputError(
                f"--processes-per-window {self.processes_per_window} is below 1.",
                "Leave it out, unless windows are too large for one process",
            )
        if self.limit_s is not None and not (math.isfinite(self.limit_s) and self.limit_s > 0):
            raise InputError(
                f"--limit {self.limit_s} is not a length of time.", "Give seconds, e.g. --limit 600"
            )
        check_rule(self.select, self.select_label, self.checkpoint)
        check_weights(self.weights)


def embed(config: EmbedConfig, reporter: Reporter | None = None) -> EmbedRecord:
    """Embed every unit of every session.

    Raises:
        InputError: No run, a damaged checkpoint, no sessions, a modality that the run has not
            learned, no unit that is active in any window, or nowhere to write.
    """
    began = time.monotonic()
    device = choose_device(config.gpus, most=None)
    ranks = Ranks(device, layout_of(config.gpus, None))
    reporter = reporter if reporter is not None and ranks.first else SilentReporter()
    try:
        ranks.agree(config)
        group = window_groups(ranks, config.processes_per_window, "--processes-per-window")
        plan = ranks.once(lambda: _plan(config, reporter))
        if device.accelerator == "cpu":
            keep_freed_memory()
        opened: list[_Opened] = []
        ranks.of_each(lambda: opened.append(_open(plan, config, reporter)))
        return _embed(config, plan, opened[0], device, ranks, group, reporter, began)
    finally:
        ranks.leave()


@dataclass(frozen=True)
class _Plan:
    """What is embedded with which run.

    Attributes:
        run: Its folder.
        data: Sessions to embed.
        known: Sessions of the run's own data, where checkpoints are scored on them.
        out: File to write.
        best: The choice of ``--checkpoint best``.
    """

    run: Path
    data: Path
    known: Path | None
    out: Path
    best: Selection | None


def _plan(config: EmbedConfig, reporter: Reporter) -> _Plan:
    run = _run(config, reporter)
    if config.run is None:
        reporter.note(f"run {run.record.name}, the newest (--run chooses another)")
    if run.record.state != "finished":
        reporter.warn(f"run {run.record.name} is not finished: it stands at step {run.record.step}")
    data = config.data or data_of(run, embed_command(run), reporter.note)
    # The place alone tells for most; files of a copy have to be opened.
    needs_own = config.out is None or config.select != "last"
    own_data = needs_own and (config.data is None or is_data_of(run, config.data, config.cache))
    if not own_data and config.out is None:
        if url_of(data) is None:
            require_sessions(data)  # says what is there instead
        raise InputError(
            f"{text_of(data)} does not hold the data of run {run.record.name}: its embeddings need an own "
            "file.",
            _again(config, run),
        )
    known = None
    if config.select != "last":
        # The embedded sessions need not be those that the rule scores checkpoints on.
        first = embed_command(run, "--select", config.select) + ", then give this command --checkpoint STEP"
        known = data if own_data else data_of(run, first, reporter.note)
    best = None
    if config.checkpoint == "best":
        best = best_of_training(run)
        reporter.note(f"step {best.step} is the best of the run's checkpoints, by {best.rule}")
    return _Plan(run.folder, data, known, config.out or run.embeddings, best)


@dataclass(frozen=True)
class _Opened:
    """What a rank has read before it embeds; `checkpoint` is None where a rule has to choose one first."""

    run: Run
    sessions: list[Session]
    known: list[Session]
    checkpoint: Checkpoint | None


def _open(plan: _Plan, config: EmbedConfig, reporter: Reporter) -> _Opened:
    run = open_run(plan.run)
    sessions = open_data(plan.data, config.cache, reporter)
    if plan.known is None:
        step = config.checkpoint if plan.best is None else plan.best.step
        assert step != "best"
        return _Opened(run, sessions, [], load_checkpoint(run.checkpoints, step))
    return _Opened(run, sessions, open_data(plan.known, config.cache, reporter), None)


def _embed(
    config: EmbedConfig,
    plan: _Plan,
    opened: _Opened,
    device: Device,
    ranks: Ranks,
    group: WindowGroup,
    reporter: Reporter,
    began: float,
) -> EmbedRecord:
    run, sessions = opened.run, opened.sessions
    model = initial_model(run.settings)

    def with_chosen(checkpoint: Checkpoint) -> tuple[Weights, Checkpoint]:
        return chosen_weights(checkpoint, cast(Weights | None, config.weights), run)

    def work(
        checkpoint: Checkpoint,
        sessions: Sequence[Session],
        metadata: dict[str, str] | None = None,
        reporter: Reporter | None = None,
    ) -> tuple[EmbeddingTable, list[Halves]]:
        take_weights(model, with_chosen(checkpoint)[1], run.folder)
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
            ranks=ranks,
            group=group,
        )
        return table, halves

    checkpoint = opened.checkpoint
    if checkpoint is None:
        rule = cast(SelectRule, config.select)
        checkpoint, selection = select_checkpoint(
            run, opened.known, rule, config.select_label, work, reporter
        )
    else:
        selection = plan.best or Selection("last" if config.checkpoint is None else "given", checkpoint.step)
    weights, chosen = with_chosen(checkpoint)
    metadata = {
        "run": run.id,
        "checkpoint_step": str(checkpoint.step),
        "checkpoint_sha256": chosen.digest,
        "weights": weights,
        "trained_subjects": "\n".join(run.record.seen_subjects),
        "sessions": json.dumps([(s.key.subject, s.key.session, s.key.population) for s in sessions]),
        "activity": json.dumps(
            [(s.key.subject, s.key.session, s.key.population, s.activity_digest) for s in sessions]
        ),
        "recordings": json.dumps(
            [(s.key.subject, s.key.session, s.key.population, s.recording_digest) for s in sessions]
        ),
        "limit_s": "" if config.limit_s is None else str(config.limit_s),
        "selection": json.dumps(dataclasses.asdict(selection)),
    }
    table, halves = work(checkpoint, sessions, metadata, reporter)
    if not table.seen.any():
        where = "" if config.limit_s is None else f" in the first {config.limit_s:g} s"
        raise ranks.said_once(
            InputError(
                f"No unit of {len(sessions)} sessions is active in a whole window{where}: nothing to embed.",
                "Give longer sessions" if config.limit_s is None else "Raise --limit",
            )
        )
    found = diagnose(halves, rankme(torch.from_numpy(table.embedding[table.seen])))
    said = {"diagnostics": json.dumps(None if found is None else dataclasses.asdict(found))}
    table = dataclasses.replace(table, metadata={**table.metadata, **said})
    ranks.once(lambda: write_embeddings(table, plan.out))
    return embed_record(
        table, sessions, run, found, selection, weights, device, plan.out, time.monotonic() - began
    )


def _again(config: EmbedConfig, run: Run) -> str:
    """The command, with a file of its own for what it makes."""
    given = {
        "--run": run.folder,
        "-o": "embeddings.parquet",
        "--checkpoint": config.checkpoint,
        "--limit": None if config.limit_s is None else f"{config.limit_s:g}",
        "--select": None if config.select == "last" else config.select,
        "--select-label": config.select_label,
        "--max-tokens": config.max_tokens,
        "--weights": config.weights,
        "--gpus": config.gpus,
        "--processes-per-window": config.processes_per_window if config.processes_per_window > 1 else None,
    }
    said = [f"{option} {shlex.quote(str(value))}" for option, value in given.items() if value is not None]
    return " ".join(["nuclr embed", shlex.quote(text_of(config.data)) if config.data else "DATA", *said])


def _run(config: EmbedConfig, reporter: Reporter) -> Run:
    """The named run, else the newest that has something to embed with."""
    if config.run is None:
        ready = [run for run in list_runs(config.runs, reporter.warn) if steps_available(run.checkpoints)]
        if ready:
            return ready[-1]
    return find_run(config.run, config.runs, reporter.warn)


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
