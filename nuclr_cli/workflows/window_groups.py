"""Processes that hold the units of a window together, and what they share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from nuclr_cli.data.batch import PackedViews
from nuclr_cli.errors import InputError, NuclrError
from nuclr_cli.model.unit_shards import PeerLost, UnitShards, unit_shards
from nuclr_cli.workflows.ranks import PATIENCE, EndedElsewhere, LeftAlone, Ranks, told_of_peers

T = TypeVar("T")


@dataclass(frozen=True)
class WindowGroup:
    """The processes that work on the same windows, each for some of the units.

    Attributes:
        index: Which group of how many, `count`.
        member: This process's number in it, of how many, `of`.
        group: For torch.distributed; None = all processes.
    """

    index: int = 0
    count: int = 1
    member: int = 0
    of: int = 1
    group: dist.ProcessGroup | None = field(default=None, compare=False)

    @property
    def leads(self) -> bool:
        """Whether this process speaks for its group."""
        return self.member == 0

    def own(self, views: PackedViews) -> PackedViews:
        """The views of the units that this process holds."""
        shards = unit_shards(views.units_per_population, self.member, self.of)
        return views.of_units(shards.rows, shards.own_sizes)

    def shards(self, units_per_population: Tensor, device: torch.device) -> UnitShards | None:
        """Who holds which units of a packed batch; None where this process holds all."""
        if self.of == 1:
            return None
        return unit_shards(units_per_population, self.member, self.of, self.group, device)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Around work in which members exchange something: an error of one is no error of all.

        Raises:
            LeftAlone: Whatever this one has met; or another one is gone.
        """
        if self.of == 1:
            yield
            return
        try:
            with told_of_peers(PeerLost):
                yield
        except NuclrError as error:
            raise LeftAlone(error) from error

    def together(self, items: Iterator[T]) -> Iterator[T]:
        """The items, each once all members have theirs: none waits for one that has failed.

        Raises:
            NuclrError: On the member that failed; the others raise EndedElsewhere.
        """
        if self.of == 1:
            yield from items
            return
        while True:
            failure, item, done = None, None, False
            try:
                item = next(items)
            except StopIteration:
                done = True
            except NuclrError as error:
                failure = error
            failed = torch.tensor(int(failure is not None))
            with told_of_peers():
                dist.all_reduce(failed, group=self.group)
            if failure is not None:
                raise failure
            if failed:
                raise EndedElsewhere(3)
            if done:
                return
            assert item is not None
            yield item


def window_groups(ranks: Ranks, of: int, option: str) -> WindowGroup:
    """Group neighbouring processes, which share a machine where they can; every process has to call this.

    Args:
        ranks: All processes.
        of: Processes that work on a window together.
        option: What has set `of`, for messages.

    Raises:
        InputError: The processes do not divide into such groups.
    """
    if of == 1:
        return WindowGroup(ranks.rank, ranks.world)
    if ranks.world % of:
        raise ranks.said_once(
            InputError(
                f"{option}: {of} processes are to hold a window together, and {ranks.world} "
                f"{'is' if ranks.world == 1 else 'are'} there.",
                f"Start a multiple of {of} processes (--gpus {of}, or under torchrun or srun), or choose a "
                "number that divides them",
            )
        )
    whole = WindowGroup(0, 1, ranks.rank, of)
    if of == ranks.world:
        return whole
    groups = [
        dist.new_group(list(range(first, first + of)), timeout=PATIENCE)
        for first in range(0, ranks.world, of)
    ]
    index = ranks.rank // of
    return replace(whole, index=index, count=len(groups), member=ranks.rank % of, group=groups[index])
