"""What the contrastive loss has to know about a batch besides its embeddings, checked and on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nuclr_kernels._offsets import population_bounds


@dataclass(frozen=True, eq=False)
class LossPlan:
    """Checked offsets and partners of two views.

    Made by `make_loss_plan`. A call with a plan checks nothing of it again, copies nothing to the GPU and
    waits for nothing.

    Attributes:
        bounds1, bounds2: B+1 offsets of the samples in each view, on the host.
        n_units1, n_units2: Units of each view, the last of its offsets.
        partner12: (U1,) int64, as it was given and where; only plain PyTorch uses it.
        n_pairs: Matched pairs of all samples.
        largest: Units of the largest view of a sample.
        samples: (B, 6) int32 on the device, the largest samples first: first and last unit of view 1 and of
            view 2 (last ones exclusive, view 2 counted on behind view 1), matched pairs, index of the sample.
        partners: (U1 + U2,) int32 on the device, row of the same unit in the other view, counted the same
            way, -1 where there is none.
        pairs: (B,) int32 on the device, matched pairs of each sample, in the order of the batch.
    """

    bounds1: tuple[int, ...]
    bounds2: tuple[int, ...]
    n_units1: int
    n_units2: int
    partner12: Tensor
    n_pairs: int
    largest: int
    samples: Tensor
    partners: Tensor
    pairs: Tensor


def make_loss_plan(
    cu1: Tensor, cu2: Tensor, partner12: Tensor, device: torch.device | str | None = None
) -> LossPlan:
    """Check a batch and move what kernels need of it to `device`, by a copy that the host need not wait for.

    Values on a GPU have to be fetched to be checked, so keep the arguments on the CPU where that matters.

    Args:
        cu1: (B+1,) int32 or int64, offsets of the samples in view 1.
        cu2: (B+1,) offsets of the samples in view 2.
        partner12: (U1,) int64, row of view 2 that is the same unit in the same sample, -1 where there is
            none. Rows of view 2 are used once at most.
        device: Where the loss will run; default the device of `partner12`.

    Raises:
        ValueError: An argument has the wrong shape, dtype or values; the message names it.
    """
    if partner12.ndim != 1 or partner12.dtype != torch.int64:
        raise ValueError(
            "partner12 must be an int64 tensor with one entry for each row of view 1; "
            f"got shape {tuple(partner12.shape)}, {partner12.dtype}"
        )
    bounds1 = population_bounds(cu1, len(partner12), "cu1")
    last2 = int(cu2[-1]) if cu2.ndim == 1 and len(cu2) else 0
    bounds2 = population_bounds(cu2, last2, "cu2")
    if len(bounds1) != len(bounds2):
        raise ValueError(f"cu2 must mark as many samples as cu1, {len(bounds1) - 1}; got {len(bounds2) - 1}")
    return plan_of_bounds(bounds1, bounds2, partner12, device)


def plan_of_bounds(
    bounds1: Sequence[int],
    bounds2: Sequence[int],
    partner12: Tensor,
    device: torch.device | str | None = None,
) -> LossPlan:
    """The plan for offsets that have been checked; checks the partners.

    Raises:
        ValueError: Partners are not units of the same sample, or share one.
    """
    target = partner12.device if device is None else torch.device(device)
    partner = partner12.cpu()
    starts1, starts2 = torch.tensor(bounds1), torch.tensor(bounds2)
    rows1 = torch.nonzero(partner >= 0).squeeze(1)
    rows2 = partner[rows1]
    sample1 = torch.searchsorted(starts1, rows1, right=True) - 1
    sample2 = torch.searchsorted(starts2, rows2, right=True) - 1
    partner21 = torch.full((bounds2[-1],), -1)
    paired = bool((rows2 < bounds2[-1]).all()) and torch.equal(sample1, sample2)
    if paired:
        partner21[rows2] = rows1
        paired = torch.equal(partner21[rows2], rows1)  # unless two claimed the same row
    if not paired:
        raise ValueError(
            "partner12 must pair a unit with a unit of its own sample in p2, and each of those once at most"
        )
    n_samples, n_units1 = len(bounds1) - 1, bounds1[-1]
    sizes = torch.maximum(starts1.diff(), starts2.diff())
    order = sizes.argsort(descending=True, stable=True)
    pairs = torch.bincount(sample1, minlength=n_samples)
    table = [
        starts1[:-1],
        starts1[1:],
        starts2[:-1] + n_units1,
        starts2[1:] + n_units1,
        pairs,
        torch.arange(n_samples),
    ]
    samples = torch.stack(table, dim=1)[order]
    partners = torch.cat([torch.where(partner >= 0, partner + n_units1, -1), partner21])
    # Both parts start at multiples of 16 bytes whatever the sizes: otherwise kernels are compiled anew.
    spare = partners.new_zeros(-len(partners) % 4)
    packed = torch.cat([partners, spare, samples.flatten(), pairs]).to(torch.int32)
    if target.type == "cuda":
        packed = packed.pin_memory()
    packed = packed.to(target, non_blocking=True)
    first, last = len(partners) + len(spare), len(packed) - n_samples
    return LossPlan(
        bounds1=tuple(bounds1),
        bounds2=tuple(bounds2),
        n_units1=n_units1,
        n_units2=bounds2[-1],
        partner12=partner12,
        n_pairs=len(rows1),
        largest=int(sizes.max()) if n_samples else 0,
        samples=packed[first:last].view(-1, 6),
        partners=packed[: len(partners)],
        pairs=packed[last:],
    )
