"""How often each subject or session comes in an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.data.session import SessionKey
from nuclr_cli.data.streams import Purpose, random_order, stream

Balance = Literal["none", "subject", "session"]
"""Whose windows are made equally many: of nobody (every window comes once), each subject or each session."""


def groups_of(keys: Sequence[SessionKey], balance: Balance) -> NDArray[np.int64]:
    """(N,) int64: number of the group that each session belongs to, from 0.

    A group is a subject, or all populations that were recorded together.

    Args:
        keys: Of the N sessions.
        balance: ``subject`` or ``session``.
    """
    names = [(key.subject,) if balance == "subject" else (key.subject, key.session) for key in keys]
    numbers = {name: number for number, name in enumerate(sorted(set(names)))}
    return np.array([numbers[name] for name in names], dtype=np.int64)


def balanced_choice(group_of_window: NDArray[np.int64], seed: int, epoch: int) -> NDArray[np.int64]:
    """Which windows an epoch takes so that every group comes equally often; a function of the arguments.

    The number of windows stays. Each of G groups gets 1 / G of it, rounded down or up; which groups get one
    more is drawn for each epoch. A group that has more windows than that leaves some out, drawn anew for each
    epoch; a group that has fewer repeats its windows, all of them equally often or once more.

    Args:
        group_of_window: (L,) int64, group of each window.
        seed, epoch: Name the random streams.

    Returns:
        (L,) int64 places in `group_of_window`, ascending by group.
    """
    _, group = np.unique(group_of_window, return_inverse=True)
    n_groups = int(group.max()) + 1
    by_group = np.argsort(group, kind="stable")
    ends = np.cumsum(np.bincount(group, minlength=n_groups))
    whole, over = divmod(len(group), n_groups)
    wanted = np.full(n_groups, whole, dtype=np.int64)
    wanted[random_order(n_groups, stream(seed, epoch, 0, Purpose.BALANCE))[:over]] += 1
    chosen: list[NDArray[np.int64]] = []
    for number, members in enumerate(np.split(by_group, ends[:-1])):
        times, rest = divmod(int(wanted[number]), len(members))
        order = random_order(len(members), stream(seed, epoch, number + 1, Purpose.BALANCE))
        chosen.append(np.concatenate([np.tile(members, times), members[order[:rest]]]))
    return np.concatenate(chosen)
