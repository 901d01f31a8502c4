"""Which unit of view 1 is which unit of view 2."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nuclr_kernels import LossPlan, make_loss_plan


def match_units(ids1: Tensor, ids2: Tensor, units1: Tensor, units2: Tensor) -> Tensor:
    """Pair units of two packed views by id within the same sample.

    Args:
        ids1: (U1,) integers, unit ids of view 1, unique within a sample (samples may share ids).
        ids2: (U2,) integers, view 2.
        units1: (B,) integers summing to U1, units of each sample in view 1.
        units2: (B,) integers summing to U2.

    Returns:
        (U1,) int64 on the device of `ids1`: row of view 2 that holds the same unit, -1 where view 2 lacks it.

    Raises:
        ValueError: Lengths do not fit, or a sample holds an id twice.
    """
    if ids1.ndim != 1 or ids2.ndim != 1 or ids1.is_floating_point() or ids2.is_floating_point():
        raise ValueError(
            f"ids1 and ids2 must be lists of integers; got {tuple(ids1.shape)} and {tuple(ids2.shape)}"
        )
    if units1.ndim != 1 or units1.shape != units2.shape:
        raise ValueError(
            "units1 and units2 must list the units of the same samples; "
            f"got {tuple(units1.shape)} and {tuple(units2.shape)}"
        )
    device = ids1.device
    samples1 = _sample_of_unit(units1.to(device), len(ids1), "1")
    samples2 = _sample_of_unit(units2.to(device), len(ids2), "2")
    # Ids are arbitrary; their ranks are below `n_ids`, so that sample and rank make one sortable key.
    unique, ranks = torch.unique(torch.cat((ids1, ids2.to(device))), return_inverse=True)
    n_ids = max(len(unique), 1)
    keys1 = samples1 * n_ids + ranks[: len(ids1)]
    keys2 = samples2 * n_ids + ranks[len(ids1) :]
    _check_unique(keys1, samples1, ids1, "ids1")
    order = _check_unique(keys2, samples2, ids2, "ids2")
    if len(keys2) == 0:
        return torch.full_like(keys1, -1)
    position = torch.searchsorted(keys2[order], keys1).clamp_(max=len(keys2) - 1)
    candidate = order[position]
    return torch.where(keys2[candidate] == keys1, candidate, -1)


def plan_loss(
    ids1: Tensor, ids2: Tensor, units1: Tensor, units2: Tensor, device: torch.device | str | None = None
) -> LossPlan:
    """Match two views, and make what a loss needs of that; arguments as those of `match_units`.

    Keep them on the CPU: then the host waits for no device, whatever it is doing.

    Args:
        device: Where the embeddings will be; default the device of `ids1`.

    Raises:
        ValueError: As `match_units`.
    """
    partner = match_units(ids1, ids2, units1, units2)
    cu1, cu2 = (F.pad(units.cumsum(0), (1, 0)).to(torch.int32) for units in (units1, units2))
    return make_loss_plan(cu1, cu2, partner, device)


def _sample_of_unit(units: Tensor, n_units: int, view: str) -> Tensor:
    if units.is_floating_point() or bool((units < 0).any()) or int(units.sum()) != n_units:
        raise ValueError(
            f"units{view} must be counts that add up to the {n_units} units of view {view}; "
            f"got {units.tolist()}"
        )
    samples: Tensor = torch.arange(len(units), device=units.device).repeat_interleave(units)
    return samples


def _check_unique(keys: Tensor, samples: Tensor, ids: Tensor, name: str) -> Tensor:
    """Return the order that sorts `keys`; raise ValueError when one occurs twice."""
    order = torch.argsort(keys)
    ordered = keys[order]
    twice = torch.nonzero(ordered[1:] == ordered[:-1])
    if len(twice):
        row = int(order[twice[0, 0]])
        raise ValueError(f"{name} holds unit {int(ids[row])} twice in sample {int(samples[row])}")
    return order
