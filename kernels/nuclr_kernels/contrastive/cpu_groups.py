"""Which samples of a batch a CPU works on together, and where their units lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from nuclr_kernels.contrastive.plan import LossPlan
from nuclr_kernels.contrastive.reference import LossOptions

LARGEST_GROUP = 1 << 20
"""Scores of a group of several samples: in float32 4 MiB, which stays near the core."""
FREE_PADDING = 1 << 13
"""Padded scores that cost less than working on another group."""


@dataclass(frozen=True)
class Sample:
    """One sample with pairs.

    Attributes:
        start1, stop1, start2, stop2: Its units in the matrix of all units, view 2 behind view 1.
        n_pairs: Matched pairs.
        index: Which one of the batch it is.
    """

    start1: int
    stop1: int
    start2: int
    stop2: int
    n_pairs: int
    index: int

    @property
    def sizes(self) -> tuple[int, int]:
        return self.stop1 - self.start1, self.stop2 - self.start2

    @property
    def scores(self) -> int:
        """Entries of the matrix of the units of both views with each other."""
        return sum(self.sizes) ** 2


@dataclass(frozen=True)
class Group:
    """Samples of about the same size, worked on as one.

    Letters in shapes: G samples, M = m1 + m2 units of each (its first view, then its second, both padded to
    the largest of the group), P pairs.

    Attributes:
        samples: G of them, the largest first.
        index: (G,) int64, which ones of the batch they are.
        sizes: m1 and m2.
        shape: (G, M).
        factors: Of a view's units, (M,) reciprocals of the temperatures of their scores.
        rows: (G * M,) int64 rows of the units in the matrix of all units; padding repeats a row of its
            sample. A slice where they lie side by side.
        padding: None where there is none.
        pairs: (P,) int64 places of the pairs in the flat (G, M, M) scores, the unit of view 1 first.
        pair_sample: (P,) int64, sample of the batch.
        excluded: Places of the pairs, either unit first, if they are no rivals; None if they are.
        active: (G, M) bool, matched units that have a rival.
        n_active: (G,) float64.
        log_counts: (G,) float64, sums over the active units of the log of what the mean over their rivals is
            taken of.
    """

    samples: tuple[Sample, ...]
    index: Tensor
    sizes: tuple[int, int]
    shape: tuple[int, int]
    factors: tuple[Tensor, Tensor]
    rows: Tensor | slice
    padding: Padding | None
    pairs: Tensor
    pair_sample: Tensor
    excluded: Tensor | None
    active: Tensor
    n_active: Tensor
    log_counts: Tensor


@dataclass(frozen=True)
class Padding:
    """Where a group is padded.

    Attributes:
        absent: (G, 1, M) bool.
        present: (N,) int64 places of the others in the flat (G, M) units.
        present_rows: (N,) int64, their rows.
        first: (G, m1, 1) float, share of each unit of the first view in their mean.
    """

    absent: Tensor
    present: Tensor
    present_rows: Tensor
    first: Tensor


@dataclass(frozen=True)
class BatchGroups:
    """A batch, as the CPU works on it.

    Attributes:
        groups: Of small samples.
        large: Samples that are worked on row by row.
        sample: (U1 + U2,) int64, sample of each unit.
        partner: (U1 + U2,) int64, row of its partner; of itself where it has none.
        matched: (U1 + U2,) bool.
        farthest: (B,) float64, the numerator where pairs have no similarity, 0 in samples without one.
        per_pair: (B,) float64, minus the change of the numerator with the sum of the pairs' similarities.
        per_query: (B,) change of the denominator with the sum over queries.
    """

    groups: tuple[Group, ...]
    large: tuple[Sample, ...]
    sample: Tensor
    partner: Tensor
    matched: Tensor
    farthest: Tensor
    per_pair: Tensor
    per_query: Tensor


_Key = tuple[LossOptions, torch.dtype, int]
_GROUPS: WeakKeyDictionary[LossPlan, dict[_Key, BatchGroups]] = WeakKeyDictionary()


def batch_groups(plan: LossPlan, options: LossOptions, dtype: torch.dtype, most_scores: int) -> BatchGroups:
    """Group the samples of a batch; worked out once a plan.

    Args:
        plan: On the CPU.
        options: Of the loss.
        dtype: That the scores will have.
        most_scores: Samples with more scores than this are large.
    """
    known = _GROUPS.setdefault(plan, {})
    key = (options, dtype, most_scores)
    if key not in known:
        known[key] = _batch_groups(plan, options, dtype, most_scores)
    return known[key]


def _batch_groups(plan: LossPlan, options: LossOptions, dtype: torch.dtype, most_scores: int) -> BatchGroups:
    samples = [sample for row in plan.samples.tolist() for sample in (Sample(*row),) if sample.n_pairs]
    small = [sample for sample in samples if sample.scores <= most_scores]
    partners = plan.partners.long()
    matched = partners >= 0
    sizes = torch.tensor(plan.bounds1).diff(), torch.tensor(plan.bounds2).diff()
    one_view = torch.arange(len(plan.pairs))
    pairs = plan.pairs.double()
    per_pair = 1 / (options.tau * pairs.clamp(min=1))
    return BatchGroups(
        groups=tuple(_group(members, partners, options, dtype) for members in _alike(small)),
        large=tuple(sample for sample in samples if sample.scores > most_scores),
        sample=torch.cat([one_view.repeat_interleave(size) for size in sizes]),
        partner=torch.where(matched, partners, torch.arange(len(partners))),
        matched=matched,
        farthest=pairs * per_pair,
        per_pair=per_pair,
        per_query=(per_pair * (options.tau / 2)).to(dtype),
    )


def _alike(samples: list[Sample]) -> Iterator[list[Sample]]:
    """Cut samples, the largest first, into groups that padding does not make much larger."""
    group: list[Sample] = []
    scores = largest1 = largest2 = 0
    for sample in samples:
        (n1, n2), own = sample.sizes, sample.scores
        most1, most2 = max(largest1, n1), max(largest2, n2)
        padded = (len(group) + 1) * (most1 + most2) ** 2
        scores += own
        if group and (padded > LARGEST_GROUP or padded - scores > max(FREE_PADDING, scores // 4)):
            yield group
            group, scores, most1, most2 = [], own, n1, n2
        group.append(sample)
        largest1, largest2 = most1, most2
    if group:
        yield group


def _group(samples: list[Sample], partners: Tensor, options: LossOptions, dtype: torch.dtype) -> Group:
    sizes = [sample.sizes for sample in samples]
    m1, m2 = (max(of_view) for of_view in zip(*sizes, strict=True))
    counts = torch.tensor(sizes).T
    starts = torch.tensor(
        [(sample.start1, sample.start2, sample.n_pairs, sample.index) for sample in samples]
    )
    start1, start2, n_pairs, index = starts.unbind(1)
    n_places = m1 + m2
    own, other = (torch.full((n_places,), 1 / tau, dtype=dtype) for tau in (options.self_tau, options.tau))
    places = torch.arange(m1), torch.arange(m2)
    rows = torch.cat((start1[:, None] + places[0], start2[:, None] + places[1]), 1)
    absent = None
    if sizes.count((m1, m2)) < len(sizes):
        absent = torch.cat([place >= n[:, None] for place, n in zip(places, counts, strict=True)], 1)
        rows = torch.where(absent, start1[:, None], rows)
    partner = partners[rows]
    matched = partner >= 0
    if absent is not None:
        matched &= ~absent
    pair_sample, unit1 = torch.nonzero(matched[:, :m1]).unbind(1)
    unit2 = (partner[:, :m1] - start2[:, None])[pair_sample, unit1] + m1
    block = pair_sample * n_places**2
    pairs = torch.add(block + unit2, unit1, alpha=n_places)
    over = counts.sum(0).expand(2, -1) if options.full_denom else counts.flip(0)
    rivalled = over > options.dcl + options.full_denom
    active = matched
    if not rivalled.all():
        active = matched & rivalled.T.repeat_interleave(torch.tensor((m1, m2)), 1)
    first, last = samples[0].start1, samples[-1].stop2
    side_by_side = absent is None and len(samples) == 1 and samples[0].stop1 == samples[0].start2
    return Group(
        samples=tuple(samples),
        index=index,
        sizes=(m1, m2),
        shape=(len(samples), n_places),
        factors=(torch.cat((own[:m1], other[:m2])), torch.cat((other[:m1], own[:m2]))),
        rows=slice(first, last) if side_by_side else rows.flatten(),
        padding=None if absent is None else _padding(rows, absent, m1, dtype),
        pairs=pairs,
        pair_sample=index[pair_sample],
        excluded=torch.cat((pairs, torch.add(block + unit1, unit2, alpha=n_places))) if options.dcl else None,
        active=active,
        n_active=(n_pairs * rivalled.sum(0)).double(),
        log_counts=n_pairs * (rivalled * over.double().log()).sum(0),
    )


def _padding(rows: Tensor, absent: Tensor, n_first: int, dtype: torch.dtype) -> Padding:
    there = ~absent
    present = torch.nonzero(there.flatten()).squeeze(1)
    first = there[:, :n_first, None].to(dtype)
    return Padding(
        absent=absent[:, None],
        present=present,
        present_rows=rows.flatten()[present],
        first=first / first.sum(1, keepdim=True),
    )
