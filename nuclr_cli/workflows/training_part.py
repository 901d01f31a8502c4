"""What part of the sessions pretraining sees: some subjects, some units, the first minutes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from nuclr_cli.data.balance import Balance
from nuclr_cli.data.part import PartOfRecording, first_seconds, some_units
from nuclr_cli.data.recording import Recording
from nuclr_cli.data.store import Session
from nuclr_cli.errors import InputError


@dataclass(frozen=True)
class DataConfig:
    """What of the sessions is trained on; embedding and probing always take all of it.

    Attributes:
        subjects: Subjects that are trained on; empty = all that are not held out.
        unit_share: Share of each session's units, drawn at random; with the same seed a smaller share is part
            of a larger one. No session goes below `views.min_units` / `views.dropout_low` units by it.
        time_share: Share of each session's valid time, from its start.
        minutes: Minutes of valid time of each session, from its start; None = all of it.
        balance: Whose windows come equally often in an epoch, the length of which stays: ``none`` (every
            window comes once, as in the reference), ``subject`` or ``session``.
    """

    subjects: tuple[str, ...] = ()
    unit_share: float = 1.0
    time_share: float = 1.0
    minutes: float | None = None
    balance: Balance = "none"

    def __post_init__(self) -> None:
        for name in ("unit_share", "time_share"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise InputError(
                    f"data.{name} = {getattr(self, name)} is not a share above 0 and at most 1.",
                    f"--set data.{name}=1 takes everything",
                )
        if self.minutes is not None and not self.minutes > 0.0:
            raise InputError(
                f"data.minutes = {self.minutes} is not a length of time.", "Leave it out for all of it"
            )

    def limit_s(self, duration_s: float) -> float:
        """Seconds of valid time that are used of a session of `duration_s` seconds."""
        limit_s = self.time_share * duration_s
        return limit_s if self.minutes is None else min(limit_s, 60.0 * self.minutes)


def least_units(min_units: int, dropout_low: float) -> int:
    """Units that even the smallest view of a session needs before dropout."""
    return math.ceil(min_units / dropout_low)


def training_part(session: Session, data: DataConfig, seed: int, least: int) -> Recording:
    """The part of a session that a run trains on; the session itself where that is everything.

    Args:
        session: The whole.
        data: What is wanted of it.
        seed: The run's; names the units.
        least: From `least_units`.
    """
    rows = np.arange(session.n_units, dtype=np.int64)
    if data.unit_share < 1.0:
        rows = some_units(session.n_units, data.unit_share, least, seed, session.key)
    limit_s, intervals = data.limit_s(session.duration_s), session.intervals
    if limit_s < session.duration_s:
        intervals = first_seconds(intervals, limit_s)
    elif len(rows) == session.n_units:
        return session
    return PartOfRecording(session, rows, intervals)
