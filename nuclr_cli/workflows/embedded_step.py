"""Whether embeddings are of the weights that their run has now.

A run may go on after `nuclr embed`: what is read from its table is then not what the finished run can do.
Imports nothing heavy: `nuclr runs` asks, too.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nuclr_cli.workflows.run_folder import AVERAGE, folder_of, steps_available

LAST = "last"


@dataclass(frozen=True)
class EmbeddedStep:
    """Where a table of embeddings stands beside its run.

    Attributes:
        step: Of the checkpoint that made it.
        stands: Steps of the run by now.
        newest: Step of its newest checkpoint; None = it has none.
        rule: How the checkpoint was chosen (``last``, ``given``, ...), '' = the table does not say.
        scored_to: Newest checkpoint that was there to choose from; None = no choice among several.
        options: Of ``nuclr embed``, as far as its defaults would make another kind of table.
    """

    step: int
    stands: int
    newest: int | None
    rule: str
    scored_to: int | None
    options: tuple[str, ...] = ()

    @property
    def older(self) -> bool:
        """Whether the run has gone beyond these weights."""
        return self.step < self.stands

    @property
    def outdated(self) -> bool:
        """Whether that is nobody's choice: the newest weights were asked for, and newer ones are there."""
        return self.rule in ("", LAST) and self.newest is not None and self.step < self.newest

    @property
    def choice(self) -> str:
        """How an older checkpoint came to be taken, as the part of a sentence that follows its step."""
        if self.rule in ("", LAST):
            return ""
        if self.rule == "given":
            return ", given with --checkpoint"
        until = "" if self.scored_to is None else f" of checkpoints up to step {self.scored_to}"
        return f", chosen by {self.rule}{until}"


def embedded_step(
    metadata: Mapping[str, str], run_id: str, recorded_step: int, checkpoints: Path
) -> EmbeddedStep | None:
    """Compare a table with the run that made it.

    Args:
        metadata: Of the table.
        run_id: Name and creation time of the run.
        recorded_step: As its run.json says.
        checkpoints: Its folder of checkpoints.

    Returns:
        None where another run made the table, or it does not say which step.
    """
    said = metadata.get("checkpoint_step", "")
    if metadata.get("run", "") != run_id or not said.isdecimal():
        return None
    steps = steps_available(checkpoints)
    rule, scored_to = _rule(metadata.get("selection", ""))
    return EmbeddedStep(
        step=int(said),
        stands=max([recorded_step, *steps[-1:]]),
        newest=steps[-1] if steps else None,
        rule=rule,
        scored_to=scored_to,
        options=_options(metadata, checkpoints, steps),
    )


def embed_again(run: Path, found: EmbeddedStep) -> str:
    """What to type to have a run's own embeddings of its newest weights, made as those there are were."""
    return shlex.join(["nuclr", "embed", "--run", str(run), *found.options])


def _options(metadata: Mapping[str, str], checkpoints: Path, steps: Sequence[int]) -> tuple[str, ...]:
    limit = metadata.get("limit_s", "")
    averaged = bool(steps) and (folder_of(checkpoints, steps[-1]) / AVERAGE).is_file()
    raw = averaged and metadata.get("weights") == "raw"
    return (*(("--limit", limit) if limit else ()), *(("--weights", "raw") if raw else ()))


def _rule(selection: str) -> tuple[str, int | None]:
    try:
        found = json.loads(selection)
        return str(found["rule"]), max((int(one["step"]) for one in found["candidates"]), default=None)
    except (ValueError, TypeError, KeyError, RecursionError):
        return "", None
