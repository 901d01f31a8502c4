"""Packed batches: populations one after the other along the unit axis, cut under a cap on tokens.

A token is one patch, or latent, of one unit in one view. Memory and time grow with tokens, not with windows:
a window may hold twenty units or a thousand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from nuclr_cli.api import Modality
from nuclr_cli.data.recording import Recording
from nuclr_cli.data.tokens import TokenSpec
from nuclr_cli.data.views import View, ViewPair, make_view
from nuclr_cli.data.windows import evaluation_windows, observed

_CHUNK_S = 60.0
"""Spikes are counted in stretches of this length, so that a whole session is never in memory."""
_CHUNK_WINDOWS, _CHUNK_BATCHES = 64, 4
"""Least windows and batches of what is embedded by one process at a time."""
_MOST_CHUNKS = 16
"""Of a session: the sums of each travel between processes."""


@dataclass(frozen=True)
class PackedViews:
    """One view of each of B populations; U units in all.

    Sizes and ids stay on the CPU, where plans are made of them: what would have to be read back from a GPU
    would make the host wait for all that the GPU has still to do.

    Attributes:
        modality: Of all of them.
        inputs: (U, patches, samples per patch) float32; of events (S,) seconds, unit after unit.
        ids: (U,) int64: unit row within its own population; unique within a population only.
        units_per_population: (B,) int64, sums to U.
        spikes_per_unit: Of events (U,) int64, sums to S; else None.
        n_latents: Of events, the tokens of a unit; else 0.
    """

    modality: Modality
    inputs: torch.Tensor
    ids: torch.Tensor
    units_per_population: torch.Tensor
    spikes_per_unit: torch.Tensor | None = None
    n_latents: int = 0

    @property
    def n_tokens(self) -> int:
        """Units times patches, or latents."""
        per_unit = self.inputs.shape[1] if self.spikes_per_unit is None else self.n_latents
        return len(self.ids) * int(per_unit)

    def of_units(self, rows: torch.Tensor, units_per_population: Sequence[int]) -> PackedViews:
        """Some of the units.

        Args:
            rows: (V,) int64, ascending, along the packed axis.
            units_per_population: (B,) how many of each population they are.
        """
        inputs, spikes = self.inputs, None
        if self.spikes_per_unit is None:
            inputs = inputs[rows]
        else:
            spikes = self.spikes_per_unit[rows]
            kept = torch.zeros(len(self.ids), dtype=torch.bool)
            kept[rows] = True
            inputs = inputs[kept.repeat_interleave(self.spikes_per_unit)]
        sizes = torch.tensor(list(units_per_population), dtype=torch.int64)
        return replace(
            self, inputs=inputs, ids=self.ids[rows], units_per_population=sizes, spikes_per_unit=spikes
        )

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> PackedViews:
        """The same views, their inputs on `device`."""
        return replace(self, inputs=self.inputs.to(device, non_blocking=non_blocking))


@dataclass(frozen=True)
class PairBatch:
    """One micro-batch: B pairs of views of one modality.

    Attributes:
        view1, view2: The two views of each pair; population b of one belongs to population b of the other.
        n_pairs: Matched units over all populations.
        n_tokens: Tokens of both views.
    """

    view1: PackedViews
    view2: PackedViews
    n_pairs: int
    n_tokens: int

    @property
    def modality(self) -> Modality:
        """Of all pairs."""
        return self.view1.modality

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> PairBatch:
        """The same pairs, their inputs on `device`."""
        return replace(
            self,
            view1=self.view1.to(device, non_blocking=non_blocking),
            view2=self.view2.to(device, non_blocking=non_blocking),
        )


@dataclass(frozen=True)
class EvaluationBatch:
    """Windows of one session, to embed.

    Attributes:
        views: One population a window; ``views.ids`` are the rows of the units active in it.
        starts_s: Start of each window, seconds.
    """

    views: PackedViews
    starts_s: tuple[float, ...]


def pack_views(views: Sequence[View], modality: Modality) -> PackedViews:
    """Pack one view of each population; at least one view."""
    spikes = spikes_of_units(views)
    return PackedViews(
        modality,
        torch.from_numpy(np.concatenate([view.inputs for view in views])),
        torch.from_numpy(np.concatenate([view.rows for view in views])),
        torch.tensor([len(view.rows) for view in views], dtype=torch.int64),
        None if spikes is None else torch.from_numpy(spikes),
        views[0].n_latents,
    )


def spikes_of_units(views: Sequence[View]) -> NDArray[np.int64] | None:
    """(U,) spikes of every unit of all views, None unless they hold events."""
    parts = [view.spikes_per_unit for view in views if view.spikes_per_unit is not None]
    return np.concatenate(parts) if parts else None


def pack(pairs: Sequence[ViewPair]) -> PairBatch:
    """Pack pairs of one modality, in the order given; at least one pair."""
    modality = pairs[0].window.modality
    view1 = pack_views([pair.view1 for pair in pairs], modality)
    view2 = pack_views([pair.view2 for pair in pairs], modality)
    return PairBatch(view1, view2, sum(pair.n_matched for pair in pairs), view1.n_tokens + view2.n_tokens)


def cut(pairs: Sequence[ViewPair], max_tokens: int) -> list[PairBatch]:
    """Pack pairs into few micro-batches under `max_tokens` (first fit, largest first); deterministic.

    A micro-batch holds one modality. A pair larger than the cap makes a micro-batch of its own. Within a
    micro-batch pairs keep their order.
    """
    return [pack([pairs[place] for place in group]) for group in plan_cut(pairs, max_tokens)]


def plan_cut(pairs: Sequence[ViewPair], max_tokens: int) -> list[list[int]]:
    """Which pairs `cut` packs together: ascending places in `pairs`, one list a micro-batch."""
    groups: list[list[int]] = []
    room: list[int] = []
    modality: list[Modality] = []
    sizes = [_pair_tokens(pair) for pair in pairs]
    for place in sorted(range(len(pairs)), key=lambda place: (-sizes[place], place)):
        wanted = pairs[place].window.modality
        for group, left in enumerate(room):
            if modality[group] == wanted and sizes[place] <= left:
                groups[group].append(place)
                room[group] -= sizes[place]
                break
        else:
            groups.append([place])
            room.append(max_tokens - sizes[place])
            modality.append(wanted)
    return sorted(sorted(group) for group in groups)


def evaluation_chunks(
    session: Recording, tokens: TokenSpec, max_tokens: int, *, limit_s: float | None = None
) -> list[range]:
    """The numbers of a session's evaluation windows, in stretches that are embedded on their own.

    Stretches depend on the session and `max_tokens` alone, not on who embeds them: each is added up by itself
    and then the sums, so that the result is the same to the bit wherever they were made. One holds some
    batches, so that cutting costs little.
    """
    n_windows = len(evaluation_windows(session, tokens, limit_s=limit_s))
    of_window = max(session.n_units * tokens.of(session.modality).n_patches, 1)
    length = max(_CHUNK_WINDOWS, _CHUNK_BATCHES * max_tokens // of_window, -(-n_windows // _MOST_CHUNKS))
    return [range(start, min(start + length, n_windows)) for start in range(0, n_windows, length)]


def evaluation_batches(
    session: Recording,
    tokens: TokenSpec,
    max_tokens: int,
    *,
    windows: range | None = None,
    limit_s: float | None = None,
) -> Iterator[EvaluationBatch]:
    """The evaluation windows of a session, packed up to `max_tokens` tokens at a time.

    Which windows exist does not depend on `max_tokens`. Windows without an active unit are left out. A single
    window larger than the cap is a batch of its own.

    Args:
        windows: Numbers of the windows to give; None = all.
    """
    starts = evaluation_windows(session, tokens, limit_s=limit_s)
    waiting: list[View] = []
    waiting_s: list[float] = []
    size = 0
    for number in range(len(starts)) if windows is None else windows:
        view = make_view(session, starts[number], tokens)
        n_tokens = view.n_tokens
        if n_tokens == 0:
            continue
        if waiting and size + n_tokens > max_tokens:
            yield EvaluationBatch(pack_views(waiting, session.modality), tuple(waiting_s))
            waiting, waiting_s, size = [], [], 0
        waiting.append(view)
        waiting_s.append(starts[number])
        size += n_tokens
    if waiting:
        yield EvaluationBatch(pack_views(waiting, session.modality), tuple(waiting_s))


def covered_events(
    session: Recording, tokens: TokenSpec, *, limit_s: float | None = None
) -> NDArray[np.int64]:
    """(N,) int64: spikes (calcium: frames) of each unit inside the evaluation windows, each counted once."""
    counts = np.zeros(session.n_units, dtype=np.int64)
    window_s = tokens.of(session.modality).window_s
    for start, end in observed(session.intervals, window_s, limit_s).tolist():
        if session.modality == "calcium":
            calcium = session.calcium
            edges = [np.searchsorted(calcium.timestamps, edge - calcium.time_offset) for edge in (start, end)]
            counts += edges[1] - edges[0]
            continue
        cuts = [*np.arange(start, end, _CHUNK_S).tolist(), end]
        for low, high in pairwise(cuts):
            counts += np.bincount(session.spikes_between(low, high)[1], minlength=session.n_units)
    return counts


def _pair_tokens(pair: ViewPair) -> int:
    return pair.view1.n_tokens + pair.view2.n_tokens
